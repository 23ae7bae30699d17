//! VMM processes: their identity, their end, and finding those that nobody recorded.
//!
//! Everything goes through a pidfd, so a signal never reaches a process that got a dead one's pid, and the end is pushed.

use std::{
    ffi::OsStr,
    fmt, fs, io,
    os::{
        fd::{AsFd, OwnedFd},
        unix::ffi::OsStrExt,
    },
    path::{Path, PathBuf},
    sync::{Arc, Once},
    time::Duration,
};

use rustix::{
    io::Errno,
    process::{Pid, PidfdFlags, Signal, WaitId, WaitIdOptions, pidfd_open, pidfd_send_signal, waitid},
};
use serde::{Deserialize, Serialize};
use tokio::{
    io::{Interest, unix::AsyncFd},
    time::timeout,
};

use crate::{
    VmmError,
    confine::Group,
    firecracker::{RootFolder, machines_in},
};

/// Environment variable of every VMM process: its work folder. It marks the process from the very moment it exists, before anybody
/// could have recorded it.
pub(crate) const MARK: &str = "SANDBAR_MACHINE";

/// How long a killed process may take to go: freeing a large guest's memory takes a while on a busy host.
const KILL_DEADLINE: Duration = Duration::from_secs(30);

/// A process, told apart from a later one that got the same pid.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct ProcessIdentity {
    /// The process id.
    pub pid: i32,
    /// When it started, in clock ticks since the host booted (field 22 of `/proc/PID/stat`).
    pub start_time: u64,
}

impl fmt::Display for ProcessIdentity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "process {} (started at tick {})", self.pid, self.start_time)
    }
}

impl ProcessIdentity {
    /// Who has this pid now.
    pub(crate) fn of(pid: i32) -> io::Result<Self> {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat"))?;
        let start_time = start_time(&stat).ok_or_else(|| {
            io::Error::new(io::ErrorKind::InvalidData, format!("/proc/{pid}/stat: {stat:?}"))
        })?;
        Ok(Self { pid, start_time })
    }
}

/// Field 22. The second field is the command's name in brackets and may hold spaces and brackets itself.
fn start_time(stat: &str) -> Option<u64> {
    let (_, after_name) = stat.rsplit_once(')')?;
    after_name.split_ascii_whitespace().nth(22 - 3)?.parse().ok()
}

/// Ends a VMM process that cannot be adopted, and returns once it is gone. Fine if it already is.
pub async fn kill(process: ProcessIdentity) -> Result<(), VmmError> {
    match Process::open(process, Group::none()) {
        Ok(found) => found.kill().await,
        Err(VmmError::Gone { .. }) => Ok(()),
        Err(error) => Err(error),
    }
}

/// All VMM processes of machines whose work folder lies under `root`: what to adopt or to kill after a crash.
pub fn machines_under(root: &Path) -> io::Result<Vec<(PathBuf, ProcessIdentity)>> {
    let root = fs::canonicalize(root)?;
    // A jailed process has no mark, but a root of its own.
    let jailed = machines_in(&root)?;
    let mut found = Vec::new();
    for process in all()? {
        let jail = RootFolder::of_process(process.pid).ok().and_then(|root| jailed.get(&root));
        let marked = || {
            let environment = fs::read(format!("/proc/{}/environ", process.pid)).ok()?;
            marked_folder(&environment).filter(|work_dir| work_dir.starts_with(&root))
        };
        if let Some(work_dir) = jail.cloned().or_else(marked) {
            found.push((work_dir, process));
        }
    }
    Ok(found)
}

/// All processes. They come and go while we look.
pub(crate) fn all() -> io::Result<Vec<ProcessIdentity>> {
    let mut found = Vec::new();
    for entry in fs::read_dir("/proc")? {
        let name = entry?.file_name();
        let pid = name.to_str().and_then(|name| name.parse::<i32>().ok());
        found.extend(pid.and_then(|pid| ProcessIdentity::of(pid).ok()));
    }
    Ok(found)
}

fn marked_folder(environment: &[u8]) -> Option<PathBuf> {
    environment.split(|byte| *byte == 0).find_map(|variable| {
        let folder = variable.strip_prefix(MARK.as_bytes())?.strip_prefix(b"=")?;
        Some(PathBuf::from(OsStr::from_bytes(folder)))
    })
}

