//! What a platform has on this machine, found by looking at the machine: processes, mounts, namespaces, devices, folders. And the
//! removal of all of it, for a platform that nobody will stop any more.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io;
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use rustix::process::{Pid, Signal};
use sha2::{Digest as _, Sha256};

/// How long killed processes may take to be gone.
const KILL_LIMIT: Duration = Duration::from_secs(20);

/// A platform's marks: its folder, and the tag of its network devices.
#[derive(Debug, Clone)]
pub struct Footprint {
    data_dir: PathBuf,
}

/// A process of the platform.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Process {
    /// Its id.
    pub pid: i32,
    /// When it started, in clock ticks since the machine did: with the id, this names one process for good.
    pub started: u64,
    /// Its command line.
    pub command: Vec<String>,
    /// The folder of the machine that it runs, if it does.
    pub machine: Option<String>,
}

/// What there is of a platform that has been stopped and whose sandboxes are gone. Empty, if all is well.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Leftovers {
    /// Processes of any kind.
    pub processes: Vec<Process>,
    /// Folders of sandboxes.
    pub sandbox_folders: BTreeSet<String>,
    /// Volumes.
    pub volumes: BTreeSet<String>,
    /// Records in the host's journal.
    pub journal: BTreeSet<String>,
    /// Network namespaces, links and tables.
    pub network: BTreeSet<String>,
    /// Control groups of machines.
    pub groups: BTreeSet<PathBuf>,
}

impl Process {
    /// Whether it runs a virtual machine.
    #[must_use]
    pub fn is_vmm(&self) -> bool {
        self.command.first().is_some_and(|program| program.contains("qemu-system"))
    }

    /// The sandbox in whose folder it works.
    #[must_use]
    pub fn sandbox(&self) -> Option<String> {
        let words = self.machine.iter().flat_map(|folder| folder.split('/'));
        words.filter(|word| word.len() == 39 && word.starts_with("sb-")).map(str::to_owned).next()
    }

    /// Whether it still runs. One that has ended and waits to be reaped does not.
    #[must_use]
    pub fn lives(&self) -> bool {
        stat(self.pid).is_ok_and(|stat| stat.started == self.started && !matches!(stat.state, 'Z' | 'X'))
    }

    /// Whether nothing is left of it, not even an exit code that its parent has not asked for.
    #[must_use]
    pub fn is_reaped(&self) -> bool {
        !stat(self.pid).is_ok_and(|stat| stat.started == self.started)
    }

    /// Ends it without asking. That it is gone already is fine.
    pub fn kill(&self) -> Result<()> {
        signal(self.pid, Signal::KILL)
    }
}

/// Sends a signal; a process that is gone is fine.
pub fn signal(pid: i32, signal: Signal) -> Result<()> {
    let pid = Pid::from_raw(pid).context("not a process id")?;
    match rustix::process::kill_process(pid, signal) {
        Ok(()) | Err(rustix::io::Errno::SRCH) => Ok(()),
        Err(error) => Err(error).context("the process cannot be signalled"),
    }
}

/// A memory figure of a process in KiB, by its name in `/proc/PID/status` (`VmRSS`, `VmHWM`).
pub fn memory_kib(pid: i32, name: &str) -> Result<u64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))
        .context("no such figure")?;
    Ok(line.trim().trim_end_matches(" kB").parse()?)
}

impl Footprint {
    /// The marks of the platform in a folder.
    #[must_use]
    pub fn new(data_dir: &Path) -> Self {
        Self { data_dir: data_dir.to_owned() }
    }

    /// The folder of the host agent.
    #[must_use]
    pub fn host_dir(&self) -> PathBuf {
        self.data_dir.join("host")
    }

    /// The folder of disks.
    #[must_use]
    pub fn store_dir(&self) -> PathBuf {
        self.host_dir().join("store")
    }

    /// The four digits that are in the name of every network device of the platform.
    #[must_use]
    pub fn tag(&self) -> String {
        hex::encode(&Sha256::digest(self.host_dir().as_os_str().as_bytes())[..2])
    }

