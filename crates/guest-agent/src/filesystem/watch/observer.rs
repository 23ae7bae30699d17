//! From the kernel's events to the protocol's. Everything here blocks, and reads as the user who watches.
//!
//! A whole tree is watched folder by folder, and a folder that appears has had a life before it is watched. So it is watched
//! first and listed then: what the list has is reported as created (and as written, where it has content), and what the
//! queue says of the same entries up to the moment of the list is left out. A tree that is moved in is a folder that
//! appears; one that is moved away, or within the tree, is forgotten under its old name. Nothing is remembered of folders
//! that are gone, so whatever order folders come and go in, the events lead to the tree that is there.

use std::collections::HashMap;
use std::ffi::OsString;
use std::fs;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustix::fs::inotify::{ReadFlags, WatchFlags};
use rustix::io::Errno;

use super::acting_as::ActingAs;
use super::folders::Folders;
use super::inotify::{Inotify, Raw, Wd, parse};
use super::network::is_network;
use super::{Change, Depth, Entries, Event, NetworkMounts, Spec, WatchError};
use crate::filesystem::entry::Entry;
use crate::users::Names;

/// The events of the protocol. Not `CLOSE_WRITE`: a write is reported as it is made. Not of files that have no name any more.
const FLAGS: WatchFlags = WatchFlags::CREATE
    .union(WatchFlags::MODIFY)
    .union(WatchFlags::ATTRIB)
    .union(WatchFlags::DELETE)
    .union(WatchFlags::MOVED_FROM)
    .union(WatchFlags::MOVED_TO)
    .union(WatchFlags::EXCL_UNLINK)
    .union(WatchFlags::ONLYDIR);
/// What happens to the watched folder itself.
const TOP_FLAGS: WatchFlags = FLAGS.union(WatchFlags::DELETE_SELF).union(WatchFlags::MOVE_SELF);
/// What happens to a folder below is told by the folder that it is in.
const BELOW_FLAGS: WatchFlags = FLAGS.union(WatchFlags::DONT_FOLLOW);

/// A watched folder.
#[derive(Debug)]
pub(super) struct Observer {
    spec: Spec,
    inotify: Arc<Inotify>,
    top: Option<Wd>,
    folders: Folders,
    /// Folders that were listed a moment ago.
    listed: HashMap<Wd, Listed>,
    /// Bytes of the queue that were read so far.
    read: u64,
    life: Life,
}

/// What a list had, which the queue will tell again.
#[derive(Debug)]
struct Listed {
    entries: HashMap<OsString, Reported>,
    /// What the queue had by then.
    until: u64,
}

/// What was reported of a listed entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Reported {
    Created,
    CreatedAndWritten,
}

/// Whether the watched folder is still at its place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Life {
    There,
    Gone,
}

/// Whether the queue was read to its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Queue {
    Empty,
    MayHaveMore,
}

/// What one look at the queue brought.
#[derive(Debug)]
pub(super) struct Seen {
    pub(super) events: Vec<Event>,
    pub(super) queue: Queue,
    pub(super) life: Life,
}

/// A folder's entries, and those of them that are folders.
type Listing = (HashMap<OsString, Reported>, Vec<PathBuf>);

/// Events that what appears at once, a tree that is moved in, may make. The agent's memory is not the sandbox's to fill.
const LISTED_MAX: usize = 1 << 16;

impl Observer {
    /// Watches a folder from now on.
    pub(super) fn open(spec: Spec) -> Result<Self, WatchError> {
        let failed = failed(&spec.folder);
        let acting = ActingAs::enter(&spec.user).map_err(&failed)?;
        let metadata = fs::metadata(&spec.folder).map_err(&failed)?;
        if !metadata.is_dir() {
            return Err(WatchError::NotAFolder(spec.folder));
        }
        if spec.network_mounts == NetworkMounts::Refused && is_network(&spec.folder).map_err(&failed)? {
            return Err(WatchError::Network(spec.folder));
        }
        let inotify = Inotify::new().map_err(|error| exhausted(&spec.folder, error))?;
        let mut observer = Self {
            spec,
            inotify: Arc::new(inotify),
            top: None,
            folders: Folders::default(),
            listed: HashMap::new(),
            read: 0,
            life: Life::There,
        };
        observer.begin()?;
        drop(acting);
        Ok(observer)
    }

