//! All sandboxes of this host: making them, finding them, and taking over those that a former agent left running.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use futures::StreamExt as _;
use sandbar_hostnet::SlotIndex;
use sandbar_storage::{Store, TemplateFile, TemplateSpec};
use sandbar_trace::Context;
use sandbar_types::PauseMode;
use sandbar_types::id::{Id, Sandbox};
use sandbar_vmm::{Machine, ProcessIdentity, Vmm};
use tokio::sync::oneshot;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::error::{Error, chain};
use crate::journal::{PauseReason, Phase, Record};
use crate::metrics::Figures;
use crate::resources::{Resources, blocking};
use crate::sandbox::actor::{Actor, Ended};
use crate::sandbox::admission::{Request, Verdict, admit};
use crate::sandbox::machine::{Holdings, Origin, Source, Start, remove_record, write_record};
use crate::sandbox::{CreateRequest, Handle, Order, PauseView, State};
use crate::template::check_size;

/// Pauses under way at once when all are paused: each writes to the one disk.
const PAUSES_AT_ONCE: usize = 4;
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

/// A record of the journal, and what was found of its sandbox.
pub(crate) struct Found {
    record: Record,
    remains: Remains,
}

/// What is there of a sandbox.
enum Remains {
    /// Its machine.
    Machine(Box<dyn Machine>),
    /// The files of a pause.
    Files(PauseReason),
    /// Nothing that could go on: its end is to be told.
    Nothing,
    /// Perhaps something, which was being removed.
    Rubble,
}

impl Found {
    /// Reads a record against what exists: a machine that runs is taken over, files that are complete are a pause, and the rest is to
    /// be reclaimed.
    pub(crate) async fn look(vmm: &dyn Vmm, store: &Store, record: Record) -> Self {
        let files = |reason| if store.has_paused(record.id) { Some(Remains::Files(reason)) } else { None };
        let machine = async |process| {
            let files = store.sandbox_files(record.id);
            match vmm.adopt(&files.dir, &files.memory, process).await {
                Ok(machine) => Some(Remains::Machine(machine)),
                Err(error) => {
                    tracing::warn!(sandbox = %record.id, error = chain(&error), "its machine cannot be taken over");
                    None
                }
            }
        };
        let remains = match record.phase {
            // Files that are there beside a machine are those it was resumed from, about to be removed.
            Phase::Running { process } => match machine(process).await {
                None => files(PauseReason::Requested),
                machine => machine,
            },
            // Files that are there are complete, and the machine was about to be ended.
            Phase::Pausing { process, reason, .. } => match files(reason) {
                None => machine(process).await,
                files => files,
            },
            // Files that are missing are reported by the resume, by name.
            Phase::Paused { reason, .. } | Phase::Resuming { reason, .. } => Some(Remains::Files(reason)),
            Phase::Stopped { .. } => None,
            Phase::Stopping => Some(Remains::Rubble),
        };
        Self { record, remains: remains.unwrap_or(Remains::Nothing) }
    }

    /// The slot that must stay as it is.
    pub(crate) fn slot_in_use(&self) -> Option<SlotIndex> {
        match self.remains {
            Remains::Machine(_) => self.record.slot,
            Remains::Files(_) | Remains::Nothing | Remains::Rubble => None,
        }
    }

    /// The sandbox.
    pub(crate) fn id(&self) -> Id<Sandbox> {
        self.record.id
    }

