//! Secrets of teams: values that sandboxes are given as environment, and that nobody reads again.
//!
//! Who may: every member sees what secrets there are, and makes some; an admin replaces and deletes any, others what they made. The team's API
//! keys may do all of it.
//!
//! The value is sealed here before the store sees it ([`VaultKey`](crate::secrets)) and opened in one place, for a sandbox that is being made
//! ([`Control::secrets_for`]). Only the current version is kept: what replaces or deletes a value erases it. Sandboxes have copies of their own.

use std::collections::BTreeMap;

use sandbar_store::team_secrets::{NewSecretRow, SecretRef};
use sandbar_store::{Position, StoreError};
use sandbar_types::id::{self, Team};
use sandbar_types::name::InvalidSecretName;
use sandbar_types::{ErrorCode, Id, PerResource, QuotaExceeded, SecretName, limits};
use secrecy::{ExposeSecret as _, SecretString};

use crate::access::{AccessError, store_code};
use crate::context::NoTeam;
use crate::sandboxes::SandboxError;
use crate::{Control, OpContext, Page, PageRequest, audit};

pub use sandbar_store::team_secrets::SecretRow as Secret;

/// Words of the team's own about a secret.
pub type Metadata = BTreeMap<String, String>;

/// Why an operation on secrets failed.
#[derive(Debug, thiserror::Error)]
pub enum TeamSecretError {
    /// The caller may not.
    #[error(transparent)]
    Access(#[from] AccessError),
    /// Not a name.
    #[error("name: {0}")]
    Name(#[from] InvalidSecretName),
    /// Not a value.
    #[error("value: between 1 and {} bytes, without NUL", limits::SECRET_BYTES)]
    Value,
    /// Not metadata.
    #[error(
        "metadata: at most {} entries and {} bytes, a key of 1 to {} bytes and a value of at most {}, without NUL",
        limits::SECRET_METADATA_ENTRIES,
        limits::SECRET_METADATA_BYTES,
        limits::SECRET_METADATA_KEY_BYTES,
        limits::SECRET_METADATA_VALUE_BYTES
    )]
    Metadata,
    /// The team has as many as it may have.
    #[error(transparent)]
    Quota(#[from] QuotaExceeded),
    /// The team has one of this name.
    #[error("there is a secret {name} already")]
    Exists {
        /// The name.
        name: SecretName,
    },
    /// The team has no such secret.
    #[error("there is no secret {secret:?}")]
    NotFound {
        /// What was asked for.
        secret: String,
    },
    /// The database failed.
    #[error("the database failed")]
    Store(#[from] StoreError),
}

impl TeamSecretError {
    /// The code that the API answers with.
    #[must_use]
    pub const fn code(&self) -> ErrorCode {
        match self {
            Self::Access(error) => error.code(),
            Self::Name(_) | Self::Value | Self::Metadata => ErrorCode::InvalidRequest,
            Self::Quota(_) => ErrorCode::RateLimited,
            Self::Exists { .. } => ErrorCode::AlreadyExists,
            Self::NotFound { .. } => ErrorCode::NotFound,
            Self::Store(error) => store_code(error),
        }
    }
}

impl From<NoTeam> for TeamSecretError {
    fn from(error: NoTeam) -> Self {
        Self::Access(error.into())
    }
}

impl Control {
    /// The secrets of the caller's team, newest first.
    pub async fn team_secret_list(
        &self,
        ctx: &OpContext,
        page: &PageRequest,
    ) -> Result<Page<Secret>, TeamSecretError> {
        let rows = self.store().team_secret_list(ctx.team()?, page.after(), page.fetch()).await?;
        let position = |row: &Secret| Position { created_at: row.created_at, id: row.id.uuid() };
        Ok(page.page(rows, position, |secret| secret))
    }

    /// A secret of the caller's team, by its name or id.
    pub async fn team_secret_get(&self, ctx: &OpContext, secret: &str) -> Result<Secret, TeamSecretError> {
        let team = ctx.team()?;
        let found = self.store().team_secret(team, &reference(secret)?).await?;
        found.ok_or_else(|| not_found(secret))
    }

    /// Makes a secret of the caller's team, in its first version.
    pub async fn team_secret_create(
        &self,
        ctx: &OpContext,
        name: &str,
        value: &SecretString,
        metadata: &Metadata,
    ) -> Result<Secret, TeamSecretError> {
        let team = ctx.team()?;
        let name: SecretName = name.parse()?;
        check_value(value)?;
        check_metadata(metadata)?;
        let id = Id::new();
        let mut tx = self.store().begin().await?;
        let keeper = self.keeper(&mut tx, ctx, team).await?;
        let mut room = self.headroom(&mut tx, team).await?;
        let secret = SecretRef::Id(id);
        // Whoever has as many as they may have is still told that the name is taken.
        if tx.team_secret_lock(team, &SecretRef::Name(name.clone())).await?.is_some() {
            return Err(TeamSecretError::Exists { name });
        }
        room.take(&PerResource { secrets: 1, ..PerResource::default() })?;
        tx.team_secret_insert(&NewSecretRow {
            id,
            team_id: team,
            name: &name,
            sealed: &self.vault_key().seal(id, 1, value),
            metadata,
            created_by: keeper.user(),
        })
        .await?;
        tx.audit(&audit::secret(ctx, team, id, (name.as_str(), 1), "create")).await?;
        let made = tx.team_secret_lock(team, &secret).await?.ok_or_else(|| not_found(name.as_str()))?;
        tx.commit().await?;
        Ok(made)
    }

    /// Replaces a secret's value, and its metadata where some are given. It holds for sandboxes that are made from now on.
    pub async fn team_secret_set(
        &self,
        ctx: &OpContext,
        secret: &str,
        value: &SecretString,
        metadata: Option<&Metadata>,
    ) -> Result<Secret, TeamSecretError> {
        let team = ctx.team()?;
        let wanted = reference(secret)?;
        check_value(value)?;
        metadata.map_or(Ok(()), check_metadata)?;
        let mut tx = self.store().begin().await?;
        let keeper = self.keeper(&mut tx, ctx, team).await?;
        let before = tx.team_secret_lock(team, &wanted).await?.ok_or_else(|| not_found(secret))?;
        keeper.may_change(before.created_by)?;
        let (id, version) = (before.id, before.version.saturating_add(1));
        let sealed = self.vault_key().seal(id, version, value);
        let updated_at = tx.team_secret_set(id, version, &sealed, metadata).await?;
        tx.audit(&audit::secret(ctx, team, id, (before.name.as_str(), version), "update")).await?;
        tx.commit().await?;
        let metadata = metadata.cloned().unwrap_or(before.metadata);
        Ok(Secret { version, metadata, updated_at, ..before })
    }

    /// Deletes a secret. Sandboxes that were given it keep their copies.
    pub async fn team_secret_delete(&self, ctx: &OpContext, secret: &str) -> Result<(), TeamSecretError> {
        let team = ctx.team()?;
        let wanted = reference(secret)?;
        let mut tx = self.store().begin().await?;
        let keeper = self.keeper(&mut tx, ctx, team).await?;
        let row = tx.team_secret_lock(team, &wanted).await?.ok_or_else(|| not_found(secret))?;
        keeper.may_change(row.created_by)?;
        tx.team_secret_delete(row.id).await?;
        tx.audit(&audit::secret(ctx, team, row.id, (row.name.as_str(), row.version), "delete")).await?;
        Ok(tx.commit().await?)
    }

    /// The values of the secrets that a sandbox is to be given: by the name of a variable, as the caller's map has the secret's name.
    pub(crate) async fn secrets_for(
        &self,
        team: Id<Team>,
        wanted: &BTreeMap<String, String>,
    ) -> Result<BTreeMap<String, SecretString>, SandboxError> {
        if wanted.is_empty() {
            return Ok(BTreeMap::new());
        }
        let unknown = |secret: &String| SandboxError::SecretNotFound { secret: secret.clone() };
        let mut names = BTreeMap::new();
        for (variable, secret) in wanted {
            names.insert(variable, secret.parse::<SecretName>().map_err(|_| unknown(secret))?);
        }
        let asked: Vec<&str> = names.values().map(SecretName::as_str).collect();
        let found = self.store().team_secrets_sealed(team, &asked).await?;
        let mut values = BTreeMap::new();
        for (variable, name) in names {
            let row = found.iter().find(|row| row.name == name);
            let row = row.ok_or_else(|| unknown(&name.to_string()))?;
            let value = self.vault_key().open(row.id, row.version, &row.sealed);
            values.insert(variable.clone(), value.map_err(SandboxError::SecretLost)?);
        }
        Ok(values)
    }
}

/// By a name, or by an id in our form or E2B's. Text that is neither names nothing.
fn reference(text: &str) -> Result<SecretRef, TeamSecretError> {
    let by_id = text.parse().ok().or_else(|| Id::<id::Secret>::from_e2b(text)).map(SecretRef::Id);
    let by_name = || text.parse().ok().map(SecretRef::Name);
    by_id.or_else(by_name).ok_or_else(|| not_found(text))
}

fn not_found(secret: &str) -> TeamSecretError {
    TeamSecretError::NotFound { secret: secret.to_owned() }
}

fn check_value(value: &SecretString) -> Result<(), TeamSecretError> {
    let value = value.expose_secret();
    let fits = (1..=limits::SECRET_BYTES).contains(&value.len()) && !value.contains('\0');
    if fits { Ok(()) } else { Err(TeamSecretError::Value) }
}

fn check_metadata(metadata: &Metadata) -> Result<(), TeamSecretError> {
    let of_entry = |(key, value): (&String, &String)| {
        (1..=limits::SECRET_METADATA_KEY_BYTES).contains(&key.len())
            && value.len() <= limits::SECRET_METADATA_VALUE_BYTES
            && !key.contains('\0')
            && !value.contains('\0')
    };
    let bytes: usize = metadata.iter().map(|(key, value)| key.len() + value.len()).sum();
    let fits = metadata.len() <= limits::SECRET_METADATA_ENTRIES
        && bytes <= limits::SECRET_METADATA_BYTES
        && metadata.iter().all(of_entry);
    if fits { Ok(()) } else { Err(TeamSecretError::Metadata) }
}
