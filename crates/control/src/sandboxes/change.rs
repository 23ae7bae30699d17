//! What changes of a sandbox have in common that take time and may fail half way: pause, resume, snapshot, fork.
//!
//! ```text
//!   1 begin    row: at rest -> pausing | resuming | snapshotting, with who began it     one winner; the others are told the state
//!   2 call     the host does it; idempotent, with a deadline of its own
//!   3 finish   row: -> at rest, with the audit event, in one transaction
//! ```
//!
//! When the host's answer does not come, or is no, nobody here knows what the host did. Nothing is assumed: its inventory is asked for,
//! and the row follows it (`reconcile`), at once if the host answers, else when it does. So a request that was carried out although
//! its reply was lost is a success, and no row stays between two states.

use sandbar_store::hosts::{Purpose, Room};
use sandbar_store::sandboxes::{SandboxRow, Transition};
use sandbar_store::{StoreError, Tx};
use sandbar_types::{Id, PerResource, SandboxStatus, id};

use super::{CallSite, Sandbox, SandboxError};
use crate::host_client::{HostError, Reason};
use crate::operation::{Action, Operation};
use crate::{Control, OpContext};

/// A change that was begun.
#[derive(Debug)]
pub(crate) struct Begun {
    /// The row, in the state that says so.
    pub(crate) row: SandboxRow,
    /// By whom.
    pub(crate) operation: Operation,
}

/// A change to begin.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Change {
    pub(crate) action: Action,
    /// The state in which the sandbox is while it lasts.
    pub(crate) through: SandboxStatus,
    /// The states that it may begin in.
    pub(crate) from: &'static [SandboxStatus],
    /// What it is called in a refusal, and what it needs.
    pub(crate) named: (&'static str, &'static str),
}

impl Change {
    /// The one state that it may begin in, for a caller who was shown this one: where the sandbox is to come back to must be known.
    /// Empty when it may not begin.
    pub(crate) fn starting_from(self, shown: SandboxStatus) -> &'static [SandboxStatus] {
        match self.from.iter().position(|from| *from == shown) {
            Some(place) => self.from.get(place..=place).unwrap_or_default(),
            None => &[],
        }
    }
}

impl Control {
    /// Step 1. Changes that make a sandbox run again check that its team may have it and that its host has room, in the same
    /// transaction.
    pub(crate) async fn begin_change(
        &self,
        ctx: &OpContext,
        sandbox: &Sandbox,
        change: Change,
    ) -> Result<Begun, SandboxError> {
        let Change { action, through, .. } = change;
        let operation = Operation::begun(ctx, action);
        let kept = operation.to_value();
        let from = change.starting_from(sandbox.status);
        let transition = Transition::new(sandbox.id, through).only_from(from).begun_by(&kept);
        let mut tx = self.store().begin().await?;
        let (mut headroom, mut room) = (None, Room::Enough);
        // The team's row before the host's before the sandbox's, as everywhere.
        if let (SandboxStatus::Resuming, Some(host)) = (through, sandbox.host_id)
            && !from.is_empty()
        {
            headroom = Some(self.headroom(&mut tx, sandbox.team_id).await?);
            let (demand, limits) = (sandbox.demand(), self.config().limits());
            room = tx.host_room(host, demand, limits, Purpose::Resume).await?;
        }
        let Some(row) = tx.sandbox_transition(&transition).await? else {
            drop(tx);
            return Err(self.change_refused(ctx, sandbox.id, change).await);
        };
        // Only now: of two that resume the same sandbox, the later would be told that the earlier's share is missing.
        match room {
            Room::Enough => {}
            Room::Full => {
                let message = "its memory is promised to other sandboxes".to_owned();
                return Err(SandboxError::NoRoom { message });
            }
            Room::Gone | Room::Draining => return Err(SandboxError::Missing { id: sandbox.id }),
        }
        if let Some(headroom) = &mut headroom {
            headroom.take(&PerResource::of_sandbox(row.vcpus, row.memory_mb))?;
        }
        tx.commit().await?;
        Ok(Begun { row, operation })
    }

    /// Why a change could not begin, by the state that the sandbox is in now.
    pub(crate) async fn change_refused(
        &self,
        ctx: &OpContext,
        id: Id<id::Sandbox>,
        change: Change,
    ) -> SandboxError {
        let (operation, needed) = change.named;
        match self.sandbox_get(ctx, id).await {
            Ok(Sandbox { status: SandboxStatus::Missing, .. }) => SandboxError::Missing { id },
            Ok(Sandbox { status, .. }) => SandboxError::InvalidState { id, status, operation, needed },
            Err(error) => error,
        }
    }

    /// Step 3, where the host's answer did not come or is no: the row follows the host's inventory. A success if that brought the sandbox
    /// where it was to go.
    pub(super) async fn change_failed(
        &self,
        ctx: &OpContext,
        row: &SandboxRow,
        goal: SandboxStatus,
        (what, limit): (&'static str, std::time::Duration),
        error: HostError,
    ) -> Result<Sandbox, SandboxError> {
        self.follow_host(row).await;
        let now = self.sandbox_get(ctx, row.id).await?;
        if now.status == goal {
            tracing::info!(id = %row.id, error = &error as &dyn std::error::Error, "{what} was done although its answer was lost");
            return Ok(now);
        }
        Err(self.change_error(CallSite { sandbox: row.id, host: row.host_id, what, limit }, error))
    }

    /// As [`Self::host_failed`], for changes that only the sandbox's own host can make: no other has room for it.
    pub(crate) fn change_error(&self, at: CallSite, error: HostError) -> SandboxError {
        if error.reason() == Some(Reason::REASON_NO_CAPACITY) {
            return SandboxError::NoRoom { message: error.agent_message().to_owned() };
        }
        self.host_failed(at, error)
    }

    /// Step 3, where somebody else changed the row before us: that stands.
    pub(super) async fn change_overtaken(
        &self,
        ctx: &OpContext,
        id: Id<id::Sandbox>,
        goal: SandboxStatus,
    ) -> Result<Sandbox, SandboxError> {
        let now = self.sandbox_get(ctx, id).await?;
        if now.status == goal { Ok(now) } else { Err(SandboxError::Interrupted { id }) }
    }
}

/// Step 3 of a snapshot or a fork: the sandbox is again what it was before, unless somebody changed it meanwhile. No event: what was
/// made of it has one of its own.
pub(crate) async fn return_to(
    tx: &mut Tx,
    row: &SandboxRow,
    was: SandboxStatus,
) -> Result<Option<SandboxRow>, StoreError> {
    let transition =
        Transition::new(row.id, was).only_from(&[SandboxStatus::Snapshotting]).at_generation(row.generation);
    let transition = transition.keeping_the_reason();
    tx.sandbox_transition(&transition).await
}
