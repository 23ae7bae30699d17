//! Virtual machine monitors: one trait, a driver for each.
//!
//! What lives here: starting, restoring, pausing, saving, adopting and killing one VMM process, and the facts that decide whether a
//! snapshot may be restored on this host. What does not: where files come from (`storage`), how a slot of the network is made
//! (`hostnet`), and what a sandbox is (`host-agent`). This crate depends on `types` alone.
//!
//! A machine is a process of its own session that outlives the one that started it. So nothing here is kept only in memory: a
//! [`ProcessIdentity`] and a work folder are enough to take a machine over ([`Vmm::adopt`]), and a process that was started but
//! never recorded is found again by the mark in its environment ([`process::machines_under`]).
//!
//! ```text
//!   boot ----.                 .---- pause ---->.
//!   restore --+--> running ---+                  +--> paused --- save --> paused
//!   adopt ---'        |        `<--- resume ----'        |
//!                     `---------- kill / exit -----------'--> gone
//! ```
//!
//! Whichever driver starts it, a VMM is confined as `confine` says; Firecracker by its own jailer, to the same end.
//!
//! The `firecracker` driver needs KVM. The `qemu` driver drives `-M microvm`, with KVM or in software. Both are for x86-64 hosts.

mod binary;
pub mod compatibility;
mod confine;
pub mod error;
pub mod firecracker;
pub mod machine;
mod pages;
pub mod probe;
pub mod process;
mod processor;
pub mod qemu;
mod qmp;
mod spawn;
mod tsc;

pub use compatibility::{Accelerator, Compatibility, Mismatch};
pub use confine::{CgroupError, Cgroups, Confinement};
pub use error::{ControlError, VmmError};
pub use firecracker::{FirecrackerOptions, FirecrackerVmm};
pub use machine::{BootSource, DiskRate, Machine, MachineSpec, Saved, SnapshotFiles, Vmm};
pub use process::ProcessIdentity;
pub use qemu::QemuVmm;
