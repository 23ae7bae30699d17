//! Why an operation on a sandbox failed.

use std::time::Duration;

use sandbar_store::StoreError;
use sandbar_types::id::{self, Host};
use sandbar_types::{ErrorCode, Id, QuotaExceeded, SandboxStatus, VolumeName};

use super::{InvalidSandbox, Sandbox};
use crate::access::store_code;
use crate::context::NoTeam;
use crate::host_client::{HostError as HostCallError, Reason};
use crate::secrets::SecretError;
use crate::{Control, ShuttingDown};

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
    /// The team has as much as it may have.
    #[error(transparent)]
    Quota(#[from] QuotaExceeded),
    /// The team has no such sandbox.
    #[error("there is no sandbox {id}")]
    NotFound {
        /// What was asked for.
        id: Id<id::Sandbox>,
    },
    /// The team can see no such template.
    #[error("there is no template {name:?}")]
    TemplateNotFound {
        /// What was asked for.
        name: String,
    },
    /// The team has no such secret.
    #[error("secrets: there is no secret {secret:?}")]
    SecretNotFound {
        /// What was asked for.
        secret: String,
    },
    /// The team has no such volume.
    #[error("volumes: there is no volume {volume:?}")]
    VolumeNotFound {
        /// What was asked for.
        volume: String,
    },
    /// A volume's host has not made it yet.
    #[error("volumes: {volume} is still being made")]
    VolumeNotReady {
        /// Which.
        volume: VolumeName,
    },
    /// Another sandbox has the volume.
    #[error("volumes: {volume} is in use: sandbox {sandbox} has it until that is deleted")]
    VolumeInUse {
        /// Which.
        volume: VolumeName,
        /// Who has it.
        sandbox: Id<id::Sandbox>,
        /// Whether it is there to serve the volume's files alone.
        serving: bool,
    },
    /// Two volumes are on two hosts.
    #[error("volumes: {} and {} are on different hosts: no sandbox can have both", .volumes.0, .volumes.1)]
    VolumesApart {
        /// Which.
        volumes: (VolumeName, VolumeName),
    },
    /// The one host that could take the sandbox does not.
    #[error("volumes: {volume} is on host {host}, which {reason}")]
    VolumeHost {
        /// One of its volumes.
        volume: VolumeName,
        /// The host.
        host: Id<Host>,
        /// Why not.
        reason: VolumeHostReason,
    },
    /// What a volume makes impossible.
    #[error("sandbox {id} has volumes: {what} would need copies of them")]
    HasVolumes {
        /// The sandbox.
        id: Id<id::Sandbox>,
        /// What was asked for.
        what: &'static str,
    },
    /// Its host cannot give a sandbox the volume.
    #[error("the host cannot attach a volume: {message}")]
    VolumeRefused {
        /// What it said.
        message: String,
    },
    /// A secret's value cannot be opened.
    #[error("a secret cannot be opened")]
    SecretLost(#[source] SecretError),
    /// The sandbox's state does not allow it.
    #[error("sandbox {id} is {status}: {operation} needs it to be {needed}")]
    InvalidState {
        /// The sandbox.
        id: Id<id::Sandbox>,
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
        id: Id<id::Sandbox>,
    },
    /// The sandbox's host is not heard of. Nothing is lost: the sandbox is back when its host is.
    #[error("sandbox {id} cannot be reached at present: its host is not heard of")]
    Missing {
        /// The sandbox.
        id: Id<id::Sandbox>,
    },
    /// The work was cut off.
    #[error(transparent)]
    ShuttingDown(#[from] ShuttingDown),
    /// Another operation changed the sandbox meanwhile. One that was being made was taken back.
    #[error("another request changed or ended sandbox {id} meanwhile")]
    Interrupted {
        /// The sandbox.
        id: Id<id::Sandbox>,
    },
    /// The idempotency key was used for another request.
    #[error("this Idempotency-Key was used for a different request")]
    KeyReused,
    /// The first request with this idempotency key is not done.
    #[error("the first request with this Idempotency-Key is still being carried out: ask again")]
    KeyInProgress,
    /// The sandbox's own host has no room for this.
    #[error("the sandbox's host has no room for this: {message}")]
    NoRoom {
        /// What it said.
        message: String,
    },
    /// Another change of the sandbox is under way on its host.
    #[error("another change of sandbox {id} is under way")]
    Busy {
        /// The sandbox.
        id: Id<id::Sandbox>,
    },
    /// Its files were made by another build of the VMM, or for another kind of processor.
    #[error("sandbox {id} cannot go on on its host: {message}")]
    Incompatible {
        /// The sandbox.
        id: Id<id::Sandbox>,
        /// What the host said.
        message: String,
    },
    /// What its status means to figures of it: none are kept.
    #[error("sandbox {id} is {status}: there are no figures of it")]
    NoMetrics {
        /// The sandbox.
        id: Id<id::Sandbox>,
        /// Its state.
        status: SandboxStatus,
    },
    /// No host can take it.
    #[error("no host can take the sandbox: {reason}")]
    NoHosts {
        /// What they lack.
        reason: NoHostReason,
    },
    /// A host that can take it is getting the template's files.
    #[error("the template's files are on their way to a host that can take the sandbox: ask again")]
    TemplateOnItsWay,
    /// A file or folder does not exist in the guest.
    #[error("{message}")]
    FileNotFound {
        /// What the guest said.
        message: String,
    },
    /// A file in the guest is not in the state that the write expects.
    #[error("{message}")]
    FileChanged {
        /// What the guest said.
        message: String,
    },
    /// The guest has no such process.
    #[error("{message}")]
    ProcessNotFound {
        /// What the guest said.
        message: String,
    },
    /// The guest's disk is full.
    #[error("the disk of sandbox {id} is full")]
    DiskFull {
        /// The sandbox.
        id: Id<id::Sandbox>,
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
        host: Option<Id<Host>>,
        /// Why.
        #[source]
        source: HostCallError,
    },
    /// The host agent or the guest agent failed.
    #[error("the sandbox's agent failed: {message}")]
    Agent {
        /// The host.
        host: Option<Id<Host>>,
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
    /// None that takes the team's sandboxes is online.
    #[error("no host that takes sandboxes of this team is online")]
    NoneOnline,
    /// None that is online is of the kind that the template was made on.
    #[error(
        "no host that is online has the processors and the virtual machine monitor that the template was made on"
    )]
    OtherMachine,
    /// None that is online has the template's files.
    #[error(
        "no host that is online has the template's files, or they cannot be brought to one that can take it"
    )]
    NoTemplateFiles,
    /// Those that could are full.
    #[error("every host that has the template, or could get it, is full")]
    Full,
}

