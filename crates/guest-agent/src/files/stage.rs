//! A file without a name: where an upload is collected until it is complete.
//!
//! `O_TMPFILE`, in the folder of the file that it will become. Whatever ends the upload early (a caller that leaves, a full
//! disk, the death of the agent), the kernel takes it away; no name is left behind, ever. What happens in the end depends on
//! what is there by then:
//!
//! - Nothing: the file gets its name, complete with content, owner and metadata, in one step. Its folder's watchers see what
//!   E2B's server shows them, three events: created, attributes changed (`chown`), written.
//! - A file: its content is replaced in place, as E2B's server does, since a file is more than its content: other names of
//!   it, programs that have it open, a mount on it, its access lists stay what they were, and its watchers see it written,
//!   not created. Space is reserved before the first old byte is touched, so a full disk leaves the old file. What is given
//!   up is the atomic switch of a rename: a crash within that one copy, a page-cache copy of a complete file, leaves a
//!   mixture.

use std::collections::BTreeSet;
use std::fs::{File, Metadata as Attributes, OpenOptions, Permissions};
use std::io::{self, Seek};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt, fchown};
use std::path::Path;
use std::sync::{Condvar, Mutex, PoisonError};

use rustix::fs::{
    AtFlags, CWD, FallocateFlags, Mode, OFlags, Timespec, Timestamps, UTIME_NOW, UTIME_OMIT, fallocate,
    futimens, linkat, open,
};
use rustix::io::Errno;

use super::condition::{self, Condition};
use super::metadata::MetadataError;
use super::write::Terms;
use crate::users::User;

pub(super) const NEW_FILE_MODE: u32 = 0o644;
/// How often a name may come and go under our eyes.
const ATTEMPTS: usize = 8;

