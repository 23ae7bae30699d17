//! The files that a recipe copies, packed for the platform: of a folder what `COPY` names and `.dockerignore` lets through.
//!
//! An archive is the same as long as the files are, whoever packs it, so that what was brought once is not brought again.

mod ignore;

use std::fs::{self, File, Metadata};
use std::io::{self, BufWriter, Read, Seek as _, Write};
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail, ensure};
use flate2::Compression;
use flate2::write::GzEncoder;
use sandbar_types::recipe::{Pattern, Recipe, Step};
use sha2::{Digest as _, Sha256};
use tar::{Builder, EntryType, Header};

use ignore::Ignore;

/// What is not sent, in the folder that is.
const IGNORE_FILE: &str = ".dockerignore";

/// An archive, in a file that has no name.
#[derive(Debug)]
pub(super) struct Packed {
    /// At its beginning.
    pub(super) file: File,
    pub(super) sha256: String,
    pub(super) bytes: u64,
}

/// What a recipe copies from the client's folder; none = nothing.
pub(super) fn named(recipe: &Recipe) -> anyhow::Result<Vec<Pattern>> {
    let mut found = Vec::new();
    for step in &recipe.steps {
        let Step::Copy { files: None, sources, .. } = step else { continue };
        for source in sources {
            // What a variable may come to only the build knows.
            found.push(source.literal().unwrap_or_default().parse()?);
        }
    }
    Ok(found)
}

/// Packs what of a folder these name.
pub(super) fn pack(folder: &Path, sources: &[Pattern]) -> anyhow::Result<Packed> {
    let ignored = match fs::read_to_string(folder.join(IGNORE_FILE)) {
        Ok(text) => Ignore::read(&text),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ignore::default(),
        Err(error) => return Err(error).with_context(|| format!("cannot read {IGNORE_FILE}")),
    };
    let file = tempfile::tempfile().context("cannot make a temporary file")?;
    let packed = Hashed { inner: BufWriter::new(file), hash: Sha256::new(), bytes: 0 };
    // A third of the time, for an eighth more to send.
    let archive = Builder::new(GzEncoder::new(packed, Compression::fast()));
    let mut packer = Packer { folder, sources, ignored, archive, found: vec![false; sources.len()] };
    packer.below(&mut Vec::new())?;
    let mut all = sources.iter().zip(&packer.found);
    if let Some((source, _)) = all.find(|(source, found)| !**found && !source.is_whole()) {
        bail!("COPY {source}: there is no such file in {}, or {IGNORE_FILE} leaves it out", folder.display());
    }
    let Hashed { inner, hash, bytes } = packer.archive.into_inner()?.finish()?;
    let mut file = inner.into_inner().map_err(io::IntoInnerError::into_error)?;
    file.rewind()?;
    Ok(Packed { file, sha256: hex::encode(hash.finalize()), bytes })
}

struct Packer<'a> {
    folder: &'a Path,
    sources: &'a [Pattern],
    ignored: Ignore,
    archive: Builder<GzEncoder<Hashed>>,
    /// By source.
    found: Vec<bool>,
}

impl Packer<'_> {
    /// All that is in a folder, which is named by its path from the first one.
    fn below(&mut self, path: &mut Vec<Vec<u8>>) -> anyhow::Result<()> {
        let place = self.place(path);
        let failed = || format!("cannot read the folder {}", place.display());
        let mut names = Vec::new();
        for entry in fs::read_dir(&place).with_context(failed)? {
            names.push(entry.with_context(failed)?.file_name());
        }
        names.sort();
        for name in names {
            path.push(name.as_bytes().to_vec());
            self.one(path)?;
            path.pop();
        }
        Ok(())
    }

    fn one(&mut self, path: &mut Vec<Vec<u8>>) -> anyhow::Result<()> {
        let place = self.place(path);
        let failed = || format!("cannot read {}", place.display());
        let metadata = fs::symlink_metadata(&place).with_context(failed)?;
        let parts: Vec<&[u8]> = path.iter().map(Vec::as_slice).collect();
        let is_ignored = self.ignored.has(&parts);
        if !is_ignored {
            let mut is_named = false;
            for (source, found) in self.sources.iter().zip(&mut self.found) {
                if source.place(&parts, metadata.is_dir()).is_some() {
                    (is_named, *found) = (true, true);
                }
            }
            if is_named {
                self.add(&place, &metadata).with_context(failed)?;
            }
        }
        let goes_on = self.sources.iter().any(|source| source.may_be_below(&parts));
        if metadata.is_dir() && goes_on && (!is_ignored || self.ignored.has_exceptions()) {
            self.below(path)?;
        }
        Ok(())
    }

    fn add(&mut self, place: &Path, metadata: &Metadata) -> anyhow::Result<()> {
        let name = place.strip_prefix(self.folder)?;
        let mut header = Header::new_gnu();
        header.set_metadata(metadata);
        // Whose they are here means nothing there.
        header.set_uid(0);
        header.set_gid(0);
        if metadata.is_file() {
            let mut content = File::open(place)?.take(metadata.len());
            self.archive.append_data(&mut header, name, &mut content)?;
            ensure!(content.limit() == 0, "it has become shorter meanwhile");
        } else if metadata.is_dir() {
            header.set_size(0);
            self.archive.append_data(&mut header, name, io::empty())?;
        } else if metadata.is_symlink() {
            header.set_entry_type(EntryType::Symlink);
            header.set_size(0);
            self.archive.append_link(&mut header, name, fs::read_link(place)?)?;
        } else {
            eprintln!("-- {} is neither a file nor a folder nor a link: left out", place.display());
        }
        Ok(())
    }

    fn place(&self, path: &[Vec<u8>]) -> PathBuf {
        let below: PathBuf = path.iter().map(|name| std::ffi::OsStr::from_bytes(name)).collect();
        self.folder.join(below)
    }
}

