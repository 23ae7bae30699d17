//! Control groups: version 2, or version 1 where the controllers are there.
//!
//! ```text
//!   <mount of each hierarchy>/<parent>/<group>.<when it was made>
//! ```
//!
//! The parent is this agent's; it is beside all others and not below the agent's own group, which a service manager empties when the
//! agent ends. A group's name is never used twice, so that a late removal cannot meet a newer group.

use std::{
    collections::BTreeSet,
    fs, io,
    path::{Path, PathBuf},
    sync::Arc,
};

use rustix::time::{ClockId, clock_gettime};

use crate::ProcessIdentity;

/// A failure to make or bound a control group.
#[derive(Debug, thiserror::Error)]
#[error("cannot {action} {path}")]
pub struct CgroupError {
    action: &'static str,
    path: PathBuf,
    source: io::Error,
}

fn failed(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> CgroupError {
    let path = path.to_owned();
    move |source| CgroupError { action, path, source }
}

/// What a group bounds, and how.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Bounds {
    pub(crate) memory_bytes: u64,
    /// Percent of one processor.
    pub(crate) processor_percent: u32,
    /// Share of the processors under contention, in machines of one virtual processor.
    pub(crate) weight: u32,
    /// Processes and threads.
    pub(crate) tasks: u32,
}

/// Who bounds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Controller {
    Cpu,
    Memory,
    Pids,
}

impl Controller {
    const ALL: [Self; 3] = [Self::Cpu, Self::Memory, Self::Pids];

