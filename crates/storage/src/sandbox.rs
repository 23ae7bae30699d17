//! Sandboxes' folders: made by one clone and one link, gone by one rename.

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use sandbar_types::Id;
use sandbar_types::id::Sandbox;

use crate::clone::clone_file;
use crate::files::{FileError, OnFile, remove_all};
use crate::machine_image::MachineImage;
use crate::store::{Store, StoreError};

/// A sandbox's place in the store.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SandboxFiles {
    /// Its folder, where the host agent and the VMM may keep what they like.
    pub dir: PathBuf,
    /// Its disk, while it runs.
    pub disk: PathBuf,
    /// The memory image that it was restored from, while it runs: the very file, under a second name. So clones share their page
    /// cache, and the image is there for the sandbox's next pause whatever becomes of its template. Where it boots, the VMM makes it.
    pub memory: PathBuf,
    /// Where [`MemoryCopy::publish`](crate::MemoryCopy::publish) puts what holds the same as `memory` in fewer pieces.
    pub(crate) memory_copy: PathBuf,
}

impl SandboxFiles {
    pub(crate) fn in_folder(dir: PathBuf) -> Self {
        let [disk, memory, memory_copy] = ["disk.ext4", "memory", "memory.copy"].map(|name| dir.join(name));
        Self { dir, disk, memory, memory_copy }
    }

    /// What a copy of the machine's memory is to be cloned from, where the VMM counts changes from `image`.
    #[must_use]
    pub fn memory_to_clone<'a>(&'a self, image: &'a Path) -> &'a Path {
        if self.memory_copy.exists() && is_same(image, &self.memory) { &self.memory_copy } else { image }
    }
}

impl Store {
    /// Makes the folder of a new sandbox with a clone of the image's disk. On the hot path: nothing is fsynced, since a sandbox
    /// that never ran is worth nothing after a power cut.
    pub fn create_sandbox(&self, id: Id<Sandbox>, image: &MachineImage) -> Result<SandboxFiles, StoreError> {
        self.create_with(id, &image.disk, |files| fill(files, image))
    }

    /// The same for a sandbox that boots from a disk: a clone of that is all that it has.
    pub fn create_sandbox_to_boot(&self, id: Id<Sandbox>, disk: &Path) -> Result<SandboxFiles, StoreError> {
        self.create_with(id, disk, |files| clone_file(disk, &files.disk).map(drop))
    }

    fn create_with(
        &self,
        id: Id<Sandbox>,
        disk: &Path,
        fill: impl FnOnce(&SandboxFiles) -> Result<(), FileError>,
    ) -> Result<SandboxFiles, StoreError> {
        self.require_space(self.cost_of_clones([disk]))?;
        let files = self.sandbox_files(id);
        match fs::create_dir(&files.dir) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                return Err(StoreError::SandboxExists { id });
            }
            made => made.on("create", &files.dir)?,
        }
        match fill(&files) {
            Ok(()) => Ok(files),
            Err(error) => {
                if let Err(left) = remove_all(&files.dir) {
                    tracing::warn!(error = %left, sandbox = %id, "a sandbox's folder stays without a disk");
                }
                Err(error.into())
            }
        }
    }

    /// Gives a paused sandbox the files to run on: clones of the image's, which stays as it is. What a resume that was cut short
    /// left is replaced.
    pub fn wake_sandbox(&self, id: Id<Sandbox>, image: &MachineImage) -> Result<SandboxFiles, StoreError> {
        self.rest_sandbox(id)?;
        let files = self.sandbox_files(id);
        fill(&files, image)?;
        Ok(files)
    }

    /// The same for one that boots: a clone of its disk.
    pub fn wake_sandbox_to_boot(&self, id: Id<Sandbox>, disk: &Path) -> Result<SandboxFiles, StoreError> {
        self.rest_sandbox(id)?;
        let files = self.sandbox_files(id);
        clone_file(disk, &files.disk)?;
        Ok(files)
    }

    /// Removes the files that a sandbox ran on. A VMM must not run on them any more.
    pub fn rest_sandbox(&self, id: Id<Sandbox>) -> Result<(), StoreError> {
        let files = self.sandbox_files(id);
        // First of all: it must never be there beside another memory.
        remove_all(&files.memory_copy)?;
        remove_all(&files.disk)?;
        Ok(remove_all(&files.memory)?)
    }

    /// Where a sandbox's folder is, or would be.
    #[must_use]
    pub fn sandbox_files(&self, id: Id<Sandbox>) -> SandboxFiles {
        SandboxFiles::in_folder(self.sandboxes_dir().join(id.to_string()))
    }

    /// The sandboxes that have a folder, complete or not.
    pub fn sandboxes(&self) -> Result<Vec<Id<Sandbox>>, StoreError> {
        self.ids_in(&self.sandboxes_dir())
    }

    /// Deletes a sandbox's folder; none there is fine. A VMM must not run on it any more.
    pub fn remove_sandbox(&self, id: Id<Sandbox>) -> Result<(), StoreError> {
        Ok(self.session().discard(&self.sandbox_files(id).dir)?)
    }
}

/// Whether two names are of one file. What cannot be looked at is not.
pub(crate) fn is_same(one: &Path, other: &Path) -> bool {
    let file = |path: &Path| path.metadata().map(|found| (found.dev(), found.ino())).ok();
    file(one).is_some_and(|found| file(other) == Some(found))
}

pub(crate) fn fill(files: &SandboxFiles, image: &MachineImage) -> Result<(), FileError> {
    clone_file(&image.disk, &files.disk)?;
    link(&image.memory, &files.memory)
}

/// A second name for a file that is never written.
pub(crate) fn link(from: &Path, to: &Path) -> Result<(), FileError> {
    fs::hard_link(from, to).on("link to", to)
}
