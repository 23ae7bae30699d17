//! Why an operation on a sandbox failed.

use std::time::Duration;

use sandbar_store::StoreError;
use sandbar_types::id::{Host, Sandbox};
use sandbar_types::{ErrorCode, Id, SandboxStatus};

use super::InvalidSandbox;
use crate::context::NoTeam;
use crate::host_client::HostError as HostCallError;

/// Why an operation on a sandbox failed. `Display` is safe to show to the caller wherever [`SandboxError::code`] is not
/// `InternalError`.
#[derive(Debug, thiserror::Error)]
pub enum SandboxError {
    /// The request itself is wrong.
    #[error(transparent)]
    Invalid(#[from] InvalidSandbox),
    /// The guest agent refused the request.
    #[error("{message}")]
    Refused {
        /// What it said.
        message: String,
    },
    /// The caller acts for no team.
    #[error(transparent)]
    NoTeam(#[from] NoTeam),
    /// The team has no such sandbox.
    #[error("there is no sandbox {id}")]
    NotFound {
        /// What was asked for.
        id: Id<Sandbox>,
    },
    /// The team can see no such template.
    #[error("there is no template {name:?}")]
    TemplateNotFound {
        /// What was asked for.
        name: String,
    },
    /// The sandbox's state does not allow it.
    #[error("sandbox {id} is {status}: {operation} needs it to be {needed}")]
    InvalidState {
        /// The sandbox.
        id: Id<Sandbox>,
        /// Its state.
        status: SandboxStatus,
        /// What was asked.
        operation: &'static str,
        /// What it would have to be.
        needed: &'static str,
    },
    /// The sandbox's virtual machine is gone or not in the state that the control plane believed it in.
    #[error("sandbox {id} no longer runs on its host")]
    Gone {
        /// The sandbox.
        id: Id<Sandbox>,
    },
    /// Another operation changed the sandbox while it was being made; it was taken back.
    #[error("sandbox {id} was stopped while it was being made")]
    Interrupted {
        /// The sandbox.
        id: Id<Sandbox>,
    },
    /// The idempotency key was used for another request.
    #[error("this Idempotency-Key was used for a different request")]
    KeyReused,
    /// The first request with this idempotency key is not done.
    #[error("the first request with this Idempotency-Key is still being carried out: ask again")]
    KeyInProgress,
    /// No host can take it.
    #[error("no host can take the sandbox: {reason}")]
    NoHosts {
        /// What they lack.
        reason: NoHostReason,
    },
    /// A file or folder does not exist in the guest.
    #[error("{message}")]
    FileNotFound {
        /// What the guest said.
        message: String,
    },
    /// The guest's disk is full.
    #[error("the disk of sandbox {id} is full")]
    DiskFull {
        /// The sandbox.
        id: Id<Sandbox>,
    },
    /// The work did not end in time.
    #[error("{what} did not end within {} s", .limit.as_secs())]
    Timeout {
        /// What took too long.
        what: &'static str,
        /// How long it may take.
        limit: Duration,
    },
    /// The body that the caller sends broke off.
    #[error("the upload broke off")]
    Upload(#[source] std::io::Error),
    /// The sandbox's host cannot be reached.
    #[error("the sandbox's host cannot be reached")]
    HostUnavailable {
        /// The host.
        host: Id<Host>,
        /// Why.
        #[source]
        source: HostCallError,
    },
    /// The host agent or the guest agent failed.
    #[error("the sandbox's agent failed: {message}")]
    Agent {
        /// The host.
        host: Id<Host>,
        /// What it said.
        message: String,
        /// The whole of it.
        #[source]
        source: HostCallError,
    },
    /// The database failed.
    #[error("the database failed")]
    Store(#[from] StoreError),
}

/// Why no host can take a sandbox.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum NoHostReason {
    /// None is online.
    #[error("no host is online")]
    NoneOnline,
    /// None that is online has the template's files.
    #[error("no host that is online has the template's files")]
    NoTemplateFiles,
    /// Those that have them are full.
    #[error("every host that has the template is full")]
    Full,
}

impl SandboxError {
    /// The code that the API answers with.
    #[must_use]
    pub const fn code(&self) -> ErrorCode {
        match self {
            Self::Invalid(_) | Self::Refused { .. } | Self::Upload(_) => ErrorCode::InvalidRequest,
            Self::NoTeam(_) => ErrorCode::NoTeam,
            Self::NotFound { .. } | Self::TemplateNotFound { .. } | Self::FileNotFound { .. } => {
                ErrorCode::NotFound
            }
            Self::InvalidState { .. }
            | Self::Gone { .. }
            | Self::Interrupted { .. }
            | Self::DiskFull { .. } => ErrorCode::InvalidState,
            Self::KeyReused | Self::KeyInProgress => ErrorCode::Conflict,
            Self::NoHosts { .. } => ErrorCode::NoHostsAvailable,
            Self::Timeout { .. } => ErrorCode::Timeout,
            Self::HostUnavailable { .. } => ErrorCode::HostUnavailable,
            Self::Agent { .. } => ErrorCode::AgentError,
            Self::Store(_) => ErrorCode::InternalError,
        }
    }
}
