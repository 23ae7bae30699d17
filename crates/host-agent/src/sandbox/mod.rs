//! One sandbox on this host: its state, and the task that owns it.
//!
//! ```text
//!              create                              destroy, from any state
//!   (nothing) ───────► starting ──► running ─────────► stopping ──► (nothing)
//!                         │         ▲ │ │                 ▲
//!                         │ failed  │ │ │ the VMM ended   │
//!                         ▼         │ │ └───► stopped ────┘
//!                     (nothing)     │ │
//!                   published ┌─────┘ └───► pausing ──┐
//!                             │    failed ◄──┘  │     │ published
//!                          resuming             │     ▼
//!                             ▲ └── failed ─────┼─► paused
//!                             └─────────────────┴─────┘
//! ```
//!
//! - `starting`: a slot, a disk and a machine are being taken, one by one or as a spare that has them ([`claim`]); the machine is restored
//!   from a template's memory, or booted where there is none. Whatever fails, all of it is given back.
//! - `running`: the guest has its identity and answers. While it is copied (a snapshot, a fork) it is sealed and stands still for a
//!   moment; callers wait ([`Handle::enter`]).
//! - `pausing`: the guest stands still and is copied into files, or its disk alone is. Until these are published in one step, every failure lets it go
//!   on; after that it is paused, whatever fails.
//! - `paused`: files, and nothing else.
//! - `resuming`: a machine is restored from clones of those files, or booted on a clone of the disk; they stay until the journal says that
//!   it runs. Every failure before
//!   that gives back what was taken, and it is paused as before.
//! - `stopped`: the machine ended by itself. What it held is freed at once; the record stays, so that the control plane learns
//!   of it, until it asks for the sandbox to be destroyed.
//!
//! One task owns a sandbox ([`actor`]); it carries out one order after another ([`life`]). Callers put orders on its queue and read
//! its state from a watch channel; what reaches the guest only (commands, files) goes past the queue and is refused by state
//! ([`admission`]). Its network policy is applied before its machine starts, and again when another agent takes it over ([`network`]).
//! Its volumes are its alone from before its machine begins until its record is gone, and connected while that runs (`volumes`).
//! A guest's agent that was started again is heard, and told who it is if it has forgotten ([`restarts`]).

pub(crate) mod activity;
pub(crate) mod actor;
pub(crate) mod admission;
mod claim;
mod expiry;
mod life;
pub(crate) mod machine;
mod network;
mod restarts;
mod settling;
mod standstill;

use std::fmt;
use std::net::Ipv4Addr;
use std::num::NonZeroU64;
use std::sync::Arc;

use sandbar_hostnet::Denials;
use sandbar_storage::{ImageDraft, TemplateDraft, TemplateSpec};
use sandbar_trace::Context;
use sandbar_types::id::{Id, Sandbox, Template};
use sandbar_types::{NetworkPolicy, OnTimeout, PauseMode, TimeoutFrom};
use sandbar_vmm::ProcessIdentity;
use tokio::sync::{mpsc, oneshot, watch};

use crate::error::Error;
use crate::guest::GuestClient;
use crate::journal::{Deadline, PauseReason};
use crate::logs::Log;
use crate::metrics::Figures;
use crate::surroundings::Secrets;
use crate::volumes::Mount;
use activity::{Activity, Use};
use admission::{Request, Verdict, admit};

/// The state of a sandbox on its host. See the module's drawing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    /// Being made.
    Starting,
    /// Its guest answers.
    Running,
    /// Its memory and disk are being kept.
    Pausing,
    /// It is files.
    Paused,
    /// It is being restored from its files.
    Resuming,
    /// Being ended.
    Stopping,
    /// Its machine ended by itself.
    Stopped,
}

impl State {
    /// All states.
    #[cfg(test)]
    pub(crate) const ALL: [Self; 7] = [
        Self::Starting,
        Self::Running,
        Self::Pausing,
        Self::Paused,
        Self::Resuming,
        Self::Stopping,
        Self::Stopped,
    ];
}

