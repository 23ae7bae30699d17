//! Copies of templates in object storage: any that speaks S3.
//!
//! ```text
//!   <prefix>/templates/<id>/<file>/<index>     one part, as the contract with the hosts writes it
//!   <prefix>/builds/<id>/<index>               a part of files for builds, as it came
//!   <prefix>/templates/<id>/template           what `OpenTemplate` said of it; written last: without it there is no copy
//! ```
//!
//! An object appears whole or not at all, so a copy that was cut off goes on with the parts that it lacks, and a fetch asks for those that the host lacks.

use std::collections::{BTreeMap, BTreeSet};
use std::str::FromStr as _;
use std::sync::Arc;
use std::time::Duration;

use buffa::Message as _;
use bytes::Bytes;
use futures::stream::BoxStream;
use futures::{StreamExt as _, TryStreamExt as _};
use object_store::aws::{AmazonS3, AmazonS3Builder, AmazonS3ConfigKey};
use object_store::path::Path;
use object_store::{ClientOptions, GetOptions, ObjectStore as _, PutOptions, RetryConfig};
use sandbar_proto::host::{FilePart, OpenTemplateResponse};
use sandbar_types::Id;
use sandbar_types::id::Template;
use uuid::Uuid;

/// How long one request may take, and how long it is tried again. Together less than what a copier's claim outlives it by.
const REQUEST_LIMIT: Duration = Duration::from_secs(20);
/// Tries of one request.
const RETRIES: usize = 2;
/// The name of the last object of a copy.
const LAST: &str = "template";

/// Where copies of snapshots are kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SnapshotStore {
    bucket: String,
    prefix: String,
    /// By their names without `aws_`, beside those of the environment.
    options: BTreeMap<String, String>,
}

/// A place that cannot be one.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("expected s3://BUCKET or s3://BUCKET/PREFIX")]
pub struct InvalidSnapshotStore;

impl std::str::FromStr for SnapshotStore {
    type Err = InvalidSnapshotStore;

    fn from_str(text: &str) -> Result<Self, InvalidSnapshotStore> {
        let rest = text.strip_prefix("s3://").ok_or(InvalidSnapshotStore)?;
        let (bucket, prefix) = rest.split_once('/').unwrap_or((rest, ""));
        let prefix = prefix.trim_matches('/');
        let is_odd = |c: char| c.is_whitespace() || c.is_control() || matches!(c, '?' | '#');
        if bucket.is_empty() || rest.contains(is_odd) || prefix.split('/').any(|part| part == "..") {
            return Err(InvalidSnapshotStore);
        }
        Ok(Self { bucket: bucket.to_owned(), prefix: prefix.to_owned(), options: BTreeMap::new() })
    }
}

impl SnapshotStore {
    /// With an option that the environment's variable `AWS_<NAME>` would set.
    #[must_use]
    pub fn with(mut self, name: &str, value: &str) -> Self {
        self.options.insert(name.to_owned(), value.to_owned());
        self
    }
}

