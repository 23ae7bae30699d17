//! The life of PID 1 after boot: keep the guest agent running, reap orphans, shut down when told to.
//!
//! Everything arrives as a blocked signal that is waited for: nothing runs in handlers, and nothing is polled.

use std::convert::Infallible;
use std::io;
use std::os::unix::process::CommandExt as _;
use std::process::{Child, Command};
use std::time::{Duration, Instant};

use rustix::mount::MountFlags;
use rustix::process::{Pid, WaitOptions, WaitStatus, wait};
use rustix::system::RebootCommand;

use crate::{RUN_DIR, console};

/// The agent starts again at once after its first death, ever later if it keeps dying.
const BACKOFF_MIN: Duration = Duration::from_millis(100);
const BACKOFF_MAX: Duration = Duration::from_secs(5);
/// An agent that lived this long died of something new.
const BACKOFF_RESET: Duration = Duration::from_secs(60);
/// How long processes may take to end by themselves at a shutdown.
const SHUTDOWN_GRACE: Duration = Duration::from_secs(2);

const SIGNALS: [libc::c_int; 4] = [libc::SIGCHLD, libc::SIGTERM, libc::SIGINT, libc::SIGPWR];

/// Supervises until a signal asks for a shutdown, which ends in a reboot.
pub(crate) fn run() -> Result<Infallible, crate::mounts::MountError> {
    let signals = SignalSet::block(&SIGNALS);
    // Ctrl-Alt-Del (Firecracker's way to ask for a shutdown) then sends SIGINT instead of resetting at once.
    let _ = rustix::system::reboot(RebootCommand::CadOff);
    let mut agent = Agent::new();
    agent.start();
    loop {
        match signals.wait(agent.next_start()) {
            Some(libc::SIGCHLD) => {
                while let Some((pid, status)) = reap() {
                    agent.reaped(pid, status);
                }
            }
            Some(_) => shut_down(&signals),
            None => {}
        }
        agent.start_if_due();
    }
}

/// Restarts the machine. Every VMM of ours takes a restart for the end of the VM; not every one of them knows "power off".
pub(crate) fn reboot() -> ! {
    rustix::fs::sync();
    let _ = rustix::system::reboot(RebootCommand::Restart);
    // Not reached on a sandbox; ending PID 1 makes the kernel panic, and `panic=-1` restarts it as well.
    std::process::exit(1)
}

fn shut_down(signals: &SignalSet) -> ! {
    signal_everybody(libc::SIGTERM);
    let deadline = Instant::now() + SHUTDOWN_GRACE;
    while any_children() && Instant::now() < deadline {
        signals.wait(Some(deadline));
        while reap().is_some() {}
    }
    signal_everybody(libc::SIGKILL);
    // With every writer gone the disk can be left clean, not only consistent.
    let _ = rustix::mount::mount_remount("/", MountFlags::RDONLY, c"");
    reboot()
}

fn signal_everybody(signal: libc::c_int) {
    // SAFETY: kill takes no pointers; -1 means every process but this one.
    unsafe { libc::kill(-1, signal) };
}

fn any_children() -> bool {
    !matches!(
        rustix::process::waitid(
            rustix::process::WaitId::All,
            rustix::process::WaitIdOptions::EXITED
                | rustix::process::WaitIdOptions::NOHANG
                | rustix::process::WaitIdOptions::NOWAIT,
        ),
        Err(rustix::io::Errno::CHILD)
    )
}

fn reap() -> Option<(Pid, WaitStatus)> {
    wait(WaitOptions::NOHANG).ok().flatten()
}

/// The guest agent's process, or when it is to be started next.
struct Agent {
    running: Option<(u32, Instant)>,
    backoff: Duration,
    due: Option<Instant>,
    /// How the last one ended, which the next one tells the host.
    ended: Option<String>,
}

