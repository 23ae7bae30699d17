//! How a file comes to be: written beside its place under a temporary name, then renamed over it.
//!
//! So readers see the old content or the new, a full disk leaves the old one, and constant memory suffices. The choice is
//! made in `file` alone. An existing file keeps its mode and owner, a new one is 0644 and its user's; missing folders are
//! 0755 and its user's. Links are followed: what changes is the file behind them. Devices are written in place.

use std::fs::Metadata;
use std::io;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown, fchown};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use axum::BoxError;
use bytes::Bytes;
use futures::{Stream, StreamExt};
use tokio::fs::{self, File, OpenOptions};
use tokio::io::AsyncWriteExt;

use crate::users::User;

const NEW_FILE_MODE: u32 = 0o644;
/// As many links as Linux itself follows.
const LINKS_MAX: usize = 40;

/// Why a file was not written. The old one, if there was one, is as it was.
#[derive(Debug, thiserror::Error)]
pub(crate) enum WriteError {
    #[error("path '{}' is a directory", .0.display())]
    IsFolder(PathBuf),
    #[error("path '{}' is not a directory", .0.display())]
    NotAFolder(PathBuf),
    #[error("path '{}' cannot be written: {source}", path.display())]
    Invalid { path: PathBuf, source: io::Error },
    #[error("the content did not arrive: {0}")]
    Body(BoxError),
    #[error("not enough disk space available")]
    NoSpace,
    #[error("path '{}' may not be written", .0.display())]
    Refused(PathBuf),
    #[error("path '{}': {source}", path.display())]
    Failed { path: PathBuf, source: io::Error },
}

impl WriteError {
    fn at(path: &Path) -> impl Fn(io::Error) -> Self + use<> {
        let path = path.to_path_buf();
        move |source| {
            let path = path.clone();
            match source.raw_os_error() {
                Some(libc::EISDIR) => Self::IsFolder(path),
                Some(libc::ENOTDIR) => Self::NotAFolder(path),
                Some(libc::ENOSPC | libc::EDQUOT) => Self::NoSpace,
                Some(libc::EACCES | libc::EPERM | libc::EROFS | libc::ETXTBSY) => Self::Refused(path),
                Some(libc::ENAMETOOLONG | libc::ELOOP | libc::EINVAL | libc::ENXIO) => {
                    Self::Invalid { path, source }
                }
                _ => Self::Failed { path, source },
            }
        }
    }
}

/// What lies where a file is to be written.
enum Place {
    /// Nothing: the file is new.
    Free(PathBuf),
    /// A file, at its real path.
    Taken(PathBuf, Metadata),
    /// A device, a FIFO, something else that is written to, not replaced.
    Special(PathBuf),
}

/// Writes a file.
pub(super) async fn file(
    path: &Path,
    user: &User,
    content: impl Stream<Item = Result<Bytes, BoxError>> + Send,
) -> Result<(), WriteError> {
    let (target, mode, owner) = match look(path).await? {
        Place::Special(path) => return in_place(&path, content).await,
        Place::Taken(path, metadata) => (path, metadata.mode() & 0o7777, (metadata.uid(), metadata.gid())),
        Place::Free(path) => {
            if let Some(folder) = path.parent() {
                make_dirs(folder, user).await?;
            }
            (path, NEW_FILE_MODE, (user.uid, user.gid))
        }
    };
    let failed = WriteError::at(&target);
    let temporary = Temporary::beside(&target);
    let mut file = match OpenOptions::new().write(true).create_new(true).mode(0o600).open(&temporary.0).await
    {
        Ok(file) => file,
        // A folder in which no file can be made, such as those of /proc, though the one that is there can be written.
        Err(error) if error.raw_os_error() != Some(libc::ENOSPC) && target.exists() => {
            return in_place(&target, content).await;
        }
        Err(error) => return Err(failed(error)),
    };
    copy(&target, &mut file, content).await?;
    // The owner first: a change of owner takes set-user-id bits away.
    let std_file = file.into_std().await;
    fchown(&std_file, Some(owner.0), Some(owner.1)).map_err(&failed)?;
    std_file.set_permissions(std::fs::Permissions::from_mode(mode)).map_err(&failed)?;
    fs::rename(&temporary.0, &target).await.map_err(&failed)
}

