//! Pausing a sandbox: its memory and disk become files, or its disk alone does, and its machine is given back.

use sandbar_store::audit::Outcome;
use sandbar_store::sandbox_metrics::MetricPoint;
use sandbar_store::sandboxes::{SandboxRow, Transition};
use sandbar_types::{MetricsRange, PauseMode, SandboxStatus};

use super::change::{Begun, Change};
use super::{Sandbox, SandboxError};
use crate::operation::Action;
use crate::{Control, OpContext, reported};

const PAUSE: Change = Change {
    action: Action::Pause,
    through: SandboxStatus::Pausing,
    from: &[SandboxStatus::Running],
    named: ("pausing", "running"),
};

impl Control {
    /// Pauses a running sandbox with its memory. A pause that fails leaves it running. The work goes on when the caller goes away.
    pub async fn sandbox_pause(&self, ctx: &OpContext, sandbox: &Sandbox) -> Result<Sandbox, SandboxError> {
        self.sandbox_pause_keeping(ctx, sandbox, PauseMode::Full).await
    }

    /// The same, with its memory or without.
    pub async fn sandbox_pause_keeping(
        &self,
        ctx: &OpContext,
        sandbox: &Sandbox,
        mode: PauseMode,
    ) -> Result<Sandbox, SandboxError> {
        let (control, ctx, sandbox) = (self.clone(), ctx.clone(), sandbox.clone());
        self.finish(async move { control.pause_in_steps(&ctx, &sandbox, mode).await }).await
    }

    async fn pause_in_steps(
        &self,
        ctx: &OpContext,
        sandbox: &Sandbox,
        mode: PauseMode,
    ) -> Result<Sandbox, SandboxError> {
        let begun = self.begin_change(ctx, sandbox, PAUSE).await?;
        let (client, limit) = (self.client_of(&begun.row)?, self.config().pause_deadline);
        let kept = match client.pause_sandbox(begun.row.id, mode, limit).await {
            // The host's word: it may have paused it by itself just before, in the way of its time-out.
            Ok(paused) => reported::pause_mode(&paused),
            Err(error) => {
                let goal = SandboxStatus::Paused;
                return self.change_failed(ctx, &begun.row, goal, ("the pause", limit), error).await;
            }
        };
        let metrics = self.all_metrics(&client, begun.row.id).await;
        match self.mark_paused(&begun, kept, &metrics).await? {
            Some(row) => {
                self.copies_wanted().notify_one();
                Ok(row.try_into()?)
            }
            None => self.change_overtaken(ctx, sandbox.id, SandboxStatus::Paused).await,
        }
    }

    async fn mark_paused(
        &self,
        begun: &Begun,
        kept: PauseMode,
        metrics: &[(MetricsRange, Vec<MetricPoint>)],
    ) -> Result<Option<SandboxRow>, SandboxError> {
        let Begun { row, operation } = begun;
        let transition = Transition::new(row.id, SandboxStatus::Paused)
            .only_from(&[SandboxStatus::Pausing, SandboxStatus::Missing])
            .keeping(kept);
        let mut tx = self.store().begin().await?;
        let Some(paused) = tx.sandbox_transition(&transition).await? else { return Ok(None) };
        for (range, points) in metrics {
            tx.metrics_replace(row.id, *range, points).await?;
        }
        tx.audit(&operation.sandbox_event(&paused, Outcome::Success)).await?;
        tx.commit().await?;
        Ok(Some(paused))
    }
}
