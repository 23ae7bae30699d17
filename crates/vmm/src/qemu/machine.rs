//! One QEMU process, spoken to.

use std::{
    fs::OpenOptions,
    os::{fd::OwnedFd, unix::fs::OpenOptionsExt},
    path::{Path, PathBuf},
    sync::{Arc, Weak},
    time::Duration,
};

use async_trait::async_trait;
use tokio::{sync::Mutex, task, time::sleep};

use super::command_line::{MEMORY, MEMORY_OBJECT, SAVED_SET, handed};
use crate::{
    Machine, ProcessIdentity, Saved, SnapshotFiles, VmmError,
    error::file,
    pages::PrivateMapping,
    process::Process,
    qmp::{self, Events, Qmp, QmpError, RunState},
    spawn::Output,
};

/// For a request that QEMU answers at once, on a host under load.
const REQUEST_DEADLINE: Duration = Duration::from_secs(30);
/// For writing the device state: some 20 KB, into the page cache.
const SAVE_DEADLINE: Duration = Duration::from_secs(60);

/// The guest's memory: the file that it began as. What the guest writes only the process has.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct GuestMemory {
    pub(super) file: PathBuf,
    pub(super) bytes: u64,
}

impl GuestMemory {
    /// Asks a QEMU that an earlier agent started. It cannot say which file it is: it knows it by a name of its own.
    pub(super) async fn of(qmp: &Qmp, file: &Path, limit: Duration) -> Result<Self, QmpError> {
        let path = MEMORY_OBJECT;
        let bytes = qmp.call(&qmp::GetNumber { path, property: "size" }, limit).await?;
        Ok(Self { file: file.to_owned(), bytes })
    }
}

/// A running or paused machine.
#[derive(Debug)]
pub(super) struct QemuMachine {
    process: Arc<Process>,
    output: Output,
    memory: GuestMemory,
    /// Held through each operation: nothing comes between a save's steps.
    control: Arc<Mutex<Control>>,
}

/// The connection, and what was last asked for over it.
#[derive(Debug)]
struct Control {
    qmp: Qmp,
    wanted: Wanted,
}

/// What the guest's processors are to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Wanted {
    Run,
    Stand,
}

/// Until a guest whose write found no room is let go on. There is nothing that tells of room; if there is none, QEMU stops it again.
const ROOM_PAUSE: Duration = Duration::from_secs(2);

/// Lets the guest go on each time that QEMU has stopped it because the disk was full, for as long as there is the machine.
async fn go_on_when_there_is_room(control: Weak<Mutex<Control>>, mut events: Events) {
    while events.disk_full().await.is_some() {
        tracing::error!("no room for what a guest writes: it stands still until there is some");
        sleep(ROOM_PAUSE).await;
        let Some(control) = control.upgrade() else { return };
        let control = control.lock().await;
        if control.wanted == Wanted::Run
            && let Err(error) = control.qmp.call(&qmp::Continue {}, REQUEST_DEADLINE).await
        {
            tracing::error!(%error, "a guest whose disk was full cannot be let go on");
        }
    }
}

impl QemuMachine {
    /// `wanted` is what the processors do, `events` what was told since.
    pub(super) fn new(
        process: Arc<Process>,
        output: Output,
        memory: GuestMemory,
        (qmp, events): (Qmp, Events),
        wanted: Wanted,
    ) -> Self {
        let control = Arc::new(Mutex::new(Control { qmp, wanted }));
        tokio::spawn(go_on_when_there_is_room(Arc::downgrade(&control), events));
        Self { process, output, memory, control }
    }

    fn failed(&self, step: &'static str) -> impl FnOnce(QmpError) -> VmmError {
        move |source| match source {
            QmpError::Closed => VmmError::Ended { step, log: self.output.tail() },
            source => VmmError::Control { step, log: self.output.tail(), source: source.into() },
        }
    }
}

#[async_trait]
impl Machine for QemuMachine {
    fn process(&self) -> ProcessIdentity {
        self.process.identity()
    }

