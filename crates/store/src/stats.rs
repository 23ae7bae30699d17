//! What teams have running: now (the view `team_reserved`, which says what counts), and in samples.
//!
//! A sample is taken every ten seconds for every team that has something to count, and for the platform's own team always: where that one has a
//! sample and another team has none, that team had nothing; where neither has one, nobody looked. Older samples are merged into coarser ones,
//! which keep the largest values.

use std::iter;

use chrono::{DateTime, Utc};
use sandbar_types::id::Team;
use sandbar_types::stats::{MERGES, Merge, SAMPLE_SEC};
use sandbar_types::{Id, Reserved, SandboxStatus, StatsRange};

use crate::convert::{integer, unsigned, word};
use crate::{Store, StoreError};

/// A round of sampling.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sampled {
    /// The database's clock, right after.
    pub at: DateTime<Utc>,
    /// Samples that were written: none where this slot of time has them already.
    pub samples: u64,
}

/// How many connections there are to the database.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PoolUse {
    /// In use.
    pub used: u32,
    /// Open, and waiting for use.
    pub idle: u32,
    /// The most that there may be.
    pub most: u32,
}

/// One point of a chart.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StatsPoint {
    /// The start of the time that it stands for.
    pub at: DateTime<Utc>,
    /// The largest values in it; none where nobody looked.
    pub most: Option<Reserved>,
}

impl Store {
    /// The connections of this process.
    #[must_use]
    pub fn pool_use(&self) -> PoolUse {
        let (open, idle) = (self.pool.size(), u32::try_from(self.pool.num_idle()).unwrap_or(u32::MAX));
        PoolUse { used: open.saturating_sub(idle), idle, most: self.pool.options().get_max_connections() }
    }

    /// How many sandboxes there are of each state but the ends.
    pub async fn sandboxes_by_status(&self) -> Result<Vec<(SandboxStatus, u64)>, StoreError> {
        sqlx::query!(
            r#"SELECT status, count(*) AS "count!" FROM sandboxes WHERE status NOT IN ('stopped', 'error') GROUP BY 1"#,
        )
        .fetch_all(&self.pool)
        .await?
        .into_iter()
        .map(|row| Ok((word("sandboxes.status", &row.status)?, unsigned("count of sandboxes", row.count)?)))
        .collect()
    }

    /// How many hosts there are of each state.
    pub async fn hosts_by_status(&self) -> Result<Vec<(String, u64)>, StoreError> {
        sqlx::query!(r#"SELECT status, count(*) AS "count!" FROM hosts WHERE deleted_at IS NULL GROUP BY 1"#,)
            .fetch_all(&self.pool)
            .await?
            .into_iter()
            .map(|row| Ok((row.status, unsigned("count of hosts", row.count)?)))
            .collect()
    }

    /// What a team has running at this moment.
    pub async fn stats_now(&self, team: Id<Team>) -> Result<Reserved, StoreError> {
        let row = sqlx::query!(
            r#"SELECT running_count AS "running_count!", vcpus AS "vcpus!", memory_mb AS "memory_mb!"
               FROM team_reserved WHERE team_id = $1"#,
            team.uuid(),
        )
        .fetch_optional(&self.pool)
        .await?;
        row.map_or(Ok(Reserved::default()), |row| reserved(row.running_count, row.vcpus, row.memory_mb))
    }

    /// A team's samples, as the points of a range, oldest first; the last one stands for the time that has just begun.
    pub async fn stats_series(
        &self,
        team: Id<Team>,
        range: StatsRange,
    ) -> Result<Vec<StatsPoint>, StoreError> {
        sqlx::query!(
            r#"WITH frame AS (
                   SELECT make_interval(secs => $2::integer) AS step,
                          date_bin(make_interval(secs => $2::integer), now(), 'epoch') AS last
               ), points AS (
                   SELECT s.team_id, date_bin(f.step, s.at, 'epoch') AS at, max(s.running_count) AS running_count,
                          max(s.vcpus) AS vcpus, max(s.memory_mb) AS memory_mb
                   FROM frame f JOIN team_usage_snapshots s ON s.at >= f.last - ($3::integer - 1) * f.step
                   WHERE s.team_id IN ($1, $4)
                   GROUP BY 1, 2
               )
               SELECT slot.at AS "at!", own.at IS NOT NULL OR platform.at IS NOT NULL AS "looked!",
                      COALESCE(own.running_count, 0) AS "running_count!", COALESCE(own.vcpus, 0) AS "vcpus!",
                      COALESCE(own.memory_mb, 0) AS "memory_mb!"
               FROM frame f
               CROSS JOIN LATERAL generate_series(f.last - ($3::integer - 1) * f.step, f.last, f.step) AS slot (at)
               LEFT JOIN points own ON own.at = slot.at AND own.team_id = $1
               LEFT JOIN points platform ON platform.at = slot.at AND platform.team_id = $4
               ORDER BY slot.at"#,
            team.uuid(),
            integer(range.step_sec()),
            integer(range.points()),
            Id::<Team>::PLATFORM.uuid(),
        )
        .fetch_all(&self.pool)
        .await?
        .into_iter()
        .map(|row| {
            let most = reserved(row.running_count, row.vcpus, row.memory_mb)?;
            Ok(StatsPoint { at: row.at, most: row.looked.then_some(most) })
        })
        .collect()
    }