impl fmt::Display for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Starting => "starting",
            Self::Running => "running",
            Self::Pausing => "pausing",
            Self::Paused => "paused",
            Self::Resuming => "resuming",
            Self::Stopping => "stopping",
            Self::Stopped => "stopped",
        })
    }
}

/// What is asked for when a sandbox is made.
#[derive(Debug, Clone)]
pub(crate) struct CreateRequest {
    /// Its id, chosen by the control plane.
    pub(crate) id: Id<Sandbox>,
    /// What it starts from.
    pub(crate) template_id: Id<Template>,
    /// How large its machine is where it boots; none: as its template says.
    pub(crate) size: Size,
    /// The one credential that its guest will take.
    pub(crate) access_token: String,
    /// Environment of all its commands; none: as in the machine that it is copied from.
    pub(crate) env: Option<Vec<(String, String)>>,
    /// What of it is secret; none: the same.
    pub(crate) secrets: Option<Secrets>,
    /// Who its commands run as where they do not say; none: as in the machine that it is copied from.
    pub(crate) user: Option<String>,
    /// Where; the same.
    pub(crate) workdir: Option<String>,
    /// When it ends by itself.
    pub(crate) deadline: Deadline,
    /// Its guest's hostname.
    pub(crate) hostname: String,
    /// Where it may connect to.
    pub(crate) network: NetworkPolicy,
    /// The volumes that it is to have.
    pub(crate) volumes: Vec<Mount>,
    /// The generation of its row: resumes that are not later are outdated.
    pub(crate) row_generation: u64,
}

/// How large a machine is to be.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Size {
    pub(crate) vcpus: Option<u32>,
    pub(crate) memory_mb: Option<u32>,
}

/// A change of when a sandbox ends by itself: what is absent stays.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct DeadlineChange {
    pub(crate) timeout_sec: Option<u32>,
    pub(crate) on_timeout: Option<OnTimeout>,
    pub(crate) from: Option<TimeoutFrom>,
    pub(crate) extent: Extent,
}

/// Which way a deadline may be moved.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) enum Extent {
    #[default]
    Any,
    /// Nothing changes where the sandbox would end earlier than it does.
    LongerOnly,
}

impl DeadlineChange {
    /// The deadline of a sandbox that was last used at `last_active`, counted from `now`.
    pub(crate) fn apply(self, to: Deadline, last_active_unix_ms: i64, now_unix_ms: i64) -> Deadline {
        let changed = Deadline {
            timeout_sec: self.timeout_sec.unwrap_or(to.timeout_sec),
            on_timeout: self.on_timeout.unwrap_or(to.on_timeout),
            from: self.from.unwrap_or(to.from),
            since_unix_ms: now_unix_ms,
        };
        let never = i64::MAX;
        let earlier = changed.ends_at_unix_ms(now_unix_ms).unwrap_or(never)
            <= to.ends_at_unix_ms(last_active_unix_ms).unwrap_or(never);
        if self.extent == Extent::LongerOnly && earlier { to } else { changed }
    }
}

/// What can be told of a sandbox without asking its task.
#[derive(Debug, Clone)]
pub(crate) struct View {
    pub(crate) state: State,
    pub(crate) generation: u64,
    pub(crate) vcpus: u32,
    pub(crate) memory_mb: u32,
    pub(crate) disk_mb: u32,
    pub(crate) deadline: Deadline,
    pub(crate) network: Arc<NetworkPolicy>,
    /// The address at which this host reaches the guest.
    pub(crate) host_ip: Option<Ipv4Addr>,
    /// Why it stopped, where it did by itself.
    pub(crate) stop_reason: String,
    /// Its machine and guest, where it runs.
    pub(crate) running: Option<Running>,
    /// Its pause, where it is paused.
    pub(crate) pause: Option<PauseView>,
}

