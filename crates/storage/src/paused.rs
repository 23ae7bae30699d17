//! Paused sandboxes: a machine image in the sandbox's folder, or its disk alone, described by a manifest.
//!
//! ```text
//!   sandboxes/sb-<uuid>/paused/     disk.ext4, state and memory where they were kept, manifest.json, metrics.json
//! ```
//!
//! It appears complete, by one rename, when everything in it is on the disk, and is there until it is removed after the sandbox runs
//! again. Nothing in it is ever written: who resumes from it works on clones.
//!
//! The device state's checksum is taken at once, and compared whenever the image is opened. Those of memory and disk would make a
//! pause as slow as reading all of them, so [`Store::settle_paused`] takes them afterwards, and rewrites what has fallen into too
//! many pieces. Until then they are known by their sizes.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use chrono::{DateTime, Utc};
use sandbar_types::id::Sandbox;
use sandbar_types::{Id, PauseMode, TemplateKind};
use serde::{Deserialize, Serialize};

use crate::checksum::Checksum;
use crate::clone::clone_file;
use crate::extents;
use crate::files::{self, Json, OnFile};
use crate::machine_image::{ImageDraft, MachineImage};
use crate::sandbox::link;
use crate::store::{Store, StoreError};
use crate::template::{TemplateFile, TemplateSpec};

/// The one version of the manifest that this code reads and writes.
const FORMAT: u32 = 1;
pub(crate) const MANIFEST: &str = "manifest.json";
const METRICS: &str = "metrics.json";

/// What a paused sandbox's `manifest.json` says.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct PausedManifest {
    /// The version of this document.
    pub format: u32,
    /// Which sandbox this is.
    pub sandbox: Id<Sandbox>,
    /// Its machine.
    #[serde(flatten)]
    pub spec: TemplateSpec,
    /// When it was paused.
    pub paused_at: DateTime<Utc>,
    /// Its files.
    pub files: BTreeMap<TemplateFile, PausedFile>,
}

/// One file of a paused sandbox.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct PausedFile {
    /// Bytes, holes included.
    pub size: u64,
    /// The content; none until it has been read through once.
    pub checksum: Option<Checksum>,
}

/// A paused sandbox's files, complete.
#[derive(Debug, Clone)]
pub struct Paused {
    pub(crate) dir: PathBuf,
    /// What they are.
    pub manifest: PausedManifest,
}

impl Paused {
    /// What was kept of it.
    #[must_use]
    pub const fn mode(&self) -> PauseMode {
        match self.manifest.spec.kind {
            TemplateKind::Snapshot => PauseMode::Full,
            TemplateKind::Base => PauseMode::Filesystem,
        }
    }

    /// The machine that it is restored from; none where its disk alone was kept.
    #[must_use]
    pub fn image(&self) -> Option<MachineImage> {
        (self.mode() == PauseMode::Full).then(|| MachineImage::in_folder(&self.dir))
    }

    /// Its disk: never written, to be cloned.
    #[must_use]
    pub fn disk(&self) -> PathBuf {
        self.path(TemplateFile::Disk)
    }

    /// Gives its files, which never change, second names: a copy that takes no time and no room. There must be a machine among them.
    pub fn copy(&self, into: &MachineImage) -> Result<(), StoreError> {
        let no_memory = || StoreError::NoMemoryKept { id: self.manifest.sandbox };
        let MachineImage { disk, state, memory } = self.image().ok_or_else(no_memory)?;
        link(&disk, &into.disk)?;
        link(&state, &into.state)?;
        Ok(link(&memory, &into.memory)?)
    }

    /// Clones its disk, to be changed.
    pub fn copy_disk(&self, to: &Path) -> Result<(), StoreError> {
        clone_file(&self.disk(), to)?;
        Ok(())
    }

    /// Bytes of disk that it shares with nothing.
    pub fn own_bytes(&self) -> Result<u64, StoreError> {
        let mut bytes = 0;
        for &file in self.files() {
            bytes += extents::own_bytes(&self.path(file))?;
        }
        Ok(bytes)
    }

