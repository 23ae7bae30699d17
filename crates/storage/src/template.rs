//! Templates on this host: a disk and, for snapshots, a machine's state and memory, described by a manifest.
//!
//! A template is written once. [`Store::begin_template`] gives a draft's folder; whoever makes the template writes its files there;
//! [`TemplateDraft::commit`] describes them, makes them durable and publishes them in one step. From then on nothing in it changes:
//! running machines map its memory and share its disk's blocks.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use chrono::{DateTime, Utc};
use sandbar_types::id::Template as TemplateKey;
use sandbar_types::{Arch, Id, TemplateKind, VmmKind};
use serde::{Deserialize, Serialize};

use crate::checksum::Checksum;
use crate::files::{self, FileError, Json, OnFile};
use crate::machine_image::MachineImage;
use crate::session::TempDir;
use crate::store::{Store, StoreError};

/// The one version of the manifest that this code reads and writes.
pub(crate) const FORMAT: u32 = 1;
const MANIFEST: &str = "manifest.json";

/// A file of a template.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TemplateFile {
    /// The root filesystem.
    Disk,
    /// The machine's devices, as the VMM wrote them.
    State,
    /// The machine's memory.
    Memory,
}

impl TemplateFile {
    /// The files of a machine that stands still.
    pub(crate) const MACHINE: [Self; 3] = [Self::Disk, Self::State, Self::Memory];

    /// Its name in the template's folder.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Disk => "disk.ext4",
            Self::State => "state",
            Self::Memory => "memory",
        }
    }

    /// What a template of that kind consists of.
    pub(crate) const fn of(kind: TemplateKind) -> &'static [Self] {
        match kind {
            TemplateKind::Base => &[Self::Disk],
            TemplateKind::Snapshot => &Self::MACHINE,
        }
    }
}

/// What the maker of a template says about it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TemplateSpec {
    /// Whether machines boot or resume from it.
    pub kind: TemplateKind,
    /// Virtual CPUs of its machine.
    pub vcpus: u32,
    /// Memory of its machine, in MiB.
    pub memory_mb: u32,
    /// Its disk's size, in MiB.
    pub disk_mb: u32,
    /// The machine's architecture.
    pub arch: Arch,
    /// The VMM that made it.
    pub vmm: VmmKind,
    /// What that VMM needs of the one that restores it: the VMM's own words, not looked into here.
    pub compatibility: serde_json::Value,
    /// The kernel that it booted ([`crate::Kernel::hash`]).
    pub kernel: String,
    /// The token that the guest agent in its memory takes until a sandbox gives it one of its own; none where it has none yet.
    pub guest_token: Option<String>,
    /// How the OCI image that it was made from says that it is run: its maker's own words, not looked into here. None where it was made
    /// from something else.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub image_config: Option<serde_json::Value>,
    /// What the guest whose memory this is was told of its commands' environment, user and folder: its maker's own words, not looked into
    /// here. None without memory, and where it was told nothing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub surroundings: Option<serde_json::Value>,
}

/// What a template's `manifest.json` says.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct TemplateManifest {
    /// The version of this document.
    pub format: u32,
    /// Which template this is.
    pub id: Id<TemplateKey>,
    /// What its maker said.
    #[serde(flatten)]
    pub spec: TemplateSpec,
    /// When it was committed.
    pub created_at: DateTime<Utc>,
    /// Its files.
    pub files: BTreeMap<TemplateFile, FileRecord>,
}

/// One file of a template, as it was committed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileRecord {
    /// Bytes, holes included.
    pub size: u64,
    /// The content.
    pub checksum: Checksum,
}

/// A complete template.
#[derive(Debug, Clone)]
pub struct Template {
    dir: PathBuf,
    /// What it is.
    pub manifest: TemplateManifest,
}

impl Template {
    /// Where one of its files is. To be cloned or mapped privately, never written.
    #[must_use]
    pub fn path(&self, file: TemplateFile) -> PathBuf {
        self.dir.join(file.name())
    }