/// A machine that runs, as callers see it.
#[derive(Debug, Clone)]
pub(crate) struct Running {
    pub(crate) process: ProcessIdentity,
    pub(crate) guest: GuestClient,
    pub(crate) door: Door,
}

/// Whether a guest serves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Door {
    Open,
    /// It is being copied; it will serve again in a moment.
    Sealed,
}

/// A pause, as callers see it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct PauseView {
    pub(crate) at_unix_ms: i64,
    /// Bytes of disk that nothing else shares.
    pub(crate) bytes: u64,
    pub(crate) reason: PauseReason,
    pub(crate) mode: PauseMode,
}

/// How a paused sandbox comes back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Awakening {
    /// It goes on where it was, if its memory was kept.
    AsKept,
    /// It boots, whatever was kept.
    Reboot,
}

/// How a paused sandbox is to go on.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Resume {
    pub(crate) deadline: DeadlineChange,
    pub(crate) awakening: Awakening,
    /// The generation of its row when this was asked for; none: whoever asks has no rows.
    pub(crate) row_generation: Option<NonZeroU64>,
}

impl Resume {
    /// Whether a sandbox that knows of this generation has nothing to do with it: another resume came since, or somebody made sure that it
    /// does nothing. One that runs joins the resume that it runs by.
    pub(crate) fn is_outdated(&self, known: u64, runs: bool) -> bool {
        self.row_generation.is_some_and(|asked| if runs { asked.get() < known } else { asked.get() <= known })
    }
}

/// A sandbox as the rest of the agent holds it.
#[derive(Debug, Clone)]
pub(crate) struct Handle {
    pub(crate) id: Id<Sandbox>,
    pub(crate) template_id: Id<Template>,
    pub(crate) created_at_unix_ms: i64,
    pub(crate) volumes: Arc<[Mount]>,
    pub(crate) activity: Arc<Activity>,
    pub(crate) figures: Arc<Figures>,
    pub(crate) log: Arc<Log>,
    view: watch::Receiver<View>,
    orders: mpsc::Sender<Given>,
}

/// Where the outcome of an order goes. Whoever gave it may have given up waiting.
pub(crate) type Reply<T> = oneshot::Sender<Result<T, Error>>;

/// An order, and what it is part of for whoever traces.
#[derive(Debug)]
pub(crate) struct Given {
    order: Order,
    trace: Context,
}

/// What a sandbox's task is told to do.
#[derive(Debug)]
pub(crate) enum Order {
    /// End it; answered when nothing of it is left.
    Destroy(Reply<()>),
    /// Pause it; answered when it is files.
    Pause(PauseReason, PauseMode, Reply<()>),
    /// Let it go on; answered when its guest serves.
    Resume(Resume, Reply<()>),
    /// Refuse resumes of this generation of its row, and of earlier ones; answered when the journal says so.
    RefuseResumes(u64, Reply<()>),
    /// Copy it; answered when the copy is made and it goes on.
    Capture(Target, Reply<Captured>),
    /// Change when it ends by itself; answered when the journal says so.
    SetDeadline(DeadlineChange, Reply<()>),
    /// Change where it may connect to; answered when nothing else passes any more.
    SetNetwork(NetworkPolicy, Reply<()>),
    /// Tell what it was denied.
    NetworkDenials(Reply<Denials>),
}

/// What a copy is made into.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Target {
    /// A snapshot template.
    Snapshot(Id<Template>),
    /// The disk alone, for a base template.
    Disk(Id<Template>),
    /// What its pause kept, for the sandbox itself to go on from elsewhere.
    OwnPause(Id<Template>),
    /// A machine image for children.
    Children,
}

/// A copy of a sandbox, neither durable nor published.
#[derive(Debug)]
pub(crate) struct Captured {
    pub(crate) draft: Draft,
    /// The machine that was copied.
    pub(crate) spec: TemplateSpec,
    /// For how long the guest stood still.
    pub(crate) stall: std::time::Duration,
}

/// Where a copy is. Dropped, it is deleted.
#[derive(Debug)]
pub(crate) enum Draft {
    Template(TemplateDraft),
    Image(ImageDraft),
}

