//! How a file comes to be: collected under no name (`stage`), and put in its place when it is complete.
//!
//! So an upload that fails leaves what was there, and constant memory suffices. The choice is made in `file` alone. A new
//! file is 0644 and its user's, an existing one keeps its mode and owner; missing folders are 0755 and their user's. Links
//! are followed: what changes is the file behind them. Devices, new files on a filesystem that has no files without a name
//! (some network filesystems), and files in a folder that takes none (`/proc`) are written as the content arrives: there is no
//! other way.
//!
//! A write may ask for what must be there. That is looked at before anything else, and once more in the turn in which the content is
//! replaced.

use std::fs::{File, Metadata as Attributes, OpenOptions};
use std::io;
use std::os::unix::fs::{OpenOptionsExt, chown, fchown};
use std::path::{Path, PathBuf};

use axum::BoxError;
use bytes::Bytes;
use futures::Stream;
use tokio::fs;
use tokio::task::spawn_blocking;

use super::condition::{self, Condition};
use super::metadata::{Metadata, MetadataError};
use super::stage::{self, PublishError};
use super::transfer::{self, FillError};
use crate::users::User;

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
    #[error("path '{}': {source}", path.display())]
    Metadata { path: PathBuf, source: MetadataError },
    #[error("path '{}' may not be written", .0.display())]
    Refused(PathBuf),
    #[error("path '{}' is not what the write expects", .0.display())]
    Changed(PathBuf),
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
                Some(libc::ENOENT | libc::ENAMETOOLONG | libc::ELOOP | libc::EINVAL | libc::ENXIO) => {
                    Self::Invalid { path, source }
                }
                _ => Self::Failed { path, source },
            }
        }
    }

    fn filling(path: &Path) -> impl FnOnce(FillError) -> Self + use<> {
        let failed = Self::at(path);
        move |error| match error {
            FillError::Content(error) => Self::Body(error),
            FillError::File(error) => failed(error),
        }
    }

    fn publishing(path: PathBuf) -> impl FnOnce(PublishError) -> Self {
        move |error| match error {
            PublishError::Changed => Self::Changed(path),
            PublishError::File(error) | PublishError::Metadata(MetadataError::Failed(error)) => {
                Self::at(&path)(error)
            }
            PublishError::Metadata(source) => Self::Metadata { path, source },
        }
    }
}

/// What a caller says of a write besides the content.
#[derive(Debug, Clone)]
pub(super) struct Terms {
    pub(super) metadata: Metadata,
    pub(super) condition: Condition,
}

/// What lies where a file is to be written.
enum Place {
    /// A file or nothing, at a path that does not end in a link.
    File(PathBuf),
    /// A device, a FIFO, something else that is written to, not replaced.
    Special(PathBuf),
}

/// Writes a file, and tells its state then, where that is known.
pub(super) async fn file(
    path: &Path,
    user: &User,
    terms: &Terms,
    content: impl Stream<Item = Result<Bytes, BoxError>> + Send,
) -> Result<Option<String>, WriteError> {
    let place = look(path).await?;
    let (Place::File(target) | Place::Special(target)) = &place;
    if !terms.condition.allows(fs::metadata(target).await.ok().as_ref()) {
        return Err(WriteError::Changed(target.clone()));
    }
    let target = match place {
        Place::Special(path) => return in_place(path, user, terms, content).await,
        Place::File(path) => path,
    };
    let folder = target.parent().unwrap_or(Path::new("/")).to_path_buf();
    make_dirs(&folder, user).await?;
    let failed = WriteError::at(&target);
    let opened = blocking(move || stage::open_in(&folder)).await;
    let Some(stage) = opened.flatten().map_err(&failed)? else {
        return without_stage(target, user, terms, content).await;
    };
    let stage = transfer::fill(stage, content).await.map_err(WriteError::filling(&target))?;
    let (place, user, terms) = (target.clone(), user.clone(), terms.clone());
    let published = blocking(move || stage::publish(stage, &place, &user, &terms)).await;
    published.map_err(&failed)?.map(Some).map_err(WriteError::publishing(target))
}

