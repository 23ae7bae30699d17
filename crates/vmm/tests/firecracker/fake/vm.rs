//! The machine's states, and what is legal in each.
//!
//! ```text
//!   not started --- InstanceStart, snapshot/load (before anything else) ---> running <--- PATCH /vm ---> paused
//! ```

use std::{
    fs::{self, File, OpenOptions},
    io::{Error, Read},
    os::fd::AsRawFd,
};

use serde::{Serialize, de::DeserializeOwned};
use serde_json::{Value, json};

use super::{
    Step,
    bodies::{
        Action, ActionType, BackendType, BootSource, Drive, Entropy, Fill, MachineConfiguration,
        NetworkInterface, PartialDrive, SnapshotCreate, SnapshotLoad, SnapshotType, State, Vm, VmState,
    },
    memory::Memory,
};

/// A refusal, in words.
pub(super) type Fault = String;
/// What a request is answered: something, or nothing.
pub(super) type Answer = Result<Option<Value>, Fault>;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    NotStarted,
    Running,
    Paused,
}

pub(super) struct Machine {
    phase: Phase,
    configuration: Option<MachineConfiguration>,
    boot: Option<BootSource>,
    drives: Vec<Drive>,
    interfaces: Vec<NetworkInterface>,
    entropy: bool,
    memory: Option<Memory>,
    /// Disks, TAPs, and whatever a plan has us keep.
    open: Vec<File>,
    log: Vec<String>,
}

fn fault(what: impl std::fmt::Display) -> Fault {
    what.to_string()
}

impl Machine {
    pub(super) fn new() -> Self {
        Self {
            phase: Phase::NotStarted,
            configuration: None,
            boot: None,
            drives: Vec::new(),
            interfaces: Vec::new(),
            entropy: false,
            memory: None,
            open: Vec::new(),
            log: Vec::new(),
        }
    }

    /// A failed load leaves the process in a state that nobody can use.
    pub(super) fn ends_after(&self, request: &str, answer: &Answer) -> bool {
        request == "PUT /snapshot/load" && answer.is_err()
    }

    pub(super) fn answer(&mut self, request: &str, body: &[u8], step: &Step) -> Answer {
        if !request.contains("/fake/") {
            let body: Value = serde_json::from_slice(body).unwrap_or(Value::Null);
            let kind = body.get("snapshot_type").and_then(Value::as_str).unwrap_or_default();
            self.log.push(format!("{request} {kind}").trim_end().to_owned());
        }
        if let Step::Fault(words) = step {
            return Err(words.clone());
        }
        match request {
            "GET /" => ok(json!({
                "app_name": "Firecracker", "id": "fake", "vmm_version": "1.16.1",
                "state": match self.phase {
                    Phase::NotStarted => "Not started", Phase::Running => "Running", Phase::Paused => "Paused",
                },
            })),
            "GET /machine-config" => match &self.configuration {
                Some(configuration) => ok(json!(configuration)),
                None => ok(json!({ "vcpu_count": 1, "mem_size_mib": 128, "smt": false })),
            },
            "PUT /machine-config" => self.configure(parse(body)?),
            "PUT /boot-source" => self.put_boot_source(parse(body)?),
            "PUT /drives/disk" => self.put_drive(parse(body)?),
            "PATCH /drives/disk" => self.patch_drive(parse(body)?),
            "PUT /network-interfaces/net" => self.put_interface(parse(body)?),
            "PUT /entropy" => {
                self.before_boot()?;
                let Entropy {} = parse(body)?;
                self.entropy = true;
                Ok(None)
            }
            "PUT /actions" => match parse::<Action>(body)?.action_type {
                ActionType::InstanceStart => self.start(),
                ActionType::FlushMetrics | ActionType::SendCtrlAltDel => {
                    Err(fault("not what the driver uses"))
                }
            },
            "PATCH /vm" => self.patch(&parse(body)?),
            "PUT /snapshot/create" => self.create(parse(body)?, step),
            "PUT /snapshot/load" => self.load(parse(body)?),
            "PUT /fake/pages" => {
                let memory = self.memory.as_mut().ok_or("no memory")?;
                for Fill { page, value } in parse::<Vec<Fill>>(body)? {
                    memory.fill(page, value);
                }
                Ok(None)
            }
            "GET /fake/pages" => {
                let memory = self.memory.as_ref().ok_or("no memory")?;
                let pages = memory.size() / super::PAGE;
                ok(json!((0..pages).map(|page| memory.first_byte(page)).collect::<Vec<_>>()))
            }
            "GET /fake/drives" => ok(json!(self.drives)),
            "GET /fake/log" => ok(json!(self.log)),
            _ => Err(format!("Invalid request method and/or path: {request}.")),
        }
    }