    /// Goes on after a loss: from now on, with the folders that there are.
    pub(super) fn start_over(&mut self) -> Result<(), WatchError> {
        let _acting = ActingAs::enter(&self.spec.user).map_err(failed(&self.spec.folder))?;
        // What the queue still has of them is of watches that nobody knows.
        self.leave(Path::new(""));
        self.begin()
    }

    /// Who begins to watch asks for what will happen, not for what there is.
    fn begin(&mut self) -> Result<(), WatchError> {
        let top = self
            .inotify
            .watch(&self.spec.folder, TOP_FLAGS)
            .map_err(|error| exhausted(&self.spec.folder, error.into()))?;
        self.top = Some(top);
        self.folders.insert(top, PathBuf::new());
        if self.spec.depth == Depth::OwnEntries {
            return Ok(());
        }
        let mut pending = vec![PathBuf::new()];
        while let Some(folder) = pending.pop() {
            let Ok(entries) = fs::read_dir(self.spec.folder.join(&folder)) else { continue };
            for entry in entries.flatten() {
                let below = folder.join(entry.file_name());
                if entry.file_type().is_ok_and(|kind| kind.is_dir()) && self.watch(&below)?.is_some() {
                    pending.push(below);
                }
            }
        }
        Ok(())
    }

    /// What to wait on.
    pub(super) fn inotify(&self) -> Arc<Inotify> {
        Arc::clone(&self.inotify)
    }

    /// What happened since the last look, as much as one read of the queue brings.
    pub(super) fn look(&mut self) -> Result<Seen, WatchError> {
        let failed = failed(&self.spec.folder);
        let _acting = ActingAs::enter(&self.spec.user).map_err(&failed)?;
        let buffer = self.inotify.read().map_err(&failed)?;
        let raws = parse(&buffer, self.read);
        self.read += buffer.len() as u64;
        let mut events = Vec::new();
        for raw in &raws {
            if self.life == Life::There {
                self.take(raw, &mut events)?;
            }
        }
        self.listed.retain(|_, listed| listed.until > self.read);
        if self.spec.entries == Entries::Included {
            self.describe(&mut events);
        }
        let queue = if buffer.is_empty() { Queue::Empty } else { Queue::MayHaveMore };
        Ok(Seen { events, queue, life: self.life })
    }

    fn take(&mut self, raw: &Raw, events: &mut Vec<Event>) -> Result<(), WatchError> {
        if raw.flags.contains(ReadFlags::QUEUE_OVERFLOW) {
            return Err(WatchError::Lost);
        }
        // A watch that was ended may have left events.
        let Some(folder) = self.folders.path(raw.wd) else { return Ok(()) };
        if raw.name.is_empty() {
            self.take_own(raw, events);
            return Ok(());
        }
        let Some(change) = change(raw.flags) else { return Ok(()) };
        let name = folder.join(&raw.name);
        if self.was_reported(raw, change) || self.has_no_name(raw, change, &name) {
            return Ok(());
        }
        events.push(Event { name: name.clone(), change, entry: None });
        if self.spec.depth == Depth::WholeTree && raw.flags.contains(ReadFlags::ISDIR) {
            match change {
                Change::Create => self.enter(&name, events)?,
                Change::Remove | Change::Rename => self.leave(&name),
                Change::Write | Change::Chmod => {}
            }
        }
        Ok(())
    }

