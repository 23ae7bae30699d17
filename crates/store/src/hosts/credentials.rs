//! What hosts come in with and go on with: one-time registration tokens, refresh tokens, epochs.
//!
//! Whoever uses, replaces or revokes a host's tokens holds the host's row first ([`Tx::host_lock`]). A statement that revokes does not see
//! what another transaction is about to add: without that, a refresh under way would leave a token of what was revoked.

use std::time::Duration;

use chrono::{DateTime, Utc};
use sandbar_types::id::{Host, HostRefreshToken, HostToken, Team};
use sandbar_types::{Arch, Id, VmmKind};
use uuid::Uuid;

use super::{HostRow, Raw, hosts};
use crate::convert::integer;
use crate::{Store, StoreError, Tx};

/// What an agent says of its host when it registers.
#[derive(Debug, Clone)]
#[expect(missing_docs, reason = "the schema says what each column is")]
pub struct RegistrationRow<'a> {
    pub arch: Arch,
    pub vmm: VmmKind,
    pub cpu_cores: u32,
    pub memory_mb: u32,
    pub disk_gb: u32,
    pub address: &'a str,
}

/// A refresh token to be kept.
#[derive(Debug, Clone)]
#[expect(missing_docs, reason = "the schema says what each column is")]
pub struct NewRefreshToken<'a> {
    pub id: Id<HostRefreshToken>,
    pub host_id: Id<Host>,
    pub family_id: Uuid,
    pub token_hash: &'a [u8; 32],
    pub expires_at: DateTime<Utc>,
}

/// A refresh token that somebody showed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ShownRefreshToken {
    /// The token.
    pub id: Id<HostRefreshToken>,
    /// Whose it is.
    pub host_id: Id<Host>,
    /// The registration that it descends from.
    pub family_id: Uuid,
    /// The epoch of the host's tokens.
    pub credential_epoch: i32,
    /// What it was replaced by.
    pub successor: Option<Id<HostRefreshToken>>,
    /// It was revoked, or its time is over.
    pub is_void: bool,
    /// It has a successor.
    pub is_replaced: bool,
    /// Its successor is so new that its reply may have been lost, and that was not assumed before.
    pub in_grace: bool,
    /// Its successor was shown: its reply was not lost.
    pub successor_used: bool,
}

impl Tx {
    /// Keeps a one-time token.
    pub async fn host_token_insert(
        &mut self,
        id: Id<HostToken>,
        host: Id<Host>,
        token_hash: &[u8; 32],
        expires_at: DateTime<Utc>,
    ) -> Result<(), StoreError> {
        sqlx::query!(
            "INSERT INTO host_tokens (id, host_id, token_hash, expires_at) VALUES ($1, $2, $3, $4)",
            id.uuid(),
            host.uuid(),
            token_hash,
            expires_at,
        )
        .execute(self.connection())
        .await?;
        Ok(())
    }

    /// Uses up a one-time token, and holds its host until the transaction ends. None when it is unknown, used, expired, or its host is
    /// deleted.
    pub async fn host_token_use(&mut self, token_hash: &[u8; 32]) -> Result<Option<Id<Host>>, StoreError> {
        let host = sqlx::query_scalar!("SELECT host_id FROM host_tokens WHERE token_hash = $1", token_hash)
            .fetch_optional(self.connection())
            .await?;
        let Some(host) = host.map(Id::from_uuid) else { return Ok(None) };
        if self.host_lock(host).await?.is_none() {
            return Ok(None);
        }
        let used = sqlx::query!(
            "UPDATE host_tokens SET used_at = now() WHERE token_hash = $1 AND used_at IS NULL AND expires_at > now()",
            token_hash,
        )
        .execute(self.connection())
        .await?;
        Ok((used.rows_affected() > 0).then_some(host))
    }

    /// Writes down what an agent says of its host, and begins a new epoch of its credentials: those of a registration before are
    /// void, and so are its refresh tokens.
    pub async fn host_register(
        &mut self,
        id: Id<Host>,
        registration: &RegistrationRow<'_>,
    ) -> Result<HostRow, StoreError> {
        self.host_lock(id).await?;
        self.host_refresh_tokens_revoke(id).await?;
        hosts!(
            "UPDATE hosts SET arch = $2, vmm = $3, cpu_cores = $4, memory_mb = $5, disk_gb = $6, address = $7,
                    status = CASE WHEN status = 'pending' THEN 'offline' ELSE status END,
                    credential_epoch = credential_epoch + 1, generation = generation + 1, updated_at = now()
             WHERE id = $1 RETURNING",
            "",
            id.uuid(),
            registration.arch.as_str(),
            registration.vmm.as_str(),
            integer(registration.cpu_cores),
            integer(registration.memory_mb),
            integer(registration.disk_gb),
            registration.address,
        )
        .fetch_one(self.connection())
        .await?
        .try_into()
    }

