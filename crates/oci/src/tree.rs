//! A folder whose content nobody vouches for: all that is opened in it is looked up as if it were the root of everything.
//!
//! The kernel does that (`openat2` with `RESOLVE_IN_ROOT`): absolute links and `..` end at the folder, in one step with the opening, so
//! that no name has to be judged here. What is found is then worked on through its descriptor. Devices and pipes may lie about; only
//! what was seen to be a regular file is ever opened for its content.

use std::ffi::{OsStr, OsString};
use std::fs::{File, Permissions};
use std::io::{Read as _, Write as _};
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use rustix::fs::{
    AtFlags, CWD, Dir, FileType, Gid, Mode, OFlags, ResolveFlags, Uid, chownat, fstat, mkdirat, openat,
    openat2, readlinkat, statat, unlinkat,
};
use rustix::io::Errno;

use crate::error::ImageError;

/// How deep folders may lie in one another. It bounds the stack and the open files of whoever walks the tree.
const DEPTH: usize = 128;
/// A lookup in a root is repeated when something in the system is renamed at the same moment.
const LOOKUPS: u32 = 64;

const FOLDER: OFlags = OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::CLOEXEC);
const HANDLE: OFlags = OFlags::PATH.union(OFlags::CLOEXEC);

/// The folder.
#[derive(Debug)]
pub struct Tree {
    root: OwnedFd,
    /// Without links.
    path: PathBuf,
}

/// A folder in it, open.
#[derive(Debug)]
pub(crate) struct Folder {
    pub(crate) fd: OwnedFd,
    pub(crate) inode: u64,
    depth: usize,
}

/// What is at a path.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Nothing, or a link to nothing.
    Nothing,
    /// A regular file of so many bytes.
    File(u64),
    /// A folder.
    Folder,
    /// A device, a pipe, a socket.
    Other,
}

/// What to do about folders that are missing on the way.
#[derive(Clone, Copy)]
pub(crate) enum Missing<'a> {
    /// They are made, root's and open to be read by all; for each this is asked before.
    Make(&'a dyn Fn() -> Result<(), ImageError>),
    /// Then there is nothing.
    Leave,
}

impl Tree {
    /// That folder. Nobody else may write to it.
    pub fn open(folder: &Path) -> Result<Self, ImageError> {
        let path = folder.canonicalize().map_err(ImageError::io("find the image's folder"))?;
        let root =
            openat(CWD, &path, FOLDER, Mode::empty()).map_err(ImageError::io("open the image's folder"))?;
        Ok(Self { root, path })
    }

    /// What is at a path, links followed.
    pub fn kind(&self, path: &str) -> Result<Kind, ImageError> {
        match self.look_up(Path::new(path), HANDLE) {
            Ok(handle) => {
                let found = fstat(&handle).map_err(ImageError::io("look at a file of the image"))?;
                Ok(match FileType::from_raw_mode(found.st_mode) {
                    FileType::RegularFile => Kind::File(u64::try_from(found.st_size).unwrap_or_default()),
                    FileType::Directory => Kind::Folder,
                    _ => Kind::Other,
                })
            }
            Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => Ok(Kind::Nothing),
            Err(error) => Err(ImageError::io("look at a file of the image")(error)),
        }
    }

    /// The content of a file, links followed; none where there is no file.
    pub fn read(&self, path: &str, limit: u64) -> Result<Option<Vec<u8>>, ImageError> {
        let Some(file) = self.regular(path, OFlags::RDONLY)? else { return Ok(None) };
        let mut content = Vec::new();
        file.take(limit + 1).read_to_end(&mut content).map_err(ImageError::io("read a file of the image"))?;
        if content.len() as u64 > limit {
            return Err(ImageError::TooLarge(format!("{path} has more than {limit} bytes")));
        }
        Ok(Some(content))
    }

    /// Adds to the end of a file that is there. Its owner and mode stay.
    pub fn append(&self, path: &str, content: &[u8]) -> Result<(), ImageError> {
        let file = self.regular(path, OFlags::WRONLY | OFlags::APPEND)?;
        let mut file = file.ok_or_else(|| ImageError::broken(format!("{path} is no file")))?;
        file.write_all(content).map_err(ImageError::io("write a file of the image"))
    }

    /// Makes a file of root's, in the place of whatever is there; a link there goes, what it leads to stays.
    pub fn write(&self, path: &str, mode: u32, content: &[u8]) -> Result<(), ImageError> {
        let failed = |error| ImageError::io("write a file of the image")(error);
        let (folder, name) = self.place(path)?;
        remove(&folder, &name)?;
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let made = openat(&folder.fd, &name, flags, Mode::from_raw_mode(0o600));
        let mut file = File::from(made.map_err(|error| failed(error.into()))?);
        file.write_all(content).map_err(failed)?;
        file.set_permissions(Permissions::from_mode(mode)).map_err(failed)
    }

