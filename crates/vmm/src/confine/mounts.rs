//! Mounts that are nowhere yet, and where they go.

use std::{
    ffi::CStr,
    io,
    os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd},
    path::Path,
};

use rustix::{
    fs::CWD,
    mount::{MoveMountFlags, OpenTreeFlags, move_mount, open_tree},
};

/// What may be done with what is mounted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Access {
    /// Read it.
    Read,
    /// Read programs and libraries, and run them.
    Execute,
    /// Read and write it.
    Write,
}

/// A file or folder of the host as a mount that is attached to nothing.
#[derive(Debug)]
pub(crate) struct Tree(OwnedFd);

impl Tree {
    /// Takes what `path` is in the calling thread's mount namespace.
    pub(crate) fn take(path: &Path, access: Access) -> io::Result<Self> {
        let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
        let tree = open_tree(CWD, path, flags)?;
        let attributes = match access {
            Access::Read => libc::MOUNT_ATTR_RDONLY | libc::MOUNT_ATTR_NOEXEC,
            Access::Execute => libc::MOUNT_ATTR_RDONLY,
            Access::Write => libc::MOUNT_ATTR_NOEXEC,
        };
        restrict(tree.as_fd(), attributes | libc::MOUNT_ATTR_NOSUID | libc::MOUNT_ATTR_NODEV)?;
        Ok(Self(tree))
    }

    /// Takes what `path` is with all that is mounted in it, for reading and running only.
    ///
    /// A mount can be made read-only while nobody has a file of it open for writing, and a process that another thread is starting holds
    /// whatever was open when it was forked. Of this new mount nobody has.
    pub(crate) fn sealed(path: &Path) -> io::Result<Self> {
        let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
        let tree = open_tree(CWD, path, flags | OpenTreeFlags::AT_RECURSIVE)?;
        restrict(tree.as_fd(), libc::MOUNT_ATTR_RDONLY | libc::MOUNT_ATTR_NOSUID)?;
        Ok(Self(tree))
    }

    /// A filesystem that was made and is mounted nowhere.
    pub(crate) fn made(mount: OwnedFd) -> Self {
        Self(mount)
    }

    /// Mounts it. A system call and no more, for a child between clone and exec.
    pub(crate) fn attach(&self, at: &CStr) -> rustix::io::Result<()> {
        move_mount(&self.0, c"", CWD, at, MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH)
    }
}

/// Adds attributes to a mount.
fn restrict(mount: BorrowedFd<'_>, attributes: u64) -> io::Result<()> {
    // SAFETY: all-zero bytes are a valid `mount_attr`: numbers.
    let mut change: libc::mount_attr = unsafe { std::mem::zeroed() };
    change.attr_set = attributes;
    // SAFETY: the path is empty and ends with a zero, and the structure lives through the call, which is told its size.
    let changed = unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            mount.as_raw_fd(),
            c"".as_ptr(),
            libc::AT_EMPTY_PATH,
            &raw const change,
            size_of::<libc::mount_attr>(),
        )
    };
    if changed < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}
