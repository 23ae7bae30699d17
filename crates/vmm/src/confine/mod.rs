//! What keeps a VMM to itself.
//!
//! Control groups, a user of its own, and bounds of its files and descriptors hold for every driver. All the rest is QEMU's, which has no
//! jailer: Firecracker's own does the same for it in its way (`crate::firecracker`), with a root that is the machine's jail, namespaces
//! of mounts, processes and the network, but those of IPC and host names are the agent's.
//!
//! A guest that takes its VMM over must find nothing there. So the process is a user of its own without capabilities or ways to gain
//! any, the first of its own process namespace, in its slot's network namespace and in a root that holds the VMM's program, its
//! libraries and firmware, four device nodes, and this machine's files, all of it read-only. What it may write (its disk, its TAP)
//! it was handed as open descriptors. Its control group bounds memory, processors and processes; where the host has no controllers
//! for that, [`Cgroups::shortfall`] says so, and the rest holds all the same.
//!
//! ```text
//!   agent's thread                          child (clone3: new pid, ipc, uts namespace; v2: in its group)
//!   group, descriptors, detached mounts --> tasks (v1), setns(net), open the TAP
//!                                           setns(mount: the root), unshare(mount), move_mount the files
//!                                           setsid, limits, bounding set, no_new_privs, groups, user
//!                                           dup2, close the rest, exec
//! ```
//!
//! All of it is system calls, between clone and exec in a process of one thread: no program is started for it, and the host's mount
//! table is copied once for each agent ([`Root`]) and not once for each machine. It adds about a millisecond to a start.

mod cgroup;
mod child;
mod mounts;
mod root;

pub use cgroup::{CgroupError, Cgroups};

pub(crate) use cgroup::{Bounds, Group};
pub(crate) use child::{Child, DESCRIPTORS, Handed, LaunchError};
pub(crate) use mounts::{Access, Tree};
pub(crate) use root::{Program, Root};

/// As whom a VMM runs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Confinement {
    /// Number of a user and group that nothing else on this machine has, least of all another machine that lives. It needs no account.
    pub user: u32,
    /// Name for the machine's control group: a file name without dots. It need not be unique.
    pub group: String,
}
