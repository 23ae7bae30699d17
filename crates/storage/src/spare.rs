//! Files of machines that are started ahead, for sandboxes that nobody has asked for yet.
//!
//! They lie in the session's folder and not among the sandboxes, so that what a killed process leaves of them is swept at the next
//! start. A sandbox gets them by one rename.

use rustix::fs::{CWD, RenameFlags};
use rustix::io::Errno;
use sandbar_types::Id;
use sandbar_types::id::Sandbox;

use crate::files::FileError;
use crate::machine_image::MachineImage;
use crate::sandbox::{SandboxFiles, fill};
use crate::session::TempDir;
use crate::store::{Store, StoreError};

/// What a machine without a sandbox runs on. Dropped, it leaves nothing: by then no VMM may run on it any more.
#[derive(Debug)]
pub struct SpareFiles {
    store: Store,
    dir: TempDir,
}

impl SpareFiles {
    /// Where the files are.
    #[must_use]
    pub fn files(&self) -> SandboxFiles {
        SandboxFiles::in_folder(self.dir.path().to_owned())
    }

    /// Makes them a sandbox's, while a VMM runs on them: their folder has another name from then on. Who fails still has them.
    pub fn settle(self, id: Id<Sandbox>) -> Result<SandboxFiles, (StoreError, Self)> {
        let files = self.store.sandbox_files(id);
        match rustix::fs::renameat_with(CWD, self.dir.path(), CWD, &files.dir, RenameFlags::NOREPLACE) {
            Ok(()) => {
                self.dir.keep();
                Ok(files)
            }
            Err(Errno::EXIST) => Err((StoreError::SandboxExists { id }, self)),
            Err(error) => Err((FileError::new("publish", &files.dir, error).into(), self)),
        }
    }
}

impl Store {
    /// Makes the files of a machine that has no sandbox yet, as [`Store::create_sandbox`] makes a sandbox's.
    pub fn create_spare(&self, image: &MachineImage) -> Result<SpareFiles, StoreError> {
        self.require_space(self.cost_of_clones([&*image.disk]))?;
        let spare = SpareFiles { store: self.clone(), dir: self.session().folder("spare")? };
        fill(&spare.files(), image)?;
        Ok(spare)
    }
}
