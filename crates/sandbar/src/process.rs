//! Another process, held by a pidfd: it can be waited for and signalled without the danger that its pid is reused.

use std::io;
use std::os::fd::OwnedFd;
use std::time::Duration;

use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::time::timeout;

/// A process that this one did not start.
#[derive(Debug)]
pub(crate) struct Process {
    fd: AsyncFd<OwnedFd>,
}

impl Process {
    /// `None` when there is no such process.
    pub(crate) fn open(pid: i32) -> io::Result<Option<Self>> {
        let Some(pid) = Pid::from_raw(pid) else { return Ok(None) };
        let fd = match pidfd_open(pid, PidfdFlags::empty()) {
            Ok(fd) => fd,
            Err(rustix::io::Errno::SRCH) => return Ok(None),
            Err(errno) => return Err(errno.into()),
        };
        // SAFETY: an `OwnedFd` is open, always gives the same number, and is closed by nobody else; the `AsyncFd` owns it.
        let fd = unsafe { AsyncFd::register_with_interest(fd, Interest::READABLE) }?;
        Ok(Some(Self { fd }))
    }

    /// Waits for its end.
    pub(crate) async fn ended(&self) -> io::Result<()> {
        self.fd.readable().await.map(|_guard| ())
    }

    /// Sends a signal. A process that has ended is a success.
    pub(crate) fn signal(&self, signal: Signal) -> io::Result<()> {
        match pidfd_send_signal(self.fd.get_ref(), signal) {
            Ok(()) | Err(rustix::io::Errno::SRCH) => Ok(()),
            Err(errno) => Err(errno.into()),
        }
    }

    /// Asks it to end, and kills it when it has not done so within `grace`.
    pub(crate) async fn end(&self, grace: Duration) -> io::Result<()> {
        self.signal(Signal::TERM)?;
        if let Ok(ended) = timeout(grace, self.ended()).await {
            return ended;
        }
        self.signal(Signal::KILL)?;
        self.ended().await
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::process::ExitStatusExt as _;

    use super::*;

    async fn end(shell: &str, grace: Duration) -> Option<i32> {
        let mut child = tokio::process::Command::new("sh")
            .args(["-c", shell])
            .stdout(std::process::Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = String::new();
        let stdout = tokio::io::BufReader::new(child.stdout.take().unwrap());
        tokio::io::AsyncBufReadExt::read_line(&mut { stdout }, &mut line).await.unwrap();
        let process = Process::open(child.id().unwrap().cast_signed()).unwrap().unwrap();
        process.end(grace).await.unwrap();
        child.wait().await.unwrap().signal()
    }

    #[tokio::test]
    async fn asks_first_and_kills_what_does_not_listen() {
        let listens = end("echo ready; exec sleep 1000", Duration::from_secs(60)).await;
        assert_eq!(listens, Some(Signal::TERM.as_raw()));
        let ignores =
            end("trap '' TERM; echo ready; while :; do sleep 1; done", Duration::from_millis(50)).await;
        assert_eq!(ignores, Some(Signal::KILL.as_raw()));
    }

    #[tokio::test]
    async fn an_ended_process_is_none() {
        let mut child = tokio::process::Command::new("true").spawn().unwrap();
        let pid = child.id().unwrap().cast_signed();
        child.wait().await.unwrap();
        assert!(Process::open(pid).unwrap().is_none());
    }
}
