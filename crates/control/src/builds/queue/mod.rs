//! Who takes which build. Whatever a queue is made of, a build is claimed in its row, and its row says whether it waits: a queue that
//! forgets, or tells twice, costs time and nothing else.

mod postgres;
mod redis;

use std::sync::Arc;

use async_trait::async_trait;
use sandbar_store::builds::{BuildRow, Claim, Lease};
use sandbar_store::{Store, StoreError};
use sandbar_types::Id;
use sandbar_types::id::Build;
use uuid::Uuid;

use super::BuildConfig;
use crate::news::News;

pub(super) use postgres::PostgresQueue;
pub(super) use redis::RedisQueue;

/// Why a queue cannot do it now.
#[derive(Debug, thiserror::Error)]
pub enum QueueError {
    /// The database failed.
    #[error("the database failed")]
    Store(#[from] StoreError),
    /// Redis failed.
    #[error("Redis failed")]
    Redis(#[from] ::redis::RedisError),
}

/// A queue of builds.
#[async_trait]
pub(crate) trait BuildQueue: Send + Sync {
    /// Offers a build whose row waits.
    async fn enqueue(&self, build: Id<Build>) -> Result<(), QueueError>;

    /// Waits for a build and claims it under a name that no other claim has. May be dropped while it waits.
    async fn claim(&self, worker: Uuid) -> Result<BuildRow, QueueError>;

    /// Keeps a claim for another lease.
    async fn renew(&self, claim: Claim) -> Result<Lease, QueueError>;

    /// Forgets a claim: the build has ended, or another may have it. What the row says is not touched.
    async fn forget(&self, claim: Claim) -> Result<(), QueueError>;

    /// Offers again what dead workers had, and what was never offered.
    async fn recover(&self) -> Result<(), QueueError>;
}

/// The queue that the configuration asks for.
pub(crate) fn open(
    store: &Store,
    news: Arc<News>,
    config: &BuildConfig,
) -> Result<Arc<dyn BuildQueue>, QueueError> {
    Ok(match &config.redis_url {
        None => Arc::new(PostgresQueue::new(store.clone(), news, config)),
        Some(url) => Arc::new(RedisQueue::new(store.clone(), url, config)?),
    })
}