    /// An event of a watched folder itself.
    fn take_own(&mut self, raw: &Raw, events: &mut Vec<Event>) {
        if Some(raw.wd) != self.top {
            if raw.flags.contains(ReadFlags::IGNORED) {
                self.folders.forget(raw.wd);
            }
            return;
        }
        let flags = raw.flags;
        let change = if flags.contains(ReadFlags::ATTRIB) {
            Change::Chmod
        } else if flags.contains(ReadFlags::MOVE_SELF) {
            // Its entries' paths are others now.
            Change::Rename
        } else if flags.intersects(ReadFlags::DELETE_SELF | ReadFlags::UNMOUNT | ReadFlags::IGNORED) {
            Change::Remove
        } else {
            return;
        };
        if change != Change::Chmod {
            self.life = Life::Gone;
        }
        events.push(Event { name: PathBuf::from("."), change, entry: None });
    }

    /// Whether a list said so already.
    fn was_reported(&mut self, raw: &Raw, change: Change) -> bool {
        let Some(listed) = self.listed.get_mut(&raw.wd) else { return false };
        if raw.offset >= listed.until {
            return false;
        }
        match change {
            Change::Create => listed.entries.contains_key(&raw.name),
            Change::Write => listed.entries.get(&raw.name) == Some(&Reported::CreatedAndWritten),
            Change::Chmod => false,
            Change::Remove | Change::Rename => {
                // What comes after it under that name is another entry.
                listed.entries.remove(&raw.name);
                false
            }
        }
    }

    /// A file that never had a name (`O_TMPFILE`) is `#` and its number to the kernel, and no entry of its folder.
    fn has_no_name(&self, raw: &Raw, change: Change, name: &Path) -> bool {
        let number = raw.name.as_bytes().strip_prefix(b"#").unwrap_or_default();
        matches!(change, Change::Write | Change::Chmod)
            && !number.is_empty()
            && number.iter().all(u8::is_ascii_digit)
            && fs::symlink_metadata(self.spec.folder.join(name)).is_err()
    }

    /// A folder appeared.
    fn enter(&mut self, folder: &Path, events: &mut Vec<Event>) -> Result<(), WatchError> {
        match self.watch(folder)? {
            Some(wd) => self.watch_below(folder, wd, events),
            None => Ok(()),
        }
    }

    /// A folder is not there any more.
    fn leave(&mut self, folder: &Path) {
        for wd in self.folders.take_tree(folder) {
            self.inotify.unwatch(wd);
            self.listed.remove(&wd);
        }
    }

    /// Watches all folders below one that is watched, and reports everything in them.
    fn watch_below(&mut self, top: &Path, wd: Wd, events: &mut Vec<Event>) -> Result<(), WatchError> {
        let mut pending = vec![(top.to_path_buf(), wd)];
        let mut lists = Vec::new();
        while let Some((folder, wd)) = pending.pop() {
            let (entries, below) = self.list(&folder, events)?;
            lists.push((wd, entries));
            for folder in below {
                if let Some(wd) = self.watch(&folder)? {
                    pending.push((folder, wd));
                }
            }
        }
        let until = self.read + self.inotify.unread().map_err(failed(&self.spec.folder))?;
        self.listed.extend(lists.into_iter().map(|(wd, entries)| (wd, Listed { entries, until })));
        Ok(())
    }

    /// Reports what is in a folder, and returns it, and which of it are folders. Fails where that is more than can be told.
    fn list(&self, folder: &Path, events: &mut Vec<Event>) -> Result<Listing, WatchError> {
        let (mut reported, mut below) = (HashMap::new(), Vec::new());
        // A folder that vanished, or that this user may not list, has nothing to report.
        let Ok(entries) = fs::read_dir(self.spec.folder.join(folder)) else { return Ok((reported, below)) };
        let mut entries: Vec<_> = entries.flatten().take(LISTED_MAX + 1).collect();
        if events.len() + entries.len() > LISTED_MAX {
            return Err(WatchError::Lost);
        }
        entries.sort_unstable_by_key(fs::DirEntry::file_name);
        for entry in entries {
            // Gone meanwhile: then the queue tells its whole story.
            let Ok(metadata) = entry.metadata() else { continue };
            let name = folder.join(entry.file_name());
            events.push(Event { name: name.clone(), change: Change::Create, entry: None });
            let mut known = Reported::Created;
            if metadata.is_file() && metadata.len() > 0 {
                events.push(Event { name: name.clone(), change: Change::Write, entry: None });
                known = Reported::CreatedAndWritten;
            }
            if metadata.is_dir() {
                below.push(name);
            }
            reported.insert(entry.file_name(), known);
        }
        Ok((reported, below))
    }

