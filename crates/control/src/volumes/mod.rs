//! Volumes of teams: disks that outlive sandboxes and are mounted by name.
//!
//! ```text
//!   create   a row on a host that could take a sandbox: creating ──► the host makes it ──► ready     fails: deleting
//!   delete   ready, and no sandbox has it ──► deleting ──► the host removes it ──► no row
//! ```
//!
//! Each step can be cut: a row is there before its host is asked and goes after the host has done what it owes, and the reconciler
//! (`crate::reconcile`) gives up what nobody makes any more and collects what is owed. A volume stays on its host. At most one sandbox has it,
//! from the transaction that makes that one's row to the one that ends it (`crate::sandboxes`).
//!
//! - This file: what people do with them. `create` has the steps of that.
//! - `content`: their files, by E2B's contract; `server`: the sandbox that has them meanwhile; `listing`: what it says of them.
//!
//! Every member sees and mounts what volumes there are, and makes some; an admin deletes any, others what they made. The team's API keys may
//! do all of it.

mod content;
mod create;
mod listing;
mod server;

use sandbar_store::volumes::{VolumeRef, VolumeRow};
use sandbar_store::{Position, StoreError};
use sandbar_types::id::{self, Host};
use sandbar_types::name::InvalidVolumeName;
use sandbar_types::{ErrorCode, Id, QuotaExceeded, VolumeName};

use crate::access::{AccessError, store_code};
use crate::context::NoTeam;
use crate::host_client::HostError;
use crate::sandboxes::{NoHostReason, SandboxError};
use crate::{Control, OpContext, Page, PageRequest, ShuttingDown, audit};

pub use content::{Attributes, NewFolder, VolumeContents};
pub use listing::{EntryKind, VolumeEntry};
pub use sandbar_store::volumes::VolumeRow as Volume;

/// A volume to be.
#[derive(Debug, Clone)]
pub struct NewVolume {
    /// Its name.
    pub name: String,
    /// Its size; none = the usual one.
    pub size_mb: Option<u32>,
}

