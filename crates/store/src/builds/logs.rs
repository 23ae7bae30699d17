//! What the steps of builds wrote.

use chrono::{DateTime, Utc};
use sandbar_types::Id;
use sandbar_types::id::Build;

use super::Claim;
use crate::convert::{bigint, integer, unsigned, unsigned_opt};
use crate::{Store, StoreError};

/// One step's log.
#[derive(Debug, Clone, PartialEq, Eq)]
#[expect(missing_docs, reason = "the schema says what each column is")]
pub struct BuildLogRow {
    pub step: u32,
    pub attempt: u32,
    pub cmd: String,
    pub stdout: String,
    pub stderr: String,
    pub truncated: bool,
    pub exit_code: Option<i32>,
    pub started_at: DateTime<Utc>,
    pub duration_ms: Option<u64>,
}

/// What a step wrote since the last time.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct LogChunk {
    /// To standard output.
    pub stdout: String,
    /// To standard error.
    pub stderr: String,
    /// Whether more was dropped.
    pub truncated: bool,
}

/// How much of a build's log one step's is, to whoever reads it as one list of entries. The schema says what those are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LogExtent {
    /// Of which attempt.
    pub attempt: u32,
    /// Which step.
    pub step: u32,
    /// When it began.
    pub started_at: DateTime<Utc>,
    /// How many entries.
    pub entries: u32,
    /// How many of them are lines of its errors, where that was asked.
    pub errors: u32,
}

impl Store {
    /// How many entries each step of each attempt wrote, in order, without what they say. Errors are counted where they are asked for alone:
    /// their texts are read for it.
    pub async fn build_log_extents(
        &self,
        id: Id<Build>,
        with_errors: bool,
    ) -> Result<Vec<LogExtent>, StoreError> {
        sqlx::query!(
            r#"SELECT attempt, step, started_at, entries,
                      CASE WHEN $2 AND duration_ms IS NOT NULL THEN lines_of(stderr, TRUE) ELSE 0 END AS "errors!"
               FROM template_build_logs WHERE build_id = $1 ORDER BY attempt, step"#,
            id.uuid(),
            with_errors,
        )
        .fetch_all(&self.pool)
        .await?
        .into_iter()
        .map(|row| {
            Ok(LogExtent {
                attempt: unsigned("template_build_logs.attempt", row.attempt)?,
                step: unsigned("template_build_logs.step", row.step)?,
                started_at: row.started_at,
                entries: unsigned("template_build_logs.entries", row.entries)?,
                errors: unsigned("template_build_logs.stderr", row.errors)?,
            })
        })
        .collect()
    }

    /// The log of one step of an attempt.
    pub async fn build_log(
        &self,
        id: Id<Build>,
        attempt: u32,
        step: u32,
    ) -> Result<Option<BuildLogRow>, StoreError> {
        let logs = self.logs(id, attempt, step, Some(step)).await?;
        Ok(logs.into_iter().next())
    }

    /// The logs of an attempt from a step on, in the order of its steps.
    pub async fn build_logs(
        &self,
        id: Id<Build>,
        attempt: u32,
        from: u32,
    ) -> Result<Vec<BuildLogRow>, StoreError> {
        self.logs(id, attempt, from, None).await
    }

    async fn logs(
        &self,
        id: Id<Build>,
        attempt: u32,
        from: u32,
        to: Option<u32>,
    ) -> Result<Vec<BuildLogRow>, StoreError> {
        sqlx::query!(
            "SELECT step, attempt, cmd, stdout, stderr, truncated, exit_code, started_at, duration_ms
             FROM template_build_logs
             WHERE build_id = $1 AND attempt = $2 AND step >= $3 AND ($4::integer IS NULL OR step <= $4) ORDER BY step",
            id.uuid(),
            integer(attempt),
            integer(from),
            to.map(integer),
        )
        .fetch_all(&self.pool)
        .await?
        .into_iter()
        .map(|row| {
            Ok(BuildLogRow {
                step: unsigned("template_build_logs.step", row.step)?,
                attempt: unsigned("template_build_logs.attempt", row.attempt)?,
                cmd: row.cmd,
                stdout: row.stdout,
                stderr: row.stderr,
                truncated: row.truncated,
                exit_code: row.exit_code,
                started_at: row.started_at,
                duration_ms: unsigned_opt("template_build_logs.duration_ms", row.duration_ms)?,
            })
        })
        .collect()
    }

    /// Begins the log of a step. Nothing happens where the claim is lost, here and below.
    pub async fn build_log_begin(&self, claim: Claim, step: u32, cmd: &str) -> Result<(), StoreError> {
        sqlx::query!(
            "INSERT INTO template_build_logs (build_id, attempt, step, cmd)
             SELECT id, attempts, $3, $4 FROM template_builds
             WHERE id = $1 AND worker = $2 AND status = 'running'",
            claim.build.uuid(),
            claim.worker.to_string(),
            integer(step),
            cmd,
        )
        .execute(&self.pool)
        .await?;
        Ok(())
    }

    /// Adds to the log of a step.
    pub async fn build_log_add(&self, claim: Claim, step: u32, chunk: &LogChunk) -> Result<(), StoreError> {
        sqlx::query!(
            "UPDATE template_build_logs l SET stdout = l.stdout || $4, stderr = l.stderr || $5,
                    truncated = l.truncated OR $6
             FROM template_builds b
             WHERE b.id = $1 AND b.worker = $2 AND b.status = 'running' AND l.build_id = b.id
               AND l.attempt = b.attempts AND l.step = $3",
            claim.build.uuid(),
            claim.worker.to_string(),
            integer(step),
            chunk.stdout,
            chunk.stderr,
            chunk.truncated,
        )
        .execute(&self.pool)
        .await?;
        Ok(())
    }

    /// Ends the log of a step.
    pub async fn build_log_end(
        &self,
        claim: Claim,
        step: u32,
        exit_code: Option<i32>,
        duration_ms: u64,
    ) -> Result<(), StoreError> {
        sqlx::query!(
            "UPDATE template_build_logs l SET exit_code = $4, duration_ms = $5
             FROM template_builds b
             WHERE b.id = $1 AND b.worker = $2 AND b.status = 'running' AND l.build_id = b.id
               AND l.attempt = b.attempts AND l.step = $3",
            claim.build.uuid(),
            claim.worker.to_string(),
            integer(step),
            exit_code,
            bigint(duration_ms),
        )
        .execute(&self.pool)
        .await?;
        Ok(())
    }
}
