//! `POST /snapshot/prepare` and `POST /snapshot/resume`: the seal that keeps a copy of this guest from passing for it.
//!
//! ```text
//!            prepare                       /init with a new identity, or the old one again (a restore)
//!   open ───────────────▶ sealed ────────────────────────────────────────────────────────────────────▶ open
//!    ▲                      │
//!    └──────────────────────┘
//!       resume (the source goes on), or prepare that failed
//! ```
//!
//! A snapshot of a running guest holds its token, and until the copy was told who it is, it would serve whoever has that
//! token. So the guest is sealed *before* its memory is copied. Sealed, it serves `/health`, `/init` and the two routes here,
//! and answers everything else 503 (a caller without the token still gets 401). Processes are not touched: they run on, and
//! streams that were open at the seal go on delivering. The seal is part of the state that survives a restart of the agent.
//!
//! What the host does, and in which order:
//!
//! 1. `prepare`. Body: nothing, or `{"timeoutMs": N}` (10,000 unless said; at most 120,000). It seals, then flushes every
//!    filesystem. 204: sealed, and what was written before the call is on the disk. Otherwise the guest is open again as if
//!    nothing had been asked: 504 if the flush took longer than the limit, 500 if it failed, 409 if somebody opened the guest
//!    in the meantime. Again while sealed, it flushes again.
//! 2. Stop the virtual CPUs, copy, go on.
//! 3. In the source: `resume`. Body: nothing, or `{"timestampUnixNanos": N}` (a number, or a string of one) to put the clock
//!    right, which has stood still. 204, whether the guest was sealed or not. Also when the snapshot failed, when an answer of
//!    `prepare` was lost, and when a host agent takes over a machine of which it does not know whether it is sealed.
//! 4. In each copy: `/init`, nothing else, with a new identity for a new sandbox and with the old one where the same sandbox
//!    comes back. A sealed guest takes no `/init` without token, entropy and time (400), since it may be a copy. The same
//!    write makes the new token valid, the old one void and ends the seal. Then every connection from before the seal ends,
//!    and with it streams that were opened with the old token and readers that hold processes up; the connection that
//!    brought `/init` stays. There is no route `/snapshot/restored`: `/init` is it.
//!
//! All three need the token and come from the gateway (`/init` as `auth` says). Nothing ends the seal by itself: a timer
//! would run in the copies too.
//!
//! Deadlines of processes and of streams count the guest's own time, which stands still with its virtual CPUs.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use axum::extract::State as Extract;
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use http::StatusCode;
use serde::Deserialize;
use tokio::time::{Instant, timeout_at};

use crate::error::ApiError;
use crate::init::{self, Nanos};
use crate::server::Agent;
use crate::state::{Door, Sandbox, StateError};

const PREPARE_LIMIT: Duration = Duration::from_secs(10);
const PREPARE_LIMIT_MAX: Duration = Duration::from_secs(120);

/// Why a snapshot route failed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SnapshotError {
    #[error("invalid body: {0}")]
    Body(serde_json::Error),
    #[error("timeoutMs must be 1 to {}", PREPARE_LIMIT_MAX.as_millis())]
    Limit,
    #[error("invalid timestampUnixNanos: not a number of nanoseconds")]
    Timestamp,
    #[error("the filesystems were not flushed within {} ms", .0.as_millis())]
    TooSlow(Duration),
    #[error("cannot flush the filesystems: {0}")]
    Flush(io::Error),
    #[error("the guest was opened again before its filesystems were flushed")]
    Opened,
    #[error("cannot set the clock: {0}")]
    Clock(io::Error),
    #[error("cannot keep the seal: {0}")]
    State(#[from] StateError),
}

impl From<SnapshotError> for ApiError {
    fn from(error: SnapshotError) -> Self {
        let status = match &error {
            SnapshotError::Body(_) | SnapshotError::Limit | SnapshotError::Timestamp => {
                StatusCode::BAD_REQUEST
            }
            SnapshotError::Opened => StatusCode::CONFLICT,
            SnapshotError::TooSlow(_) => StatusCode::GATEWAY_TIMEOUT,
            SnapshotError::Flush(_) | SnapshotError::Clock(_) | SnapshotError::State(_) => {
                StatusCode::INTERNAL_SERVER_ERROR
            }
        };
        Self::new(status, error.to_string())
    }
}

#[derive(Deserialize, Default)]
#[serde(default, rename_all = "camelCase")]
struct PrepareRequest {
    timeout_ms: Option<u64>,
}

