//! `postmaster.pid`: the file in which a server tells how far it has come, and a watch on it.

use std::fs;
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use rustix::fs::inotify;
use rustix::process::Pid;
use tokio::io::unix::AsyncFd;

use crate::process::readable;

/// What the file says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Postmaster {
    pub(crate) pid: Pid,
    pub(crate) socket_dir: PathBuf,
    pub(crate) status: Status,
}

/// How far the server is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Status {
    Starting,
    Ready,
    Stopping,
}

impl Postmaster {
    /// `None` when there is no file, or it is not yet whole: the server adds its lines as it goes.
    pub(crate) fn read(data_dir: &Path) -> io::Result<Option<Self>> {
        match fs::read_to_string(data_dir.join("postmaster.pid")) {
            Ok(text) => Ok(parse(&text)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }
}

/// Lines: pid, data folder, start time, port, socket folder, TCP address, shared memory key, status.
fn parse(text: &str) -> Option<Postmaster> {
    let lines: Vec<&str> = text.lines().collect();
    let pid = Pid::from_raw(lines.first()?.trim().parse().ok()?)?;
    let status = match lines.get(7)?.trim() {
        "ready" | "standby" => Status::Ready,
        "stopping" => Status::Stopping,
        _ => Status::Starting,
    };
    Some(Postmaster { pid, socket_dir: PathBuf::from(lines.get(4)?), status })
}

/// Tells that something in a data folder's top level changed.
pub(crate) struct Watch(AsyncFd<OwnedFd>);

impl Watch {
    pub(crate) fn new(data_dir: &Path) -> io::Result<Self> {
        let fd = inotify::init(inotify::CreateFlags::CLOEXEC | inotify::CreateFlags::NONBLOCK)?;
        let changes =
            inotify::WatchFlags::MODIFY | inotify::WatchFlags::CLOSE_WRITE | inotify::WatchFlags::DELETE;
        inotify::add_watch(&fd, data_dir, changes)?;
        Ok(Self(readable(fd)?))
    }

    /// Waits for a change since the watch was made or last awaited.
    pub(crate) async fn changed(&self) -> io::Result<()> {
        loop {
            let mut guard = self.0.readable().await?;
            let mut buffer = [MaybeUninit::<u8>::uninit(); 4096];
            match rustix::io::read(self.0.get_ref(), &mut buffer) {
                Ok(_) => return Ok(()),
                Err(rustix::io::Errno::AGAIN) => guard.clear_ready(),
                Err(errno) => return Err(errno.into()),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_the_file_at_every_stage_of_its_growth() {
        let whole = "4711\n/data\n1700000000\n5432\n/run/sandbar\n\n  5432001   65536\nready   \n";
        let read = parse(whole).unwrap();
        assert_eq!(read.pid.as_raw_nonzero().get(), 4711);
        assert_eq!(read.socket_dir, Path::new("/run/sandbar"));
        assert_eq!(read.status, Status::Ready);
        assert_eq!(parse(&whole.replace("ready   ", "starting")).unwrap().status, Status::Starting);
        assert_eq!(parse(&whole.replace("ready   ", "stopping")).unwrap().status, Status::Stopping);
        // What the file lacks while it grows is never taken for "ready".
        for end in 0..whole.len() - "ready   \n".len() {
            assert_ne!(parse(&whole[..end]).map(|read| read.status), Some(Status::Ready), "{end}");
        }
    }
}