    /// The machine that sandboxes are restored from; a template that is an image alone has none.
    #[must_use]
    pub fn image(&self) -> Option<MachineImage> {
        match self.manifest.spec.kind {
            TemplateKind::Snapshot => Some(MachineImage::in_folder(&self.dir)),
            TemplateKind::Base => None,
        }
    }

    /// Its id.
    #[must_use]
    pub const fn id(&self) -> Id<TemplateKey> {
        self.manifest.id
    }

    /// Bytes of disk that its files take, holes not counted. Blocks that they share with others are counted here too.
    #[must_use]
    pub fn size_on_disk(&self) -> u64 {
        use std::os::unix::fs::MetadataExt as _;
        let blocks = |&file| self.path(file).metadata().map_or(0, |metadata| metadata.blocks());
        self.manifest.files.keys().map(blocks).sum::<u64>() * 512
    }

    /// Reads all of its files and compares their checksums: slow. That no file is missing or truncated was seen when it was opened.
    /// Returns how many bytes there were to compare.
    pub fn verify(&self) -> Result<u64, StoreError> {
        let mut bytes = 0;
        for (&file, record) in &self.manifest.files {
            if Checksum::of_file(&self.path(file))? != record.checksum {
                return Err(self.damaged(file.name(), "its checksum is not the manifest's"));
            }
            bytes += record.size;
        }
        Ok(bytes)
    }

    fn read(dir: PathBuf, id: Id<TemplateKey>) -> Result<Self, StoreError> {
        let damaged =
            |reason: &str| StoreError::DamagedTemplate { id, file: MANIFEST.into(), reason: reason.into() };
        let manifest: TemplateManifest = match files::read_json(&dir.join(MANIFEST))? {
            Json::Value(manifest) => manifest,
            Json::Malformed(error) => return Err(damaged(&error.to_string())),
            Json::Missing if dir.exists() => return Err(damaged("it is missing")),
            Json::Missing => return Err(StoreError::UnknownTemplate { id }),
        };
        let template = Self { dir, manifest };
        if template.manifest.format != FORMAT {
            return Err(damaged("another version of Sandbar wrote it"));
        }
        if template.manifest.id != id {
            return Err(damaged("it describes another template"));
        }
        for &file in TemplateFile::of(template.manifest.spec.kind) {
            let Some(record) = template.manifest.files.get(&file) else {
                return Err(template.damaged(file.name(), "the manifest does not list it"));
            };
            match template.path(file).metadata() {
                Ok(metadata) if metadata.len() == record.size => {}
                Ok(metadata) => {
                    let reason = format!("it has {} bytes instead of {}", metadata.len(), record.size);
                    return Err(template.damaged(file.name(), &reason));
                }
                Err(error) => return Err(template.damaged(file.name(), &error.to_string())),
            }
        }
        Ok(template)
    }

    pub(crate) fn damaged(&self, file: &str, reason: &str) -> StoreError {
        StoreError::DamagedTemplate { id: self.id(), file: file.into(), reason: reason.into() }
    }
}

/// A template in the making. Dropped, it leaves nothing.
#[derive(Debug)]
pub struct TemplateDraft {
    store: Store,
    id: Id<TemplateKey>,
    dir: TempDir,
}

impl TemplateDraft {
    /// Where one of its files is to be put.
    #[must_use]
    pub fn path(&self, file: TemplateFile) -> PathBuf {
        self.dir.path().join(file.name())
    }

    /// Where the files of its machine are to be put.
    #[must_use]
    pub fn image(&self) -> MachineImage {
        MachineImage::in_folder(self.dir.path())
    }

    /// Its folder. Whatever is there besides the template's own files is deleted by `commit`.
    #[must_use]
    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// Publishes the template. Its files must be there, and nobody may write to them any more.
    ///
    /// Takes as long as writing what the files hold through to the disk; hashing it goes on meanwhile and takes less.
    pub fn commit(self, spec: TemplateSpec) -> Result<Template, StoreError> {
        let files = self.make_durable(TemplateFile::of(spec.kind))?;
        let manifest = TemplateManifest { format: FORMAT, id: self.id, spec, created_at: Utc::now(), files };
        self.publish(manifest)
    }

