//! One layer: its entries made, its removals carried out.
//!
//! A layer says what is removed by files of certain names: `.wh.NAME` removes NAME, `.wh..wh..opq` all that a folder had before this
//! layer. Both speak of the layers below only, wherever in the layer they stand: what this layer has made is remembered, by the folder's
//! inode and the name in it, and stays.

use std::collections::HashSet;
use std::ffi::OsStr;
use std::fs::File;
use std::hash::{BuildHasher as _, RandomState};
use std::io::{self, Read};
use std::os::unix::ffi::OsStrExt as _;

use rustix::fs::{
    AtFlags, FileType, Mode, OFlags, Timespec, Timestamps, UTIME_OMIT, XattrFlags, fchmod, fsetxattr,
    futimens, linkat, makedev, mkdirat, mknodat, openat, symlinkat, utimensat,
};
use rustix::io::Errno;
use tar::Archive;

use super::meter::{Meter, Metered};
use crate::compression;
use crate::error::ImageError;
use crate::image::Layer;
use crate::tar_stream::{self, Entry, What, components, unreadable};
use crate::tree::{self, Folder, Missing, Tree};

/// What names of removals begin with.
const WHITEOUT: &[u8] = b".wh.";
/// The removal of all that a folder had.
const OPAQUE: &[u8] = b".wh..wh..opq";
/// What other names of that beginning are: notes of a filesystem that nobody uses any more.
const NOTES: &[u8] = b".wh..wh.";
/// What a folder takes, even if it is empty.
const FOLDER_BYTES: u64 = 4096;
/// Bytes of the names of folders that are remembered for their dates. Beyond that, what was made in a folder dates it.
const DATED_BYTES: usize = 32 << 20;
/// Linux's bound.
const TARGET_BYTES: usize = 4095;
/// The attributes that are kept: those of others mean something to the machine that the image was made on, or to this one.
const ATTRIBUTES: [&str; 2] = ["security.capability", "user."];

/// Lays a layer over what is there.
pub(crate) fn apply(tree: &Tree, layer: &Layer, meter: &Meter<'_>) -> Result<(), ImageError> {
    let content = compression::content(layer.data.reader()).map_err(unreadable)?;
    let mut archive = Archive::new(Metered::new(content, meter));
    let mut work = Work { tree, meter, made: Made::default(), folders: Vec::new(), dated: 0 };
    tar_stream::entries(&mut archive, |entry, content| work.entry(&entry, content))
        .map_err(|error| meter.why(error))?;
    work.date_folders()?;
    let digest = archive.into_inner().finish()?;
    if digest != layer.content {
        return Err(ImageError::broken(format!("its content is {digest}, and should be {}", layer.content)));
    }
    Ok(())
}

struct Work<'a> {
    tree: &'a Tree,
    meter: &'a Meter<'a>,
    made: Made,
    /// Folders, and when they were changed: what is made in them changes that.
    folders: Vec<(Vec<u8>, i64)>,
    /// Bytes of their names.
    dated: usize,
}

/// What this layer has made: hashes of a folder's inode and a name in it, since names are as long and as many as the layer likes. The
/// hash is keyed by chance; where two were the same, something of the image would outlive its removal.
#[derive(Default)]
struct Made {
    hashes: HashSet<u64>,
    key: RandomState,
}

impl Made {
    fn insert(&mut self, folder: u64, name: &OsStr) {
        self.hashes.insert(self.key.hash_one((folder, name)));
    }

    fn contains(&self, folder: u64, name: &OsStr) -> bool {
        self.hashes.contains(&self.key.hash_one((folder, name)))
    }
}

