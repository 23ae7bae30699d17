//! A host's disks: the reflink store with its images, templates and sandboxes, the guest kernel, the base root filesystem.
//!
//! What lives here: everything that Sandbar keeps as files for its virtual machines, and how those files come to be.
//! What does not: virtual machines, networks, the journal, RPCs. Depends on `types`, and on `oci` for images that others made.
//!
//! Every function blocks (system calls, and for the kernel and the base image other programs): asynchronous callers use
//! `spawn_blocking`. The one on the hot path, [`Store::create_sandbox`], is a `mkdir`, a FICLONE and a link.
//!
//! ```text
//! <dir>                              its own filesystem has reflink, or <dir>.xfs is loop-mounted here
//!   store.json                       the layout's version
//!   kernel/<hash>/                   vmlinux, initramfs, modules.cpio, manifest.json
//!   images/<name>/                   rootfs.ext4, manifest.json
//!   layers/                          layers of OCI images, as registries gave them: a cache, which `oci` keeps
//!   templates/tpl-<uuid>/            disk.ext4 [, state, memory], manifest.json
//!   sandboxes/sb-<uuid>/             disk.ext4 and memory (a link to the image that it was restored from) of one that runs,
//!                                    paused/ of one that is paused, and whatever the host agent and the VMM keep there
//!   volumes/vol-<uuid>/              disk.ext4, manifest.json: filesystems that outlive sandboxes
//!   tmp/<session>/                   what one open `Store` is building or deleting, and what machines without a sandbox run on;
//!                                    locked while it lives
//! ```
//!
//! A thing appears under its name complete or not at all: it is built in the session's folder, fsynced, renamed. It
//! disappears by a rename into that folder. A session whose process died is swept by the next [`Store::open`], stray mounts included.

mod backing;
pub mod base_image;
mod checksum;
mod clone;
mod debian;
mod extents;
mod files;
mod filesystem;
mod flatten;
mod image;
mod imported;
pub mod kernel;
mod machine_image;
mod mounts;
mod paused;
mod sandbox;
mod session;
mod settle;
mod spare;
mod store;
mod template;
mod tool;
mod transfer;
mod volume;

pub use backing::{Backing, StoreKind};
pub use base_image::{BaseImageError, BaseImageOptions, build_base_image};
pub use checksum::Checksum;
pub use clone::{CloneMethod, clone_file};
pub use debian::{DebianSource, DebianSourceError};
pub use extents::own_bytes;
pub use files::FileError;
pub use image::{Image, ImageManifest};
pub use imported::{Import, ImportError, ImportedDisk};
pub use kernel::{GuestBinaries, Kernel, KernelError, prepare_kernel};
pub use machine_image::{ImageDraft, MachineImage};
pub use paused::{Paused, PausedFile, PausedManifest};
pub use sandbox::SandboxFiles;
pub use settle::{MOST_PIECES, MemoryCopy, Settled};
pub use spare::SpareFiles;
pub use store::{Space, Store, StoreError, StoreOptions};
pub use template::{FileRecord, Template, TemplateDraft, TemplateFile, TemplateManifest, TemplateSpec};
pub use tool::ToolError;
pub use transfer::{Incoming, PART, Piece};
pub use volume::Volume;

/// Is told what long work is at.
pub trait Progress: Send + Sync {
    /// The work that starts now, in a few words ("unpacking the kernel"). It ends when the next step starts or the call returns.
    fn step(&self, text: &str);
}

impl<F: Fn(&str) + Send + Sync> Progress for F {
    fn step(&self, text: &str) {
        self(text);
    }
}