/// A process that we hold by a pidfd.
#[derive(Debug)]
pub(crate) struct Process {
    identity: ProcessIdentity,
    pidfd: AsyncFd<OwnedFd>,
    /// Goes with the process.
    group: Group,
    ended: Once,
}

impl Process {
    /// Opens a recorded process, which is alone in its control group.
    pub(crate) fn open(identity: ProcessIdentity, group: Group) -> Result<Self, VmmError> {
        let failed = |source: io::Error| VmmError::Process { action: "open", process: identity, source };
        let pid = Pid::from_raw(identity.pid).ok_or(VmmError::Gone { process: identity })?;
        let pidfd = match pidfd_open(pid, PidfdFlags::empty()) {
            Err(Errno::SRCH) => return Err(VmmError::Gone { process: identity }),
            opened => opened.map_err(|errno| failed(errno.into()))?,
        };
        // Compared after the pidfd is held: from here on the pid cannot become another process behind our back.
        match ProcessIdentity::of(identity.pid) {
            Ok(now) if now == identity => {}
            _ => return Err(VmmError::Gone { process: identity }),
        }
        // SAFETY: an `OwnedFd` stays open, and is the same descriptor, as long as the `AsyncFd` owns it.
        let pidfd = unsafe { AsyncFd::register_with_interest(pidfd, Interest::READABLE) }
            .map_err(|error| failed(error.into_parts().1))?;
        Ok(Self { identity, pidfd, group, ended: Once::new() })
    }

    pub(crate) fn identity(&self) -> ProcessIdentity {
        self.identity
    }

    /// Completes when the process is gone, and takes its exit status if it is our child, so that no zombie stays, nor its group.
    pub(crate) async fn gone(&self) {
        // Readiness is never cleared: an ended process stays ended, for every waiter. Without the I/O driver (the runtime is being
        // torn down) nobody is left to be told.
        let Ok(guard) = self.pidfd.readable().await else { return std::future::pending().await };
        drop(guard);
        // ECHILD: an adopted process is init's, or another waiter was faster.
        let _ = waitid(WaitId::PidFd(self.pidfd.as_fd()), WaitIdOptions::EXITED | WaitIdOptions::NOHANG);
        self.ended.call_once(|| self.group.remove());
    }

    fn send_kill(&self) -> rustix::io::Result<()> {
        match pidfd_send_signal(&self.pidfd, Signal::KILL) {
            Err(Errno::SRCH) => Ok(()),
            sent => sent,
        }
    }

    pub(crate) async fn kill(&self) -> Result<(), VmmError> {
        self.send_kill().map_err(|errno| VmmError::Process {
            action: "kill",
            process: self.identity,
            source: errno.into(),
        })?;
        timeout(KILL_DEADLINE, self.gone())
            .await
            .map_err(|_| VmmError::Unkillable { process: self.identity, waited: KILL_DEADLINE })
    }
}

/// A process that is not yet anybody's machine: killed when dropped, also when the future that started it is.
#[derive(Debug)]
pub(crate) struct Unclaimed {
    process: Arc<Process>,
    claimed: bool,
}

impl Unclaimed {
    /// Takes a child that was just started in `group`. It is reaped when it ends, whoever else waits.
    pub(crate) fn child(pid: i32, group: &Group) -> Result<Self, VmmError> {
        let unknown = ProcessIdentity { pid, start_time: 0 };
        // A child's pid is its own until we reap it, so what `/proc` says is about it.
        let process = ProcessIdentity::of(pid)
            .map_err(|source| VmmError::Process { action: "identify", process: unknown, source })
            .and_then(|identity| Process::open(identity, group.clone()));
        match process {
            Ok(process) => {
                let process = Arc::new(process);
                let reaped = Arc::clone(&process);
                tokio::spawn(async move { reaped.gone().await });
                Ok(Self { process, claimed: false })
            }
            Err(error) => {
                // Not held by a pidfd, so by its pid, which is still safe for an unreaped child.
                if let Some(pid) = Pid::from_raw(pid) {
                    let _ = rustix::process::kill_process(pid, Signal::KILL);
                    let _ = waitid(WaitId::Pid(pid), WaitIdOptions::EXITED);
                }
                group.remove();
                Err(error)
            }
        }
    }

