//! Copies in object storage: made in the background of every snapshot and every pause on a host of the platform's, and deleted with it.
//!
//! What a team's own hosts have is not copied: it stays where the team keeps it. A copy is a row that names its copier for as long as that one
//! is at it; it is there before the first object, so that nothing is there that nobody knows of, and goes after the last one. Deleting a
//! template does nothing here but end it: whose copy has a deleted template owes the deletion of its objects.

use std::time::Duration;

use futures::{StreamExt as _, TryStreamExt as _};
use sandbar_proto::host::FileParts;
use sandbar_store::StoreError;
use sandbar_store::copies::Copying;
use sandbar_types::Id;
use sandbar_types::id::Template;
use tokio::time::{Instant, MissedTickBehavior};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::bucket::{Bucket, BucketError};
use crate::Control;
use crate::host_client::HostError;

/// Time between two looks, where nobody asks for one.
const LOOK: Duration = Duration::from_secs(30);
/// How long a copy is its copier's after it was last heard of; one that failed is left alone for as long.
const LEASE: Duration = Duration::from_secs(120);
/// How often a copier says that it is at it.
const RENEWAL: Duration = Duration::from_secs(15);
/// A copier that could not say so for this long stops: what it has under way ends before its claim does.
const SILENCE: Duration = Duration::from_secs(45);
/// Parts under way at the same time.
const AT_ONCE: usize = 4;
const PART_LIMIT: Duration = Duration::from_secs(60);

/// What a look came to.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Kept {
    /// Snapshots and pauses that were copied.
    pub copied: usize,
    /// Copies that were deleted.
    pub deleted: usize,
    /// What failed; a later look tries again.
    pub failed: usize,
}

#[derive(Debug, thiserror::Error)]
enum KeepError {
    #[error("the host failed")]
    Host(#[from] HostError),
    #[error(transparent)]
    Bucket(#[from] BucketError),
    #[error("no host that has it answers")]
    NoSource,
    #[error("somebody else is at it, or it was deleted")]
    Lost,
    #[error("the database failed")]
    Store(#[from] StoreError),
}

impl Control {
    /// Until `stop`.
    pub(crate) async fn run_copies(self, stop: CancellationToken) {
        if self.bucket().is_none() {
            return;
        }
        let mut timer = tokio::time::interval(LOOK);
        timer.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                () = stop.cancelled() => return,
                _ = timer.tick() => {}
                () = self.copies_wanted().notified() => {}
            }
            // What it is at in the end is gone on with by whoever looks next.
            match stop.run_until_cancelled(self.keep_copies()).await {
                None => return,
                Some(Ok(kept)) => tracing::debug!(?kept, "object storage was looked after"),
                Some(Err(error)) => {
                    tracing::error!(
                        error = &error as &dyn std::error::Error,
                        "cannot look after object storage"
                    );
                }
            }
        }
    }

    /// Copies all snapshots and pauses that are not durable, deletes the copies of those that are no more, and takes the sandboxes that are
    /// durable off hosts that drain; what others are at is theirs.
    pub async fn keep_copies(&self) -> Result<Kept, StoreError> {
        let mut kept = Kept::default();
        let Some(bucket) = self.bucket() else { return Ok(kept) };
        let copier = Uuid::now_v7();
        self.keep_pauses(&mut kept).await?;
        while let Some(template) = self.store().copy_claim_deleted(copier, LEASE).await? {
            let copying = Copying { template, copier };
            match self.while_ours(copying, async { Ok(bucket.delete(template).await?) }).await {
                Ok(()) => {
                    self.store().copy_forget(copying).await?;
                    kept.deleted += 1;
                }
                Err(error) => {
                    kept.failed += 1;
                    tracing::warn!(%template, error = &error as &dyn std::error::Error,
                        "a copy in object storage is still to be deleted");
                }
            }
        }
        while let Some(template) = self.store().copy_claim(copier, LEASE).await? {
            let copying = Copying { template, copier };
            let copied = self.while_ours(copying, self.copy_to(bucket, template)).await;
            match copied {
                Ok(()) if self.store().copy_complete(copying).await? => {
                    tracing::info!(%template, "a snapshot is in object storage");
                    kept.copied += 1;
                }
                // Deleted meanwhile: the next look deletes it here too.
                Ok(()) | Err(KeepError::Lost) => {
                    self.store().copy_release(copying).await?;
                    self.copies_wanted().notify_one();
                }
                Err(error) => {
                    kept.failed += 1;
                    tracing::warn!(%template, error = &error as &dyn std::error::Error,
                        "a snapshot was not copied to object storage; it is tried again");
                }
            }
        }
        self.leave_draining().await?;
        Ok(kept)
    }

    async fn copy_to(&self, bucket: &Bucket, template: Id<Template>) -> Result<(), KeepError> {
        let source = self.store().copy_source(template).await?.ok_or(KeepError::NoSource)?;
        let source = self.host_clients().get(source.0, &source.1);
        let opened = source.open_template(template, PART_LIMIT).await?;
        let there = bucket.parts(template).await?;
        let parts = opened.parts.iter().flat_map(|FileParts { file, indices, .. }| {
            indices.iter().map(move |&index| (file.clone(), index))
        });
        let lacking: Vec<_> = parts.filter(|part| !there.contains(part)).collect();
        let source = &source;
        futures::stream::iter(lacking)
            .map(|(file, index)| async move {
                let part = source.read_template_part(template, &file, index, PART_LIMIT).await?;
                bucket.write_part(template, &file, index, &part).await?;
                Ok::<_, KeepError>(())
            })
            .buffer_unordered(AT_ONCE)
            .try_collect::<()>()
            .await?;
        Ok(bucket.complete(template, &opened).await?)
    }

    /// Does work for as long as a claim is ours.
    async fn while_ours(
        &self,
        copying: Copying,
        work: impl Future<Output = Result<(), KeepError>>,
    ) -> Result<(), KeepError> {
        let lost = async {
            let mut renewal = tokio::time::interval(RENEWAL);
            renewal.set_missed_tick_behavior(MissedTickBehavior::Delay);
            let mut heard = Instant::now();
            loop {
                renewal.tick().await;
                match self.store().copy_renew(copying, LEASE).await {
                    Ok(true) => heard = Instant::now(),
                    Ok(false) => return KeepError::Lost,
                    Err(error) if heard.elapsed() > SILENCE => return error.into(),
                    Err(error) => tracing::warn!(
                        error = &error as &dyn std::error::Error,
                        "cannot write down that a snapshot is being copied"
                    ),
                }
            }
        };
        tokio::select! {
            done = work => done,
            error = lost => Err(error),
        }
    }
}
