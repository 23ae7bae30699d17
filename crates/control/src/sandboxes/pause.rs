//! Pausing a sandbox: its memory and disk become files, and its machine is given back.

use sandbar_store::audit::Outcome;
use sandbar_store::sandbox_metrics::MetricPoint;
use sandbar_store::sandboxes::{SandboxRow, Transition};
use sandbar_types::{MetricsRange, SandboxStatus};

use super::change::{Begun, Change};
use super::{Sandbox, SandboxError};
use crate::operation::Action;
use crate::{Control, OpContext};

const PAUSE: Change = Change {
    action: Action::Pause,
    through: SandboxStatus::Pausing,
    from: &[SandboxStatus::Running],
    named: ("pausing", "running"),
};

impl Control {
    /// Pauses a running sandbox. A pause that fails leaves it running. The work goes on when the caller goes away.
    pub async fn sandbox_pause(&self, ctx: &OpContext, sandbox: &Sandbox) -> Result<Sandbox, SandboxError> {
        let (control, ctx, sandbox) = (self.clone(), ctx.clone(), sandbox.clone());
        self.finish(async move { control.pause_in_steps(&ctx, &sandbox).await }).await
    }

    async fn pause_in_steps(&self, ctx: &OpContext, sandbox: &Sandbox) -> Result<Sandbox, SandboxError> {
        let begun = self.begin_change(ctx, sandbox, PAUSE).await?;
        let (client, limit) = (self.client_of(&begun.row)?, self.config().pause_deadline);
        if let Err(error) = client.pause_sandbox(begun.row.id, limit).await {
            let goal = SandboxStatus::Paused;
            return self.change_failed(ctx, &begun.row, goal, ("the pause", limit), error).await;
        }
        let metrics = self.all_metrics(&client, begun.row.id).await;
        match self.mark_paused(&begun, &metrics).await? {
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
        metrics: &[(MetricsRange, Vec<MetricPoint>)],
    ) -> Result<Option<SandboxRow>, SandboxError> {
        let Begun { row, operation } = begun;
        let transition = Transition::new(row.id, SandboxStatus::Paused)
            .only_from(&[SandboxStatus::Pausing, SandboxStatus::Missing]);
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