    fn before_boot(&self) -> Result<(), Fault> {
        match self.phase {
            Phase::NotStarted => Ok(()),
            _ => Err(fault("The requested operation is not supported after starting the microVM.")),
        }
    }

    fn configure(&mut self, configuration: MachineConfiguration) -> Answer {
        self.before_boot()?;
        if !(1..=32).contains(&configuration.vcpu_count) || configuration.mem_size_mib == 0 {
            return Err(fault("The vCPU number or the memory size is invalid!"));
        }
        self.configuration = Some(configuration);
        Ok(None)
    }

    fn put_boot_source(&mut self, boot: BootSource) -> Answer {
        self.before_boot()?;
        let mut magic = [0; 5];
        let read = File::open(&boot.kernel_image_path).and_then(|mut kernel| kernel.read_exact(&mut magic));
        read.map_err(|error| format!("The kernel file cannot be opened: {error}"))?;
        if magic != *b"\x7fELF\x02" {
            return Err(fault("The kernel is no ELF file of 64 bits"));
        }
        let initrd = boot.initrd_path.as_ref().ok_or("the driver boots with an initrd")?;
        File::open(initrd).map_err(|error| format!("The initrd file cannot be opened: {error}"))?;
        boot.boot_args.as_ref().ok_or("the driver says what the kernel is told")?;
        self.boot = Some(boot);
        Ok(None)
    }

    fn put_drive(&mut self, drive: Drive) -> Answer {
        self.before_boot()?;
        if drive.drive_id != "disk" {
            return Err(fault("The path's id is not the body's"));
        }
        self.open.push(open_disk(&drive)?);
        self.drives.push(drive);
        Ok(None)
    }

    fn patch_drive(&mut self, change: PartialDrive) -> Answer {
        if self.phase == Phase::NotStarted {
            return Err(fault("The requested operation is not supported before starting the microVM."));
        }
        let drive = self.drives.iter_mut().find(|drive| drive.drive_id == change.drive_id);
        drive.ok_or("Invalid block device ID")?.rate_limiter = change.rate_limiter;
        Ok(None)
    }

    fn put_interface(&mut self, interface: NetworkInterface) -> Answer {
        self.before_boot()?;
        if interface.iface_id != "net" || interface.guest_mac.as_ref().is_none_or(|mac| mac.len() != 17) {
            return Err(fault("The path's id is not the body's, or there is no MAC"));
        }
        self.open.push(open_tap(&interface.host_dev_name)?);
        self.interfaces.push(interface);
        Ok(None)
    }

    fn start(&mut self) -> Answer {
        self.before_boot()?;
        let configuration = self.configuration.as_ref().ok_or("no machine configuration")?;
        if self.boot.is_none() || self.drives.len() != 1 || self.interfaces.len() != 1 || !self.entropy {
            return Err(fault("Cannot start microvm without kernel configuration, or without a device."));
        }
        self.memory = Some(Memory::anonymous(configuration.mem_size_mib << 20).map_err(fault)?);
        self.phase = Phase::Running;
        println!("the guest's first words");
        Ok(None)
    }

    fn patch(&mut self, vm: &Vm) -> Answer {
        if self.phase == Phase::NotStarted {
            return Err(fault("The requested operation is not supported before starting the microVM."));
        }
        self.phase = match vm.state {
            VmState::Paused => Phase::Paused,
            VmState::Resumed => Phase::Running,
        };
        Ok(None)
    }

