//! Templates on their way from a simulated host and to it.
//!
//! Each file of a template is a part of its `disk`, in the order of their paths; the manifest has the record, the paths and a sum.

use std::collections::BTreeMap;
use std::hash::{DefaultHasher, Hash as _, Hasher as _};

use connectrpc::ConnectError;
use sandbar_proto::host as rpc;

use super::Reason;
use super::faults::refusal;
use super::inventory::{Files, Inventory, Stored};

/// What there is of a template that is on its way.
pub(super) struct Arriving {
    manifest: Manifest,
    bytes: Vec<u8>,
    parts: BTreeMap<u32, Vec<u8>>,
}

#[derive(Clone, serde::Serialize, serde::Deserialize)]
struct Manifest {
    id: String,
    sizes: [u32; 3],
    size_bytes: u64,
    compatibility: String,
    paths: Vec<String>,
    sum: u64,
}

const FILE: &str = "disk";

fn sum<'a>(contents: impl Iterator<Item = &'a [u8]>) -> u64 {
    let mut hasher = DefaultHasher::new();
    contents.for_each(|content| content.hash(&mut hasher));
    hasher.finish()
}

fn in_order(files: &Files) -> BTreeMap<&String, &Vec<u8>> {
    files.iter().collect()
}

fn indices(count: usize) -> rpc::FileParts {
    let indices = (0..u32::try_from(count).unwrap_or(u32::MAX)).collect();
    rpc::FileParts { file: FILE.to_owned(), indices, ..Default::default() }
}

impl Inventory {
    fn stored(&self, id: &str) -> Result<&Stored, ConnectError> {
        self.templates.get(id).ok_or_else(|| refusal(Reason::REASON_TEMPLATE_NOT_FOUND))
    }

    pub(super) fn spoil_template(&mut self, id: &str) {
        if let Some(stored) = self.templates.get_mut(id) {
            stored.spoilt = true;
        }
    }

    pub(super) fn open_template(&self, id: &str) -> Result<rpc::OpenTemplateResponse, ConnectError> {
        let Stored { record, files, .. } = self.stored(id)?;
        let files = in_order(files);
        let manifest = Manifest {
            id: id.to_owned(),
            sizes: [record.vcpus, record.memory_mb, record.disk_mb],
            size_bytes: record.size_bytes,
            compatibility: record.compatibility.clone(),
            paths: files.keys().map(|path| (*path).clone()).collect(),
            sum: sum(files.values().map(|content| &content[..])),
        };
        Ok(rpc::OpenTemplateResponse {
            manifest: serde_json::to_vec(&manifest)
                .map_err(|error| ConnectError::internal(error.to_string()))?,
            size_bytes: record.size_bytes,
            parts: vec![indices(files.len())],
            ..Default::default()
        })
    }

    pub(super) fn read_part(
        &self,
        request: &rpc::ReadTemplatePartRequest,
    ) -> Result<rpc::ReadTemplatePartResponse, ConnectError> {
        let stored = self.stored(&request.id)?;
        let index = usize::try_from(request.index).unwrap_or(usize::MAX);
        let files = in_order(&stored.files);
        let content = files.values().nth(index).ok_or_else(|| refusal(Reason::REASON_BAD_INPUT))?;
        let mut data = (*content).clone();
        if stored.spoilt {
            data.push(0);
        }
        let piece = rpc::file_part::Piece { offset: 0, data, ..Default::default() };
        let part = rpc::FilePart { pieces: vec![piece], ..Default::default() };
        Ok(rpc::ReadTemplatePartResponse { part: part.into(), ..Default::default() })
    }

    pub(super) fn receive_template(
        &mut self,
        request: rpc::ReceiveTemplateRequest,
    ) -> Result<rpc::ReceiveTemplateResponse, ConnectError> {
        if let Some(stored) = self.templates.get(&request.id) {
            let complete = stored.record.clone().into();
            return Ok(rpc::ReceiveTemplateResponse { complete, ..Default::default() });
        }
        let manifest: Manifest = serde_json::from_slice(&request.manifest)
            .map_err(|error| ConnectError::invalid_argument(error.to_string()))?;
        let bytes = request.manifest;
        let arriving = self.arriving.entry(request.id).or_insert_with(|| Arriving {
            manifest: manifest.clone(),
            bytes: bytes.clone(),
            parts: BTreeMap::new(),
        });
        if arriving.bytes != bytes {
            *arriving = Arriving { manifest, bytes, parts: BTreeMap::new() };
        }
        let indices = arriving.parts.keys().copied().collect();
        let parts = vec![rpc::FileParts { file: FILE.to_owned(), indices, ..Default::default() }];
        Ok(rpc::ReceiveTemplateResponse { parts, ..Default::default() })
    }

    pub(super) fn write_part(
        &mut self,
        request: rpc::WriteTemplatePartRequest,
    ) -> Result<rpc::WriteTemplatePartResponse, ConnectError> {
        let arriving = self.arriving.get_mut(&request.id);
        let arriving = arriving.ok_or_else(|| refusal(Reason::REASON_TEMPLATE_NOT_FOUND))?;
        let pieces = request.part.into_option().map(|part| part.pieces).unwrap_or_default();
        let content = pieces.into_iter().flat_map(|piece| piece.data).collect();
        arriving.parts.insert(request.index, content);
        Ok(rpc::WriteTemplatePartResponse::default())
    }

    pub(super) fn commit_template(&mut self, id: &str) -> Result<rpc::CommitTemplateResponse, ConnectError> {
        if let Some(arriving) = self.arriving.remove(id) {
            let Arriving { manifest, parts, .. } = arriving;
            if sum(parts.values().map(|content| &content[..])) != manifest.sum {
                return Err(refusal(Reason::REASON_SNAPSHOT_DAMAGED));
            }
            let Manifest { id, sizes: [vcpus, memory_mb, disk_mb], size_bytes, compatibility, paths, .. } =
                manifest;
            let record = rpc::Template {
                id: id.clone(),
                vcpus,
                memory_mb,
                disk_mb,
                size_bytes,
                arch: "x86_64".to_owned(),
                vmm: "qemu".to_owned(),
                compatibility,
                kind: rpc::TemplateKind::TEMPLATE_KIND_SNAPSHOT.into(),
                ..Default::default()
            };
            let files = paths.into_iter().zip(parts.into_values()).collect();
            self.templates.insert(id, Stored { record, files, spoilt: false });
        }
        let record = self.stored(id)?.record.clone();
        Ok(rpc::CommitTemplateResponse { template: record.into(), ..Default::default() })
    }
}
