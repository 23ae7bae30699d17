//! All sandboxes of this host: making them, finding them, and taking over those that a former agent left running.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use sandbar_hostnet::SlotIndex;
use sandbar_storage::Template;
use sandbar_types::id::{self, Id, Sandbox};
use sandbar_vmm::{Machine, Vmm};
use tokio::sync::oneshot;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::error::{Error, chain};
use crate::journal::{Phase, Record};
use crate::resources::{Resources, blocking};
use crate::sandbox::actor::{Actor, Ended};
use crate::sandbox::admission::{Request, Verdict, admit};
use crate::sandbox::machine::{Holdings, remove_record, write_record};
use crate::sandbox::{CreateRequest, Handle};

const REASON_AWAY: &str = "its virtual machine ended while the host agent was away";

/// The sandboxes. Cheap to clone; all clones are one registry.
#[derive(Clone)]
pub(crate) struct Registry {
    inner: Arc<Inner>,
}

struct Inner {
    resources: Arc<Resources>,
    // Held for map operations only, never across an await.
    by_id: Mutex<HashMap<Id<Sandbox>, Handle>>,
    tasks: TaskTracker,
    shutdown: CancellationToken,
}

/// A record of the journal, and the machine that was found running for it.
pub(crate) struct Found {
    record: Record,
    machine: Option<Box<dyn Machine>>,
}

impl Found {
    /// Reads a record against what exists: a machine that runs is taken over, whatever else is to be reclaimed.
    pub(crate) async fn look(vmm: &dyn Vmm, work_dir: &std::path::Path, record: Record) -> Self {
        let machine = match record.phase {
            Phase::Running { process } => match vmm.adopt(work_dir, process).await {
                Ok(machine) => Some(machine),
                Err(error) => {
                    tracing::warn!(sandbox = %record.id, error = %error, "its machine cannot be taken over");
                    None
                }
            },
            Phase::Starting | Phase::Stopping | Phase::Stopped { .. } => None,
        };
        Self { record, machine }
    }

    /// The slot that must stay as it is.
    pub(crate) fn slot_in_use(&self) -> Option<SlotIndex> {
        self.machine.as_ref().map(|_| self.record.slot)
    }

    /// The sandbox.
    pub(crate) fn id(&self) -> Id<Sandbox> {
        self.record.id
    }

    /// The machine's process, which must stay.
    pub(crate) fn process(&self) -> Option<sandbar_vmm::ProcessIdentity> {
        self.machine.as_ref().map(|m| m.process())
    }
}

impl Registry {
    pub(crate) fn new(resources: Arc<Resources>) -> Self {
        let inner = Inner {
            resources,
            by_id: Mutex::new(HashMap::new()),
            tasks: TaskTracker::new(),
            shutdown: CancellationToken::new(),
        };
        Self { inner: Arc::new(inner) }
    }

    /// Takes up what the journal held when the agent started: running sandboxes go on, those in the middle of something are
    /// reclaimed, and those whose machine has gone meanwhile are reported as ended. One that cannot be reclaimed is reported
    /// too, so that it is tried again when the control plane asks for its destruction; it keeps no other from being taken up.
    pub(crate) async fn resume(&self, found: Vec<Found>) {
        for Found { record, machine } in found {
            let id = record.id;
            match (&record.phase, machine) {
                (Phase::Running { .. }, Some(machine)) => {
                    let slot = self.inner.resources.pool.slot(record.slot);
                    let host_ip = slot.as_ref().map(|s| s.host_ip);
                    self.own_found(record, Holdings::found(id, Some(machine), slot), host_ip);
                }
                (Phase::Running { .. }, None) => self.ended_meanwhile(record).await,
                (Phase::Stopped { .. }, _) => {
                    self.own_found(record, Holdings::found(id, None, None), None);
                }
                (Phase::Starting | Phase::Stopping, _) => self.reclaim(record).await,
            }
        }
    }

    async fn ended_meanwhile(&self, record: Record) {
        let resources = &self.inner.resources;
        let mut holdings = Holdings::found(record.id, None, None);
        if let Err(error) = holdings.give_back(resources).await {
            tracing::error!(sandbox = %record.id, error = chain(&error), "not all that it held is freed");
        }
        let stopped = record.advance(Phase::Stopped { reason: REASON_AWAY.into() });
        if let Err(error) = write_record(resources, stopped.clone()).await {
            tracing::error!(sandbox = %record.id, error = chain(&error), "its end is not in the journal");
        }
        self.own_found(stopped, holdings, None);
    }

    async fn reclaim(&self, record: Record) {
        let resources = &self.inner.resources;
        let mut holdings = Holdings::found(record.id, None, None);
        let reclaimed = match holdings.give_back(resources).await {
            Ok(()) => remove_record(resources, record.id).await,
            Err(error) => Err(error),
        };
        if let Err(error) = reclaimed {
            tracing::error!(sandbox = %record.id, error = chain(&error), "not reclaimed");
            self.own_found(record, holdings, None);
        }
    }

