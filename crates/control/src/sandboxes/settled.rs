//! Waiting for the end of a change that somebody else began, and coming into a sandbox whatever it is doing.

use std::time::Duration;

use sandbar_store::listen::Topic;
use sandbar_types::{Id, SandboxStatus, id};
use tokio::time::{Instant, timeout_at};

use super::{Awakening, Extent, NewDeadline, Resume, Sandbox, SandboxError};
use crate::{Control, OpContext};

/// How often a row that is between two states is looked at although nobody tells of it: the database tells of every change's end but a
/// start's, whose sandbox hardly anybody knows.
const LOOK_AGAIN: Duration = Duration::from_secs(1);

/// How somebody comes into a sandbox.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Entered {
    /// It was running. Its end was moved away, or was far enough.
    Running(Sandbox),
    /// It was paused and goes on.
    Resumed(Sandbox),
}

impl Control {
    /// The sandbox as it is once no change of it is under way. After the time that any change may take, the state is told as it is.
    pub async fn sandbox_settled(
        &self,
        ctx: &OpContext,
        id: Id<id::Sandbox>,
    ) -> Result<Sandbox, SandboxError> {
        let patience = Instant::now() + self.config().operation_deadline;
        let mut news = None;
        loop {
            let sandbox = self.sandbox_get(ctx, id).await?;
            let between = matches!(
                sandbox.status,
                SandboxStatus::Pending
                    | SandboxStatus::Starting
                    | SandboxStatus::Pausing
                    | SandboxStatus::Resuming
                    | SandboxStatus::Snapshotting
            );
            if !between || Instant::now() >= patience {
                return Ok(sandbox);
            }
            match &mut news {
                // And one more look: what ended before this listens it is not told.
                None => news = Some(self.news().subscribe(self.store())),
                Some(news) => {
                    let ended = news.wait(|told| told.is_of(Topic::Sandboxes, id));
                    let _ = timeout_at(patience.min(Instant::now() + LOOK_AGAIN), ended).await;
                }
            }
        }
    }

    /// Waits for the end of a sandbox that is `stopping`, which nobody tells of, no longer than that may take.
    pub(super) async fn sandbox_ended(
        &self,
        ctx: &OpContext,
        id: Id<id::Sandbox>,
    ) -> Result<(), SandboxError> {
        let patience = Instant::now() + self.config().destroy_deadline;
        loop {
            if self.sandbox_get(ctx, id).await?.status.is_end() {
                return Ok(());
            }
            if Instant::now() >= patience {
                return Err(SandboxError::Busy { id });
            }
            tokio::time::sleep(LOOK_AGAIN).await;
        }
    }

    /// Comes into a sandbox, for at least `timeout_sec` from now: one that is paused is resumed, in the way that is asked for, and no
    /// deadline comes nearer.
    pub async fn sandbox_enter(
        &self,
        ctx: &OpContext,
        sandbox: &Sandbox,
        timeout_sec: u32,
        awakening: Awakening,
    ) -> Result<Entered, SandboxError> {
        let mut now = sandbox.clone();
        // Others may do the same: whoever loses a race finds the sandbox running, or paused again.
        for _ in 0..3 {
            if now.status != SandboxStatus::Snapshotting {
                now = self.sandbox_settled(ctx, sandbox.id).await?;
            }
            let outcome = match now.status {
                SandboxStatus::Paused => {
                    let resume = Resume { timeout_sec: Some(timeout_sec), awakening, ..Resume::default() };
                    self.sandbox_resume(ctx, &now, resume).await.map(Entered::Resumed)
                }
                _ => {
                    let longer = NewDeadline { extent: Extent::LongerOnly, ..NewDeadline::default() };
                    self.sandbox_set_timeout(ctx, &now, timeout_sec, longer).await.map(Entered::Running)
                }
            };
            match outcome {
                Err(SandboxError::InvalidState { .. } | SandboxError::Gone { .. })
                    if !now.status.is_end() && now.status != SandboxStatus::Stopping => {}
                outcome => return outcome,
            }
            now = self.sandbox_get(ctx, sandbox.id).await?;
        }
        Err(SandboxError::Busy { id: sandbox.id })
    }
}
