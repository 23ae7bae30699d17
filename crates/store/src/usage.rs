//! What teams used, by days of UTC. The truth is `sandbox_runs`, which a trigger writes with every change of a sandbox's state; days that
//! are over are summed up once, and the days since then when somebody asks.

use chrono::NaiveDate;
use sandbar_types::Id;
use sandbar_types::id::Team;

use crate::convert::integer;
use crate::{Store, StoreError};

/// What a team used on one day.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct UsageRow {
    /// The day, of UTC.
    pub day: NaiveDate,
    /// Virtual CPUs times the minutes that they ran.
    pub cpu_minutes: f64,
    /// MiB of memory times the minutes that they were there.
    pub memory_mb_minutes: f64,
}

impl Store {
    /// Each day from the first to the last, both included, of those that there is an account of: not before the counting began, not
    /// after today. One statement, so one look at the database: no day is between being summed and having been.
    pub async fn usage(
        &self,
        team: Id<Team>,
        first: NaiveDate,
        last: NaiveDate,
    ) -> Result<Vec<UsageRow>, StoreError> {
        let rows = sqlx::query_as!(
            UsageRow,
            r#"WITH days AS (
                   SELECT d.day::date AS day, d.day AT TIME ZONE 'UTC' AS low,
                          LEAST((d.day + interval '1 day') AT TIME ZONE 'UTC', now()) AS high, c.counted_to
                   FROM usage_counted c
                   CROSS JOIN LATERAL generate_series(
                       GREATEST($2::date, c.counted_from)::timestamp,
                       LEAST($3::date, (now() AT TIME ZONE 'UTC')::date)::timestamp, interval '1 day') AS d (day)
               ), live AS (
                   SELECT days.day, sum(r.vcpus * seconds_within(r.started_at, r.ended_at, days.low, days.high)) / 60 AS cpu,
                          sum(r.memory_mb * seconds_within(r.started_at, r.ended_at, days.low, days.high)) / 60 AS memory
                   FROM days JOIN sandbox_runs r ON r.team_id = $1 AND r.ended_at > days.low AND r.started_at < days.high
                   WHERE days.day >= days.counted_to
                   GROUP BY 1
               )
               SELECT days.day AS "day!",
                      COALESCE(u.cpu_minutes, live.cpu::double precision, 0) AS "cpu_minutes!",
                      COALESCE(u.memory_mb_minutes, live.memory::double precision, 0) AS "memory_mb_minutes!"
               FROM days
               LEFT JOIN live ON live.day = days.day
               LEFT JOIN team_daily_usage u ON u.team_id = $1 AND u.day = days.day AND days.day < days.counted_to
               ORDER BY days.day"#,
            team.uuid(),
            first,
            last,
        )
        .fetch_all(&self.pool)
        .await?;
        Ok(rows)
    }

    /// Sums up the first day that is not, for all teams at once, if it has been over for so many seconds: whatever began on it is
    /// written by then. Tells which day it was. Does nothing while another replica is at it.
    pub async fn usage_count_day(&self, over_for_sec: u32) -> Result<Option<NaiveDate>, StoreError> {
        let day = sqlx::query_scalar!(
            r#"WITH due AS (
                   SELECT counted_to AS day, counted_to::timestamp AT TIME ZONE 'UTC' AS low,
                          (counted_to + 1)::timestamp AT TIME ZONE 'UTC' AS high
                   FROM usage_counted
                   WHERE (counted_to + 1)::timestamp AT TIME ZONE 'UTC' <= now() - make_interval(secs => $1::integer)
                   FOR UPDATE SKIP LOCKED
               ), summed AS (
                   INSERT INTO team_daily_usage (team_id, day, cpu_minutes, memory_mb_minutes)
                   SELECT r.team_id, due.day, sum(r.vcpus * seconds_within(r.started_at, r.ended_at, due.low, due.high)) / 60,
                          sum(r.memory_mb * seconds_within(r.started_at, r.ended_at, due.low, due.high)) / 60
                   FROM due JOIN sandbox_runs r ON r.ended_at > due.low AND r.started_at < due.high
                   GROUP BY 1, 2
                   ON CONFLICT (team_id, day) DO UPDATE SET cpu_minutes = excluded.cpu_minutes,
                       memory_mb_minutes = excluded.memory_mb_minutes
               )
               UPDATE usage_counted SET counted_to = due.day + 1 FROM due RETURNING due.day AS "day!""#,
            integer(over_for_sec),
        )
        .fetch_optional(&self.pool)
        .await?;
        Ok(day)
    }

    /// Forgets runs that ended so many days before the first day that is not summed up, so many at a time; tells how many.
    pub async fn usage_prune(&self, days: u32, batch: i64) -> Result<u64, StoreError> {
        let done = sqlx::query!(
            "DELETE FROM sandbox_runs WHERE (sandbox_id, started_at) IN (
                 SELECT r.sandbox_id, r.started_at FROM usage_counted c
                 JOIN sandbox_runs r ON r.ended_at < (c.counted_to - $1::integer)::timestamp AT TIME ZONE 'UTC' LIMIT $2)",
            integer(days),
            batch,
        )
        .execute(&self.pool)
        .await?;
        Ok(done.rows_affected())
    }
}