impl Work<'_> {
    fn entry(&mut self, entry: &Entry, content: &mut dyn Read) -> Result<(), ImageError> {
        let path = components(&entry.path)?;
        self.meter.charge(match entry.what {
            What::File { size } => size,
            What::Folder => FOLDER_BYTES,
            _ => 0,
        })?;
        let Some((&name, parents)) = path.split_last() else {
            return if entry.what == What::Folder {
                self.root(entry)
            } else {
                Err(ImageError::broken("it has no name for a file"))
            };
        };
        if name.as_bytes().starts_with(WHITEOUT) {
            return self.remove(parents, name);
        }
        let folder = self
            .tree
            .folder(parents, Missing::Make(&|| self.meter.charge(FOLDER_BYTES)))?
            .ok_or_else(|| ImageError::broken("a folder is missing"))?;
        folder.check_depth()?;
        self.make(&folder, name, entry, content).map_err(|error| match error {
            ImageError::Io { action, source } => refused_by_the_system(entry, action, source),
            error => error,
        })?;
        self.made.insert(folder.inode, name);
        Ok(())
    }

    /// The folder that all is laid out in has an owner and a mode too.
    fn root(&mut self, entry: &Entry) -> Result<(), ImageError> {
        let root = self
            .tree
            .folder(&[], Missing::Leave)?
            .ok_or_else(|| ImageError::broken("a folder is missing"))?;
        self.finish_folder(&root.fd.into(), entry)
    }

    fn remove(&self, parents: &[&OsStr], name: &OsStr) -> Result<(), ImageError> {
        let Some(folder) = self.tree.folder(parents, Missing::Leave)? else { return Ok(()) };
        let kept = |inode: u64, name: &OsStr| self.made.contains(inode, name);
        if name.as_bytes() == OPAQUE {
            return tree::purge_content(&folder, &kept);
        }
        if name.as_bytes().starts_with(NOTES) {
            return Ok(());
        }
        let removed = OsStr::from_bytes(&name.as_bytes()[WHITEOUT.len()..]);
        if removed.is_empty() || removed == "." || removed == ".." {
            return Err(ImageError::broken("it removes a name that nothing can have"));
        }
        match tree::type_of(&folder, removed)? {
            None => Ok(()),
            Some(FileType::Directory) => tree::purge(&folder.fd, removed, &kept),
            Some(_) if kept(folder.inode, removed) => Ok(()),
            Some(_) => tree::remove(&folder, removed),
        }
    }

    fn make(
        &mut self,
        folder: &Folder,
        name: &OsStr,
        entry: &Entry,
        content: &mut dyn Read,
    ) -> Result<(), ImageError> {
        let there = tree::type_of(folder, name)?;
        if entry.what == What::Folder {
            if there != Some(FileType::Directory) {
                tree::remove(folder, name)?;
                mkdirat(&folder.fd, name, Mode::from_raw_mode(0o700))
                    .map_err(ImageError::io("make a folder"))?;
            }
            let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            let made =
                openat(&folder.fd, name, flags, Mode::empty()).map_err(ImageError::io("open a folder"))?;
            return self.finish_folder(&made.into(), entry);
        }
        if let What::HardLink { target } = &entry.what {
            return self.hard_link(folder, name, target);
        }
        if there.is_some() {
            tree::remove(folder, name)?;
        }
        match &entry.what {
            What::File { size } => return file(folder, name, entry, *size, content),
            What::Symlink { target } => {
                if target.len() > TARGET_BYTES || target.contains(&0) {
                    return Err(ImageError::broken("a link leads to a name that nothing can have"));
                }
                symlinkat(OsStr::from_bytes(target), &folder.fd, name)
                    .map_err(ImageError::io("make a link"))?;
            }
            What::Character { major, minor } => {
                node(folder, name, FileType::CharacterDevice, (*major, *minor))?;
            }
            What::Block { major, minor } => node(folder, name, FileType::BlockDevice, (*major, *minor))?,
            What::Fifo => node(folder, name, FileType::Fifo, (0, 0))?,
            What::Folder | What::HardLink { .. } => {}
        }
        tree::give(folder, name, entry.uid, entry.gid)?;
        if !matches!(entry.what, What::Symlink { .. }) {
            // What was made a moment ago is no link, and nobody else is here to make it one.
            rustix::fs::chmodat(&folder.fd, name, Mode::from_raw_mode(entry.mode), AtFlags::empty())
                .map_err(ImageError::io("set a file's mode"))?;
        }
        utimensat(&folder.fd, name, &times(entry.modified), AtFlags::SYMLINK_NOFOLLOW)
            .map_err(ImageError::io("set a file's time"))
    }

    fn hard_link(&self, folder: &Folder, name: &OsStr, target: &[u8]) -> Result<(), ImageError> {
        let missing = || {
            let target = String::from_utf8_lossy(target.get(..200).unwrap_or(target)).into_owned();
            ImageError::broken(format!("a second name is for {target:?}, which is no file of the image"))
        };
        let path = components(target)?;
        let (target_name, parents) = path.split_last().ok_or_else(missing)?;
        let target_folder = self.tree.folder(parents, Missing::Leave)?.ok_or_else(missing)?;
        match tree::type_of(&target_folder, target_name)? {
            None | Some(FileType::Directory) => return Err(missing()),
            // It is its own second name.
            Some(_) if target_folder.inode == folder.inode && *target_name == name => return Ok(()),
            Some(_) => {}
        }
        tree::remove(folder, name)?;
        // Of the name itself: where that is a link, the link gets a second name, and not what it leads to.
        match linkat(&target_folder.fd, *target_name, &folder.fd, name, AtFlags::empty()) {
            // What was removed held it.
            Err(Errno::NOENT) => Err(missing()),
            linked => linked.map_err(ImageError::io("make a second name")),
        }
    }

    fn finish_folder(&mut self, folder: &File, entry: &Entry) -> Result<(), ImageError> {
        describe(folder, entry)?;
        self.dated += entry.path.len() + size_of::<(Vec<u8>, i64)>();
        if self.dated <= DATED_BYTES {
            self.folders.push((entry.path.clone(), entry.modified));
        }
        Ok(())
    }

    /// Folders that are gone since, or are folders no more, have no date to be set.
    fn date_folders(&self) -> Result<(), ImageError> {
        for (path, modified) in &self.folders {
            if let Some(folder) = self.tree.folder(&components(path)?, Missing::Leave)? {
                futimens(&folder.fd, &times(*modified)).map_err(ImageError::io("set a folder's time"))?;
            }
        }
        Ok(())
    }
}

