//! Resuming a paused sandbox: on its host, or (`elsewhere`) on another.

use sandbar_store::audit::Outcome;
use sandbar_store::sandboxes::{RunningOn, SandboxRow, Transition};
use sandbar_types::{OnTimeout, PauseMode, SandboxStatus, TimeoutFrom, limits};

use super::change::{Begun, Change};
use super::elsewhere::Home;
use super::validate::within;
use super::{Sandbox, SandboxError};
use crate::operation::Action;
use crate::{Control, OpContext, reported};

pub(super) const RESUME: Change = Change {
    action: Action::Resume,
    through: SandboxStatus::Resuming,
    from: &[SandboxStatus::Paused],
    named: ("resuming", "paused"),
};

/// How a sandbox goes on. None = as before.
#[derive(Debug, Clone, Copy, Default)]
pub struct Resume {
    /// Seconds after which it ends; 0 = never.
    pub timeout_sec: Option<u32>,
    /// How it ends then.
    pub on_timeout: Option<OnTimeout>,
    /// From when these seconds count.
    pub timeout_from: Option<TimeoutFrom>,
    /// Whether its memory is used.
    pub awakening: Awakening,
}

/// How a paused sandbox comes back.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Awakening {
    /// It goes on where it was, if its memory was kept; else it boots.
    #[default]
    AsKept,
    /// It boots from its disk, whatever was kept.
    Reboot,
}

impl Control {
    /// Lets a paused sandbox go on, or boots it. A resume that fails leaves it paused as it was. The work goes on when the caller goes away.
    pub async fn sandbox_resume(
        &self,
        ctx: &OpContext,
        sandbox: &Sandbox,
        resume: Resume,
    ) -> Result<Sandbox, SandboxError> {
        if let Some(timeout_sec) = resume.timeout_sec {
            within("timeout_sec", timeout_sec, limits::TIMEOUT_SEC)?;
        }
        let (control, ctx, sandbox) = (self.clone(), ctx.clone(), sandbox.clone());
        self.finish(async move { control.resume_in_steps(&ctx, &sandbox, resume).await }).await
    }

    async fn resume_in_steps(
        &self,
        ctx: &OpContext,
        sandbox: &Sandbox,
        resume: Resume,
    ) -> Result<Sandbox, SandboxError> {
        // What is to boot although its memory was kept does so where it is.
        let as_kept =
            resume.awakening == Awakening::AsKept || sandbox.pause_mode == Some(PauseMode::Filesystem);
        if sandbox.host_id.is_none() && !as_kept {
            return Err(SandboxError::InvalidState {
                id: sandbox.id,
                status: sandbox.status,
                operation: "booting",
                needed: "on a host: resume it with its memory first",
            });
        }
        if sandbox.status == SandboxStatus::Paused && as_kept {
            match self.home_of(sandbox).await? {
                Home::Own => {}
                Home::Elsewhere(kept) => return self.resume_elsewhere(ctx, sandbox, resume, kept).await,
                Home::Leaving(kept) => match self.resume_elsewhere(ctx, sandbox, resume, kept).await {
                    // Nobody else takes it, and nothing was changed: it goes on where it is.
                    Err(SandboxError::NoHosts { .. })
                        if self.sandbox_get(ctx, sandbox.id).await?.host_id == sandbox.host_id => {}
                    outcome => return outcome,
                },
            }
        }
        let begun = self.begin_change(ctx, sandbox, RESUME).await?;
        let boots =
            resume.awakening == Awakening::Reboot || begun.row.pause_mode == Some(PauseMode::Filesystem);
        let limit = if boots { self.config().boot_deadline } else { self.config().resume_deadline };
        let client = self.client_of(&begun.row)?;
        match client.resume_sandbox(begun.row.id, begun.row.generation, resume, limit).await {
            Ok(running) => match self.mark_resumed(&begun, &reported::running_on(&running)).await? {
                Some(row) => Ok(row.try_into()?),
                None => self.change_overtaken(ctx, sandbox.id, SandboxStatus::Running).await,
            },
            Err(error) => {
                let goal = SandboxStatus::Running;
                self.change_failed(ctx, &begun.row, goal, ("the resume", limit), error).await
            }
        }
    }

    pub(super) async fn mark_resumed(
        &self,
        begun: &Begun,
        on: &RunningOn,
    ) -> Result<Option<SandboxRow>, SandboxError> {
        let Begun { row, operation } = begun;
        let transition = Transition::new(row.id, SandboxStatus::Running)
            .only_from(&[SandboxStatus::Resuming, SandboxStatus::Missing]);
        let mut tx = self.store().begin().await?;
        let Some(running) = tx.sandbox_run(&transition, on).await? else { return Ok(None) };
        tx.audit(&operation.sandbox_event(&running, Outcome::Success)).await?;
        tx.commit().await?;
        Ok(Some(running))
    }
}