    /// The files that it consists of.
    pub(crate) const fn files(&self) -> &'static [TemplateFile] {
        TemplateFile::of(self.manifest.spec.kind)
    }

    /// What was kept of the sandbox's metrics. Nothing depends on them, so none there is no damage.
    #[must_use]
    pub fn metrics(&self) -> Option<Vec<u8>> {
        fs::read(self.dir.join(METRICS)).ok()
    }

    fn read(dir: PathBuf, id: Id<Sandbox>) -> Result<Self, StoreError> {
        let damaged =
            |reason: &str| StoreError::DamagedPause { id, file: MANIFEST.into(), reason: reason.into() };
        let manifest: PausedManifest = match files::read_json(&dir.join(MANIFEST))? {
            Json::Value(manifest) => manifest,
            Json::Malformed(error) => return Err(damaged(&error.to_string())),
            Json::Missing if dir.exists() => return Err(damaged("it is missing")),
            Json::Missing => return Err(StoreError::UnknownPause { id }),
        };
        let paused = Self { dir, manifest };
        if paused.manifest.format != FORMAT {
            return Err(damaged("another version of Sandbar wrote it"));
        }
        if paused.manifest.sandbox != id {
            return Err(damaged("it describes another sandbox"));
        }
        for &file in paused.files() {
            let Some(record) = paused.manifest.files.get(&file) else {
                return Err(paused.damaged(file, "the manifest does not list it"));
            };
            match paused.path(file).metadata() {
                Ok(metadata) if metadata.len() == record.size => {}
                Ok(metadata) => {
                    let reason = format!("it has {} bytes instead of {}", metadata.len(), record.size);
                    return Err(paused.damaged(file, &reason));
                }
                Err(error) => return Err(paused.damaged(file, &error.to_string())),
            }
        }
        // Some kilobytes, which the virtual machine monitor would believe.
        if paused.mode() == PauseMode::Full {
            paused.compare(TemplateFile::State)?;
        }
        Ok(paused)
    }

    fn compare(&self, file: TemplateFile) -> Result<(), StoreError> {
        let known = self.manifest.files.get(&file).and_then(|record| record.checksum);
        match known {
            Some(known) if Checksum::of_file(&self.path(file))? != known => {
                Err(self.damaged(file, "its checksum is not the manifest's"))
            }
            _ => Ok(()),
        }
    }

    pub(crate) fn path(&self, file: TemplateFile) -> PathBuf {
        self.dir.join(file.name())
    }

    fn damaged(&self, file: TemplateFile, reason: &str) -> StoreError {
        StoreError::DamagedPause {
            id: self.manifest.sandbox,
            file: file.name().into(),
            reason: reason.into(),
        }
    }
}

impl ImageDraft {
    /// Makes the image a paused sandbox's: durable, and then in place in one step. Nobody may write to its files any more. Of which files
    /// it consists is the specification's kind to say: an image with memory, or a disk alone.
    ///
    /// Takes as long as writing what the machine changed through to the disk.
    pub fn publish_paused(
        self,
        id: Id<Sandbox>,
        spec: TemplateSpec,
        metrics: &[u8],
    ) -> Result<Paused, StoreError> {
        let folder = self.dir.path();
        let names = TemplateFile::of(spec.kind);
        files::write_new(&folder.join(METRICS), metrics)?;
        // Each waits for the disk; together they wait once.
        std::thread::scope(|scope| {
            let syncs = names.iter().map(|file| scope.spawn(move || files::fsync(&folder.join(file.name()))));
            let syncs: Vec<_> = syncs.collect();
            syncs
                .into_iter()
                .try_for_each(|sync| sync.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
        })?;
        let mut records = BTreeMap::new();
        for &file in names {
            let path = folder.join(file.name());
            let size = path.metadata().on("look at", &path)?.len();
            let checksum = match file {
                TemplateFile::State => Some(Checksum::of_file(&path)?),
                TemplateFile::Disk | TemplateFile::Memory => None,
            };
            records.insert(file, PausedFile { size, checksum });
        }
        let manifest =
            PausedManifest { format: FORMAT, sandbox: id, spec, paused_at: Utc::now(), files: records };
        files::write_new_json(&folder.join(MANIFEST), &manifest)?;
        files::fsync(folder)?;
        let dir = self.store.paused_dir(id);
        // A former one, which should have gone when the sandbox ran again, goes with the draft.
        let replaces = dir.exists();
        files::publish_over(folder, &dir)?;
        if !replaces {
            self.dir.keep();
        }
        Ok(Paused { dir, manifest })
    }
}

impl Store {
    /// A paused sandbox's files, seen to be there, of the right size, and with the right device state.
    pub fn paused(&self, id: Id<Sandbox>) -> Result<Paused, StoreError> {
        Paused::read(self.paused_dir(id), id)
    }

    /// Whether a sandbox has the files of a pause, damaged or not.
    #[must_use]
    pub fn has_paused(&self, id: Id<Sandbox>) -> bool {
        self.paused_dir(id).exists()
    }

    /// Reads all files of a paused sandbox and compares their checksums: slow. Returns how many bytes there were to compare.
    pub fn verify_paused(&self, id: Id<Sandbox>) -> Result<u64, StoreError> {
        let paused = self.paused(id)?;
        let mut bytes = 0;
        for (&file, record) in &paused.manifest.files {
            paused.compare(file)?;
            if record.checksum.is_some() {
                bytes += record.size;
            }
        }
        Ok(bytes)
    }

    /// Removes the files of a pause; none there is fine.
    pub fn remove_paused(&self, id: Id<Sandbox>) -> Result<(), StoreError> {
        Ok(self.session().discard(&self.paused_dir(id))?)
    }

    pub(crate) fn paused_dir(&self, id: Id<Sandbox>) -> PathBuf {
        paused_in(&self.sandbox_files(id).dir)
    }
}

/// Where a sandbox's folder has the files of a pause.
fn paused_in(dir: &Path) -> PathBuf {
    dir.join("paused")
}
