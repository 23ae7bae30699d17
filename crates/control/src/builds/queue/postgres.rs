//! The rows themselves as the queue: SKIP LOCKED to claim, LISTEN to wait.

use std::sync::Arc;

use async_trait::async_trait;
use sandbar_store::Store;
use sandbar_store::builds::{BuildRow, Claim, Lease};
use sandbar_store::listen::{Told, Topic};
use sandbar_types::Id;
use sandbar_types::id::Build;
use uuid::Uuid;

use super::{BuildQueue, QueueError};
use crate::builds::BuildConfig;
use crate::news::News;

/// See the module.
pub(crate) struct PostgresQueue {
    store: Store,
    news: Arc<News>,
    config: BuildConfig,
}

impl PostgresQueue {
    pub(crate) fn new(store: Store, news: Arc<News>, config: &BuildConfig) -> Self {
        Self { store, news, config: config.clone() }
    }
}

#[async_trait]
impl BuildQueue for PostgresQueue {
    /// The row's own change has told whoever waits.
    async fn enqueue(&self, _: Id<Build>) -> Result<(), QueueError> {
        Ok(())
    }

    async fn claim(&self, worker: Uuid) -> Result<BuildRow, QueueError> {
        let mut news = self.news.subscribe(&self.store);
        loop {
            let BuildConfig { lease, attempts, .. } = self.config;
            if let Some(build) = self.store.build_claim_next(worker, lease, attempts).await? {
                return Ok(build);
            }
            let queued = news.wait(|told| matches!(told, Told::Of(Topic::BuildQueue, _)));
            // Nobody tells that a lease has run out.
            let _ = tokio::time::timeout(self.config.sweep, queued).await;
        }
    }

    async fn renew(&self, claim: Claim) -> Result<Lease, QueueError> {
        Ok(self.store.build_renew(claim, self.config.lease).await?)
    }

    async fn forget(&self, _: Claim) -> Result<(), QueueError> {
        Ok(())
    }

    async fn recover(&self) -> Result<(), QueueError> {
        Ok(())
    }
}