    /// Watches a folder below the top one, unless it cannot be: it vanished, this user may not read it, another machine
    /// serves it.
    fn watch(&mut self, folder: &Path) -> Result<Option<Wd>, WatchError> {
        let path = self.spec.folder.join(folder);
        if self.spec.network_mounts == NetworkMounts::Refused && is_network(&path).unwrap_or(false) {
            return Ok(None);
        }
        let wd = match self.inotify.watch(&path, BELOW_FLAGS) {
            Ok(wd) => wd,
            Err(Errno::NOENT | Errno::NOTDIR | Errno::ACCESS | Errno::LOOP) => return Ok(None),
            Err(error) => return Err(exhausted(&path, error.into())),
        };
        match self.folders.path(wd) {
            // Watched under another name. Either it was moved, and the queue will say so, or a mount shows it twice: then
            // it keeps the name that it had.
            Some(known) if known != folder && self.is_same(known, &path) => return Ok(None),
            _ => {}
        }
        if let Some(displaced) = self.folders.insert(wd, folder.to_path_buf()) {
            self.inotify.unwatch(displaced);
            self.listed.remove(&displaced);
        }
        Ok(Some(wd))
    }

    fn is_same(&self, known: &Path, path: &Path) -> bool {
        let id = |path: &Path| fs::symlink_metadata(path).map(|metadata| (metadata.dev(), metadata.ino()));
        match (id(&self.spec.folder.join(known)), id(path)) {
            (Ok(known), Ok(other)) => known == other,
            _ => false,
        }
    }

    /// Adds what the entries are.
    fn describe(&self, events: &mut [Event]) {
        if events.is_empty() {
            return;
        }
        let names = Names::read();
        for event in events {
            event.entry = match event.change {
                // Whatever bears the name now is another entry.
                Change::Remove | Change::Rename => None,
                _ => Entry::read(&self.spec.folder.join(&event.name), &names).ok(),
            };
        }
    }
}

fn change(flags: ReadFlags) -> Option<Change> {
    // An event is of one kind.
    [
        (ReadFlags::CREATE | ReadFlags::MOVED_TO, Change::Create),
        (ReadFlags::MODIFY, Change::Write),
        (ReadFlags::ATTRIB, Change::Chmod),
        (ReadFlags::DELETE, Change::Remove),
        (ReadFlags::MOVED_FROM, Change::Rename),
    ]
    .into_iter()
    .find_map(|(kinds, change)| flags.intersects(kinds).then_some(change))
}

fn failed(path: &Path) -> impl Fn(io::Error) -> WatchError + use<> {
    let path = path.to_path_buf();
    move |source| {
        let path = path.clone();
        match source.raw_os_error() {
            Some(libc::ENOENT) => WatchError::NotFound(path),
            Some(libc::ENOTDIR) => WatchError::NotAFolder(path),
            Some(libc::EACCES | libc::EPERM) => WatchError::Refused(path),
            _ => WatchError::Failed { path, source },
        }
    }
}

/// For the calls that the kernel refuses when it has enough watches.
fn exhausted(path: &Path, error: io::Error) -> WatchError {
    match error.raw_os_error() {
        Some(libc::EMFILE | libc::ENFILE | libc::ENOSPC | libc::ENOMEM) => WatchError::Exhausted(error),
        _ => failed(path)(error),
    }
}

#[cfg(test)]
mod tests;