/// Writes, and knows what was written.
struct Hashed {
    inner: BufWriter<File>,
    hash: Sha256,
    bytes: u64,
}

impl Write for Hashed {
    fn write(&mut self, buffer: &[u8]) -> io::Result<usize> {
        let written = self.inner.write(buffer)?;
        self.hash.update(buffer.get(..written).unwrap_or_default());
        self.bytes += written as u64;
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{PermissionsExt as _, symlink};

    use flate2::read::GzDecoder;

    use super::*;

    fn sources(names: &[&str]) -> Vec<Pattern> {
        names.iter().map(|name| name.parse().unwrap()).collect()
    }

    /// The names in an archive, those of links with their targets.
    fn list(packed: Packed) -> Vec<String> {
        let mut archive = tar::Archive::new(GzDecoder::new(packed.file));
        let entries = archive.entries().unwrap().map(|entry| {
            let entry = entry.unwrap();
            let name = entry.path().unwrap().display().to_string();
            match entry.link_name().unwrap() {
                Some(target) => format!("{name} -> {}", target.display()),
                None => format!("{name} {:o}", entry.header().mode().unwrap() & 0o777),
            }
        });
        entries.collect()
    }

    #[test]
    fn what_is_named_and_not_ignored_is_packed_the_same_each_time() {
        let folder = tempfile::tempdir().unwrap();
        let at = |path: &str| folder.path().join(path);
        fs::create_dir_all(at("src/deep")).unwrap();
        fs::create_dir(at("other")).unwrap();
        for file in ["src/a", "src/deep/b", "src/deep/c.log", "src/deep/kept.log", "other/d", "e.toml"] {
            fs::write(at(file), file).unwrap();
            fs::set_permissions(at(file), fs::Permissions::from_mode(0o640)).unwrap();
        }
        for folder in ["src", "src/deep"] {
            fs::set_permissions(at(folder), fs::Permissions::from_mode(0o750)).unwrap();
        }
        symlink("a", at("src/link")).unwrap();
        fs::write(at(IGNORE_FILE), "# logs\n**/*.log\n!src/deep/kept.log\n").unwrap();
        let pack = |names: &[&str]| pack(folder.path(), &sources(names)).unwrap();
        let expected = [
            "e.toml 640",
            "src 750",
            "src/a 640",
            "src/deep 750",
            "src/deep/b 640",
            "src/deep/kept.log 640",
            "src/link -> a",
        ];
        assert_eq!(list(pack(&["src", "*.toml"])), expected);
        assert_eq!(list(pack(&["src/deep/b"])), ["src/deep/b 640"]);
        assert_eq!(list(pack(&["."])).len(), 10);
        let (one, other) = (pack(&["src"]), pack(&["src"]));
        assert_eq!((&one.sha256, one.bytes), (&other.sha256, one.file.metadata().unwrap().len()));
        fs::write(at("src/a"), "changed").unwrap();
        assert_ne!(pack(&["src"]).sha256, one.sha256);
        for missing in ["nothing", "src/deep/c.log"] {
            super::pack(folder.path(), &sources(&[missing])).unwrap_err();
        }
    }

    #[test]
    fn what_a_recipe_names_is_known_unless_variables_say_it() {
        let recipe = |text: &str| named(&text.parse().unwrap()).unwrap();
        assert!(recipe("RUN true").is_empty());
        let other = format!("COPY --files={} a b", "0".repeat(64));
        assert!(recipe(&other).is_empty());
        assert_eq!(recipe("COPY a 'b c' d"), sources(&["a", "b c"]));
        assert_eq!(recipe("COPY $A/x y"), sources(&["."]));
        assert!(named(&"COPY ../a b".parse().unwrap()).is_err());
    }
}
