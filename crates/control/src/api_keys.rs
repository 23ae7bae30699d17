//! API keys: a team's, made by a person. Who leaves the team takes theirs along.

use chrono::{DateTime, Datelike as _, Utc};
use sandbar_store::api_keys::{ApiKeyRow, NewApiKeyRow};
use sandbar_store::{Position, StoreError};
use sandbar_types::id::{self, Team, User};
use sandbar_types::{ErrorCode, Id};
use secrecy::{ExposeSecret as _, SecretString};

use crate::access::{AccessError, Role, store_code};
use crate::auth::{new_api_key, shown_prefix};
use crate::context::NoTeam;
use crate::secrets::token_hash;
use crate::{Control, OpContext, Page, PageRequest, audit};

/// Longest name, in characters.
const NAME_CHARS: usize = 100;

/// A key, without what it opens with.
#[derive(Debug, Clone)]
#[expect(missing_docs, reason = "the names are the API's own")]
pub struct ApiKey {
    pub id: Id<id::ApiKey>,
    pub team_id: Id<Team>,
    pub name: String,
    pub key_prefix: String,
    pub created_by: Option<Id<User>>,
    pub creator_email: Option<String>,
    pub created_at: DateTime<Utc>,
    pub last_used_at: Option<DateTime<Utc>>,
    pub expires_at: Option<DateTime<Utc>>,
}

/// A key that was just made.
#[derive(Debug)]
pub struct CreatedKey {
    /// The key.
    pub key: ApiKey,
    /// What it opens with. Shown once.
    pub secret: SecretString,
}

/// Why an operation on keys failed.
#[derive(Debug, thiserror::Error)]
pub enum ApiKeyError {
    /// The caller may not.
    #[error(transparent)]
    Access(#[from] AccessError),
    /// Not a name.
    #[error("name: between 1 and 100 characters, none of them a control character")]
    Name,
    /// It would never work.
    #[error("expires_at: it must be in the future, and before the year 3000")]
    Expiry,
    /// No such key of the team, or it is revoked.
    #[error("there is no API key {id}")]
    NotFound {
        /// Which.
        id: Id<id::ApiKey>,
    },
    /// The database failed.
    #[error("the database failed")]
    Store(#[from] StoreError),
}

impl ApiKeyError {
    /// The code that the API answers with.
    #[must_use]
    pub const fn code(&self) -> ErrorCode {
        match self {
            Self::Access(error) => error.code(),
            Self::Name | Self::Expiry => ErrorCode::InvalidRequest,
            Self::NotFound { .. } => ErrorCode::NotFound,
            Self::Store(error) => store_code(error),
        }
    }
}

impl From<NoTeam> for ApiKeyError {
    fn from(error: NoTeam) -> Self {
        Self::Access(error.into())
    }
}

impl From<ApiKeyRow> for ApiKey {
    fn from(row: ApiKeyRow) -> Self {
        let ApiKeyRow {
            id,
            team_id,
            name,
            key_prefix,
            created_by,
            creator_email,
            created_at,
            last_used_at,
            expires_at,
        } = row;
        Self {
            id,
            team_id,
            name,
            key_prefix,
            created_by,
            creator_email,
            created_at,
            last_used_at,
            expires_at,
        }
    }
}

impl Control {
    /// The keys of the caller's team, newest first.
    pub async fn api_key_list(
        &self,
        ctx: &OpContext,
        page: &PageRequest,
    ) -> Result<Page<ApiKey>, ApiKeyError> {
        ctx.person()?;
        let rows = self.store().api_key_list(ctx.team()?, page.after(), page.fetch()).await?;
        let position = |row: &ApiKeyRow| Position { created_at: row.created_at, id: row.id.uuid() };
        Ok(page.page(rows, position, ApiKey::from))
    }

    /// Makes a key of the caller's team.
    pub async fn api_key_create(
        &self,
        ctx: &OpContext,
        name: &str,
        expires_at: Option<DateTime<Utc>>,
    ) -> Result<CreatedKey, ApiKeyError> {
        ctx.person()?;
        let team = ctx.team()?;
        let name = name.trim();
        if name.is_empty() || name.chars().count() > NAME_CHARS || name.contains(char::is_control) {
            return Err(ApiKeyError::Name);
        }
        if expires_at.is_some_and(|at| at <= Utc::now() || at.year() >= 3000) {
            return Err(ApiKeyError::Expiry);
        }
        let (id, secret) = (Id::new(), new_api_key());
        let mut tx = self.store().begin().await?;
        // The lock holds off their leaving: a key cannot outlive its maker's membership by coming a moment late.
        let access = self.team_access(&mut tx, ctx, team, Role::Member).await?;
        let row = NewApiKeyRow {
            id,
            team_id: team,
            name,
            key_hash: &token_hash(&secret),
            key_prefix: shown_prefix(secret.expose_secret()),
            created_by: Some(access.user),
            expires_at,
        };
        tx.api_key_insert(&row).await?;
        tx.audit(&audit::api_key(ctx, team, id, name, "create")).await?;
        let made = tx.api_key_lock(team, id).await?.ok_or(ApiKeyError::NotFound { id })?;
        tx.commit().await?;
        Ok(CreatedKey { key: made.into(), secret })
    }

    /// Revokes a key of the caller's team, from the next request on: an admin any, others what they made.
    pub async fn api_key_revoke(&self, ctx: &OpContext, id: Id<id::ApiKey>) -> Result<(), ApiKeyError> {
        ctx.person()?;
        let team = ctx.team()?;
        let mut tx = self.store().begin().await?;
        let access = self.team_access(&mut tx, ctx, team, Role::Member).await?;
        let key = tx.api_key_lock(team, id).await?.ok_or(ApiKeyError::NotFound { id })?;
        if key.created_by != Some(access.user) {
            access.at_least(Role::Admin)?;
        }
        tx.api_key_revoke(id).await?;
        tx.audit(&audit::api_key(ctx, team, id, &key.name, "revoke")).await?;
        Ok(tx.commit().await?)
    }
}
