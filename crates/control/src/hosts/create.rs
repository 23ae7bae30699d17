//! Adding hosts, finding them, and who may.

use std::time::Duration;

use chrono::Utc;
use sandbar_store::audit::Outcome;
use sandbar_store::hosts::{HostRow, NewHostRow};
use sandbar_store::{Position, Tx};
use sandbar_types::Id;
use sandbar_types::id::{self, Team};
use secrecy::SecretString;

use super::{CreatedHost, Host, HostError, HostKind, InvalidHost, NewHost};
use crate::access::{AccessError, Role};
use crate::secrets::{random_token, token_hash};
use crate::{Actor, Control, OpContext, Page, PageRequest, audit};

/// How long a registration token may be used.
const TOKEN_LIFE: Duration = Duration::from_secs(3600);
/// Longest provider or zone, in bytes.
const LABEL_BYTES: usize = 128;

impl Control {
    /// Adds a host, and makes the token that its agent registers with: one of the platform, for its administrators; or the caller's
    /// team's own, for its admins and owner.
    pub async fn host_create(&self, ctx: &OpContext, new: &NewHost) -> Result<CreatedHost, HostError> {
        let NewHost { kind, provider, availability_zone } = new;
        label("provider", provider.as_deref())?;
        label("availability_zone", availability_zone.as_deref())?;
        let mut tx = self.store().begin().await?;
        let team_id = match kind {
            HostKind::Regular => {
                ctx.platform_admin()?;
                Id::PLATFORM
            }
            HostKind::Byoc => self.team_that_brings(&mut tx, ctx).await?,
        };
        let host = tx
            .host_insert(&NewHostRow {
                id: Id::new(),
                kind: kind.as_str(),
                team_id,
                provider: provider.as_deref(),
                availability_zone: availability_zone.as_deref(),
                created_by: match &ctx.actor {
                    Actor::User { id, .. } => Some(*id),
                    _ => None,
                },
            })
            .await?;
        let registration_token = issue(&mut tx, host.id).await?;
        tx.audit(&audit::host(ctx, (host.id, host.team_id), "add", Outcome::Success)).await?;
        tx.commit().await?;
        Ok(CreatedHost { host: host.try_into()?, registration_token })
    }

    /// The team that the caller acts for, whose admin they are, if it may bring hosts.
    async fn team_that_brings(&self, tx: &mut Tx, ctx: &OpContext) -> Result<Id<Team>, HostError> {
        ctx.person()?;
        let team = ctx.team().map_err(AccessError::from)?;
        let access = self.team_access(tx, ctx, team, Role::Admin).await?;
        if access.team.is_byoc { Ok(team) } else { Err(HostError::NotByoc) }
    }

    /// A new registration token for a host, also for one that lost its credentials. Those that it has stay valid until the token
    /// is used.
    pub async fn host_issue_token(
        &self,
        ctx: &OpContext,
        id: Id<id::Host>,
    ) -> Result<SecretString, HostError> {
        let mut tx = self.store().begin().await?;
        let host = self.host_access(&mut tx, ctx, id).await?;
        let token = issue(&mut tx, host.id).await?;
        tx.audit(&audit::host(ctx, (host.id, host.team_id), "token_issue", Outcome::Success)).await?;
        tx.commit().await?;
        Ok(token)
    }

    /// Hosts, newest first: all for the platform's administrators, those of the team that they act for for others.
    pub async fn host_list(&self, ctx: &OpContext, page: &PageRequest) -> Result<Page<Host>, HostError> {
        let team = if ctx.is_platform() {
            None
        } else {
            ctx.person()?;
            Some(ctx.team().map_err(AccessError::from)?)
        };
        let rows = self.store().host_list(team, page.after(), page.fetch()).await?;
        let rows = rows.into_iter().map(Host::try_from).collect::<Result<Vec<_>, _>>()?;
        let position = |host: &Host| Position { created_at: host.created_at, id: host.id.uuid() };
        Ok(page.page(rows, position, |host| host))
    }

    /// One host, for the platform's administrators and the members of the team that brought it.
    pub async fn host_get(&self, ctx: &OpContext, id: Id<id::Host>) -> Result<Host, HostError> {
        Ok(self.host_seen(ctx, id).await?.try_into()?)
    }

    /// A host to look at.
    pub(super) async fn host_seen(&self, ctx: &OpContext, id: Id<id::Host>) -> Result<HostRow, HostError> {
        let row = self.store().host_find(id).await?.ok_or(HostError::NotFound { id })?;
        if !ctx.is_platform() {
            self.team_seen(ctx, row.team_id).await.map_err(|error| hidden(id, error))?;
        }
        Ok(row)
    }

    /// A host to change, held by the transaction: for the platform's administrators, and the admins and owner of the team that
    /// brought it.
    pub(super) async fn host_access(
        &self,
        tx: &mut Tx,
        ctx: &OpContext,
        id: Id<id::Host>,
    ) -> Result<HostRow, HostError> {
        let row = self.store().host_find(id).await?.ok_or(HostError::NotFound { id })?;
        // The team before the host, as everywhere. A host never changes teams.
        if !ctx.is_platform() {
            self.team_access(tx, ctx, row.team_id, Role::Admin).await.map_err(|error| hidden(id, error))?;
        }
        tx.host_lock(id).await?.ok_or(HostError::NotFound { id })
    }
}

/// Who is not of the host's team is not told that there is such a host.
fn hidden(id: Id<id::Host>, error: AccessError) -> HostError {
    match error {
        AccessError::NoSuchTeam { .. } => HostError::NotFound { id },
        other => other.into(),
    }
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