    fn create(&mut self, create: SnapshotCreate, step: &Step) -> Answer {
        if self.phase != Phase::Paused {
            return Err(fault("Cannot create a snapshot: the microVM is not paused"));
        }
        let (Some(memory), Some(configuration)) = (&mut self.memory, &self.configuration) else {
            return Err(fault("no memory"));
        };
        let SnapshotCreate { mem_file_path, snapshot_path, snapshot_type } = create;
        let (drives, interfaces) = (self.drives.clone(), self.interfaces.clone());
        let state = State { machine: configuration.clone(), drives, interfaces };
        fs::write(&snapshot_path, serde_json::to_vec(&state).map_err(fault)?).map_err(fault)?;
        // Written into if it is of the memory's size, made anew if it is not.
        let opened = OpenOptions::new().write(true).create(true).truncate(false).open(&mem_file_path);
        let file = opened.map_err(|error| format!("Cannot open the memory file: {error}"))?;
        let size = memory.size() as u64;
        if file.metadata().map_err(fault)?.len() != size {
            file.set_len(0).map_err(fault)?;
        }
        file.set_len(size).map_err(fault)?;
        match snapshot_type {
            SnapshotType::Full => memory.write_all(&file).map_err(fault)?,
            SnapshotType::Diff if configuration.track_dirty_pages => {
                memory.write_changed(&file).map_err(fault)?;
            }
            SnapshotType::Diff => return Err(fault("Changed pages are not tracked")),
        }
        file.sync_all().map_err(fault)?;
        match step {
            Step::KeepOpen => self.open.push(file),
            Step::LinkState => {
                fs::remove_file(&snapshot_path).map_err(fault)?;
                std::os::unix::fs::symlink("/etc/hostname", &snapshot_path).map_err(fault)?;
            }
            _ => {}
        }
        Ok(None)
    }

    fn load(&mut self, load: SnapshotLoad) -> Answer {
        self.before_boot()?;
        let fresh =
            self.configuration.is_none() && self.boot.is_none() && self.open.is_empty() && !self.entropy;
        if !fresh {
            return Err(fault(
                "Loading a microVM snapshot not allowed after configuring boot-specific resources.",
            ));
        }
        let SnapshotLoad { snapshot_path, mem_backend, track_dirty_pages, resume_vm, network_overrides } =
            load;
        let text =
            fs::read(&snapshot_path).map_err(|error| format!("Cannot open the state file: {error}"))?;
        let State { mut machine, drives, mut interfaces } = serde_json::from_slice(&text)
            .map_err(|error| format!("Cannot deserialize the state: {error}"))?;
        if mem_backend.backend_type != BackendType::File {
            return Err(fault("the driver restores from files"));
        }
        let image = File::open(&mem_backend.backend_path);
        let image = image.map_err(|error| format!("Cannot open the memory file: {error}"))?;
        for change in network_overrides {
            let found = interfaces.iter_mut().find(|interface| interface.iface_id == change.iface_id);
            found.ok_or("Unknown network device")?.host_dev_name = change.host_dev_name;
        }
        for drive in &drives {
            self.open.push(open_disk(drive)?);
        }
        for interface in &interfaces {
            self.open.push(open_tap(&interface.host_dev_name)?);
        }
        self.memory = Some(Memory::of(&image, machine.mem_size_mib << 20).map_err(fault)?);
        machine.track_dirty_pages = track_dirty_pages;
        (self.configuration, self.drives, self.interfaces) = (Some(machine), drives, interfaces);
        self.phase = if resume_vm { Phase::Running } else { Phase::Paused };
        Ok(None)
    }
}

fn ok(value: impl Serialize) -> Answer {
    serde_json::to_value(value).map(Some).map_err(fault)
}

fn parse<T: DeserializeOwned>(body: &[u8]) -> Result<T, Fault> {
    serde_json::from_slice(body)
        .map_err(|error| format!("An error occurred when deserializing the json body of a request: {error}."))
}

fn open_disk(drive: &Drive) -> Result<File, Fault> {
    if !drive.is_root_device || drive.is_read_only {
        return Err(fault("the machine's one disk is its root, and written"));
    }
    let opened = OpenOptions::new().read(true).write(true).open(&drive.path_on_host);
    opened.map_err(|error| format!("Unable to open the block device {}: {error}", drive.path_on_host))
}

/// Attaches to a TAP, as the unprivileged user that we are.
fn open_tap(name: &str) -> Result<File, Fault> {
    const TUNSETIFF: libc::c_ulong = 0x4004_54ca;
    const TAP_NO_INFORMATION: u16 = 0x1002;
    let tun = OpenOptions::new().read(true).write(true).open("/dev/net/tun").map_err(fault)?;
    let mut request = [0; 40];
    request[..name.len()].copy_from_slice(name.as_bytes());
    request[16..18].copy_from_slice(&TAP_NO_INFORMATION.to_ne_bytes());
    // SAFETY: the request is of the size that the kernel reads and writes.
    if unsafe { libc::ioctl(tun.as_raw_fd(), TUNSETIFF, request.as_mut_ptr()) } < 0 {
        return Err(format!("Open tap device failed: {name}: {}", Error::last_os_error()));
    }
    Ok(tun)
}
