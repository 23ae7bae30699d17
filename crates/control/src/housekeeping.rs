//! What is written down late and forgotten in time: last uses, ended sign-ins, the audit trail past its retention.

use std::time::Duration;

use sandbar_store::StoreError;
use sandbar_store::locks::Lock;
use tokio::time::MissedTickBehavior;
use tokio_util::sync::CancellationToken;

use crate::Control;

/// Time between two sweeps.
const SWEEP: Duration = Duration::from_secs(600);
/// Time between two readings of the keys that sign tokens, which another replica may have replaced.
const KEYS_READ: Duration = Duration::from_secs(60);
/// Sign-ins and tokens of hosts are kept for this long after their end, for whoever asks what happened.
const ENDED_KEPT: Duration = Duration::from_secs(30 * 24 * 3600);
/// A bucket of attempts that nobody filled for this long is empty.
const ATTEMPTS_KEPT: Duration = Duration::from_secs(24 * 3600);
/// Events that are forgotten in one transaction.
const AUDIT_BATCH: i64 = 5000;

impl Control {
    /// Until `stop`; what was used last is written down before it returns.
    pub(crate) async fn keep_house(self, stop: CancellationToken) {
        if let Err(error) = self.passwords().warm_up().await {
            tracing::error!(error = &error as &dyn std::error::Error, "passwords cannot be hashed");
        }
        let mut writing = tokio::time::interval(self.config().last_use_interval);
        let mut sweeping = tokio::time::interval(SWEEP);
        let mut reading = tokio::time::interval(KEYS_READ);
        for timer in [&mut writing, &mut reading, &mut sweeping] {
            timer.set_missed_tick_behavior(MissedTickBehavior::Delay);
        }
        loop {
            let (what, done) = tokio::select! {
                () = stop.cancelled() => break,
                _ = writing.tick() => ("writing down last uses", self.write_last_use().await),
                _ = reading.tick() => {
                    if let Err(error) = self.user_tokens().reload(self.store()).await {
                        tracing::error!(error = &error as &dyn std::error::Error, "the keys of tokens cannot be read");
                    }
                    continue;
                }
                _ = sweeping.tick() => ("forgetting what is old", self.forget_old().await),
            };
            if let Err(error) = done {
                tracing::error!(error = &error as &dyn std::error::Error, "{what} failed");
            }
        }
        if let Err(error) = self.write_last_use().await {
            tracing::warn!(error = &error as &dyn std::error::Error, "the last uses are not written down");
        }
    }

    /// Forgets what is past its time. Does nothing while another replica is at it.
    pub async fn forget_old(&self) -> Result<(), StoreError> {
        let Some(lock) = self.store().try_lock(Lock::Retention).await? else { return Ok(()) };
        let done = self.forget_locked().await;
        lock.release().await?;
        done
    }

    async fn forget_locked(&self) -> Result<(), StoreError> {
        let (store, now) = (self.store(), self.store().now().await?);
        store.sign_in_codes_prune().await?;
        store.attempts_prune(now - ATTEMPTS_KEPT).await?;
        store.sessions_prune(now - ENDED_KEPT).await?;
        store.host_tokens_prune(now - ENDED_KEPT).await?;
        let Some(kept) = self.config().audit_retention else { return Ok(()) };
        let Some(before) =
            chrono::TimeDelta::from_std(kept).ok().and_then(|kept| now.checked_sub_signed(kept))
        else {
            return Ok(());
        };
        while store.audit_prune(before, AUDIT_BATCH).await? == AUDIT_BATCH.unsigned_abs() {}
        Ok(())
    }
}