/// A use of a sandbox's guest, from its beginning to its drop.
#[derive(Debug)]
pub(crate) struct Visit {
    pub(crate) guest: GuestClient,
    process: ProcessIdentity,
    id: Id<Sandbox>,
    view: watch::Receiver<View>,
    _in_use: Use,
}

impl Visit {
    /// Completes when the sandbox does not run any more. A connection into a network that is gone says nothing: whoever waits for a
    /// guest waits for this too. A pause that is under way may still fail, and everything goes on.
    pub(crate) async fn ended(&mut self) -> Error {
        let process = self.process;
        // By its process: a pause and a resume may both have passed since the last look.
        let gone = move |view: &View| view.running.as_ref().is_none_or(|running| running.process != process);
        let Ok(state) = self.view.wait_for(gone).await.map(|view| view.state) else {
            // The agent shuts down; the sandbox runs on.
            return std::future::pending().await;
        };
        match admit(state, Request::Use) {
            Verdict::Refuse(refusal) if state == State::Paused => {
                Error::InvalidState { id: self.id, state, refusal }
            }
            _ => Error::GuestUnreachable(format!("sandbox {} has ended", self.id)),
        }
    }

    /// Whether the guest serves, for those who ask later.
    pub(crate) fn door(&self) -> DoorWatch {
        DoorWatch(self.view.clone())
    }
}

/// Sees whether a guest serves.
#[derive(Debug)]
pub(crate) struct DoorWatch(watch::Receiver<View>);

impl DoorWatch {
    /// Completes when the guest serves, or will not any more.
    pub(crate) async fn open(&mut self) {
        let _gone = self.0.wait_for(|view| !is_sealed(view)).await;
    }
}

/// Whether a sandbox is being copied, and will serve again in a moment.
fn is_sealed(view: &View) -> bool {
    view.state == State::Running && view.running.as_ref().is_some_and(|running| running.door == Door::Sealed)
}

impl Handle {
    pub(crate) fn view(&self) -> View {
        self.view.borrow().clone()
    }

    /// The process of its machine, where it runs.
    pub(crate) fn process(&self) -> Option<ProcessIdentity> {
        self.view.borrow().running.as_ref().map(|running| running.process)
    }

    /// Enters a running sandbox: its guest, which counts as in use for as long as the visit lives. Waits while the sandbox is being
    /// copied.
    pub(crate) async fn enter(&self) -> Result<Visit, Error> {
        let in_use = self.activity.begin();
        let mut view = self.view.clone();
        let view = match view.wait_for(|view| !is_sealed(view)).await {
            Ok(view) => view.clone(),
            Err(_) => return Err(Error::SandboxNotFound(self.id)),
        };
        match (admit(view.state, Request::Use), view.running) {
            (Verdict::Proceed, Some(running)) => {
                let Running { guest, process, .. } = running;
                Ok(Visit { guest, process, id: self.id, view: self.view.clone(), _in_use: in_use })
            }
            (Verdict::Refuse(refusal), _) => {
                Err(Error::InvalidState { id: self.id, state: view.state, refusal })
            }
            (Verdict::Proceed | Verdict::Join, _) => {
                Err(Error::InvalidState { id: self.id, state: view.state, refusal: "wait until it runs" })
            }
        }
    }

    /// Enters a sandbox that runs or is about to: waits while it is on its way to a state in which it stays.
    pub(crate) async fn enter_soon(&self) -> Result<Visit, Error> {
        let mut view = self.view.clone();
        let on_its_way = |state| matches!(state, State::Starting | State::Pausing | State::Resuming);
        view.wait_for(|view| !on_its_way(view.state)).await.map_err(|_| Error::SandboxNotFound(self.id))?;
        self.enter().await
    }

