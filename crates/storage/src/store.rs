//! A host's store of disks: opening it, its folders, its space.

use std::fs::{self, Permissions};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use sandbar_types::Id;
use sandbar_types::id::{Kind, Sandbox, Template, Volume};
use serde::{Deserialize, Serialize};

use crate::backing::{self, Backing, StoreKind};
use crate::files::{self, FileError, Json, OnFile};
use crate::session::Session;
use crate::tool::ToolError;

/// The one version of the layout that this code knows.
const FORMAT: u32 = 1;
const MARKER: &str = "store.json";

/// What may go wrong in a store.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// A file operation failed.
    #[error(transparent)]
    File(#[from] FileError),
    /// The store's own filesystem could not be made or mounted.
    #[error("cannot use the store's filesystem image {}", image.display())]
    Backing {
        /// The image.
        image: PathBuf,
        /// Why.
        source: ToolError,
    },
    /// Another version of Sandbar wrote this folder.
    #[error("{} has a layout of version {found}; this version of Sandbar knows {FORMAT}", dir.display())]
    Format {
        /// The store's folder.
        dir: PathBuf,
        /// Its version.
        found: u32,
    },
    /// There is too little space.
    #[error(
        "not enough disk space in {}: {} MiB free, {} MiB needed", dir.display(), available >> 20, needed >> 20
    )]
    NoSpace {
        /// Where.
        dir: PathBuf,
        /// Bytes there are.
        available: u64,
        /// Bytes that there must be.
        needed: u64,
    },
    /// This host has no such template.
    #[error("no template {id} on this host")]
    UnknownTemplate {
        /// The template.
        id: Id<Template>,
    },
    /// A template is not what its manifest says.
    #[error("template {id} is damaged: {file}: {reason}")]
    DamagedTemplate {
        /// The template.
        id: Id<Template>,
        /// Which of its files.
        file: String,
        /// What is wrong with it.
        reason: String,
    },
    /// A template of that id exists; templates never change.
    #[error("template {id} exists on this host")]
    TemplateExists {
        /// The template.
        id: Id<Template>,
    },
    /// A machine was asked for of a pause that kept the disk alone.
    #[error("paused sandbox {id} has no memory: its disk alone was kept")]
    NoMemoryKept {
        /// The sandbox.
        id: Id<Sandbox>,
    },
    /// The sandbox is not paused on this host.
    #[error("sandbox {id} has no files of a pause on this host")]
    UnknownPause {
        /// The sandbox.
        id: Id<Sandbox>,
    },
    /// A paused sandbox's files are not what their manifest says.
    #[error("paused sandbox {id} is damaged: {file}: {reason}")]
    DamagedPause {
        /// The sandbox.
        id: Id<Sandbox>,
        /// Which of its files.
        file: String,
        /// What is wrong with it.
        reason: String,
    },
    /// This host has no such volume.
    #[error("no volume {id} on this host")]
    UnknownVolume {
        /// The volume.
        id: Id<Volume>,
    },
    /// A volume's filesystem could not be made.
    #[error("the volume's filesystem cannot be made")]
    Filesystem {
        /// Why.
        source: ToolError,
    },
    /// A disk could not be checked and packed.
    #[error("the disk cannot be checked and packed")]
    Pack {
        /// Why.
        source: ToolError,
    },
    /// A sandbox of that id has a folder.
    #[error("sandbox {id} has a folder on this host")]
    SandboxExists {
        /// The sandbox.
        id: Id<Sandbox>,
    },
}

/// How to open a store.
#[derive(Debug, Clone, Default)]
pub struct StoreOptions {
    /// Where its blocks are to be.
    pub backing: Backing,
    /// Bytes of the XFS image, if one has to be made; unset: 80 % of the free space. The image is sparse and takes what is used.
    pub size: Option<u64>,
    /// Bytes to be kept free, so that running sandboxes can write and be paused; unset: 2 GiB, or 5 % of the store if that is more, but no
    /// more than a quarter of it.
    pub reserve: Option<u64>,
}

/// A store's room.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Space {
    /// Bytes that the store could hold.
    pub total: u64,
    /// Bytes that can still be written: of a loop-mounted image, no more than its own filesystem has left.
    pub free: u64,
}

/// An open store. Clones are the same store; what it was building goes with the last of them.
#[derive(Debug, Clone)]
pub struct Store {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    dir: PathBuf,
    kind: StoreKind,
    reserve: Option<u64>,
    session: Session,
}

#[derive(Serialize, Deserialize)]
struct Marker {
    format: u32,
}

impl Store {
    /// Opens the store at `dir`, making it if there is none, and sweeps what dead processes left in it.
    ///
    /// Where `dir`'s filesystem has reflink, that is used. Elsewhere `<dir>.xfs`, an XFS image, is made beside it and mounted on
    /// it; it stays mounted. Where that cannot be (no loop devices, no xfsprogs), files are copied in full: [`Store::kind`] says so.
    pub fn open(dir: &Path, options: &StoreOptions) -> Result<Self, StoreError> {
        fs::create_dir_all(dir).on("create", dir)?;
        let dir = dir.canonicalize().on("find", dir)?;
        let kind = backing::prepare(&dir, &dir.join(MARKER), options)?;
        lay_out(&dir)?;
        let session = Session::begin(&dir.join("tmp"))?;
        check_format(&dir, &session)?;
        Ok(Self { inner: Arc::new(Inner { dir, kind, reserve: options.reserve, session }) })
    }

