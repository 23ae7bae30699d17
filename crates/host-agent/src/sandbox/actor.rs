//! The task that owns one sandbox, from its creation (or its finding in the journal) until nothing of it is left.

use std::sync::Arc;

use sandbar_trace::{Context, FutureExt as _};
use sandbar_types::PauseMode;
use sandbar_types::id::{Id, Sandbox};
use sandbar_vmm::ProcessIdentity;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::activity::{Activity, now_unix_ms};
use super::expiry::{Retry, until_expiry};
use super::machine::{Holdings, Origin, remove_record, write_record};
use super::restarts::Restarts;
use super::settling::Settling;
use super::{CreateRequest, Door, Given, Handle, Order, PauseView, Reply, Running, State, View, standstill};
use crate::error::{Error, chain};
use crate::guest::GuestClient;
use crate::journal::{PauseReason, Phase, Record};
use crate::logs::{HostEvent, Log, Pull};
use crate::metrics::Figures;
use crate::resources::{Resources, blocking};
use crate::volumes::{self, Mount};

/// Orders that may wait for a sandbox that is busy.
const QUEUE: usize = 16;

/// How long a guest that is about to be ended may take to write to its volumes what it has not.
const LAST_FLUSH: std::time::Duration = std::time::Duration::from_secs(5);

const REASON_EXITED: &str = "its virtual machine ended by itself";
const REASON_IDLE: &str = "its idle time-out passed";

/// How a sandbox's task ended.
pub(crate) enum Ended {
    /// Nothing of the sandbox is left; these callers wait to hear it.
    Gone(Vec<Reply<()>>),
    /// The agent shuts down; the sandbox runs on.
    Left,
}

/// The task's state.
pub(crate) struct Actor {
    pub(super) resources: Arc<Resources>,
    pub(super) id: Id<Sandbox>,
    pub(super) holdings: Holdings,
    /// None until the sandbox's slot is known.
    pub(super) record: Option<Record>,
    pub(super) activity: Arc<Activity>,
    pub(super) figures: Arc<Figures>,
    pub(super) retry: Retry,
    pub(super) settling: Option<Settling>,
    pub(super) restarts: Option<Restarts>,
    pub(super) log: Arc<Log>,
    /// Hears what the guest logs, while it runs.
    pull: Option<Pull>,
    view: watch::Sender<View>,
    orders: mpsc::Receiver<Given>,
    shutdown: CancellationToken,
}

impl Actor {
    /// A sandbox that is to be made. The task is run with [`Actor::create`].
    pub(crate) fn new(
        resources: Arc<Resources>,
        request: &CreateRequest,
        origin: &Origin,
        shutdown: CancellationToken,
    ) -> (Handle, Self) {
        let view = View {
            state: State::Starting,
            generation: 0,
            vcpus: origin.spec.vcpus,
            memory_mb: origin.spec.memory_mb,
            disk_mb: origin.spec.disk_mb,
            deadline: request.deadline,
            network: Arc::new(request.network.clone()),
            host_ip: None,
            stop_reason: String::new(),
            running: None,
            pause: None,
        };
        let facts = Facts {
            id: request.id,
            template_id: request.template_id,
            created_at_unix_ms: now_unix_ms(),
            volumes: request.volumes.as_slice().into(),
        };
        Self::assemble(resources, facts, Holdings::none(request.id), None, view, shutdown)
    }

    /// A sandbox that was found in the journal with its machine. The task is run with [`Actor::take_over`].
    pub(crate) fn found_running(
        resources: Arc<Resources>,
        record: Record,
        process: ProcessIdentity,
        holdings: Holdings,
        shutdown: CancellationToken,
    ) -> (Handle, Self) {
        let host_ip = holdings.host_ip();
        let running = host_ip.map(|ip| Running {
            process,
            guest: GuestClient::new(ip, record.access_token.clone()),
            // The former agent may have been killed while it copied it.
            door: Door::Sealed,
        });
        let view = View { host_ip, running, ..Self::view_of(&record, State::Running) };
        Self::assemble(resources, Facts::of(&record), holdings, Some(record), view, shutdown)
    }

    /// A sandbox that was found in the journal without a machine: paused, or ended. The task is run with [`Actor::run`].
    pub(crate) fn found_at_rest(
        resources: Arc<Resources>,
        record: Record,
        pause: Option<PauseView>,
        shutdown: CancellationToken,
    ) -> (Handle, Self) {
        let state = if pause.is_some() { State::Paused } else { State::Stopped };
        let view = View { pause, ..Self::view_of(&record, state) };
        let holdings = Holdings::found(record.id, None, None);
        let paused = view.state == State::Paused;
        let (handle, mut actor) =
            Self::assemble(resources, Facts::of(&record), holdings, Some(record), view, shutdown);
        if paused {
            // The former agent may have been at it, or not have begun.
            actor.settling = Some(Settling::of_pause(Arc::clone(&actor.resources), actor.id));
        }
        (handle, actor)
    }