    /// Takes a process that is not our child. Its group goes with it, whoever else waits.
    pub(crate) fn found(process: Arc<Process>) -> Self {
        let ending = Arc::clone(&process);
        tokio::spawn(async move { ending.gone().await });
        Self { process, claimed: false }
    }

    pub(crate) fn process(&self) -> &Process {
        &self.process
    }

    /// The machine is complete: from now on it lives until it is killed.
    pub(crate) fn claim(mut self) -> Arc<Process> {
        self.claimed = true;
        Arc::clone(&self.process)
    }
}

impl Drop for Unclaimed {
    fn drop(&mut self) {
        if !self.claimed
            && let Err(errno) = self.process.send_kill()
        {
            tracing::error!(process = %self.process.identity, %errno, "cannot kill a VMM whose start failed");
        }
    }
}

#[cfg(test)]
mod tests {
    use std::process::{Child, Command, Stdio};

    use super::*;

    fn sleeper(folder: Option<&Path>) -> Child {
        let mut command = Command::new("sleep");
        command.arg("1000").stdin(Stdio::null());
        if let Some(folder) = folder {
            command.env(MARK, folder);
        }
        command.spawn().unwrap()
    }

    fn pid(child: &Child) -> i32 {
        i32::try_from(child.id()).unwrap()
    }

    #[test]
    fn the_start_time_is_found_behind_any_name() {
        let rest = "S 1 1 1 0 -1 4194560 1 0 0 0 0 0 0 0 20 0 1 0 777 1 2 3";
        for name in ["(sleep)", "(a b)", "(a) R 9 (b)", "()"] {
            assert_eq!(start_time(&format!("12 {name} {rest}")), Some(777), "{name}");
        }
        assert_eq!(start_time("12 (sleep) S 1"), None);
    }

    #[tokio::test]
    #[expect(clippy::zombie_processes, reason = "reaping it is what is tested")]
    async fn all_waiters_learn_of_the_end_and_nothing_stays() {
        let child = sleeper(None);
        let unclaimed = Unclaimed::child(pid(&child), &Group::none()).unwrap();
        let process = unclaimed.claim();
        let identity = process.identity();
        let waiters: Vec<_> = (0..3)
            .map(|_| {
                let process = Arc::clone(&process);
                tokio::spawn(async move { process.gone().await })
            })
            .collect();
        process.kill().await.unwrap();
        for waiter in waiters {
            waiter.await.unwrap();
        }
        process.kill().await.unwrap();
        assert!(!Path::new(&format!("/proc/{}", identity.pid)).exists(), "a zombie is left");
        assert!(matches!(Process::open(identity, Group::none()), Err(VmmError::Gone { .. })));
        kill(identity).await.unwrap();
    }

    #[tokio::test]
    #[expect(clippy::zombie_processes, reason = "reaping it is what is tested")]
    async fn a_start_that_is_given_up_leaves_no_process() {
        let child = sleeper(None);
        let identity = ProcessIdentity::of(pid(&child)).unwrap();
        let watcher = Process::open(identity, Group::none()).unwrap();
        drop(Unclaimed::child(identity.pid, &Group::none()).unwrap());
        timeout(Duration::from_secs(10), watcher.gone()).await.unwrap();
    }

    #[tokio::test]
    async fn another_process_with_the_pid_is_not_the_recorded_one() {
        let mut child = sleeper(None);
        let mut identity = ProcessIdentity::of(pid(&child)).unwrap();
        identity.start_time -= 1;
        assert!(matches!(Process::open(identity, Group::none()), Err(VmmError::Gone { .. })));
        kill(identity).await.unwrap();
        assert!(child.try_wait().unwrap().is_none(), "a stranger was killed");
        child.kill().unwrap();
        child.wait().unwrap();
    }

    #[test]
    fn marked_processes_are_found_under_their_folder_only() {
        let (ours, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let work_dir = ours.path().join("sandboxes/one");
        fs::create_dir_all(&work_dir).unwrap();
        let work_dir = fs::canonicalize(work_dir).unwrap();
        let mut children = [sleeper(Some(&work_dir)), sleeper(Some(other.path())), sleeper(None)];
        let expected = ProcessIdentity::of(pid(&children[0])).unwrap();
        assert_eq!(machines_under(ours.path()).unwrap(), [(work_dir, expected)]);
        for child in &mut children {
            child.kill().unwrap();
            child.wait().unwrap();
        }
    }
}
