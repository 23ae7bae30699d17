//! One Firecracker process, spoken to.
//!
//! A save is one request: Firecracker writes its state, and the pages that changed into an image that holds what they were before.
//! It writes them in place, where the file is of the memory's size, so a page that the guest zeroed is zero there like any other
//! change, and nothing is guessed from holes. From then on it counts changes from this save on. So what the next one goes on from is
//! the image of this one (`parent` in the jail): each save's image is whole. Where a save was cut off nobody knows whether
//! Firecracker had begun to count anew, and the next one writes the whole memory.

use std::{
    fs::{self, File, OpenOptions, Permissions},
    io::{self, Write},
    os::{
        fd::AsRawFd,
        unix::fs::{OpenOptionsExt, PermissionsExt, chown},
    },
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, Instant},
};

use async_trait::async_trait;
use tokio::sync::Mutex;

use super::{
    api::{Api, ApiError},
    jail::{self, Jail, blocking},
    requests::{CreateSnapshot, DescribeInstance, SnapshotType, State, Vm, WantedState},
};
use crate::{
    Machine, ProcessIdentity, Saved, SnapshotFiles, VmmError,
    confine::Access,
    error::file,
    pages::{self, PrivateMapping},
    process::Process,
    spawn::Output,
};

/// For a request that Firecracker answers at once, on a host under load.
const REQUEST_DEADLINE: Duration = Duration::from_secs(30);
/// For a save: Firecracker writes the pages, and has the disk confirm them.
const SAVE_DEADLINE: Duration = Duration::from_secs(600);
/// For whoever has an image open that should be nobody's any more, and how often it is looked at again.
const LET_GO: Duration = Duration::from_secs(2);
const LET_GO_STEP: Duration = Duration::from_millis(5);

/// A process that is a machine, and what it was given.
#[derive(Debug)]
pub(super) struct Parts {
    pub(super) process: Arc<Process>,
    pub(super) output: Output,
    pub(super) api: Api,
    pub(super) jail: Jail,
    pub(super) memory_bytes: u64,
    pub(super) user: u32,
}

/// A running or paused machine.
#[derive(Debug)]
pub(super) struct FirecrackerMachine {
    process: Arc<Process>,
    output: Output,
    api: Api,
    jail: Jail,
    memory_bytes: u64,
    user: u32,
    /// The image that a save needs a clone of.
    parent: PathBuf,
    /// Held through each operation: nothing comes between a save's steps.
    turn: Mutex<()>,
    /// Whether the jail is still this machine's: its place may be another's afterwards.
    jailed: Mutex<bool>,
}

impl FirecrackerMachine {
    pub(super) fn new(parts: Parts) -> Self {
        let Parts { process, output, api, jail, memory_bytes, user } = parts;
        Self {
            process,
            output,
            api,
            memory_bytes,
            user,
            parent: jail.parent(),
            jail,
            turn: Mutex::new(()),
            jailed: Mutex::new(true),
        }
    }

    fn failed(&self, step: &'static str) -> impl FnOnce(ApiError) -> VmmError {
        move |source| match source {
            ApiError::Closed => VmmError::Ended { step, log: self.output.tail() },
            source => VmmError::Control { step, log: self.output.tail(), source: source.into() },
        }
    }

    async fn tell(&self, step: &'static str, state: WantedState) -> Result<(), VmmError> {
        let _turn = self.turn.lock().await;
        self.api.call(&Vm { state }, REQUEST_DEADLINE).await.map_err(self.failed(step))
    }

    /// Bytes that the guest changed since it was restored. A booted machine's memory is no file's: all of it counts.
    async fn changed(&self) -> Result<u64, VmmError> {
        let (process, bytes, image) = (self.process(), self.memory_bytes, self.jail.inside(jail::MEMORY));
        let name = jail::MEMORY.trim_start_matches('/');
        let booted = !image.exists();
        if booted {
            return Ok(bytes);
        }
        blocking(&self.parent, move || {
            let counted =
                PrivateMapping::open(process, &image, name, bytes).and_then(|mapping| mapping.changed());
            counted.map_err(|source| VmmError::Process { action: "look at the memory of", process, source })
        })
        .await
    }

