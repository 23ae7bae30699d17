//! Images in an archive: OCI's layout or what `docker save` writes, as tar, perhaps compressed as a whole.

use std::collections::{HashMap, HashSet};
use std::fs::File;
use std::io::{Read as _, Seek as _, Write as _};
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;

use sandbar_types::Arch;
use serde::Deserialize;
use tar::Archive;

use crate::compression;
use crate::digest::Digest;
use crate::error::ImageError;
use crate::image::{Image, Layer, Watch};
use crate::manifest::{Configuration, DOCUMENT_BYTES, Descriptor, Document, Manifest, choose, json};
use crate::section::Section;
use crate::tar_stream::{self, What, components, unreadable};

/// The most files that an archive of an image may have: a handful for each layer.
const ENTRIES: usize = 20_000;
/// The most manifests that are looked at in search of the one.
const MANIFESTS: usize = 64;
/// How many links from name to name are followed.
const LINKS: u32 = 8;
const STEP: u64 = 4 << 20;

/// The image in an archive, for this processor.
///
/// The layers stay where they are. One that is compressed as a whole is decompressed into a file without a name in `scratch`, of no
/// more than `limit` bytes.
pub fn open_archive(
    archive: &Path,
    scratch: &Path,
    limit: u64,
    arch: Arch,
    watch: &dyn Watch,
) -> Result<Image, ImageError> {
    let mut file = File::open(archive).map_err(ImageError::io("open the archive"))?;
    let mut beginning = Vec::new();
    (&file).take(4).read_to_end(&mut beginning).map_err(ImageError::io("read the archive"))?;
    file.rewind().map_err(ImageError::io("read the archive"))?;
    if compression::is_compressed(&beginning) {
        file = decompress(file, scratch, limit, watch)?;
    }
    let contents = Contents::list(Section::whole(file).map_err(ImageError::io("read the archive"))?)?;
    match contents.document("index.json")? {
        Some(index) => contents.of_layout(&index, arch),
        None => match contents.document("manifest.json")? {
            Some(list) => contents.of_docker(&list, arch),
            None => Err(ImageError::broken(
                "the archive has neither index.json (OCI's layout) nor manifest.json (docker save)",
            )),
        },
    }
}

fn decompress(file: File, scratch: &Path, limit: u64, watch: &dyn Watch) -> Result<File, ImageError> {
    use std::os::unix::fs::OpenOptionsExt as _;
    let failed = ImageError::io("decompress the archive");
    let flags = rustix::fs::OFlags::TMPFILE.bits().cast_signed();
    let open = File::options().read(true).write(true).mode(0o600).custom_flags(flags).open(scratch);
    let mut plain = open.map_err(failed)?;
    let mut content = compression::content(file).map_err(unreadable)?;
    let mut buffer = vec![0; 1 << 20];
    let (mut written, mut told) = (0, 0);
    loop {
        let read = content.read(&mut buffer).map_err(unreadable)?;
        if read == 0 {
            return Ok(plain);
        }
        written += read as u64;
        if written > limit {
            return Err(ImageError::TooLarge(format!(
                "the archive has more than {} MiB when it is decompressed",
                limit >> 20
            )));
        }
        plain.write_all(&buffer[..read]).map_err(ImageError::io("decompress the archive"))?;
        if written - told >= STEP {
            told = written;
            watch.step(written)?;
        }
    }
}

/// Where in an archive its files are.
struct Contents {
    archive: Section,
    files: HashMap<String, Place>,
}

enum Place {
    At {
        offset: u64,
        len: u64,
    },
    /// Another name of the archive.
    Link(String),
}

impl Contents {
    fn list(archive: Section) -> Result<Self, ImageError> {
        let mut files = HashMap::new();
        let mut stream = Archive::new(archive.reader());
        let mut seen = 0;
        tar_stream::entries(&mut stream, |entry, _| {
            seen += 1;
            if seen > ENTRIES {
                return Err(ImageError::TooLarge(format!("the archive has more than {ENTRIES} files")));
            }
            let place = match &entry.what {
                What::File { size } => Place::At { offset: entry.position, len: *size },
                What::Symlink { target } => match relative(&entry.path, target) {
                    Some(target) => Place::Link(target),
                    None => return Ok(()),
                },
                What::HardLink { target } => Place::Link(name(target)?),
                What::Folder | What::Character { .. } | What::Block { .. } | What::Fifo => return Ok(()),
            };
            files.insert(name(&entry.path)?, place);
            Ok(())
        })?;
        Ok(Self { archive, files })
    }

    fn find(&self, name: &str) -> Option<Section> {
        let mut name = name;
        for _ in 0..LINKS {
            match self.files.get(name)? {
                Place::At { offset, len } => return Some(self.archive.part(*offset, *len)),
                Place::Link(target) => name = target,
            }
        }
        None
    }

    fn document(&self, name: &str) -> Result<Option<Vec<u8>>, ImageError> {
        let Some(section) = self.find(name) else { return Ok(None) };
        if section.len() > DOCUMENT_BYTES {
            return Err(ImageError::TooLarge(format!("{name} has {} bytes", section.len())));
        }
        section.read_all().map(Some).map_err(ImageError::io("read the archive"))
    }

