//! What hosts come in with and go on with: one-time registration tokens, refresh tokens, epochs.

use chrono::{DateTime, Utc};
use sandbar_types::id::{Host, HostRefreshToken, HostToken};
use sandbar_types::{Arch, Id, VmmKind};
use uuid::Uuid;

use super::{HostRow, Raw, hosts};
use crate::convert::integer;
use crate::{StoreError, Tx};

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

    /// Uses up a one-time token. None when it is unknown, used, expired, or its host is deleted.
    pub async fn host_token_use(&mut self, token_hash: &[u8; 32]) -> Result<Option<Id<Host>>, StoreError> {
        Ok(sqlx::query_scalar!(
            "UPDATE host_tokens t SET used_at = now() FROM hosts h
             WHERE t.token_hash = $1 AND t.used_at IS NULL AND t.expires_at > now()
               AND h.id = t.host_id AND h.deleted_at IS NULL
             RETURNING t.host_id",
            token_hash,
        )
        .fetch_optional(self.connection())
        .await?
        .map(Id::from_uuid))
    }

    /// Writes down what an agent says of its host, and begins a new epoch of its credentials: those of a registration before are
    /// void, and so are its refresh tokens.
    pub async fn host_register(
        &mut self,
        id: Id<Host>,
        registration: &RegistrationRow<'_>,
    ) -> Result<HostRow, StoreError> {
        sqlx::query!(
            "UPDATE host_refresh_tokens SET revoked_at = now() WHERE host_id = $1 AND revoked_at IS NULL",
            id.uuid(),
        )
        .execute(self.connection())
        .await?;
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
}
