//! A guest that stands still while it is copied.
//!
//! Sealed first: a copy of it must not serve anybody until it has been told who it is. Then its processors stop, and its memory, its
//! devices and its disk are of one moment. Whoever stopped it lets it go on, or ends it.

use std::path::Path;
use std::time::{Duration, Instant};

use sandbar_storage::{MachineImage, SandboxFiles, clone_file};
use sandbar_vmm::{Machine, Saved, SnapshotFiles};

use crate::error::{Error, chain};
use crate::guest::GuestClient;
use crate::resources::{Resources, blocking};

/// Tries to let a guest serve again, and the time between two.
const OPENING_TRIES: u32 = 10;
const OPENING_PAUSE: Duration = Duration::from_millis(500);

/// Seals the guest and stops its processors; when that was. After a failure the caller lets it [go on](go_on).
pub(super) async fn stand_still(
    resources: &Resources,
    machine: &dyn Machine,
    guest: &GuestClient,
) -> Result<Instant, Error> {
    guest.prepare_snapshot(resources.deadlines.guest_flush).await?;
    let stopped = Instant::now();
    machine.pause().await.map_err(Error::internal("stop the guest's processors"))?;
    Ok(stopped)
}

/// Lets the guest go on and serve; when its processors ran on. It is tried again and again: a guest that stays stopped or sealed is
/// of no use to anybody.
pub(super) async fn go_on(machine: &dyn Machine, guest: &GuestClient) -> Instant {
    let mut ran_on = None;
    for attempt in 1..=OPENING_TRIES {
        let gone_on = async {
            machine.resume().await.map_err(Error::internal("let the guest go on"))?;
            ran_on.get_or_insert_with(Instant::now);
            guest.end_snapshot().await
        };
        match gone_on.await {
            Ok(()) => return ran_on.unwrap_or_else(Instant::now),
            Err(error) => {
                let process = machine.process();
                tracing::warn!(%process, attempt, error = chain(&error), "the guest does not go on");
            }
        }
        tokio::select! {
            // Whoever owns the machine learns of that by itself.
            () = machine.exited() => return Instant::now(),
            () = tokio::time::sleep(OPENING_PAUSE) => {}
        }
    }
    tracing::error!(process = %machine.process(), "the guest may not serve until the next agent takes it over");
    ran_on.unwrap_or_else(Instant::now)
}

/// Makes room for the memory: a clone of the image that the machine was restored from. May be done while the guest runs.
pub(super) async fn lay_out(
    machine: &dyn Machine,
    files: &SandboxFiles,
    into: &MachineImage,
) -> Result<(), Error> {
    let (from, to) = (files.memory_to_clone(machine.memory_image()).to_owned(), into.memory.clone());
    blocking("clone the memory image", move || {
        clone_file(&from, &to).map(|_| ()).map_err(Error::internal("clone the memory image"))
    })
    .await
}

/// Copies a guest that stands still, once it is [laid out](lay_out).
pub(super) async fn copy(machine: &dyn Machine, disk: &Path, into: &MachineImage) -> Result<Saved, Error> {
    let files = SnapshotFiles { state: into.state.clone(), memory: into.memory.clone() };
    let saved = machine.save(&files).await.map_err(Error::internal("save the machine"))?;
    copy_disk(disk, &into.disk).await?;
    Ok(saved)
}

/// Clones the disk.
pub(super) async fn copy_disk(from: &Path, to: &Path) -> Result<(), Error> {
    let (from, to) = (from.to_owned(), to.to_owned());
    blocking("clone the disk", move || {
        clone_file(&from, &to).map(|_| ()).map_err(Error::internal("clone the disk"))
    })
    .await
}