    /// Keeps a refresh token.
    pub async fn host_refresh_token_insert(&mut self, new: &NewRefreshToken<'_>) -> Result<(), StoreError> {
        sqlx::query!(
            "INSERT INTO host_refresh_tokens (id, host_id, family_id, token_hash, expires_at)
             VALUES ($1, $2, $3, $4, $5)",
            new.id.uuid(),
            new.host_id.uuid(),
            new.family_id,
            new.token_hash,
            new.expires_at,
        )
        .execute(self.connection())
        .await?;
        Ok(())
    }

    /// A refresh token that was shown, held with its host until the transaction ends: of two that show it at once, the later sees what
    /// the earlier did. None when it is unknown, or its host is deleted.
    pub async fn host_refresh_token_lock(
        &mut self,
        token_hash: &[u8; 32],
        grace: Duration,
    ) -> Result<Option<ShownRefreshToken>, StoreError> {
        let host =
            sqlx::query_scalar!("SELECT host_id FROM host_refresh_tokens WHERE token_hash = $1", token_hash)
                .fetch_optional(self.connection())
                .await?;
        let Some(host) = host else { return Ok(None) };
        let Some(host) = self.host_lock(Id::from_uuid(host)).await? else { return Ok(None) };
        let row = sqlx::query!(
            r#"SELECT t.id, t.family_id, t.replaced_by, t.grace_used,
                      t.revoked_at IS NOT NULL AS "revoked!", t.expires_at <= now() AS "expired!",
                      t.replaced_at IS NOT NULL AS "replaced!",
                      COALESCE(t.replaced_at > now() - make_interval(secs => $2), FALSE) AS "in_grace!",
                      EXISTS (SELECT 1 FROM host_refresh_tokens s
                              WHERE s.id = t.replaced_by AND s.replaced_at IS NOT NULL) AS "successor_used!"
               FROM host_refresh_tokens t WHERE t.token_hash = $1 FOR NO KEY UPDATE"#,
            token_hash,
            grace.as_secs_f64(),
        )
        .fetch_optional(self.connection())
        .await?;
        Ok(row.map(|row| ShownRefreshToken {
            id: Id::from_uuid(row.id),
            host_id: host.id,
            family_id: row.family_id,
            credential_epoch: host.credential_epoch,
            successor: row.replaced_by.map(Id::from_uuid),
            is_void: row.revoked || row.expired,
            is_replaced: row.replaced,
            in_grace: row.in_grace && !row.grace_used,
            successor_used: row.successor_used,
        }))
    }

    /// Says that a refresh token has a successor, which is kept already. One that it had before, and that nobody got, is void.
    pub async fn host_refresh_token_replace(
        &mut self,
        shown: &ShownRefreshToken,
        successor: Id<HostRefreshToken>,
    ) -> Result<(), StoreError> {
        sqlx::query!(
            "UPDATE host_refresh_tokens SET revoked_at = now() WHERE id = $1 AND revoked_at IS NULL",
            shown.successor.map(Id::uuid),
        )
        .execute(self.connection())
        .await?;
        sqlx::query!(
            "UPDATE host_refresh_tokens SET grace_used = replaced_at IS NOT NULL,
                    replaced_at = COALESCE(replaced_at, now()), replaced_by = $2 WHERE id = $1",
            shown.id.uuid(),
            successor.uuid(),
        )
        .execute(self.connection())
        .await?;
        Ok(())
    }

    /// Ends all credentials that descend from the same registration as a token that was shown again: its refresh tokens, and with the
    /// epoch its host tokens. The host is held since the token was. Whose it is.
    pub async fn host_family_revoke(&mut self, shown: &ShownRefreshToken) -> Result<Id<Team>, StoreError> {
        sqlx::query!(
            "UPDATE host_refresh_tokens SET revoked_at = now() WHERE family_id = $1 AND revoked_at IS NULL",
            shown.family_id,
        )
        .execute(self.connection())
        .await?;
        let team = sqlx::query_scalar!(
            "UPDATE hosts SET credential_epoch = credential_epoch + 1, updated_at = now() WHERE id = $1
             RETURNING team_id",
            shown.host_id.uuid(),
        )
        .fetch_one(self.connection())
        .await?;
        Ok(Id::from_uuid(team))
    }

    /// The caller holds the host.
    pub(super) async fn host_refresh_tokens_revoke(&mut self, host: Id<Host>) -> Result<(), StoreError> {
        sqlx::query!(
            "UPDATE host_refresh_tokens SET revoked_at = now() WHERE host_id = $1 AND revoked_at IS NULL",
            host.uuid(),
        )
        .execute(self.connection())
        .await?;
        Ok(())
    }
}

impl Store {
    /// Forgets refresh tokens and registration tokens that have been void for so long that showing them tells nothing any more.
    pub async fn host_tokens_prune(&self, before: DateTime<Utc>) -> Result<u64, StoreError> {
        let refresh = sqlx::query!("DELETE FROM host_refresh_tokens WHERE expires_at < $1", before)
            .execute(&self.pool)
            .await?;
        let registration =
            sqlx::query!("DELETE FROM host_tokens WHERE expires_at < $1", before).execute(&self.pool).await?;
        Ok(refresh.rows_affected() + registration.rows_affected())
    }
}
