//! The task that owns one sandbox, from its creation (or its finding in the journal) until nothing of it is left.

use std::net::Ipv4Addr;
use std::sync::Arc;
use std::time::Duration;

use sandbar_storage::Template;
use sandbar_types::id::{Id, Sandbox};
use tokio::sync::{mpsc, oneshot, watch};
use tokio_util::sync::CancellationToken;

use super::activity::{Activity, now_unix_ms};
use super::machine::{Holdings, remove_record, write_record};
use super::{CreateRequest, Destroy, Handle, State, View};
use crate::error::{Error, chain};
use crate::guest::GuestClient;
use crate::journal::{Phase, Record};
use crate::resources::Resources;

/// Requests that may wait for a sandbox that is busy.
const QUEUE: usize = 16;

const REASON_EXITED: &str = "its virtual machine ended by itself";
const REASON_IDLE: &str = "its idle time-out passed";

/// How a sandbox's task ended.
pub(crate) enum Ended {
    /// Nothing of the sandbox is left; these callers wait to hear it.
    Gone(Vec<Destroy>),
    /// The agent shuts down; the sandbox runs on.
    Left,
}

impl Destroy {
    /// Tells the caller.
    pub(crate) fn answer(self, outcome: Result<(), Error>) {
        // A caller that has given up needs no answer.
        let _gone = self.0.send(outcome);
    }
}

/// The task's state.
pub(crate) struct Actor {
    resources: Arc<Resources>,
    id: Id<Sandbox>,
    holdings: Holdings,
    /// None until the sandbox's slot is known.
    record: Option<Record>,
    timeout: Option<Duration>,
    activity: Arc<Activity>,
    view: watch::Sender<View>,
    requests: mpsc::Receiver<Destroy>,
    shutdown: CancellationToken,
}

impl Actor {
    /// A sandbox that is to be made. The task is run with [`Actor::create`].
    pub(crate) fn new(
        resources: Arc<Resources>,
        request: &CreateRequest,
        template: &Template,
        shutdown: CancellationToken,
    ) -> (Handle, Self) {
        let spec = &template.manifest.spec;
        let view = View {
            state: State::Starting,
            generation: 0,
            vcpus: spec.vcpus,
            memory_mb: spec.memory_mb,
            disk_mb: spec.disk_mb,
            host_ip: None,
            stop_reason: String::new(),
            guest: None,
        };
        let facts = Facts {
            id: request.id,
            template_id: request.template_id,
            timeout_sec: request.timeout_sec,
            created_at_unix_ms: now_unix_ms(),
        };
        Self::assemble(resources, facts, Holdings::none(request.id), None, view, shutdown)
    }

    /// A sandbox that was found in the journal: running, with its machine, or ended. The task is run with [`Actor::run`].
    pub(crate) fn found(
        resources: Arc<Resources>,
        record: Record,
        holdings: Holdings,
        running_at: Option<Ipv4Addr>,
        shutdown: CancellationToken,
    ) -> (Handle, Self) {
        let stop_reason = match &record.phase {
            Phase::Stopped { reason } => reason.clone(),
            Phase::Starting | Phase::Running { .. } | Phase::Stopping => String::new(),
        };
        let view = View {
            state: if running_at.is_some() { State::Running } else { State::Stopped },
            generation: record.generation,
            vcpus: record.vcpus,
            memory_mb: record.memory_mb,
            disk_mb: record.disk_mb,
            host_ip: running_at,
            stop_reason,
            guest: running_at.map(|ip| GuestClient::new(ip, record.access_token.clone())),
        };
        let facts = Facts {
            id: record.id,
            template_id: record.template_id,
            timeout_sec: record.timeout_sec,
            created_at_unix_ms: record.created_at_unix_ms,
        };
        Self::assemble(resources, facts, holdings, Some(record), view, shutdown)
    }

    fn assemble(
        resources: Arc<Resources>,
        facts: Facts,
        holdings: Holdings,
        record: Option<Record>,
        view: View,
        shutdown: CancellationToken,
    ) -> (Handle, Self) {
        let (view, observed) = watch::channel(view);
        let (sender, requests) = mpsc::channel(QUEUE);
        // An adopted sandbox is counted as used now: its time-out is never shorter than promised.
        let activity = Activity::starting_now();
        let handle = Handle {
            id: facts.id,
            template_id: facts.template_id,
            created_at_unix_ms: facts.created_at_unix_ms,
            timeout_sec: facts.timeout_sec,
            activity: Arc::clone(&activity),
            view: observed,
            requests: sender,
        };
        let timeout = (facts.timeout_sec > 0).then(|| Duration::from_secs(facts.timeout_sec.into()));
        let actor =
            Self { resources, id: facts.id, holdings, record, timeout, activity, view, requests, shutdown };
        (handle, actor)
    }

