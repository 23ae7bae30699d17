//! Templates on their way from one place to another: read in parts, received in parts.
//!
//! A part is [`PART`] bytes of one file, and of those only the blocks that are not all zero: what is sparse here is sparse there. Parts
//! may be received in any order, and twice; which ones are here is known, so that a transfer that broke goes on where it was. Until
//! [`Incoming::commit`] has held the files against their manifest nothing of them is a template, and with the process that receives
//! them they are gone.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::os::unix::fs::FileExt as _;
use std::sync::{Mutex, PoisonError};

use sandbar_types::Id;
use sandbar_types::id::Template as TemplateKey;

use crate::clone::for_each_data_range_from;
use crate::files::OnFile;
use crate::store::{Store, StoreError};
use crate::template::{FORMAT, Template, TemplateDraft, TemplateFile, TemplateManifest};

/// Bytes of a file that travel together: half of what a message may have, and enough that its way there and back does not count.
pub const PART: u64 = 2 << 20;
/// What is looked at for zeroes.
const BLOCK: usize = 4096;

/// Consecutive bytes of a part.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Piece {
    /// Bytes from the start of the part.
    pub offset: u32,
    /// The bytes.
    pub data: Vec<u8>,
}

impl Template {
    /// The parts of one of its files that hold anything, as its filesystem tells.
    pub fn parts(&self, file: TemplateFile) -> Result<Vec<u32>, StoreError> {
        let path = self.path(file);
        let open = File::open(&path).on("open", &path)?;
        let length = open.metadata().on("look at", &path)?.len();
        let mut parts = BTreeSet::new();
        for_each_data_range_from(&open, 0, length, |start, end| {
            parts.extend((start / PART..end.div_ceil(PART)).filter_map(|part| u32::try_from(part).ok()));
            Ok(())
        })
        .on("read", &path)?;
        Ok(parts.into_iter().collect())
    }

    /// One part of one of its files, in order. One that holds nothing has no pieces.
    pub fn read_part(&self, file: TemplateFile, index: u32) -> Result<Vec<Piece>, StoreError> {
        let path = self.path(file);
        let open = File::open(&path).on("open", &path)?;
        let length = open.metadata().on("look at", &path)?.len();
        let start = u64::from(index) * PART;
        let end = (start + PART).min(length);
        let mut pieces = Vec::new();
        for_each_data_range_from(&open, start, end, |from, to| {
            let mut bytes = vec![0; usize::try_from(to - from).unwrap_or_default()];
            open.read_exact_at(&mut bytes, from)?;
            split(u32::try_from(from - start).unwrap_or_default(), &bytes, &mut pieces);
            Ok(())
        })
        .on("read", &path)?;
        Ok(pieces)
    }
}

/// The runs of blocks of `bytes` that are not all zero.
fn split(offset: u32, bytes: &[u8], pieces: &mut Vec<Piece>) {
    let mut at = offset;
    let mut run: Option<Piece> = None;
    for block in bytes.chunks(BLOCK) {
        if block.iter().all(|&byte| byte == 0) {
            pieces.extend(run.take());
        } else {
            run.get_or_insert_with(|| Piece { offset: at, data: Vec::new() }).data.extend_from_slice(block);
        }
        at = at.saturating_add(u32::try_from(block.len()).unwrap_or(u32::MAX));
    }
    pieces.extend(run);
}

/// A template that is being received. Dropped, it leaves nothing.
#[derive(Debug)]
pub struct Incoming {
    draft: TemplateDraft,
    manifest: TemplateManifest,
    files: BTreeMap<TemplateFile, Receiving>,
}

#[derive(Debug)]
struct Receiving {
    file: File,
    size: u64,
    here: Mutex<BTreeSet<u32>>,
}

impl Store {
    /// Begins to receive a template of which `bytes` will be new.
    pub fn receive_template(&self, manifest: TemplateManifest, bytes: u64) -> Result<Incoming, StoreError> {
        check(&manifest)?;
        let draft = self.begin_template(manifest.id, bytes)?;
        let mut files = BTreeMap::new();
        for (&name, record) in &manifest.files {
            let path = draft.path(name);
            let file = File::create_new(&path).on("create", &path)?;
            file.set_len(record.size).on("grow", &path)?;
            files.insert(name, Receiving { file, size: record.size, here: Mutex::default() });
        }
        Ok(Incoming { draft, manifest, files })
    }
}

/// Refuses a manifest that describes no template.
fn check(manifest: &TemplateManifest) -> Result<(), StoreError> {
    let expected = TemplateFile::of(manifest.spec.kind);
    let reason = if manifest.format != FORMAT {
        "another version of Sandbar wrote its manifest"
    } else if !manifest.files.keys().eq(expected.iter()) {
        "its manifest does not list the files that there must be"
    } else {
        return Ok(());
    };
    Err(StoreError::DamagedTemplate { id: manifest.id, file: "manifest".into(), reason: reason.into() })
}

impl Incoming {
    /// Which template it will be.
    #[must_use]
    pub const fn id(&self) -> Id<TemplateKey> {
        self.manifest.id
    }

    /// What it is held against.
    #[must_use]
    pub const fn manifest(&self) -> &TemplateManifest {
        &self.manifest
    }

    /// The parts that are here.
    #[must_use]
    pub fn here(&self) -> BTreeMap<TemplateFile, Vec<u32>> {
        let here = |file: &Receiving| file.here.lock().unwrap_or_else(PoisonError::into_inner).clone();
        self.files.iter().map(|(&name, file)| (name, here(file).into_iter().collect())).collect()
    }

    /// Writes a part. The same one again is fine.
    pub fn write_part<'a>(
        &self,
        file: TemplateFile,
        index: u32,
        pieces: impl IntoIterator<Item = (u32, &'a [u8])>,
    ) -> Result<(), StoreError> {
        let outside = || StoreError::DamagedTemplate {
            id: self.id(),
            file: file.name().into(),
            reason: format!("part {index} reaches beyond its end"),
        };
        let receiving = self.files.get(&file).ok_or_else(outside)?;
        let start = u64::from(index) * PART;
        let end = (start + PART).min(receiving.size);
        let path = self.draft.path(file);
        for (offset, data) in pieces {
            let from = start + u64::from(offset);
            if from.saturating_add(data.len() as u64) > end {
                return Err(outside());
            }
            receiving.file.write_all_at(data, from).on("write", &path)?;
        }
        receiving.here.lock().unwrap_or_else(PoisonError::into_inner).insert(index);
        Ok(())
    }

    /// Publishes the template, if its files are what the manifest says. Otherwise nothing is left of it.
    pub fn commit(self) -> Result<Template, StoreError> {
        self.draft.commit_received(self.manifest)
    }
}
