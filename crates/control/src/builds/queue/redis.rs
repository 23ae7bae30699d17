//! Redis as the queue, for control planes that share one.
//!
//! ```text
//!   sandbar:builds:waiting          list of builds; offered on the left, taken from the right
//!   sandbar:builds:taken:WORKER     what a claim took, by BLMOVE: it is never in neither list
//!   sandbar:builds:alive:WORKER     expires with the claim's lease
//!   sandbar:builds:workers          set of all that may have taken something
//! ```
//!
//! Whose `alive` has expired is dead, and what it took is offered again. When Redis loses all of this the rows are offered anew. One
//! installation has one of Redis's databases to itself.

use std::collections::HashSet;
use std::time::Duration;

use async_trait::async_trait;
use redis::aio::MultiplexedConnection;
use redis::{AsyncCommands as _, AsyncConnectionConfig, Client, Direction};
use sandbar_store::Store;
use sandbar_store::builds::{BuildRow, Claim, Lease};
use sandbar_types::Id;
use sandbar_types::id::Build;
use tokio::sync::Mutex;
use uuid::Uuid;

use super::{BuildQueue, QueueError};
use crate::builds::BuildConfig;

const WAITING: &str = "sandbar:builds:waiting";
const WORKERS: &str = "sandbar:builds:workers";
/// How long an answer may take that nobody waits for at Redis's end.
const ANSWER: Duration = Duration::from_secs(5);

fn taken(worker: &str) -> String {
    format!("sandbar:builds:taken:{worker}")
}

fn alive(worker: &str) -> String {
    format!("sandbar:builds:alive:{worker}")
}

/// See the module.
pub(crate) struct RedisQueue {
    store: Store,
    client: Client,
    config: BuildConfig,
    /// For all but waiting, for which each claim has a connection of its own.
    shared: Mutex<Option<MultiplexedConnection>>,
}

impl RedisQueue {
    pub(crate) fn new(store: Store, url: &str, config: &BuildConfig) -> Result<Self, QueueError> {
        Ok(Self { store, client: Client::open(url)?, config: config.clone(), shared: Mutex::default() })
    }

    async fn connect(&self, answer: Option<Duration>) -> Result<MultiplexedConnection, QueueError> {
        let options =
            AsyncConnectionConfig::new().set_connection_timeout(Some(ANSWER)).set_response_timeout(answer);
        Ok(self.client.get_multiplexed_async_connection_with_config(&options).await?)
    }

    /// Asks Redis, on the shared connection; a broken one is made anew for the next who asks.
    async fn ask<T>(
        &self,
        question: impl AsyncFnOnce(&mut MultiplexedConnection) -> Result<T, redis::RedisError>,
    ) -> Result<T, QueueError> {
        let known = self.shared.lock().await.clone();
        let mut connection = match known {
            Some(connection) => connection,
            None => {
                let new = self.connect(Some(ANSWER)).await?;
                self.shared.lock().await.insert(new).clone()
            }
        };
        let answer = question(&mut connection).await;
        if answer.is_err() {
            *self.shared.lock().await = None;
        }
        Ok(answer?)
    }

    /// Says that a worker lives, before it takes anything.
    async fn appear(&self, worker: &str) -> Result<(), QueueError> {
        let seconds = self.config.lease.as_secs().max(1);
        self.ask(async |connection| {
            redis::pipe()
                .atomic()
                .set_ex(alive(worker), 1, seconds)
                .ignore()
                .sadd(WORKERS, worker)
                .ignore()
                .query_async::<()>(connection)
                .await
        })
        .await
    }

    async fn leave(&self, worker: &str) -> Result<(), QueueError> {
        self.ask(async |connection| {
            redis::pipe()
                .atomic()
                .del(taken(worker))
                .ignore()
                .del(alive(worker))
                .ignore()
                .srem(WORKERS, worker)
                .ignore()
                .query_async::<()>(connection)
                .await
        })
        .await
    }

    /// Offers what dead workers took.
    async fn take_from_the_dead(&self) -> Result<(), QueueError> {
        let workers: HashSet<String> = self.ask(async |redis| redis.smembers(WORKERS).await).await?;
        for worker in workers {
            if self.ask(async |redis| redis.exists(alive(&worker)).await).await? {
                continue;
            }
            let moved = async |redis: &mut MultiplexedConnection| {
                redis.lmove(taken(&worker), WAITING, Direction::Right, Direction::Right).await
            };
            while self.ask::<Option<String>>(moved).await?.is_some() {}
            self.ask(async |redis| redis.srem::<_, _, ()>(WORKERS, &worker).await).await?;
        }
        Ok(())
    }
}

#[async_trait]
impl BuildQueue for RedisQueue {
    async fn enqueue(&self, build: Id<Build>) -> Result<(), QueueError> {
        self.ask(async |redis| redis.lpush::<_, _, ()>(WAITING, build.to_string()).await).await
    }

    async fn claim(&self, worker: Uuid) -> Result<BuildRow, QueueError> {
        let name = worker.to_string();
        let mut waiting = self.connect(None).await?;
        // Shorter than the lease, so that who waits long is not taken for dead.
        let patience = (self.config.lease / 3).as_secs_f64();
        loop {
            self.appear(&name).await?;
            let got: Option<String> =
                waiting.blmove(WAITING, taken(&name), Direction::Right, Direction::Left, patience).await?;
            let Some(got) = got else { continue };
            if let Ok(build) = got.parse() {
                let BuildConfig { lease, attempts, .. } = self.config;
                let claim = Claim { build, worker };
                if let Some(row) = self.store.build_claim(claim, lease, attempts).await? {
                    return Ok(row);
                }
            }
            // It was offered twice, or has ended.
            self.ask(async |redis| redis.lrem::<_, _, ()>(taken(&name), 0, &got).await).await?;
        }
    }

    async fn renew(&self, claim: Claim) -> Result<Lease, QueueError> {
        let lease = self.store.build_renew(claim, self.config.lease).await?;
        // The row is what counts: a Redis that is away takes no build from its worker.
        if let Err(error) = self.appear(&claim.worker.to_string()).await {
            tracing::warn!(
                error = &error as &dyn std::error::Error,
                "Redis cannot be told that a worker lives"
            );
        }
        Ok(lease)
    }

    async fn forget(&self, claim: Claim) -> Result<(), QueueError> {
        self.leave(&claim.worker.to_string()).await
    }

    async fn recover(&self) -> Result<(), QueueError> {
        self.take_from_the_dead().await?;
        let rows = self.store.builds_waiting(self.config.attempts).await?;
        let offered: HashSet<String> = self.ask(async |redis| redis.lrange(WAITING, 0, -1).await).await?;
        for build in rows {
            if !offered.contains(&build.to_string()) {
                self.enqueue(build).await?;
            }
        }
        Ok(())
    }
}