    /// Removes files of sandboxes that the journal does not know: their creation was cut short before it was recorded, or their
    /// removal after it was.
    pub(crate) async fn remove_strays(&self, known: &[Id<Sandbox>]) -> Result<(), Error> {
        let (store, known) = (self.inner.resources.store.clone(), known.to_owned());
        blocking("remove files without a record", move || {
            for id in store.sandboxes().map_err(Error::from)?.into_iter().filter(|id| !known.contains(id)) {
                tracing::warn!(sandbox = %id, "files without a record removed");
                store.remove_sandbox(id).map_err(Error::from)?;
            }
            Ok(())
        })
        .await
    }

    /// Makes a sandbox and returns once it runs. Asked again for the same id, it answers with the outcome of the first.
    pub(crate) async fn create(&self, request: CreateRequest) -> Result<Handle, Error> {
        let template = self.template(request.template_id).await?;
        let (handle, begun) = {
            let mut by_id = self.lock();
            match by_id.get(&request.id) {
                Some(handle) => match admit(handle.view().state, Request::Create) {
                    Verdict::Proceed | Verdict::Join => (handle.clone(), None),
                    Verdict::Refuse(refusal) => {
                        let state = handle.view().state;
                        return Err(Error::InvalidState { id: request.id, state, refusal });
                    }
                },
                None => {
                    let shutdown = self.inner.shutdown.clone();
                    let (handle, actor) =
                        Actor::new(Arc::clone(&self.inner.resources), &request, &template, shutdown);
                    by_id.insert(request.id, handle.clone());
                    let (reply, outcome) = oneshot::channel();
                    self.own(request.id, actor.create(request, template, reply));
                    (handle, Some(outcome))
                }
            }
        };
        match begun {
            Some(outcome) => outcome.await.map_err(Error::internal("create the sandbox"))??,
            None => handle.started().await?,
        }
        Ok(handle)
    }

    /// The sandbox of this id.
    pub(crate) fn get(&self, id: Id<Sandbox>) -> Result<Handle, Error> {
        self.lock().get(&id).cloned().ok_or(Error::SandboxNotFound(id))
    }

    /// Ends a sandbox; whether there was one.
    pub(crate) async fn destroy(&self, id: Id<Sandbox>) -> Result<bool, Error> {
        let handle = self.lock().get(&id).cloned();
        match handle {
            Some(handle) => handle.destroy().await.map(|()| true),
            None => Ok(false),
        }
    }

    /// All sandboxes, oldest first.
    pub(crate) fn all(&self) -> Vec<Handle> {
        let mut all: Vec<_> = self.lock().values().cloned().collect();
        all.sort_by_key(|handle| handle.id);
        all
    }

    /// Ends the tasks and leaves the sandboxes running.
    pub(crate) async fn shut_down(&self) {
        self.inner.shutdown.cancel();
        self.inner.tasks.close();
        self.inner.tasks.wait().await;
    }

    /// A template that this host can restore.
    async fn template(&self, id: Id<id::Template>) -> Result<Arc<Template>, Error> {
        let store = self.inner.resources.store.clone();
        let template = blocking("read the template", move || store.template(id).map_err(Error::from)).await?;
        let needed: sandbar_vmm::Compatibility =
            serde_json::from_value(template.manifest.spec.compatibility.clone())
                .map_err(|e| Error::TemplateUnusable { id, reason: e.to_string() })?;
        needed
            .check(self.inner.resources.vmm.compatibility())
            .map_err(|mismatch| Error::TemplateUnusable { id, reason: mismatch.to_string() })?;
        Ok(Arc::new(template))
    }

    fn own_found(&self, record: Record, holdings: Holdings, running_at: Option<std::net::Ipv4Addr>) {
        let id = record.id;
        let resources = Arc::clone(&self.inner.resources);
        let (handle, actor) =
            Actor::found(resources, record, holdings, running_at, self.inner.shutdown.clone());
        self.lock().insert(id, handle);
        self.own(id, actor.run());
    }

    /// Runs a sandbox's task. Whoever waits for its end hears of it once the registry has forgotten it.
    fn own(&self, id: Id<Sandbox>, task: impl Future<Output = Ended> + Send + 'static) {
        let registry = self.clone();
        self.inner.tasks.spawn(async move {
            if let Ended::Gone(waiting) = task.await {
                registry.lock().remove(&id);
                for request in waiting {
                    request.answer(Ok(()));
                }
            }
        });
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<Id<Sandbox>, Handle>> {
        // A panic while the map is locked cannot leave it half changed.
        self.inner.by_id.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
