//! Adding hosts, and finding them. For the platform's administrators.

use std::time::Duration;

use chrono::Utc;
use sandbar_store::Tx;
use sandbar_store::audit::Outcome;
use sandbar_store::hosts::NewHostRow;
use sandbar_types::Id;
use sandbar_types::id;
use secrecy::SecretString;

use super::{CreatedHost, Host, HostError, HostKind, InvalidHost, NewHost};
use crate::secrets::{random_token, token_hash};
use crate::{Actor, Control, OpContext, audit};

/// How long a registration token may be used.
const TOKEN_LIFE: Duration = Duration::from_secs(3600);
/// Longest provider or zone, in bytes.
const LABEL_BYTES: usize = 128;

impl Control {
    /// Adds a host of the platform, and makes the token that its agent registers with.
    pub async fn host_create(&self, ctx: &OpContext, new: &NewHost) -> Result<CreatedHost, HostError> {
        authorize(ctx)?;
        let NewHost { provider, availability_zone } = new;
        label("provider", provider.as_deref())?;
        label("availability_zone", availability_zone.as_deref())?;
        let row = NewHostRow {
            id: Id::new(),
            kind: HostKind::Regular.as_str(),
            team_id: Id::PLATFORM,
            provider: provider.as_deref(),
            availability_zone: availability_zone.as_deref(),
            created_by: match &ctx.actor {
                Actor::User { id, .. } => Some(id.uuid()),
                _ => None,
            },
        };
        let mut tx = self.store().begin().await?;
        let host = tx.host_insert(&row).await?;
        let registration_token = issue(&mut tx, host.id).await?;
        tx.audit(&audit::host(ctx, host.id, "add", Outcome::Success)).await?;
        tx.commit().await?;
        Ok(CreatedHost { host: host.try_into()?, registration_token })
    }

    /// A new registration token for a host, also for one that lost its credentials. Those that it has stay valid until the token
    /// is used.
    pub async fn host_issue_token(
        &self,
        ctx: &OpContext,
        id: Id<id::Host>,
    ) -> Result<SecretString, HostError> {
        let host = self.host_get(ctx, id).await?;
        let mut tx = self.store().begin().await?;
        let token = issue(&mut tx, host.id).await?;
        tx.commit().await?;
        Ok(token)
    }

    /// All hosts, oldest first.
    pub async fn host_list(&self, ctx: &OpContext) -> Result<Vec<Host>, HostError> {
        authorize(ctx)?;
        let rows = self.store().host_list().await?;
        Ok(rows.into_iter().map(Host::try_from).collect::<Result<_, _>>()?)
    }

    /// One host.
    pub async fn host_get(&self, ctx: &OpContext, id: Id<id::Host>) -> Result<Host, HostError> {
        authorize(ctx)?;
        let row = self.store().host_find(id).await?.ok_or(HostError::NotFound { id })?;
        Ok(row.try_into()?)
    }
}

fn authorize(ctx: &OpContext) -> Result<(), HostError> {
    if ctx.is_platform() { Ok(()) } else { Err(HostError::Forbidden) }
}

fn label(field: &'static str, text: Option<&str>) -> Result<(), InvalidHost> {
    let too_long = text.is_some_and(|text| text.len() > LABEL_BYTES);
    if too_long { Err(InvalidHost::TooLong(field)) } else { Ok(()) }
}

async fn issue(tx: &mut Tx, host: Id<id::Host>) -> Result<SecretString, HostError> {
    let token = random_token::<32>("htok_");
    tx.host_token_insert(Id::new(), host, &token_hash(&token), Utc::now() + TOKEN_LIFE).await?;
    Ok(token)
}
