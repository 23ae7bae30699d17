//! Starting and adopting QEMU processes.

use std::{
    ffi::OsString,
    fs::OpenOptions,
    os::{fd::AsRawFd, unix::fs::OpenOptionsExt},
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use async_trait::async_trait;
use sandbar_types::VmmKind;
use tokio::{process::Command, task};

use super::{
    command_line::{self, Memory},
    kernel_arguments,
    machine::{GuestMemory, MemoryMapping, QemuMachine},
};
use crate::{
    Accelerator, BootSource, Compatibility, Machine, MachineSpec, ProcessIdentity, SnapshotFiles, Vmm,
    VmmError, binary,
    error::file,
    process::{Process, Unclaimed},
    processor,
    qmp::{self, Event, Feature, Qmp, QmpError, RunState},
    spawn::{self, Launch, Output},
    tsc,
};

/// Until a new process answers. Much more than it takes: on a host with many starts at once they share the processors.
const START_DEADLINE: Duration = Duration::from_secs(60);
/// Until the previous agent's connection is seen to be gone and ours is answered.
const ADOPT_DEADLINE: Duration = Duration::from_secs(10);

/// QEMU's `microvm` machine.
#[derive(Debug, Clone)]
pub struct QemuVmm {
    binary: PathBuf,
    compatibility: Compatibility,
}

impl QemuVmm {
    /// A driver for the QEMU at `binary` (a path, or a name to be found in `PATH`). Asks it for its version and measures the host's
    /// time-stamp counter. Whether `accelerator` works is the caller's to know ([`KvmProbe`](crate::probe::KvmProbe)).
    pub async fn new(binary: &Path, accelerator: Accelerator) -> Result<Self, VmmError> {
        let binary = binary::resolve(binary)?;
        let build = build(&binary).await?;
        let model = command_line::processor(accelerator);
        let cpu = match accelerator {
            Accelerator::Tcg => model.to_owned(),
            Accelerator::Kvm => format!("{model}: {}", processor::of_host()?),
        };
        let compatibility = Compatibility {
            vmm: VmmKind::Qemu,
            build,
            machine: command_line::MACHINE.to_owned(),
            cpu,
            accelerator,
            devices: command_line::DEVICES,
            tsc_khz: tsc::measure_khz(),
        };
        Ok(Self { binary, compatibility })
    }

    /// Starts a process and connects to it. The connection is made before the process listens to it: the socket is ours.
    async fn start(
        &self,
        spec: &MachineSpec,
        memory: Memory<'_>,
        source: impl IntoIterator<Item = OsString>,
    ) -> Result<Starting, VmmError> {
        let work_dir = spec.work_dir.canonicalize().map_err(file("use", &spec.work_dir))?;
        let control = spawn::listen(&work_dir).map_err(file("open the control socket in", &work_dir))?;
        let output = Output::create().map_err(file("make the logs of", &work_dir))?;
        let mut arguments =
            command_line::machine(spec, self.compatibility.accelerator, memory, control.as_raw_fd())?;
        arguments.extend(source);
        let stream = spawn::connect(&work_dir).await.map_err(file("connect to the socket in", &work_dir))?;
        let launch = Launch {
            binary: self.binary.clone(),
            arguments,
            work_dir,
            netns: spec.netns.clone(),
            inherited: control,
            output,
        };
        // Dropped with its result if this future is: the process is then killed.
        let started = task::spawn_blocking(move || {
            let process = launch.start()?;
            Ok::<_, VmmError>((process, launch.output))
        });
        let (process, output) = started
            .await
            .map_err(|panic| VmmError::Start { binary: self.binary.clone(), source: panic.into() })??;
        Ok(Starting { process, output, qmp: Qmp::new(stream) })
    }
}

#[async_trait]
impl Vmm for QemuVmm {
    fn kind(&self) -> VmmKind {
        VmmKind::Qemu
    }

    fn compatibility(&self) -> &Compatibility {
        &self.compatibility
    }

    async fn boot(&self, machine: &MachineSpec, source: &BootSource) -> Result<Box<dyn Machine>, VmmError> {
        let BootSource { kernel, initramfs, memory } = source;
        // Made here and not by QEMU, which would take over a file that is there.
        let size = u64::from(machine.memory_mb) << 20;
        OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(memory)
            .and_then(|file| file.set_len(size))
            .map_err(file("make the memory file", memory))?;
        let command_line = kernel_arguments::for_sandbox(self.compatibility.tsc_khz);
        let source = command_line::kernel(kernel, initramfs, &command_line);
        let starting = self.start(machine, Memory::Shared(memory), source).await?;
        let runs = async {
            starting.qmp.call(&qmp::Negotiate {}, START_DEADLINE).await?;
            match starting.qmp.call(&qmp::QueryStatus {}, START_DEADLINE).await?.status {
                RunState::Running => Ok(()),
                RunState::Stopped => {
                    Err(QmpError::Refused { command: "boot", reason: "the machine does not run".to_owned() })
                }
            }
        };
        match runs.await {
            Ok(()) => {
                let (file, mapping) = (memory.clone(), MemoryMapping::Shared);
                Ok(starting.complete(GuestMemory { file, bytes: size, mapping }))
            }
            Err(error) => Err(starting.failed("booting", error).await),
        }
    }

    async fn restore(
        &self,
        machine: &MachineSpec,
        snapshot: &SnapshotFiles,
    ) -> Result<Box<dyn Machine>, VmmError> {
        let SnapshotFiles { state, memory } = snapshot;
        // QEMU would make a memory file that is missing, and call it a snapshot's.
        let size = u64::from(machine.memory_mb) << 20;
        let found = tokio::fs::metadata(memory).await.map_err(file("read the memory image", memory))?.len();
        if found != size {
            return Err(VmmError::MemorySize { path: memory.clone(), found, needed: size });
        }
        let uri = state_uri(state)?;
        let starting = self.start(machine, Memory::Private(memory), command_line::awaiting_state()).await?;
        let runs = async {
            let qmp = &starting.qmp;
            let mut events = qmp.events();
            let features = qmp::SetTransferFeatures { capabilities: vec![Feature::EVENTS] };
            let load = qmp::Load { uri };
            // Sent at once; QEMU takes them in order when it is up.
            tokio::try_join!(
                qmp.call(&qmp::Negotiate {}, START_DEADLINE),
                qmp.call(&features, START_DEADLINE),
                qmp.call(&load, START_DEADLINE),
            )?;
            // Without a word of ours in between: loaded is running.
            let outcome = events.wait("loading", START_DEADLINE, |event| match event {
                Event::Resume => Some(Ok(())),
                Event::Migration(status) if status == "failed" => Some(Err(QmpError::Transfer(status))),
                Event::Migration(_) => None,
            });
            outcome.await?
        };
        match runs.await {
            Ok(()) => {
                let (file, mapping) = (memory.clone(), MemoryMapping::Private);
                Ok(starting.complete(GuestMemory { file, bytes: size, mapping }))
            }
            Err(error) => Err(starting.failed("loading the snapshot", error).await),
        }
    }

    async fn adopt(&self, work_dir: &Path, process: ProcessIdentity) -> Result<Box<dyn Machine>, VmmError> {
        let found = Arc::new(Process::open(process)?);
        let output = Output::of(process).map_err(|source| VmmError::Process {
            action: "read the output of",
            process,
            source,
        })?;
        let taken_over = async {
            let qmp = Qmp::new(spawn::connect(work_dir).await?);
            qmp.call(&qmp::Negotiate {}, ADOPT_DEADLINE).await?;
            let memory = GuestMemory::of(&qmp, ADOPT_DEADLINE).await?;
            Ok::<_, QmpError>((qmp, memory))
        };
        match taken_over.await {
            Ok((qmp, memory)) => Ok(Box::new(QemuMachine::new(found, output, qmp, memory))),
            Err(source) => {
                Err(VmmError::Control { step: "being adopted", log: output.tail(), source: source.into() })
            }
        }
    }
}

/// A process that is not a machine yet. It is killed if it does not become one.
struct Starting {
    process: Unclaimed,
    output: Output,
    qmp: Qmp,
}

impl Starting {
    /// Kills the process, waits until it is gone and says what went wrong.
    async fn failed(self, step: &'static str, source: QmpError) -> VmmError {
        let process = self.process.process();
        if let Err(error) = process.kill().await {
            return error;
        }
        let log = self.output.tail();
        match source {
            QmpError::Closed => VmmError::Ended { step, log },
            source => VmmError::Control { step, log, source: source.into() },
        }
    }

    fn complete(self, memory: GuestMemory) -> Box<dyn Machine> {
        let Self { process, output, qmp } = self;
        Box::new(QemuMachine::new(process.claim(), output, qmp, memory))
    }
}

/// The address of a state file, for a request.
fn state_uri(state: &Path) -> Result<String, VmmError> {
    match state.to_str() {
        // QEMU would read the rest as a position in the file.
        Some(text) if state.is_absolute() && !text.contains(",offset=") => Ok(format!("file:{text}")),
        _ => Err(VmmError::UnusablePath(state.to_owned())),
    }
}

/// QEMU's version and package: what follows "version" in the first line of `-version`.
async fn build(binary: &Path) -> Result<String, VmmError> {
    let output = Command::new(binary)
        .arg("-version")
        .kill_on_drop(true)
        .output()
        .await
        .map_err(|source| VmmError::Start { binary: binary.to_owned(), source })?;
    let text = String::from_utf8_lossy(&output.stdout);
    let answer = text.lines().next().unwrap_or_default();
    match answer.split_once("QEMU emulator version ") {
        Some((_, build)) if !build.trim().is_empty() => Ok(build.trim().to_owned()),
        _ => Err(VmmError::UnknownBuild { binary: binary.to_owned(), answer: answer.to_owned() }),
    }
}