impl Agent {
    fn new() -> Self {
        Self { running: None, backoff: BACKOFF_MIN, due: None, ended: None }
    }

    fn next_start(&self) -> Option<Instant> {
        self.due
    }

    fn start_if_due(&mut self) {
        if self.due.is_some_and(|due| due <= Instant::now()) {
            self.start();
        }
    }

    fn start(&mut self) {
        match spawn_agent(self.ended.as_deref()) {
            Ok(child) => {
                self.running = Some((child.id(), Instant::now()));
                self.due = None;
            }
            Err(error) => {
                console::log(&format!("cannot start the guest agent: {error}"));
                self.retry_later();
            }
        }
    }

    fn reaped(&mut self, pid: Pid, status: WaitStatus) {
        let Some((agent, since)) = self.running else { return };
        if i64::from(agent) != i64::from(pid.as_raw_nonzero().get()) {
            return;
        }
        let how = match (status.exit_status(), status.terminating_signal()) {
            (Some(code), _) => format!("exited with status {code}"),
            (None, Some(signal)) => format!("was killed by signal {signal}"),
            (None, None) => return,
        };
        console::log(&format!("the guest agent {how}"));
        self.ended = Some(how);
        self.running = None;
        if since.elapsed() >= BACKOFF_RESET {
            self.backoff = BACKOFF_MIN;
        }
        self.retry_later();
    }

    fn retry_later(&mut self) {
        self.due = Some(Instant::now() + self.backoff);
        self.backoff = (self.backoff * 2).min(BACKOFF_MAX);
    }
}

/// A child inherits its parent's signal mask, and so do all that come after it: with ours, nothing in the guest could be
/// interrupted or terminated.
fn spawn_agent(predecessor: Option<&str>) -> io::Result<Child> {
    let mut command = Command::new(format!("{RUN_DIR}/guest-agent"));
    command.env_clear().env("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin");
    if let Some(ended) = predecessor {
        command.args(["--predecessor", ended]);
    }
    // SAFETY: between fork and exec, the closure makes one system call on a set of its own.
    unsafe {
        command.pre_exec(|| {
            let mut none: libc::sigset_t = std::mem::zeroed();
            libc::sigemptyset(&raw mut none);
            match libc::sigprocmask(libc::SIG_SETMASK, &raw const none, std::ptr::null_mut()) {
                0 => Ok(()),
                _ => Err(io::Error::last_os_error()),
            }
        });
    }
    command.spawn()
}

/// Signals that are blocked and waited for.
struct SignalSet(libc::sigset_t);

impl SignalSet {
    fn block(signals: &[libc::c_int]) -> Self {
        // SAFETY: an all-zero sigset_t is a valid object; sigemptyset and sigaddset only write to it, and sigprocmask
        // only reads it.
        unsafe {
            let mut set: libc::sigset_t = std::mem::zeroed();
            libc::sigemptyset(&raw mut set);
            for &signal in signals {
                libc::sigaddset(&raw mut set, signal);
            }
            libc::sigprocmask(libc::SIG_BLOCK, &raw const set, std::ptr::null_mut());
            Self(set)
        }
    }

    /// The next signal, or nothing once `deadline` has passed.
    fn wait(&self, deadline: Option<Instant>) -> Option<libc::c_int> {
        let left = deadline.map(|deadline| deadline.saturating_duration_since(Instant::now()));
        let timeout = left.map(|left| libc::timespec {
            tv_sec: i64::try_from(left.as_secs()).unwrap_or(i64::MAX),
            tv_nsec: i64::from(left.subsec_nanos()),
        });
        let timeout = timeout.as_ref().map_or(std::ptr::null(), std::ptr::from_ref);
        // SAFETY: the set and the time-out outlive the call, and no siginfo is asked for.
        let signal = unsafe { libc::sigtimedwait(&raw const self.0, std::ptr::null_mut(), timeout) };
        (signal > 0).then_some(signal)
    }
}
