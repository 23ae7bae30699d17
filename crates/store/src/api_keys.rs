//! API keys.

use chrono::{DateTime, Utc};
use sandbar_types::Id;
use sandbar_types::id::{ApiKey, Team, User};

use crate::{Store, StoreError, Tx};

/// A key that is valid now.
#[derive(Debug, Clone, PartialEq, Eq)]
#[expect(missing_docs, reason = "the schema says what each column is")]
pub struct ValidKey {
    pub id: Id<ApiKey>,
    pub name: String,
    pub team_id: Id<Team>,
    /// Whether its last use was written down so long ago that it should be again.
    pub use_is_stale: bool,
}

/// A key to be.
#[derive(Debug, Clone)]
#[expect(missing_docs, reason = "the schema says what each column is")]
pub struct NewApiKeyRow<'a> {
    pub id: Id<ApiKey>,
    pub team_id: Id<Team>,
    pub name: &'a str,
    pub key_hash: &'a [u8; 32],
    pub key_prefix: &'a str,
    pub created_by: Option<Id<User>>,
    pub expires_at: Option<DateTime<Utc>>,
}

impl Store {
    /// The key with this hash, if it is neither revoked nor expired and its team exists.
    pub async fn api_key_find(&self, key_hash: &[u8; 32]) -> Result<Option<ValidKey>, StoreError> {
        let row = sqlx::query!(
            r#"SELECT k.id, k.name, k.team_id,
                      (k.last_used_at IS NULL OR k.last_used_at < now() - interval '1 minute') AS "use_is_stale!"
               FROM api_keys k JOIN teams t ON t.id = k.team_id AND t.deleted_at IS NULL
               WHERE k.key_hash = $1 AND k.revoked_at IS NULL AND (k.expires_at IS NULL OR k.expires_at > now())"#,
            key_hash,
        )
        .fetch_optional(&self.pool)
        .await?;
        Ok(row.map(|row| ValidKey {
            id: Id::from_uuid(row.id),
            name: row.name,
            team_id: Id::from_uuid(row.team_id),
            use_is_stale: row.use_is_stale,
        }))
    }

    /// Writes down that a key was used, unless that was done within the last minute.
    pub async fn api_key_used(&self, id: Id<ApiKey>) -> Result<(), StoreError> {
        sqlx::query!(
            "UPDATE api_keys SET last_used_at = now()
             WHERE id = $1 AND (last_used_at IS NULL OR last_used_at < now() - interval '1 minute')",
            id.uuid(),
        )
        .execute(&self.pool)
        .await?;
        Ok(())
    }
}

impl Tx {
    /// Adds a key.
    pub async fn api_key_insert(&mut self, new: &NewApiKeyRow<'_>) -> Result<(), StoreError> {
        sqlx::query!(
            "INSERT INTO api_keys (id, team_id, name, key_hash, key_prefix, created_by, expires_at)
             VALUES ($1, $2, $3, $4, $5, $6, $7)",
            new.id.uuid(),
            new.team_id.uuid(),
            new.name,
            new.key_hash,
            new.key_prefix,
            new.created_by.map(Id::uuid),
            new.expires_at,
        )
        .execute(self.connection())
        .await?;
        Ok(())
    }

    /// Revokes a team's key, from the next request on. Whether there was one to revoke.
    pub async fn api_key_revoke(&mut self, team: Id<Team>, id: Id<ApiKey>) -> Result<bool, StoreError> {
        let done = sqlx::query!(
            "UPDATE api_keys SET revoked_at = now() WHERE id = $1 AND team_id = $2 AND revoked_at IS NULL",
            id.uuid(),
            team.uuid(),
        )
        .execute(self.connection())
        .await?;
        Ok(done.rows_affected() > 0)
    }
}
