//! One template from one place to one host: the parts that it lacks, a few at a time.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use futures::{StreamExt as _, TryStreamExt as _};
use sandbar_proto::host::{self as proto, FilePart, FileParts};
use sandbar_types::Id;
use sandbar_types::id::Template;

use super::bucket::{Bucket, BucketError};
use crate::host_client::{HostClient, HostError};

/// Parts under way at the same time, and so in memory: 2 MiB each at most.
const AT_ONCE: usize = 4;
/// How long one part may take there or back.
const PART_LIMIT: Duration = Duration::from_secs(60);

/// Where a template comes from.
pub(super) enum Source<'a> {
    Host(Box<HostClient>),
    Bucket(&'a Bucket),
}

/// Why a source failed.
#[derive(Debug, thiserror::Error)]
pub(super) enum SourceError {
    #[error("the host failed")]
    Host(#[from] HostError),
    #[error(transparent)]
    Bucket(#[from] BucketError),
    #[error("object storage has no complete copy")]
    Incomplete,
}

impl Source<'_> {
    async fn open(&self, template: Id<Template>) -> Result<proto::OpenTemplateResponse, SourceError> {
        match self {
            Self::Host(host) => Ok(host.open_template(template, PART_LIMIT).await?),
            Self::Bucket(bucket) => bucket.open_template(template).await?.ok_or(SourceError::Incomplete),
        }
    }

    async fn part(&self, template: Id<Template>, file: &str, index: u32) -> Result<FilePart, SourceError> {
        Ok(match self {
            Self::Host(host) => host.read_template_part(template, file, index, PART_LIMIT).await?,
            Self::Bucket(bucket) => bucket.read_part(template, file, index).await?,
        })
    }
}

/// Why a template did not arrive.
#[derive(Debug, thiserror::Error)]
pub(super) enum CarryError {
    /// Where it comes from failed.
    #[error("the template's files cannot be read")]
    Source(#[source] SourceError),
    /// Where it goes to failed.
    #[error("the template's files cannot be written")]
    Target(#[source] HostError),
}

/// What carrying a template came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Carried {
    /// Parts that were lacking.
    pub(super) parts: usize,
}

/// Carries what `target` lacks of a template, and has it published there. `limit` is for reading all of it. What arrived before an error
/// stays there for the next attempt; `progress` hears of each part.
pub(super) async fn carry(
    source: &Source<'_>,
    target: &HostClient,
    template: Id<Template>,
    limit: Duration,
    progress: &(dyn Fn() + Sync),
) -> Result<Carried, CarryError> {
    let opened = source.open(template).await.map_err(CarryError::Source)?;
    let proto::OpenTemplateResponse { manifest, size_bytes, parts, .. } = opened;
    let begun = target.receive_template(template, manifest, size_bytes, PART_LIMIT).await;
    let begun = begun.map_err(CarryError::Target)?;
    if begun.complete.as_option().is_some() {
        return Ok(Carried { parts: 0 });
    }
    let lacking = lacking(parts, &begun.parts);
    let carried = lacking.len();
    futures::stream::iter(lacking)
        .map(|(file, index)| async move {
            let part = source.part(template, &file, index).await.map_err(CarryError::Source)?;
            let written = target.write_template_part(template, file, index, part, PART_LIMIT).await;
            written.map_err(CarryError::Target)?;
            progress();
            Ok(())
        })
        .buffer_unordered(AT_ONCE)
        .try_collect::<()>()
        .await?;
    target.commit_template(template, limit).await.map_err(CarryError::Target)?;
    Ok(Carried { parts: carried })
}

/// The parts that there are and that are not here.
fn lacking(there: Vec<FileParts>, here: &[FileParts]) -> Vec<(String, u32)> {
    let here: BTreeMap<&str, BTreeSet<u32>> =
        here.iter().map(|parts| (&*parts.file, parts.indices.iter().copied().collect())).collect();
    let lacking = there.into_iter().flat_map(|FileParts { file, indices, .. }| {
        let here = here.get(&*file).cloned().unwrap_or_default();
        indices.into_iter().filter(move |index| !here.contains(index)).map(move |index| (file.clone(), index))
    });
    lacking.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_lacking_is_carried() {
        let parts = |file: &str, indices: &[u32]| FileParts {
            file: file.to_owned(),
            indices: indices.to_vec(),
            ..FileParts::default()
        };
        let there = || vec![parts("memory", &[0, 3, 9]), parts("disk", &[1])];
        assert_eq!(lacking(there(), &[]).len(), 4);
        let here = [parts("memory", &[3, 4])];
        let of = |file: &str, index| (file.to_owned(), index);
        assert_eq!(lacking(there(), &here), [of("memory", 0), of("memory", 9), of("disk", 1)]);
        assert_eq!(lacking(there(), &there()), []);
    }
}