    /// Unmounts the store at `dir` if it is a mounted image. Nobody may have anything of it open.
    pub fn unmount(dir: &Path) -> Result<(), StoreError> {
        let dir = dir.canonicalize().on("find", dir)?;
        backing::unmount_image(&dir)
    }

    /// The store's folder.
    #[must_use]
    pub fn dir(&self) -> &Path {
        &self.inner.dir
    }

    /// Where its blocks are, and whether it clones by reference.
    #[must_use]
    pub fn kind(&self) -> &StoreKind {
        &self.inner.kind
    }

    /// Its room, as of now.
    pub fn space(&self) -> Result<Space, StoreError> {
        let own = backing::space(self.dir())?;
        Ok(match self.kind() {
            StoreKind::LoopXfs { image } => {
                let outer = backing::space(files::parent(image))?;
                Space { total: own.total, free: own.free.min(outer.free) }
            }
            StoreKind::Reflink | StoreKind::FullCopy { .. } => own,
        })
    }

    /// Bytes that clones of these files take: none where they share their blocks, else what they hold.
    #[must_use]
    pub fn cost_of_clones<'a>(&self, files: impl IntoIterator<Item = &'a Path>) -> u64 {
        match self.kind() {
            StoreKind::Reflink | StoreKind::LoopXfs { .. } => 0,
            StoreKind::FullCopy { .. } => {
                let held = |file: &Path| file.metadata().map_or(0, |metadata| metadata.blocks() * 512);
                files.into_iter().map(held).sum()
            }
        }
    }

    /// Refuses where writing `bytes` would leave less than the reserve: for new work, of which there may be less.
    pub fn require_space(&self, bytes: u64) -> Result<(), StoreError> {
        let space = self.space()?;
        let reserve = self.inner.reserve.unwrap_or_else(|| default_reserve(space.total));
        self.require(space, reserve.saturating_add(bytes))
    }

    /// Refuses where `bytes` do not fit at all: for what ends in less being needed, which may use the reserve.
    pub(crate) fn require_room(&self, bytes: u64) -> Result<(), StoreError> {
        self.require(self.space()?, bytes.saturating_add(ROUNDING))
    }

    fn require(&self, Space { free, .. }: Space, needed: u64) -> Result<(), StoreError> {
        if free >= needed {
            return Ok(());
        }
        Err(StoreError::NoSpace { dir: self.dir().to_owned(), available: free, needed })
    }

    pub(crate) fn session(&self) -> &Session {
        &self.inner.session
    }

    pub(crate) fn kernels_dir(&self) -> PathBuf {
        self.dir().join("kernel")
    }

    pub(crate) fn images_dir(&self) -> PathBuf {
        self.dir().join("images")
    }

    /// Where layers of OCI images are kept.
    #[must_use]
    pub fn layers_dir(&self) -> PathBuf {
        self.dir().join("layers")
    }

    pub(crate) fn templates_dir(&self) -> PathBuf {
        self.dir().join("templates")
    }

    pub(crate) fn volumes_dir(&self) -> PathBuf {
        self.dir().join("volumes")
    }

    pub(crate) fn sandboxes_dir(&self) -> PathBuf {
        self.dir().join("sandboxes")
    }

    /// The ids that name entries of a folder; other entries are not ours to speak of.
    pub(crate) fn ids_in<K: Kind>(&self, dir: &Path) -> Result<Vec<Id<K>>, StoreError> {
        let mut ids = Vec::new();
        for entry in fs::read_dir(dir).on("list", dir)? {
            let name = entry.on("list", dir)?.file_name();
            ids.extend(name.to_str().and_then(|name| name.parse::<Id<K>>().ok()));
        }
        ids.sort_unstable();
        Ok(ids)
    }
}

/// What a filesystem needs beside the bytes of a few files: their descriptions, its log, the rounding of their pieces.
const ROUNDING: u64 = 16 << 20;

fn default_reserve(total: u64) -> u64 {
    (total / 20).max(2 << 30).min(total / 4)
}

fn lay_out(dir: &Path) -> Result<(), FileError> {
    // Other users of this machine have no business with tenants' disks and memory.
    fs::set_permissions(dir, Permissions::from_mode(0o700)).on("change", dir)?;
    for name in ["kernel", "images", "layers", "templates", "sandboxes", "volumes", "tmp"] {
        let folder = dir.join(name);
        fs::create_dir_all(&folder).on("create", &folder)?;
    }
    Ok(())
}

fn check_format(dir: &Path, session: &Session) -> Result<(), StoreError> {
    let marker = dir.join(MARKER);
    match files::read_json::<Marker>(&marker)? {
        Json::Value(Marker { format: FORMAT }) => Ok(()),
        Json::Value(Marker { format }) => Err(StoreError::Format { dir: dir.to_owned(), found: format }),
        Json::Malformed(error) => Err(FileError::new("understand", &marker, error).into()),
        Json::Missing => {
            let draft = session.path(MARKER);
            files::write_new_json(&draft, &Marker { format: FORMAT })?;
            Ok(files::publish_over(&draft, &marker)?)
        }
    }
}