/// Writes a file on a filesystem that has no files without a name. An old one is kept until the content is complete all the same.
async fn without_stage(
    target: PathBuf,
    user: &User,
    terms: &Terms,
    content: impl Stream<Item = Result<Bytes, BoxError>> + Send,
) -> Result<Option<String>, WriteError> {
    let place = target.clone();
    let unlinked = blocking(move || {
        // Only for a file that is there: this one can get no name.
        let folder = place.parent().filter(|_| place.symlink_metadata().is_ok())?;
        stage::unlinked_in(folder)
    });
    let Some(stage) = unlinked.await.map_err(WriteError::at(&target))? else {
        return in_place(target, user, terms, content).await;
    };
    let mut stage = transfer::fill(stage, content).await.map_err(WriteError::filling(&target))?;
    let (place, terms) = (target.clone(), terms.clone());
    let replaced = blocking(move || stage::replace(&mut stage, &place, &terms)).await;
    replaced.map_err(WriteError::at(&target))?.map(Some).map_err(WriteError::publishing(target))
}

/// Finds out what is there, behind any links.
async fn look(path: &Path) -> Result<Place, WriteError> {
    let mut path = path.to_path_buf();
    for _ in 0..LINKS_MAX {
        let failed = WriteError::at(&path);
        match fs::metadata(&path).await {
            Ok(metadata) if metadata.is_dir() => return Err(WriteError::IsFolder(path)),
            Ok(metadata) if metadata.is_file() => {
                return Ok(Place::File(fs::canonicalize(&path).await.map_err(&failed)?));
            }
            Ok(_) => return Ok(Place::Special(path)),
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(failed(error)),
            Err(_) => {}
        }
        // Nothing there, or a link to nothing: then the file is made where the link points.
        match fs::read_link(&path).await {
            Ok(to) => path = path.parent().unwrap_or(Path::new("/")).join(to),
            Err(_) => return Ok(Place::File(path)),
        }
    }
    Err(WriteError::at(&path)(io::Error::from_raw_os_error(libc::ELOOP)))
}

/// Writes to a file as the content arrives.
async fn in_place(
    path: PathBuf,
    user: &User,
    terms: &Terms,
    content: impl Stream<Item = Result<Bytes, BoxError>> + Send,
) -> Result<Option<String>, WriteError> {
    if !terms.metadata.is_empty() {
        return Err(WriteError::Metadata { path, source: MetadataError::NotKept });
    }
    let (target, owner) = (path.clone(), (user.uid, user.gid));
    let condition = terms.condition.clone();
    let opened = blocking(move || open_in_place(&target, owner, &condition)).await;
    let opened = opened.flatten().map_err(WriteError::at(&path))?;
    let Some((file, origin)) = opened else { return Err(WriteError::Changed(path)) };
    let filled = transfer::fill(file, content).await;
    if filled.is_err() && origin == Origin::New {
        // Half a file is of no use. If it cannot be removed, the error that matters is the first one.
        let _ = fs::remove_file(&path).await;
    }
    let file = filled.map_err(WriteError::filling(&path))?;
    Ok(file.metadata().ok().filter(Attributes::is_file).map(|file| condition::tag(&file)))
}

/// Whether a file was there before.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Origin {
    New,
    Old,
}

/// Opens what is there, emptied, or makes it; nothing where that is not what must be there.
fn open_in_place(
    path: &Path,
    owner: (u32, u32),
    condition: &Condition,
) -> io::Result<Option<(File, Origin)>> {
    if condition.allows(None) {
        match OpenOptions::new().write(true).create_new(true).mode(stage::NEW_FILE_MODE).open(path) {
            Ok(file) => {
                fchown(&file, Some(owner.0), Some(owner.1))?;
                return Ok(Some((file, Origin::New)));
            }
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            Err(error) => return Err(error),
        }
    }
    // Not blocking: a FIFO that nobody reads is an error, not a wait.
    let flags = libc::O_NONBLOCK | libc::O_NOCTTY;
    if *condition != Condition::Whatever && !condition.allows(std::fs::metadata(path).ok().as_ref()) {
        return Ok(None);
    }
    let file = OpenOptions::new().write(true).truncate(true).custom_flags(flags).open(path)?;
    Ok(Some((file, Origin::Old)))
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> io::Result<T> {
    spawn_blocking(work).await.map_err(io::Error::other)
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