    /// Takes the samples of the ten seconds that the database's clock is in, unless they are there.
    pub async fn stats_sample(&self) -> Result<Sampled, StoreError> {
        let row = sqlx::query!(
            r#"WITH samples AS (
                   INSERT INTO team_usage_snapshots (team_id, at, span_sec, running_count, vcpus, memory_mb)
                   SELECT team_id, date_bin(make_interval(secs => $1::integer), now(), 'epoch'), $1::integer,
                          COALESCE(r.running_count, 0), COALESCE(r.vcpus, 0), COALESCE(r.memory_mb, 0)
                   FROM team_reserved r FULL JOIN (VALUES ($2::uuid)) AS platform (team_id) USING (team_id)
                   ON CONFLICT (team_id, at) DO NOTHING
                   RETURNING 1
               )
               SELECT count(*) AS "samples!", clock_timestamp() AS "at!" FROM samples"#,
            integer(SAMPLE_SEC),
            Id::<Team>::PLATFORM.uuid(),
        )
        .fetch_one(&self.pool)
        .await?;
        Ok(Sampled { at: row.at, samples: unsigned("count of samples", row.samples)? })
    }

    /// Merges the oldest samples that are due, so many of them in one transaction; tells how many there were. A sample that is left for
    /// the next time joins what the others became.
    pub async fn stats_merge(&self, merge: Merge, batch: i64) -> Result<u64, StoreError> {
        let merged = sqlx::query_scalar!(
            r#"WITH due AS (
                   SELECT team_id, at FROM team_usage_snapshots
                   WHERE span_sec = $1
                     AND at < date_bin(make_interval(secs => $2::integer), now() - make_interval(secs => $3::integer), 'epoch')
                   ORDER BY at LIMIT $4
               ), old AS (
                   DELETE FROM team_usage_snapshots s USING due WHERE s.team_id = due.team_id AND s.at = due.at
                   RETURNING s.team_id, s.at, s.running_count, s.vcpus, s.memory_mb
               ), merged AS (
                   INSERT INTO team_usage_snapshots AS kept (team_id, at, span_sec, running_count, vcpus, memory_mb)
                   SELECT team_id, date_bin(make_interval(secs => $2::integer), at, 'epoch'), $2::integer,
                          max(running_count), max(vcpus), max(memory_mb)
                   FROM old GROUP BY 1, 2
                   ON CONFLICT (team_id, at) DO UPDATE SET span_sec = excluded.span_sec,
                       running_count = GREATEST(kept.running_count, excluded.running_count),
                       vcpus = GREATEST(kept.vcpus, excluded.vcpus),
                       memory_mb = GREATEST(kept.memory_mb, excluded.memory_mb)
               )
               SELECT count(*) AS "merged!" FROM old"#,
            integer(merge.from_sec),
            integer(merge.into_sec),
            integer(merge.after_sec),
            batch,
        )
        .fetch_one(&self.pool)
        .await?;
        unsigned("count of samples", merged)
    }

    /// Forgets the oldest samples that are older than so many seconds, so many at a time; tells how many.
    pub async fn stats_prune(&self, kept_sec: u32, batch: i64) -> Result<u64, StoreError> {
        // By their spans, as the index has them.
        let spans: Vec<i32> =
            iter::once(SAMPLE_SEC).chain(MERGES.map(|merge| merge.into_sec)).map(integer).collect();
        let done = sqlx::query!(
            "DELETE FROM team_usage_snapshots WHERE (team_id, at) IN (
                 SELECT team_id, at FROM team_usage_snapshots
                 WHERE span_sec = ANY($3) AND at < now() - make_interval(secs => $1::integer) LIMIT $2)",
            integer(kept_sec),
            batch,
            &spans,
        )
        .execute(&self.pool)
        .await?;
        Ok(done.rows_affected())
    }
}

fn reserved(running_count: i32, vcpus: i32, memory_mb: i64) -> Result<Reserved, StoreError> {
    Ok(Reserved {
        running_count: unsigned("running_count", running_count)?,
        vcpus: unsigned("vcpus", vcpus)?,
        memory_mb: unsigned("memory_mb", memory_mb)?,
    })
}
