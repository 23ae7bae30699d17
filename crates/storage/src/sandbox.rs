//! Sandboxes' folders: made by one clone, gone by one rename.

use std::fs;
use std::io;
use std::path::PathBuf;

use sandbar_types::Id;
use sandbar_types::id::Sandbox;

use crate::clone::clone_file;
use crate::files::{OnFile, remove_all};
use crate::store::{Store, StoreError};
use crate::template::{Template, TemplateFile};

/// A sandbox's place in the store.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SandboxFiles {
    /// Its folder, where the host agent and the VMM may keep what they like.
    pub dir: PathBuf,
    /// Its disk.
    pub disk: PathBuf,
}

impl Store {
    /// Makes the folder of a new sandbox with a clone of the template's disk. On the hot path: nothing is fsynced, since a sandbox
    /// that never ran is worth nothing after a power cut.
    pub fn create_sandbox(&self, id: Id<Sandbox>, template: &Template) -> Result<SandboxFiles, StoreError> {
        self.require_space(0)?;
        let files = self.sandbox_files(id);
        match fs::create_dir(&files.dir) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                return Err(StoreError::SandboxExists { id });
            }
            made => made.on("create", &files.dir)?,
        }
        match clone_file(&template.path(TemplateFile::Disk), &files.disk) {
            Ok(_) => Ok(files),
            Err(error) => {
                if let Err(left) = remove_all(&files.dir) {
                    tracing::warn!(error = %left, sandbox = %id, "a sandbox's folder stays without a disk");
                }
                Err(error.into())
            }
        }
    }

    /// Where a sandbox's folder is, or would be.
    #[must_use]
    pub fn sandbox_files(&self, id: Id<Sandbox>) -> SandboxFiles {
        let dir = self.sandboxes_dir().join(id.to_string());
        SandboxFiles { disk: dir.join("disk.ext4"), dir }
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
