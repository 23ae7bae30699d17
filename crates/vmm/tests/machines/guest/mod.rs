//! A place to run machines in: folder, network namespace, kernel.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
    sync::atomic::{AtomicU32, Ordering},
    time::Duration,
};

use sandbar_vmm::{
    Accelerator, BootSource, Cgroups, Confinement, DiskRate, Machine, MachineSpec, QemuVmm,
    process::machines_under,
};
use tempfile::TempDir;

pub(crate) const MEMORY_MB: u32 = 128;
const PATIENCE: Duration = Duration::from_secs(60);

/// A folder and namespaces for one test. Whatever runs under the folder when it is dropped is killed.
pub(crate) struct Place {
    root: TempDir,
    netns: Vec<String>,
    mounts: Vec<PathBuf>,
}

impl Place {
    pub(crate) fn new() -> Self {
        let place = Self { root: tempfile::tempdir().unwrap(), netns: Vec::new(), mounts: Vec::new() };
        let object = place.path("guest.o");
        let source = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/machines/guest/guest.s");
        run("as", &["--32", "-o", text(&object), source]);
        // Above the first megabyte, where the firmware and its tables are.
        let kernel = place.path("kernel");
        run(
            "ld",
            &["-m", "elf_i386", "-N", "-Ttext=0x1000000", "-e", "start", "-o", text(&kernel), text(&object)],
        );
        fs::write(place.path("initramfs"), b"unused").unwrap();
        place
    }

    pub(crate) fn root(&self) -> &Path {
        self.root.path()
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.root.path().join(name)
    }

    pub(crate) fn source(&self, memory: &str) -> BootSource {
        BootSource {
            kernel: self.path("kernel"),
            initramfs: self.path("initramfs"),
            memory: self.path(memory),
        }
    }

    /// What a machine called `name` is made of: its own folder, disk and namespace.
    pub(crate) fn spec(&mut self, name: &str) -> MachineSpec {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let netns = format!("sbvmm-{}-{number}", std::process::id());
        run("ip", &["netns", "add", &netns]);
        self.netns.push(netns.clone());
        run("ip", &["-n", &netns, "tuntap", "add", "tap0", "mode", "tap"]);
        let work_dir = self.path(name);
        fs::create_dir(&work_dir).unwrap();
        let disk = work_dir.join("disk");
        fs::File::create(&disk).unwrap().set_len(1 << 20).unwrap();
        MachineSpec {
            vcpus: 1,
            memory_mb: MEMORY_MB,
            disk,
            work_dir,
            netns: Path::new("/run/netns").join(netns),
            tap: "tap0".to_owned(),
            confinement: Confinement { user: FIRST_USER + number, group: name.to_owned() },
            disk_rate: DiskRate::default(),
        }
    }

    /// A filesystem of `bytes` bytes.
    pub(crate) fn small_filesystem(&mut self, name: &str, bytes: usize) -> PathBuf {
        let folder = self.path(name);
        fs::create_dir(&folder).unwrap();
        run("mount", &["-t", "tmpfs", "-o", &format!("size={bytes}"), "small", text(&folder)]);
        self.mounts.push(folder.clone());
        folder
    }

    /// Processes of this place's machines.
    pub(crate) fn processes(&self) -> usize {
        machines_under(self.root()).unwrap().len()
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        for (_, process) in machines_under(self.root()).unwrap_or_default() {
            let _ = Command::new("kill").args(["-9", &process.pid.to_string()]).status();
        }
        for folder in &self.mounts {
            let _ = Command::new("umount").args(["--lazy", text(folder)]).status();
        }
        for netns in &self.netns {
            let _ = Command::new("ip").args(["netns", "delete", netns]).status();
        }
    }
}

/// Users of the tests' machines: above those of containers, below those of the platform.
const FIRST_USER: u32 = 0x6fff_0000;

/// The groups of this test process's machines.
pub(crate) fn cgroups() -> Cgroups {
    Cgroups::open(&format!("sbvmm-{}", std::process::id())).unwrap()
}

pub(crate) async fn vmm() -> QemuVmm {
    QemuVmm::new(Path::new("qemu-system-x86_64"), Accelerator::Tcg, cgroups()).await.unwrap()
}

/// What the guest says: which life it is, and how far.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Line {
    pub(crate) nonce: String,
    pub(crate) counter: u32,
}

/// The latest complete line of the guest.
pub(crate) fn line(machine: &dyn Machine) -> Option<Line> {
    let output = machine.output();
    let console = output.rsplit_once("console: ")?.1;
    assert!(!console.contains("BAD"), "the guest's memory is not as it left it: {console}");
    let complete = console.lines().rev().find(|line| line.len() == 17)?;
    let (nonce, counter) = complete.split_once(' ')?;
    Some(Line { nonce: nonce.to_owned(), counter: u32::from_str_radix(counter, 16).ok()? })
}

/// Waits until the guest has counted past `counter`.
pub(crate) async fn past(machine: &dyn Machine, counter: u32) -> Line {
    let counted = async {
        loop {
            if let Some(line) = line(machine)
                && line.counter > counter
            {
                return line;
            }
            // The console is a file in memory: there is nothing to be woken by.
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    };
    match tokio::time::timeout(PATIENCE, counted).await {
        Ok(line) => line,
        Err(_) => panic!("the guest is silent: {}", machine.output()),
    }
}

pub(crate) async fn within<T>(what: &str, future: impl Future<Output = T>) -> T {
    tokio::time::timeout(PATIENCE, future).await.unwrap_or_else(|_| panic!("{what}: not within {PATIENCE:?}"))
}

fn run(program: &str, arguments: &[&str]) {
    let output = Command::new(program).args(arguments).output().unwrap();
    assert!(output.status.success(), "{program} {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}
