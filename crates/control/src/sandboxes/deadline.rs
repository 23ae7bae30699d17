//! Changing when a sandbox ends by itself. Its host enforces that, so its host is asked first; the row follows.

use sandbar_store::sandboxes::Deadline;
use sandbar_types::{OnTimeout, limits};

use super::validate::within;
use super::{CallSite, Sandbox, SandboxError};
use crate::{Control, OpContext, reported};

impl Control {
    /// Gives a running sandbox another time-out, which starts now.
    pub async fn sandbox_set_timeout(
        &self,
        _ctx: &OpContext,
        sandbox: &Sandbox,
        timeout_sec: u32,
        on_timeout: Option<OnTimeout>,
    ) -> Result<Sandbox, SandboxError> {
        within("timeout_sec", timeout_sec, limits::TIMEOUT_SEC)?;
        let limit = self.config().call_deadline;
        let client = self.client_of_running(sandbox, "changing its time-out")?;
        let seen = client
            .set_deadline(sandbox.id, timeout_sec, on_timeout, limit)
            .await
            .map_err(|error| self.host_failed(CallSite::of(sandbox, "the change", limit), error))?;
        let seen = reported::activity(sandbox.id, None, &seen);
        // The host's word, where it says: what the caller did not ask to change may have changed since the row was read.
        let asked = Deadline { timeout_sec, on_timeout: on_timeout.unwrap_or(sandbox.on_timeout) };
        let mut tx = self.store().begin().await?;
        let row = tx.sandbox_deadline(&seen, seen.deadline.unwrap_or(asked)).await?;
        tx.commit().await?;
        Ok(row.ok_or(SandboxError::Gone { id: sandbox.id })?.try_into()?)
    }
}
