//! Another process held by a pidfd: it can be waited for and signalled without the danger that its pid is reused.

use std::fs;
use std::io;
use std::os::fd::OwnedFd;
use std::path::Path;

use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// A process, alive or not.
#[derive(Debug)]
pub(crate) struct Process {
    pid: Pid,
    fd: AsyncFd<OwnedFd>,
}

impl Process {
    /// `None` when there is no such process (any more).
    pub(crate) fn open(pid: Pid) -> io::Result<Option<Self>> {
        match pidfd_open(pid, PidfdFlags::empty()) {
            // A pidfd becomes readable when its process ends.
            Ok(fd) => Ok(Some(Self { pid, fd: readable(fd)? })),
            Err(rustix::io::Errno::SRCH) => Ok(None),
            Err(errno) => Err(errno.into()),
        }
    }

    /// Likewise, and only if the process works in `folder`.
    ///
    /// The folder is looked at after the pidfd is open: should the pid have been reused in between, the pidfd is that of a
    /// process that has ended, which is harmless.
    pub(crate) fn open_in(pid: Pid, folder: &Path) -> io::Result<Option<Self>> {
        let process = Self::open(pid)?;
        let works_in = fs::read_link(format!("/proc/{pid}/cwd"));
        Ok(process.filter(|_| works_in.is_ok_and(|path| path == folder)))
    }

    /// All processes that work in `folder`.
    pub(crate) fn all_in(folder: &Path) -> io::Result<Vec<Self>> {
        let mut found = Vec::new();
        for entry in fs::read_dir("/proc")?.flatten() {
            let pid = entry.file_name().to_str().and_then(|name| name.parse().ok()).and_then(Pid::from_raw);
            if let Some(process) = pid.map(|pid| Self::open_in(pid, folder)).transpose()?.flatten() {
                found.push(process);
            }
        }
        Ok(found)
    }

    pub(crate) fn pid(&self) -> Pid {
        self.pid
    }

    /// Waits for the process's end. May be called any number of times.
    pub(crate) async fn ended(&self) -> io::Result<()> {
        self.fd.readable().await.map(|_guard| ())
    }

    /// A process that has ended already is a success.
    pub(crate) fn signal(&self, signal: Signal) -> io::Result<()> {
        match pidfd_send_signal(self.fd.get_ref(), signal) {
            Ok(()) | Err(rustix::io::Errno::SRCH) => Ok(()),
            Err(errno) => Err(errno.into()),
        }
    }
}

/// Registers a descriptor with the runtime, for reading.
pub(crate) fn readable(fd: OwnedFd) -> io::Result<AsyncFd<OwnedFd>> {
    // SAFETY: an `OwnedFd` is open, always gives the same number, and is closed by nobody else; the `AsyncFd` owns it.
    unsafe { AsyncFd::register_with_interest(fd, Interest::READABLE) }.map_err(io::Error::from)
}
