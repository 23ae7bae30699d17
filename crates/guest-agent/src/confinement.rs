//! Where the sandbox's processes live, so that none of them can take the machine away from the agent.
//!
//! ```text
//!   /                 init, the agent, the kernel: no limits
//!   /sandbox          all that was started through the agent: memory.max, and one share of the processor against the agent's
//!   /sandbox/main     pids.max: where processes start
//!   /sandbox/spare    a few more, with as large a share of the processor as `main`: where they start while that is nearly
//!                     full, so that a fork bomb can be put out from inside
//! ```
//!
//! Children are born there (`CLONE_INTO_CGROUP`): to move a process later makes every CPU wait for every other. The kernel's
//! OOM killer then looks for its victim among the sandbox's processes alone, and kills one, not all.
//!
//! A kernel without version 2 of control groups, or with their controllers in use by version 1, confines nobody: what is left
//! is that the agent is the last to be killed and the first to run.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use rustix::fs::OFlags;

/// Where the kernel's control groups are mounted.
pub const ROOT: &str = "/sys/fs/cgroup";

/// From `linux/magic.h`.
const CGROUP2_MAGIC: u64 = 0x6367_7270;
/// What every process together may have beyond `main`'s share.
const SPARE_PROCESSES: u64 = 64;
/// What a process needs that does nothing but be there. More of them than fit would spend their time on each other's pages.
const PROCESS_BYTES: u64 = 512 << 10;
/// What is left to the kernel and the agent: a sixteenth of the memory, within these.
const MEMORY_RESERVE: std::ops::RangeInclusive<u64> = 16 << 20..=64 << 20;

/// Why processes cannot be confined.
#[derive(Debug, thiserror::Error)]
pub enum ConfinementError {
    /// There is no second version of control groups.
    #[error("{0} is no mount of cgroup2")]
    NoCgroup2(PathBuf),
    /// The kernel, or somebody before us, does not hand out a controller.
    #[error("the {0} controller is not available")]
    NoController(&'static str),
    /// Something went wrong.
    #[error("cannot {action} {path}")]
    Failed {
        /// What was tried.
        action: &'static str,
        /// With which file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The kernel does not say how large the machine is.
    #[error("cannot measure the machine")]
    Size,
}

/// The groups.
#[derive(Debug)]
pub struct Confinement {
    main: OwnedFd,
    spare: OwnedFd,
    /// Where the kernel counts the processes in `main`, and how many of them are too many to start among.
    crowd: Option<(File, u64)>,
}

/// What all processes together may have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Limits {
    memory_bytes: u64,
    processes: u64,
}

impl Limits {
    fn of(memory_bytes: u64, threads_max: u64, pid_max: u64) -> Self {
        let reserve = (memory_bytes / 16).clamp(*MEMORY_RESERVE.start(), *MEMORY_RESERVE.end());
        Self {
            memory_bytes: memory_bytes.saturating_sub(reserve).max(memory_bytes / 2),
            // Half, as the kernel itself limits every user but root.
            processes: (threads_max.min(pid_max) / 2).min(memory_bytes / PROCESS_BYTES),
        }
    }

