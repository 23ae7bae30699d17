//! The guest's kernel and initramfs, made from Debian's cloud kernel and Sandbar's two guest binaries.
//!
//! `package` gets Debian's kernel, `vmlinux` takes it out of its boot image, `modules` chooses its modules, `cpio` writes the initramfs.
//! The result is kept under a hash of all that is in it, so that a new guest agent makes a new one; it then takes kernel and modules
//! from the last one, without any network. A kernel stays as it was first taken: snapshots of it do not care for a newer one.

mod compression;
mod cpio;
mod modules;
mod package;
mod vmlinux;

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use chrono::{DateTime, Utc};
use sandbar_types::Arch;
use serde::{Deserialize, Serialize};

use self::cpio::Members;
use crate::Progress;
use crate::clone::clone_file;
use crate::debian::{DebianSource, DebianSourceError};
use crate::files::{self, FileError, Json, OnFile};
use crate::store::{Store, StoreError};
use crate::tool::ToolError;

/// The one version of the manifest, and of what is in an initramfs, that this code reads and writes.
const FORMAT: u32 = 2;
const MANIFEST: &str = "manifest.json";
const VMLINUX: &str = "vmlinux";
const INITRAMFS: &str = "initramfs";
/// The part of the initramfs that comes from Debian, to be joined with newer guest binaries.
const MODULES: &str = "modules.cpio";

/// The two static binaries that run in every guest.
#[derive(Debug, Clone, Copy)]
pub struct GuestBinaries<'a> {
    /// `sandbar-init`.
    pub init: &'a [u8],
    /// `sandbar-guest-agent`.
    pub agent: &'a [u8],
}

/// A kernel that guests boot, with its initramfs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Kernel {
    /// Identifies kernel, modules and guest binaries together.
    pub hash: String,
    /// The kernel's release, such as `6.1.0-40-cloud-amd64`.
    pub release: String,
    /// The uncompressed kernel.
    pub vmlinux: PathBuf,
    /// Its initramfs: `/init`, `/sandbar/{init,guest-agent}`, `/modules/*.ko` and their `/modules/order`. Not compressed.
    pub initramfs: PathBuf,
}

