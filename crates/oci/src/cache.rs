//! Blobs that were fetched, kept for the next who wants them.
//!
//! ```text
//! <dir>/<scope>-<digest>         a blob, complete and verified
//! <dir>/<scope>-<digest>.part    one that is being fetched, or was when the process ended: the next fetch goes on with it
//! ```
//!
//! The scope is the repository and who asks for it. That a blob is here thus never lets anybody have it whom its registry would not let:
//! a registry of one's own may name any digest.
//!
//! The folder is bounded: what was used longest ago goes to make room. Whoever has a blob open keeps it.

use std::collections::HashMap;
use std::fs::{self, File};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::SystemTime;

use tokio::io::{AsyncReadExt as _, AsyncSeekExt as _, AsyncWriteExt as _};

use crate::digest::{Digest, Hasher};
use crate::error::ImageError;
use crate::registry::Registry;

const PART: &str = "part";

/// Is told how many bytes are here, and may end it.
pub(crate) type Progress<'a> = dyn Fn(u64) -> Result<(), ImageError> + Send + Sync + 'a;

/// A folder of blobs.
#[derive(Debug)]
pub struct Cache {
    dir: PathBuf,
    bound: u64,
    /// Of this process: what was fetched with a password is not found again by the next one.
    salt: String,
    /// Blobs that are being fetched: who wants the same waits, and then has it.
    under_way: Mutex<HashMap<String, Weak<tokio::sync::Mutex<()>>>>,
}

impl Cache {
    /// The folder, made if there is none, of no more than `bound` bytes. One process uses it at a time.
    pub fn open(dir: &Path, bound: u64) -> Result<Self, ImageError> {
        let failed = ImageError::io("make the folder for layers");
        fs::DirBuilder::new().recursive(true).mode(0o700).create(dir).map_err(failed)?;
        let mut salt = [0; 16];
        getrandom::fill(&mut salt)
            .map_err(|error| ImageError::io("read random bytes")(std::io::Error::other(error)))?;
        Ok(Self { dir: dir.to_owned(), bound, salt: hex::encode(salt), under_way: Mutex::default() })
    }

    /// A blob of that many bytes, open: from here, or else fetched. `progress` is told of the bytes that are here.
    pub(crate) async fn blob(
        &self,
        registry: &Registry,
        digest: Digest,
        size: u64,
        progress: &Progress<'_>,
    ) -> Result<File, ImageError> {
        let name = format!("{}-{}", registry.scope(&self.salt), digest.digits());
        let turn = self.turn(&name);
        let _turn = turn.lock().await;
        let path = self.dir.join(&name);
        if let Some(file) = open_used(&path, size)? {
            progress(size)?;
            return Ok(file);
        }
        self.make_room(size)?;
        let mut download = Download::open(&path.with_extension(PART), size, progress).await?;
        if download.is_short() {
            registry.continue_blob(digest, &mut download).await?;
        }
        download.finish(digest, &path).await
    }

    fn turn(&self, name: &str) -> Arc<tokio::sync::Mutex<()>> {
        let mut under_way = self.under_way.lock().unwrap_or_else(PoisonError::into_inner);
        under_way.retain(|_, turn| turn.strong_count() > 0);
        if let Some(turn) = under_way.get(name).and_then(Weak::upgrade) {
            return turn;
        }
        let turn = Arc::new(tokio::sync::Mutex::new(()));
        under_way.insert(name.to_owned(), Arc::downgrade(&turn));
        turn
    }

