//! An image: its layers and what is said of them, in the forms in which images travel.

use std::io::Write as _;

use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

use super::layer::LayerBuilder;

const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
const INDEX: &str = "application/vnd.oci.image.index.v1+json";

/// An image of the layers given, each an uncompressed tar stream.
#[derive(Debug, Clone)]
pub struct TestImage {
    layers: Vec<Vec<u8>>,
    run: Value,
    arch: &'static str,
}

/// What is kept under its digest.
pub(super) struct Blob {
    pub(super) digest: String,
    pub(super) content: Vec<u8>,
}

impl TestImage {
    /// For amd64, or the processor that `arch` calls as Go does; `run` is the configuration's `config`.
    #[must_use]
    pub fn new(layers: Vec<Vec<u8>>, run: Value, arch: &'static str) -> Self {
        Self { layers, run, arch }
    }

    /// The image's configuration.
    fn configuration(&self) -> Vec<u8> {
        let contents: Vec<_> = self.layers.iter().map(|layer| digest(layer)).collect();
        let document = json!({
            "os": "linux", "architecture": self.arch, "config": self.run,
            "rootfs": {"type": "layers", "diff_ids": contents},
        });
        document.to_string().into_bytes()
    }

    /// Its manifest, and the blobs that it names: the configuration, and the layers compressed by gzip.
    pub(super) fn manifest(&self) -> (Blob, Vec<Blob>) {
        let mut blobs = vec![Blob::of(self.configuration())];
        blobs.extend(self.layers.iter().map(|layer| Blob::of(gzip(layer))));
        let layers: Vec<_> = blobs[1..]
            .iter()
            .map(|blob| blob.descriptor("application/vnd.oci.image.layer.v1.tar+gzip"))
            .collect();
        let manifest = json!({
            "schemaVersion": 2, "mediaType": MANIFEST, "layers": layers,
            "config": blobs[0].descriptor("application/vnd.oci.image.config.v1+json"),
        });
        (Blob::of(manifest.to_string().into_bytes()), blobs)
    }

    /// An archive of OCI's layout with this image and others, each named by its platform.
    #[must_use]
    pub fn layout(&self, others: &[Self]) -> Vec<u8> {
        let mut archive =
            LayerBuilder::default().file("oci-layout", 0o644, (0, 0), br#"{"imageLayoutVersion":"1.0.0"}"#);
        let mut manifests = Vec::new();
        for image in std::iter::once(self).chain(others) {
            let (manifest, blobs) = image.manifest();
            let mut descriptor = manifest.descriptor(MANIFEST);
            descriptor["platform"] = json!({"os": "linux", "architecture": image.arch});
            manifests.push(descriptor);
            for blob in blobs.iter().chain([&manifest]) {
                let name = format!("blobs/{}", blob.digest.replace(':', "/"));
                archive = archive.file(&name, 0o644, (0, 0), &blob.content);
            }
        }
        archive.file("index.json", 0o644, (0, 0), index(&manifests).as_bytes()).finish()
    }

    /// An archive as `docker save` wrote it for years: a folder for each layer.
    #[must_use]
    pub fn saved(&self) -> Vec<u8> {
        let mut archive = LayerBuilder::default();
        let mut names = Vec::new();
        for (number, layer) in self.layers.iter().enumerate() {
            names.push(format!("layer{number}/layer.tar"));
            archive = archive.folder(&format!("layer{number}/"), 0o755, (0, 0)).file(
                &names[number],
                0o644,
                (0, 0),
                layer,
            );
        }
        let list = json!([{"Config": "config.json", "RepoTags": ["test:latest"], "Layers": names}]);
        archive
            .file("config.json", 0o644, (0, 0), &self.configuration())
            .file("manifest.json", 0o644, (0, 0), list.to_string().as_bytes())
            .finish()
    }

    pub(super) const fn arch(&self) -> &'static str {
        self.arch
    }
}

/// An index of manifests.
pub(super) fn index(manifests: &[Value]) -> String {
    json!({"schemaVersion": 2, "mediaType": INDEX, "manifests": manifests}).to_string()
}

pub(super) const fn media_types() -> (&'static str, &'static str) {
    (MANIFEST, INDEX)
}

impl Blob {
    fn of(content: Vec<u8>) -> Self {
        Self { digest: digest(&content), content }
    }

    pub(super) fn descriptor(&self, media_type: &str) -> Value {
        json!({"mediaType": media_type, "digest": self.digest, "size": self.content.len()})
    }
}

fn digest(content: &[u8]) -> String {
    format!("sha256:{}", hex::encode(Sha256::digest(content)))
}

fn gzip(content: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(content).and_then(|()| encoder.finish()).expect("memory takes what is written")
}