/// Why there is no kernel.
#[derive(Debug, thiserror::Error)]
pub enum KernelError {
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// A program failed.
    #[error(transparent)]
    Tool(#[from] ToolError),
    /// There is no source of packages.
    #[error(transparent)]
    Source(#[from] DebianSourceError),
    /// The archive has no such package, or there is no kernel in it.
    #[error("found no kernel in Debian's package {package}")]
    NoPackage {
        /// The package.
        package: String,
    },
    /// The boot image is of a kind that is not known.
    #[error("the kernel's boot image is of an unknown kind")]
    BadKernel,
    /// The kernel's boot image, or a module, is damaged.
    #[error("the compressed kernel or a module of it is damaged")]
    BadCompression,
    /// The kernel neither has nor is accompanied by a module that guests need.
    #[error("the kernel has no module {module}")]
    NoModule {
        /// The module.
        module: String,
    },
    /// A module's file is not one.
    #[error("the file of the module {module} cannot be understood")]
    BadModule {
        /// The module.
        module: String,
    },
}

impl From<FileError> for KernelError {
    fn from(error: FileError) -> Self {
        Self::Store(error.into())
    }
}

/// What a kernel's `manifest.json` says.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct Manifest {
    format: u32,
    hash: String,
    /// Of the guest binaries alone.
    guest: String,
    arch: Arch,
    release: String,
    /// Bytes, by file.
    sizes: [(String, u64); 3],
    created_at: DateTime<Utc>,
}

/// The kernel for these guest binaries: the one at hand, or made from the last one or from Debian's package. Kernels that are
/// neither this one nor some template's are deleted.
pub fn prepare_kernel(
    store: &Store,
    binaries: GuestBinaries<'_>,
    source: &DebianSource,
    progress: &dyn Progress,
) -> Result<Kernel, KernelError> {
    let guest = guest_hash(binaries);
    let mut known = manifests(store)?;
    known.retain(|(_, manifest)| manifest.arch == source.arch);
    let kernel = if let Some((dir, manifest)) = known.iter().rfind(|(_, manifest)| manifest.guest == guest) {
        kernel_at(dir, manifest)
    } else {
        store.require_space(256 << 20)?;
        let draft = store.session().folder("kernel")?;
        let dir = draft.path();
        let release = match known.last() {
            Some((last, manifest)) => {
                for name in [VMLINUX, MODULES] {
                    clone_file(&last.join(name), &dir.join(name))?;
                }
                manifest.release.clone()
            }
            None => from_debian(store, source, dir, progress)?,
        };
        progress.step("making the initramfs");
        let modules = dir.join(MODULES);
        let members = fs::read(&modules).on("read", &modules)?;
        files::write_new(&dir.join(INITRAMFS), &initramfs(binaries, &members))?;
        publish(store, dir, guest, source.arch, release)?
    };
    prune(store, &kernel.hash)?;
    Ok(kernel)
}

impl Store {
    /// The kernel of that hash, or `None` where there is no complete one.
    pub fn kernel(&self, hash: &str) -> Result<Option<Kernel>, StoreError> {
        let known = manifests(self)?;
        Ok(known
            .iter()
            .find(|(_, manifest)| manifest.hash == hash)
            .map(|(dir, manifest)| kernel_at(dir, manifest)))
    }
}

fn kernel_at(dir: &Path, manifest: &Manifest) -> Kernel {
    let Manifest { hash, release, .. } = manifest.clone();
    Kernel { hash, release, vmlinux: dir.join(VMLINUX), initramfs: dir.join(INITRAMFS) }
}

/// The complete kernels of the store, the oldest first.
fn manifests(store: &Store) -> Result<Vec<(PathBuf, Manifest)>, FileError> {
    let folder = store.kernels_dir();
    let mut found = Vec::new();
    for entry in fs::read_dir(&folder).on("list", &folder)? {
        let dir = entry.on("list", &folder)?.path();
        // What cannot be understood is as good as missing: it is made again.
        let Json::Value(manifest) = files::read_json::<Manifest>(&dir.join(MANIFEST))? else { continue };
        let is_whole =
            |(name, size): &(String, u64)| dir.join(name).metadata().is_ok_and(|file| file.len() == *size);
        if manifest.format == FORMAT && manifest.sizes.iter().all(is_whole) {
            found.push((dir, manifest));
        }
    }
    found.sort_by_key(|(_, manifest)| manifest.created_at);
    Ok(found)
}

/// Writes `vmlinux` and `modules.cpio` into `dir`, and gives the kernel's release.
fn from_debian(
    store: &Store,
    source: &DebianSource,
    dir: &Path,
    progress: &dyn Progress,
) -> Result<String, KernelError> {
    let unpacked = store.session().folder("kernel-package")?;
    let package = match package::installed(Path::new("/"), source.debian_arch()) {
        Some(package) => package,
        None => package::fetch(source, unpacked.path(), progress)?,
    };
    progress.step("unpacking the kernel");
    let vmlinuz = fs::read(&package.vmlinuz).on("read", &package.vmlinuz)?;
    files::write_new(&dir.join(VMLINUX), &vmlinux::extract(&vmlinuz)?)?;
    files::write_new(&dir.join(MODULES), &module_members(&modules::collect(&package.modules)?))?;
    Ok(package.release)
}

fn module_members(modules: &[modules::Module]) -> Vec<u8> {
    let mut members = Members::new();
    members.folder("modules", 0o755);
    for module in modules {
        members.file(&format!("modules/{}", module.file), 0o644, &module.content);
    }
    let order: String = modules
        .iter()
        .map(|module| format!("{} {}", module.file, module.parameters).trim_end().to_owned() + "\n")
        .collect();
    members.file("modules/order", 0o644, order.as_bytes());
    members.into_bytes()
}

fn initramfs(binaries: GuestBinaries<'_>, modules: &[u8]) -> Vec<u8> {
    let mut members = Members::new();
    members.folder("dev", 0o755);
    // The kernel opens it for init before init could mount anything.
    members.character_device("dev/console", 0o600, (5, 1));
    members.file("init", 0o755, binaries.init);
    members.folder("sandbar", 0o755);
    members.file("sandbar/init", 0o755, binaries.init);
    members.file("sandbar/guest-agent", 0o755, binaries.agent);
    members.into_archive(modules)
}

fn publish(
    store: &Store,
    dir: &Path,
    guest: String,
    arch: Arch,
    release: String,
) -> Result<Kernel, KernelError> {
    let mut hasher = blake3::Hasher::new();
    let mut sizes = [VMLINUX, INITRAMFS, MODULES].map(|name| (name.to_owned(), 0));
    hasher.update(&FORMAT.to_le_bytes());
    for (name, size) in &mut sizes {
        let path = dir.join(name.as_str());
        let content = fs::read(&path).on("read", &path)?;
        *size = content.len() as u64;
        hasher.update(&size.to_le_bytes()).update(&content);
        files::fsync(&path)?;
    }
    let manifest = Manifest {
        format: FORMAT,
        hash: short(&hasher),
        guest,
        arch,
        release,
        sizes,
        created_at: Utc::now(),
    };
    files::write_new_json(&dir.join(MANIFEST), &manifest)?;
    files::fsync(dir)?;
    let published = store.kernels_dir().join(&manifest.hash);
    // Another process may have made the same one meanwhile, or a damaged one may be there: this one is good.
    files::publish_over(dir, &published)?;
    Ok(kernel_at(&published, &manifest))
}

/// Deletes the kernels that are neither `current` nor named by a template.
fn prune(store: &Store, current: &str) -> Result<(), StoreError> {
    let templates = store.templates()?;
    let mut wanted: BTreeSet<&str> =
        templates.iter().map(|template| template.manifest.spec.kernel.as_str()).collect();
    wanted.insert(current);
    let folder = store.kernels_dir();
    for entry in fs::read_dir(&folder).on("list", &folder)? {
        let entry = entry.on("list", &folder)?;
        if !entry.file_name().to_str().is_some_and(|name| wanted.contains(name)) {
            store.session().discard(&entry.path())?;
        }
    }
    Ok(())
}

fn guest_hash(GuestBinaries { init, agent }: GuestBinaries<'_>) -> String {
    let mut hasher = blake3::Hasher::new();
    for binary in [init, agent] {
        hasher.update(&(binary.len() as u64).to_le_bytes()).update(binary);
    }
    short(&hasher)
}

/// 128 bits are plenty for telling builds apart, and make a shorter folder name.
fn short(hasher: &blake3::Hasher) -> String {
    hasher.finalize().to_hex()[..32].to_owned()
}