/// Why an operation on volumes failed.
#[derive(Debug, thiserror::Error)]
pub enum VolumeError {
    /// The caller may not.
    #[error(transparent)]
    Access(#[from] AccessError),
    /// Not a name.
    #[error("name: {0}")]
    Name(#[from] InvalidVolumeName),
    /// Not a size.
    #[error("size_mb must be between {min} and {max}")]
    Size {
        /// The least it may be.
        min: u32,
        /// The most it may be.
        max: u32,
    },
    /// Not a path in a volume, or what goes with it.
    #[error("{0}")]
    Content(&'static str),
    /// The team has as many, or as large ones, as it may have.
    #[error(transparent)]
    Quota(#[from] QuotaExceeded),
    /// The team has one of this name.
    #[error("there is a volume {name} already")]
    Exists {
        /// The name.
        name: VolumeName,
    },
    /// The team has no such volume.
    #[error("there is no volume {volume:?}")]
    NotFound {
        /// What was asked for.
        volume: String,
    },
    /// The token opens no volume, or another one.
    #[error("the token is not this volume's")]
    Token,
    /// It is not made yet.
    #[error("volume {name} is still being made")]
    NotReady {
        /// Which.
        name: VolumeName,
    },
    /// A sandbox has it.
    #[error("volume {name} is in use: sandbox {sandbox} has it until that is deleted")]
    InUse {
        /// Which.
        name: VolumeName,
        /// Who has it.
        sandbox: Id<id::Sandbox>,
    },
    /// A sandbox has it, through which its files can be had.
    #[error("sandbox {sandbox} has volume {name}: use its files")]
    FilesInUse {
        /// Which.
        name: VolumeName,
        /// Who has it.
        sandbox: Id<id::Sandbox>,
    },
    /// Nothing is at that path.
    #[error("there is no {path}")]
    PathNotFound {
        /// As it was asked for.
        path: String,
    },
    /// Something is at that path already, or not what it would have to be.
    #[error("{message}")]
    PathState {
        /// What the guest said.
        message: String,
    },
    /// No host can take it.
    #[error("no host can take the volume: {reason}")]
    NoHosts {
        /// What they lack.
        reason: NoHostReason,
    },
    /// The host's agent is of a version that knows no volumes.
    #[error("the agent of host {host} is of a version that has no volumes")]
    NotSupported {
        /// Which.
        host: Id<Host>,
    },
    /// The host did not do it. It is done later where that can be.
    #[error("host {host} failed: {}", .source.agent_message())]
    Host {
        /// Which.
        host: Id<Host>,
        /// Why.
        #[source]
        source: HostError,
    },
    /// What the guest says of the files makes no sense.
    #[error("the volume's files cannot be told: the guest's answer makes no sense")]
    Unreadable,
    /// The sandbox that serves the files failed.
    #[error(transparent)]
    Sandbox(SandboxError),
    /// The work was cut off.
    #[error(transparent)]
    ShuttingDown(#[from] ShuttingDown),
    /// The database failed.
    #[error("the database failed")]
    Store(#[from] StoreError),
}

impl VolumeError {
    /// The code that the API answers with.
    #[must_use]
    pub const fn code(&self) -> ErrorCode {
        match self {
            Self::Access(error) => error.code(),
            Self::Name(_) | Self::Size { .. } | Self::Content(_) => ErrorCode::InvalidRequest,
            Self::Quota(_) => ErrorCode::RateLimited,
            Self::Exists { .. } => ErrorCode::AlreadyExists,
            Self::NotFound { .. } | Self::PathNotFound { .. } => ErrorCode::NotFound,
            Self::Token => ErrorCode::Unauthorized,
            Self::NotReady { .. } | Self::PathState { .. } => ErrorCode::InvalidState,
            Self::InUse { .. } | Self::FilesInUse { .. } => ErrorCode::Conflict,
            Self::NoHosts { .. } | Self::NotSupported { .. } => ErrorCode::NoHostsAvailable,
            Self::Host { source: HostError::Unreachable(_), .. } | Self::ShuttingDown(_) => {
                ErrorCode::HostUnavailable
            }
            Self::Host { source: HostError::Deadline(_), .. } => ErrorCode::Timeout,
            Self::Host { .. } | Self::Unreadable => ErrorCode::AgentError,
            Self::Sandbox(error) => error.code(),
            Self::Store(error) => store_code(error),
        }
    }
}

impl From<NoTeam> for VolumeError {
    fn from(error: NoTeam) -> Self {
        Self::Access(error.into())
    }
}

/// By a name, or by an id. Text that is neither names nothing.
pub(crate) fn reference(text: &str) -> Option<VolumeRef> {
    let by_id = text.parse().ok().map(VolumeRef::Id);
    by_id.or_else(|| text.parse().ok().map(VolumeRef::Name))
}

fn not_found(volume: &str) -> VolumeError {
    VolumeError::NotFound { volume: volume.to_owned() }
}

impl Control {
    /// The volumes of the caller's team, newest first.
    pub async fn volume_list(
        &self,
        ctx: &OpContext,
        page: &PageRequest,
    ) -> Result<Page<Volume>, VolumeError> {
        let rows = self.store().volume_list(ctx.team()?, page.after(), page.fetch()).await?;
        let position = |row: &Volume| Position { created_at: row.created_at, id: row.id.uuid() };
        Ok(page.page(rows, position, |volume| volume))
    }

    /// A volume of the caller's team, by its name or id.
    pub async fn volume_get(&self, ctx: &OpContext, volume: &str) -> Result<Volume, VolumeError> {
        let wanted = reference(volume).ok_or_else(|| not_found(volume))?;
        self.store().volume(ctx.team()?, &wanted).await?.ok_or_else(|| not_found(volume))
    }

    /// Deletes a volume that no sandbox has, with all that is in it. Where its host is away the host owes it.
    pub async fn volume_delete(&self, ctx: &OpContext, volume: &str) -> Result<(), VolumeError> {
        let wanted = reference(volume).ok_or_else(|| not_found(volume))?;
        let (control, ctx, asked) = (self.clone(), ctx.clone(), volume.to_owned());
        self.finish(async move { control.delete_volume(&ctx, &wanted, &asked).await }).await
    }

    async fn delete_volume(
        &self,
        ctx: &OpContext,
        wanted: &VolumeRef,
        asked: &str,
    ) -> Result<(), VolumeError> {
        let mut row = self.begin_delete(ctx, wanted, asked).await;
        if let Err(Refusal::Served { by }) = &row {
            // Its files were looked at; nobody uses it.
            self.end_file_server(ctx, *by).await.map_err(VolumeError::Sandbox)?;
            row = self.begin_delete(ctx, wanted, asked).await;
        }
        let row: VolumeRow = row.map_err(|refusal| match refusal {
            Refusal::Served { by } => VolumeError::Sandbox(SandboxError::Busy { id: by }),
            Refusal::Other(error) => error,
        })?;
        self.volume_remove(&row).await;
        Ok(())
    }

    /// Has the host remove a volume whose row says so. Where it does not, it is asked again when it is next looked at.
    async fn volume_remove(&self, row: &VolumeRow) {
        let removed = async {
            if let Some(address) = &row.host_address {
                let client = self.host_clients().get(row.host_id, address);
                client.delete_volume(row.id, self.config().call_deadline).await?;
            }
            Ok::<_, HostError>(())
        };
        match removed.await {
            Ok(()) => {
                if let Err(error) = self.store().volume_deleted(row.id).await {
                    tracing::warn!(volume = %row.id, error = &error as &dyn std::error::Error,
                        "cannot write down that a volume is removed; the reconciler will");
                }
            }
            Err(error) => {
                tracing::warn!(volume = %row.id, host = %row.host_id, error = &error as &dyn std::error::Error,
                    "a host did not remove a volume; it owes that");
                self.wants_reconcile(row.host_id);
            }
        }
    }

    async fn begin_delete(
        &self,
        ctx: &OpContext,
        wanted: &VolumeRef,
        asked: &str,
    ) -> Result<VolumeRow, Refusal> {
        let team = ctx.team().map_err(VolumeError::from)?;
        let mut tx = self.store().begin().await.map_err(VolumeError::from)?;
        let keeper = self.keeper(&mut tx, ctx, team).await.map_err(VolumeError::from)?;
        let row = tx.volume_lock(team, wanted).await.map_err(VolumeError::from)?;
        let row = row.ok_or_else(|| not_found(asked))?;
        keeper.may_change(row.created_by).map_err(VolumeError::from)?;
        match row.sandbox_id {
            Some(by) if row.serving => return Err(Refusal::Served { by }),
            Some(sandbox) => return Err(VolumeError::InUse { name: row.name, sandbox }.into()),
            None => {}
        }
        if !tx.volume_begin_delete(row.id).await.map_err(VolumeError::from)? {
            return Err(VolumeError::NotReady { name: row.name }.into());
        }
        let event = audit::volume(ctx, team, row.id, (row.name.as_str(), row.size_mb), "delete");
        tx.audit(&event).await.map_err(VolumeError::from)?;
        tx.commit().await.map_err(VolumeError::from)?;
        Ok(row)
    }
}

/// Why a deletion did not begin.
enum Refusal {
    /// A sandbox of the platform's own serves its files.
    Served {
        /// Which.
        by: Id<id::Sandbox>,
    },
    Other(VolumeError),
}

impl From<VolumeError> for Refusal {
    fn from(error: VolumeError) -> Self {
        Self::Other(error)
    }
}
