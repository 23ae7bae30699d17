//! One QEMU process, spoken to.

use std::{
    fs::{File, OpenOptions},
    os::unix::fs::OpenOptionsExt,
    path::Path,
    sync::Arc,
    time::Duration,
};

use async_trait::async_trait;
use tokio::{sync::Mutex, task, time::Instant};

use super::driver::{file, state_uri};
use crate::{
    Machine, ProcessIdentity, VmmError,
    process::Process,
    qmp::{self, Event, Feature, Qmp, QmpError, RunState},
    spawn::Output,
};

/// For a request that QEMU answers at once, on a host under load.
const REQUEST_DEADLINE: Duration = Duration::from_secs(30);
/// For writing the device state: some 80 KB, into the page cache.
const SAVE_DEADLINE: Duration = Duration::from_secs(60);
/// Bytes a second of a state transfer. The default is a network's.
const UNLIMITED: u64 = 1 << 40;

/// How the guest's memory is mapped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum MemoryMapping {
    /// The file has what the guest wrote.
    Shared,
    /// Only the process has it.
    Private,
}

/// A running or paused machine.
#[derive(Debug)]
pub(super) struct QemuMachine {
    process: Arc<Process>,
    output: Output,
    memory: MemoryMapping,
    /// Held through each operation, since a save is several requests.
    control: Mutex<Qmp>,
}

impl QemuMachine {
    pub(super) fn new(process: Arc<Process>, output: Output, qmp: Qmp, memory: MemoryMapping) -> Self {
        Self { process, output, memory, control: Mutex::new(qmp) }
    }

    fn failed(&self, step: &'static str) -> impl FnOnce(QmpError) -> VmmError {
        move |source| match source {
            QmpError::Closed => VmmError::Ended { step, log: self.output.tail() },
            source => VmmError::Control { step, log: self.output.tail(), source },
        }
    }
}

#[async_trait]
impl Machine for QemuMachine {
    fn process(&self) -> ProcessIdentity {
        self.process.identity()
    }

    async fn pause(&self) -> Result<(), VmmError> {
        let control = self.control.lock().await;
        control.call(&qmp::Stop {}, REQUEST_DEADLINE).await.map_err(self.failed("pausing"))?;
        Ok(())
    }

    async fn resume(&self) -> Result<(), VmmError> {
        let control = self.control.lock().await;
        control.call(&qmp::Continue {}, REQUEST_DEADLINE).await.map_err(self.failed("resuming"))?;
        Ok(())
    }

    async fn save_state(&self, state_file: &Path) -> Result<(), VmmError> {
        if self.memory == MemoryMapping::Private {
            return Err(VmmError::PrivateMemory { process: self.process() });
        }
        let control = self.control.lock().await;
        let saved = self.save(&control, state_file).await;
        if saved.is_err() {
            // Half a state is of no use, and its name must be free for the next try.
            let _ = tokio::fs::remove_file(state_file).await;
        }
        saved
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
    async fn save(&self, control: &Qmp, state_file: &Path) -> Result<(), VmmError> {
        let uri = state_uri(state_file)?;
        let made = OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(state_file)
            .map_err(file("make the state file", state_file))?;
        transfer(control, uri).await.map_err(self.failed("saving its state"))?;
        let path = state_file.to_owned();
        let synced = task::spawn_blocking(move || {
            made.sync_all().map_err(file("sync", &path))?;
            // The name is as much needed as the content.
            let folder = path.parent().unwrap_or(Path::new("/"));
            File::open(folder).and_then(|folder| folder.sync_all()).map_err(file("sync", folder))
        });
        synced.await.map_err(|panic| file("sync", state_file)(panic.into()))?
    }
}

/// Writes the device state and returns when the machine could be continued.
async fn transfer(control: &Qmp, uri: String) -> Result<(), QmpError> {
    let mut events = control.events();
    let features = qmp::SetTransferFeatures { capabilities: vec![Feature::IGNORE_SHARED, Feature::EVENTS] };
    let rate = qmp::SetTransferRate { max_bandwidth: UNLIMITED };
    let save = qmp::Save { uri };
    tokio::try_join!(
        control.call(&features, REQUEST_DEADLINE),
        control.call(&rate, REQUEST_DEADLINE),
        control.call(&save, REQUEST_DEADLINE),
    )?;
    let ended = events.wait("saving", SAVE_DEADLINE, |event| match event {
        Event::Migration(status) if matches!(status.as_str(), "completed" | "failed" | "cancelled") => {
            Some(status)
        }
        _ => None,
    });
    let status = ended.await?;
    if status != "completed" {
        return Err(QmpError::Transfer(status));
    }
    // The event comes a moment before QEMU leaves the transfer's state, in which it refuses to continue. There is no event for
    // that moment; every answer takes the lock that it is waiting for, so this ends after one or two.
    let deadline = Instant::now() + REQUEST_DEADLINE;
    while control.call(&qmp::QueryStatus {}, REQUEST_DEADLINE).await?.status == RunState::FinishMigrate {
        if Instant::now() > deadline {
            return Err(QmpError::Deadline { what: "the end of saving", limit: REQUEST_DEADLINE });
        }
    }
    Ok(())
}
