//! The guest's agent dies and is started again by the guest's init: its host hears of it, and sees to it that it serves.
//!
//! An agent keeps its token in a file for its successor. But root in the guest may remove what it likes, and an agent that knows no token
//! serves nobody: it is told again. What the push says is the guest's word, so all that comes of it is harmless to repeat.

use std::time::Duration;

use sandbar_hostnet::Slot;
use sandbar_types::id::{Id, Sandbox};
use tokio::sync::mpsc;
use tokio_util::sync::{CancellationToken, DropGuard};

use super::actor::Actor;
use crate::error::{Error, chain};
use crate::guest::{Defaults, Identity};
use crate::logs::HostEvent;
use crate::push::{self, Push};

/// Between two pushes that are heard: a guest may push without end, and each has its host ask the guest something.
const PAUSE: Duration = Duration::from_secs(1);
/// How long an agent that was started again may take to be told who it is. Whoever wants the sandbox paused or ended waits so long.
const TELL_LIMIT: Duration = Duration::from_secs(10);

/// Listens for the pushes of one sandbox's guest. Dropped, it ends, and with it its hold on the sandbox's network.
pub(super) struct Restarts {
    pushes: mpsc::Receiver<Push>,
    _stop: DropGuard,
}

impl Restarts {
    pub(super) fn listen(id: Id<Sandbox>, slot: Slot) -> Self {
        // One that waits is as good as many: an agent that was started again twice is told once.
        let (sender, pushes) = mpsc::channel(1);
        let stop = CancellationToken::new();
        let stopped = stop.clone();
        let listening = async move {
            let listener = match slot.ready_listener().await {
                Ok(listener) => listener,
                Err(error) => {
                    tracing::warn!(sandbox = %id, error = chain(&error), "restarts of its agent are not heard");
                    return;
                }
            };
            loop {
                match push::next(&listener).await {
                    Ok(push) => {
                        if sender.send(push).await.is_err() {
                            return;
                        }
                    }
                    Err(error) => {
                        tracing::warn!(sandbox = %id, error = chain(&error), "restarts of its agent are not heard now");
                    }
                }
                tokio::time::sleep(PAUSE).await;
            }
        };
        tokio::spawn(async move { stopped.run_until_cancelled(listening).await });
        Self { pushes, _stop: stop.drop_guard() }
    }

    /// The next push. For ever, where nobody listens.
    pub(super) async fn heard(restarts: &mut Option<Self>) -> Push {
        let next = match restarts {
            Some(restarts) => restarts.pushes.recv().await,
            None => None,
        };
        match next {
            Some(push) => push,
            None => std::future::pending().await,
        }
    }
}

impl Actor {
    /// Listens while the sandbox runs, and not after.
    pub(super) fn watch_restarts(&mut self) {
        match (&self.holdings.slot, self.running()) {
            (Some(slot), Some(_)) => {
                self.restarts.get_or_insert_with(|| Restarts::listen(self.id, slot.clone()));
            }
            _ => self.restarts = None,
        }
    }

    /// The guest's agent is another than before.
    pub(super) async fn guest_agent_restarted(&self, push: Push) {
        let (Some(running), Some(record)) = (self.running(), &self.record) else { return };
        tracing::warn!(sandbox = %self.id, reason = push.reason(), "the guest's agent was started again");
        let reason = push.reason().map(str::to_owned);
        self.log.note(HostEvent::GuestAgentRestarted(reason)).await;
        let tell = async {
            // Taken by an agent that knows its token; it opens one that was sealed, which this task would not have left so.
            if running.guest.end_snapshot().await.is_ok() {
                return Ok(());
            }
            let token = record.access_token.as_str();
            let identity = Identity {
                access_token: token,
                hostname: &record.hostname,
                env: None,
                defaults: Defaults::default(),
            };
            running.guest.init(&identity, Some(token)).await?;
            tracing::info!(sandbox = %self.id, "its guest was told again who it is");
            Ok::<_, Error>(())
        };
        match tokio::time::timeout(TELL_LIMIT, tell).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => {
                tracing::error!(sandbox = %self.id, error = chain(&error), "its guest does not serve");
            }
            Err(_) => tracing::error!(sandbox = %self.id, "its guest does not answer"),
        }
    }
}
