//! A place to run machines in: folder, binaries, namespaces, kernel, and a way to say what the fake's guest does.

use std::{
    fs,
    io::{Read, Write},
    os::{fd::AsRawFd, unix::net::UnixStream},
    path::{Path, PathBuf},
    process::Command,
    sync::atomic::{AtomicU32, Ordering},
    time::Duration,
};

use sandbar_vmm::{
    BootSource, Cgroups, Confinement, DiskRate, FirecrackerOptions, FirecrackerVmm, Machine, MachineSpec,
    Saved, SnapshotFiles, Vmm, process::machines_under,
};
use serde::de::DeserializeOwned;
use tempfile::TempDir;

use super::fake::{PAGE, Plan, Step, bodies::Fill};

pub(crate) const MEMORY_MB: u32 = 4;
pub(crate) const PAGES: usize = (MEMORY_MB as usize) * (1 << 20) / PAGE;
pub(crate) const FIRST_USER: u32 = 912_000;
const PATIENCE: Duration = Duration::from_secs(60);

/// Which Firecracker.
pub(crate) enum Binaries {
    Fake,
    Real { firecracker: PathBuf, jailer: PathBuf },
}

impl Binaries {
    /// The jailer is its neighbour, as in a release.
    pub(crate) fn real(firecracker: &Path) -> Self {
        Self::Real { firecracker: firecracker.to_owned(), jailer: firecracker.with_file_name("jailer") }
    }
}

/// A folder and namespaces for one test. Whatever runs under the folder when it is dropped is killed.
pub(crate) struct Place {
    root: TempDir,
    netns: Vec<String>,
    binaries: (PathBuf, PathBuf),
    pub(crate) plan: Plan,
    /// The control group above its machines' groups. Not that of other tests: a sweep takes what is empty, and so what one is about to join.
    parent: String,
    pub(crate) groups: Cgroups,
}

impl Place {
    pub(crate) fn new(binaries: Binaries) -> Self {
        let root = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
        let binaries = match binaries {
            Binaries::Real { firecracker, jailer } => (firecracker, jailer),
            Binaries::Fake => {
                // A link, under which this very binary is one of the two.
                let fake = |name: &str| {
                    let path = root.path().join(name);
                    fs::hard_link(std::env::current_exe().unwrap(), &path).unwrap();
                    path
                };
                (fake("firecracker"), fake("jailer"))
            }
        };
        let plan =
            Plan { version: "v1.16.1".to_owned(), jailer_version: "v1.16.1".to_owned(), ..Plan::default() };
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let parent = format!("sandbar-fc-{}-{number}", std::process::id());
        let groups = Cgroups::open(&parent).unwrap();
        let place = Self { root, netns: Vec::new(), binaries, plan, parent, groups };
        place.plan();
        let (object, kernel) = (place.path("guest.o"), place.path("kernel"));
        let source = place.path("guest.s");
        fs::write(&source, ".globl start\nstart: hlt\njmp start\n").unwrap();
        run("as", &["--64", "-o", text(&object), text(&source)]);
        run("ld", &["-N", "-Ttext=0x1000000", "-e", "start", "-o", text(&kernel), text(&object)]);
        fs::write(place.path("initramfs"), b"unused").unwrap();
        place
    }

    /// The plan is in force for processes that start from now on.
    pub(crate) fn plan(&self) {
        fs::write(Plan::file(self.root.path()), serde_json::to_vec(&self.plan).unwrap()).unwrap();
    }

    pub(crate) fn on(&mut self, request: &str, step: Step) {
        self.plan.requests = [(request.to_owned(), step)].into();
        self.plan();
    }

    pub(crate) fn all_goes_well(&mut self) {
        self.plan = Plan {
            version: std::mem::take(&mut self.plan.version),
            jailer_version: std::mem::take(&mut self.plan.jailer_version),
            ..Plan::default()
        };
        self.plan();
    }

    pub(crate) fn options(&self) -> FirecrackerOptions {
        let (firecracker, jailer) = self.binaries.clone();
        FirecrackerOptions { firecracker, jailer }
    }

    pub(crate) async fn vmm(&self) -> FirecrackerVmm {
        FirecrackerVmm::new(&self.options(), self.groups.clone()).await.unwrap()
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
        let netns = format!("sbfc-{}-{number}", std::process::id());
        run("ip", &["netns", "add", &netns]);
        self.netns.push(netns.clone());
        run("ip", &["-n", &netns, "tuntap", "add", "tap0", "mode", "tap"]);
        let work_dir = self.path(name);
        fs::create_dir(&work_dir).unwrap();
        let disk = work_dir.join("disk.ext4");
        fs::File::create(&disk).unwrap().set_len(1 << 20).unwrap();
        MachineSpec {
            vcpus: 2,
            memory_mb: MEMORY_MB,
            disk,
            work_dir,
            netns: Path::new("/run/netns").join(netns),
            tap: "tap0".to_owned(),
            confinement: Confinement { user: FIRST_USER + number, group: format!("{name}-{number}") },
            disk_rate: DiskRate::default(),
        }
    }

    /// A snapshot of a machine that has just booted, with these pages written.
    pub(crate) async fn snapshot(&mut self, vmm: &FirecrackerVmm, pages: &[(usize, u8)]) -> SnapshotFiles {
        let spec = self.spec("origin");
        let source = self.source("snapshot.memory");
        let machine = vmm.boot(&spec, &source).await.unwrap();
        fill(&spec, pages);
        machine.pause().await.unwrap();
        let files = SnapshotFiles { state: self.path("snapshot.state"), memory: source.memory };
        machine.save(&files).await.unwrap();
        machine.kill().await.unwrap();
        files
    }