/// A file under a name at which nothing is.
fn file(
    folder: &Folder,
    name: &OsStr,
    entry: &Entry,
    size: u64,
    content: &mut dyn Read,
) -> Result<(), ImageError> {
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let made =
        openat(&folder.fd, name, flags, Mode::from_raw_mode(0o600)).map_err(ImageError::io("make a file"))?;
    let mut made = File::from(made);
    let copied = copy(content, &mut made)?;
    if copied != size {
        return Err(ImageError::broken("it ends in the middle of a file"));
    }
    describe(&made, entry)?;
    futimens(&made, &times(entry.modified)).map_err(ImageError::io("set a file's time"))
}

/// [`io::copy`], but it is known which side failed.
fn copy(from: &mut dyn Read, to: &mut File) -> Result<u64, ImageError> {
    let mut buffer = vec![0; 128 << 10];
    let mut copied = 0;
    loop {
        match from.read(&mut buffer) {
            Ok(0) => return Ok(copied),
            Ok(read) => {
                io::Write::write_all(to, &buffer[..read]).map_err(ImageError::io("write a file"))?;
                copied += read as u64;
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(unreadable(error)),
        }
    }
}

/// Owner, mode and attributes, in this order: a change of the owner takes away what the others give.
fn describe(file: &File, entry: &Entry) -> Result<(), ImageError> {
    std::os::unix::fs::fchown(file, Some(entry.uid), Some(entry.gid))
        .map_err(ImageError::io("give a file its owner"))?;
    fchmod(file, Mode::from_raw_mode(entry.mode)).map_err(ImageError::io("set a file's mode"))?;
    for (name, value) in &entry.attributes {
        if ATTRIBUTES.iter().any(|kept| name == kept || kept.ends_with('.') && name.starts_with(kept)) {
            fsetxattr(file, name.as_str(), value, XattrFlags::empty())
                .map_err(ImageError::io("set a file's attribute"))?;
        }
    }
    Ok(())
}

fn node(folder: &Folder, name: &OsStr, kind: FileType, (major, minor): (u32, u32)) -> Result<(), ImageError> {
    mknodat(&folder.fd, name, kind, Mode::from_raw_mode(0o600), makedev(major, minor))
        .map_err(ImageError::io("make a device"))
}

fn times(modified: i64) -> Timestamps {
    Timestamps {
        last_access: Timespec { tv_sec: 0, tv_nsec: UTIME_OMIT },
        last_modification: Timespec { tv_sec: modified, tv_nsec: 0 },
    }
}

/// What the system finds wrong with an entry is the entry's fault; the rest is this host's.
fn refused_by_the_system(entry: &Entry, action: &'static str, source: io::Error) -> ImageError {
    let wrong =
        [Errno::INVAL, Errno::NAMETOOLONG, Errno::RANGE, Errno::TOOBIG, Errno::MLINK, Errno::OVERFLOW];
    match Errno::from_io_error(&source) {
        Some(errno) if wrong.contains(&errno) => {
            let path = String::from_utf8_lossy(entry.path.get(..200).unwrap_or(&entry.path)).into_owned();
            ImageError::broken(format!("cannot {action}: {path:?}: {source}"))
        }
        _ => ImageError::Io { action, source },
    }
}