/// Finds out what is there, behind any links.
async fn look(path: &Path) -> Result<Place, WriteError> {
    let mut path = path.to_path_buf();
    for _ in 0..LINKS_MAX {
        let failed = WriteError::at(&path);
        match fs::metadata(&path).await {
            Ok(metadata) if metadata.is_dir() => return Err(WriteError::IsFolder(path)),
            Ok(metadata) if metadata.is_file() => {
                let real = fs::canonicalize(&path).await.map_err(&failed)?;
                return Ok(Place::Taken(real, metadata));
            }
            Ok(_) => return Ok(Place::Special(path)),
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(failed(error)),
            Err(_) => {}
        }
        // Nothing there, or a link to nothing: then the file is made where the link points.
        match fs::read_link(&path).await {
            Ok(to) => path = path.parent().unwrap_or(Path::new("/")).join(to),
            Err(_) => return Ok(Place::Free(path)),
        }
    }
    Err(WriteError::at(&path)(io::Error::from_raw_os_error(libc::ELOOP)))
}

async fn in_place(
    path: &Path,
    content: impl Stream<Item = Result<Bytes, BoxError>> + Send,
) -> Result<(), WriteError> {
    // Not blocking: a FIFO that nobody reads is an error, not a wait.
    let mut file = OpenOptions::new()
        .write(true)
        .truncate(true)
        .custom_flags(libc::O_NONBLOCK | libc::O_NOCTTY)
        .open(path)
        .await
        .map_err(WriteError::at(path))?;
    copy(path, &mut file, content).await
}

async fn copy(
    path: &Path,
    file: &mut File,
    content: impl Stream<Item = Result<Bytes, BoxError>> + Send,
) -> Result<(), WriteError> {
    let mut content = std::pin::pin!(content);
    while let Some(bytes) = content.next().await {
        file.write_all(&bytes.map_err(WriteError::Body)?).await.map_err(WriteError::at(path))?;
    }
    // Only now is it certain that the last write succeeded.
    file.flush().await.map_err(WriteError::at(path))
}

/// Makes a folder and its missing parents, all of them the user's.
pub(crate) async fn make_dirs(folder: &Path, user: &User) -> Result<(), WriteError> {
    let mut missing = Vec::new();
    for ancestor in folder.ancestors() {
        match fs::metadata(ancestor).await {
            Ok(metadata) if metadata.is_dir() => break,
            Ok(_) => return Err(WriteError::NotAFolder(ancestor.to_path_buf())),
            Err(error) if error.kind() == io::ErrorKind::NotFound => missing.push(ancestor),
            Err(error) => return Err(WriteError::at(ancestor)(error)),
        }
    }
    for folder in missing.into_iter().rev() {
        match fs::create_dir(folder).await {
            Ok(()) => chown(folder, Some(user.uid), Some(user.gid)).map_err(WriteError::at(folder))?,
            // Somebody else was faster: then it is theirs.
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            Err(error) => return Err(WriteError::at(folder)(error)),
        }
    }
    Ok(())
}

/// A temporary name in a folder; whatever bears it at the end is removed.
struct Temporary(PathBuf);

impl Temporary {
    fn beside(target: &Path) -> Self {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let name = format!(".sandbar-upload-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        Self(target.with_file_name(name))
    }
}

impl Drop for Temporary {
    fn drop(&mut self) {
        // After the rename there is nothing left of that name. Not asynchronous, so that it also happens to a request
        // that is dropped half-way.
        let _ = std::fs::remove_file(&self.0);
    }
}
