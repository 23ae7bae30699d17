//! Root filesystem images: what templates are made from.

use std::path::{Path, PathBuf};

use chrono::{DateTime, Utc};
use sandbar_types::{Arch, TemplateName};
use serde::{Deserialize, Serialize};

use crate::files::{self, FileError, Json};
use crate::store::{Store, StoreError};

/// The one version of the manifest that this code reads and writes.
const FORMAT: u32 = 1;
const MANIFEST: &str = "manifest.json";
const ROOTFS: &str = "rootfs.ext4";

/// A complete image.
#[derive(Debug, Clone)]
pub struct Image {
    dir: PathBuf,
    /// What it is.
    pub manifest: ImageManifest,
}

/// What an image's `manifest.json` says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ImageManifest {
    /// The version of this document.
    pub format: u32,
    /// The image's name.
    pub name: TemplateName,
    /// What it was made from, as a hash: an image with the wanted recipe need not be made again.
    pub recipe: String,
    /// Processor architecture of its programs.
    pub arch: Arch,
    /// Bytes of the filesystem, holes included.
    pub size: u64,
    /// When it was made.
    pub created_at: DateTime<Utc>,
}

impl Image {
    /// The ext4 filesystem, to be cloned and never written.
    #[must_use]
    pub fn rootfs(&self) -> PathBuf {
        self.dir.join(ROOTFS)
    }
}

impl Store {
    /// The image of that name, or `None` where there is no complete one.
    pub fn image(&self, name: &TemplateName) -> Result<Option<Image>, StoreError> {
        let dir = self.images_dir().join(name.as_str());
        let Json::Value(manifest) = files::read_json::<ImageManifest>(&dir.join(MANIFEST))? else {
            return Ok(None);
        };
        let image = Image { dir, manifest };
        let size = image.rootfs().metadata().map_or(0, |metadata| metadata.len());
        let complete =
            image.manifest.format == FORMAT && image.manifest.name == *name && size == image.manifest.size;
        Ok(complete.then_some(image))
    }

    /// Makes the filesystem at `rootfs`, a file in this store's session, the image of that name, in place of the one before.
    pub(crate) fn publish_image(
        &self,
        name: &TemplateName,
        recipe: &str,
        arch: Arch,
        rootfs: &Path,
    ) -> Result<Image, StoreError> {
        let draft = self.session().folder("image")?;
        let moved = draft.path().join(ROOTFS);
        std::fs::rename(rootfs, &moved).map_err(|error| FileError::new("move", rootfs, error))?;
        let size = moved.metadata().map_err(|error| FileError::new("look at", &moved, error))?.len();
        let manifest = ImageManifest {
            format: FORMAT,
            name: name.clone(),
            recipe: recipe.to_owned(),
            arch,
            size,
            created_at: Utc::now(),
        };
        files::fsync(&moved)?;
        files::write_new_json(&draft.path().join(MANIFEST), &manifest)?;
        files::fsync(draft.path())?;
        let dir = self.images_dir().join(name.as_str());
        // Where an older image was, the draft's folder now holds that one, and goes.
        files::publish_over(draft.path(), &dir)?;
        Ok(Image { dir, manifest })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Backing, StoreOptions};

    #[test]
    fn an_image_takes_the_place_of_the_one_before() {
        let dir = tempfile::tempdir().unwrap();
        let options = StoreOptions { backing: Backing::Native, ..StoreOptions::default() };
        let store = Store::open(dir.path(), &options).unwrap();
        let name = TemplateName::base();
        assert!(store.image(&name).unwrap().is_none());
        for (recipe, content) in [("one", "first"), ("two", "second one")] {
            let rootfs = store.session().path("rootfs");
            std::fs::write(&rootfs, content).unwrap();
            let published = store.publish_image(&name, recipe, Arch::X86_64, &rootfs).unwrap();
            let read = store.image(&name).unwrap().unwrap();
            assert_eq!(read.manifest, published.manifest);
            assert_eq!(read.manifest.recipe, recipe);
            assert_eq!(std::fs::read_to_string(read.rootfs()).unwrap(), content);
        }
        assert_eq!(std::fs::read_dir(store.images_dir()).unwrap().count(), 1);
        std::fs::write(store.image(&name).unwrap().unwrap().rootfs(), "cut").unwrap();
        assert!(store.image(&name).unwrap().is_none());
    }
}