    /// All processes that work in the platform's folder, but for this one.
    pub fn processes(&self) -> Result<Vec<Process>> {
        let own = std::process::id();
        let mut found = Vec::new();
        for entry in fs::read_dir("/proc")? {
            let Some(pid) = entry?.file_name().to_str().and_then(|name| name.parse::<u32>().ok()) else {
                continue;
            };
            if pid == own {
                continue;
            }
            // A process that ends while it is looked at is not there.
            if let Ok(Some(process)) = self.look_at(pid.cast_signed()) {
                found.push(process);
            }
        }
        found.sort();
        Ok(found)
    }

    fn look_at(&self, pid: i32) -> io::Result<Option<Process>> {
        let command = fs::read(format!("/proc/{pid}/cmdline"))?;
        let command: Vec<String> = command
            .split(|byte| *byte == 0)
            .filter(|argument| !argument.is_empty())
            .map(|argument| String::from_utf8_lossy(argument).into_owned())
            .collect();
        if command.is_empty() {
            // A thread of the kernel, or a process that has ended and waits to be reaped.
            return Ok(None);
        }
        let folder = self.data_dir.to_string_lossy();
        let named = command.iter().any(|argument| argument.contains(&*folder));
        let inside = |link: &str| {
            fs::read_link(format!("/proc/{pid}/{link}")).is_ok_and(|path| path.starts_with(&self.data_dir))
        };
        // A virtual machine's command line names no folder, its environment does.
        let environment = fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
        let machine = environment
            .split(|byte| *byte == 0)
            .filter_map(|variable| variable.strip_prefix(b"SANDBAR_MACHINE=".as_slice()))
            .map(|folder| String::from_utf8_lossy(folder).into_owned())
            .find(|machine| machine.starts_with(&format!("{folder}/")));
        if named || machine.is_some() || inside("cwd") || inside("root") {
            return Ok(Some(Process { pid, started: stat(pid)?.started, command, machine }));
        }
        Ok(None)
    }

    /// The processes of virtual machines.
    pub fn vmms(&self) -> Result<Vec<Process>> {
        Ok(self.processes()?.into_iter().filter(Process::is_vmm).collect())
    }

    /// The VMM of a sandbox: it was started for it, or the host's record names it.
    pub fn vmm_of(&self, sandbox: &str) -> Result<Option<Process>> {
        let recorded = self.recorded()?;
        let is_its = |process: &Process| {
            process.sandbox().as_deref() == Some(sandbox)
                || recorded.get(&process.pid).is_some_and(|owner| owner == sandbox)
        };
        Ok(self.vmms()?.into_iter().find(is_its))
    }

    /// Machines that wait for a sandbox, or are getting ready to.
    pub fn spares(&self) -> Result<Vec<Process>> {
        let is_spare =
            |process: &Process| process.machine.as_ref().is_some_and(|folder| folder.ends_with("-spare"));
        // What was claimed has a record by the time that it is told of.
        let recorded = self.recorded()?;
        let mut spares: Vec<_> = self.vmms()?.into_iter().filter(is_spare).collect();
        spares.retain(|process| !recorded.contains_key(&process.pid));
        Ok(spares)
    }

    /// The machines that the host's journal knows, and whose they are.
    fn recorded(&self) -> Result<BTreeMap<i32, String>> {
        let folder = self.host_dir().join("journal");
        let mut owners = BTreeMap::new();
        for name in names_in(&folder)? {
            // Replaced or removed since it was listed: the next look finds what is there then.
            let Ok(text) = fs::read(folder.join(&name)) else { continue };
            let record: serde_json::Value = serde_json::from_slice(&text).unwrap_or_default();
            let process = record["process"]["pid"].as_i64().and_then(|pid| i32::try_from(pid).ok());
            if let Some((pid, owner)) = process.zip(record["id"].as_str()) {
                owners.insert(pid, owner.to_owned());
            }
        }
        Ok(owners)
    }

    /// The sandboxes that have a folder.
    pub fn sandbox_folders(&self) -> Result<BTreeSet<String>> {
        names_in(&self.store_dir().join("sandboxes"))
    }

