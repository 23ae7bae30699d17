//! Secrets of teams. Their values are sealed by the caller, and only [`Store::team_secrets_sealed`] reads them.

use std::collections::BTreeMap;

use chrono::{DateTime, Utc};
use sandbar_types::id::{Secret, Team, User};
use sandbar_types::{Id, SecretName};
use sqlx::types::Json;
use uuid::Uuid;

use crate::convert::{unsigned, word};
use crate::{Position, Store, StoreError, Tx};

/// A secret, without its value.
#[derive(Debug, Clone, PartialEq, Eq)]
#[expect(missing_docs, reason = "the schema says what each column is")]
pub struct SecretRow {
    pub id: Id<Secret>,
    pub name: SecretName,
    pub version: u32,
    pub metadata: BTreeMap<String, String>,
    pub created_by: Option<Id<User>>,
    pub creator_email: Option<String>,
    pub created_at: DateTime<Utc>,
    pub updated_at: DateTime<Utc>,
}

/// A secret's value, sealed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SealedSecret {
    /// Which.
    pub id: Id<Secret>,
    /// What the team calls it.
    pub name: SecretName,
    /// Which of its values.
    pub version: u32,
    /// The value.
    pub sealed: Vec<u8>,
}

/// A secret to be, in its first version.
#[derive(Debug, Clone)]
#[expect(missing_docs, reason = "the schema says what each column is")]
pub struct NewSecretRow<'a> {
    pub id: Id<Secret>,
    pub team_id: Id<Team>,
    pub name: &'a SecretName,
    pub sealed: &'a [u8],
    pub metadata: &'a BTreeMap<String, String>,
    pub created_by: Option<Id<User>>,
}

/// By what a secret is found.
#[derive(Debug, Clone, PartialEq, Eq)]
#[expect(missing_docs, reason = "the names say it")]
pub enum SecretRef {
    Id(Id<Secret>),
    Name(SecretName),
}

impl SecretRef {
    fn id(&self) -> Option<Uuid> {
        match self {
            Self::Id(id) => Some(id.uuid()),
            Self::Name(_) => None,
        }
    }

    fn name(&self) -> Option<&str> {
        match self {
            Self::Id(_) => None,
            Self::Name(name) => Some(name.as_str()),
        }
    }
}

struct Raw {
    id: Uuid,
    name: String,
    version: i32,
    metadata: Json<BTreeMap<String, String>>,
    created_by: Option<Uuid>,
    creator_email: Option<String>,
    created_at: DateTime<Utc>,
    updated_at: DateTime<Utc>,
}

impl TryFrom<Raw> for SecretRow {
    type Error = StoreError;

    fn try_from(raw: Raw) -> Result<Self, StoreError> {
        let Raw { id, name, version, metadata, created_by, creator_email, created_at, updated_at } = raw;
        Ok(Self {
            id: Id::from_uuid(id),
            name: word("team_secrets.name", &name)?,
            version: unsigned("team_secrets.version", version)?,
            metadata: metadata.0,
            created_by: created_by.map(Id::from_uuid),
            creator_email,
            created_at,
            updated_at,
        })
    }
}

impl Store {
    /// A team's secrets, newest first.
    pub async fn team_secret_list(
        &self,
        team: Id<Team>,
        after: Option<Position>,
        limit: i64,
    ) -> Result<Vec<SecretRow>, StoreError> {
        let rows = sqlx::query_as!(
            Raw,
            r#"SELECT s.id, s.name, s.version, s.metadata AS "metadata!: Json<BTreeMap<String, String>>", s.created_by,
                      u.email AS "creator_email?", s.created_at, s.updated_at
               FROM team_secrets s LEFT JOIN users u ON u.id = s.created_by
               WHERE s.team_id = $1 AND ($2::timestamptz IS NULL OR (s.created_at, s.id) < ($2, $3))
               ORDER BY s.created_at DESC, s.id DESC LIMIT $4"#,
            team.uuid(),
            after.map(|after| after.created_at),
            after.map(|after| after.id),
            limit,
        );
        rows.fetch_all(&self.pool).await?.into_iter().map(SecretRow::try_from).collect()
    }

