//! Emptying a host: it takes no new sandboxes, and those that it has end by themselves, or are paused.
//!
//! Paused sandboxes that object storage has leave the host (`crate::transfer`), now or when they are copied: they go on on another. The others
//! stay, and can be resumed there while the host drains; [`Stay`] says of each why.

use sandbar_store::audit::Outcome;
use sandbar_store::hosts::Tenant;
use sandbar_trace::FutureExt as _;
use sandbar_types::{Id, SandboxStatus, id};
use serde::Serialize;

use super::{Host, HostError, HostKind};
use crate::{Control, OpContext, audit};

/// Whether a host takes new sandboxes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Draining {
    /// It does not.
    On(Running),
    /// It does.
    Off,
}

/// What becomes of the sandboxes that run on a host that drains.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Running {
    /// They go on to their end.
    #[default]
    GoOn,
    /// They are paused.
    Pause,
}

/// Why a sandbox is still on a host that drains. What is in object storage is not: it leaves at the next look.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Stay {
    /// It runs: it goes on to its end, or until it is paused.
    Running,
    /// It is being made, paused, resumed, copied or ended.
    Changing,
    /// Its host does not say what became of it.
    Missing,
    /// It is paused, and object storage has not all of it yet.
    NotCopied,
    /// It is paused, and there is no object storage to leave for.
    NoObjectStorage,
    /// It is paused on a host that a team brought: what is there stays there.
    TeamHost,
    /// It is paused and has volumes, which are on this host.
    HasVolumes,
}

impl Stay {
    /// All of them.
    pub const ALL: [Self; 7] = [
        Self::Running,
        Self::Changing,
        Self::Missing,
        Self::NotCopied,
        Self::NoObjectStorage,
        Self::TeamHost,
        Self::HasVolumes,
    ];

    /// The word in the API.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Running => "running",
            Self::Changing => "changing",
            Self::Missing => "missing",
            Self::NotCopied => "not_copied",
            Self::NoObjectStorage => "no_object_storage",
            Self::TeamHost => "team_host",
            Self::HasVolumes => "has_volumes",
        }
    }

    /// Why one stays that is not durable.
    pub(super) const fn of(sandbox: &Tenant, host: HostKind, has_bucket: bool) -> Self {
        match (sandbox.status, host) {
            (SandboxStatus::Running, _) => Self::Running,
            (SandboxStatus::Missing, _) => Self::Missing,
            (SandboxStatus::Paused, _) if sandbox.has_volumes => Self::HasVolumes,
            (SandboxStatus::Paused, HostKind::Byoc) => Self::TeamHost,
            (SandboxStatus::Paused, HostKind::Regular) if has_bucket => Self::NotCopied,
            (SandboxStatus::Paused, HostKind::Regular) => Self::NoObjectStorage,
            _ => Self::Changing,
        }
    }
}

impl Control {
    /// Lets a host take new sandboxes, or no more. What is so already stays so. The answer does not wait for sandboxes to be paused:
    /// their states tell.
    pub async fn host_drain(
        &self,
        ctx: &OpContext,
        id: Id<id::Host>,
        draining: Draining,
    ) -> Result<Host, HostError> {
        let is_on = matches!(draining, Draining::On(_));
        let mut tx = self.store().begin().await?;
        self.host_access(&mut tx, ctx, id).await?;
        let row = tx.host_set_draining(id, is_on).await?;
        let action = if is_on { "drain" } else { "drain_end" };
        tx.audit(&audit::host(ctx, (id, row.team_id), action, Outcome::Success)).await?;
        tx.commit().await?;
        if is_on {
            self.copies_wanted().notify_one();
        }
        if let (Draining::On(Running::Pause), Some(address)) = (draining, &row.address) {
            let client = self.host_clients().get(id, address);
            // A host that cannot be asked is told apart from one that is slow at it.
            client.health(self.config().call_deadline).await.map_err(HostError::Pause)?;
            let control = self.clone();
            // No shutdown waits for it: the host goes on by itself, and its inventory tells what came of it.
            let pause = async move {
                if let Err(error) = client.pause_all(control.config().verify_deadline).await {
                    tracing::warn!(host = %id, error = &error as &dyn std::error::Error,
                        "a host that drains did not say that its sandboxes are paused");
                }
                control.wants_reconcile(id);
            };
            tokio::spawn(pause.with_current_context());
        }
        Ok(row.try_into()?)
    }
}
