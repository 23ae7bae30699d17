//! The contract that every VMM driver fulfils.

use std::num::NonZeroU64;
use std::path::{Path, PathBuf};

use async_trait::async_trait;
use sandbar_types::VmmKind;

use crate::{Compatibility, Confinement, ProcessIdentity, VmmError};

/// What a machine is made of, whether it boots or is restored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MachineSpec {
    /// Virtual CPUs. A restore needs the number that the snapshot was made with.
    pub vcpus: u32,
    /// Memory in MiB. A restore needs the size that the snapshot was made with.
    pub memory_mb: u32,
    /// The writable root disk, a raw image that belongs to this machine alone.
    pub disk: PathBuf,
    /// Folder for the control socket. It must exist, and belong to this machine alone.
    pub work_dir: PathBuf,
    /// The network namespace that the VMM runs in (`/run/netns/NAME`).
    pub netns: PathBuf,
    /// The TAP device in that namespace.
    pub tap: String,
    /// As whom the VMM runs.
    pub confinement: Confinement,
    /// How fast the guest may use its disk.
    pub disk_rate: DiskRate,
}

/// Bounds of a disk's use, reading and writing together. None of a kind: no bound.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct DiskRate {
    /// Requests a second.
    pub requests: Option<NonZeroU64>,
    /// Bytes a second.
    pub bytes: Option<NonZeroU64>,
}

/// What a machine boots from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BootSource {
    /// An uncompressed kernel (ELF `vmlinux`).
    pub kernel: PathBuf,
    /// The initial RAM file system.
    pub initramfs: PathBuf,
    /// What the guest's memory begins as, which is nothing: the driver makes this file, all holes; it must not exist. From then on it is to
    /// the machine what a [snapshot's](SnapshotFiles::memory) is to one that was restored; only such a machine may be saved into it.
    pub memory: PathBuf,
}

/// The VMM's part of a snapshot.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SnapshotFiles {
    /// The state of its processors and devices.
    pub state: PathBuf,
    /// The memory image. Mapped privately: any number of machines may run from it at once, and it must not change while they do. A
    /// machine that is to be saved later needs it under this name until then.
    pub memory: PathBuf,
}

/// What saving a machine wrote.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Saved {
    /// Bytes of the pages that the guest changed since the machine was started; of a booted one perhaps all that it has.
    pub changed_bytes: u64,
    /// How much of that is zero, where the driver looks.
    pub zeroed_bytes: u64,
}

/// A virtual machine monitor of this host.
#[async_trait]
pub trait Vmm: Send + Sync + 'static {
    /// Which one it is.
    fn kind(&self) -> VmmKind;

    /// What a snapshot made by this VMM asks of the one that restores it. Stored with the snapshot; before a restore,
    /// [`Compatibility::check`] compares it with the restoring host's.
    fn compatibility(&self) -> &Compatibility;

    /// Starts a machine from a kernel. Returns once the guest's processors run; the guest says by itself when it is ready.
    async fn boot(&self, machine: &MachineSpec, source: &BootSource) -> Result<Box<dyn Machine>, VmmError>;

    /// Starts a machine from a snapshot. Returns once the guest's processors run.
    async fn restore(
        &self,
        machine: &MachineSpec,
        snapshot: &SnapshotFiles,
    ) -> Result<Box<dyn Machine>, VmmError>;

    /// Takes over a machine that another process started: the pid's start time must match and its control socket must answer.
    /// `memory` is the file that it was booted on or restored from. The machine is left as it is, running or paused.
    async fn adopt(
        &self,
        work_dir: &Path,
        memory: &Path,
        process: ProcessIdentity,
    ) -> Result<Box<dyn Machine>, VmmError>;
}

/// One machine. Dropping the handle leaves the machine running; only [`Machine::kill`] ends it.
#[async_trait]
pub trait Machine: Send + Sync {
    /// The VMM's process.
    fn process(&self) -> ProcessIdentity;

    /// Stops the guest's processors. Does nothing if they are stopped.
    async fn pause(&self) -> Result<(), VmmError>;

    /// Lets the guest's processors run. Does nothing if they do.
    async fn resume(&self) -> Result<(), VmmError>;

    /// Saves a paused machine, which stays paused, goes on undisturbed when it is resumed, and can be saved again.
    ///
    /// The state file must not exist. The memory file must hold what the machine was started from (a clone of that image), and the
    /// pages that changed since are written into it. A machine that booted and ends with its save may be saved into the very file. Together with a clone of
    /// the disk, made before the machine goes on, they are a snapshot. Neither file is synced: that is left to who keeps them.
    async fn save(&self, into: &SnapshotFiles) -> Result<Saved, VmmError>;

    /// How many bytes of memory [`Machine::save`] would write, were it called now.
    async fn changed_memory(&self) -> Result<u64, VmmError>;

    /// The image that the machine's memory began as: what a [`Machine::save`] needs a clone of.
    fn memory_image(&self) -> &Path;

    /// Completes when the process is gone. Any number may wait, and waiting may be given up at any time.
    async fn exited(&self);

    /// The end of what the VMM and the guest's console said, for the operator's log. Both are kept up to a bound.
    fn output(&self) -> String;

    /// Ends the process without asking the guest, and returns once it is gone. Fine if it already is.
    async fn kill(&self) -> Result<(), VmmError>;
}