    /// Network namespaces, links and tables that carry the platform's tag.
    pub fn network(&self) -> Result<BTreeSet<String>> {
        let tag = self.tag();
        let mut found = self.namespaces()?;
        let links = names_in(Path::new("/sys/class/net"))?;
        found.extend(links.into_iter().filter(|name| name.starts_with(&format!("sb{tag}"))));
        found.extend(self.tables()?);
        Ok(found)
    }

    /// Network namespaces: one for each sandbox, and the prepared ones.
    pub fn namespaces(&self) -> Result<BTreeSet<String>> {
        let prefix = format!("sb-{}-", self.tag());
        Ok(names_in(Path::new("/run/netns"))?.into_iter().filter(|name| name.starts_with(&prefix)).collect())
    }

    fn tables(&self) -> Result<BTreeSet<String>> {
        let listed = Command::new("nft").args(["list", "tables"]).output().context("nft does not start")?;
        let name = format!("sandbar_{}", self.tag());
        let text = String::from_utf8_lossy(&listed.stdout).into_owned();
        Ok(text.lines().filter(|line| line.contains(&name)).map(str::to_owned).collect())
    }

    /// Control groups of machines, in all hierarchies.
    pub fn groups(&self) -> Result<BTreeSet<PathBuf>> {
        let root = Path::new("/sys/fs/cgroup");
        let hierarchies = names_in(root)?.into_iter().map(|name| root.join(name));
        let parent = format!("sandbar-{}", self.tag());
        let mut found = BTreeSet::new();
        for folder in hierarchies.map(|hierarchy| hierarchy.join(&parent)).chain([root.join(&parent)]) {
            if folder.is_dir() {
                let groups = names_in(&folder)?.into_iter().map(|name| folder.join(name));
                found.extend(groups.filter(|group| group.is_dir()));
            }
        }
        Ok(found)
    }

    /// Mount points under the folder, in the order of their mounting.
    pub fn mounts(&self) -> Result<Vec<PathBuf>> {
        let table = fs::read_to_string("/proc/self/mountinfo")?;
        let points = table.lines().filter_map(|line| line.split(' ').nth(4)).map(unescape);
        Ok(points.filter(|point| point.starts_with(&self.data_dir)).collect())
    }

    /// Half-made things of the store: what its sessions are building or deleting, by session.
    pub fn store_sessions(&self) -> Result<BTreeSet<String>> {
        names_in(&self.store_dir().join("tmp"))
    }

    /// What must not be there once all sandboxes are gone and the platform has been stopped.
    pub fn leftovers(&self) -> Result<Leftovers> {
        Ok(Leftovers {
            processes: self.processes()?,
            sandbox_folders: self.sandbox_folders()?,
            volumes: names_in(&self.store_dir().join("volumes"))?,
            journal: names_in(&self.host_dir().join("journal"))?,
            network: self.network()?,
            groups: self.groups()?,
        })
    }

    /// Removes every trace: kills, unmounts, deletes. For a platform that nobody will stop any more, and at the end of the tests.
    pub fn remove_everything(&self) -> Result<()> {
        self.stop_by_force()?;
        match fs::remove_dir_all(&self.data_dir) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                Err(error).with_context(|| format!("{} stays", self.data_dir.display()))
            }
            _ => Ok(()),
        }
    }

    /// Kills and unmounts, but leaves what is on the disk.
    pub fn stop_by_force(&self) -> Result<()> {
        let started = Instant::now();
        loop {
            let processes = self.processes()?;
            if processes.is_empty() {
                break;
            }
            if started.elapsed() > KILL_LIMIT {
                bail!("these do not die: {processes:?}");
            }
            for process in processes {
                process.kill()?;
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        for name in self.namespaces()? {
            run("ip", &["netns", "delete", &name])?;
        }
        let prefix = format!("sb{}", self.tag());
        for name in names_in(Path::new("/sys/class/net"))?.iter().filter(|name| name.starts_with(&prefix)) {
            // With its namespace the other end went, and this one with it, perhaps since we looked.
            if Path::new("/sys/class/net").join(name).exists() {
                run("ip", &["link", "delete", name])?;
            }
        }
        for table in self.tables()? {
            let words: Vec<&str> = ["delete"].into_iter().chain(table.split(' ')).collect();
            run("nft", &words)?;
        }
        for point in self.mounts()?.into_iter().rev() {
            run("umount", &["--lazy", &point.to_string_lossy()])?;
        }
        Ok(())
    }
}

/// The names in a folder; none where it does not exist.
fn names_in(folder: &Path) -> Result<BTreeSet<String>> {
    match fs::read_dir(folder) {
        Ok(entries) => entries.map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned())).collect(),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(BTreeSet::new()),
        Err(error) => Err(error).with_context(|| format!("cannot list {}", folder.display())),
    }
}

