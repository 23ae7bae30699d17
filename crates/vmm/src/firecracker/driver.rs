//! Starting and adopting Firecracker processes.

use std::{
    fs::OpenOptions,
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use async_trait::async_trait;
use sandbar_types::VmmKind;

use super::{
    api::{Api, ApiError},
    configuration::{self, Configuration},
    jail::{self, Jail, blocking},
    jailer::{Jailed, Launch},
    machine::{FirecrackerMachine, Parts},
    requests::{Action, ActionType, DescribeInstance, DescribeMachine, State},
    version,
};
use crate::{
    Accelerator, BootSource, Cgroups, Compatibility, Machine, MachineSpec, ProcessIdentity, SnapshotFiles,
    Vmm, VmmError, binary,
    confine::{Access, Bounds},
    error::file,
    process::Process,
    processor,
    spawn::{FILE_BYTES, Output},
    tsc,
};

/// For a request of a start. A load maps its memory; on a host with many starts at once they share the processors.
const START_DEADLINE: Duration = Duration::from_secs(60);
/// Until a process that is taken over answers.
const ADOPT_DEADLINE: Duration = Duration::from_secs(10);

/// Memory that Firecracker may take beside its guest's: itself, page tables, and room for the pages of files that it writes.
const OWN_MEMORY: u64 = 128 << 20;
/// Processor time beside the guest's processors', for input and output.
const OWN_PERCENT: u32 = 50;
/// Processes and threads beside the guest's processors': the jailer, and one each for devices and the API.
const OWN_TASKS: u32 = 8;

fn bounds(spec: &MachineSpec) -> Bounds {
    let MachineSpec { vcpus, memory_mb, .. } = spec;
    Bounds {
        memory_bytes: (u64::from(*memory_mb) << 20) + OWN_MEMORY,
        processor_percent: vcpus * 100 + OWN_PERCENT,
        weight: *vcpus,
        tasks: vcpus + OWN_TASKS,
    }
}

/// Where Firecracker is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FirecrackerOptions {
    /// The binary (a path, or a name to be found in `PATH`). Its file name contains `firecracker`.
    pub firecracker: PathBuf,
    /// The jailer of the same release.
    pub jailer: PathBuf,
}

/// Firecracker.
#[derive(Debug, Clone)]
pub struct FirecrackerVmm {
    firecracker: PathBuf,
    jailer: PathBuf,
    cgroups: Cgroups,
    compatibility: Compatibility,
}

impl FirecrackerVmm {
    /// A driver. Asks Firecracker and the jailer for their version and measures the host's time-stamp counter. Whether KVM works is
    /// the caller's to know ([`KvmProbe`](crate::probe::KvmProbe)). Machines are bounded by groups in `cgroups`.
    pub async fn new(options: &FirecrackerOptions, cgroups: Cgroups) -> Result<Self, VmmError> {
        let FirecrackerOptions { firecracker, jailer } = options;
        // Without links: the jailer names its folders by the file that it finds.
        let (firecracker, jailer) = (binary::resolve(firecracker)?, binary::resolve(jailer)?);
        let firecracker = firecracker.canonicalize().map_err(file("use", &firecracker))?;
        let build = version::of(&firecracker, &jailer).await?.to_string();
        let compatibility = Compatibility {
            vmm: VmmKind::Firecracker,
            build,
            machine: configuration::MACHINE.to_owned(),
            cpu: format!("{}: {}", configuration::PROCESSOR, processor::of_host()?),
            accelerator: Accelerator::Kvm,
            devices: configuration::DEVICES,
            tsc_khz: tsc::measure_khz(),
        };
        Ok(Self { firecracker, jailer, cgroups, compatibility })
    }

    /// Makes a jail with these files in it, and starts a process there.
    async fn start(&self, spec: &MachineSpec, files: Files) -> Result<Starting, VmmError> {
        let work_dir = spec.work_dir.canonicalize().map_err(file("use", &spec.work_dir))?;
        // Opened only to say which file it is that is missing: the jailer would not.
        std::fs::File::open(&spec.netns).map_err(file("open", &spec.netns))?;
        let jail = Jail::new(&work_dir, &self.firecracker);
        let (user, disk) = (spec.confinement.user, spec.disk.clone());
        let disk_bytes = disk.metadata().map_err(file("look at", &disk))?.len();
        let furnish = {
            let (jail, cgroups, spec) = (jail.clone(), self.cgroups.clone(), spec.clone());
            blocking(&work_dir, move || {
                jail.make()?;
                jail.put(&disk, jail::DISK, Access::Write, user)?;
                for (from, name) in &files.shared {
                    jail.put(from, name, Access::Read, user)?;
                }
                jail.set_parent(&files.parent)?;
                if let Start::Boot = files.start {
                    // Nothing of its memory is in the parent.
                    jail.begin_save()?;
                }
                Ok(cgroups.create(&spec.confinement.group, &bounds(&spec))?)
            })
        };
        let group = match furnish.await {
            Ok(group) => group,
            Err(error) => {
                jail.remove().await?;
                return Err(error);
            }
        };
        let launch = Launch {
            firecracker: self.firecracker.clone(),
            jailer: self.jailer.clone(),
            user,
            // Its disk, its memory when it is saved, or its state; more would be room that nobody gave it.
            file_bytes: disk_bytes.max(u64::from(spec.memory_mb) << 20).max(FILE_BYTES),
            group: group.clone(),
            netns: spec.netns.clone(),
            jail: jail.clone(),
        };
        match launch.start().await {
            Ok(jailed) => Ok(Starting { api: Api::new(&jail.root()), jailed, user }),
            Err(error) => {
                jail.clear().await?;
                group.remove();
                Err(error)
            }
        }
    }
}