/// Why the host that has a volume does not take a sandbox.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum VolumeHostReason {
    /// It is not heard of.
    #[error("cannot be reached at present")]
    Away,
    /// It takes no new sandboxes.
    #[error("drains, and takes no new sandboxes")]
    Draining,
    /// It has no room.
    #[error("is full")]
    Full,
    /// It is another kind of machine than the template's.
    #[error("has other processors or another virtual machine monitor than the template was made on")]
    OtherMachine,
    /// It lacks the template.
    #[error("has not the template's files, and cannot get them")]
    NoTemplateFiles,
}

impl From<NoHostReason> for VolumeHostReason {
    fn from(reason: NoHostReason) -> Self {
        match reason {
            NoHostReason::NoneOnline => Self::Away,
            NoHostReason::OtherMachine => Self::OtherMachine,
            NoHostReason::NoTemplateFiles => Self::NoTemplateFiles,
            NoHostReason::Full => Self::Full,
        }
    }
}

impl SandboxError {
    /// The code that the API answers with.
    #[must_use]
    pub const fn code(&self) -> ErrorCode {
        match self {
            Self::Invalid(_)
            | Self::Refused { .. }
            | Self::Upload(_)
            | Self::SecretNotFound { .. }
            | Self::VolumeNotFound { .. } => ErrorCode::InvalidRequest,
            Self::NoTeam(_) => ErrorCode::NoTeam,
            Self::NotFound { .. }
            | Self::TemplateNotFound { .. }
            | Self::FileNotFound { .. }
            | Self::ProcessNotFound { .. }
            | Self::NoMetrics { .. } => ErrorCode::NotFound,
            Self::InvalidState { .. }
            | Self::Gone { .. }
            | Self::Interrupted { .. }
            | Self::Busy { .. }
            | Self::Incompatible { .. }
            | Self::DiskFull { .. }
            | Self::HasVolumes { .. }
            | Self::VolumeNotReady { .. }
            | Self::VolumeRefused { .. } => ErrorCode::InvalidState,
            Self::FileChanged { .. } => ErrorCode::PreconditionFailed,
            Self::Quota(_) => ErrorCode::RateLimited,
            Self::KeyReused | Self::KeyInProgress | Self::VolumeInUse { .. } | Self::VolumesApart { .. } => {
                ErrorCode::Conflict
            }
            Self::VolumeHost { reason: VolumeHostReason::Away, .. } => ErrorCode::HostUnavailable,
            Self::NoHosts { .. } | Self::NoRoom { .. } | Self::TemplateOnItsWay | Self::VolumeHost { .. } => {
                ErrorCode::NoHostsAvailable
            }
            Self::Timeout { .. } => ErrorCode::Timeout,
            Self::HostUnavailable { .. } | Self::Missing { .. } | Self::ShuttingDown(_) => {
                ErrorCode::HostUnavailable
            }
            Self::Agent { .. } => ErrorCode::AgentError,
            Self::SecretLost(_) => ErrorCode::InternalError,
            Self::Store(error) => store_code(error),
        }
    }

