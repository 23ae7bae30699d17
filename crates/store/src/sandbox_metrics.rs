//! What sandboxes used, kept when they pause or end. A running one's figures are at its host.

use chrono::{DateTime, Utc};
use sandbar_types::id::Sandbox;
use sandbar_types::{Id, MetricsRange};

use crate::convert::{bigint, unsigned};
use crate::{Store, StoreError, Tx};

/// What a sandbox used at one moment, or on average up to it.
#[derive(Debug, Clone, Copy, PartialEq)]
#[expect(missing_docs, reason = "the schema says what each column is")]
pub struct MetricPoint {
    pub at: DateTime<Utc>,
    pub cpu_pct: f64,
    pub mem_bytes: u64,
    pub disk_bytes: u64,
}

impl Store {
    /// The points of one range, oldest first.
    pub async fn metrics(
        &self,
        sandbox: Id<Sandbox>,
        range: MetricsRange,
    ) -> Result<Vec<MetricPoint>, StoreError> {
        sqlx::query!(
            "SELECT at, cpu_pct, mem_bytes, disk_bytes FROM sandbox_metric_points
             WHERE sandbox_id = $1 AND tier = $2 ORDER BY at",
            sandbox.uuid(),
            range.as_str(),
        )
        .fetch_all(&self.pool)
        .await?
        .into_iter()
        .map(|row| {
            Ok(MetricPoint {
                at: row.at,
                cpu_pct: row.cpu_pct,
                mem_bytes: unsigned("sandbox_metric_points.mem_bytes", row.mem_bytes)?,
                disk_bytes: unsigned("sandbox_metric_points.disk_bytes", row.disk_bytes)?,
            })
        })
        .collect()
    }
}

impl Tx {
    /// Puts a range's points in the place of those that are there.
    pub async fn metrics_replace(
        &mut self,
        sandbox: Id<Sandbox>,
        range: MetricsRange,
        points: &[MetricPoint],
    ) -> Result<(), StoreError> {
        self.metrics_forget(sandbox, &[range]).await?;
        let at: Vec<DateTime<Utc>> = points.iter().map(|point| point.at).collect();
        let cpu: Vec<f64> = points.iter().map(|point| point.cpu_pct).collect();
        let mem: Vec<i64> = points.iter().map(|point| bigint(point.mem_bytes)).collect();
        let disk: Vec<i64> = points.iter().map(|point| bigint(point.disk_bytes)).collect();
        // Two points of one instant say the same thing twice.
        sqlx::query!(
            "INSERT INTO sandbox_metric_points (sandbox_id, tier, at, cpu_pct, mem_bytes, disk_bytes)
             SELECT $1, $2, u.at, u.cpu_pct, u.mem_bytes, u.disk_bytes
             FROM UNNEST($3::timestamptz[], $4::double precision[], $5::bigint[], $6::bigint[])
                  AS u (at, cpu_pct, mem_bytes, disk_bytes)
             ON CONFLICT DO NOTHING",
            sandbox.uuid(),
            range.as_str(),
            &at,
            &cpu,
            &mem,
            &disk,
        )
        .execute(self.connection())
        .await?;
        Ok(())
    }

    /// Removes the points of these ranges.
    pub async fn metrics_forget(
        &mut self,
        sandbox: Id<Sandbox>,
        ranges: &[MetricsRange],
    ) -> Result<(), StoreError> {
        let ranges: Vec<String> = ranges.iter().map(ToString::to_string).collect();
        sqlx::query!(
            "DELETE FROM sandbox_metric_points WHERE sandbox_id = $1 AND tier = ANY($2)",
            sandbox.uuid(),
            &ranges,
        )
        .execute(self.connection())
        .await?;
        Ok(())
    }
}
