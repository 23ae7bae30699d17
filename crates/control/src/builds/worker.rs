//! Workers: each claims a build, keeps its lease for as long as it works on it, and cleans up behind it.
//!
//! What comes after an attempt (the sandbox's end, the last write) is done whether or not the control plane goes down meanwhile.

use std::time::Duration;

use sandbar_store::StoreError;
use sandbar_store::audit::Outcome as Told;
use sandbar_store::builds::{BuildRow, Claim, Ended, Lease};
use sandbar_store::listen::Topic;
use sandbar_trace::Span;
use sandbar_types::TraceParent;
use tokio::task::JoinSet;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::course::{Outcome, tx_tell};
use crate::{Control, OpContext};

/// Time between two attempts to claim, while the queue is away.
const RETRY: Duration = Duration::from_secs(1);
/// Time before a build that broke off is begun again: longer each time.
const PAUSE: Duration = Duration::from_secs(2);

impl Control {
    /// Runs builds until `stop`, then ends in order those that are under way: others take them up.
    pub(crate) async fn run_builds(self, stop: CancellationToken) {
        let mut running = JoinSet::new();
        for _ in 0..self.config().builds.workers {
            running.spawn(self.clone().build_worker(stop.clone()));
        }
        running.spawn(self.clone().sweep_builds(stop));
        while let Some(ended) = running.join_next().await {
            if let Err(error) = ended {
                tracing::error!(error = &error as &dyn std::error::Error, "a build worker broke off");
            }
        }
    }

    async fn build_worker(self, stop: CancellationToken) {
        loop {
            let worker = Uuid::now_v7();
            let claimed = tokio::select! {
                () = stop.cancelled() => return,
                claimed = self.build_queue().claim(worker) => claimed,
            };
            match claimed {
                Ok(build) => {
                    let asked_by =
                        build.trace.as_deref().and_then(|trace| TraceParent::read(trace.as_bytes()));
                    let span = Span::of_work_for(asked_by, "build");
                    span.set("sandbar.build.id", build.id);
                    span.run(self.work(Claim { build: build.id, worker }, &build, &stop)).await;
                }
                Err(error) => {
                    tracing::warn!(error = &error as &dyn std::error::Error, "no build can be claimed");
                    tokio::select! {
                        () = stop.cancelled() => return,
                        () = tokio::time::sleep(RETRY) => {}
                    }
                }
            }
        }
    }

    /// One claim, from its beginning to its end.
    async fn work(&self, claim: Claim, build: &BuildRow, stop: &CancellationToken) {
        let ctx = OpContext::system();
        tracing::info!(build = %build.id, name = %build.name, attempt = build.attempts, "a build begins");
        let outcome = tokio::select! {
            outcome = self.build_attempt(&ctx, claim, build) => outcome,
            lost = self.keep_lease(claim) => lost,
            () = stop.cancelled() => Outcome::Stopped,
        };
        tracing::info!(build = %build.id, ?outcome, "a build's attempt has ended");
        // Within the lease; what is left after that, the sweep ends.
        let cleaned = tokio::time::timeout(self.config().builds.lease / 2, async {
            if let Err(error) = self.build_queue().renew(claim).await {
                tracing::warn!(build = %build.id, error = &error as &dyn std::error::Error, "a lease is not renewed");
            }
            self.end_sandboxes_of(&ctx, claim).await?;
            self.delete_images_of(claim).await
        });
        if let Ok(Err(error)) = cleaned.await {
            tracing::warn!(build = %build.id, error = &error as &dyn std::error::Error,
                "what an attempt had is not gone yet");
        }
        if let Err(error) = self.conclude(claim, build, outcome).await {
            tracing::error!(build = %build.id, error = &error as &dyn std::error::Error,
                "cannot write down how a build went: it is begun again when its lease has run out");
        }
        if let Err(error) = self.build_queue().forget(claim).await {
            tracing::warn!(error = &error as &dyn std::error::Error, "the queue does not forget a claim yet");
        }
    }

    /// Keeps the claim's lease until that is over.
    async fn keep_lease(&self, claim: Claim) -> Outcome {
        let lease = self.config().builds.lease;
        let mut held_until = Instant::now() + lease;
        let mut news = self.news().subscribe(self.store());
        loop {
            // Somebody may want it to end.
            let changed = news.wait(|told| told.is_of(Topic::Builds, claim.build));
            let _ = tokio::time::timeout(lease / 3, changed).await;
            match self.build_queue().renew(claim).await {
                Ok(Lease::Held) => held_until = Instant::now() + lease,
                Ok(Lease::CancelAsked) => return Outcome::Cancelled,
                Ok(Lease::Lost) => return Outcome::Lost,
                // Another may have taken it.
                Err(_) if Instant::now() >= held_until => return Outcome::Lost,
                Err(error) => {
                    tracing::warn!(build = %claim.build, error = &error as &dyn std::error::Error,
                        "a lease is not renewed");
                    tokio::time::sleep(RETRY.min(lease / 6)).await;
                }
            }
        }
    }

    /// Writes down how an attempt went.
    async fn conclude(&self, claim: Claim, build: &BuildRow, outcome: Outcome) -> Result<(), StoreError> {
        let (ended, told) = match &outcome {
            // Written down already, or no business of ours.
            Outcome::Success | Outcome::Lost => return Ok(()),
            Outcome::Stopped => return self.store().build_release(claim).await.map(drop),
            Outcome::Again(reason) if build.attempts < self.config().builds.attempts => {
                tracing::info!(build = %build.id, reason, "a build is begun again");
                return self.store().build_give_up(claim, PAUSE * build.attempts).await.map(drop);
            }
            Outcome::Again(reason) | Outcome::Failed(reason) => (Ended::Failed(reason), Told::Error),
            Outcome::Cancelled => (Ended::Cancelled, Told::Warning),
        };
        let mut tx = self.store().begin().await?;
        if let Some(row) = tx.build_end(claim, ended).await? {
            tx_tell(&mut tx, &row, told).await?;
        }
        tx.commit().await
    }
}