    fn view_of(record: &Record, state: State) -> View {
        let stop_reason = match &record.phase {
            Phase::Stopped { reason } => reason.clone(),
            _ => String::new(),
        };
        View {
            state,
            generation: record.generation,
            vcpus: record.machine.vcpus,
            memory_mb: record.machine.memory_mb,
            disk_mb: record.machine.disk_mb,
            deadline: record.deadline,
            network: Arc::new(record.network.clone()),
            host_ip: None,
            stop_reason,
            running: None,
            pause: None,
        }
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
        let (sender, orders) = mpsc::channel(QUEUE);
        // An adopted sandbox is counted as used now: its time-out is never shorter than promised.
        let activity = Activity::starting_now();
        let figures = Arc::new(Figures::default());
        let Facts { id, template_id, created_at_unix_ms, volumes } = facts;
        let log = Log::new(id, resources.store.sandbox_files(id).dir.join("logs"));
        let handle = Handle {
            id,
            template_id,
            created_at_unix_ms,
            volumes,
            activity: Arc::clone(&activity),
            figures: Arc::clone(&figures),
            log: Arc::clone(&log),
            view: observed,
            orders: sender,
        };
        let actor = Self {
            resources,
            id,
            holdings,
            record,
            activity,
            figures,
            retry: Retry::default(),
            settling: None,
            restarts: None,
            log,
            pull: None,
            view,
            orders,
            shutdown,
        };
        (handle, actor)
    }

