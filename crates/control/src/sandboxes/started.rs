//! Listing sandboxes by when they first ran.

use std::collections::BTreeMap;

use chrono::{DateTime, Utc};
use sandbar_store::Position;
pub use sandbar_store::sandboxes::StartOrder;
use sandbar_store::sandboxes::StartedFilter as Rows;
use sandbar_types::id::Template;
use sandbar_types::{Id, SandboxStatus};

use super::{Sandbox, SandboxError};
use crate::{Control, OpContext, Page, PageRequest};

/// Which sandboxes to list, and in which order.
#[derive(Debug, Clone, Default)]
pub struct StartedFilter {
    /// Of these states.
    pub status: Vec<SandboxStatus>,
    /// Made from this template.
    pub template: Option<Id<Template>>,
    /// With all these metadata entries.
    pub metadata: BTreeMap<String, String>,
    /// Started then or later.
    pub started_after: Option<DateTime<Utc>>,
    /// In this order.
    pub order: StartOrder,
}

impl Control {
    /// The caller's team's sandboxes that have started and not ended. A pause changes nothing about when a sandbox started.
    pub async fn sandbox_list_started(
        &self,
        ctx: &OpContext,
        filter: &StartedFilter,
        page: &PageRequest,
    ) -> Result<Page<Sandbox>, SandboxError> {
        let StartedFilter { status, template, metadata, started_after, order } = filter;
        let rows = Rows {
            team_id: ctx.team()?,
            status,
            template: *template,
            metadata,
            started_after: *started_after,
            order: *order,
            after: page.after(),
            limit: page.fetch(),
        };
        let rows = self.store().sandbox_list_started(&rows).await?;
        let sandboxes: Vec<Sandbox> = rows.into_iter().map(Sandbox::try_from).collect::<Result<_, _>>()?;
        // A row without a start is in no such list.
        let position = |sandbox: &Sandbox| Position {
            created_at: sandbox.started_at.unwrap_or(sandbox.created_at),
            id: sandbox.id.uuid(),
        };
        Ok(page.page(sandboxes, position, |sandbox| sandbox))
    }
}
