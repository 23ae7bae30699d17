//! What dead workers left: builds that nobody may begin again, sandboxes and templates of images that nobody needs, jobs that a queue forgot.

use sandbar_store::StoreError;
use sandbar_store::audit::Outcome as Told;
use sandbar_store::builds::{Claim, Ended};
use sandbar_store::locks::Lock;
use sandbar_types::Id;
use sandbar_types::id::Sandbox;
use tokio::time::MissedTickBehavior;
use tokio_util::sync::CancellationToken;

use super::QueueError;
use super::course::tx_tell;
use super::e2b::STEPS_WITHIN;
use crate::{Control, OpContext};

impl Control {
    pub(super) async fn sweep_builds(self, stop: CancellationToken) {
        let mut timer = tokio::time::interval(self.config().builds.sweep);
        timer.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                () = stop.cancelled() => return,
                _ = timer.tick() => {}
            }
            if let Err(error) = self.builds_sweep().await {
                tracing::warn!(error = &error as &dyn std::error::Error, "builds cannot be looked after now");
            }
        }
    }

    /// One look at what dead workers left. Does nothing while another replica is at it.
    pub async fn builds_sweep(&self) -> Result<(), QueueError> {
        let Some(lock) = self.store().try_lock(Lock::Builds).await? else { return Ok(()) };
        let swept = self.sweep_locked().await;
        lock.release().await?;
        swept
    }

    async fn sweep_locked(&self) -> Result<(), QueueError> {
        let attempts = self.config().builds.attempts;
        for build in self.store().builds_over(attempts).await? {
            let reason = format!("it was begun {attempts} times, and each time its worker died");
            let (ended, told) = match build.attempts >= attempts && !build.cancel_asked {
                true => (Ended::Failed(&reason), Told::Error),
                false => (Ended::Cancelled, Told::Warning),
            };
            let mut tx = self.store().begin().await?;
            if let Some(row) = tx.build_end_unclaimed(build.id, ended).await? {
                tx_tell(&mut tx, &row, told).await?;
            }
            tx.commit().await?;
        }
        for sandbox in self.store().sandboxes_left_by_builds().await? {
            if let Err(error) = self.end_build_sandbox(&OpContext::system(), sandbox).await {
                tracing::warn!(%sandbox, error = &error as &dyn std::error::Error,
                    "a build's sandbox is not ended yet");
            }
        }
        self.delete_images_left().await?;
        self.store().builds_announced_sweep(STEPS_WITHIN).await?;
        self.sweep_files().await?;
        // Last: a Redis that is away keeps nobody from the rest.
        self.build_queue().recover().await
    }

    /// Ends the sandboxes that bear a claim's name.
    pub(super) async fn end_sandboxes_of(&self, ctx: &OpContext, claim: Claim) -> Result<(), StoreError> {
        for sandbox in self.store().sandboxes_of_claim(claim).await? {
            if let Err(error) = self.end_build_sandbox(ctx, sandbox).await {
                tracing::warn!(%sandbox, error = &error as &dyn std::error::Error,
                    "a build's sandbox is not ended yet");
            }
        }
        Ok(())
    }

    /// Once it is `stopping`, it ends, whoever finishes it.
    async fn end_build_sandbox(
        &self,
        ctx: &OpContext,
        id: Id<Sandbox>,
    ) -> Result<(), crate::sandboxes::SandboxError> {
        match self.store().sandbox_find_any(id).await? {
            Some(row) => self.sandbox_destroy(ctx, &row.try_into()?).await,
            None => Ok(()),
        }
    }
}
