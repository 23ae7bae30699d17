//! Idempotency keys of requests to create a sandbox.

use chrono::{DateTime, Utc};
use sandbar_types::id::{Sandbox, Team};
use sandbar_types::{Id, SandboxStatus};

use crate::convert::word;
use crate::{Store, StoreError, Tx};

/// What a key that was used before stands for.
#[derive(Debug, Clone, PartialEq, Eq)]
#[expect(missing_docs, reason = "the schema says what each column is")]
pub struct Use {
    pub request_hash: Vec<u8>,
    pub sandbox_id: Id<Sandbox>,
    pub sandbox_status: SandboxStatus,
    /// Whether the sandbox ever ran: then the first request was carried out, whatever became of the sandbox later.
    pub started: bool,
}

impl Tx {
    /// Takes a key for a new sandbox (whose row may be made after: the constraint is checked at once, so insert it first). None =
    /// it is taken now; otherwise what it stands for already. Waits for another request with the same key that is just being
    /// written.
    pub async fn idempotency_take(
        &mut self,
        team: Id<Team>,
        key: &str,
        request_hash: &[u8; 32],
        sandbox: Id<Sandbox>,
    ) -> Result<Option<Use>, StoreError> {
        let taken = sqlx::query!(
            "INSERT INTO idempotency_keys (team_id, key, request_hash, sandbox_id) VALUES ($1, $2, $3, $4)
             ON CONFLICT (team_id, key) DO NOTHING",
            team.uuid(),
            key,
            request_hash,
            sandbox.uuid(),
        )
        .execute(self.connection())
        .await?;
        if taken.rows_affected() > 0 {
            return Ok(None);
        }
        // Locked, so that of several requests that find a failed first attempt one takes its place.
        let row = sqlx::query!(
            r#"SELECT k.request_hash, k.sandbox_id, s.status, (s.started_at IS NOT NULL) AS "started!"
               FROM idempotency_keys k JOIN sandboxes s ON s.id = k.sandbox_id
               WHERE k.team_id = $1 AND k.key = $2 FOR UPDATE OF k"#,
            team.uuid(),
            key,
        )
        .fetch_one(self.connection())
        .await?;
        Ok(Some(Use {
            request_hash: row.request_hash,
            sandbox_id: Id::from_uuid(row.sandbox_id),
            sandbox_status: word("sandboxes.status", &row.status)?,
            started: row.started,
        }))
    }

    /// Lets a key whose first attempt failed stand for another sandbox.
    pub async fn idempotency_retake(
        &mut self,
        team: Id<Team>,
        key: &str,
        request_hash: &[u8; 32],
        sandbox: Id<Sandbox>,
    ) -> Result<(), StoreError> {
        sqlx::query!(
            "UPDATE idempotency_keys SET request_hash = $3, sandbox_id = $4, created_at = now()
             WHERE team_id = $1 AND key = $2",
            team.uuid(),
            key,
            request_hash,
            sandbox.uuid(),
        )
        .execute(self.connection())
        .await?;
        Ok(())
    }
}

impl Store {
    /// What a key stands for.
    pub async fn idempotency_find(&self, team: Id<Team>, key: &str) -> Result<Option<Use>, StoreError> {
        let row = sqlx::query!(
            r#"SELECT k.request_hash, k.sandbox_id, s.status, (s.started_at IS NOT NULL) AS "started!"
               FROM idempotency_keys k JOIN sandboxes s ON s.id = k.sandbox_id
               WHERE k.team_id = $1 AND k.key = $2"#,
            team.uuid(),
            key,
        )
        .fetch_optional(&self.pool)
        .await?;
        let Some(row) = row else { return Ok(None) };
        Ok(Some(Use {
            request_hash: row.request_hash,
            sandbox_id: Id::from_uuid(row.sandbox_id),
            sandbox_status: word("sandboxes.status", &row.status)?,
            started: row.started,
        }))
    }

    /// Forgets keys that are older than `before`.
    pub async fn idempotency_prune(&self, before: DateTime<Utc>) -> Result<u64, StoreError> {
        let done = sqlx::query!("DELETE FROM idempotency_keys WHERE created_at < $1", before)
            .execute(&self.pool)
            .await?;
        Ok(done.rows_affected())
    }
}
