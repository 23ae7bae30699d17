//! The operations on folders and entries. They block: callers run them off the runtime's workers.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use super::entry::{Entry, Kind};
use crate::users::Names;

/// Entries of one listing. Beyond it a guest short of memory would lose its agent, and no caller reads so many.
const LIST_MAX: usize = 100_000;

/// Why an operation failed.
#[derive(Debug, thiserror::Error)]
pub(super) enum TreeError {
    #[error("path '{}' does not exist", .0.display())]
    NotFound(PathBuf),
    #[error("path '{}' is not a directory", .0.display())]
    NotAFolder(PathBuf),
    #[error("path '{}' already exists", .0.display())]
    Exists(PathBuf),
    #[error("path '{}' cannot be removed", .0.display())]
    IsRoot(PathBuf),
    #[error("path '{}' has more than {LIST_MAX} entries", .0.display())]
    TooMany(PathBuf),
    #[error("path '{}': {source}", path.display())]
    Invalid { path: PathBuf, source: io::Error },
    #[error("path '{}': {source}", path.display())]
    Failed { path: PathBuf, source: io::Error },
}

impl TreeError {
    pub(super) fn at(path: &Path) -> impl Fn(io::Error) -> Self + use<> {
        let path = path.to_path_buf();
        move |source| {
            let path = path.clone();
            match source.raw_os_error() {
                Some(libc::ENOENT) => Self::NotFound(path),
                Some(libc::ENOTDIR) => Self::NotAFolder(path),
                Some(libc::EEXIST | libc::ENOTEMPTY) => Self::Exists(path),
                Some(libc::EINVAL | libc::ENAMETOOLONG | libc::ELOOP | libc::EISDIR) => {
                    Self::Invalid { path, source }
                }
                _ => Self::Failed { path, source },
            }
        }
    }
}

/// One entry.
pub(super) fn stat(path: &Path) -> Result<Entry, TreeError> {
    Entry::read(path, &Names::read()).map_err(TreeError::at(path))
}

/// The entries below a folder down to `depth` levels, each folder's in the order of their names, each folder before what
/// is in it. Links are listed, not entered. The folder itself may be a link.
pub(super) fn list(folder: &Path, depth: u32) -> Result<Vec<Entry>, TreeError> {
    if !fs::metadata(folder).map_err(TreeError::at(folder))?.is_dir() {
        return Err(TreeError::NotAFolder(folder.to_path_buf()));
    }
    let names = Names::read();
    let mut entries = Vec::new();
    // Folders still to be listed are kept, not recursed into: a tree may be deeper than a stack.
    let mut pending = children(folder, depth.max(1)).map_err(TreeError::at(folder))?;
    while let Some((path, levels)) = pending.pop() {
        // What vanished meanwhile is not there any more.
        let Ok(entry) = Entry::read(&path, &names) else { continue };
        if entry.kind == Kind::Folder && entry.target.is_none() && levels > 1 {
            pending.extend(children(&path, levels - 1).unwrap_or_default());
        }
        if entries.len() == LIST_MAX {
            return Err(TreeError::TooMany(folder.to_path_buf()));
        }
        entries.push(entry);
    }
    Ok(entries)
}

/// A folder's entries, the last name first, as a stack wants them.
fn children(folder: &Path, levels: u32) -> io::Result<Vec<(PathBuf, u32)>> {
    let mut paths =
        fs::read_dir(folder)?.map(|entry| Ok((entry?.path(), levels))).collect::<io::Result<Vec<_>>>()?;
    paths.sort_unstable_by(|a, b| b.0.cmp(&a.0));
    Ok(paths)
}

/// Moves an entry. The destination's folder must exist.
pub(super) fn rename(source: &Path, destination: &Path) -> Result<(), TreeError> {
    fs::symlink_metadata(source).map_err(TreeError::at(source))?;
    fs::rename(source, destination).map_err(TreeError::at(destination))
}

/// Removes an entry with everything below it. One that is not there is removed already.
pub(super) fn remove(path: &Path) -> Result<(), TreeError> {
    if path.parent().is_none() {
        return Err(TreeError::IsRoot(path.to_path_buf()));
    }
    let removed = match fs::symlink_metadata(path) {
        Ok(metadata) if metadata.is_dir() => fs::remove_dir_all(path),
        Ok(_) => fs::remove_file(path),
        Err(error) => Err(error),
    };
    match removed {
        Err(error) if !matches!(error.raw_os_error(), Some(libc::ENOENT | libc::ENOTDIR)) => {
            Err(TreeError::at(path)(error))
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    fn tree() -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir_all(dir.path().join("b/c/d")).unwrap();
        fs::write(dir.path().join("a"), "").unwrap();
        fs::write(dir.path().join("b/x"), "").unwrap();
        fs::write(dir.path().join("b.txt"), "").unwrap();
        symlink("b", dir.path().join("link")).unwrap();
        dir
    }

    fn listed(folder: &Path, depth: u32) -> Vec<String> {
        let entries = list(folder, depth).unwrap();
        entries.iter().map(|e| e.path.strip_prefix(folder).unwrap().to_str().unwrap().to_owned()).collect()
    }

    #[test]
    fn lists_to_the_depth_asked_for() {
        let dir = tree();
        assert_eq!(listed(dir.path(), 0), ["a", "b", "b.txt", "link"]);
        assert_eq!(listed(dir.path(), 1), ["a", "b", "b.txt", "link"]);
        assert_eq!(listed(dir.path(), 2), ["a", "b", "b/c", "b/x", "b.txt", "link"]);
        assert_eq!(listed(dir.path(), 9), ["a", "b", "b/c", "b/c/d", "b/x", "b.txt", "link"]);
    }

    #[test]
    fn a_link_to_a_folder_can_be_listed_under_its_own_name() {
        let dir = tree();
        assert_eq!(listed(&dir.path().join("link"), 1), ["c", "x"]);
    }

    #[test]
    fn only_folders_can_be_listed() {
        let dir = tree();
        assert!(matches!(list(&dir.path().join("a"), 1), Err(TreeError::NotAFolder(_))));
        assert!(matches!(list(&dir.path().join("none"), 1), Err(TreeError::NotFound(_))));
    }

    #[test]
    fn removes_trees_and_links_but_not_what_links_point_to() {
        let dir = tree();
        remove(&dir.path().join("link")).unwrap();
        assert!(dir.path().join("b/x").exists());
        remove(&dir.path().join("b")).unwrap();
        remove(&dir.path().join("b")).unwrap();
        remove(&dir.path().join("a/below-a-file")).unwrap();
        assert_eq!(listed(dir.path(), 9), ["a", "b.txt"]);
        assert!(matches!(remove(Path::new("/")), Err(TreeError::IsRoot(_))));
    }
}
