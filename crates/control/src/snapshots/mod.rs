//! Snapshots: templates that a team makes of its sandboxes.
//!
//! - `create`: of a running or a paused sandbox; under a name that is free, or in the place of the snapshot that has it.
//! - `delete`: everywhere or not at all; a host that is away owes it.
//!
//! What a control plane that dies leaves half done, `reconcile` finishes.

mod create;
mod delete;

use sandbar_store::StoreError;
use sandbar_types::name::InvalidName;
use sandbar_types::{ErrorCode, QuotaExceeded, TemplateName};

pub use create::NewSnapshot;
pub(crate) use create::abandon;
pub(crate) use delete::finish_delete;

use crate::ShuttingDown;
use crate::context::NoTeam;
use crate::sandboxes::SandboxError;

/// Why an operation on a snapshot failed.
#[derive(Debug, thiserror::Error)]
pub enum SnapshotError {
    /// The caller acts for no team.
    #[error(transparent)]
    NoTeam(#[from] NoTeam),
    /// The team has as many as it may have.
    #[error(transparent)]
    Quota(#[from] QuotaExceeded),
    /// A name that cannot be one.
    #[error("name: {0}")]
    Name(#[from] InvalidName),
    /// The team has a snapshot of this name.
    #[error("there is a snapshot {name} already: choose another name, or ask with overwrite=true")]
    Exists {
        /// The name.
        name: TemplateName,
    },
    /// The platform has a template of this name.
    #[error("{name} is the name of a template of the platform: choose another")]
    Reserved {
        /// The name.
        name: TemplateName,
    },
    /// The team has no such snapshot.
    #[error("there is no snapshot {name}")]
    NotFound {
        /// What was asked for.
        name: TemplateName,
    },
    /// It is everybody's.
    #[error("{name} is the platform's: only its administrators can delete it")]
    Platform {
        /// The name.
        name: TemplateName,
    },
    /// A host has the files in use.
    #[error("snapshot {name} is in use: {message}")]
    InUse {
        /// The name.
        name: TemplateName,
        /// What the host said.
        message: String,
    },
    /// Another request made or deleted it meanwhile.
    #[error("another change of snapshot {name} came first")]
    Overtaken {
        /// The name.
        name: TemplateName,
    },
    /// The sandbox, or its host, does not allow it.
    #[error(transparent)]
    Sandbox(#[from] SandboxError),
    /// The work was cut off.
    #[error(transparent)]
    ShuttingDown(#[from] ShuttingDown),
    /// The database failed.
    #[error("the database failed")]
    Store(#[from] StoreError),
}

impl SnapshotError {
    /// The code that the API answers with.
    #[must_use]
    pub const fn code(&self) -> ErrorCode {
        match self {
            Self::NoTeam(_) => ErrorCode::NoTeam,
            Self::Quota(_) => ErrorCode::RateLimited,
            Self::Name(_) => ErrorCode::InvalidRequest,
            Self::Exists { .. } => ErrorCode::AlreadyExists,
            Self::Reserved { .. } => ErrorCode::NameReserved,
            Self::NotFound { .. } => ErrorCode::NotFound,
            Self::Platform { .. } => ErrorCode::Forbidden,
            Self::InUse { .. } | Self::Overtaken { .. } => ErrorCode::Conflict,
            Self::Sandbox(error) => error.code(),
            Self::ShuttingDown(_) => ErrorCode::HostUnavailable,
            Self::Store(error) => crate::access::store_code(error),
        }
    }
}
