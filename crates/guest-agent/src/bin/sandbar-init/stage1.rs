//! Stage 1: from the initramfs to the root disk.

use std::convert::Infallible;
use std::ffi::CString;
use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use rustix::mount::{MountFlags, mount, mount_move};

use crate::modules::{self, ModuleError};
use crate::mounts::{self, MountError};
use crate::uevent::Uevents;
use crate::{RUN_DIR, STAGE2, console, files};

const ROOT_DEVICE: &str = "/dev/vda";
const NEW_ROOT: &str = "/newroot";
/// A disk that is not there by now never will be: virtio devices are probed as their driver is inserted.
const ROOT_DEVICE_LIMIT: Duration = Duration::from_secs(10);

/// Runs the stage. It returns only if it failed: success is another program in this process.
pub(crate) fn run() -> Result<Infallible, Stage1Error> {
    for early in &mounts::EARLY {
        early.mount()?;
    }
    console::attach();

    let uevents = Uevents::subscribe().map_err(step("subscribe to device events"))?;
    modules::insert_all(Path::new("/modules"))?;
    uevents.wait_for(Path::new(ROOT_DEVICE), ROOT_DEVICE_LIMIT).map_err(step("find the disk /dev/vda"))?;

    mount_root()?;
    install_binaries().map_err(step("copy the agent to /run/sandbar"))?;
    for early in &mounts::EARLY {
        let target = format!("{NEW_ROOT}{}", early.at);
        files::make_dir(&target, 0o755).map_err(step("make a mount point on the root disk"))?;
        mount_move(early.at, &target).map_err(|errno| step("move a mount to the root disk")(errno.into()))?;
    }
    switch_root().map_err(step("switch to the root disk"))?;

    let failed = Command::new(format!("{RUN_DIR}/init")).arg(STAGE2).env_clear().exec();
    Err(step("start stage 2")(failed))
}

fn mount_root() -> Result<(), Stage1Error> {
    files::make_dir(NEW_ROOT, 0o755).map_err(step("make /newroot"))?;
    mount(ROOT_DEVICE, NEW_ROOT, "ext4", MountFlags::NOATIME, None).map_err(|errno| MountError {
        kind: "ext4",
        at: "/".into(),
        source: errno.into(),
    })?;
    let run = format!("{NEW_ROOT}/run");
    files::make_dir(&run, 0o755).map_err(step("make /run on the root disk"))?;
    let data = CString::from(c"mode=0755");
    mount("tmpfs", &run, "tmpfs", MountFlags::NOSUID | MountFlags::NODEV, data.as_c_str())
        .map_err(|errno| MountError { kind: "tmpfs", at: run, source: errno.into() })?;
    Ok(())
}

fn install_binaries() -> io::Result<()> {
    let target = format!("{NEW_ROOT}{RUN_DIR}");
    files::make_dir(&target, 0o755)?;
    for entry in fs::read_dir("/sandbar")? {
        let entry = entry?;
        files::copy_executable(&entry.path(), &Path::new(&target).join(entry.file_name()))?;
    }
    Ok(())
}

/// Frees the initramfs's memory and makes the disk the root. The initramfs cannot be unmounted, only covered.
fn switch_root() -> io::Result<()> {
    std::env::set_current_dir(NEW_ROOT)?;
    let device = fs::metadata("/")?.dev();
    remove_tree(Path::new("/"), device)?;
    mount_move(".", "/")?;
    rustix::process::chroot(".")?;
    std::env::set_current_dir("/")
}

/// Removes what lies below `dir` on the filesystem `device`: never anything that is mounted there.
fn remove_tree(dir: &Path, device: u64) -> io::Result<()> {
    for entry in fs::read_dir(dir)? {
        let path = entry?.path();
        let metadata = fs::symlink_metadata(&path)?;
        if metadata.dev() != device {
            continue;
        }
        if metadata.is_dir() {
            remove_tree(&path, device)?;
            // Mount points stay: they cannot be removed, and hold nothing.
            let _ = fs::remove_dir(&path);
        } else {
            fs::remove_file(&path)?;
        }
    }
    Ok(())
}

fn step(what: &'static str) -> impl Fn(io::Error) -> Stage1Error {
    move |source| Stage1Error::Step { what, source }
}

/// Why the guest cannot boot.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Stage1Error {
    #[error(transparent)]
    Mount(#[from] MountError),
    #[error(transparent)]
    Module(#[from] ModuleError),
    #[error("cannot {what}: {source}")]
    Step { what: &'static str, source: io::Error },
}