    const fn name(self) -> &'static str {
        match self {
            Self::Cpu => "cpu",
            Self::Memory => "memory",
            Self::Pids => "pids",
        }
    }

    /// Files of a group and what is to be written to them, in this order.
    fn settings(self, version: Version, bounds: &Bounds) -> Vec<(&'static str, String)> {
        /// Microseconds over which processor time is counted.
        const PERIOD: u32 = 100_000;
        let quota = u64::from(bounds.processor_percent) * u64::from(PERIOD) / 100;
        let Bounds { memory_bytes, weight, tasks, .. } = bounds;
        match (self, version) {
            (Self::Cpu, Version::Two) => vec![
                ("cpu.max", format!("{quota} {PERIOD}")),
                ("cpu.weight", (weight * 100).clamp(1, 10_000).to_string()),
            ],
            (Self::Cpu, Version::One) => vec![
                ("cpu.cfs_period_us", PERIOD.to_string()),
                ("cpu.cfs_quota_us", quota.to_string()),
                ("cpu.shares", (weight * 1024).to_string()),
            ],
            (Self::Memory, Version::Two) => {
                vec![("memory.max", memory_bytes.to_string()), ("memory.oom.group", "1".to_owned())]
            }
            (Self::Memory, Version::One) => vec![("memory.limit_in_bytes", memory_bytes.to_string())],
            (Self::Pids, _) => vec![("pids.max", tasks.to_string())],
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Version {
    One,
    Two,
}

/// One tree of groups with controllers of ours.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Hierarchy {
    version: Version,
    mount: PathBuf,
    controllers: Vec<Controller>,
}

/// The control groups of one agent's machines. Clones are the same; with the last of them the parent goes, if it is empty.
#[derive(Debug, Clone)]
pub struct Cgroups(Arc<Parent>);

#[derive(Debug)]
struct Parent {
    name: String,
    hierarchies: Vec<Hierarchy>,
    shortfall: Option<String>,
}

impl Cgroups {
    /// Makes the group `parent` in every hierarchy that has controllers of ours, and finds out which of them work.
    pub fn open(parent: &str) -> Result<Self, CgroupError> {
        let table = Path::new("/proc/self/mountinfo");
        let table = fs::read_to_string(table).map_err(failed("read", table))?;
        let mut reasons = Vec::new();
        let mut hierarchies = Vec::new();
        for found in hierarchies_in(&table) {
            match found.prepare(parent) {
                Ok(hierarchy) => hierarchies.push(hierarchy),
                Err(error) => reasons.push(format!("{error}: {}", error.source)),
            }
        }
        let has = |controller| hierarchies.iter().any(|h: &Hierarchy| h.controllers.contains(&controller));
        let missing: Vec<_> =
            Controller::ALL.into_iter().filter(|c| !has(*c)).map(Controller::name).collect();
        let shortfall = (!missing.is_empty()).then(|| {
            let because =
                if reasons.is_empty() { String::new() } else { format!(" ({})", reasons.join("; ")) };
            format!("no control group bounds {}{because}", missing.join(", "))
        });
        Ok(Self(Arc::new(Parent { name: parent.to_owned(), hierarchies, shortfall })))
    }

    /// Whether there is no hierarchy of groups at all: no machine is bounded, or found by its group.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.hierarchies.is_empty()
    }

    /// What machines are not bounded in here, if there is anything, and why.
    #[must_use]
    pub fn shortfall(&self) -> Option<&str> {
        self.0.shortfall.as_deref()
    }

    /// Which versions of control groups bound machines, in words.
    #[must_use]
    pub fn describe(&self) -> String {
        let one = |h: &Hierarchy| {
            let names: Vec<_> = h.controllers.iter().map(|c| c.name()).collect();
            let version = match h.version {
                Version::One => "v1",
                Version::Two => "v2",
            };
            format!("{} (cgroup {version})", names.join(", "))
        };
        self.0.hierarchies.iter().map(one).collect::<Vec<_>>().join(", ")
    }

    /// Makes a group that bounds what will be started in it.
    pub(crate) fn create(&self, name: &str, bounds: &Bounds) -> Result<Group, CgroupError> {
        let now = clock_gettime(ClockId::Monotonic);
        let group = self.group(&format!("{name}.{:x}{:08x}", now.tv_sec, now.tv_nsec));
        for (hierarchy, folder) in self.0.hierarchies.iter().zip(&group.folders) {
            let made = fs::create_dir(folder).map_err(failed("make the control group", folder));
            let bounded = made.and_then(|()| hierarchy.bound(folder, bounds));
            if let Err(error) = bounded {
                group.remove();
                return Err(error);
            }
        }
        Ok(group)
    }

    /// The group of a machine that an earlier agent started.
    pub(crate) fn of(&self, process: ProcessIdentity) -> io::Result<Group> {
        let text = fs::read_to_string(format!("/proc/{}/cgroup", process.pid))?;
        Ok(match name_in(&text, &self.0.name) {
            Some(name) => self.group(name),
            None => Group::none(),
        })
    }

    fn group(&self, name: &str) -> Group {
        let hierarchies = &self.0.hierarchies;
        Group {
            folders: hierarchies.iter().map(|h| h.mount.join(&self.0.name).join(name)).collect(),
            versions: hierarchies.iter().map(|h| h.version).collect(),
        }
    }

    /// All processes in groups of ours: machines that run, whatever they make of their own memory.
    pub fn processes(&self) -> io::Result<Vec<ProcessIdentity>> {
        let mut found = BTreeSet::new();
        for folder in self.folders()? {
            // A group goes when its last process has gone.
            let Ok(text) = fs::read_to_string(folder.join("cgroup.procs")) else { continue };
            found.extend(text.lines().filter_map(|line| line.parse::<i32>().ok()));
        }
        // One that is gone by now needs no name.
        Ok(found.into_iter().filter_map(|pid| ProcessIdentity::of(pid).ok()).collect())
    }

    /// Removes the groups in which nothing runs.
    pub fn sweep(&self) -> io::Result<()> {
        for folder in self.folders()? {
            remove(&folder);
        }
        Ok(())
    }

    fn folders(&self) -> io::Result<Vec<PathBuf>> {
        let mut folders = Vec::new();
        for hierarchy in &self.0.hierarchies {
            for entry in fs::read_dir(hierarchy.mount.join(&self.0.name))? {
                let entry = entry?;
                if entry.file_type()?.is_dir() {
                    folders.push(entry.path());
                }
            }
        }
        Ok(folders)
    }
}