/// What is put into a jail, beside the disk.
struct Files {
    shared: Vec<(PathBuf, &'static str)>,
    /// The image that the machine's memory begins as.
    parent: PathBuf,
    start: Start,
}

/// How a machine begins.
enum Start {
    Boot,
    Restore,
}

#[async_trait]
impl Vmm for FirecrackerVmm {
    fn kind(&self) -> VmmKind {
        VmmKind::Firecracker
    }

    fn compatibility(&self) -> &Compatibility {
        &self.compatibility
    }

    async fn boot(&self, machine: &MachineSpec, source: &BootSource) -> Result<Box<dyn Machine>, VmmError> {
        let BootSource { kernel, initramfs, memory } = source;
        // The guest's memory is in the process alone; the file is where it will be saved to, and must be of its size then.
        let bytes = u64::from(machine.memory_mb) << 20;
        OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(memory)
            .and_then(|file| file.set_len(bytes))
            .map_err(file("make the memory file", memory))?;
        let files = Files {
            shared: vec![(kernel.clone(), jail::KERNEL), (initramfs.clone(), jail::INITRAMFS)],
            parent: memory.clone(),
            start: Start::Boot,
        };
        let starting = self.start(machine, files).await?;
        let Configuration { machine, boot, disk, network, entropy } = configuration::for_boot(machine);
        let api = &starting.api;
        let runs = async {
            api.call(&machine, START_DEADLINE).await?;
            api.call(&boot, START_DEADLINE).await?;
            api.call(&disk, START_DEADLINE).await?;
            api.call(&network, START_DEADLINE).await?;
            api.call(&entropy, START_DEADLINE).await?;
            api.call(&Action { action_type: ActionType::InstanceStart }, START_DEADLINE).await
        };
        match runs.await {
            Ok(()) => Ok(starting.complete(bytes)),
            Err(error) => Err(starting.failed("booting", error).await),
        }
    }

    async fn restore(
        &self,
        machine: &MachineSpec,
        snapshot: &SnapshotFiles,
    ) -> Result<Box<dyn Machine>, VmmError> {
        let SnapshotFiles { state, memory } = snapshot;
        let bytes = u64::from(machine.memory_mb) << 20;
        let found = tokio::fs::metadata(memory).await.map_err(file("read the memory image", memory))?.len();
        if found != bytes {
            return Err(VmmError::MemorySize { path: memory.clone(), found, needed: bytes });
        }
        let files = Files {
            shared: vec![(state.clone(), jail::STATE), (memory.clone(), jail::MEMORY)],
            parent: memory.clone(),
            start: Start::Restore,
        };
        let starting = self.start(machine, files).await?;
        let runs = async {
            starting.api.call(&configuration::for_load(machine), START_DEADLINE).await?;
            starting.api.call(&configuration::after_load(machine), START_DEADLINE).await
        };
        match runs.await {
            Ok(()) => Ok(starting.complete(bytes)),
            Err(error) => Err(starting.failed("loading the snapshot", error).await),
        }
    }

    async fn adopt(
        &self,
        work_dir: &Path,
        _memory: &Path,
        process: ProcessIdentity,
    ) -> Result<Box<dyn Machine>, VmmError> {
        let unusable = |action| move |source| VmmError::Process { action, process, source };
        let group = self.cgroups.of(process).map_err(|_| VmmError::Gone { process })?;
        let found = Arc::new(Process::open(process, group)?);
        let work_dir = work_dir.canonicalize().map_err(file("use", work_dir))?;
        let jail = Jail::new(&work_dir, &self.firecracker);
        if !jail.holds(process) {
            return Err(VmmError::Gone { process });
        }
        let output = Output::of(process).map_err(unusable("read the output of"))?;
        let user = jail.user().map_err(unusable("tell the user of"))?;
        let api = Api::new(&jail.root());
        let taken_over = async {
            let state = api.call(&DescribeInstance {}, ADOPT_DEADLINE).await?.state;
            let size = api.call(&DescribeMachine {}, ADOPT_DEADLINE).await?.mem_size_mib;
            Ok::<_, ApiError>((state, u64::from(size) << 20))
        };
        let failed = |error| VmmError::Control { step: "being adopted", log: output.tail(), source: error };
        let (state, bytes) = taken_over.await.map_err(|error: ApiError| failed(error.into()))?;
        if state == State::NotStarted {
            // Half a machine: whoever made it was cut off in the middle.
            return Err(VmmError::Gone { process });
        }
        Ok(Box::new(FirecrackerMachine::new(Parts {
            process: found,
            output,
            api,
            jail,
            memory_bytes: bytes,
            user,
        })))
    }
}

/// A process that is not a machine yet. It is killed if it does not become one.
struct Starting {
    api: Api,
    jailed: Jailed,
    user: u32,
}

impl Starting {
    /// Kills the process, waits until it is gone, removes its jail and says what went wrong.
    async fn failed(self, step: &'static str, source: ApiError) -> VmmError {
        let Jailed { process, output, jail } = self.jailed;
        let ended = async {
            process.process().kill().await?;
            jail.remove().await
        };
        if let Err(error) = ended.await {
            return error;
        }
        let log = output.tail();
        match source {
            ApiError::Closed => VmmError::Ended { step, log },
            source => VmmError::Control { step, log, source: source.into() },
        }
    }

    fn complete(self, memory_bytes: u64) -> Box<dyn Machine> {
        let Self { api, jailed: Jailed { process, output, jail }, user } = self;
        let process = process.claim();
        Box::new(FirecrackerMachine::new(Parts { process, output, api, jail, memory_bytes, user }))
    }
}
