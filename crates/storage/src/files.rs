//! Durable file operations: what is written here is on disk, or was never there.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, RenameFlags};
use serde::Serialize;
use serde::de::DeserializeOwned;

/// A file operation that failed.
#[derive(Debug, thiserror::Error)]
#[error("cannot {action} {}", path.display())]
pub struct FileError {
    /// What was tried, as a verb.
    pub action: &'static str,
    /// On which file.
    pub path: PathBuf,
    /// Why it failed.
    pub source: io::Error,
}

impl FileError {
    pub(crate) fn new(action: &'static str, path: &Path, source: impl Into<io::Error>) -> Self {
        Self { action, path: path.to_owned(), source: source.into() }
    }

    pub(crate) fn kind(&self) -> io::ErrorKind {
        self.source.kind()
    }
}

/// Says of an I/O error what was tried on which file.
pub(crate) trait OnFile<T> {
    fn on(self, action: &'static str, path: &Path) -> Result<T, FileError>;
}

impl<T, E: Into<io::Error>> OnFile<T> for Result<T, E> {
    fn on(self, action: &'static str, path: &Path) -> Result<T, FileError> {
        self.map_err(|error| FileError::new(action, path, error))
    }
}

/// Writes a new file and its content through to the disk. The folder that holds it is the caller's to fsync.
pub(crate) fn write_new(path: &Path, content: &[u8]) -> Result<(), FileError> {
    let mut file = File::create_new(path).on("create", path)?;
    file.write_all(content).on("write", path)?;
    file.sync_all().on("fsync", path)
}

/// [`write_new`] of a JSON document.
pub(crate) fn write_new_json(path: &Path, value: &impl Serialize) -> Result<(), FileError> {
    let mut text = serde_json::to_vec_pretty(value).on("serialize", path)?;
    text.push(b'\n');
    write_new(path, &text)
}

/// What a file that should hold a JSON document holds.
pub(crate) enum Json<T> {
    Value(T),
    Malformed(serde_json::Error),
    Missing,
}

pub(crate) fn read_json<T: DeserializeOwned>(path: &Path) -> Result<Json<T>, FileError> {
    match fs::read(path) {
        Ok(text) => Ok(serde_json::from_slice(&text).map_or_else(Json::Malformed, Json::Value)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Json::Missing),
        Err(error) => Err(FileError::new("read", path, error)),
    }
}

/// Makes a file's content, or a folder's entries, outlive a power cut.
pub(crate) fn fsync(path: &Path) -> Result<(), FileError> {
    File::open(path).and_then(|file| file.sync_all()).on("fsync", path)
}

/// Renames `from` to `to`, which must not exist, and fsyncs the folder that `to` is in.
pub(crate) fn publish_new(from: &Path, to: &Path) -> Result<(), FileError> {
    rustix::fs::renameat_with(CWD, from, CWD, to, RenameFlags::NOREPLACE).on("publish", to)?;
    fsync(parent(to))
}

/// Puts `from` in the place of `to` in one step, whether or not `to` exists; the old `to`, if any, is then at `from`.
pub(crate) fn publish_over(from: &Path, to: &Path) -> Result<(), FileError> {
    match rustix::fs::renameat_with(CWD, from, CWD, to, RenameFlags::EXCHANGE) {
        Err(rustix::io::Errno::NOENT) => publish_new(from, to),
        exchanged => {
            exchanged.on("publish", to)?;
            fsync(parent(to))
        }
    }
}

/// The folder that holds `path`.
pub(crate) fn parent(path: &Path) -> &Path {
    match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        _ => Path::new("."),
    }
}

/// Deletes a file or a whole folder; nothing there is fine. Somebody may still be putting a last file into a folder.
pub(crate) fn remove_all(path: &Path) -> Result<(), FileError> {
    /// Folders that are put files into meanwhile get no more than a few.
    const TRIES: u32 = 8;
    let remove = || match fs::symlink_metadata(path) {
        Ok(metadata) if metadata.is_dir() => fs::remove_dir_all(path),
        Ok(_) => fs::remove_file(path),
        Err(error) => Err(error),
    };
    let mut removed = remove();
    for _ in 1..TRIES {
        match &removed {
            Err(error) if error.kind() == io::ErrorKind::DirectoryNotEmpty => removed = remove(),
            _ => break,
        }
    }
    match removed {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(FileError::new("delete", path, error)),
        _ => Ok(()),
    }
}
