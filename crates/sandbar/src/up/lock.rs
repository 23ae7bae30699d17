//! `up.lock`: one `up` per data folder. The lock says that one runs; the file's content says which.

use std::fs::File;
use std::io::{self, Read as _, Seek as _, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;

use anyhow::Context as _;
use rustix::fs::{FlockOperation, flock};
use serde::{Deserialize, Serialize};

/// What the holder says of itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Holder {
    pub(crate) pid: i32,
    pub(crate) url: String,
    pub(crate) stage: Stage,
}

/// How far the holder is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Stage {
    Starting,
    Ready,
}

/// The lock, held for as long as this lives: the kernel gives it back when the process ends, however it ends.
#[derive(Debug)]
pub(crate) struct UpLock {
    file: File,
    holder: Holder,
}

/// What an attempt to take the lock gave.
#[derive(Debug)]
pub(crate) enum Taken {
    Ours(UpLock),
    /// The other's description is missing for the moment between its lock and its first write.
    Anothers(Option<Holder>),
}

impl UpLock {
    pub(crate) fn take(path: &Path, url: &str) -> anyhow::Result<Taken> {
        let failed = || format!("cannot lock {}", path.display());
        let mut file = open(path).with_context(failed)?;
        match flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => {
                let holder = Holder {
                    pid: std::process::id().cast_signed(),
                    url: url.to_owned(),
                    stage: Stage::Starting,
                };
                let mut lock = Self { file, holder };
                lock.write().with_context(failed)?;
                Ok(Taken::Ours(lock))
            }
            Err(rustix::io::Errno::WOULDBLOCK) => Ok(Taken::Anothers(read(&mut file))),
            Err(errno) => Err(io::Error::from(errno)).with_context(failed),
        }
    }

    pub(crate) fn set_ready(&mut self) -> anyhow::Result<()> {
        self.holder.stage = Stage::Ready;
        self.write().context("cannot write up.lock")
    }

    /// In place: a lock is one of an inode, so the file cannot be replaced. Readers take what they cannot read for nothing.
    fn write(&mut self) -> io::Result<()> {
        let json = serde_json::to_vec(&self.holder)?;
        self.file.set_len(0)?;
        self.file.rewind()?;
        self.file.write_all(&json)
    }
}

/// Who holds the lock; `None` when nobody does.
pub(crate) fn holder(path: &Path) -> anyhow::Result<Option<Holder>> {
    let failed = || format!("cannot look at {}", path.display());
    let mut file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error).with_context(failed),
    };
    match flock(&file, FlockOperation::NonBlockingLockShared) {
        Ok(()) => Ok(None),
        Err(rustix::io::Errno::WOULDBLOCK) => Ok(read(&mut file)),
        Err(errno) => Err(io::Error::from(errno)).with_context(failed),
    }
}

fn open(path: &Path) -> io::Result<File> {
    File::options().read(true).write(true).create(true).truncate(false).mode(0o600).open(path)
}

fn read(file: &mut File) -> Option<Holder> {
    let mut text = String::new();
    file.read_to_string(&mut text).ok()?;
    serde_json::from_str(&text).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_holds_it_and_tells_the_others_how_far_it_is() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("up.lock");
        assert_eq!(holder(&path).unwrap(), None);
        let Taken::Ours(mut lock) = UpLock::take(&path, "http://127.0.0.1:8080").unwrap() else { panic!() };
        assert_eq!(holder(&path).unwrap().unwrap().stage, Stage::Starting);
        lock.set_ready().unwrap();
        match UpLock::take(&path, "http://127.0.0.1:9090").unwrap() {
            Taken::Anothers(Some(other)) => {
                assert_eq!(other.pid, std::process::id().cast_signed());
                assert_eq!((other.url.as_str(), other.stage), ("http://127.0.0.1:8080", Stage::Ready));
            }
            taken => panic!("{taken:?}"),
        }
        drop(lock);
        assert_eq!(holder(&path).unwrap(), None);
        assert!(matches!(UpLock::take(&path, "").unwrap(), Taken::Ours(_)));
    }
}