#[cfg(test)]
impl Cgroups {
    /// Groups in the hierarchy of version 2, whatever controllers it has; `None` where there is none.
    pub(crate) fn unified_alone(parent: &str) -> Option<Self> {
        let table = fs::read_to_string("/proc/self/mountinfo").unwrap();
        let found = table.lines().filter_map(hierarchy).find(|found| found.version == Version::Two)?;
        let hierarchy = Hierarchy { controllers: Vec::new(), ..found };
        fs::create_dir_all(hierarchy.mount.join(parent)).unwrap();
        Some(Self(Arc::new(Parent {
            name: parent.to_owned(),
            hierarchies: vec![hierarchy],
            shortfall: None,
        })))
    }
}

impl Drop for Parent {
    fn drop(&mut self) {
        for hierarchy in &self.hierarchies {
            // Not while there are machines in it.
            let _ = fs::remove_dir(hierarchy.mount.join(&self.name));
        }
    }
}

impl Hierarchy {
    /// Makes the parent and switches the controllers on below it; those that cannot be are left out.
    fn prepare(mut self, parent: &str) -> Result<Self, CgroupError> {
        let folder = self.mount.join(parent);
        match fs::create_dir(&folder) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            made => made.map_err(failed("make the control group", &folder))?,
        }
        if self.version == Version::Two {
            let mut refusal = None;
            self.controllers.retain(|controller| {
                [&self.mount, &folder].into_iter().all(|level| {
                    let file = level.join("cgroup.subtree_control");
                    let on = fs::write(&file, format!("+{}", controller.name()));
                    on.map_err(|error| refusal = Some(failed("switch controllers on in", &file)(error)))
                        .is_ok()
                })
            });
            if let Some(error) = refusal.filter(|_| self.controllers.is_empty()) {
                let _ = fs::remove_dir(&folder);
                return Err(error);
            }
        }
        Ok(self)
    }

    fn bound(&self, folder: &Path, bounds: &Bounds) -> Result<(), CgroupError> {
        for controller in &self.controllers {
            for (file, value) in controller.settings(self.version, bounds) {
                let file = folder.join(file);
                fs::write(&file, value).map_err(failed("set", &file))?;
            }
        }
        Ok(())
    }
}

/// One machine's group, in each hierarchy.
#[derive(Debug, Clone)]
pub(crate) struct Group {
    folders: Vec<PathBuf>,
    versions: Vec<Version>,
}

impl Group {
    /// That of a process that is in none of ours.
    pub(crate) fn none() -> Self {
        Self { folders: Vec::new(), versions: Vec::new() }
    }

    /// The folder in the hierarchy of version 2, in which a process can be born.
    pub(crate) fn unified(&self) -> Option<&Path> {
        self.entries(Version::Two).next()
    }

    /// The files of version 1 by which a thread joins.
    pub(crate) fn task_files(&self) -> impl Iterator<Item = PathBuf> {
        self.entries(Version::One).map(|folder| folder.join("tasks"))
    }

    /// The files by which a process of one thread joins.
    pub(crate) fn process_files(&self) -> impl Iterator<Item = PathBuf> {
        self.folders.iter().map(|folder| folder.join("cgroup.procs"))
    }

    fn entries(&self, wanted: Version) -> impl Iterator<Item = &Path> {
        let both = self.folders.iter().zip(&self.versions);
        both.filter(move |(_, version)| **version == wanted).map(|(folder, _)| folder.as_path())
    }

    /// Removes the group, whose processes are gone. Fine if it is not there.
    pub(crate) fn remove(&self) {
        for folder in &self.folders {
            remove(folder);
        }
    }
}

fn remove(folder: &Path) {
    match fs::remove_dir(folder) {
        Ok(()) => {}
        // In use: of a machine that lives.
        Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::ResourceBusy) => {}
        Err(error) => tracing::warn!(folder = %folder.display(), %error, "a control group stays"),
    }
}

/// The mounted hierarchies that have controllers of ours; each controller once, in version 2 where it is there.
fn hierarchies_in(mountinfo: &str) -> Vec<Hierarchy> {
    let mut found: Vec<Hierarchy> = mountinfo.lines().filter_map(hierarchy).collect();
    found.sort_by_key(|hierarchy| match hierarchy.version {
        Version::Two => 0,
        Version::One => 1,
    });
    let mut taken = Vec::new();
    for hierarchy in &mut found {
        hierarchy.controllers.retain(|controller| !taken.contains(controller));
        taken.extend_from_slice(&hierarchy.controllers);
    }
    found.retain(|hierarchy| !hierarchy.controllers.is_empty());
    found
}

