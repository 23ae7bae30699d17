//! Where a store's blocks are: its folder's own filesystem if that has reflink, else an XFS image that is loop-mounted there.

use std::fs::{self, File};
use std::io::Write;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, flock, ioctl_ficlone, statvfs};
use rustix::mount::{UnmountFlags, unmount};

use crate::clone::has_no_reflink;
use crate::files::{self, FileError, OnFile};
use crate::mounts;
use crate::store::{Space, StoreError, StoreOptions};
use crate::tool::{Tool, ToolError};

/// The least that a store is worth making with, where the size is ours to choose.
const MIN_IMAGE: u64 = 4 << 30;

/// What a store may be backed by.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Backing {
    /// Reflink by whatever means there are; full copies where there are none.
    #[default]
    Auto,
    /// Full copies where the folder's own filesystem has no reflink: no image is made, nothing is mounted.
    Native,
}

/// What a store is backed by.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum StoreKind {
    /// The folder's own filesystem, which has reflink.
    Reflink,
    /// An XFS image, mounted on the folder.
    LoopXfs {
        /// The image, beside the folder.
        image: PathBuf,
    },
    /// The folder's own filesystem, which has no reflink: every clone copies what its source holds.
    FullCopy {
        /// Why nothing better is used.
        reason: String,
    },
}

/// Makes `dir` ready to be a store. `marker` exists in a folder that has been one.
pub(crate) fn prepare(dir: &Path, marker: &Path, options: &StoreOptions) -> Result<StoreKind, StoreError> {
    // Two processes that open a new store at once take turns, and the second finds what the first has mounted. (The lock is on the
    // folder below the mount; who comes when the mount is there locks its root, and has nothing to do.)
    let folder = File::open(dir).on("open", dir)?;
    flock(&folder, FlockOperation::LockExclusive).on("lock", dir)?;

    let image = image_of(dir);
    if is_mounted(dir, &image)? {
        return Ok(StoreKind::LoopXfs { image });
    }
    if image.exists() {
        // It holds the store's content: to go on without it would look like a loss.
        mount_image(&image, dir).map_err(|source| StoreError::Backing { image: image.clone(), source })?;
        return Ok(StoreKind::LoopXfs { image });
    }
    if has_reflink(dir)? {
        return Ok(StoreKind::Reflink);
    }
    let full_copy = |reason: String| {
        tracing::warn!(dir = %dir.display(), %reason, "no reflink: every sandbox's disk is copied in full");
        Ok(StoreKind::FullCopy { reason })
    };
    if options.backing == Backing::Native {
        return full_copy("the folder's filesystem has no reflink, and no image was wanted".into());
    }
    if marker.exists() {
        return full_copy("the folder holds a store without reflink, which a mount would hide".into());
    }
    let size = image_size(dir, options.size)?;
    match make_image(&image, size).and_then(|()| {
        mount_image(&image, dir).inspect_err(|_| {
            // Just made and empty: without a mount it is of no use.
            let _ = fs::remove_file(&image);
        })
    }) {
        Ok(()) => Ok(StoreKind::LoopXfs { image }),
        Err(error) => full_copy(format!("an XFS image could not be made or mounted: {error}")),
    }
}

/// Unmounts the image that is mounted on `dir`, if one is.
pub(crate) fn unmount_image(dir: &Path) -> Result<(), StoreError> {
    if is_mounted(dir, &image_of(dir))? {
        unmount(dir, UnmountFlags::empty()).on("unmount", dir)?;
    }
    Ok(())
}

/// The room of the filesystem that `dir` is on.
pub(crate) fn space(dir: &Path) -> Result<Space, FileError> {
    let stat = statvfs(dir).on("look at", dir)?;
    Ok(Space { total: stat.f_blocks * stat.f_frsize, free: stat.f_bavail * stat.f_frsize })
}