    /// Makes a folder and those above it, unless something is there. Only one that is made gets the mode and the owner.
    pub fn make_folder(&self, path: &str, mode: u32, owner: (u32, u32)) -> Result<(), ImageError> {
        if self.kind(path)? != Kind::Nothing {
            return Ok(());
        }
        let (folder, name) = self.place(path)?;
        // A link to nothing may be in its place.
        remove(&folder, &name)?;
        let failed = |error: Errno| ImageError::io("make a folder of the image")(error);
        mkdirat(&folder.fd, &name, Mode::from_raw_mode(0o700)).map_err(failed)?;
        let made = openat(&folder.fd, &name, FOLDER | OFlags::NOFOLLOW, Mode::empty()).map_err(failed)?;
        rustix::fs::fchown(&made, Some(Uid::from_raw(owner.0)), Some(Gid::from_raw(owner.1)))
            .map_err(failed)?;
        rustix::fs::fchmod(&made, Mode::from_raw_mode(mode)).map_err(failed)
    }

    fn place(&self, path: &str) -> Result<(Folder, OsString), ImageError> {
        let components = crate::tar_stream::components(path.as_bytes())?;
        let (name, parents) =
            components.split_last().ok_or_else(|| ImageError::broken(format!("{path:?} is no name")))?;
        let folder =
            self.folder(parents, Missing::Make(&|| Ok(())))?.ok_or_else(|| unreachable_folder(parents))?;
        Ok((folder, (*name).to_owned()))
    }

    /// A regular file, links followed. It is seen to be one before it is opened: opening a device may do anything.
    fn regular(&self, path: &str, flags: OFlags) -> Result<Option<File>, ImageError> {
        if !matches!(self.kind(path)?, Kind::File(_)) {
            return Ok(None);
        }
        let failed = |error: Errno| ImageError::io("open a file of the image")(error);
        let handle = self.look_up(Path::new(path), HANDLE).map_err(failed)?;
        let itself = format!("/proc/self/fd/{}", handle.as_raw_fd());
        let file =
            openat(CWD, itself, flags | OFlags::CLOEXEC | OFlags::NOCTTY | OFlags::NONBLOCK, Mode::empty());
        Ok(Some(File::from(file.map_err(failed)?)))
    }

    /// The folder at these components, links followed; none where there is none, and it is not to be made.
    pub(crate) fn folder(
        &self,
        components: &[&OsStr],
        missing: Missing<'_>,
    ) -> Result<Option<Folder>, ImageError> {
        let path: PathBuf = components.iter().collect();
        match self.look_up(&path, FOLDER) {
            Ok(fd) => self.describe(fd).map(Some),
            Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) if matches!(missing, Missing::Leave) => Ok(None),
            Err(Errno::NOENT) => {
                let Some((name, parents)) = components.split_last() else {
                    return Err(unreachable_folder(components));
                };
                let Some(parent) = self.folder(parents, missing)? else {
                    return Err(unreachable_folder(components));
                };
                if let Missing::Make(ask) = missing {
                    ask()?;
                }
                let failed = |error: Errno| match error {
                    // What is there is a link to nothing.
                    Errno::EXIST => unreachable_folder(components),
                    error => ImageError::io("make a folder of the image")(error),
                };
                mkdirat(&parent.fd, *name, Mode::from_raw_mode(0o700)).map_err(failed)?;
                let made =
                    openat(&parent.fd, *name, FOLDER | OFlags::NOFOLLOW, Mode::empty()).map_err(failed)?;
                rustix::fs::fchmod(&made, Mode::from_raw_mode(0o755)).map_err(failed)?;
                self.describe(made).map(Some)
            }
            Err(Errno::NOTDIR | Errno::LOOP | Errno::NAMETOOLONG) => Err(unreachable_folder(components)),
            Err(error) => Err(ImageError::io("open a folder of the image")(error)),
        }
    }

    /// What is to be known of a folder of the tree; refuses one that lies too deep.
    fn describe(&self, fd: OwnedFd) -> Result<Folder, ImageError> {
        let failed = |error: Errno| ImageError::io("look at a folder of the image")(error);
        let path = match readlinkat(CWD, format!("/proc/self/fd/{}", fd.as_raw_fd()), Vec::new()) {
            Err(Errno::NAMETOOLONG) => return Err(too_deep()),
            path => path.map_err(failed)?,
        };
        let inside = Path::new(OsStr::from_bytes(path.as_bytes())).strip_prefix(&self.path);
        // The kernel does not let it happen; were it to happen, nothing would be written.
        let inside = inside.map_err(|_| ImageError::broken("a link leads out of the image"))?;
        let depth = inside.components().count();
        if depth > DEPTH {
            return Err(too_deep());
        }
        let inode = fstat(&fd).map_err(failed)?.st_ino;
        Ok(Folder { fd, inode, depth })
    }

    fn look_up(&self, path: &Path, flags: OFlags) -> Result<OwnedFd, Errno> {
        let path = if path.as_os_str().is_empty() { Path::new(".") } else { path };
        let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS | ResolveFlags::NO_XDEV;
        let mut found = Err(Errno::AGAIN);
        for _ in 0..LOOKUPS {
            found = openat2(&self.root, path, flags, Mode::empty(), resolve);
            if !matches!(found, Err(Errno::AGAIN)) {
                break;
            }
        }
        found
    }
}