    /// One of a team's secrets.
    pub async fn team_secret(
        &self,
        team: Id<Team>,
        secret: &SecretRef,
    ) -> Result<Option<SecretRow>, StoreError> {
        let row = sqlx::query_as!(
            Raw,
            r#"SELECT s.id, s.name, s.version, s.metadata AS "metadata!: Json<BTreeMap<String, String>>", s.created_by,
                      u.email AS "creator_email?", s.created_at, s.updated_at
               FROM team_secrets s LEFT JOIN users u ON u.id = s.created_by
               WHERE s.team_id = $1 AND (s.id = $2 OR s.name = $3)"#,
            team.uuid(),
            secret.id(),
            secret.name(),
        );
        row.fetch_optional(&self.pool).await?.map(SecretRow::try_from).transpose()
    }

    /// The values of those of a team's secrets that have one of these names, sealed.
    pub async fn team_secrets_sealed(
        &self,
        team: Id<Team>,
        names: &[&str],
    ) -> Result<Vec<SealedSecret>, StoreError> {
        let rows = sqlx::query!(
            "SELECT id, name, version, sealed FROM team_secrets WHERE team_id = $1 AND name = ANY($2::text[])",
            team.uuid(),
            names as _,
        )
        .fetch_all(&self.pool)
        .await?;
        let sealed = rows.into_iter().map(|row| {
            Ok(SealedSecret {
                id: Id::from_uuid(row.id),
                name: word("team_secrets.name", &row.name)?,
                version: unsigned("team_secrets.version", row.version)?,
                sealed: row.sealed,
            })
        });
        sealed.collect()
    }
}

impl Tx {
    /// Adds a secret. One of its name is [`StoreError::Taken`].
    pub async fn team_secret_insert(&mut self, new: &NewSecretRow<'_>) -> Result<(), StoreError> {
        sqlx::query!(
            "INSERT INTO team_secrets (id, team_id, name, sealed, metadata, created_by) VALUES ($1, $2, $3, $4, $5, $6)",
            new.id.uuid(),
            new.team_id.uuid(),
            new.name.as_str(),
            new.sealed,
            Json(new.metadata) as _,
            new.created_by.map(Id::uuid),
        )
        .execute(self.connection())
        .await?;
        Ok(())
    }

    /// One of a team's secrets, held until the transaction ends.
    pub async fn team_secret_lock(
        &mut self,
        team: Id<Team>,
        secret: &SecretRef,
    ) -> Result<Option<SecretRow>, StoreError> {
        let row = sqlx::query_as!(
            Raw,
            r#"SELECT s.id, s.name, s.version, s.metadata AS "metadata!: Json<BTreeMap<String, String>>", s.created_by,
                      u.email AS "creator_email?", s.created_at, s.updated_at
               FROM team_secrets s LEFT JOIN users u ON u.id = s.created_by
               WHERE s.team_id = $1 AND (s.id = $2 OR s.name = $3) FOR UPDATE OF s"#,
            team.uuid(),
            secret.id(),
            secret.name(),
        );
        row.fetch_optional(self.connection()).await?.map(SecretRow::try_from).transpose()
    }

    /// Gives a secret, which the caller holds, its next version; no metadata: what it has. When that was.
    pub async fn team_secret_set(
        &mut self,
        id: Id<Secret>,
        version: u32,
        sealed: &[u8],
        metadata: Option<&BTreeMap<String, String>>,
    ) -> Result<DateTime<Utc>, StoreError> {
        let at = sqlx::query_scalar!(
            "UPDATE team_secrets SET version = $2, sealed = $3, metadata = COALESCE($4, metadata), updated_at = now()
             WHERE id = $1 RETURNING updated_at",
            id.uuid(),
            i32::try_from(version).unwrap_or(i32::MAX),
            sealed,
            metadata.map(Json) as _,
        );
        Ok(at.fetch_one(self.connection()).await?)
    }

    /// Deletes a secret.
    pub async fn team_secret_delete(&mut self, id: Id<Secret>) -> Result<(), StoreError> {
        sqlx::query!("DELETE FROM team_secrets WHERE id = $1", id.uuid()).execute(self.connection()).await?;
        Ok(())
    }

    /// Deletes all of a team's secrets.
    pub async fn team_secrets_delete(&mut self, team: Id<Team>) -> Result<(), StoreError> {
        sqlx::query!("DELETE FROM team_secrets WHERE team_id = $1", team.uuid())
            .execute(self.connection())
            .await?;
        Ok(())
    }
}