/// Whether two files in `dir` can share blocks: asked by making two that do.
fn has_reflink(dir: &Path) -> Result<bool, FileError> {
    let name = |n| dir.join(format!(".reflink-{}-{n}", std::process::id()));
    let (from, to) = (name(1), name(2));
    let tried = (|| {
        let mut source = File::options()
            .read(true)
            .write(true)
            .create(true)
            .truncate(true)
            .open(&from)
            .on("create", &from)?;
        // More than fits into an inode: Btrfs clones inline data by other rules.
        source.write_all(&[1; 64 << 10]).on("write", &from)?;
        let target = File::create(&to).on("create", &to)?;
        match ioctl_ficlone(&target, &source) {
            Err(error) if has_no_reflink(error) => Ok(false),
            cloned => cloned.map(|()| true).on("clone to", &to),
        }
    })();
    files::remove_all(&from)?;
    files::remove_all(&to)?;
    tried
}

fn image_of(dir: &Path) -> PathBuf {
    let mut name = dir.as_os_str().to_owned();
    name.push(".xfs");
    name.into()
}

/// Whether what is mounted on `dir` is a loop device on `image`.
fn is_mounted(dir: &Path, image: &Path) -> Result<bool, FileError> {
    let Some(mount) = mounts::at(dir)? else { return Ok(false) };
    let Some(device) = mount.source.file_name() else { return Ok(false) };
    let backing = Path::new("/sys/block").join(device).join("loop/backing_file");
    // Not a loop device, or one that has just gone: not ours.
    let Ok(text) = fs::read(backing) else { return Ok(false) };
    Ok(text.trim_ascii_end() == image.as_os_str().as_bytes())
}

fn image_size(dir: &Path, wanted: Option<u64>) -> Result<u64, StoreError> {
    let free = space(files::parent(dir))?.free;
    match wanted {
        // Sparse: it may be larger than what is free now.
        Some(size) => Ok(size),
        None if free / 5 * 4 >= MIN_IMAGE => Ok(free / 5 * 4),
        None => Err(StoreError::NoSpace { dir: dir.to_owned(), available: free, needed: MIN_IMAGE / 4 * 5 }),
    }
}

/// Makes the image under another name first: one that a kill cut short is never mounted, but made anew.
fn make_image(image: &Path, size: u64) -> Result<(), ToolError> {
    let mut draft = image.as_os_str().to_owned();
    draft.push(".new");
    let draft = PathBuf::from(draft);
    let io = |source: std::io::Error| ToolError::Io { program: "mkfs.xfs".to_owned(), source };
    let made = (|| {
        let file = File::create(&draft).map_err(io)?;
        file.set_len(size).map_err(io)?;
        Tool::new("mkfs.xfs", "xfsprogs")
            .args(["-q", "-f", "-m", "reflink=1", "-L", "sandbar"])
            .arg(&draft)
            .run()?;
        file.sync_all().map_err(io)?;
        fs::rename(&draft, image).map_err(io)?;
        File::open(files::parent(image)).and_then(|folder| folder.sync_all()).map_err(io)
    })();
    made.inspect_err(|_| {
        // Where even that fails, the next start writes over it.
        let _ = fs::remove_file(&draft);
    })
}

fn mount_image(image: &Path, dir: &Path) -> Result<(), ToolError> {
    // The loop device goes with the mount (autoclear), also if we die between the two. `discard` gives freed blocks back to the
    // filesystem below.
    Tool::new("mount", "mount")
        .args(["-t", "xfs", "-o", "loop,discard,noatime"])
        .arg(image)
        .arg(dir)
        .run()?;
    // Past the page cache of the filesystem below: else all that is read here is cached twice, and read four times as slowly.
    let direct = mounts::at(dir)
        .ok()
        .flatten()
        .map(|mount| Tool::new("losetup", "mount").arg("--direct-io=on").arg(mount.source).run());
    if let Some(Err(error)) = direct {
        tracing::info!(%error, "the store's image is read through two caches");
    }
    Ok(())
}