fn unreachable_folder(components: &[&OsStr]) -> ImageError {
    let path: PathBuf = components.iter().collect();
    ImageError::broken(format!("{} should be a folder, and is none", path.display()))
}

fn too_deep() -> ImageError {
    ImageError::TooLarge(format!("it has folders more than {DEPTH} deep in one another"))
}

impl Folder {
    /// What may be made in it lies no deeper than may be.
    pub(crate) fn check_depth(&self) -> Result<(), ImageError> {
        if self.depth >= DEPTH { Err(too_deep()) } else { Ok(()) }
    }
}

/// What a name in a folder is, itself and not what it leads to.
pub(crate) fn type_of(folder: &Folder, name: &OsStr) -> Result<Option<FileType>, ImageError> {
    match statat(&folder.fd, name, AtFlags::SYMLINK_NOFOLLOW) {
        Ok(found) => Ok(Some(FileType::from_raw_mode(found.st_mode))),
        Err(Errno::NOENT) => Ok(None),
        Err(error) => Err(ImageError::io("look at a file of the image")(error)),
    }
}

/// Removes a name with all that is beneath it; nothing there is fine.
pub(crate) fn remove(folder: &Folder, name: &OsStr) -> Result<(), ImageError> {
    if type_of(folder, name)? == Some(FileType::Directory) {
        purge(&folder.fd, name, &|_, _| false)?;
        return Ok(());
    }
    match unlinkat(&folder.fd, name, AtFlags::empty()) {
        Ok(()) | Err(Errno::NOENT) => Ok(()),
        Err(error) => Err(ImageError::io("remove a file of the image")(error)),
    }
}

/// Whether a folder is gone after a purge.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Left {
    Something,
    Nothing,
}

/// Removes what is beneath a folder in another, but what `kept` says of an inode of a folder and a name in it, and then the folder
/// itself, if it is not kept and empty.
pub(crate) fn purge(
    parent: &OwnedFd,
    name: &OsStr,
    kept: &dyn Fn(u64, &OsStr) -> bool,
) -> Result<(), ImageError> {
    let failed = |error: Errno| ImageError::io("remove a folder of the image")(error);
    let parent_inode = fstat(parent).map_err(failed)?.st_ino;
    let fd = openat(parent, name, FOLDER | OFlags::NOFOLLOW, Mode::empty()).map_err(failed)?;
    let left = empty(&fd, kept)?;
    if left == Left::Nothing && !kept(parent_inode, name) {
        unlinkat(parent, name, AtFlags::REMOVEDIR).map_err(failed)?;
    }
    Ok(())
}

/// Removes what is beneath an open folder, but what `kept` says.
pub(crate) fn purge_content(folder: &Folder, kept: &dyn Fn(u64, &OsStr) -> bool) -> Result<(), ImageError> {
    empty(&folder.fd, kept).map(drop)
}

/// As deep as the tree may be, and no deeper: its folders were counted when they were made.
fn empty(fd: &OwnedFd, kept: &dyn Fn(u64, &OsStr) -> bool) -> Result<Left, ImageError> {
    let failed = |error: Errno| ImageError::io("remove a folder of the image")(error);
    let inode = fstat(fd).map_err(failed)?.st_ino;
    let mut left = Left::Nothing;
    for entry in Dir::read_from(fd).map_err(failed)? {
        let entry = entry.map_err(failed)?;
        let name = OsStr::from_bytes(entry.file_name().to_bytes());
        if name == "." || name == ".." {
            continue;
        }
        let found = statat(fd, name, AtFlags::SYMLINK_NOFOLLOW).map_err(failed)?;
        if FileType::from_raw_mode(found.st_mode) == FileType::Directory {
            purge(fd, name, kept)?;
            match statat(fd, name, AtFlags::SYMLINK_NOFOLLOW) {
                Err(Errno::NOENT) => {}
                _ => left = Left::Something,
            }
        } else if kept(inode, name) {
            left = Left::Something;
        } else {
            unlinkat(fd, name, AtFlags::empty()).map_err(failed)?;
        }
    }
    Ok(left)
}

/// Gives a name its owner, itself and not what it leads to.
pub(crate) fn give(folder: &Folder, name: &OsStr, uid: u32, gid: u32) -> Result<(), ImageError> {
    let (uid, gid) = (Some(Uid::from_raw(uid)), Some(Gid::from_raw(gid)));
    chownat(&folder.fd, name, uid, gid, AtFlags::SYMLINK_NOFOLLOW)
        .map_err(ImageError::io("give a file of the image its owner"))
}
