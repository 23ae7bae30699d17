//! One agent per folder. The lock is the proof that its holder lives; the file's content says who that is.

use std::fs::File;
use std::io::{Read as _, Seek as _, Write as _};
use std::path::{Path, PathBuf};

use rustix::fs::FlockOperation;

/// Why a lock was not taken.
#[derive(Debug, thiserror::Error)]
pub enum LockError {
    /// Somebody holds it.
    #[error("another process{} owns {path}", .holder.map(|pid| format!(" (pid {pid})")).unwrap_or_default(), path = .path.display())]
    Held {
        /// The lock's file.
        path: PathBuf,
        /// Who, where the file says so.
        holder: Option<i32>,
    },
    /// The file cannot be used.
    #[error("cannot lock {path}", path = .path.display())]
    Io {
        /// The lock's file.
        path: PathBuf,
        /// Why not.
        #[source]
        source: std::io::Error,
    },
}

/// A lock, held until it is dropped or its process ends, however it ends.
#[derive(Debug)]
pub struct InstanceLock {
    _file: File,
}

impl InstanceLock {
    /// Takes the lock, and writes this process's id into its file.
    pub fn take(path: &Path) -> Result<Self, LockError> {
        let io = |source| LockError::Io { path: path.to_owned(), source };
        let mut file =
            File::options().read(true).write(true).create(true).truncate(false).open(path).map_err(io)?;
        match rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => {}
            Err(rustix::io::Errno::WOULDBLOCK) => {
                return Err(LockError::Held { path: path.to_owned(), holder: read_pid(&mut file) });
            }
            Err(error) => return Err(io(error.into())),
        }
        file.set_len(0).and_then(|()| file.rewind()).map_err(io)?;
        writeln!(file, "{}", std::process::id()).map_err(io)?;
        Ok(Self { _file: file })
    }
}

fn read_pid(file: &mut File) -> Option<i32> {
    let mut text = String::new();
    file.read_to_string(&mut text).ok()?;
    text.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_second_taker_is_told_who_holds_the_lock_and_a_dropped_lock_can_be_taken() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("agent.lock");
        let first = InstanceLock::take(&path).unwrap();
        let own = i32::try_from(std::process::id()).unwrap();
        match InstanceLock::take(&path) {
            Err(LockError::Held { holder, .. }) => assert_eq!(holder, Some(own)),
            other => panic!("{other:?}"),
        }
        drop(first);
        InstanceLock::take(&path).unwrap();
    }
}
