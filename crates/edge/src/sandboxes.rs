//! Sandboxes as the edge knows them: where each is, for a moment; how many streams it has; the way into it.
//!
//! What the database says is remembered for [`REMEMBERED`] and only of sandboxes that run, so that a request costs no query. That cannot be
//! wrong for long: a connection to a sandbox that has ended or was paused is cut by its host, a new one is refused there, and then
//! the database is asked again.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use sandbar_control::Control;
use sandbar_control::host_client::TunnelStream;
use sandbar_control::traffic::{Destination, TunnelError};
use sandbar_types::id::Sandbox;
use sandbar_types::{Id, SandboxStatus};
use sha2::{Digest as _, Sha256};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::refusal::Refusal;
use crate::toll::Toll;

/// For how long a sandbox that runs, and a key that was found to be its team's, are taken for that without asking.
const REMEMBERED: Duration = Duration::from_secs(1);
/// Requests and upgraded connections of one sandbox at a time.
pub(crate) const STREAMS: usize = 1000;
/// Keys that are remembered of one sandbox.
const KEYS: usize = 16;
/// Sandboxes that are remembered before those that nobody asks for are forgotten.
const FORGET_FROM: usize = 1024;
/// Looks at a sandbox that its host says does not run. A row follows its host within moments; one that was not on its way anywhere is
/// looked at once more only.
const LOOKS: u32 = 50;
const BETWEEN_LOOKS: Duration = Duration::from_millis(100);

/// See the module.
pub(crate) struct Sandboxes {
    control: Control,
    /// The API's clients come by the same listener, and must find room.
    streams: Arc<Semaphore>,
    known: Mutex<HashMap<Id<Sandbox>, Arc<Known>>>,
}

/// Whether a request may resume the sandbox that it is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Wake {
    Allowed,
    /// To its sender a paused one is one that does not resume by itself.
    Denied,
}

/// A place among the streams of all sandboxes, and among those of one.
pub(crate) struct Place {
    _of_all: OwnedSemaphorePermit,
    _of_one: OwnedSemaphorePermit,
}

/// What is known of one sandbox.
struct Known {
    streams: Arc<Semaphore>,
    /// Held while it is asked for, and while it is resumed: of many requests at once one does so, and the others wait.
    state: tokio::sync::Mutex<State>,
}

#[derive(Default)]
struct State {
    destination: Option<(Arc<Destination>, Instant)>,
    /// Hashes of keys that its team has.
    keys: Vec<([u8; 32], Instant)>,
}

impl Sandboxes {
    pub(crate) fn new(control: Control, streams: usize) -> Self {
        Self { control, streams: Arc::new(Semaphore::new(streams)), known: Mutex::default() }
    }

    fn known(&self, id: Id<Sandbox>) -> Arc<Known> {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        // Each time there are twice as many, so that it costs nothing to speak of.
        if known.len() >= FORGET_FROM && known.len().is_power_of_two() && !known.contains_key(&id) {
            known.retain(|_, known| !known.is_idle());
        }
        let fresh =
            || Arc::new(Known { streams: Arc::new(Semaphore::new(STREAMS)), state: Default::default() });
        Arc::clone(known.entry(id).or_insert_with(fresh))
    }

    /// A place among the streams, for as long as it is held.
    pub(crate) fn enter(&self, id: Id<Sandbox>) -> Result<Place, Refusal> {
        let of_one = Arc::clone(&self.known(id).streams).try_acquire_owned().map_err(|_| Refusal::TooMany)?;
        let of_all = Arc::clone(&self.streams).try_acquire_owned().map_err(|_| Refusal::Full)?;
        Ok(Place { _of_all: of_all, _of_one: of_one })
    }

    /// The sandbox, if there ever was one.
    pub(crate) async fn find(&self, id: Id<Sandbox>, toll: &Toll<'_>) -> Result<Arc<Destination>, Refusal> {
        let known = self.known(id);
        let mut state = known.state.lock().await;
        match state.remembered() {
            Some(destination) => Ok(destination),
            None => {
                toll.pay()?;
                self.look(&mut state, id).await
            }
        }
    }

    async fn look(&self, state: &mut State, id: Id<Sandbox>) -> Result<Arc<Destination>, Refusal> {
        state.destination = None;
        let found = self.control.destination(id).await.map_err(|error| {
            tracing::error!(%id, error = &error as &dyn std::error::Error, "a sandbox cannot be looked up");
            Refusal::Internal
        })?;
        let found = Arc::new(found.ok_or(Refusal::NotFound)?);
        if runs(found.status) {
            state.destination = Some((Arc::clone(&found), Instant::now()));
        }
        Ok(found)
    }

