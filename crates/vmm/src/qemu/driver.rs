//! Starting and adopting QEMU processes.

use std::{
    ffi::OsString,
    fs::{File, OpenOptions},
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use async_trait::async_trait;
use sandbar_types::VmmKind;
use tokio::{process::Command, task};

use super::{
    command_line, kernel_arguments,
    machine::{GuestMemory, QemuMachine, Wanted},
};
use crate::{
    Accelerator, BootSource, Cgroups, Compatibility, Machine, MachineSpec, ProcessIdentity, SnapshotFiles,
    Vmm, VmmError, binary,
    confine::{Access, Bounds, Group, Handed, Program, Root},
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
    compatibility: Compatibility,
    /// Folders of firmware.
    data: Vec<PathBuf>,
    root: Arc<Root>,
    cgroups: Cgroups,
}

/// Memory that a VMM may take beside its guest's: the translator's code cache (128 MiB), QEMU itself, and room for page tables and what
/// the kernel counts with it.
const OWN_MEMORY: u64 = 384 << 20;
/// Processor time beside the guest's processors', for input and output.
const OWN_PERCENT: u32 = 50;
/// Threads beside the guest's processors': QEMU reads and writes the disk with up to 64.
const OWN_TASKS: u32 = 100;

fn bounds(spec: &MachineSpec) -> Bounds {
    let MachineSpec { vcpus, memory_mb, .. } = spec;
    Bounds {
        memory_bytes: (u64::from(*memory_mb) << 20) + OWN_MEMORY,
        processor_percent: vcpus * 100 + OWN_PERCENT,
        weight: *vcpus,
        tasks: vcpus + OWN_TASKS,
    }
}

impl QemuVmm {
    /// A driver for the QEMU at `binary` (a path, or a name to be found in `PATH`). Asks it for its version and measures the host's
    /// time-stamp counter. Whether `accelerator` works is the caller's to know ([`KvmProbe`](crate::probe::KvmProbe)). Machines are
    /// bounded by groups in `cgroups`.
    pub async fn new(binary: &Path, accelerator: Accelerator, cgroups: Cgroups) -> Result<Self, VmmError> {
        let binary = binary::resolve(binary)?;
        let build = build(&binary).await?;
        let data = data_folders(&binary).await?;
        let program = Program { binary, data: data.clone(), kvm: matches!(accelerator, Accelerator::Kvm) };
        let root = task::spawn_blocking(move || Root::make(&program));
        let root = root.await.map_err(std::io::Error::from).and_then(|made| made).map_err(VmmError::Root)?;
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
        Ok(Self { compatibility, data, root: Arc::new(root), cgroups })
    }

    /// Starts a process and connects to it. The connection is made before the process listens to it: the socket is ours.
    async fn start(
        &self,
        spec: &MachineSpec,
        files: Vec<(&'static str, PathBuf, Access)>,
        state: Option<Handed>,
        source: impl IntoIterator<Item = OsString>,
    ) -> Result<Starting, VmmError> {
        let work_dir = spec.work_dir.canonicalize().map_err(file("use", &spec.work_dir))?;
        let control = spawn::listen(&work_dir).map_err(file("open the control socket in", &work_dir))?;
        let output = Output::create().map_err(file("make the logs of", &work_dir))?;
        let disk = OpenOptions::new().read(true).write(true).open(&spec.disk);
        let disk = disk.map_err(file("open the disk", &spec.disk))?.into();
        let mut handed = vec![
            Handed { number: command_line::CONTROL, descriptor: control },
            Handed { number: command_line::DISK, descriptor: disk },
        ];
        handed.extend(state);
        let mut arguments = command_line::machine(spec, self.compatibility.accelerator, &self.data);
        arguments.extend(source);
        let stream = spawn::connect(&work_dir).await.map_err(file("connect to the socket in", &work_dir))?;
        let launch = Launch {
            root: Arc::clone(&self.root),
            cgroups: self.cgroups.clone(),
            bounds: bounds(spec),
            spec: spec.clone(),
            arguments,
            work_dir,
            files,
            handed,
            tap: command_line::TAP,
            output,
        };
        // Dropped with its result if this future is: the process is then killed.
        let started = task::spawn_blocking(move || launch.start());
        let started = started.await;
        let (process, output) =
            started.map_err(|panic| VmmError::Thread(panic.into())).and_then(|started| started)?;
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
        // Made here and not by QEMU, which would take over a file that is there. All zeroes, as a machine's memory is when it is switched
        // on, and mapped as a restored machine's image is: so whatever is done to machines later is one thing.
        let size = u64::from(machine.memory_mb) << 20;
        OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(memory)
            .and_then(|file| file.set_len(size))
            .map_err(file("make the memory file", memory))?;
        let command_line = kernel_arguments::for_sandbox(self.compatibility.tsc_khz);
        let place = |name| Root::file(name);
        let source =
            command_line::kernel(place(command_line::KERNEL), place(command_line::INITRAMFS), &command_line);
        let files = vec![
            (command_line::MEMORY, memory.clone(), Access::Read),
            (command_line::KERNEL, kernel.clone(), Access::Read),
            (command_line::INITRAMFS, initramfs.clone(), Access::Read),
        ];
        let starting = self.start(machine, files, None, source).await?;
        let runs = async {
            starting.qmp.call(&qmp::Negotiate {}, START_DEADLINE).await?;
            match starting.qmp.call(&qmp::QueryStatus {}, START_DEADLINE).await?.status {
                RunState::Running => Ok(()),
                RunState::IoError | RunState::Stopped => {
                    Err(QmpError::Refused { command: "boot", reason: "the machine does not run".to_owned() })
                }
            }
        };
        match runs.await {
            Ok(()) => Ok(starting.complete(GuestMemory { file: memory.clone(), bytes: size })),
            Err(error) => Err(starting.failed("booting", error).await),
        }
    }

    async fn restore(
        &self,
        machine: &MachineSpec,
        snapshot: &SnapshotFiles,
    ) -> Result<Box<dyn Machine>, VmmError> {
        let SnapshotFiles { state, memory } = snapshot;
        let size = u64::from(machine.memory_mb) << 20;
        let found = tokio::fs::metadata(memory).await.map_err(file("read the memory image", memory))?.len();
        if found != size {
            return Err(VmmError::MemorySize { path: memory.clone(), found, needed: size });
        }
        let descriptor = File::open(state).map_err(file("open the state", state))?.into();
        let state = Handed { number: command_line::STATE, descriptor };
        let files = vec![(command_line::MEMORY, memory.clone(), Access::Read)];
        let source = command_line::awaiting_state();
        let starting = self.start(machine, files, Some(state), source).await?;
        let runs = async {
            let qmp = &starting.qmp;
            let mut events = qmp.events();
            let features = qmp::SetTransferFeatures { capabilities: vec![Feature::EVENTS] };
            let load = qmp::Load { uri: command_line::state_address() };
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
                Event::Migration(_) | Event::DiskFull => None,
            });
            outcome.await?
        };
        match runs.await {
            Ok(()) => Ok(starting.complete(GuestMemory { file: memory.clone(), bytes: size })),
            Err(error) => Err(starting.failed("loading the snapshot", error).await),
        }
    }

    async fn adopt(
        &self,
        work_dir: &Path,
        memory: &Path,
        process: ProcessIdentity,
    ) -> Result<Box<dyn Machine>, VmmError> {
        // A process that is gone is in no group.
        let group = self.cgroups.of(process).unwrap_or_else(|_| Group::none());
        let found = Arc::new(Process::open(process, group)?);
        let output = Output::of(process).map_err(|source| VmmError::Process {
            action: "read the output of",
            process,
            source,
        })?;
        let taken_over = async {
            let qmp = Qmp::new(spawn::connect(work_dir).await?);
            let events = qmp.events();
            qmp.call(&qmp::Negotiate {}, ADOPT_DEADLINE).await?;
            let memory = GuestMemory::of(&qmp, memory, ADOPT_DEADLINE).await?;
            let wanted = match qmp.call(&qmp::QueryStatus {}, ADOPT_DEADLINE).await?.status {
                RunState::Running => Wanted::Run,
                RunState::IoError => {
                    // Nobody is told again of a disk that was full before.
                    qmp.call(&qmp::Continue {}, ADOPT_DEADLINE).await?;
                    Wanted::Run
                }
                RunState::Stopped => Wanted::Stand,
            };
            Ok::<_, QmpError>((memory, (qmp, events), wanted))
        };
        match taken_over.await {
            Ok((memory, control, wanted)) => {
                Ok(Box::new(QemuMachine::new(found, output, memory, control, wanted)))
            }
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
        let events = qmp.events();
        Box::new(QemuMachine::new(process.claim(), output, memory, (qmp, events), Wanted::Run))
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

/// Where QEMU looks for firmware.
async fn data_folders(binary: &Path) -> Result<Vec<PathBuf>, VmmError> {
    let asked = Command::new(binary).args(["-L", "help"]).kill_on_drop(true).output().await;
    let output = asked.map_err(|source| VmmError::Start { binary: binary.to_owned(), source })?;
    let text = String::from_utf8_lossy(&output.stdout);
    Ok(text.lines().map(PathBuf::from).filter(|folder| folder.is_absolute() && folder.is_dir()).collect())
}