/// Why the file did not come to be. What was there is as it was.
#[derive(Debug, thiserror::Error)]
pub(super) enum PublishError {
    #[error(transparent)]
    Metadata(#[from] MetadataError),
    #[error(transparent)]
    File(#[from] io::Error),
    /// What is there is not what the write expects.
    #[error("the file is not what the write expects")]
    Changed,
}

impl From<Errno> for PublishError {
    fn from(error: Errno) -> Self {
        Self::File(error.into())
    }
}

/// Opens a file without a name in a folder, unless there can be none.
pub(super) fn open_in(folder: &Path) -> io::Result<Option<File>> {
    let flags = OFlags::TMPFILE | OFlags::RDWR | OFlags::CLOEXEC;
    match open(folder, flags, Mode::RUSR | Mode::WUSR) {
        Ok(file) => Ok(Some(file.into())),
        // The filesystem has no such files; or, `/proc` says to root, the folder holds none but its own.
        Err(Errno::OPNOTSUPP | Errno::ISDIR | Errno::INVAL | Errno::ACCESS | Errno::PERM) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

/// The same where the filesystem has no such files: one that had a name for a moment. It can get none again, so it serves to replace
/// the content of a file that is there.
pub(super) fn unlinked_in(folder: &Path) -> Option<File> {
    let mut random = [0; 8];
    rustix::rand::getrandom(&mut random, rustix::rand::GetRandomFlags::empty()).ok()?;
    let path = folder.join(format!(".sandbar-upload-{:016x}", u64::from_ne_bytes(random)));
    let file = OpenOptions::new().read(true).write(true).create_new(true).mode(0o600).open(&path).ok()?;
    std::fs::remove_file(&path).ok().map(|()| file)
}

/// Makes a complete upload the file `target`, a path without links at its end, and tells the file's state then. Blocks.
pub(super) fn publish(
    mut stage: File,
    target: &Path,
    user: &User,
    terms: &Terms,
) -> Result<String, PublishError> {
    // What is to be refused is refused here, where nothing has happened yet.
    terms.metadata.replace(&stage)?;
    fchown(&stage, Some(user.uid), Some(user.gid))?;
    stage.set_permissions(Permissions::from_mode(NEW_FILE_MODE))?;
    for _ in 0..ATTEMPTS {
        if terms.condition.allows(None) {
            match linkat(&stage, "", CWD, target, AtFlags::EMPTY_PATH) {
                Ok(()) => {
                    announce(&stage, target, user)?;
                    return Ok(condition::tag(&stage.metadata()?));
                }
                Err(Errno::EXIST) => {}
                Err(error) => return Err(error.into()),
            }
        }
        match replace(&mut stage, target, terms) {
            Err(PublishError::File(error)) if error.kind() == io::ErrorKind::NotFound => {
                if !terms.condition.allows(None) {
                    return Err(PublishError::Changed);
                }
            }
            outcome => return outcome,
        }
    }
    Err(PublishError::File(io::ErrorKind::ResourceBusy.into()))
}

/// Tells the folder's watchers the rest of what a new file is: its attributes were set, and it was written. The file is as it
/// should be already, and by its own descriptor it has no name that the kernel could tell; so this goes by its name, and
/// only if that is still the file.
fn announce(stage: &File, target: &Path, user: &User) -> io::Result<()> {
    let named = OpenOptions::new()
        .read(true)
        .custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK | libc::O_NOCTTY)
        .open(target);
    let Ok(named) = named else { return Ok(()) };
    if !is_same(&named.metadata()?, &stage.metadata()?) {
        return Ok(());
    }
    fchown(&named, Some(user.uid), Some(user.gid))?;
    let omit = Timespec { tv_sec: 0, tv_nsec: UTIME_OMIT };
    let now = Timespec { tv_sec: 0, tv_nsec: UTIME_NOW };
    // A change of this time alone is what the kernel itself calls a write.
    futimens(&named, &Timestamps { last_access: omit, last_modification: now })?;
    Ok(())
}

fn is_same(a: &Attributes, b: &Attributes) -> bool {
    (a.dev(), a.ino()) == (b.dev(), b.ino())
}

/// Files whose content is being replaced, by device and number.
static REPLACED: Mutex<BTreeSet<(u64, u64)>> = Mutex::new(BTreeSet::new());
static REPLACED_LESS: Condvar = Condvar::new();

/// Two uploads of one file go one after the other: the last one's content is what is left, not some of each. Uploads of other files
/// do not wait.
struct Turn((u64, u64));

impl Turn {
    fn take(file: &Attributes) -> Self {
        let key = (file.dev(), file.ino());
        let others = REPLACED.lock().unwrap_or_else(PoisonError::into_inner);
        let waited = REPLACED_LESS.wait_while(others, |others| others.contains(&key));
        waited.unwrap_or_else(PoisonError::into_inner).insert(key);
        Self(key)
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        REPLACED.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.0);
        REPLACED_LESS.notify_all();
    }
}

/// Replaces the content of a file that is there by a complete upload, and tells the file's state then. Blocks.
pub(super) fn replace(stage: &mut File, target: &Path, terms: &Terms) -> Result<String, PublishError> {
    let mut file = OpenOptions::new()
        .write(true)
        .custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK | libc::O_NOCTTY)
        .open(target)?;
    let _turn = Turn::take(&file.metadata()?);
    let old = file.metadata()?;
    // Also where the name is another file's by now: to that one nothing would be written.
    let is_expected = || Ok::<_, io::Error>(is_same(&target.symlink_metadata()?, &old));
    if terms.condition != Condition::Whatever && !(terms.condition.allows(Some(&old)) && is_expected()?) {
        return Err(PublishError::Changed);
    }
    let length = stage.metadata()?.len();
    reserve(&file, &old, length)?;
    terms.metadata.replace(&file)?;
    stage.rewind()?;
    // In the kernel where it can: one call, one event.
    io::copy(stage, &mut file)?;
    if old.len() > length {
        file.set_len(length)?;
    }
    set_apart(&file, &old)?;
    Ok(condition::tag(&file.metadata()?))
}

/// The kernel's clock of files stands still for some milliseconds at a time. Two contents that came within them must not pass for one.
fn set_apart(file: &File, old: &Attributes) -> io::Result<()> {
    let new = file.metadata()?;
    let modified = |file: &Attributes| (file.mtime(), file.mtime_nsec());
    // One from the future was set by somebody, and is no measure.
    let is_recent = old.mtime() - new.mtime() <= 1;
    if modified(&new) > modified(old) || !is_recent {
        return Ok(());
    }
    let (seconds, nanos) = match modified(old) {
        (seconds, 999_999_999) => (seconds + 1, 0),
        (seconds, nanos) => (seconds, nanos + 1),
    };
    let omit = Timespec { tv_sec: 0, tv_nsec: UTIME_OMIT };
    let next = Timespec { tv_sec: seconds, tv_nsec: nanos };
    Ok(futimens(file, &Timestamps { last_access: omit, last_modification: next })?)
}

/// Takes the space that the new content needs beyond that of the old.
fn reserve(file: &File, old: &Attributes, length: u64) -> io::Result<()> {
    let allocated = old.blocks() * 512;
    if length <= allocated.min(old.len()) {
        return Ok(());
    }
    match fallocate(file, FallocateFlags::KEEP_SIZE, 0, length) {
        // Where space cannot be reserved, to write is to find out.
        Ok(()) | Err(Errno::OPNOTSUPP | Errno::NOSYS) => Ok(()),
        Err(error) => {
            // What was taken before the space ran out.
            file.set_len(old.len())?;
            Err(error.into())
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};

    use super::super::metadata::Metadata;
    use super::*;

    #[test]
    fn a_file_that_lost_its_name_replaces_one_that_is_there_and_leaves_nothing_else() {
        let dir = tempfile::tempdir().unwrap();
        let target = dir.path().join("file");
        std::fs::write(&target, "what was there before").unwrap();
        let number = target.metadata().unwrap().ino();
        let mut stage = unlinked_in(dir.path()).unwrap();
        stage.write_all(b"new").unwrap();
        let terms = Terms { metadata: Metadata::default(), condition: Condition::Whatever };
        replace(&mut stage, &target, &terms).unwrap();
        let mut content = String::new();
        File::open(&target).unwrap().read_to_string(&mut content).unwrap();
        assert_eq!((content.as_str(), target.metadata().unwrap().ino()), ("new", number));
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1);
        assert!(unlinked_in(Path::new("/proc")).is_none(), "there are folders that take no files");
    }

    #[test]
    fn only_uploads_of_the_same_file_wait_for_each_other() {
        let dir = tempfile::tempdir().unwrap();
        let file = |name: &str| File::create(dir.path().join(name)).unwrap().metadata().unwrap();
        let (one, other) = (file("one"), file("other"));
        let held = Turn::take(&one);
        drop(Turn::take(&other));
        let (sender, taken) = std::sync::mpsc::channel();
        let waiting = std::thread::spawn(move || {
            let _turn = Turn::take(&one);
            sender.send(()).unwrap();
        });
        assert!(taken.try_recv().is_err());
        drop(held);
        taken.recv().unwrap();
        waiting.join().unwrap();
    }
}
