//! Ending a sandbox, and asking after it.
//!
//! The decision is the row's change to `stopping`: it has one winner, and from then on the sandbox ends, whoever finishes it. The
//! audit trail is told there. When the host cannot be asked now, the caller is told so and the row stays `stopping`, which the
//! reconciler finishes. Of the sandbox's figures the last day's are kept.

use sandbar_store::audit::Outcome;
use sandbar_store::sandboxes::{SandboxRow, Transition};
use sandbar_types::SandboxStatus;

use super::error::CallSite;
use super::{Sandbox, SandboxError, keep_last};
use crate::host_client::HostClient;
use crate::{Control, OpContext, audit, reported};

impl Control {
    /// Ends a sandbox. Exactly one of several callers wins; the others are told its state. The work goes on when the caller goes
    /// away.
    pub async fn sandbox_destroy(&self, ctx: &OpContext, sandbox: &Sandbox) -> Result<(), SandboxError> {
        let (control, ctx, sandbox) = (self.clone(), ctx.clone(), sandbox.clone());
        self.finish(async move { control.destroy_in_steps(&ctx, &sandbox).await }).await
    }

    async fn destroy_in_steps(&self, ctx: &OpContext, sandbox: &Sandbox) -> Result<(), SandboxError> {
        let id = sandbox.id;
        let mut tx = self.store().begin().await?;
        let Some(row) = tx.sandbox_transition(&Transition::new(id, SandboxStatus::Stopping)).await? else {
            drop(tx);
            let status = self.sandbox_get(ctx, id).await?.status;
            return Err(SandboxError::InvalidState { id, status, operation: "deleting", needed: "alive" });
        };
        tx.audit(&audit::sandbox(ctx, &row, "destroy", Outcome::Success)).await?;
        tx.commit().await?;

        let mut last = None;
        if row.host_id.is_some() {
            let client = self.client_of(&row)?;
            if matches!(sandbox.status, SandboxStatus::Running | SandboxStatus::Snapshotting) {
                last = self.last_metrics(&client, id).await;
            }
            self.destroy_on_host(&client, &row).await?;
        }
        let mut tx = self.store().begin().await?;
        keep_last(&mut tx, id, last.as_deref()).await?;
        // None: the reconciler was faster. Either way it is over.
        tx.sandbox_transition(&Transition::new(id, SandboxStatus::Stopped)).await?;
        tx.commit().await?;
        Ok(())
    }

    async fn destroy_on_host(&self, client: &HostClient, row: &SandboxRow) -> Result<(), SandboxError> {
        let limit = self.config().destroy_deadline;
        client.destroy_sandbox(row.id, limit).await.map_err(|error| {
            let at = CallSite { sandbox: row.id, host: row.host_id, what: "ending the sandbox", limit };
            self.host_failed(at, error)
        })
    }

    /// Counts as activity, and tells whether the guest answers.
    pub async fn sandbox_ping(&self, _ctx: &OpContext, sandbox: &Sandbox) -> Result<(), SandboxError> {
        let limit = self.config().call_deadline;
        let client = self.client_of_running(sandbox, "a ping")?;
        let seen = client
            .ping_sandbox(sandbox.id, limit)
            .await
            .map_err(|error| self.host_failed(CallSite::of(sandbox, "the ping", limit), error))?;
        let activity = reported::activity(sandbox.id, None, &seen);
        Ok(self.store().sandbox_activity(&[activity]).await?)
    }
}