    /// Files for a save of `machine`, the memory laid out as a clone of the image that it asks for.
    pub(crate) fn laid_out(&self, machine: &dyn Machine, name: &str) -> SnapshotFiles {
        let files = SnapshotFiles {
            state: self.path(&format!("{name}.state")),
            memory: self.path(&format!("{name}.memory")),
        };
        fs::copy(machine.memory_image(), &files.memory).unwrap();
        files
    }

    /// Pauses a machine and saves it.
    pub(crate) async fn save(&self, machine: &dyn Machine, name: &str) -> (SnapshotFiles, Saved) {
        let files = self.laid_out(machine, name);
        machine.pause().await.unwrap();
        let saved = machine.save(&files).await.unwrap();
        (files, saved)
    }

    /// Processes of this place's machines.
    pub(crate) fn processes(&self) -> usize {
        machines_under(self.root()).unwrap().len()
    }

    /// That nothing runs, that these machines have no groups, and that nothing but the disk is in these machines' folders.
    pub(crate) fn assert_nothing_left(&self, specs: &[&MachineSpec]) {
        assert_eq!(self.processes(), 0);
        let groups = self.group_names();
        for spec in specs {
            let ours = format!("{}.", spec.confinement.group);
            assert!(!groups.iter().any(|group| group.starts_with(&ours)), "{groups:?}");
            let left: Vec<_> =
                fs::read_dir(&spec.work_dir).unwrap().map(|entry| entry.unwrap().path()).collect();
            assert_eq!(left, std::slice::from_ref(&spec.disk));
        }
    }

    /// Names of the groups that there are.
    fn group_names(&self) -> Vec<String> {
        let in_parent = |hierarchy: PathBuf| fs::read_dir(hierarchy.join(&self.parent)).into_iter().flatten();
        let entries = hierarchies().into_iter().flat_map(in_parent).map(Result::unwrap);
        let folders = entries.filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()));
        folders.map(|entry| entry.file_name().into_string().unwrap()).collect()
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        for (_, process) in machines_under(self.root()).unwrap_or_default() {
            let _ = Command::new("kill").args(["-9", &process.pid.to_string()]).status();
        }
        for netns in &self.netns {
            let _ = Command::new("ip").args(["netns", "delete", netns]).status();
        }
        let _ = self.groups.sweep();
        for hierarchy in hierarchies() {
            let _ = fs::remove_dir(hierarchy.join(&self.parent));
        }
    }
}

fn hierarchies() -> Vec<PathBuf> {
    let mounts = fs::read_to_string("/proc/self/mounts").unwrap();
    let groups =
        mounts.lines().filter(|line| line.split(' ').nth(2).is_some_and(|kind| kind.starts_with("cgroup")));
    groups.map(|line| line.split(' ').nth(1).unwrap().into()).collect()
}

/// The root of a machine's process.
pub(crate) fn jail_of(spec: &MachineSpec) -> PathBuf {
    spec.work_dir.join("jail/firecracker/machine/root")
}

/// The guest fills pages.
pub(crate) fn fill(spec: &MachineSpec, pages: &[(usize, u8)]) {
    let pages: Vec<_> = pages.iter().map(|&(page, value)| Fill { page, value }).collect();
    assert_eq!(ask(spec, "PUT /fake/pages", &serde_json::to_string(&pages).unwrap()), "");
}

/// The first byte of each of the guest's pages.
pub(crate) fn pages(spec: &MachineSpec) -> Vec<u8> {
    answer(spec, "GET /fake/pages")
}

/// The guest's drives, as they are now.
pub(crate) fn drives(spec: &MachineSpec) -> serde_json::Value {
    answer(spec, "GET /fake/drives")
}

/// The requests that the driver has made.
pub(crate) fn log(spec: &MachineSpec) -> Vec<String> {
    answer(spec, "GET /fake/log")
}

fn answer<T: DeserializeOwned>(spec: &MachineSpec, request: &str) -> T {
    serde_json::from_str(&ask(spec, request, "")).unwrap()
}

fn ask(spec: &MachineSpec, request: &str, body: &str) -> String {
    let folder = fs::File::open(jail_of(spec)).unwrap();
    let mut stream = UnixStream::connect(format!("/proc/self/fd/{}/api.socket", folder.as_raw_fd())).unwrap();
    write!(
        stream,
        "{request} HTTP/1.1\r\nAccept: application/json\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    )
    .unwrap();
    stream.shutdown(std::net::Shutdown::Write).unwrap();
    let mut text = String::new();
    stream.read_to_string(&mut text).unwrap();
    let (head, body) = text.split_once("\r\n\r\n").unwrap();
    assert!(head.starts_with("HTTP/1.1 20"), "{text}");
    body.to_owned()
}

/// The first byte of each page of an image.
pub(crate) fn image(memory: &Path) -> Vec<u8> {
    let bytes = fs::read(memory).unwrap();
    let page = |page: &[u8]| {
        assert!(page.iter().all(|byte| *byte == page[0]), "half a page was written");
        page[0]
    };
    bytes.chunks(PAGE).map(page).collect()
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