    /// The machine's process, which must stay.
    pub(crate) fn process(&self) -> Option<ProcessIdentity> {
        match &self.remains {
            Remains::Machine(machine) => Some(machine.process()),
            Remains::Files(_) | Remains::Nothing | Remains::Rubble => None,
        }
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

    /// Takes up what the journal held when the agent started: running and paused sandboxes go on, those in the middle of something are
    /// reclaimed, and those whose machine has gone meanwhile are reported as ended. One that cannot be reclaimed is reported
    /// too, so that it is tried again when the control plane asks for its destruction; it keeps no other from being taken up.
    pub(crate) async fn resume(&self, found: Vec<Found>) {
        for Found { record, remains } in found {
            let volumes = &self.inner.resources.volumes;
            if let Err(error) = volumes.claim(record.id, &record.volumes) {
                tracing::error!(sandbox = %record.id, error = chain(&error), "its volumes are another's, too");
            }
            match remains {
                Remains::Machine(machine) => self.take_over(record, machine).await,
                Remains::Files(reason) => self.found_paused(record, reason).await,
                Remains::Nothing => self.ended_meanwhile(record).await,
                Remains::Rubble => self.reclaim(record).await,
            }
        }
    }

    async fn take_over(&self, record: Record, machine: Box<dyn Machine>) {
        let (id, process) = (record.id, machine.process());
        let record = match record.phase {
            Phase::Pausing { .. } => self.rewrite(record.advance(Phase::Running { process })).await,
            _ => record,
        };
        let resources = Arc::clone(&self.inner.resources);
        let slot = record.slot.and_then(|slot| resources.pool.slot(slot));
        let holdings = Holdings::found(id, Some(machine), slot);
        let shutdown = self.inner.shutdown.clone();
        let (handle, actor) = Actor::found_running(resources, record, process, holdings, shutdown);
        self.lock().insert(id, handle);
        self.own(id, actor.take_over());
    }

    async fn found_paused(&self, record: Record, reason: PauseReason) {
        let id = record.id;
        let mut holdings = Holdings::found(id, None, None);
        if let Err(error) = holdings.rest(&self.inner.resources).await {
            tracing::error!(sandbox = %id, error = chain(&error), "not all that its machine held is freed");
        }
        let store = self.inner.resources.store.clone();
        let read = blocking("read the pause", move || {
            let paused = store.paused(id)?;
            let (at_unix_ms, bytes) = (paused.manifest.paused_at.timestamp_millis(), paused.own_bytes()?);
            Ok((PauseView { at_unix_ms, bytes, reason, mode: paused.mode() }, paused.metrics()))
        });
        let (pause, metrics) = read.await.unwrap_or_else(|error| {
            // Reported as what it is, and its resume is refused with this.
            tracing::error!(sandbox = %id, error = chain(&error), "the files of a pause are not as they should be");
            let mode = record.phase.mode().unwrap_or(PauseMode::Full);
            (PauseView { at_unix_ms: 0, bytes: 0, reason, mode }, None)
        });
        let record = match record.phase {
            Phase::Paused { .. } => record,
            _ => {
                let phase = Phase::Paused { reason, mode: pause.mode };
                self.rewrite(record.advance(phase).on_slot(None)).await
            }
        };
        self.own_at_rest(record, Some(pause), metrics.as_deref());
    }

    async fn ended_meanwhile(&self, record: Record) {
        let resources = &self.inner.resources;
        let mut holdings = Holdings::found(record.id, None, None);
        if let Err(error) = holdings.give_back(resources).await {
            tracing::error!(sandbox = %record.id, error = chain(&error), "not all that it held is freed");
        }
        let record = match record.phase {
            Phase::Stopped { .. } => record,
            _ => self.rewrite(record.advance(Phase::Stopped { reason: REASON_AWAY.into() })).await,
        };
        self.own_at_rest(record, None, None);
    }

    /// Writes what was found into the journal. Where that fails, the next agent finds the same.
    async fn rewrite(&self, record: Record) -> Record {
        if let Err(error) = write_record(&self.inner.resources, record.clone()).await {
            tracing::error!(sandbox = %record.id, error = chain(&error), "what was found of it is not in the journal");
        }
        record
    }

    async fn reclaim(&self, record: Record) {
        let resources = &self.inner.resources;
        let mut holdings = Holdings::found(record.id, None, None);
        let reclaimed = match holdings.give_back(resources).await {
            Ok(()) => remove_record(resources, record.id).await,
            Err(error) => Err(error),
        };
        if reclaimed.is_ok() {
            resources.volumes.release(record.id);
        }
        if let Err(error) = reclaimed {
            tracing::error!(sandbox = %record.id, error = chain(&error), "not reclaimed");
            self.own_at_rest(record, None, None);
        }
    }

    /// Removes files of sandboxes that the journal does not know: their creation was cut short before they ran, or their removal after
    /// it was recorded.
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

    /// Makes a sandbox from its template and returns once it runs. Asked again for the same id, it answers with the outcome of the
    /// first.
    pub(crate) async fn create(&self, request: CreateRequest) -> Result<Handle, Error> {
        let origin = self.origin(&request).await?;
        self.create_from(request, Arc::new(origin)).await
    }

    /// The same, from whatever machine.
    pub(crate) async fn create_from(
        &self,
        request: CreateRequest,
        origin: Arc<Origin>,
    ) -> Result<Handle, Error> {
        sandbar_trace::note("sandbar.sandbox.id", request.id);
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
                        Actor::new(Arc::clone(&self.inner.resources), &request, &origin, shutdown);
                    by_id.insert(request.id, handle.clone());
                    let (reply, outcome) = oneshot::channel();
                    self.own(request.id, actor.create(request, origin, reply, Context::current()));
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
        sandbar_trace::note("sandbar.sandbox.id", id);
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

    /// Pauses all that run, a few at a time: how many are paused now, and how many could not be and run on.
    pub(crate) async fn pause_all(&self) -> (u32, u32) {
        let running = self.all().into_iter().filter(|handle| handle.view().state == State::Running);
        let pauses = running.map(|handle| async move {
            let order = |reply| Order::Pause(PauseReason::HostRefused, PauseMode::Full, reply);
            let paused = handle.ask(order).await;
            paused.inspect_err(|error| {
                tracing::error!(sandbox = %handle.id, error = chain(error), "not paused; it runs on");
            })
        });
        let outcomes = futures::stream::iter(pauses).buffer_unordered(PAUSES_AT_ONCE);
        let counted = outcomes.fold((0, 0), async |(paused, failed), outcome| match outcome {
            Ok(()) => (paused + 1, failed),
            Err(_) => (paused, failed + 1),
        });
        counted.await
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

    /// The sandboxes whose machines run, to be sampled.
    pub(crate) fn running(&self) -> Vec<(Id<Sandbox>, ProcessIdentity, Arc<Figures>)> {
        let by_id = self.lock();
        let running = by_id.values().filter_map(|handle| {
            let process = handle.process()?;
            Some((handle.id, process, Arc::clone(&handle.figures)))
        });
        running.collect()
    }

    /// What this host shares among all sandboxes.
    pub(crate) fn resources(&self) -> &Arc<Resources> {
        &self.inner.resources
    }

    /// What a sandbox's machine begins as: a template's that this host can restore, or one that it boots on the template's disk.
    async fn origin(&self, request: &CreateRequest) -> Result<Origin, Error> {
        let resources = &self.inner.resources;
        let (store, id) = (resources.store.clone(), request.template_id);
        let template = blocking("read the template", move || store.template(id).map_err(Error::from)).await?;
        let of = Source::Template { made: template.manifest.created_at };
        let spec = &template.manifest.spec;
        if let Some(image) = template.image() {
            resources.check(spec)?;
            return Ok(Origin { start: Start::Restore(image), spec: spec.clone(), of });
        }
        let vcpus = request.size.vcpus.unwrap_or(spec.vcpus);
        let memory_mb = request.size.memory_mb.unwrap_or(spec.memory_mb);
        check_size(vcpus, memory_mb)?;
        let spec = TemplateSpec { vcpus, memory_mb, ..resources.booted(spec)? };
        Ok(Origin { start: Start::Boot(template.path(TemplateFile::Disk)), spec, of })
    }

    fn own_at_rest(&self, record: Record, pause: Option<PauseView>, metrics: Option<&[u8]>) {
        let id = record.id;
        let resources = Arc::clone(&self.inner.resources);
        let (handle, actor) = Actor::found_at_rest(resources, record, pause, self.inner.shutdown.clone());
        if let Some(metrics) = metrics {
            handle.figures.load_json(metrics);
        }
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
                    let _gone = request.send(Ok(()));
                }
            }
        });
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<Id<Sandbox>, Handle>> {
        // A panic while the map is locked cannot leave it half changed.
        self.inner.by_id.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