    /// The outcome of a start that is under way: completes once the sandbox runs, or will not.
    pub(crate) async fn started(&self) -> Result<(), Error> {
        let mut view = self.view.clone();
        let settled = view.wait_for(|v| v.state != State::Starting).await.map(|v| v.state);
        match settled {
            Ok(State::Running) => Ok(()),
            Ok(state) => match admit(state, Request::Create) {
                Verdict::Refuse(refusal) => Err(Error::InvalidState { id: self.id, state, refusal }),
                Verdict::Proceed | Verdict::Join => Ok(()),
            },
            // The task is gone: the start failed, and its own caller has been told why.
            Err(_) => Err(Error::SandboxNotFound(self.id)),
        }
    }

    /// Gives an order and waits for its outcome. The order is carried out whether or not anybody waits.
    pub(crate) async fn ask<T>(&self, order: impl FnOnce(Reply<T>) -> Order) -> Result<T, Error> {
        let (reply, outcome) = oneshot::channel();
        let gone = || Error::SandboxNotFound(self.id);
        self.orders
            .send(Given { order: order(reply), trace: Context::current() })
            .await
            .map_err(|_| gone())?;
        outcome.await.map_err(|_| gone())?
    }

    /// Ends the sandbox. Returns once nothing of it is left; a sandbox that is gone already is a success.
    pub(crate) async fn destroy(&self) -> Result<(), Error> {
        match self.ask(Order::Destroy).await {
            // A task that ended without an answer ended because the sandbox did.
            Err(Error::SandboxNotFound(_)) => Ok(()),
            outcome => outcome,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SET: Deadline = Deadline {
        timeout_sec: 60,
        on_timeout: OnTimeout::Kill,
        from: TimeoutFrom::Start,
        since_unix_ms: 1_000,
    };

    fn longer(timeout_sec: u32) -> DeadlineChange {
        DeadlineChange {
            timeout_sec: Some(timeout_sec),
            extent: Extent::LongerOnly,
            ..DeadlineChange::default()
        }
    }

    #[test]
    fn a_deadline_that_may_only_move_away_stays_bit_for_bit_or_moves() {
        assert_eq!(longer(50).apply(SET, 5_000, 11_000), SET);
        assert_eq!(longer(51).apply(SET, 5_000, 11_000), Deadline { timeout_sec: 51, ..SET.since(11_000) });
        assert_eq!(longer(0).apply(SET, 5_000, 11_000).timeout_sec, 0, "never is later than any time");
        let never = Deadline { timeout_sec: 0, ..SET };
        assert_eq!(longer(3600).apply(never, 5_000, 11_000), never);
    }

    #[test]
    fn an_idle_time_out_is_compared_by_when_it_would_pass() {
        let idle = Deadline { from: TimeoutFrom::Activity, ..SET };
        // In use until now: it ends 60 s after now unless it is used again.
        assert_eq!(longer(60).apply(idle, 100_000, 100_000), idle);
        assert_eq!(longer(61).apply(idle, 100_000, 100_000).timeout_sec, 61);
    }

    #[test]
    fn a_resume_counts_once_and_not_after_a_later_one() {
        let of = |generation| Resume {
            deadline: DeadlineChange::default(),
            awakening: Awakening::AsKept,
            row_generation: NonZeroU64::new(generation),
        };
        for (asked, known, while_paused, while_running) in [
            (5, 0, false, false),
            (5, 4, false, false),
            (5, 5, true, false),
            (5, 6, true, true),
            (0, 6, false, false),
        ] {
            let resume = of(asked);
            assert_eq!(
                (resume.is_outdated(known, false), resume.is_outdated(known, true)),
                (while_paused, while_running),
                "{asked} after {known}"
            );
        }
    }

    #[test]
    fn what_is_not_said_stays_and_the_time_starts_anew() {
        let change = DeadlineChange { on_timeout: Some(OnTimeout::Pause), ..DeadlineChange::default() };
        let changed = Deadline { on_timeout: OnTimeout::Pause, ..SET.since(9_000) };
        assert_eq!(change.apply(SET, 0, 9_000), changed);
    }
}