    fn of_this_machine() -> Option<Self> {
        let number = |path| fs::read_to_string(path).ok()?.trim().parse().ok();
        let memory = crate::metrics::meminfo(&fs::read_to_string("/proc/meminfo").ok()?, "MemTotal")?;
        Some(Self::of(memory, number("/proc/sys/kernel/threads-max")?, number("/proc/sys/kernel/pid_max")?))
    }
}

impl Confinement {
    /// Makes the groups below `root`, or takes those over that an earlier agent made.
    ///
    /// # Errors
    /// If the kernel has no such groups, or not all that is needed of them.
    pub fn set_up(root: &Path) -> Result<Self, ConfinementError> {
        let mounted = rustix::fs::statfs(root).map_err(|errno| failed("look at", root, errno.into()))?;
        if u64::try_from(mounted.f_type).ok() != Some(CGROUP2_MAGIC) {
            return Err(ConfinementError::NoCgroup2(root.to_owned()));
        }
        let controllers = read(&root.join("cgroup.controllers"))?;
        let offered = |name| controllers.split_whitespace().any(|controller| controller == name);
        for needed in ["memory", "pids"] {
            if !offered(needed) {
                return Err(ConfinementError::NoController(needed));
            }
        }
        let limits = Limits::of_this_machine().ok_or(ConfinementError::Size)?;
        write(&root.join("cgroup.subtree_control"), "+memory +pids")?;
        let all = make(&root.join("sandbox"))?;
        write(&all.join("memory.max"), &limits.memory_bytes.to_string())?;
        write(&all.join("cgroup.subtree_control"), "+pids")?;
        // A kernel without shares of the processor still has the agent's niceness.
        if offered("cpu") {
            write(&root.join("cgroup.subtree_control"), "+cpu")?;
            write(&all.join("cgroup.subtree_control"), "+cpu")?;
        }
        let main = make(&all.join("main"))?;
        write(&main.join("pids.max"), &limits.processes.to_string())?;
        let spare = make(&all.join("spare"))?;
        write(&spare.join("pids.max"), &SPARE_PROCESSES.to_string())?;
        let count = main.join("pids.current");
        let count = File::open(&count).map_err(|source| failed("open", &count, source))?;
        Ok(Self { crowd: Some((count, limits.processes / 4 * 3)), ..Self::of_groups(&main, &spare)? })
    }

    /// Confines to groups that are there, whatever their limits.
    pub(crate) fn of_groups(main: &Path, spare: &Path) -> Result<Self, ConfinementError> {
        Ok(Self { main: open(main)?, spare: open(spare)?, crowd: None })
    }

    /// Where the next process starts, and where if there is no room. One that started in a crowd would get a thousandth of
    /// the processor, and be of no use against it.
    pub(crate) fn groups(&self) -> [BorrowedFd<'_>; 2] {
        let (main, spare) = (self.main.as_fd(), self.spare.as_fd());
        if self.is_crowded() { [spare, main] } else { [main, spare] }
    }

    fn is_crowded(&self) -> bool {
        let Some((count, many)) = &self.crowd else { return false };
        let mut text = [0; 24];
        let count = rustix::io::pread(count, &mut text, 0)
            .ok()
            .and_then(|length| std::str::from_utf8(&text[..length]).ok()?.trim().parse::<u64>().ok());
        count.is_some_and(|count| count >= *many)
    }
}

fn failed(action: &'static str, path: &Path, source: io::Error) -> ConfinementError {
    ConfinementError::Failed { action, path: path.to_owned(), source }
}

fn read(path: &Path) -> Result<String, ConfinementError> {
    fs::read_to_string(path).map_err(|source| failed("read", path, source))
}

fn write(path: &Path, value: &str) -> Result<(), ConfinementError> {
    fs::write(path, value).map_err(|source| failed("write", path, source))
}

fn make(path: &Path) -> Result<PathBuf, ConfinementError> {
    match fs::create_dir(path) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => Err(failed("make", path, error)),
        _ => Ok(path.to_owned()),
    }
}

fn open(path: &Path) -> Result<OwnedFd, ConfinementError> {
    let flags = (OFlags::PATH | OFlags::DIRECTORY).bits().cast_signed();
    let group: io::Result<File> = OpenOptions::new().read(true).custom_flags(flags).open(path);
    group.map(OwnedFd::from).map_err(|source| failed("open", path, source))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_leave_something_to_the_system() {
        let limits = |memory_mb: u64| Limits::of(memory_mb << 20, 4000, 32768);
        assert_eq!(limits(512), Limits { memory_bytes: 480 << 20, processes: 1024 });
        assert_eq!(limits(128).memory_bytes, 112 << 20);
        assert_eq!(limits(8192).memory_bytes, (8192 - 64) << 20);
        assert_eq!(limits(16).memory_bytes, 8 << 20);
        assert_eq!(Limits::of(4 << 30, 100_000, 4000).processes, 2000);
        assert!(Limits::of_this_machine().is_some());
    }

    #[test]
    fn a_machine_without_such_groups_is_told_apart() {
        let dir = tempfile::tempdir().unwrap();
        let error = Confinement::set_up(dir.path()).unwrap_err();
        assert!(matches!(error, ConfinementError::NoCgroup2(_)), "{error}");
    }
}
