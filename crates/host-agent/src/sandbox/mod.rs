//! One sandbox on this host: its state, and the task that owns it.
//!
//! ```text
//!              create                         destroy
//!   (nothing) ───────► starting ──► running ─────────► stopping ──► (nothing)
//!                         │            │                  ▲
//!                         │ failed     │ the VMM ended    │ destroy
//!                         ▼            ▼                  │
//!                     (nothing)     stopped ──────────────┘
//! ```
//!
//! - `starting`: a slot, a disk and a machine are being taken. Whatever fails, all of it is given back and the record goes.
//! - `running`: the guest has its identity and answers.
//! - `stopped`: the machine ended by itself. What it held is freed at once; the record stays, so that the control plane learns
//!   of it, until it asks for the sandbox to be destroyed.
//!
//! One task owns a sandbox ([`actor`]). Callers put requests on its queue and read its state from a watch channel; what
//! reaches the guest only (commands, files) goes past the queue and is refused by state ([`admission`]).

pub(crate) mod activity;
pub(crate) mod actor;
pub(crate) mod admission;
pub(crate) mod machine;

use std::fmt;
use std::net::Ipv4Addr;
use std::sync::Arc;

use sandbar_types::id::{Id, Sandbox, Template};
use tokio::sync::{mpsc, oneshot, watch};

use crate::error::Error;
use crate::guest::GuestClient;
use activity::{Activity, Use};
use admission::{Request, Verdict, admit};

/// The state of a sandbox on its host. See the module's drawing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    /// Being made.
    Starting,
    /// Its guest answers.
    Running,
    /// Being ended.
    Stopping,
    /// Its machine ended by itself.
    Stopped,
}

impl State {
    /// All states.
    #[cfg(test)]
    pub(crate) const ALL: [Self; 4] = [Self::Starting, Self::Running, Self::Stopping, Self::Stopped];
}

impl fmt::Display for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Starting => "starting",
            Self::Running => "running",
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
    /// The one credential that its guest will take.
    pub(crate) access_token: String,
    /// Environment of all its commands.
    pub(crate) env: Vec<(String, String)>,
    /// Seconds without activity until it ends; 0 = never.
    pub(crate) timeout_sec: u32,
    /// Its guest's hostname.
    pub(crate) hostname: String,
}

/// What can be told of a sandbox without asking its task.
#[derive(Debug, Clone)]
pub(crate) struct View {
    pub(crate) state: State,
    pub(crate) generation: u64,
    pub(crate) vcpus: u32,
    pub(crate) memory_mb: u32,
    pub(crate) disk_mb: u32,
    /// The address at which this host reaches the guest.
    pub(crate) host_ip: Option<Ipv4Addr>,
    /// Why it stopped, where it did by itself.
    pub(crate) stop_reason: String,
    /// The guest, where it runs.
    pub(crate) guest: Option<GuestClient>,
}

/// A sandbox as the rest of the agent holds it.
#[derive(Debug, Clone)]
pub(crate) struct Handle {
    pub(crate) id: Id<Sandbox>,
    pub(crate) template_id: Id<Template>,
    pub(crate) created_at_unix_ms: i64,
    pub(crate) timeout_sec: u32,
    pub(crate) activity: Arc<Activity>,
    view: watch::Receiver<View>,
    requests: mpsc::Sender<Destroy>,
}

/// A use of a sandbox's guest, from its beginning to its drop.
#[derive(Debug)]
pub(crate) struct Visit {
    pub(crate) guest: GuestClient,
    id: Id<Sandbox>,
    view: watch::Receiver<View>,
    _in_use: Use,
}

impl Visit {
    /// Completes when the sandbox has ended. A connection into a network that is gone says nothing: whoever waits for a guest waits
    /// for this too.
    pub(crate) async fn ended(&mut self) -> Error {
        if self.view.wait_for(|view| view.state != State::Running).await.is_err() {
            // The agent shuts down; the sandbox runs on.
            std::future::pending::<()>().await;
        }
        Error::GuestUnreachable(format!("sandbox {} has ended", self.id))
    }
}

/// A request to end a sandbox; answered when nothing of it is left.
#[derive(Debug)]
pub(crate) struct Destroy(oneshot::Sender<Result<(), Error>>);

impl Handle {
    pub(crate) fn view(&self) -> View {
        self.view.borrow().clone()
    }

    /// Enters a running sandbox: its guest, which counts as in use for as long as the visit lives.
    pub(crate) fn enter(&self) -> Result<Visit, Error> {
        let view = self.view.borrow();
        match (admit(view.state, Request::Use), &view.guest) {
            (Verdict::Proceed, Some(guest)) => Ok(Visit {
                guest: guest.clone(),
                id: self.id,
                view: self.view.clone(),
                _in_use: self.activity.begin(),
            }),
            (Verdict::Refuse(refusal), _) => {
                Err(Error::InvalidState { id: self.id, state: view.state, refusal })
            }
            (Verdict::Proceed | Verdict::Join, _) => {
                Err(Error::InvalidState { id: self.id, state: view.state, refusal: "wait until it runs" })
            }
        }
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

    /// Ends the sandbox. Returns once nothing of it is left; a sandbox that is gone already is a success.
    pub(crate) async fn destroy(&self) -> Result<(), Error> {
        let (reply, outcome) = oneshot::channel();
        if self.requests.send(Destroy(reply)).await.is_err() {
            return Ok(());
        }
        // A task that ended without an answer ended because the sandbox did.
        outcome.await.unwrap_or(Ok(()))
    }
}