    /// When it is worth asking again, where that is known.
    #[must_use]
    pub const fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::TemplateOnItsWay => Some(Duration::from_secs(5)),
            _ => None,
        }
    }
}

/// Which call to a host failed.
#[derive(Debug, Clone, Copy)]
pub(crate) struct CallSite {
    pub(crate) sandbox: Id<id::Sandbox>,
    pub(crate) host: Option<Id<Host>>,
    /// What was asked for, as the subject of a sentence.
    pub(crate) what: &'static str,
    pub(crate) limit: Duration,
}

impl CallSite {
    pub(crate) const fn of(sandbox: &Sandbox, what: &'static str, limit: Duration) -> Self {
        Self { sandbox: sandbox.id, host: sandbox.host_id, what, limit }
    }
}

impl Control {
    /// From a host's failure to ours: by its reason, never by its text. A host that says that a sandbox is not what its row says is
    /// asked for its inventory.
    pub(crate) fn host_failed(&self, at: CallSite, error: HostCallError) -> SandboxError {
        let CallSite { sandbox: id, host, what, limit } = at;
        let mapped = map(at, error);
        if let (SandboxError::Gone { .. }, Some(host)) = (&mapped, host) {
            tracing::info!(%id, %host, what, limit = limit.as_secs(), "a host says that a sandbox is not what its row says");
            self.wants_reconcile(host);
        }
        mapped
    }
}