    /// Removes what was used longest ago until so much more fits, or nothing is left that could go.
    fn make_room(&self, wanted: u64) -> Result<(), ImageError> {
        let failed = |error| ImageError::io("look through the folder of layers")(error);
        let busy: Vec<String> = {
            let under_way = self.under_way.lock().unwrap_or_else(PoisonError::into_inner);
            under_way
                .iter()
                .filter(|(_, turn)| turn.strong_count() > 0)
                .map(|(name, _)| name.clone())
                .collect()
        };
        let mut blobs: Vec<(SystemTime, u64, PathBuf)> = Vec::new();
        for entry in fs::read_dir(&self.dir).map_err(failed)? {
            let path = entry.map_err(failed)?.path();
            // Gone meanwhile: another fetch was done, or made room too.
            let Ok(metadata) = path.symlink_metadata() else { continue };
            blobs.push((metadata.modified().map_err(failed)?, metadata.len(), path));
        }
        let mut total: u64 = blobs.iter().map(|(_, bytes, _)| bytes).sum();
        blobs.sort_unstable();
        for (_, bytes, path) in blobs {
            if total.saturating_add(wanted) <= self.bound {
                break;
            }
            let name = path.file_stem().and_then(|stem| stem.to_str()).unwrap_or_default();
            if !busy.iter().any(|busy| busy == name) {
                match fs::remove_file(&path) {
                    Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                        return Err(ImageError::io("remove a layer that nobody uses")(error));
                    }
                    // Another fetch, which makes room too, may have been faster.
                    _ => {}
                }
                total -= bytes;
            }
        }
        Ok(())
    }
}

/// A complete blob, marked as used now.
fn open_used(path: &Path, size: u64) -> Result<Option<File>, ImageError> {
    let file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(ImageError::io("open a layer")(error)),
    };
    let here = file.metadata().map_err(ImageError::io("look at a layer"))?.len();
    if here != size {
        return Err(ImageError::broken(format!("a layer is said to have {size} bytes, and has {here}")));
    }
    file.set_modified(SystemTime::now()).map_err(ImageError::io("mark a layer as used"))?;
    Ok(Some(file))
}

/// A blob on its way into the cache.
pub(crate) struct Download<'a> {
    file: tokio::fs::File,
    path: PathBuf,
    hasher: Hasher,
    len: u64,
    size: u64,
    progress: &'a Progress<'a>,
}

impl<'a> Download<'a> {
    async fn open(path: &Path, size: u64, progress: &'a Progress<'a>) -> Result<Self, ImageError> {
        let failed = |error| ImageError::io("open a layer")(error);
        let options = File::options()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(path)
            .map_err(failed)?;
        let mut file = tokio::fs::File::from_std(options);
        // What is there was written in order: it is a beginning, of which a power cut may have taken or spoilt the end. Then the digest
        // says so.
        let mut hasher = Hasher::default();
        let (mut buffer, mut len) = (vec![0; 1 << 20], 0);
        loop {
            let read = file.read(&mut buffer).await.map_err(failed)?;
            if read == 0 {
                break;
            }
            hasher.update(&buffer[..read]);
            len += read as u64;
        }
        let mut download = Self { file, path: path.to_owned(), hasher, len, size, progress };
        if len > size {
            download.restart().await?;
        }
        Ok(download)
    }

    /// Bytes that are here.
    pub(crate) const fn len(&self) -> u64 {
        self.len
    }

    /// Whether there must be more.
    pub(crate) const fn is_short(&self) -> bool {
        self.len < self.size
    }

    pub(crate) async fn write(&mut self, chunk: &[u8]) -> Result<(), ImageError> {
        self.len += chunk.len() as u64;
        if self.len > self.size {
            return Err(ImageError::broken(format!(
                "a layer is said to have {} bytes, and has more",
                self.size
            )));
        }
        self.hasher.update(chunk);
        self.file.write_all(chunk).await.map_err(ImageError::io("write a layer"))?;
        (self.progress)(self.len)
    }

    pub(crate) async fn restart(&mut self) -> Result<(), ImageError> {
        let failed = |error| ImageError::io("write a layer")(error);
        self.file.set_len(0).await.map_err(failed)?;
        self.file.rewind().await.map_err(failed)?;
        (self.len, self.hasher) = (0, Hasher::default());
        Ok(())
    }

    /// Holds it against its digest and gives it its name. One that is another goes.
    async fn finish(mut self, digest: Digest, to: &Path) -> Result<File, ImageError> {
        let failed = |error| ImageError::io("write a layer")(error);
        self.file.flush().await.map_err(failed)?;
        let found = self.hasher.finish();
        if found != digest {
            fs::remove_file(&self.path).map_err(failed)?;
            return Err(ImageError::broken(format!("the registry gave {found} in the place of {digest}")));
        }
        self.file.sync_data().await.map_err(failed)?;
        fs::rename(&self.path, to).map_err(failed)?;
        // Whoever opens it anew reads from its beginning.
        File::open(to).map_err(failed)
    }
}
