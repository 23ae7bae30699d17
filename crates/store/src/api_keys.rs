//! API keys.

use chrono::{DateTime, Utc};
use sandbar_types::Id;
use sandbar_types::id::{ApiKey, Team, User};
use uuid::Uuid;

use crate::{Position, Store, StoreError, Tx};

/// A key that is valid now.
#[derive(Debug, Clone, PartialEq, Eq)]
#[expect(missing_docs, reason = "the schema says what each column is")]
pub struct ValidKey {
    pub id: Id<ApiKey>,
    pub name: String,
    pub team_id: Id<Team>,
}

/// A key that was not revoked, as lists show it.
#[derive(Debug, Clone, PartialEq, Eq)]
#[expect(missing_docs, reason = "the schema says what each column is")]
pub struct ApiKeyRow {
    pub id: Id<ApiKey>,
    pub team_id: Id<Team>,
    pub name: String,
    pub key_prefix: String,
    pub created_by: Option<Id<User>>,
    pub creator_email: Option<String>,
    pub created_at: DateTime<Utc>,
    pub last_used_at: Option<DateTime<Utc>>,
    pub expires_at: Option<DateTime<Utc>>,
}

struct Raw {
    id: Uuid,
    team_id: Uuid,
    name: String,
    key_prefix: String,
    created_by: Option<Uuid>,
    creator_email: Option<String>,
    created_at: DateTime<Utc>,
    last_used_at: Option<DateTime<Utc>>,
    expires_at: Option<DateTime<Utc>>,
}

impl From<Raw> for ApiKeyRow {
    fn from(raw: Raw) -> Self {
        let Raw {
            id,
            team_id,
            name,
            key_prefix,
            created_by,
            creator_email,
            created_at,
            last_used_at,
            expires_at,
        } = raw;
        Self {
            id: Id::from_uuid(id),
            team_id: Id::from_uuid(team_id),
            name,
            key_prefix,
            created_by: created_by.map(Id::from_uuid),
            creator_email,
            created_at,
            last_used_at,
            expires_at,
        }
    }
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
            "SELECT k.id, k.name, k.team_id
             FROM api_keys k JOIN teams t ON t.id = k.team_id AND t.deleted_at IS NULL
             WHERE k.key_hash = $1 AND k.revoked_at IS NULL AND (k.expires_at IS NULL OR k.expires_at > now())",
            key_hash,
        )
        .fetch_optional(&self.pool)
        .await?;
        Ok(row.map(|row| ValidKey {
            id: Id::from_uuid(row.id),
            name: row.name,
            team_id: Id::from_uuid(row.team_id),
        }))
    }

    /// A team's keys that were not revoked, newest first.
    pub async fn api_key_list(
        &self,
        team: Id<Team>,
        after: Option<Position>,
        limit: i64,
    ) -> Result<Vec<ApiKeyRow>, StoreError> {
        let rows = sqlx::query_as!(
            Raw,
            r#"SELECT k.id, k.team_id, k.name, k.key_prefix, k.created_by, u.email AS "creator_email?", k.created_at,
                      k.last_used_at, k.expires_at
               FROM api_keys k JOIN teams t ON t.id = k.team_id AND t.deleted_at IS NULL
               LEFT JOIN users u ON u.id = k.created_by
               WHERE k.team_id = $1 AND k.revoked_at IS NULL
                 AND ($2::timestamptz IS NULL OR (k.created_at, k.id) < ($2, $3))
               ORDER BY k.created_at DESC, k.id DESC LIMIT $4"#,
            team.uuid(),
            after.map(|after| after.created_at),
            after.map(|after| after.id),
            limit,
        );
        Ok(rows.fetch_all(&self.pool).await?.into_iter().map(ApiKeyRow::from).collect())
    }

    /// Writes down when keys were last used.
    pub async fn api_keys_used(&self, uses: &[(Id<ApiKey>, DateTime<Utc>)]) -> Result<(), StoreError> {
        let ids: Vec<Uuid> = uses.iter().map(|(id, _)| id.uuid()).collect();
        let at: Vec<DateTime<Utc>> = uses.iter().map(|(_, at)| *at).collect();
        sqlx::query!(
            "UPDATE api_keys k SET last_used_at = l.at
             FROM (SELECT k.id, u.at FROM UNNEST($1::uuid[], $2::timestamptz[]) AS u (id, at)
                   JOIN api_keys k ON k.id = u.id
                   WHERE k.last_used_at IS NULL OR k.last_used_at < u.at FOR NO KEY UPDATE OF k SKIP LOCKED) AS l
             WHERE k.id = l.id",
            &ids,
            &at,
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

    /// A team's key that was not revoked, held until the transaction ends.
    pub async fn api_key_lock(
        &mut self,
        team: Id<Team>,
        id: Id<ApiKey>,
    ) -> Result<Option<ApiKeyRow>, StoreError> {
        let row = sqlx::query_as!(
            Raw,
            r#"SELECT k.id, k.team_id, k.name, k.key_prefix, k.created_by, u.email AS "creator_email?", k.created_at,
                      k.last_used_at, k.expires_at
               FROM api_keys k LEFT JOIN users u ON u.id = k.created_by
               WHERE k.id = $1 AND k.team_id = $2 AND k.revoked_at IS NULL FOR UPDATE OF k"#,
            id.uuid(),
            team.uuid(),
        );
        Ok(row.fetch_optional(self.connection()).await?.map(ApiKeyRow::from))
    }

    /// Revokes a team's key, from the next request on.
    pub async fn api_key_revoke(&mut self, id: Id<ApiKey>) -> Result<(), StoreError> {
        sqlx::query!(
            "UPDATE api_keys SET revoked_at = now() WHERE id = $1 AND revoked_at IS NULL",
            id.uuid()
        )
        .execute(self.connection())
        .await?;
        Ok(())
    }

    /// Revokes all of a team's keys, or all that one person made. How many there were.
    pub async fn api_keys_revoke(
        &mut self,
        team: Id<Team>,
        made_by: Option<Id<User>>,
    ) -> Result<u64, StoreError> {
        let done = sqlx::query!(
            "UPDATE api_keys SET revoked_at = now()
             WHERE team_id = $1 AND revoked_at IS NULL AND ($2::uuid IS NULL OR created_by = $2)",
            team.uuid(),
            made_by.map(Id::uuid),
        );
        Ok(done.execute(self.connection()).await?.rows_affected())
    }
}