    /// Publishes a template whose files came from elsewhere, if they are what its manifest says.
    pub(crate) fn commit_received(self, manifest: TemplateManifest) -> Result<Template, StoreError> {
        let files = self.make_durable(TemplateFile::of(manifest.spec.kind))?;
        let damaged = files.iter().find(|(file, record)| manifest.files.get(file) != Some(*record));
        if let Some((file, _)) = damaged {
            let reason = "what was received is not what its manifest says".to_owned();
            return Err(StoreError::DamagedTemplate { id: self.id, file: file.name().into(), reason });
        }
        self.publish(manifest)
    }

    /// Writes the files through, deletes whatever else is there, and describes them.
    fn make_durable(&self, names: &[TemplateFile]) -> Result<BTreeMap<TemplateFile, FileRecord>, FileError> {
        self.remove_others(names)?;
        // Two things to wait for, the processor and the disk: at the same time.
        let (records, synced) = std::thread::scope(|scope| {
            let sync = scope.spawn(|| names.iter().try_for_each(|&name| files::fsync(&self.path(name))));
            let records = names.iter().map(|&name| Ok((name, self.record(name)?)));
            let records: Result<BTreeMap<_, _>, FileError> = records.collect();
            (records, sync.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
        });
        let records = records?;
        synced?;
        Ok(records)
    }

    fn publish(self, manifest: TemplateManifest) -> Result<Template, StoreError> {
        files::write_new_json(&self.dir.path().join(MANIFEST), &manifest)?;
        files::fsync(self.dir.path())?;
        let dir = self.store.template_dir(self.id);
        files::publish_new(self.dir.path(), &dir).map_err(|error| match error.kind() {
            std::io::ErrorKind::AlreadyExists => StoreError::TemplateExists { id: self.id },
            _ => error.into(),
        })?;
        self.dir.keep();
        Ok(Template { dir, manifest })
    }

    fn record(&self, file: TemplateFile) -> Result<FileRecord, FileError> {
        let path = self.path(file);
        let size = path.metadata().on("look at", &path)?.len();
        Ok(FileRecord { size, checksum: Checksum::of_file(&path)? })
    }

    fn remove_others(&self, names: &[TemplateFile]) -> Result<(), FileError> {
        let dir = self.dir.path();
        for entry in std::fs::read_dir(dir).on("list", dir)? {
            let path = entry.on("list", dir)?.path();
            if !names.iter().any(|&name| path == self.path(name)) {
                files::remove_all(&path)?;
            }
        }
        Ok(())
    }
}

impl Store {
    /// Starts a new template of which `bytes` will be new.
    pub fn begin_template(&self, id: Id<TemplateKey>, bytes: u64) -> Result<TemplateDraft, StoreError> {
        self.require_space(bytes)?;
        if self.template_dir(id).exists() {
            return Err(StoreError::TemplateExists { id });
        }
        Ok(TemplateDraft { store: self.clone(), id, dir: self.session().folder(&id.to_string())? })
    }

    /// A template, its files seen to be there and of the right size.
    pub fn template(&self, id: Id<TemplateKey>) -> Result<Template, StoreError> {
        Template::read(self.template_dir(id), id)
    }

    /// All templates that are complete. Damaged ones are logged and left alone.
    pub fn templates(&self) -> Result<Vec<Template>, StoreError> {
        let ids: Vec<Id<TemplateKey>> = self.ids_in(&self.templates_dir())?;
        let read = ids.into_iter().map(|id| self.template(id)).filter_map(|read| match read {
            Err(error @ StoreError::DamagedTemplate { .. }) => {
                tracing::warn!(%error, "a template is damaged");
                None
            }
            // Deleted since the folder was listed.
            Err(StoreError::UnknownTemplate { .. }) => None,
            read => Some(read),
        });
        read.collect()
    }

    /// Deletes a template; none there is fine. Machines that run from it go on: they hold its files open and share its blocks.
    pub fn delete_template(&self, id: Id<TemplateKey>) -> Result<(), StoreError> {
        Ok(self.session().discard(&self.template_dir(id))?)
    }

    fn template_dir(&self, id: Id<TemplateKey>) -> PathBuf {
        self.templates_dir().join(id.to_string())
    }
}