#[derive(Deserialize, Default)]
#[serde(default, rename_all = "camelCase")]
struct ResumeRequest {
    timestamp_unix_nanos: Option<Nanos>,
}

/// Handles `POST /snapshot/prepare`.
pub(crate) async fn handle_prepare(Extract(agent): Extract<Arc<Agent>>, body: Bytes) -> Response {
    let outcome = async {
        let PrepareRequest { timeout_ms } = init::read(&body).map_err(SnapshotError::Body)?;
        let limit = timeout_ms.map_or(PREPARE_LIMIT, Duration::from_millis);
        if limit.is_zero() || limit > PREPARE_LIMIT_MAX {
            return Err(SnapshotError::Limit);
        }
        prepare(&agent, limit).await
    };
    answer("prepare", outcome.await)
}

/// Handles `POST /snapshot/resume`.
pub(crate) async fn handle_resume(Extract(agent): Extract<Arc<Agent>>, body: Bytes) -> Response {
    let outcome = async {
        let ResumeRequest { timestamp_unix_nanos } = init::read(&body).map_err(SnapshotError::Body)?;
        let time = timestamp_unix_nanos.map(Nanos::read).transpose().map_err(|_| SnapshotError::Timestamp)?;
        resume(&agent, time).await
    };
    answer("resume", outcome.await)
}

fn answer(route: &'static str, outcome: Result<(), SnapshotError>) -> Response {
    match outcome {
        Ok(()) => StatusCode::NO_CONTENT.into_response(),
        Err(error) => {
            let error = ApiError::from(error);
            if error.status.is_server_error() {
                tracing::error!(%error, route, "snapshot route failed");
            }
            error.into_response()
        }
    }
}

/// Seals the guest, then flushes its filesystems. If that cannot be done within `limit`, the guest is open again.
async fn prepare(agent: &Arc<Agent>, limit: Duration) -> Result<(), SnapshotError> {
    let deadline = Instant::now() + limit;
    {
        let _turn = agent.identity_turn.lock().await;
        if agent.state.current().door == Door::Open {
            turn(agent, Door::Sealed)?;
            agent.connections.sealed();
        }
    }
    let flushed = match timeout_at(deadline, flush(agent)).await {
        Ok(Ok(())) => Ok(()),
        Ok(Err(error)) => Err(SnapshotError::Flush(error)),
        Err(_) => Err(SnapshotError::TooSlow(limit)),
    };
    let _turn = agent.identity_turn.lock().await;
    match (flushed, agent.state.current().door) {
        (Ok(()), Door::Sealed) => Ok(()),
        (Ok(()), Door::Open) => Err(SnapshotError::Opened),
        (Err(error), Door::Open) => Err(error),
        (Err(error), Door::Sealed) => {
            turn(agent, Door::Open)?;
            Err(error)
        }
    }
}

/// One at a time: a flush cannot be called off, and those that nobody waits for any more must not use up the threads that
/// the agent has for files.
async fn flush(agent: &Arc<Agent>) -> io::Result<()> {
    let turn = Arc::clone(&agent.flush_turn).lock_owned().await;
    let agent = Arc::clone(agent);
    let flushed = tokio::task::spawn_blocking(move || {
        let _turn = turn;
        agent.system.flush()
    });
    flushed.await.map_err(io::Error::other)?
}

/// Opens the guest again: it is the one that was copied.
async fn resume(agent: &Agent, unix_nanos: Option<u64>) -> Result<(), SnapshotError> {
    let _turn = agent.identity_turn.lock().await;
    if let Some(unix_nanos) = unix_nanos {
        agent.system.set_clock(unix_nanos).map_err(SnapshotError::Clock)?;
    }
    match agent.state.current().door {
        Door::Open => Ok(()),
        Door::Sealed => Ok(turn(agent, Door::Open)?),
    }
}