/// Why object storage cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum BucketError {
    /// It cannot be reached, or refused.
    #[error("object storage failed")]
    Storage(#[from] object_store::Error),
    /// An object is not what was put there.
    #[error("an object in object storage is damaged")]
    Damaged(#[source] buffa::DecodeError),
}

/// The copies.
#[derive(Debug, Clone)]
pub(crate) struct Bucket {
    storage: Arc<AmazonS3>,
    prefix: Path,
}

impl Bucket {
    /// Reads address, region and credentials from the environment. Nothing is asked yet.
    pub(crate) fn open(place: &SnapshotStore) -> Result<Self, BucketError> {
        let SnapshotStore { bucket, prefix, options } = place;
        let retry =
            RetryConfig { max_retries: RETRIES, retry_timeout: REQUEST_LIMIT, ..RetryConfig::default() };
        let client = ClientOptions::new().with_timeout(REQUEST_LIMIT);
        let mut builder = AmazonS3Builder::from_env()
            .with_client_options(client)
            .with_retry(retry)
            .with_bucket_name(bucket.as_str());
        if let Some(allowed) = std::env::var_os("AWS_ALLOW_HTTP") {
            builder = builder.with_allow_http(allowed == "true");
        }
        for (name, value) in options {
            builder = match AmazonS3ConfigKey::from_str(&format!("aws_{name}")) {
                Ok(key) => builder.with_config(key, value.as_str()),
                Err(_) => builder.with_allow_http(name == "allow_http" && value == "true"),
            };
        }
        Ok(Self { storage: Arc::new(builder.build()?), prefix: Path::from(prefix.as_str()) })
    }

    /// What a template consists of; none where there is no complete copy.
    pub(crate) async fn open_template(
        &self,
        id: Id<Template>,
    ) -> Result<Option<OpenTemplateResponse>, BucketError> {
        match self.get(&self.last(id)).await {
            Ok(bytes) => {
                Ok(Some(OpenTemplateResponse::decode_from_slice(&bytes).map_err(BucketError::Damaged)?))
            }
            Err(object_store::Error::NotFound { .. }) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// One part.
    pub(crate) async fn read_part(
        &self,
        id: Id<Template>,
        file: &str,
        index: u32,
    ) -> Result<FilePart, BucketError> {
        let bytes = self.get(&self.part(id, file, index)).await?;
        FilePart::decode_from_slice(&bytes).map_err(BucketError::Damaged)
    }

    /// Puts one part there.
    pub(crate) async fn write_part(
        &self,
        id: Id<Template>,
        file: &str,
        index: u32,
        part: &FilePart,
    ) -> Result<(), BucketError> {
        self.put(&self.part(id, file, index), part.encode_to_vec()).await
    }

    /// Says that all parts are there.
    pub(crate) async fn complete(
        &self,
        id: Id<Template>,
        template: &OpenTemplateResponse,
    ) -> Result<(), BucketError> {
        self.put(&self.last(id), template.encode_to_vec()).await
    }

    /// The parts that are there, of a copy that may not be complete.
    pub(crate) async fn parts(&self, id: Id<Template>) -> Result<BTreeSet<(String, u32)>, BucketError> {
        let folder = self.folder(id);
        let objects: Vec<_> = self.storage.list(Some(&folder)).try_collect().await?;
        let part = |location: &Path| {
            let mut names = location.prefix_match(&folder)?;
            let (file, index) = (names.next()?, names.next()?);
            Some((file.as_ref().to_owned(), u32::from_str_radix(index.as_ref(), 16).ok()?))
        };
        Ok(objects.iter().filter_map(|object| part(&object.location)).collect())
    }

    /// Puts a part of a build's files there.
    pub(crate) async fn write_files(
        &self,
        archive: Uuid,
        index: u32,
        part: Bytes,
    ) -> Result<(), BucketError> {
        let path = self.files(archive).join(format!("{index:08x}"));
        self.storage.put_opts(&path, part.into(), PutOptions::default()).await?;
        Ok(())
    }

    /// A part of a build's files; none where it is not there.
    pub(crate) async fn read_files(&self, archive: Uuid, index: u32) -> Result<Option<Bytes>, BucketError> {
        match self.get(&self.files(archive).join(format!("{index:08x}"))).await {
            Ok(part) => Ok(Some(part)),
            Err(object_store::Error::NotFound { .. }) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// Deletes all parts of a build's files; none is fine.
    pub(crate) async fn delete_files(&self, archive: Uuid) -> Result<(), BucketError> {
        let parts = self.storage.list(Some(&self.files(archive))).map_ok(|object| object.location);
        self.delete_all(parts.boxed()).await
    }

    /// Deletes all that there is of a template; nothing is fine.
    pub(crate) async fn delete(&self, id: Id<Template>) -> Result<(), BucketError> {
        // First the one without which the others are no copy.
        let last = self.last(id);
        let rest = self.storage.list(Some(&self.folder(id))).map_ok(|object| object.location);
        self.delete_all(futures::stream::iter([Ok(last)]).chain(rest).boxed()).await
    }

    async fn delete_all(
        &self,
        all: BoxStream<'static, Result<Path, object_store::Error>>,
    ) -> Result<(), BucketError> {
        self.storage.delete_stream(all).try_for_each(|_| std::future::ready(Ok(()))).await.or_else(|error| {
            match error {
                object_store::Error::NotFound { .. } => Ok(()),
                error => Err(error.into()),
            }
        })
    }

    async fn get(&self, path: &Path) -> Result<Bytes, object_store::Error> {
        self.storage.get_opts(path, GetOptions::default()).await?.bytes().await
    }

    async fn put(&self, path: &Path, bytes: Vec<u8>) -> Result<(), BucketError> {
        self.storage.put_opts(path, bytes.into(), PutOptions::default()).await?;
        Ok(())
    }

    fn files(&self, archive: Uuid) -> Path {
        self.prefix.clone().join("builds").join(archive.to_string())
    }

    fn folder(&self, id: Id<Template>) -> Path {
        self.prefix.clone().join("templates").join(id.to_string())
    }

    fn last(&self, id: Id<Template>) -> Path {
        self.folder(id).join(LAST)
    }

    fn part(&self, id: Id<Template>, file: &str, index: u32) -> Path {
        self.folder(id).join(file).join(format!("{index:08x}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_is_a_bucket_and_perhaps_a_prefix() {
        let place = |text: &str| text.parse::<SnapshotStore>().map(|place| (place.bucket, place.prefix));
        let is = |bucket: &str, prefix: &str| Ok((bucket.to_owned(), prefix.to_owned()));
        assert_eq!(place("s3://sandbar"), is("sandbar", ""));
        assert_eq!(place("s3://sandbar/"), is("sandbar", ""));
        assert_eq!(place("s3://sandbar/a/b/"), is("sandbar", "a/b"));
        for wrong in
            ["", "sandbar", "http://sandbar", "s3://", "s3:///a", "s3://a b", "s3://a/../b", "s3://a?b"]
        {
            assert_eq!(place(wrong), Err(InvalidSnapshotStore), "{wrong}");
        }
    }

    #[test]
    fn objects_of_a_template_are_in_its_folder() {
        let place: SnapshotStore = "s3://sandbar/a".parse().unwrap();
        let bucket = Bucket::open(&place.with("region", "us-east-1")).unwrap();
        let id = Id::new();
        assert_eq!(bucket.last(id).to_string(), format!("a/templates/{id}/template"));
        assert_eq!(
            bucket.part(id, "disk.ext4", 17).to_string(),
            format!("a/templates/{id}/disk.ext4/00000011")
        );
    }
}
