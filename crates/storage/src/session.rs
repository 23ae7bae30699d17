//! The part of `tmp/` that one open store works in.
//!
//! Several processes may have one store open. Each has a folder of its own, and holds its lock for as long as it lives; a folder whose
//! lock can be taken belongs to nobody any more, and goes.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use rustix::fs::{FlockOperation, flock};
use uuid::Uuid;

use crate::files::{FileError, OnFile, remove_all};
use crate::mounts;

#[derive(Debug)]
pub(crate) struct Session {
    dir: PathBuf,
    next: AtomicU64,
    /// Held, never read: the lock goes with the process, however that ends.
    _lock: File,
}

impl Session {
    /// Takes a new folder in `tmp` and sweeps those of the dead.
    pub(crate) fn begin(tmp: &Path) -> Result<Self, FileError> {
        // Held until the new folder is locked: nobody can take it for a dead one in between.
        let all = File::open(tmp).on("open", tmp)?;
        flock(&all, FlockOperation::LockExclusive).on("lock", tmp)?;
        sweep(tmp)?;
        let dir = tmp.join(Uuid::now_v7().to_string());
        fs::create_dir(&dir).on("create", &dir)?;
        let lock = File::open(&dir).on("open", &dir)?;
        flock(&lock, FlockOperation::NonBlockingLockExclusive).on("lock", &dir)?;
        Ok(Self { dir, next: AtomicU64::new(0), _lock: lock })
    }

    /// A path in the session's folder that was never used before.
    pub(crate) fn path(&self, label: &str) -> PathBuf {
        self.dir.join(format!("{}-{label}", self.next.fetch_add(1, Ordering::Relaxed)))
    }

    /// A new folder there.
    pub(crate) fn folder(&self, label: &str) -> Result<TempDir, FileError> {
        let path = self.path(label);
        fs::create_dir(&path).on("create", &path)?;
        Ok(TempDir { path: Some(path) })
    }

    /// Takes `path` (a file or a folder) out of the store in one step, then deletes it. Nothing there is fine.
    pub(crate) fn discard(&self, path: &Path) -> Result<(), FileError> {
        let grave = self.path("deleted");
        match fs::rename(path, &grave) {
            Ok(()) => remove_all(&grave),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            Err(error) => Err(FileError::new("delete", path, error)),
        }
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        if let Err(error) = mounts::detach_below(&self.dir).and_then(|()| remove_all(&self.dir)) {
            tracing::warn!(%error, "left for the next start to sweep");
        }
    }
}

/// Deletes what sessions of dead processes left behind.
fn sweep(tmp: &Path) -> Result<(), FileError> {
    for entry in fs::read_dir(tmp).on("list", tmp)? {
        let path = entry.on("list", tmp)?.path();
        let lock = match File::open(&path) {
            Ok(lock) => lock,
            // Its owner ended, and deleted it, just now.
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            Err(error) => return Err(FileError::new("open", &path, error)),
        };
        match flock(&lock, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => {
                tracing::info!(path = %path.display(), "sweeping what a dead process left");
                mounts::detach_below(&path)?;
                remove_all(&path)?;
            }
            Err(rustix::io::Errno::WOULDBLOCK) => {}
            Err(error) => return Err(FileError::new("lock", &path, error)),
        }
    }
    Ok(())
}

/// A folder that goes when it is dropped, unless it was kept.
#[derive(Debug)]
pub(crate) struct TempDir {
    path: Option<PathBuf>,
}

impl TempDir {
    pub(crate) fn path(&self) -> &Path {
        self.path.as_deref().unwrap_or(Path::new(""))
    }

    /// Its content has moved on: nothing is deleted.
    pub(crate) fn keep(mut self) {
        self.path = None;
    }
}

impl Drop for TempDir {
    fn drop(&mut self) {
        let Some(path) = self.path.take() else { return };
        if let Err(error) = mounts::detach_below(&path).and_then(|()| remove_all(&path)) {
            tracing::warn!(%error, "left for the next start to sweep");
        }
    }
}