fn map(at: CallSite, error: HostCallError) -> SandboxError {
    let CallSite { sandbox: id, host, what, limit } = at;
    let message = error.agent_message().to_owned();
    match error {
        HostCallError::Refused { reason, .. } => match reason {
            Reason::REASON_SANDBOX_NOT_FOUND | Reason::REASON_INVALID_STATE => SandboxError::Gone { id },
            Reason::REASON_BAD_INPUT | Reason::REASON_COMMAND_NOT_FOUND => SandboxError::Refused { message },
            Reason::REASON_PROCESS_NOT_FOUND => SandboxError::ProcessNotFound { message },
            Reason::REASON_FILE_NOT_FOUND => SandboxError::FileNotFound { message },
            Reason::REASON_FILE_CHANGED => SandboxError::FileChanged { message },
            Reason::REASON_GUEST_DISK_FULL => SandboxError::DiskFull { id },
            Reason::REASON_TIMEOUT => SandboxError::Timeout { what, limit },
            Reason::REASON_NO_CAPACITY => SandboxError::NoHosts { reason: NoHostReason::Full },
            Reason::REASON_TEMPLATE_NOT_FOUND => {
                SandboxError::NoHosts { reason: NoHostReason::NoTemplateFiles }
            }
            Reason::REASON_BUSY | Reason::REASON_TEMPLATE_IN_USE => SandboxError::Busy { id },
            Reason::REASON_OUTDATED => SandboxError::Interrupted { id },
            Reason::REASON_HAS_VOLUMES => SandboxError::HasVolumes { id, what },
            Reason::REASON_VOLUME_IN_USE | Reason::REASON_VOLUME_NOT_FOUND => {
                SandboxError::VolumeRefused { message }
            }
            Reason::REASON_INCOMPATIBLE => SandboxError::Incompatible { id, message },
            // Whose message names the file.
            Reason::REASON_SNAPSHOT_DAMAGED
            | Reason::REASON_GUEST_UNREACHABLE
            | Reason::REASON_PORT_CLOSED
            // Of imports, which are no operation of a sandbox.
            | Reason::REASON_IMAGE_NOT_FOUND
            | Reason::REASON_IMAGE_NOT_AUTHORISED
            | Reason::REASON_IMAGE_NO_PLATFORM
            | Reason::REASON_IMAGE_TOO_LARGE
            | Reason::REASON_IMAGE_BROKEN
            | Reason::REASON_IMAGE_DOES_NOT_BOOT
            | Reason::REASON_REGISTRY_FAILED
            | Reason::REASON_UNSPECIFIED => SandboxError::Agent { host, message, source: error },
        },
        HostCallError::Unreachable(_) => SandboxError::HostUnavailable { host, source: error },
        HostCallError::Deadline(_) => SandboxError::Timeout { what, limit },
        HostCallError::Failed(_) | HostCallError::Protocol(_) => {
            SandboxError::Agent { host, message, source: error }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_reason_of_a_host_has_its_code() {
        use ErrorCode::{
            AgentError, InvalidRequest, InvalidState, NoHostsAvailable, NotFound, PreconditionFailed, Timeout,
        };
        let table = [
            (Reason::REASON_UNSPECIFIED, AgentError),
            (Reason::REASON_SANDBOX_NOT_FOUND, InvalidState),
            (Reason::REASON_INVALID_STATE, InvalidState),
            (Reason::REASON_TEMPLATE_NOT_FOUND, NoHostsAvailable),
            (Reason::REASON_NO_CAPACITY, NoHostsAvailable),
            (Reason::REASON_BAD_INPUT, InvalidRequest),
            (Reason::REASON_COMMAND_NOT_FOUND, InvalidRequest),
            (Reason::REASON_FILE_NOT_FOUND, NotFound),
            (Reason::REASON_GUEST_DISK_FULL, InvalidState),
            (Reason::REASON_FILE_CHANGED, PreconditionFailed),
            (Reason::REASON_GUEST_UNREACHABLE, AgentError),
            (Reason::REASON_TIMEOUT, Timeout),
            (Reason::REASON_SNAPSHOT_DAMAGED, AgentError),
            (Reason::REASON_INCOMPATIBLE, InvalidState),
            (Reason::REASON_TEMPLATE_IN_USE, InvalidState),
            (Reason::REASON_BUSY, InvalidState),
            (Reason::REASON_OUTDATED, InvalidState),
            (Reason::REASON_PORT_CLOSED, AgentError),
            (Reason::REASON_PROCESS_NOT_FOUND, NotFound),
            (Reason::REASON_HAS_VOLUMES, InvalidState),
            (Reason::REASON_VOLUME_IN_USE, InvalidState),
            (Reason::REASON_VOLUME_NOT_FOUND, InvalidState),
        ];
        let at = CallSite { sandbox: Id::new(), host: None, what: "it", limit: Duration::from_secs(1) };
        for (reason, code) in table {
            let error = map(at, HostCallError::Refused { reason, message: "as told".to_owned() });
            assert_eq!(error.code(), code, "{reason:?}");
        }
    }

    #[test]
    fn a_host_that_does_not_answer_is_unavailable_or_late() {
        let at = CallSite { sandbox: Id::new(), host: None, what: "it", limit: Duration::from_secs(7) };
        let of = |error: connectrpc::ConnectError| map(at, error.into());
        assert_eq!(of(connectrpc::ConnectError::unavailable("x")).code(), ErrorCode::HostUnavailable);
        let late = of(connectrpc::ConnectError::deadline_exceeded("x"));
        assert_eq!(
            (late.code(), late.to_string().as_str()),
            (ErrorCode::Timeout, "it did not end within 7 s")
        );
        assert_eq!(of(connectrpc::ConnectError::internal("x")).code(), ErrorCode::AgentError);
    }
}