    async fn pause(&self) -> Result<(), VmmError> {
        let mut control = self.control.lock().await;
        control.qmp.call(&qmp::Stop {}, REQUEST_DEADLINE).await.map_err(self.failed("pausing"))?;
        control.wanted = Wanted::Stand;
        Ok(())
    }

    async fn resume(&self) -> Result<(), VmmError> {
        let mut control = self.control.lock().await;
        control.wanted = Wanted::Run;
        control.qmp.call(&qmp::Continue {}, REQUEST_DEADLINE).await.map_err(self.failed("resuming"))?;
        Ok(())
    }

    async fn save(&self, into: &SnapshotFiles) -> Result<Saved, VmmError> {
        let control = self.control.lock().await;
        let status = control.qmp.call(&qmp::QueryStatus {}, REQUEST_DEADLINE).await;
        if status.map_err(self.failed("saving"))?.status == RunState::Running {
            return Err(VmmError::NotPaused { process: self.process() });
        }
        let made = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&into.state);
        let state = made.map_err(file("make the state file", &into.state))?;
        let saved = async {
            self.save_devices(&control.qmp, state.into()).await?;
            self.save_memory(&into.memory).await
        };
        let saved = saved.await;
        if saved.is_err() {
            // Half a state is of no use, and its name must be free for the next try.
            let _ = tokio::fs::remove_file(&into.state).await;
        }
        saved
    }

    async fn changed_memory(&self) -> Result<u64, VmmError> {
        self.with_mapping(|mapping| mapping.changed()).await
    }

    fn memory_image(&self) -> &Path {
        &self.memory.file
    }

    async fn exited(&self) {
        self.process.gone().await;
    }

    async fn kill(&self) -> Result<(), VmmError> {
        self.process.kill().await
    }

    fn output(&self) -> String {
        self.output.tail()
    }
}

impl QemuMachine {
    /// QEMU has no folder to make a file in: it is handed one, which it gives back.
    async fn save_devices(&self, control: &Qmp, state: OwnedFd) -> Result<(), VmmError> {
        let failed = || self.failed("saving its devices");
        let give = qmp::AddDescriptor { fdset_id: SAVED_SET };
        control.hand(&give, state, SAVE_DEADLINE).await.map_err(failed())?;
        // Not live: the disk stays the machine's, which may go on.
        let save = qmp::SaveDevices { filename: handed(SAVED_SET), live: false };
        let saved = control.call(&save, SAVE_DEADLINE).await;
        let take = qmp::RemoveDescriptors { fdset_id: SAVED_SET };
        let taken = control.call(&take, SAVE_DEADLINE).await;
        saved.and(taken).map_err(failed())?;
        Ok(())
    }

    async fn save_memory(&self, image: &Path) -> Result<Saved, VmmError> {
        let found = std::fs::metadata(image).map_err(file("read the memory image", image))?;
        if found.len() != self.memory.bytes {
            return Err(VmmError::MemorySize {
                path: image.to_owned(),
                found: found.len(),
                needed: self.memory.bytes,
            });
        }
        let opened = OpenOptions::new().write(true).open(image);
        let target = opened.map_err(file("open the memory image", image))?;
        let copied = self.with_mapping(move |mapping| mapping.copy_changed(&target)).await?;
        Ok(Saved { changed_bytes: copied.changed, zeroed_bytes: copied.zeroed })
    }

    /// Looks at the process's pages, off the runtime's threads.
    async fn with_mapping<T: Send + 'static>(
        &self,
        look: impl FnOnce(&PrivateMapping) -> std::io::Result<T> + Send + 'static,
    ) -> Result<T, VmmError> {
        let process = self.process();
        let GuestMemory { file, bytes } = self.memory.clone();
        let looked =
            task::spawn_blocking(move || look(&PrivateMapping::open(process, &file, MEMORY, bytes)?));
        looked
            .await
            .map_err(std::io::Error::from)
            .and_then(|looked| looked)
            .map_err(|source| VmmError::Process { action: "copy the memory of", process, source })
    }
}