fn turn(agent: &Agent, door: Door) -> Result<(), StateError> {
    let mut sandbox = Sandbox::clone(&agent.state.current());
    sandbox.door = door;
    agent.state.replace(sandbox)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Mutex;
    use std::sync::mpsc;

    use crate::options::Options;
    use crate::state::State;
    use crate::system::System;

    /// A machine whose flush waits for the word, or fails.
    struct Disk(Mutex<mpsc::Receiver<io::Result<()>>>);

    impl System for Disk {
        fn set_clock(&self, unix_nanos: u64) -> io::Result<()> {
            if unix_nanos == 0 { Err(io::ErrorKind::PermissionDenied.into()) } else { Ok(()) }
        }
        fn add_entropy(&self, _seed: &[u8]) -> io::Result<()> {
            Ok(())
        }
        fn set_hostname(&self, _name: &str) -> io::Result<()> {
            Ok(())
        }
        fn publish_hostname(&self, _name: &str) {}
        fn flush(&self) -> io::Result<()> {
            let words = self.0.lock().unwrap();
            words.recv().unwrap_or(Ok(()))
        }
    }

    struct Guest {
        agent: Arc<Agent>,
        flushed: mpsc::Sender<io::Result<()>>,
        dir: tempfile::TempDir,
    }

    impl Guest {
        fn new() -> Self {
            let dir = tempfile::tempdir().unwrap();
            let (flushed, words) = mpsc::channel();
            let (state, _) = State::load(dir.path().join("state.json")).unwrap();
            let mut agent = Agent::new(Options::default(), state, None, Arc::default());
            agent.system = Box::new(Disk(Mutex::new(words)));
            Self { agent: Arc::new(agent), flushed, dir }
        }

        fn door(&self) -> Door {
            let (kept, _) = State::load(self.dir.path().join("state.json")).unwrap();
            let door = self.agent.state.current().door;
            assert_eq!(kept.current().door, door, "a restarted agent would think otherwise");
            door
        }
    }

    const LONG: Duration = Duration::from_secs(60);

    #[tokio::test]
    async fn the_guest_is_sealed_before_it_is_flushed_and_stays_so() {
        let guest = Guest::new();
        let preparing = tokio::spawn({
            let agent = Arc::clone(&guest.agent);
            async move { prepare(&agent, LONG).await }
        });
        while guest.agent.state.current().door == Door::Open {
            tokio::task::yield_now().await;
        }
        assert!(!preparing.is_finished());
        guest.flushed.send(Ok(())).unwrap();
        preparing.await.unwrap().unwrap();
        assert_eq!(guest.door(), Door::Sealed);
        // Again, as a host does that lost the answer.
        guest.flushed.send(Ok(())).unwrap();
        prepare(&guest.agent, LONG).await.unwrap();
        for _ in 0..2 {
            resume(&guest.agent, Some(1)).await.unwrap();
            assert_eq!(guest.door(), Door::Open);
        }
    }

    #[tokio::test]
    async fn a_flush_that_fails_leaves_the_guest_open() {
        let guest = Guest::new();
        guest.flushed.send(Err(io::Error::from_raw_os_error(libc::EIO))).unwrap();
        let error = ApiError::from(prepare(&guest.agent, LONG).await.unwrap_err());
        assert_eq!(error.status, StatusCode::INTERNAL_SERVER_ERROR);
        assert!(error.message.contains("Input/output error"), "{error}");
        assert_eq!(guest.door(), Door::Open);
    }

    #[tokio::test]
    async fn a_flush_that_hangs_leaves_the_guest_open_and_holds_one_thread() {
        let guest = Guest::new();
        for _ in 0..40 {
            let error = ApiError::from(prepare(&guest.agent, Duration::from_millis(1)).await.unwrap_err());
            assert_eq!((error.status, guest.door()), (StatusCode::GATEWAY_TIMEOUT, Door::Open));
        }
        // The one that hung ends; the next one is on time.
        guest.flushed.send(Ok(())).unwrap();
        guest.flushed.send(Ok(())).unwrap();
        prepare(&guest.agent, LONG).await.unwrap();
        assert_eq!(guest.door(), Door::Sealed);
    }

    #[tokio::test]
    async fn a_guest_that_was_opened_meanwhile_is_not_said_to_be_sealed() {
        let guest = Guest::new();
        let preparing = tokio::spawn({
            let agent = Arc::clone(&guest.agent);
            async move { prepare(&agent, LONG).await }
        });
        while guest.agent.state.current().door == Door::Open {
            tokio::task::yield_now().await;
        }
        resume(&guest.agent, None).await.unwrap();
        guest.flushed.send(Ok(())).unwrap();
        assert!(matches!(preparing.await.unwrap(), Err(SnapshotError::Opened)));
    }

    #[tokio::test]
    async fn a_clock_that_cannot_be_set_keeps_the_seal() {
        let guest = Guest::new();
        guest.flushed.send(Ok(())).unwrap();
        prepare(&guest.agent, LONG).await.unwrap();
        assert!(matches!(resume(&guest.agent, Some(0)).await, Err(SnapshotError::Clock(_))));
        assert_eq!(guest.door(), Door::Sealed);
    }
}