/// `36 35 0:31 / /sys/fs/cgroup/cpu rw,relatime - cgroup cgroup rw,cpu` (see proc(5)).
fn hierarchy(line: &str) -> Option<Hierarchy> {
    let (before, after) = line.split_once(" - ")?;
    let mount = PathBuf::from(before.split(' ').nth(4)?);
    let mut after = after.split(' ');
    let (kind, options) = (after.next()?, after.nth(1)?);
    let (version, names) = match kind {
        "cgroup" => (Version::One, options.replace(',', " ")),
        "cgroup2" => (Version::Two, fs::read_to_string(mount.join("cgroup.controllers")).ok()?),
        _ => return None,
    };
    let has = |controller: &Controller| names.split_whitespace().any(|name| name == controller.name());
    Some(Hierarchy { version, controllers: Controller::ALL.into_iter().filter(has).collect(), mount })
}

/// The name of a process's group below `parent`, from `/proc/PID/cgroup`.
fn name_in<'a>(text: &'a str, parent: &str) -> Option<&'a str> {
    text.lines().find_map(|line| {
        let path = Path::new(line.splitn(3, ':').nth(2)?);
        (path.parent()?.file_name()? == parent).then(|| path.file_name()?.to_str()).flatten()
    })
}

#[cfg(test)]
mod tests {
    use std::{
        io::Write,
        os::unix::process::ExitStatusExt,
        process::{Command, ExitStatus, Stdio},
    };

    use super::*;

    #[test]
    fn every_controller_of_version_one_is_found_where_it_is_mounted() {
        let table = "30 29 0:26 / /sys/fs/cgroup/cpu,cpuacct rw,relatime - cgroup cgroup rw,cpu,cpuacct\n\
            31 29 0:27 / /sys/fs/cgroup/memory rw,relatime shared:9 - cgroup cgroup rw,memory\n\
            32 29 0:28 / /sys/fs/cgroup/freezer rw,relatime - cgroup cgroup rw,freezer\n\
            33 29 0:29 / /no/such/mount rw,relatime - cgroup2 cgroup2 rw\n\
            34 29 0:30 / / rw - ext4 /dev/vda rw,errors=remount-ro\n";
        let found = hierarchies_in(table);
        let seen: Vec<_> = found.iter().map(|h| (h.mount.to_str().unwrap(), &h.controllers[..])).collect();
        assert_eq!(
            seen,
            [
                ("/sys/fs/cgroup/cpu,cpuacct", &[Controller::Cpu][..]),
                ("/sys/fs/cgroup/memory", &[Controller::Memory][..]),
            ]
        );
    }