    /// Has Firecracker write, and takes from it what it wrote.
    async fn save_into(&self, mut state: File, image: &Path) -> Result<u64, VmmError> {
        let (jail, user) = (self.jail.clone(), self.user);
        let snapshot_type = {
            let image = image.to_owned();
            blocking(&self.parent, move || {
                for name in [jail::NEW_MEMORY, jail::NEW_STATE] {
                    jail.take_name(name)?;
                }
                let known = jail.knows_changes();
                jail.put(&image, jail::NEW_MEMORY, Access::Write, user)?;
                jail.begin_save()?;
                Ok(if known { SnapshotType::Diff } else { SnapshotType::Full })
            })
            .await?
        };
        let request =
            CreateSnapshot { snapshot_type, snapshot_path: jail::NEW_STATE, mem_file_path: jail::NEW_MEMORY };
        let written = self.api.call(&request, SAVE_DEADLINE).await;
        if let (SnapshotType::Diff, Err(ApiError::Refused { .. })) = (snapshot_type, &written) {
            // A refused save has no effects: the changes are still known.
            self.jail.end_save()?;
        }
        written.map_err(self.failed("saving"))?;
        let (jail, image, process) = (self.jail.clone(), image.to_owned(), self.process());
        blocking(&self.parent, move || {
            jail.take_name(jail::NEW_MEMORY)?;
            take_back(&image)?;
            let memory = OpenOptions::new().read(true).open(&image).map_err(file("open", &image))?;
            if !soon_nobody_writes(&memory).map_err(file("look who writes", &image))? {
                return Err(VmmError::ImageHeld { process, image });
            }
            let zeroed = match snapshot_type {
                SnapshotType::Diff => 0,
                SnapshotType::Full => OpenOptions::new()
                    .read(true)
                    .write(true)
                    .open(&image)
                    .and_then(|memory| pages::punch_zeroed(&memory))
                    .map_err(file("make holes in", &image))?,
            };
            let saved = jail.read(jail::NEW_STATE)?;
            state.write_all(&saved).map_err(file("write the state beside", &image))?;
            jail.take_name(jail::NEW_STATE)?;
            jail.set_parent(&image)?;
            jail.end_save()?;
            Ok(zeroed)
        })
        .await
    }
}

#[async_trait]
impl Machine for FirecrackerMachine {
    fn process(&self) -> ProcessIdentity {
        self.process.identity()
    }

    async fn pause(&self) -> Result<(), VmmError> {
        self.tell("pausing", WantedState::Paused).await
    }

    async fn resume(&self) -> Result<(), VmmError> {
        self.tell("resuming", WantedState::Resumed).await
    }

    async fn save(&self, into: &SnapshotFiles) -> Result<Saved, VmmError> {
        let SnapshotFiles { state, memory } = into;
        let _turn = self.turn.lock().await;
        let instance = self.api.call(&DescribeInstance {}, REQUEST_DEADLINE).await;
        if instance.map_err(self.failed("saving"))?.state != State::Paused {
            return Err(VmmError::NotPaused { process: self.process() });
        }
        let found = fs::metadata(memory).map_err(file("read the memory image", memory))?.len();
        if found != self.memory_bytes {
            return Err(VmmError::MemorySize { path: memory.clone(), found, needed: self.memory_bytes });
        }
        let target = OpenOptions::new().write(true).create_new(true).mode(0o600).open(state);
        let target = target.map_err(file("make the state file", state))?;
        let saved = async {
            let changed_bytes = self.changed().await?;
            let zeroed_bytes = self.save_into(target, memory).await?;
            Ok(Saved { changed_bytes, zeroed_bytes })
        };
        let saved = saved.await;
        if saved.is_err() {
            // Half a state is of no use, and its name must be free for the next try; nor is the image the process's to write.
            let _ = tokio::fs::remove_file(state).await;
            let _ = take_back(memory);
        }
        saved
    }

    async fn changed_memory(&self) -> Result<u64, VmmError> {
        if self.jail.knows_changes() { self.changed().await } else { Ok(self.memory_bytes) }
    }

    fn memory_image(&self) -> &Path {
        &self.parent
    }

    async fn exited(&self) {
        self.process.gone().await;
    }

    fn output(&self) -> String {
        self.output.tail()
    }

    async fn kill(&self) -> Result<(), VmmError> {
        self.process.kill().await?;
        let mut jailed = self.jailed.lock().await;
        if *jailed {
            self.jail.remove().await?;
            *jailed = false;
        }
        Ok(())
    }
}

/// An image is no process's any more.
fn take_back(image: &Path) -> Result<(), VmmError> {
    let taken = chown(image, Some(0), Some(0))
        .and_then(|()| fs::set_permissions(image, Permissions::from_mode(0o400)));
    taken.map_err(file("take back", image))
}

/// Whether nobody writes a file any more, now or within [`LET_GO`]. A process that the agent is just starting has all of the agent's
/// descriptors until it runs its program, and so may have this file's, which whoever laid it out had open. It tells nobody when it lets go.
fn soon_nobody_writes(file: &File) -> io::Result<bool> {
    let begun = Instant::now();
    while !nobody_writes(file)? {
        if begun.elapsed() > LET_GO {
            return Ok(false);
        }
        std::thread::sleep(LET_GO_STEP);
    }
    Ok(true)
}

/// Whether no process has the file open for writing, nor mapped so that it could write it: to such a file alone the kernel grants a
/// lease for reading.
fn nobody_writes(file: &File) -> io::Result<bool> {
    let lease = |kind: libc::c_int| {
        // SAFETY: a system call on an open descriptor, with a number as its argument.
        match unsafe { libc::fcntl(file.as_raw_fd(), libc::F_SETLEASE, kind) } {
            0 => Ok(()),
            _ => Err(io::Error::last_os_error()),
        }
    };
    match lease(libc::F_RDLCK) {
        Ok(()) => lease(libc::F_UNLCK).map(|()| true),
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(false),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_writer_of_an_image_is_noticed() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("image");
        let writer = File::create(&path).unwrap();
        let reader = File::open(&path).unwrap();
        assert!(!nobody_writes(&reader).unwrap());
        drop(writer);
        assert!(nobody_writes(&reader).unwrap());
        // Nobody is kept from writing it later.
        OpenOptions::new().write(true).open(&path).unwrap();
    }
}
