//! Volumes: filesystems that outlive the sandboxes that mount them.
//!
//! Each is a sparse ext4 image in a folder of its own. Guests mount it over connections (the host agent's `volumes`), so that nothing here
//! knows who has it.

use std::fs::{File, OpenOptions};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use sandbar_types::Id;
use sandbar_types::id::Volume as Kind;
use serde::{Deserialize, Serialize};

use crate::files::{self, Json, OnFile};
use crate::store::{Store, StoreError};
use crate::tool::Tool;

/// The one version of the manifest that this code reads and writes.
const FORMAT: u32 = 1;
const DISK: &str = "disk.ext4";
const MANIFEST: &str = "manifest.json";
/// Volumes are this large at least, and a multiple of this.
const UNIT: u64 = 16 << 20;
/// What an empty filesystem takes, for each byte of its size: most of it is its journal.
const FILESYSTEM_SHARE: u64 = 100;
/// Its first user in every image that we make.
const OWNER: &str = "root_owner=1000:1000";

/// A volume of this host.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Volume {
    /// Its id.
    pub id: Id<Kind>,
    /// How much its filesystem is made for.
    pub size_bytes: u64,
    /// Blocks on disk.
    pub used_bytes: u64,
}

#[derive(Serialize, Deserialize)]
struct Manifest {
    format: u32,
    size_bytes: u64,
}

impl Store {
    /// Makes a volume with an empty filesystem. One of that id stays as it is, whatever its size.
    pub fn create_volume(&self, id: Id<Kind>, size_bytes: u64) -> Result<Volume, StoreError> {
        match self.volume(id) {
            Err(StoreError::UnknownVolume { .. }) => {}
            known => return known,
        }
        let size_bytes = size_bytes.max(UNIT).next_multiple_of(UNIT);
        self.require_space(size_bytes / FILESYSTEM_SHARE)?;
        let draft = self.session().folder("volume")?;
        let disk = draft.path().join(DISK);
        Tool::new("mke2fs", "e2fsprogs")
            .args(["-q", "-t", "ext4", "-b", "4096", "-m", "0", "-L", "volume", "-E"])
            .arg(format!("lazy_itable_init=0,lazy_journal_init=0,nodiscard,{OWNER}"))
            .arg(&disk)
            .arg((size_bytes >> 12).to_string())
            .run()
            .map_err(|source| StoreError::Filesystem { source })?;
        // The tool writes as far as it has something to write.
        let file = OpenOptions::new().write(true).open(&disk).on("open", &disk)?;
        file.set_len(size_bytes).on("size", &disk)?;
        file.sync_all().on("fsync", &disk)?;
        files::write_new_json(&draft.path().join(MANIFEST), &Manifest { format: FORMAT, size_bytes })?;
        files::fsync(draft.path())?;
        match files::publish_new(draft.path(), &self.volume_dir(id)) {
            Ok(()) => draft.keep(),
            // Somebody else made it meanwhile.
            Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => {}
            Err(error) => return Err(error.into()),
        }
        self.volume(id)
    }

    /// The volume of that id.
    pub fn volume(&self, id: Id<Kind>) -> Result<Volume, StoreError> {
        let dir = self.volume_dir(id);
        let (manifest, disk) = (dir.join(MANIFEST), dir.join(DISK));
        match files::read_json::<Manifest>(&manifest)? {
            Json::Value(Manifest { format: FORMAT, size_bytes }) => {
                let used_bytes = disk.metadata().on("look at", &disk)?.blocks() * 512;
                Ok(Volume { id, size_bytes, used_bytes })
            }
            Json::Value(Manifest { format, .. }) => Err(StoreError::Format { dir, found: format }),
            Json::Malformed(error) => Err(files::FileError::new("understand", &manifest, error).into()),
            Json::Missing => Err(StoreError::UnknownVolume { id }),
        }
    }

    /// All volumes, the oldest first. One that cannot be read is left out, and told in the log.
    pub fn volumes(&self) -> Result<Vec<Volume>, StoreError> {
        let ids = self.ids_in::<Kind>(&self.volumes_dir())?;
        let volumes = ids.into_iter().map(|id| (id, self.volume(id))).filter_map(|(id, volume)| {
            volume.inspect_err(|error| tracing::error!(volume = %id, %error, "a volume cannot be read")).ok()
        });
        Ok(volumes.collect())
    }

    /// Opens a volume's blocks; how many bytes they are.
    pub fn open_volume(&self, id: Id<Kind>) -> Result<(File, u64), StoreError> {
        let Volume { size_bytes, .. } = self.volume(id)?;
        let disk = self.volume_dir(id).join(DISK);
        let file = OpenOptions::new().read(true).write(true).open(&disk).on("open", &disk)?;
        Ok((file, size_bytes))
    }

    /// Removes a volume with all that is in it; whether there was one.
    pub fn delete_volume(&self, id: Id<Kind>) -> Result<bool, StoreError> {
        let dir = self.volume_dir(id);
        let existed = dir.exists();
        self.session().discard(&dir)?;
        files::fsync(&self.volumes_dir())?;
        Ok(existed)
    }

    fn volume_dir(&self, id: Id<Kind>) -> PathBuf {
        self.volumes_dir().join(Path::new(&id.to_string()))
    }
}
