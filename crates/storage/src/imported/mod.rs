//! Disks made from images that others made: an OCI image's layers, and in them what a sandbox needs.
//!
//! All of it happens in a folder of the store's session, which goes with the process or before it; the disk is then where a template's
//! draft wants it.

mod furnish;
#[cfg(test)]
mod tests;

use std::path::{Path, PathBuf};

use sandbar_oci::{Bounds, Image, ImageError, Tree, Watch};
use sandbar_types::Id;
use sandbar_types::id::Template as TemplateKey;

use crate::filesystem;
use crate::session::TempDir;
use crate::store::{Store, StoreError};
use crate::template::{TemplateDraft, TemplateFile};
use crate::tool::ToolError;

/// Bytes of a disk for each of its files, as ext4 is made.
const BYTES_PER_FILE: u64 = 16 << 10;
/// What ext4 keeps for itself: of the bytes one in so many (inodes, log, folders), and of the files those that are always there.
const OVERHEAD_SHARE: u64 = 16;
const OVERHEAD_BYTES: u64 = 64 << 20;
const OVERHEAD_FILES: u64 = 64;
/// However large the disk is: what a layer has made is remembered until its end.
const MOST_FILES: u64 = 4 << 20;

/// Why there is no disk.
#[derive(Debug, thiserror::Error)]
pub enum ImportError {
    /// The image.
    #[error(transparent)]
    Image(#[from] ImageError),
    /// The store.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The filesystem could not be made.
    #[error("the filesystem cannot be made")]
    Filesystem(#[source] ToolError),
}

/// A template's disk in the making. Dropped, it leaves nothing.
#[derive(Debug)]
pub struct Import {
    draft: TemplateDraft,
    work: TempDir,
    size: u64,
}

/// A disk that was made.
#[derive(Debug)]
pub struct ImportedDisk {
    /// The template, of which the disk is there.
    pub draft: TemplateDraft,
    /// A shell of the image's; none where it has none.
    pub shell: Option<&'static str>,
}

impl Store {
    /// Starts a template whose disk, of `size` bytes, comes from elsewhere.
    pub fn begin_import(&self, id: Id<TemplateKey>, size: u64) -> Result<Import, StoreError> {
        let draft = self.begin_template(id, 0)?;
        let work = self.session().folder("import").map_err(StoreError::from)?;
        Ok(Import { draft, work, size })
    }
}

impl Import {
    /// Where an archive that is uploaded may be put.
    #[must_use]
    pub fn archive(&self) -> PathBuf {
        self.work.path().join("archive")
    }

    /// A folder for files that nobody else needs.
    #[must_use]
    pub fn scratch(&self) -> &Path {
        self.work.path()
    }

    /// What the image's files may take.
    #[must_use]
    pub fn bounds(&self) -> Bounds {
        let overhead = self.size / OVERHEAD_SHARE + OVERHEAD_BYTES;
        Bounds {
            bytes: self.size.saturating_sub(overhead),
            entries: (self.size / BYTES_PER_FILE).saturating_sub(OVERHEAD_FILES).min(MOST_FILES),
        }
    }

    /// Makes the disk: layers, what a sandbox needs, filesystem.
    pub fn make_disk(self, image: &Image, watch: &dyn Watch) -> Result<ImportedDisk, ImportError> {
        let root = self.work.path().join("root");
        std::fs::create_dir(&root)
            .map_err(|error| StoreError::from(crate::files::FileError::new("create", &root, error)))?;
        let unpacked = image.unpack(&root, self.bounds(), watch)?;
        tracing::info!(bytes = unpacked.bytes, entries = unpacked.entries, "image laid out");
        let shell = furnish::furnish(&Tree::open(&root)?)?;
        watch.step(unpacked.bytes)?;
        filesystem::make(&root, self.size, &self.draft.path(TemplateFile::Disk))
            .map_err(ImportError::Filesystem)?;
        Ok(ImportedDisk { draft: self.draft, shell })
    }
}
