//! What a sandbox uses: live from its host while it runs, from the database while it is paused. A pause keeps all that the host has,
//! the end of a sandbox the last day, coarsely.

use std::time::Duration;

use chrono::{DateTime, Utc};
use sandbar_store::sandbox_metrics::MetricPoint;
use sandbar_store::{StoreError, Tx};
use sandbar_types::{Id, MetricsRange, SandboxStatus, id};

use super::{CallSite, Sandbox, SandboxError};
use crate::host_client::HostClient;
use crate::{Control, OpContext, reported};

/// How long the figures of a sandbox that pauses or ends are waited for. They are worth less than the pause or the end.
const PATIENCE: Duration = Duration::from_secs(2);

/// A sandbox's figures, oldest first.
#[derive(Debug, Clone, PartialEq)]
pub struct SandboxMetrics {
    /// How far back they go.
    pub range: MetricsRange,
    /// When, and percent of one processor, bytes of memory, bytes of disk.
    pub points: Vec<(DateTime<Utc>, f64, u64, u64)>,
}

impl Control {
    /// What a sandbox used.
    pub async fn sandbox_metrics(
        &self,
        _ctx: &OpContext,
        sandbox: &Sandbox,
        range: MetricsRange,
    ) -> Result<SandboxMetrics, SandboxError> {
        let id = sandbox.id;
        let points = match sandbox.status {
            SandboxStatus::Running | SandboxStatus::Snapshotting => {
                let limit = self.config().call_deadline;
                let client = self.client_of_running(sandbox, "asking for its figures")?;
                let points = client
                    .sandbox_metrics(id, range, limit)
                    .await
                    .map_err(|error| self.host_failed(CallSite::of(sandbox, "the question", limit), error))?;
                reported::points(&points)
            }
            SandboxStatus::Pausing | SandboxStatus::Paused | SandboxStatus::Resuming => {
                self.store().metrics(id, range).await?
            }
            SandboxStatus::Missing => return Err(SandboxError::Missing { id }),
            status @ (SandboxStatus::Pending
            | SandboxStatus::Starting
            | SandboxStatus::Stopping
            | SandboxStatus::Stopped
            | SandboxStatus::Error) => return Err(SandboxError::NoMetrics { id, status }),
        };
        let points = points
            .into_iter()
            .map(|MetricPoint { at, cpu_pct, mem_bytes, disk_bytes }| (at, cpu_pct, mem_bytes, disk_bytes))
            .collect();
        Ok(SandboxMetrics { range, points })
    }

    /// All figures that a sandbox's host has of it. None where it does not answer: a pause does not fail for that.
    pub(crate) async fn all_metrics(
        &self,
        client: &HostClient,
        id: Id<id::Sandbox>,
    ) -> Vec<(MetricsRange, Vec<MetricPoint>)> {
        match client.flush_sandbox_metrics(id, PATIENCE.min(self.config().call_deadline)).await {
            Ok(tiers) => reported::tiers(&tiers),
            Err(error) => {
                tracing::info!(%id, error = &error as &dyn std::error::Error,
                    "a sandbox's figures could not be had from its host");
                Vec::new()
            }
        }
    }

    /// The last day of a sandbox that is about to end. None where its host does not tell.
    pub(crate) async fn last_metrics(
        &self,
        client: &HostClient,
        id: Id<id::Sandbox>,
    ) -> Option<Vec<MetricPoint>> {
        let tiers = self.all_metrics(client, id).await;
        tiers.into_iter().find_map(|(range, points)| (range == MetricsRange::Day).then_some(points))
    }
}

/// Of a sandbox that ends, keeps the last day and nothing finer: what its host told just now, or what its last pause kept.
pub(crate) async fn keep_last(
    tx: &mut Tx,
    id: Id<id::Sandbox>,
    last: Option<&[MetricPoint]>,
) -> Result<(), StoreError> {
    tx.metrics_forget(id, &[MetricsRange::TenMinutes, MetricsRange::TwoHours]).await?;
    match last {
        Some(points) => tx.metrics_replace(id, MetricsRange::Day, points).await,
        None => Ok(()),
    }
}