    /// Makes the sandbox, tells the caller, and goes on to own it. The caller's patience does not matter: a creation that began
    /// is finished, or taken back.
    pub(crate) async fn create(
        mut self,
        request: CreateRequest,
        origin: Arc<Origin>,
        reply: oneshot::Sender<Result<(), Error>>,
        trace: Context,
    ) -> Ended {
        let resources = Arc::clone(&self.resources);
        let busy = resources.spares.busy();
        let taken = self.take(&resources, &request, &origin).with_context(trace).await;
        // The image's files may be there for this sandbox alone.
        drop(origin);
        match taken {
            Ok((record, process, guest)) => {
                self.runs(record, process, guest);
                self.resources.inventory.changed();
                // Where the caller is gone, the control plane decides what becomes of the sandbox.
                let _gone = reply.send(Ok(()));
                drop(busy);
                self.log.note(HostEvent::Created).await;
                self.run().await
            }
            Err(error) => {
                drop(busy);
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

    /// Takes all that the sandbox is made of, its volumes first and last: they are its before its machine begins, and mounted once that runs.
    async fn take(
        &mut self,
        resources: &Resources,
        request: &CreateRequest,
        origin: &Origin,
    ) -> Result<(Record, ProcessIdentity, GuestClient), Error> {
        volumes::take(resources, self.id, &request.volumes).await?;
        let taken = self.holdings.take(resources, request, origin).await?;
        self.holdings.links.open(resources, &request.volumes, &taken.2).await?;
        Ok(taken)
    }

    /// Takes over a machine that runs: whatever a former agent did to it when it was killed, it goes on and serves.
    pub(crate) async fn take_over(mut self) -> Ended {
        let guest = self.view.borrow().running.as_ref().map(|running| running.guest.clone());
        if let (Some(machine), Some(guest)) = (&self.holdings.machine, guest) {
            standstill::go_on(&**machine, &guest).await;
        }
        self.take_over_volumes().await;
        self.forget_pause().await;
        self.restore_network().await;
        self.show_door(Door::Open);
        self.settle_machine();
        self.log.note(HostEvent::TakenOver).await;
        self.run().await
    }

    /// Its requests wait until they are connected again, which nobody waits for here.
    async fn take_over_volumes(&mut self) {
        let (Some(record), Some(running)) = (&self.record, self.running()) else { return };
        let links = &mut self.holdings.links;
        if let Err(error) = links.take_over(&self.resources, &record.volumes, &running.guest).await {
            tracing::error!(sandbox = %self.id, error = chain(&error), "its volumes stay away");
        }
    }

    /// What was written to volumes is to outlive the sandbox, where its guest answers at once.
    async fn flush_volumes(&self) {
        let (Some(record), Some(running)) = (&self.record, self.running()) else { return };
        if record.volumes.is_empty() {
            return;
        }
        if let Err(error) = running.guest.prepare_snapshot(LAST_FLUSH).await {
            tracing::warn!(sandbox = %self.id, error = chain(&error), "its volumes are as after a power cut");
        }
    }

    /// Owns the sandbox until it is gone or the agent shuts down.
    pub(crate) async fn run(mut self) -> Ended {
        loop {
            let running = self.view.borrow().state == State::Running;
            self.watch_restarts();
            self.hear_log();
            let expiry = if running { self.until_expiry() } else { None };
            // What a guest pushes without end must not keep its sandbox from ending: a sleep is never over at its first look.
            let due = expiry.is_some_and(|left| left.is_zero());
            tokio::select! {
                biased;
                () = self.shutdown.cancelled() => return self.leave().await,
                order = self.orders.recv() => match order {
                    None => return self.leave().await,
                    Some(Given { order: Order::Destroy(reply), trace }) => match self.destroy().with_context(trace).await {
                        Ok(()) => return Ended::Gone(self.waiting(reply)),
                        Err(error) => {
                            tracing::error!(sandbox = %self.id, error = chain(&error), "not destroyed; may be asked again");
                            let _gone = reply.send(Err(error));
                        }
                    },
                    Some(Given { order, trace }) => self.carry_out(order).with_context(trace).await,
                },
                () = self.holdings.exited(), if running => self.stopped(REASON_EXITED).await,
                push = Restarts::heard(&mut self.restarts), if running && !due => self.guest_agent_restarted(push).await,
                settled = Settling::done(&mut self.settling), if self.settling.is_some() => {
                    if let Some(settled) = settled {
                        self.settled(settled).await;
                    }
                }
                () = tokio::time::sleep(expiry.unwrap_or_default()), if expiry.is_some() => {
                    if self.until_expiry().is_some_and(|left| left.is_zero()) {
                        self.expire().await;
                    }
                }
            }
        }
    }

    pub(super) fn until_expiry(&self) -> Option<std::time::Duration> {
        until_expiry(self.view.borrow().deadline, &self.activity, &self.retry)
    }

    /// The sandbox was idle for its time-out.
    async fn expire(&mut self) {
        let on_timeout = self.view.borrow().deadline.on_timeout;
        match on_timeout.keeps() {
            None => self.stopped(REASON_IDLE).await,
            Some(mode) => self.expire_into_pause(mode).await,
        }
    }

    async fn expire_into_pause(&mut self, mode: PauseMode) {
        let paused = self.pause(PauseReason::Idle, mode).await;
        self.note_pause(PauseReason::Idle, &paused).await;
        match paused {
            Ok(()) => {
                tracing::info!(sandbox = %self.id, "idle; paused");
                self.resources.inventory.changed_unasked();
            }
            Err(Error::Busy(_)) => tracing::debug!(sandbox = %self.id, "used again; not paused"),
            Err(error) => {
                let again_in = self.retry.failed(Instant::now());
                tracing::error!(sandbox = %self.id, error = chain(&error), ?again_in, "idle, and not paused; it runs on");
            }
        }
    }

    /// The sandbox ended without being asked to. What it held is freed; its record stays until the control plane has taken note.
    async fn stopped(&mut self, reason: &'static str) {
        tracing::warn!(sandbox = %self.id, reason, "sandbox ended");
        if reason == REASON_IDLE {
            self.flush_volumes().await;
        }
        self.show(|view| {
            view.state = State::Stopped;
            view.stop_reason = reason.into();
            view.running = None;
            view.host_ip = None;
        });
        self.settling = None;
        self.end_log();
        if let Err(error) = self.holdings.give_back(&self.resources).await {
            // Its destruction, which the control plane asks for once it has taken note, tries again.
            tracing::error!(sandbox = %self.id, error = chain(&error), "not all that it held is freed");
        }
        if let Err(error) = self.record_phase(Phase::Stopped { reason: reason.into() }).await {
            tracing::error!(sandbox = %self.id, error = chain(&error), "its end is not in the journal");
        }
        self.resources.inventory.changed_unasked();
    }

    /// Hears the guest while the sandbox runs, and not after.
    fn hear_log(&mut self) {
        match self.running() {
            Some(running) if self.state() == State::Running => {
                self.pull.get_or_insert_with(|| Pull::start(Arc::clone(&self.log), running.guest));
            }
            _ => self.pull = None,
        }
    }

    /// Nothing comes any more.
    fn end_log(&mut self) {
        self.pull = None;
        self.log.close();
    }

    async fn destroy(&mut self) -> Result<(), Error> {
        if self.state() == State::Running {
            self.flush_volumes().await;
        }
        self.show(|view| {
            view.state = State::Stopping;
            view.running = None;
        });
        self.settling = None;
        self.end_log();
        self.record_phase(Phase::Stopping).await?;
        self.vanish().await
    }

    /// Gives back all that the sandbox holds, and its record last: while it is there, the next agent goes on with this.
    async fn vanish(&mut self) -> Result<(), Error> {
        self.holdings.give_back(&self.resources).await?;
        remove_record(&self.resources, self.id).await?;
        self.record = None;
        self.resources.volumes.release(self.id);
        self.resources.inventory.changed();
        Ok(())
    }

    /// Removes the files of a pause that is over.
    pub(super) async fn forget_pause(&self) {
        let (store, id) = (self.resources.store.clone(), self.id);
        let removed = blocking("remove the files of a pause", move || Ok(store.remove_paused(id)?)).await;
        if let Err(error) = removed {
            // They are removed before the next pause at the latest.
            tracing::warn!(sandbox = %self.id, error = chain(&error), "the files of a pause that is over stay");
        }
    }

    pub(super) async fn record_phase(&mut self, phase: Phase) -> Result<(), Error> {
        let Some(record) = &self.record else { return Ok(()) };
        self.write(record.advance(phase)).await
    }

    /// Writes a record, which is then the sandbox's.
    pub(super) async fn write(&mut self, record: Record) -> Result<(), Error> {
        write_record(&self.resources, record.clone()).await?;
        self.keep(record);
        Ok(())
    }

    /// The sandbox's record from now on.
    pub(super) fn keep(&mut self, record: Record) {
        self.show(|view| {
            view.generation = record.generation;
            view.deadline = record.deadline;
            if *view.network != record.network {
                view.network = Arc::new(record.network.clone());
            }
        });
        self.record = Some(record);
    }

    /// The sandbox runs.
    pub(super) fn runs(&mut self, record: Record, process: ProcessIdentity, guest: GuestClient) {
        self.keep(record);
        let host_ip = self.holdings.host_ip();
        self.show(|view| {
            view.state = State::Running;
            view.host_ip = host_ip;
            view.running = Some(Running { process, guest, door: Door::Open });
            view.pause = None;
        });
    }

    pub(super) fn view(&self) -> View {
        self.view.borrow().clone()
    }

    pub(super) fn state(&self) -> State {
        self.view.borrow().state
    }

    pub(super) fn running(&self) -> Option<Running> {
        self.view.borrow().running.clone()
    }

    pub(super) fn show_door(&self, door: Door) {
        self.show(|view| {
            if let Some(running) = &mut view.running {
                running.door = door;
            }
        });
    }

    pub(super) fn show(&self, change: impl FnOnce(&mut View)) {
        self.view.send_modify(change);
    }

    /// The agent shuts down: what was not begun is not done, and its callers may ask the next agent.
    async fn leave(&mut self) -> Ended {
        self.orders.close();
        // Nothing that came to this agent may be written once the next one serves.
        self.holdings.links.close().await;
        while let Ok(given) = self.orders.try_recv() {
            given.order.refuse(Error::Busy("the host agent shuts down".into()));
        }
        Ended::Left
    }

    /// All who wait for the sandbox's end. Other orders are dropped, which tells their callers that it is gone.
    fn waiting(&mut self, first: Reply<()>) -> Vec<Reply<()>> {
        self.orders.close();
        let others = std::iter::from_fn(|| self.orders.try_recv().ok());
        let destroys = others.filter_map(|given| match given.order {
            Order::Destroy(reply) => Some(reply),
            Order::Pause(..)
            | Order::Resume(..)
            | Order::RefuseResumes(..)
            | Order::Capture(..)
            | Order::SetDeadline(..)
            | Order::SetNetwork(..)
            | Order::NetworkDenials(_) => None,
        });
        std::iter::once(first).chain(destroys).collect()
    }
}

/// What never changes of a sandbox.
struct Facts {
    id: Id<Sandbox>,
    template_id: Id<sandbar_types::id::Template>,
    created_at_unix_ms: i64,
    volumes: Arc<[Mount]>,
}

impl Facts {
    fn of(record: &Record) -> Self {
        Self {
            id: record.id,
            template_id: record.template_id,
            created_at_unix_ms: record.created_at_unix_ms,
            volumes: record.volumes.as_slice().into(),
        }
    }
}
