//! What can go wrong with a VMM.

use std::{
    io,
    path::{Path, PathBuf},
    time::Duration,
};

use crate::{
    CgroupError, ProcessIdentity,
    confine::LaunchError,
    firecracker::{ApiError, Version},
    qmp::QmpError,
};

/// A failure of a VMM's control protocol.
#[derive(Debug, thiserror::Error)]
pub enum ControlError {
    /// QEMU's.
    #[error(transparent)]
    Qmp(#[from] QmpError),
    /// Firecracker's.
    #[error(transparent)]
    Api(#[from] ApiError),
}

/// A failure of a VMM driver. After a failed [`boot`](crate::Vmm::boot) or [`restore`](crate::Vmm::restore) no process is left.
#[derive(Debug, thiserror::Error)]
pub enum VmmError {
    /// A file or folder that the machine needs could not be used.
    #[error("cannot {action} {path}")]
    File {
        /// What was tried.
        action: &'static str,
        /// On what.
        path: PathBuf,
        /// The system's reason.
        source: io::Error,
    },
    /// A memory image is not of the machine's size.
    #[error("the memory image {path} has {found} bytes, the machine {needed}")]
    MemorySize {
        /// The image.
        path: PathBuf,
        /// Its size.
        found: u64,
        /// The machine's memory, in bytes.
        needed: u64,
    },
    /// A path cannot be written on the VMM's command line.
    #[error("the path {0:?} cannot be passed to the VMM")]
    UnusablePath(PathBuf),
    /// The VMM's binary does not start.
    #[error("cannot start {binary}")]
    Start {
        /// The binary.
        binary: PathBuf,
        /// The system's reason.
        source: io::Error,
    },
    /// A thread of ours died.
    #[error("starting the VMM was cut short")]
    Thread(#[source] io::Error),
    /// What confines the VMMs of this host cannot be made.
    #[error("cannot make the root that VMMs run in")]
    Root(#[source] io::Error),
    /// The process cannot be confined, or its program does not start.
    #[error("cannot start the VMM: {source}")]
    Launch {
        /// Which step failed.
        #[from]
        source: LaunchError,
    },
    /// The machine's control group cannot be made.
    #[error("cannot bound the VMM")]
    Cgroup(#[from] CgroupError),
    /// The VMM's binary says something unexpected about itself.
    #[error("{binary} does not tell its version: {answer:?}")]
    UnknownBuild {
        /// The binary.
        binary: PathBuf,
        /// The first line of what it said.
        answer: String,
    },
    /// A VMM is older than what the driver is made for.
    #[error("{binary} is version {found}; {needed} or later is needed")]
    TooOld {
        /// The binary.
        binary: PathBuf,
        /// Its version.
        found: Version,
        /// The oldest that will do.
        needed: Version,
    },
    /// A VMM and its jailer are not of one release.
    #[error("{firecracker} is version {version}, but {jailer} is {jailers}", firecracker = .firecracker.display(), jailer = .jailer.display())]
    OtherJailer {
        /// The VMM's binary.
        firecracker: PathBuf,
        /// Its version.
        version: Version,
        /// The jailer's binary.
        jailer: PathBuf,
        /// Its version.
        jailers: Version,
    },
    /// The VMM did not let go of a memory image that it wrote, so the image may change behind our back.
    #[error("{process} still holds {image} open for writing", image = .image.display())]
    ImageHeld {
        /// The machine.
        process: ProcessIdentity,
        /// The image.
        image: PathBuf,
    },
    /// The VMM process ended when it should have run on.
    #[error("the VMM ended while {step}")]
    Ended {
        /// What was under way.
        step: &'static str,
        /// The end of the VMM's log: for the operator's log, not for users.
        log: String,
    },
    /// The VMM refused a request, or its control socket failed.
    #[error("the VMM failed while {step}")]
    Control {
        /// What was under way.
        step: &'static str,
        /// The end of the VMM's log: for the operator's log, not for users.
        log: String,
        /// The refusal.
        source: ControlError,
    },
    /// The machine's processors run, so it cannot be saved.
    #[error("the machine of {process} runs and cannot be saved")]
    NotPaused {
        /// The machine.
        process: ProcessIdentity,
    },
    /// The recorded process is gone, or its pid is another process by now.
    #[error("{process} is gone")]
    Gone {
        /// The recorded process.
        process: ProcessIdentity,
    },
    /// The process does not end although it was killed (the kernel holds it in an operation that cannot be interrupted).
    #[error("{process} is still there {waited:?} after SIGKILL")]
    Unkillable {
        /// The process.
        process: ProcessIdentity,
        /// How long it was waited for.
        waited: Duration,
    },
    /// A system call on the process failed.
    #[error("cannot {action} {process}")]
    Process {
        /// What was tried.
        action: &'static str,
        /// The process.
        process: ProcessIdentity,
        /// The system's reason.
        source: io::Error,
    },
}

/// Says which file an operation failed on.
pub(crate) fn file(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> VmmError {
    let path = path.to_owned();
    move |source| VmmError::File { action, path, source }
}
