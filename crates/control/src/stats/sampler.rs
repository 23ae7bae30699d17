//! Every ten seconds of the database's clock, one statement that samples all teams; every minute what is old is merged, summed up and
//! forgotten, in batches.
//!
//! Every replica tries, one at a time gets to: the lock is had for the moment of a round. That two never write one sample twice is the
//! table's key; the lock saves the second one's work.

use std::time::Duration;

use sandbar_store::StoreError;
use sandbar_store::locks::Lock;
use sandbar_types::stats::{MERGES, SAMPLE_SEC, SAMPLES_KEPT_SEC};
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;

use crate::Control;

/// Time between two looks at what is old.
const UPKEEP: Duration = Duration::from_secs(60);
/// Rows that are merged or forgotten in one transaction.
const BATCH: i64 = 5000;
/// Batches of one kind in one look: what is left is left for the next.
const BATCHES: usize = 20;
/// How far into a slot its sample is taken, so that a timer that is a little early is not in the one before.
const INTO_SLOT: Duration = Duration::from_millis(200);
/// A day is summed up when it has been over for so long: no transaction that began on it is open any more.
const DAY_OVER_SEC: u32 = 3600;
/// Runs are kept for so many days after they are summed up, so that a sum can be checked.
const RUNS_KEPT_DAYS: u32 = 7;

impl Control {
    /// Until `stop`.
    pub(crate) async fn keep_samples(self, stop: CancellationToken) {
        let (mut wait, mut upkeep_at) = (Duration::ZERO, Instant::now());
        while stop.run_until_cancelled(sleep(wait)).await.is_some() {
            wait = self.sample_stats().await.unwrap_or_else(|error| {
                tracing::error!(
                    error = &error as &dyn std::error::Error,
                    "what teams have running could not be sampled"
                );
                Duration::from_secs(SAMPLE_SEC.into())
            });
            if Instant::now() >= upkeep_at {
                upkeep_at = Instant::now() + UPKEEP;
                if let Err(error) = self.tend_samples().await {
                    tracing::error!(
                        error = &error as &dyn std::error::Error,
                        "old samples and runs could not be tended"
                    );
                }
            }
        }
    }

    /// Samples all teams, unless another replica is at it or has been in this slot of time. Tells how long it is until the next slot.
    pub async fn sample_stats(&self) -> Result<Duration, StoreError> {
        let store = self.store();
        let now = match store.try_lock(Lock::Samples).await? {
            Some(lock) => {
                let sampled = store.stats_sample().await;
                lock.release().await?;
                sampled?.at
            }
            None => store.now().await?,
        };
        let slot = u64::from(SAMPLE_SEC) * 1000;
        let into_slot = now.timestamp_millis().rem_euclid(slot.cast_signed()).unsigned_abs();
        Ok(Duration::from_millis(slot - into_slot) + INTO_SLOT)
    }

    /// Merges and forgets old samples, sums up the days that are over, forgets runs that were summed up long ago. Does nothing while another
    /// replica is at it.
    pub async fn tend_samples(&self) -> Result<(), StoreError> {
        let Some(lock) = self.store().try_lock(Lock::Retention).await? else { return Ok(()) };
        let done = self.tend_samples_locked().await;
        lock.release().await?;
        done
    }

    async fn tend_samples_locked(&self) -> Result<(), StoreError> {
        let store = self.store();
        for merge in MERGES {
            in_batches(|| store.stats_merge(merge, BATCH)).await?;
        }
        in_batches(|| store.stats_prune(SAMPLES_KEPT_SEC, BATCH)).await?;
        while let Some(day) = store.usage_count_day(DAY_OVER_SEC).await? {
            tracing::debug!(%day, "summed up a day");
        }
        in_batches(|| store.usage_prune(RUNS_KEPT_DAYS, BATCH)).await
    }
}

/// As long as there is a whole batch, but not for ever.
async fn in_batches<F: Future<Output = Result<u64, StoreError>>>(
    mut step: impl FnMut() -> F,
) -> Result<(), StoreError> {
    for _ in 0..BATCHES {
        if step().await? < BATCH.unsigned_abs() {
            break;
        }
    }
    Ok(())
}
