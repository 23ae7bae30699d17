//! From a reference to an image at hand.

use std::time::Duration;

use sandbar_types::Arch;

use super::{Failure, Registry};
use crate::cache::{Cache, Download};
use crate::digest::Digest;
use crate::error::ImageError;
use crate::image::{Image, Layer};
use crate::manifest::{Configuration, DOCUMENT_BYTES, Descriptor, Document, Manifest, choose};
use crate::section::Section;

/// How often a request is made before its failure is believed, and how long the first pause between two is.
const ATTEMPTS: u32 = 5;
const FIRST_PAUSE: Duration = Duration::from_millis(500);
/// How deep indexes may lie in one another.
const INDEX_DEPTH: u32 = 3;

/// What may be fetched.
#[derive(Debug, Clone, Copy)]
pub struct FetchLimits {
    /// Bytes of all layers, as the registry has them.
    pub bytes: u64,
}

/// How far fetching is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Fetched {
    /// Bytes that are at hand.
    pub done: u64,
    /// Bytes that there are.
    pub total: u64,
}

impl Registry {
    /// Fetches the image for this processor. Layers that are in the cache are not fetched again; those that are half there are gone on
    /// with. `progress` is told often, and may end it.
    pub async fn fetch(
        &self,
        cache: &Cache,
        arch: Arch,
        limits: FetchLimits,
        progress: &(dyn Fn(Fetched) -> Result<(), ImageError> + Send + Sync),
    ) -> Result<Image, ImageError> {
        let manifest = self.find(arch).await?;
        if manifest.config.size > DOCUMENT_BYTES {
            return Err(ImageError::TooLarge(format!(
                "its configuration has {} bytes",
                manifest.config.size
            )));
        }
        let total = manifest.layers.iter().fold(0, |sum: u64, layer| sum.saturating_add(layer.size));
        if total > limits.bytes {
            return Err(ImageError::TooLarge(format!(
                "its layers have {} MiB as they are in the registry, and {} MiB are possible",
                total >> 20,
                limits.bytes >> 20
            )));
        }
        let nowhere = |_: u64| Ok(());
        let config = cache.blob(self, manifest.config.digest, manifest.config.size, &nowhere).await?;
        let config = Section::whole(config).and_then(|section| section.read_all());
        let config = config.map_err(ImageError::io("read the image's configuration"))?;
        let Configuration { run, contents } = Configuration::read(&config, arch, manifest.layers.len())?;
        let (mut layers, mut done) = (Vec::new(), 0);
        for (layer, content) in manifest.layers.iter().zip(contents) {
            let told = |bytes: u64| progress(Fetched { done: done + bytes, total });
            told(0)?;
            let file = cache.blob(self, layer.digest, layer.size, &told).await?;
            let data = Section::whole(file).map_err(ImageError::io("read a layer"))?;
            layers.push(Layer { data, content });
            done += layer.size;
        }
        progress(Fetched { done, total })?;
        Ok(Image { config: run, layers })
    }

    /// The manifest for this processor, perhaps by way of an index.
    async fn find(&self, arch: Arch) -> Result<Manifest, ImageError> {
        let mut wanted = (self.reference.wanted(), self.reference.digest());
        for _ in 0..INDEX_DEPTH {
            let (name, digest) = &wanted;
            let text = self.persist(|| self.manifest(name, *digest)).await?;
            match Document::read(&text)? {
                Document::Manifest(manifest) => return Ok(manifest),
                Document::Index(manifests) => {
                    // The first, as everybody takes it: what else fits is a variant of the processor.
                    let digest = choose(&manifests, arch)?.first().map(|Descriptor { digest, .. }| *digest);
                    let digest = digest.ok_or_else(|| ImageError::broken("its index is empty"))?;
                    wanted = (digest.to_string(), Some(digest));
                }
            }
        }
        Err(ImageError::broken("its indexes lie in one another without end"))
    }

    /// Writes what is missing of a blob behind what is there of it; returns when all of it is.
    pub(crate) async fn continue_blob(
        &self,
        digest: Digest,
        sink: &mut Download<'_>,
    ) -> Result<(), ImageError> {
        // Each attempt goes on where the one before it ended: what counts is how many ended without any progress.
        let mut pause = FIRST_PAUSE;
        let mut fruitless = 0;
        loop {
            let before = sink.len();
            let failure = match self.receive(digest, sink).await {
                Ok(()) => return Ok(()),
                Err(Failure::Final(error)) => return Err(error),
                Err(Failure::Passing(error)) => error,
            };
            if sink.len() > before {
                (fruitless, pause) = (0, FIRST_PAUSE);
            }
            fruitless += 1;
            if fruitless >= ATTEMPTS {
                return Err(failure);
            }
            tracing::debug!(%digest, have = sink.len(), error = %failure, "a download broke off and goes on");
            tokio::time::sleep(pause).await;
            pause *= 2;
        }
    }

    async fn receive(&self, digest: Digest, sink: &mut Download<'_>) -> Result<(), Failure> {
        use futures::StreamExt as _;
        let response = self.blob(digest, sink.len()).await?;
        if response.status() != reqwest::StatusCode::PARTIAL_CONTENT && sink.len() > 0 {
            sink.restart().await.map_err(Failure::Final)?;
        }
        let mut chunks = response.bytes_stream();
        while let Some(chunk) = chunks.next().await {
            sink.write(&chunk.map_err(|error| self.broke(&error))?).await.map_err(Failure::Final)?;
        }
        if sink.is_short() {
            Err(Failure::Passing(self.failed("it broke off in the middle of a layer")))
        } else {
            Ok(())
        }
    }

    /// Does what may be done again until it succeeds, or fails for good.
    async fn persist<T, F: Future<Output = Result<T, Failure>>>(
        &self,
        ask: impl Fn() -> F,
    ) -> Result<T, ImageError> {
        let mut pause = FIRST_PAUSE;
        for _ in 1..ATTEMPTS {
            match ask().await {
                Ok(answer) => return Ok(answer),
                Err(Failure::Final(error)) => return Err(error),
                Err(Failure::Passing(error)) => {
                    tracing::debug!(%error, "a registry is asked again");
                    tokio::time::sleep(pause).await;
                    pause *= 2;
                }
            }
        }
        ask().await.map_err(|(Failure::Final(error) | Failure::Passing(error))| error)
    }

    /// What tells apart those who may read different things: the repository, and who asks. `salt` keeps it from telling a password to
    /// those who can guess one.
    pub(crate) fn scope(&self, salt: &str) -> String {
        use secrecy::ExposeSecret as _;
        let mut parts = vec![self.reference.registry(), self.reference.repository()];
        if let Some(credentials) = &self.credentials {
            parts.extend([salt, credentials.username.as_str(), credentials.password.expose_secret()]);
        }
        // No part can be mistaken for another's end.
        let text: String = parts.iter().map(|part| format!("{}:{part}", part.len())).collect();
        Digest::of(text.as_bytes()).digits()[..32].to_owned()
    }
}
