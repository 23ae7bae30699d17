//! The filesystems that both stages mount.

use std::ffi::CStr;
use std::io;

use rustix::io::Errno;
use rustix::mount::{MountFlags, mount};

use crate::files;

/// One filesystem and where it goes.
pub(crate) struct Mount {
    /// Type and source: they have one name in all of ours.
    pub(crate) kind: &'static str,
    /// Where.
    pub(crate) at: &'static str,
    /// Flags.
    pub(crate) flags: MountFlags,
    /// Options of the filesystem itself.
    pub(crate) data: Option<&'static CStr>,
}

const NO_SUID_NO_EXEC: MountFlags = MountFlags::NOSUID.union(MountFlags::NOEXEC);

/// Needed before anything else can be done. Stage 1 mounts them and takes them along to the root disk.
pub(crate) const EARLY: [Mount; 3] = [
    Mount { kind: "devtmpfs", at: "/dev", flags: MountFlags::NOSUID, data: Some(c"mode=0755") },
    Mount { kind: "proc", at: "/proc", flags: NO_SUID_NO_EXEC.union(MountFlags::NODEV), data: None },
    Mount { kind: "sysfs", at: "/sys", flags: NO_SUID_NO_EXEC.union(MountFlags::NODEV), data: None },
];

/// The rest of what programs expect.
pub(crate) const LATE: [Mount; 3] = [
    Mount {
        kind: "devpts",
        at: "/dev/pts",
        flags: NO_SUID_NO_EXEC,
        data: Some(c"gid=5,mode=620,ptmxmode=666"),
    },
    Mount {
        kind: "tmpfs",
        at: "/dev/shm",
        flags: MountFlags::NOSUID.union(MountFlags::NODEV),
        data: Some(c"mode=1777"),
    },
    Mount {
        kind: "cgroup2",
        at: "/sys/fs/cgroup",
        flags: NO_SUID_NO_EXEC.union(MountFlags::NODEV),
        data: None,
    },
];

impl Mount {
    /// Mounts it, making its folder where that is missing. One that is mounted there already is left alone.
    pub(crate) fn mount(&self) -> Result<(), MountError> {
        let failed = |source| MountError { kind: self.kind, at: self.at.to_owned(), source };
        files::make_dir(self.at, 0o755).map_err(failed)?;
        match mount(self.kind, self.at, self.kind, self.flags, self.data) {
            Ok(()) | Err(Errno::BUSY) => Ok(()),
            Err(errno) => Err(failed(errno.into())),
        }
    }
}

/// A filesystem could not be mounted.
#[derive(Debug, thiserror::Error)]
#[error("cannot mount {kind} at {at}: {source}")]
pub(crate) struct MountError {
    pub(crate) kind: &'static str,
    pub(crate) at: String,
    pub(crate) source: io::Error,
}