    /// Makes the sandbox, tells the caller, and goes on to own it. The caller's patience does not matter: a creation that began
    /// is finished, or taken back.
    pub(crate) async fn create(
        mut self,
        request: CreateRequest,
        template: Arc<Template>,
        reply: oneshot::Sender<Result<(), Error>>,
    ) -> Ended {
        match self.holdings.take(&self.resources, &request, template).await {
            Ok((record, guest)) => {
                let host_ip = self.holdings.host_ip();
                self.show(|view| {
                    view.state = State::Running;
                    view.generation = record.generation;
                    view.host_ip = host_ip;
                    view.guest = Some(guest);
                });
                self.record = Some(record);
                self.resources.inventory.changed();
                // Where the caller is gone, the control plane decides what becomes of the sandbox.
                let _gone = reply.send(Ok(()));
                self.run().await
            }
            Err(error) => {
                tracing::warn!(sandbox = %self.id, error = chain(&error), "not created; giving back what it took");
                match self.vanish().await {
                    Ok(()) => {
                        let _gone = reply.send(Err(error));
                        Ended::Gone(Vec::new())
                    }
                    Err(left) => {
                        tracing::error!(sandbox = %self.id, error = chain(&left), "something of it is left");
                        self.show(|view| {
                            view.state = State::Stopped;
                            view.stop_reason = "it could not be started".into();
                        });
                        let _gone = reply.send(Err(error));
                        self.run().await
                    }
                }
            }
        }
    }

    /// Owns the sandbox until it is gone or the agent shuts down.
    pub(crate) async fn run(mut self) -> Ended {
        loop {
            let running = self.view.borrow().state == State::Running;
            let idle_for = self.timeout.filter(|_| running);
            let wake = idle_for.map(|timeout| self.until_expiry(timeout));
            tokio::select! {
                biased;
                () = self.shutdown.cancelled() => return Ended::Left,
                request = self.requests.recv() => {
                    let Some(request) = request else { return Ended::Left };
                    match self.destroy().await {
                        Ok(()) => return Ended::Gone(self.waiting(request)),
                        Err(error) => {
                            tracing::error!(sandbox = %self.id, error = chain(&error), "not destroyed; may be asked again");
                            request.answer(Err(error));
                        }
                    }
                }
                () = self.holdings.exited(), if running => self.stopped(REASON_EXITED).await,
                () = tokio::time::sleep(wake.unwrap_or_default()), if wake.is_some() => {
                    if idle_for.is_some_and(|timeout| self.until_expiry(timeout).is_zero()) {
                        self.stopped(REASON_IDLE).await;
                    }
                }
            }
        }
    }

    /// How long until the sandbox has been idle for `timeout`.
    fn until_expiry(&self, timeout: Duration) -> Duration {
        let idle = now_unix_ms() - self.activity.last_unix_ms();
        timeout.saturating_sub(Duration::from_millis(u64::try_from(idle).unwrap_or_default()))
    }

    /// The sandbox ended without being asked to. What it held is freed; its record stays until the control plane has taken note.
    async fn stopped(&mut self, reason: &'static str) {
        tracing::warn!(sandbox = %self.id, reason, "sandbox ended");
        self.show(|view| {
            view.state = State::Stopped;
            view.stop_reason = reason.into();
            view.guest = None;
        });
        if let Err(error) = self.holdings.give_back(&self.resources).await {
            // Its destruction, which the control plane asks for once it has taken note, tries again.
            tracing::error!(sandbox = %self.id, error = chain(&error), "not all that it held is freed");
        }
        if let Err(error) = self.record_phase(Phase::Stopped { reason: reason.into() }).await {
            tracing::error!(sandbox = %self.id, error = chain(&error), "its end is not in the journal");
        }
        self.resources.inventory.changed_unasked();
    }

    async fn destroy(&mut self) -> Result<(), Error> {
        self.show(|view| {
            view.state = State::Stopping;
            view.guest = None;
        });
        self.record_phase(Phase::Stopping).await?;
        self.vanish().await
    }

    /// Gives back all that the sandbox holds, and its record last: while it is there, the next agent goes on with this.
    async fn vanish(&mut self) -> Result<(), Error> {
        self.holdings.give_back(&self.resources).await?;
        remove_record(&self.resources, self.id).await?;
        self.record = None;
        self.resources.inventory.changed();
        Ok(())
    }

    async fn record_phase(&mut self, phase: Phase) -> Result<(), Error> {
        let Some(record) = &self.record else { return Ok(()) };
        let next = record.advance(phase);
        write_record(&self.resources, next.clone()).await?;
        let generation = next.generation;
        self.record = Some(next);
        self.show(|view| view.generation = generation);
        Ok(())
    }

    /// All who wait for the sandbox's end.
    fn waiting(&mut self, first: Destroy) -> Vec<Destroy> {
        self.requests.close();
        std::iter::once(first).chain(std::iter::from_fn(|| self.requests.try_recv().ok())).collect()
    }

    fn show(&self, change: impl FnOnce(&mut View)) {
        self.view.send_modify(change);
    }
}

/// What never changes of a sandbox.
#[derive(Clone, Copy)]
struct Facts {
    id: Id<Sandbox>,
    template_id: Id<sandbar_types::id::Template>,
    timeout_sec: u32,
    created_at_unix_ms: i64,
}
