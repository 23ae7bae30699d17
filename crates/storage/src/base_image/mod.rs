//! The image `base`: a small Debian with what agents' commands expect, made from packages by mmdebstrap.
//!
//! `recipe` says what is in it. Here the recipe is carried out: packages into a folder, our files over them, the folder into an
//! ext4 image by `mke2fs -d`, which needs no mount. All of it happens in the store's session, and the whole installation in
//! namespaces of its own, so that nothing of it, process, mount or file, outlives this process.

mod recipe;

pub(crate) use recipe::{ConfigFile, FILES};

use std::fs::{self, Permissions};
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use sandbar_types::TemplateName;

use crate::Progress;
use crate::debian::{DebianSource, DebianSourceError};
use crate::files::{self, FileError, OnFile};
use crate::filesystem;
use crate::image::Image;
use crate::store::{Store, StoreError};
use crate::tool::{Tool, ToolError};

/// What building takes for a while: the tree, the image, and packages.
const BUILD_SPACE: u64 = 2 << 30;

/// What may differ between base images.
#[derive(Debug, Clone)]
pub struct BaseImageOptions {
    /// Bytes of its filesystem, a multiple of 4 KiB. Sparse: what is not used takes no room.
    pub size: u64,
    /// Where its packages come from.
    pub source: DebianSource,
}

impl BaseImageOptions {
    /// 4 GiB, from that source.
    #[must_use]
    pub const fn new(source: DebianSource) -> Self {
        Self { size: 4 << 30, source }
    }
}

/// Why there is no base image.
#[derive(Debug, thiserror::Error)]
pub enum BaseImageError {
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// A program failed.
    #[error(transparent)]
    Tool(#[from] ToolError),
    /// There is no source of packages.
    #[error(transparent)]
    Source(#[from] DebianSourceError),
}

impl From<FileError> for BaseImageError {
    fn from(error: FileError) -> Self {
        Self::Store(error.into())
    }
}

/// The image `base`: the one at hand if it was made by the same recipe, else a new one in its place.
pub fn build_base_image(
    store: &Store,
    options: &BaseImageOptions,
    progress: &dyn Progress,
) -> Result<Image, BaseImageError> {
    let name = TemplateName::base();
    let BaseImageOptions { size, source } = options;
    let recipe = recipe::hash(source, *size);
    if let Some(image) = store.image(&name)?.filter(|image| image.manifest.recipe == recipe) {
        return Ok(image);
    }
    store.require_space(BUILD_SPACE)?;
    let work = store.session().folder("base-image")?;
    progress.step(&format!("installing Debian {} for the base image", source.suite));
    let root = install(source, work.path())?;
    finish(&root, source)?;
    progress.step("making the base image's filesystem");
    let rootfs = work.path().join("rootfs.ext4");
    filesystem::make(&root, *size, &rootfs)?;
    Ok(store.publish_image(&name, &recipe, source.arch, &rootfs)?)
}

fn install(source: &DebianSource, work: &Path) -> Result<PathBuf, BaseImageError> {
    let root = work.join("root");
    let hook = work.join("customize");
    fs::write(&hook, recipe::CUSTOMIZE).on("write", &hook)?;
    fs::set_permissions(&hook, Permissions::from_mode(0o755)).on("change", &hook)?;
    Tool::contained("mmdebstrap", "mmdebstrap")
        .args(["--quiet", "--mode=root", "--variant=minbase", "--format=directory"])
        .arg(format!("--architectures={}", source.debian_arch()))
        .arg(format!("--include={}", recipe::PACKAGES.join(",")))
        .arg(format!("--dpkgopt={}", recipe::FORCE_UNSAFE_IO))
        .args(["--aptopt=Acquire::Languages \"none\"", "--aptopt=Acquire::Retries \"3\""])
        .args(proxies()?)
        .arg(format!("--customize-hook={}", hook.display()))
        .arg(&source.suite)
        .arg(&root)
        .args(source.lines())
        .env("TMPDIR", work)
        .run()?;
    Ok(root)
}

/// The machine's proxies for apt: mmdebstrap does not look at its configuration.
fn proxies() -> Result<Vec<String>, BaseImageError> {
    let dump = Tool::new("apt-config", "apt").args(["dump", "--no-empty"]).run()?;
    let dump = String::from_utf8_lossy(&dump);
    let proxies = dump.lines().filter(|line| {
        let name = line.split_whitespace().next().unwrap_or_default().to_ascii_lowercase();
        name.starts_with("acquire::http") && name.contains("::proxy")
    });
    Ok(proxies.map(|line| format!("--aptopt={}", line.trim_end_matches(';'))).collect())
}

/// Ours over what the packages brought. Nobody else writes to this tree, so no link in it leads astray.
fn finish(root: &Path, source: &DebianSource) -> Result<(), FileError> {
    for path in recipe::REMOVED {
        files::remove_all(&root.join(path))?;
    }
    for path in recipe::EMPTIED {
        delete_files(&root.join(path), &|_| false)?;
    }
    delete_files(&root.join(recipe::DOCUMENTATION), &|path| {
        path.ends_with("copyright") || path.is_symlink()
    })?;
    for ConfigFile { path, mode, content } in FILES {
        write_with_mode(&root.join(path), mode, content)?;
    }
    write_with_mode(&root.join("etc/apt/sources.list"), 0o644, &(source.public().lines().join("\n") + "\n"))?;
    write_with_mode(
        &root.join("etc/dpkg/dpkg.cfg.d/sandbar"),
        0o644,
        &(recipe::DPKG_OPTIONS.join("\n") + "\n"),
    )
}

fn write_with_mode(path: &Path, mode: u32, content: &str) -> Result<(), FileError> {
    fs::create_dir_all(files::parent(path)).on("create", files::parent(path))?;
    // Away with a link that a package may have put there.
    files::remove_all(path)?;
    fs::write(path, content).on("write", path)?;
    fs::set_permissions(path, Permissions::from_mode(mode)).on("change", path)
}

/// Deletes the files below `dir` that are not to be kept. The folders stay: apt and others count on theirs.
fn delete_files(dir: &Path, keep: &dyn Fn(&Path) -> bool) -> Result<(), FileError> {
    let entries = match fs::read_dir(dir) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(FileError::new("list", dir, error)),
    };
    for entry in entries {
        let entry = entry.on("list", dir)?;
        let path = entry.path();
        if entry.file_type().on("look at", &path)?.is_dir() {
            delete_files(&path, keep)?;
        } else if !keep(&path) {
            files::remove_all(&path)?;
        }
    }
    Ok(())
}