    #[test]
    fn version_two_comes_first_and_a_controller_counts_once() {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("cgroup.controllers"), "cpuset cpu pids\n").unwrap();
        let table = format!(
            "31 29 0:27 / /m rw - cgroup cgroup rw,memory\n32 29 0:27 / /p rw - cgroup cgroup rw,pids\n\
             33 29 0:29 / {} rw - cgroup2 cgroup2 rw\n",
            folder.path().display()
        );
        let found = hierarchies_in(&table);
        assert_eq!(found.len(), 2);
        assert_eq!(
            (found[0].version, &found[0].controllers[..]),
            (Version::Two, &[Controller::Cpu, Controller::Pids][..])
        );
        assert_eq!((found[1].version, &found[1].controllers[..]), (Version::One, &[Controller::Memory][..]));
    }

    #[test]
    fn bounds_are_written_in_each_versions_words() {
        let bounds = Bounds { memory_bytes: 1 << 30, processor_percent: 250, weight: 2, tasks: 99 };
        let words = |controller: Controller, version| {
            let settings = controller.settings(version, &bounds);
            settings.into_iter().map(|(file, value)| format!("{file}={value}")).collect::<Vec<_>>().join(" ")
        };
        assert_eq!(words(Controller::Cpu, Version::Two), "cpu.max=250000 100000 cpu.weight=200");
        assert_eq!(
            words(Controller::Cpu, Version::One),
            "cpu.cfs_period_us=100000 cpu.cfs_quota_us=250000 cpu.shares=2048"
        );
        assert_eq!(words(Controller::Memory, Version::Two), "memory.max=1073741824 memory.oom.group=1");
        assert_eq!(words(Controller::Memory, Version::One), "memory.limit_in_bytes=1073741824");
        assert_eq!(words(Controller::Pids, Version::One), "pids.max=99");
    }

    #[test]
    fn a_group_is_known_by_its_parent() {
        let text = "8:pids:/\n4:memory:/sandbar-0a1f/sb-1.2a\n0::/sandbar-0a1f/sb-1.2a\n";
        assert_eq!(name_in(text, "sandbar-0a1f"), Some("sb-1.2a"));
        assert_eq!(name_in(text, "sandbar-0a1e"), None);
        assert_eq!(name_in("0::/\n", "sandbar-0a1f"), None);
    }

    /// On the machine's own hierarchies, whichever they are.
    #[test]
    fn a_group_holds_what_it_is_told_until_nothing_is_in_it() {
        let parent = format!("sandbar-test-{}", std::process::id());
        let cgroups = Cgroups::open(&parent).unwrap();
        assert_eq!(cgroups.shortfall(), None, "this machine has no controllers to test with");
        let bounds = Bounds { memory_bytes: 64 << 20, processor_percent: 50, weight: 1, tasks: 7 };
        let group = cgroups.create("one", &bounds).unwrap();
        assert_ne!(cgroups.create("one", &bounds).unwrap().folders, group.folders);
        let mut child = Command::new("sleep").arg("1000").spawn().unwrap();
        let process = ProcessIdentity::of(i32::try_from(child.id()).unwrap()).unwrap();
        for folder in &group.folders {
            fs::write(folder.join("cgroup.procs"), process.pid.to_string()).unwrap();
        }
        assert_eq!(cgroups.processes().unwrap(), [process]);
        assert_eq!(cgroups.of(process).unwrap().folders, group.folders);
        cgroups.sweep().unwrap();
        assert!(group.folders.iter().all(|folder| folder.exists()));
        assert_eq!(cgroups.folders().unwrap().len(), group.folders.len(), "the empty group is swept");
        child.kill().unwrap();
        child.wait().unwrap();
        group.remove();
        group.remove();
        let above = group.folders[0].parent().unwrap().to_owned();
        drop(cgroups);
        assert!(!above.exists());
    }

    /// Runs the script as a process of its own in a group; how it ended.
    fn run_in(group: &Group, script: &str) -> ExitStatus {
        let mut child = Command::new("sh")
            .args(["-c", &format!("read go; {script}")])
            .stdin(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        for file in group.process_files() {
            fs::write(file, child.id().to_string()).unwrap();
        }
        child.stdin.take().unwrap().write_all(b"go\n").unwrap();
        child.wait().unwrap()
    }

    #[test]
    fn who_takes_more_than_the_group_may_have_does_not_get_it() {
        let cgroups = Cgroups::open(&format!("sandbar-bounds-{}", std::process::id())).unwrap();
        let bounds = Bounds { memory_bytes: 16 << 20, processor_percent: 100, weight: 1, tasks: 2 };
        let group = cgroups.create("one", &bounds).unwrap();
        // What it reads at once.
        assert_eq!(
            run_in(&group, "exec dd if=/dev/zero of=/dev/null bs=64M count=1").signal(),
            Some(libc::SIGKILL)
        );
        assert!(run_in(&group, "sleep 0; exit").success());
        let lonely = cgroups.create("two", &Bounds { tasks: 1, ..bounds }).unwrap();
        assert!(run_in(&lonely, "exit").success());
        assert!(!run_in(&lonely, "sleep 0; exit").success(), "a second process was started");
        lonely.remove();
        group.remove();
        assert!(group.folders.iter().all(|folder| !folder.exists()));
    }
}
