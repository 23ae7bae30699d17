//! The files of a machine that stands still: what it is restored from.

use std::path::{Path, PathBuf};

use crate::session::TempDir;
use crate::store::{Store, StoreError};
use crate::template::TemplateFile;

/// A machine's disk, device state and memory, as of one moment. None of them is written once they are complete: disks are cloned,
/// memory is mapped privately.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MachineImage {
    /// The root filesystem.
    pub disk: PathBuf,
    /// The machine's devices.
    pub state: PathBuf,
    /// The machine's memory.
    pub memory: PathBuf,
}

impl MachineImage {
    pub(crate) fn in_folder(dir: &Path) -> Self {
        let file = |file: TemplateFile| dir.join(file.name());
        Self {
            disk: file(TemplateFile::Disk),
            state: file(TemplateFile::State),
            memory: file(TemplateFile::Memory),
        }
    }
}

/// A machine image in the making: an empty folder. Dropped, it leaves nothing.
#[derive(Debug)]
pub struct ImageDraft {
    pub(crate) store: Store,
    pub(crate) dir: TempDir,
}

impl ImageDraft {
    /// Where its files are to be put.
    #[must_use]
    pub fn image(&self) -> MachineImage {
        MachineImage::in_folder(self.dir.path())
    }
}

impl Store {
    /// Starts a machine image of which `bytes` will be new.
    pub fn begin_image(&self, bytes: u64) -> Result<ImageDraft, StoreError> {
        self.require_space(bytes)?;
        self.new_image()
    }

    /// Starts the image of a machine that will end with it: `bytes` have to fit, and that is all.
    pub fn begin_pause(&self, bytes: u64) -> Result<ImageDraft, StoreError> {
        self.require_room(bytes)?;
        self.new_image()
    }

    fn new_image(&self) -> Result<ImageDraft, StoreError> {
        Ok(ImageDraft { store: self.clone(), dir: self.session().folder("image")? })
    }
}
