//! Changing when a sandbox ends by itself. Its host enforces that, so its host is asked first; the row follows.

use sandbar_store::sandboxes::Deadline;
use sandbar_types::{OnTimeout, TimeoutFrom, limits};

use super::validate::within;
use super::{CallSite, Sandbox, SandboxError};
use crate::{Control, OpContext, reported};

/// What is to change of a sandbox's deadline beside its length. None = as it was.
#[derive(Debug, Clone, Copy, Default)]
pub struct NewDeadline {
    /// How it ends.
    pub on_timeout: Option<OnTimeout>,
    /// From when the time counts.
    pub timeout_from: Option<TimeoutFrom>,
    /// Which way it may move.
    pub extent: Extent,
}

/// Which way a deadline may be moved.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Extent {
    /// Either.
    #[default]
    Any,
    /// Nothing changes where the sandbox would end earlier than it does.
    LongerOnly,
}

impl Control {
    /// Gives a running sandbox another time-out, which starts now.
    pub async fn sandbox_set_timeout(
        &self,
        _ctx: &OpContext,
        sandbox: &Sandbox,
        timeout_sec: u32,
        new: NewDeadline,
    ) -> Result<Sandbox, SandboxError> {
        within("timeout_sec", timeout_sec, limits::TIMEOUT_SEC)?;
        let limit = self.config().call_deadline;
        let client = self.client_of_running(sandbox, "changing its time-out")?;
        let seen = client
            .set_deadline(sandbox.id, timeout_sec, new, limit)
            .await
            .map_err(|error| self.host_failed(CallSite::of(sandbox, "the change", limit), error))?;
        let seen = reported::activity(sandbox.id, None, &seen);
        // The host's word, where it says: what the caller did not ask to change may have changed since the row was read.
        let asked = Deadline {
            timeout_sec,
            on_timeout: new.on_timeout.unwrap_or(sandbox.on_timeout),
            timeout_from: new.timeout_from.unwrap_or(sandbox.timeout_from),
        };
        let mut tx = self.store().begin().await?;
        let row = tx.sandbox_deadline(&seen, seen.deadline.unwrap_or(asked)).await?;
        tx.commit().await?;
        Ok(row.ok_or(SandboxError::Gone { id: sandbox.id })?.try_into()?)
    }

    /// Ends a sandbox now, as it would end at its deadline: destroyed or paused.
    pub async fn sandbox_expire(&self, ctx: &OpContext, sandbox: &Sandbox) -> Result<(), SandboxError> {
        match sandbox.on_timeout.keeps() {
            None => self.sandbox_destroy(ctx, sandbox).await,
            Some(mode) => self.sandbox_pause_keeping(ctx, sandbox, mode).await.map(drop),
        }
    }
}
