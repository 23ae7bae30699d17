//! What is done to a sandbox's files while nobody waits: slow, given up at any moment without harm, needed by nobody.
//!
//! - A file that has fallen into too many pieces is rewritten in few: the time of a clone grows with the pieces, and a sandbox that is
//!   paused again and again gathers thousands.
//! - A paused sandbox's memory and disk are read through, and their checksums go into the manifest.
//!
//! Of a paused sandbox, each result replaces a file by a rename into the folder that was opened at the start. A resume may take the folder
//! away, and another pause put a new one in its place, at any moment: the rename then fails, or changes a folder that is being deleted.
//!
//! Of a running one, the memory image alone is rewritten: it never changes, since the machine maps it privately. It stays, as the
//! machine's mapping is known by it; the rewritten one lies beside it, and is what the next pause or copy clones.

use std::fs::{self, File};
use std::io;
use std::os::fd::AsFd;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, FallocateFlags, fallocate, renameat};
use rustix::io::Errno;
use sandbar_types::Id;
use sandbar_types::id::Sandbox;

use crate::checksum::Checksum;
use crate::clone::copy_while;
use crate::extents;
use crate::files::{self, FileError, OnFile};
use crate::paused::{MANIFEST, Paused};
use crate::sandbox::is_same;
use crate::session::TempDir;
use crate::store::{Store, StoreError};
use crate::template::TemplateFile;

/// In how many pieces a file may lie. XFS needs 40 microseconds a piece for a clone; a pause and a resume together grow by about 200 a piece.
pub const MOST_PIECES: u64 = 1_000;

/// Holes up to this size are filled: as pieces they cost more than the zeros do on the disk.
const SMALL_HOLE: u64 = 64 << 10;

/// What settling did.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Settled {
    /// The files that were rewritten.
    pub rewritten: Vec<TemplateFile>,
}

/// A running machine's memory image in few pieces, not yet in use. Dropped, it leaves nothing.
#[derive(Debug)]
pub struct MemoryCopy {
    store: Store,
    folder: TempDir,
}

impl MemoryCopy {
    /// Lets the sandbox's next pause or copy clone it. Only while the machine runs that it was made for.
    pub fn publish(self, id: Id<Sandbox>) -> Result<(), StoreError> {
        let to = self.store.sandbox_files(id).memory_copy;
        Ok(fs::rename(self.file(), &to).on("publish", &to)?)
    }

    fn file(&self) -> PathBuf {
        self.folder.path().join(TemplateFile::Memory.name())
    }
}

impl Store {
    /// Rewrites the memory image of a running machine, whose VMM counts changes from `image`, where it lies in more than `most_pieces`.
    /// Asks `go_on` between pieces of work; `None` if it said no, if there is nothing to do, if others have the image, too (it is then a
    /// template's), or if the VMM has gone on to another.
    pub fn copy_memory(
        &self,
        id: Id<Sandbox>,
        image: &Path,
        most_pieces: u64,
        go_on: &(dyn Fn() -> bool + Sync),
    ) -> Result<Option<MemoryCopy>, StoreError> {
        let files = self.sandbox_files(id);
        let found = match files.memory.metadata() {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            found => found.on("look at", &files.memory)?,
        };
        if files.memory_copy.exists() || !is_same(image, &files.memory) {
            return Ok(None);
        }
        // Some VMMs have it under a name of their own.
        let names = if image == files.memory { 1 } else { 2 };
        if found.nlink() > names || extents::count(&files.memory)? <= most_pieces {
            return Ok(None);
        }
        self.require_space(found.len())?;
        let copy = MemoryCopy { store: self.clone(), folder: self.session().folder("memory")? };
        match rewrite(&files.memory, &copy.file(), go_on) {
            Err(error) if given_up(&error) => Ok(None),
            rewritten => Ok(rewritten.map(|()| Some(copy))?),
        }
    }

    /// Settles a paused sandbox's files; those in more than `most_pieces` are rewritten. Asks `go_on` between pieces of work; `None` if it said no, or if the sandbox is not paused
    /// any more.
    pub fn settle_paused(
        &self,
        id: Id<Sandbox>,
        most_pieces: u64,
        go_on: &(dyn Fn() -> bool + Sync),
    ) -> Result<Option<Settled>, StoreError> {
        let dir = self.paused_dir(id);
        let folder = match File::open(&dir) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            opened => opened.on("open", &dir)?,
        };
        let paused = match self.paused(id) {
            Err(StoreError::UnknownPause { .. }) => return Ok(None),
            read => read?,
        };
        match self.settle(&folder, paused, most_pieces, go_on) {
            Err(StoreError::File(error)) if given_up(&error) => Ok(None),
            settled => settled.map(Some),
        }
    }

    fn settle(
        &self,
        folder: &File,
        mut paused: Paused,
        most_pieces: u64,
        go_on: &(dyn Fn() -> bool + Sync),
    ) -> Result<Settled, StoreError> {
        let mut settled = Settled::default();
        for file in [TemplateFile::Memory, TemplateFile::Disk] {
            if !paused.files().contains(&file) {
                continue;
            }
            let path = paused.path(file);
            if extents::count(&path)? > most_pieces {
                let size = path.metadata().on("look at", &path)?.len();
                self.require_space(size)?;
                let whole = self.session().path(file.name());
                let replaced =
                    rewrite(&path, &whole, go_on).and_then(|()| replace(folder, &whole, file.name()));
                if let Err(error) = replaced {
                    files::remove_all(&whole)?;
                    return Err(error.into());
                }
                settled.rewritten.push(file);
            }
            // One that is known stays: it is what tells damage.
            if let Some(record) = paused.manifest.files.get_mut(&file)
                && record.checksum.is_none()
            {
                record.checksum = Some(Checksum::of_file_while(&path, go_on)?);
            }
        }
        let manifest = self.session().path(MANIFEST);
        files::write_new_json(&manifest, &paused.manifest)?;
        if let Err(error) = replace(folder, &manifest, MANIFEST) {
            files::remove_all(&manifest)?;
            return Err(error.into());
        }
        Ok(settled)
    }
}

/// Whether work ended because it was told to, or because the sandbox was resumed meanwhile.
fn given_up(error: &FileError) -> bool {
    matches!(error.kind(), io::ErrorKind::Interrupted | io::ErrorKind::NotFound)
}

/// Copies a file's data, without its larger holes, into as few pieces as the filesystem has room for.
fn rewrite(from: &Path, to: &Path, go_on: &(dyn Fn() -> bool + Sync)) -> Result<(), FileError> {
    let source = File::open(from).on("open", from)?;
    let target = File::create_new(to).on("create", to)?;
    let length = source.metadata().on("look at", from)?.len();
    target.set_len(length).on("grow", to)?;
    copy_while(&source, &target, SMALL_HOLE, |start, end| {
        if !go_on() {
            return Err(io::ErrorKind::Interrupted.into());
        }
        // Room for the whole range at once; a filesystem that cannot promise that finds it as it writes.
        match fallocate(&target, FallocateFlags::KEEP_SIZE, start, end - start) {
            Ok(()) | Err(Errno::OPNOTSUPP) => Ok(()),
            Err(error) => Err(error.into()),
        }
    })
    .on("rewrite to", to)?;
    target.sync_all().on("fsync", to)
}

/// Puts a file in the place of the one that has this name in an open folder.
fn replace(folder: &File, from: &Path, name: &str) -> Result<(), FileError> {
    renameat(CWD, from, folder.as_fd(), name).on("publish", from)?;
    folder.sync_all().on("fsync the folder of", from)
}
