//! Why the host agent refuses or fails a call: one type, mapped once to the RPC's code and reason.

use std::io;

use connectrpc::{ConnectError, ErrorCode, ErrorDetail};
use sandbar_oci::ImageError;
use sandbar_proto::host::{self, error_detail::Reason};
use sandbar_storage::{ImportError, StoreError};
use sandbar_types::id::{Id, Sandbox, Template, Volume};

use crate::sandbox::State;

/// A refusal or failure of one of the host agent's operations.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The journal has no such sandbox.
    #[error("this host has no sandbox {0}")]
    SandboxNotFound(Id<Sandbox>),
    /// The sandbox's state does not allow the operation.
    #[error("sandbox {id} is {state}: {refusal}")]
    InvalidState {
        /// The sandbox.
        id: Id<Sandbox>,
        /// Its state when it was asked.
        state: State,
        /// What is not possible, as a sentence's second half.
        refusal: &'static str,
    },
    /// The store has no complete template of this id.
    #[error("this host does not have template {0}")]
    TemplateNotFound(Id<Template>),
    /// The template's files are damaged, or were made by another VMM or for another CPU.
    #[error("template {id} cannot be used on this host: {reason}")]
    TemplateUnusable {
        /// The template.
        id: Id<Template>,
        /// What is wrong with it.
        reason: String,
    },
    /// A file of a template or of a paused sandbox is not what its manifest says.
    #[error("{0}")]
    SnapshotDamaged(String),
    /// Another build of the virtual machine monitor made the files, or another kind of processor ran them.
    #[error("this host cannot go on with it: {0}")]
    Incompatible(String),
    /// Something else is under way.
    #[error("{0}")]
    Busy(String),
    /// It was asked for before something that is done, or undone, since.
    #[error("sandbox {0} was resumed since, or is not to be resumed by this any more")]
    Outdated(Id<Sandbox>),
    /// The template is there already.
    #[error("this host has template {0} already")]
    TemplateExists(Id<Template>),
    /// The store has no such image.
    #[error("this host has no image {0:?}")]
    ImageNotFound(String),
    /// An image of somebody else's cannot be had.
    #[error(transparent)]
    Image(ImageError),
    /// A template's disk is there, and the guest on it does not come up.
    #[error("the image does not start as a machine: {0}")]
    DoesNotBoot(String),
    /// Memory, disk or network slots are used up.
    #[error("this host has no room: {0}")]
    NoCapacity(String),
    /// The request itself is wrong.
    #[error("{0}")]
    BadInput(String),
    /// The guest has no such command.
    #[error("{0}")]
    CommandNotFound(String),
    /// The guest has no such process.
    #[error("{0}")]
    ProcessNotFound(String),
    /// The guest has no such file.
    #[error("{0}")]
    FileNotFound(String),
    /// The guest's file is not in the state that the write expects.
    #[error("{0}")]
    FileChanged(String),
    /// The guest's disk is full.
    #[error("{0}")]
    GuestDiskFull(String),
    /// The guest agent gave no usable answer.
    #[error("the guest agent does not answer: {0}")]
    GuestUnreachable(String),
    /// The guest agent failed while it took its identity.
    #[error("the guest refused its identity: {0}")]
    GuestInit(String),
    /// The host has no such volume.
    #[error("this host has no volume {0}")]
    VolumeNotFound(Id<Volume>),
    /// A sandbox has the volume, running or paused.
    #[error("sandbox {holder} has volume {volume}")]
    VolumeInUse {
        /// The volume.
        volume: Id<Volume>,
        /// Who has it.
        holder: Id<Sandbox>,
    },
    /// No copy of a sandbox could have its volumes.
    #[error("sandbox {0} has volumes, and cannot be copied")]
    HasVolumes(Id<Sandbox>),
    /// Nothing in the guest listens on the port.
    #[error("nothing listens on port {0}")]
    PortClosed(u16),
    /// A deadline passed.
    #[error("{0}")]
    Timeout(String),
    /// A step of the host's own work failed.
    #[error("{step} failed")]
    Internal {
        /// What was being done.
        step: &'static str,
        /// Why it failed.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
}