    /// A document that is named by its digest.
    fn blob(&self, descriptor: &Descriptor) -> Result<Vec<u8>, ImageError> {
        let Descriptor { digest, .. } = descriptor;
        let missing = || ImageError::broken(format!("the archive has no blob {digest}"));
        let content = self.document(&blob_name(descriptor))?.ok_or_else(missing)?;
        if Digest::of(&content) != *digest {
            return Err(ImageError::broken(format!("the blob {digest} is another one")));
        }
        Ok(content)
    }

    fn of_layout(&self, index: &[u8], arch: Arch) -> Result<Image, ImageError> {
        let Document::Index(manifests) = Document::read(index)? else {
            return Err(ImageError::broken("index.json is no index"));
        };
        let found = self.manifests(&manifests, arch)?;
        let mut images = Vec::new();
        let mut refused = None;
        for manifest in found {
            let text = self.blob(&manifest.config)?;
            match Configuration::read(&text, arch, manifest.layers.len()) {
                Ok(configuration) => images.push((manifest, configuration)),
                // One whose platform stood nowhere else.
                Err(error @ ImageError::NoPlatform { .. }) => refused = Some(error),
                Err(error) => return Err(error),
            }
        }
        let (manifest, configuration) = only(images, refused)?;
        let layers = manifest.layers.iter().map(|layer| {
            self.find(&blob_name(layer))
                .ok_or_else(|| ImageError::broken(format!("the archive has no blob {}", layer.digest)))
        });
        Ok(assemble(configuration, layers.collect::<Result<_, _>>()?))
    }

    /// The manifests for a processor that an index leads to, each once.
    fn manifests(&self, index: &[Descriptor], arch: Arch) -> Result<Vec<Manifest>, ImageError> {
        let mut found = Vec::new();
        let mut seen = HashSet::new();
        let mut left: Vec<Descriptor> = choose(index, arch)?.into_iter().cloned().collect();
        while let Some(descriptor) = left.pop() {
            if !seen.insert(descriptor.digest) {
                continue;
            }
            if seen.len() > MANIFESTS {
                return Err(ImageError::TooLarge(format!("the archive has more than {MANIFESTS} manifests")));
            }
            match Document::read(&self.blob(&descriptor)?)? {
                Document::Index(inner) => left.extend(choose(&inner, arch)?.into_iter().cloned()),
                Document::Manifest(manifest) => found.push(manifest),
            }
        }
        Ok(found)
    }

    fn of_docker(&self, list: &[u8], arch: Arch) -> Result<Image, ImageError> {
        #[derive(Deserialize)]
        #[serde(rename_all = "PascalCase")]
        struct Saved {
            config: String,
            layers: Vec<String>,
        }
        let saved: Vec<Saved> = json("manifest.json", list)?;
        let Saved { config, layers } = only(saved, None)?;
        let missing = |name: &str| ImageError::broken(format!("the archive has no file {name:?}"));
        let text = self.document(&config)?.ok_or_else(|| missing(&config))?;
        let configuration = Configuration::read(&text, arch, layers.len())?;
        let layers = layers.iter().map(|layer| self.find(layer).ok_or_else(|| missing(layer)));
        Ok(assemble(configuration, layers.collect::<Result<_, _>>()?))
    }
}

/// The one of a list that should have one. Where it has none, why that is.
fn only<T>(mut list: Vec<T>, none: Option<ImageError>) -> Result<T, ImageError> {
    match (list.pop(), list.len()) {
        (Some(one), 0) => Ok(one),
        (Some(_), more) => {
            Err(ImageError::broken(format!("the archive has {} images, and one is wanted", more + 1)))
        }
        (None, _) => Err(none.unwrap_or_else(|| ImageError::broken("the archive has no image"))),
    }
}

/// The configuration names as many contents as there are layers.
fn assemble(configuration: Configuration, layers: Vec<Section>) -> Image {
    let Configuration { run, contents } = configuration;
    let layers = layers.into_iter().zip(contents).map(|(data, content)| Layer { data, content }).collect();
    Image { config: run, layers }
}

fn blob_name(descriptor: &Descriptor) -> String {
    format!("blobs/sha256/{}", descriptor.digest.digits())
}

/// The one way to write a path of an archive.
fn name(path: &[u8]) -> Result<String, ImageError> {
    let components = components(path)?;
    let parts: Vec<_> = components.iter().map(|part| String::from_utf8_lossy(part.as_bytes())).collect();
    Ok(parts.join("/"))
}

/// Where a link leads, beside what it stands; nowhere if it leads out of the archive. (Old versions of `docker save` write a layer that
/// two images share once, and links to it.)
fn relative(link: &[u8], target: &[u8]) -> Option<String> {
    let link = name(link).ok()?;
    let mut parts: Vec<&str> = link.split('/').collect();
    parts.pop();
    let target = std::str::from_utf8(target).ok()?;
    for part in target.split('/') {
        match part {
            "" | "." => {}
            ".." => drop(parts.pop()?),
            part => parts.push(part),
        }
    }
    Some(parts.join("/"))
}