    /// Whether a key is one of the sandbox's team.
    pub(crate) async fn takes_key(
        &self,
        destination: &Destination,
        key: &str,
        toll: &Toll<'_>,
    ) -> Result<bool, Refusal> {
        let known = self.known(destination.id);
        let mut state = known.state.lock().await;
        let hash: [u8; 32] = Sha256::digest(key.as_bytes()).into();
        state.keys.retain(|(_, seen)| seen.elapsed() < REMEMBERED);
        if state.keys.iter().any(|(known, _)| *known == hash) {
            return Ok(true);
        }
        toll.pay()?;
        let taken = self.control.is_key_of(destination.team_id, key).await.map_err(|error| {
            tracing::error!(error = &error as &dyn std::error::Error, "a key cannot be looked up");
            Refusal::Internal
        })?;
        if taken && state.keys.len() < KEYS {
            state.keys.push((hash, Instant::now()));
        }
        Ok(taken)
    }

    /// Whether there is anything to connect to. A paused sandbox that resumes by itself does so here, once for all who wait.
    pub(crate) async fn ready(&self, destination: &Destination, wake: Wake) -> Result<(), Refusal> {
        let resumes = wake.resumes(destination);
        match destination.status {
            SandboxStatus::Paused if resumes => self.resume(destination.id).await,
            // The host waits until it has come to rest.
            SandboxStatus::Pausing if resumes => Ok(()),
            SandboxStatus::Running
            | SandboxStatus::Snapshotting
            | SandboxStatus::Starting
            | SandboxStatus::Resuming => Ok(()),
            SandboxStatus::Pending | SandboxStatus::Pausing => Err(Refusal::Changing),
            SandboxStatus::Missing => Err(Refusal::HostGone),
            SandboxStatus::Paused
            | SandboxStatus::Stopping
            | SandboxStatus::Stopped
            | SandboxStatus::Error => Err(Refusal::NotFound),
        }
    }

    async fn resume(&self, id: Id<Sandbox>) -> Result<(), Refusal> {
        let known = self.known(id);
        let mut state = known.state.lock().await;
        // Whoever had the turn before may have done it.
        let now = self.look(&mut state, id).await?;
        if now.status != SandboxStatus::Paused {
            return Ok(());
        }
        self.control.resume_for_traffic(&now).await.map_err(|error| {
            tracing::warn!(%id, error = &error as &dyn std::error::Error, "a sandbox was not resumed for its traffic");
            Refusal::NotResumed
        })
    }

    /// A new connection to a port. Whether the caller may have it was asked before.
    pub(crate) async fn dial(&self, id: Id<Sandbox>, port: u16, wake: Wake) -> Result<TunnelStream, Refusal> {
        let known = self.known(id);
        for look in 0..LOOKS {
            let destination = {
                let mut state = known.state.lock().await;
                match state.remembered().filter(|_| look == 0) {
                    Some(destination) => destination,
                    None => self.look(&mut state, id).await?,
                }
            };
            self.ready(&destination, wake).await?;
            match self.control.open_tunnel(&destination, port).await {
                Ok(tunnel) => return Ok(tunnel),
                Err(TunnelError::NotRunning(_)) if look == 0 => {}
                Err(TunnelError::NotRunning(_)) if wake.resumes(&destination) => {
                    tokio::time::sleep(BETWEEN_LOOKS).await;
                }
                Err(TunnelError::NotRunning(_)) => return Err(Refusal::NotFound),
                Err(TunnelError::PortClosed) => return Err(Refusal::PortClosed),
                Err(TunnelError::PortStuck) => return Err(Refusal::PortStuck),
                Err(TunnelError::Full) => return Err(Refusal::TooMany),
                Err(TunnelError::NoHost) => return Err(Refusal::Changing),
                Err(error @ TunnelError::Host(_)) => {
                    tracing::warn!(%id, error = &error as &dyn std::error::Error, "a port cannot be opened");
                    return Err(Refusal::HostGone);
                }
            }
        }
        Err(Refusal::NotFound)
    }
}

impl State {
    /// The sandbox, where it ran a moment ago.
    fn remembered(&self) -> Option<Arc<Destination>> {
        let fresh = self.destination.as_ref().filter(|(_, seen)| seen.elapsed() < REMEMBERED);
        fresh.map(|(destination, _)| Arc::clone(destination))
    }
}

impl Wake {
    fn resumes(self, destination: &Destination) -> bool {
        self == Self::Allowed && destination.ingress.auto_resume
    }
}

impl Known {
    /// Whether nobody has a stream or waits, and nothing is remembered that saves a question.
    fn is_idle(&self) -> bool {
        let is_forgotten = || self.state.try_lock().is_ok_and(|state| state.remembered().is_none());
        self.streams.available_permits() == STREAMS && is_forgotten()
    }
}

fn runs(status: SandboxStatus) -> bool {
    matches!(status, SandboxStatus::Running | SandboxStatus::Snapshotting)
}
