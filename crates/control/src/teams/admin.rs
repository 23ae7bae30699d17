//! What the platform's administrators see and decide.

use sandbar_store::Position;
use sandbar_store::sandboxes::SandboxRow;
use sandbar_store::teams::TeamRow;
use sandbar_types::{Id, SandboxStatus, id};
use serde_json::json;

use super::{Team, TeamError};
use crate::access::AccessError;
use crate::{Control, OpContext, Page, PageRequest, Sandbox, audit};

/// Whether a team may bring hosts of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Byoc {
    /// It may.
    On,
    /// It may not.
    Off,
}

impl Control {
    /// All teams, newest first.
    pub async fn admin_team_list(
        &self,
        ctx: &OpContext,
        page: &PageRequest,
    ) -> Result<Page<Team>, TeamError> {
        ctx.platform_admin()?;
        let rows = self.store().team_list(page.after(), page.fetch()).await?;
        let position = |row: &TeamRow| Position { created_at: row.created_at, id: row.id.uuid() };
        Ok(page.page(rows, position, |row| Team::new(row, None)))
    }

    /// The sandboxes of all teams, or of one, newest first. Those that have ended only where `status` asks for them.
    pub async fn admin_sandbox_list(
        &self,
        ctx: &OpContext,
        team: Option<Id<id::Team>>,
        status: &[SandboxStatus],
        page: &PageRequest,
    ) -> Result<Page<Sandbox>, TeamError> {
        ctx.platform_admin()?;
        let rows = self.store().sandbox_list_everywhere(team, status, page.after(), page.fetch()).await?;
        let rows: Vec<Sandbox> =
            rows.into_iter().map(|row: SandboxRow| Sandbox::try_from(row)).collect::<Result<_, _>>()?;
        let position = |row: &Sandbox| Position { created_at: row.created_at, id: row.id.uuid() };
        Ok(page.page(rows, position, |row| row))
    }

    /// Lets a team bring hosts of its own, or not; not as long as it has some.
    pub async fn team_set_byoc(
        &self,
        ctx: &OpContext,
        id: Id<id::Team>,
        byoc: Byoc,
    ) -> Result<Team, TeamError> {
        ctx.platform_admin()?;
        let mut tx = self.store().begin().await?;
        let team = tx.team_lock(id).await?.filter(|team| team.id != Id::PLATFORM);
        let team = team.ok_or(AccessError::NoSuchTeam { id })?;
        if byoc == Byoc::Off && tx.team_has_hosts(id).await? {
            return Err(TeamError::HasHosts);
        }
        let is_byoc = byoc == Byoc::On;
        if team.is_byoc != is_byoc {
            tx.team_set_byoc(id, is_byoc).await?;
            tx.audit(&audit::team(ctx, id, "byoc_update", json!({ "is_byoc": is_byoc }))).await?;
        }
        tx.commit().await?;
        Ok(Team { is_byoc, ..Team::new(team, None) })
    }
}