/// What `/proc/PID/stat` says of a process.
struct Stat {
    state: char,
    started: u64,
}

fn stat(pid: i32) -> io::Result<Stat> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat"))?;
    // The second field is the program's name in brackets and may hold anything.
    let rest = stat.rsplit_once(") ").map_or("", |(_, rest)| rest);
    let mut fields = rest.split(' ');
    let state = fields.next().and_then(|field| field.chars().next());
    let started = fields.nth(18).and_then(|field| field.parse().ok());
    let both = state.zip(started).map(|(state, started)| Stat { state, started });
    both.ok_or_else(|| io::Error::other("not the form of /proc/PID/stat"))
}

/// A path as `/proc/self/mountinfo` writes it: `\040` for a space.
fn unescape(text: &str) -> PathBuf {
    let mut bytes = Vec::new();
    let mut rest = text.as_bytes();
    while let Some((&byte, after)) = rest.split_first() {
        let octal =
            after.get(..3).and_then(|digits| u8::from_str_radix(std::str::from_utf8(digits).ok()?, 8).ok());
        match octal {
            Some(escaped) if byte == b'\\' => {
                bytes.push(escaped);
                rest = &after[3..];
            }
            _ => {
                bytes.push(byte);
                rest = after;
            }
        }
    }
    PathBuf::from(std::ffi::OsString::from_vec(bytes))
}

fn run(program: &str, arguments: &[&str]) -> Result<()> {
    let output = Command::new(program)
        .args(arguments)
        .stdin(Stdio::null())
        .output()
        .with_context(|| format!("{program} does not start"))?;
    let said = String::from_utf8_lossy(&output.stderr);
    anyhow::ensure!(output.status.success(), "{program} {arguments:?}: {said}");
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mount_point_with_a_space_is_read_as_it_is() {
        assert_eq!(unescape("/a\\040b/c"), PathBuf::from("/a b/c"));
        assert_eq!(unescape("/plain"), PathBuf::from("/plain"));
        assert_eq!(unescape("/end\\"), PathBuf::from("/end\\"));
    }

    #[test]
    fn a_process_in_the_folder_is_found_killed_and_told_from_its_successor() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().canonicalize().unwrap();
        let footprint = Footprint::new(&path);
        let mut child = Command::new("sleep").arg("600").current_dir(&path).spawn().unwrap();
        // A process that is just being replaced by its program has no command line for a moment.
        let found = loop {
            match footprint.processes().unwrap() {
                found if found.is_empty() => std::thread::yield_now(),
                found => break found,
            }
        };
        assert_eq!(found.iter().map(|process| process.pid.cast_unsigned()).collect::<Vec<_>>(), [child.id()]);
        assert!(found[0].lives() && !found[0].is_vmm());
        found[0].kill().unwrap();
        while found[0].lives() {
            std::thread::yield_now();
        }
        assert!(!found[0].is_reaped());
        assert_eq!(footprint.processes().unwrap(), []);
        child.wait().unwrap();
        assert!(found[0].is_reaped());
        assert_eq!(footprint.processes().unwrap(), []);
    }

    #[test]
    fn the_sandbox_is_read_from_the_machines_folder() {
        let id = "sb-0192f0c1-5c4e-7a3b-9d2e-3f4a5b6c7d8e";
        let process = |machine: String| Process {
            pid: 1,
            started: 0,
            command: vec!["/usr/bin/qemu-system-x86_64".into()],
            machine: Some(machine),
        };
        let vmm = process(format!("/x/store/sandboxes/{id}"));
        assert!(vmm.is_vmm());
        assert_eq!(vmm.sandbox().as_deref(), Some(id));
        assert_eq!(process("/x/store/tmp/1-spare".into()).sandbox(), None);
    }
}