impl Error {
    /// Wraps the failure of one of the host's own steps: `.map_err(Error::internal("take a network slot"))`. One whose cause is a full
    /// disk is no fault of the step's.
    pub fn internal<E>(step: &'static str) -> impl FnOnce(E) -> Self
    where
        E: Into<Box<dyn std::error::Error + Send + Sync>>,
    {
        move |source| {
            let source = source.into();
            if is_full_disk(&*source) {
                tracing::error!(step, error = chain(&*source), "the disk is full");
                return Self::NoCapacity(format!("its disk is full (while it tried to {step})"));
            }
            Self::Internal { step, source }
        }
    }

    /// What programs are told of it.
    pub(crate) fn reason(&self) -> Reason {
        self.classify().1
    }

    fn classify(&self) -> (ErrorCode, Reason) {
        match self {
            Self::SandboxNotFound(_) => (ErrorCode::NotFound, Reason::REASON_SANDBOX_NOT_FOUND),
            Self::InvalidState { .. } => (ErrorCode::FailedPrecondition, Reason::REASON_INVALID_STATE),
            Self::TemplateNotFound(_) | Self::TemplateUnusable { .. } | Self::ImageNotFound(_) => {
                (ErrorCode::NotFound, Reason::REASON_TEMPLATE_NOT_FOUND)
            }
            Self::SnapshotDamaged(_) => (ErrorCode::DataLoss, Reason::REASON_SNAPSHOT_DAMAGED),
            Self::Incompatible(_) => (ErrorCode::FailedPrecondition, Reason::REASON_INCOMPATIBLE),
            Self::Image(error) => match error {
                ImageError::Unknown { .. } => (ErrorCode::NotFound, Reason::REASON_IMAGE_NOT_FOUND),
                ImageError::NotAuthorised { .. } => {
                    (ErrorCode::PermissionDenied, Reason::REASON_IMAGE_NOT_AUTHORISED)
                }
                ImageError::NoPlatform { .. } => {
                    (ErrorCode::FailedPrecondition, Reason::REASON_IMAGE_NO_PLATFORM)
                }
                ImageError::TooLarge(_) => (ErrorCode::InvalidArgument, Reason::REASON_IMAGE_TOO_LARGE),
                ImageError::Broken(_) => (ErrorCode::InvalidArgument, Reason::REASON_IMAGE_BROKEN),
                ImageError::Registry { .. } | ImageError::Private { .. } => {
                    (ErrorCode::FailedPrecondition, Reason::REASON_REGISTRY_FAILED)
                }
                ImageError::Stopped(_) => (ErrorCode::Canceled, Reason::REASON_UNSPECIFIED),
                ImageError::Io { .. } => (ErrorCode::Internal, Reason::REASON_UNSPECIFIED),
            },
            Self::DoesNotBoot(_) => (ErrorCode::FailedPrecondition, Reason::REASON_IMAGE_DOES_NOT_BOOT),
            Self::Busy(_) => (ErrorCode::Aborted, Reason::REASON_BUSY),
            Self::Outdated(_) => (ErrorCode::FailedPrecondition, Reason::REASON_OUTDATED),
            Self::TemplateExists(_) => (ErrorCode::AlreadyExists, Reason::REASON_UNSPECIFIED),
            Self::NoCapacity(_) => (ErrorCode::ResourceExhausted, Reason::REASON_NO_CAPACITY),
            Self::BadInput(_) => (ErrorCode::InvalidArgument, Reason::REASON_BAD_INPUT),
            Self::CommandNotFound(_) => (ErrorCode::NotFound, Reason::REASON_COMMAND_NOT_FOUND),
            Self::ProcessNotFound(_) => (ErrorCode::NotFound, Reason::REASON_PROCESS_NOT_FOUND),
            Self::FileNotFound(_) => (ErrorCode::NotFound, Reason::REASON_FILE_NOT_FOUND),
            Self::FileChanged(_) => (ErrorCode::FailedPrecondition, Reason::REASON_FILE_CHANGED),
            Self::VolumeNotFound(_) => (ErrorCode::NotFound, Reason::REASON_VOLUME_NOT_FOUND),
            Self::VolumeInUse { .. } => (ErrorCode::FailedPrecondition, Reason::REASON_VOLUME_IN_USE),
            Self::HasVolumes(_) => (ErrorCode::FailedPrecondition, Reason::REASON_HAS_VOLUMES),
            Self::GuestDiskFull(_) => (ErrorCode::ResourceExhausted, Reason::REASON_GUEST_DISK_FULL),
            Self::GuestUnreachable(_) => (ErrorCode::Unavailable, Reason::REASON_GUEST_UNREACHABLE),
            Self::PortClosed(_) => (ErrorCode::Unavailable, Reason::REASON_PORT_CLOSED),
            Self::Timeout(_) => (ErrorCode::DeadlineExceeded, Reason::REASON_TIMEOUT),
            Self::GuestInit(_) | Self::Internal { .. } => (ErrorCode::Internal, Reason::REASON_UNSPECIFIED),
        }
    }
}

/// An error and all that caused it, for the log.
pub(crate) fn chain(error: &(dyn std::error::Error + 'static)) -> String {
    let causes = std::iter::successors(Some(error), |error| error.source());
    causes.map(ToString::to_string).collect::<Vec<_>>().join(": ")
}

/// Whether anywhere in the chain of causes the system says that there is no room.
fn is_full_disk(error: &(dyn std::error::Error + 'static)) -> bool {
    std::iter::successors(Some(error), |error| error.source())
        .filter_map(|error| error.downcast_ref::<io::Error>())
        .any(|error| matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded))
}

/// The name under which the detail travels.
const DETAIL_TYPE: &str = "sandbar.host.v1.ErrorDetail";

impl From<StoreError> for Error {
    fn from(error: StoreError) -> Self {
        match error {
            // Not where: the caller has no business with the host's folders.
            StoreError::NoSpace { available, needed, .. } => Self::NoCapacity(format!(
                "{} MiB of its disk are free, and {} MiB would be needed",
                available >> 20,
                needed >> 20
            )),
            StoreError::UnknownTemplate { id } => Self::TemplateNotFound(id),
            StoreError::TemplateExists { id } => Self::TemplateExists(id),
            StoreError::UnknownVolume { id } => Self::VolumeNotFound(id),
            StoreError::DamagedTemplate { .. }
            | StoreError::DamagedPause { .. }
            | StoreError::UnknownPause { .. } => Self::SnapshotDamaged(error.to_string()),
            other => Self::internal("use the store")(other),
        }
    }
}

impl From<ImageError> for Error {
    fn from(error: ImageError) -> Self {
        match error {
            // Ended from here: by what was wanted to be told.
            ImageError::Stopped(reason) => match reason.downcast() {
                Ok(own) => *own,
                Err(other) => Self::Image(ImageError::Stopped(other)),
            },
            ImageError::Io { action, source } => Self::internal(action)(source),
            other => Self::Image(other),
        }
    }
}

impl From<ImportError> for Error {
    fn from(error: ImportError) -> Self {
        match error {
            ImportError::Image(error) => error.into(),
            ImportError::Store(error) => error.into(),
            ImportError::Filesystem(error) => Self::internal("make the image's filesystem")(error),
        }
    }
}

impl From<Error> for ConnectError {
    /// The one place where a failure becomes an RPC's answer. Faults of the host are logged here, with their causes; the
    /// caller is told only which step failed.
    fn from(error: Error) -> Self {
        let (code, reason) = error.classify();
        if code == ErrorCode::Internal {
            tracing::error!(error = chain(&error), "call failed");
        }
        let detail = host::ErrorDetail { reason: reason.into(), ..Default::default() };
        Self::new(code, error.to_string()).with_detail(ErrorDetail::from_message(DETAIL_TYPE, &detail))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_disk_is_want_of_room_however_deep_it_lies() {
        let full = || io::Error::from(io::ErrorKind::StorageFull);
        let deep = sandbar_vmm::VmmError::File { action: "write", path: "/x".into(), source: full() };
        assert!(matches!(Error::internal("save the machine")(deep), Error::NoCapacity(_)));
        assert!(matches!(Error::internal("write")(full()), Error::NoCapacity(_)));
        let other = Error::internal("write")(io::Error::from(io::ErrorKind::NotFound));
        assert!(matches!(other, Error::Internal { step: "write", .. }));
    }
}
