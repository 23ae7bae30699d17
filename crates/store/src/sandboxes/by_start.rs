//! Listing sandboxes in the order of their starts.

use std::collections::BTreeMap;

use chrono::{DateTime, Utc};
use sandbar_types::id::{Team, Template};
use sandbar_types::{Id, Ingress, NetworkPolicy, SandboxStatus, VolumeMount};
use sqlx::types::Json;

use super::{Raw, SandboxRow, sandboxes, words};
use crate::{Position, Store, StoreError};

/// Which started sandboxes to list, and in which order.
#[derive(Debug, Clone)]
pub struct StartedFilter<'a> {
    /// Whose.
    pub team_id: Id<Team>,
    /// Of these states, none of which may be an end.
    pub status: &'a [SandboxStatus],
    /// Made from this template.
    pub template: Option<Id<Template>>,
    /// With all these metadata entries.
    pub metadata: &'a BTreeMap<String, String>,
    /// Started then or later.
    pub started_after: Option<DateTime<Utc>>,
    /// In this order.
    pub order: StartOrder,
    /// Behind this one: when it started, and its id.
    pub after: Option<Position>,
    /// At most so many.
    pub limit: i64,
}

/// Which starts come first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum StartOrder {
    /// The latest.
    #[default]
    Newest,
    /// The earliest.
    Oldest,
}

impl Store {
    /// A team's sandboxes that have started and not ended, by when they first ran.
    pub async fn sandbox_list_started(
        &self,
        filter: &StartedFilter<'_>,
    ) -> Result<Vec<SandboxRow>, StoreError> {
        let after = filter.after;
        let metadata = (!filter.metadata.is_empty()).then_some(Json(filter.metadata));
        let (status, template) = (words(filter.status), filter.template.map(Id::uuid));
        let raws = match filter.order {
            StartOrder::Newest => {
                sandboxes!(
                    "",
                    "FROM sandboxes s JOIN templates t ON t.id = s.template_id LEFT JOIN hosts h ON h.id = s.host_id
                     WHERE s.team_id = $1 AND s.status NOT IN ('stopped', 'error') AND s.status = ANY($2)
                       AND s.started_at IS NOT NULL
                       AND ($3::uuid IS NULL OR s.template_id = $3)
                       AND ($4::jsonb IS NULL OR s.metadata @> $4)
                       AND ($5::timestamptz IS NULL OR s.started_at >= $5)
                       AND ($6::timestamptz IS NULL OR (s.started_at, s.id) < ($6, $7))
                     ORDER BY s.started_at DESC, s.id DESC LIMIT $8",
                    filter.team_id.uuid(),
                    &status,
                    template,
                    metadata as _,
                    filter.started_after,
                    after.map(|after| after.created_at),
                    after.map(|after| after.id),
                    filter.limit,
                )
                .fetch_all(&self.pool)
                .await?
            }
            StartOrder::Oldest => {
                sandboxes!(
                    "",
                    "FROM sandboxes s JOIN templates t ON t.id = s.template_id LEFT JOIN hosts h ON h.id = s.host_id
                     WHERE s.team_id = $1 AND s.status NOT IN ('stopped', 'error') AND s.status = ANY($2)
                       AND s.started_at IS NOT NULL
                       AND ($3::uuid IS NULL OR s.template_id = $3)
                       AND ($4::jsonb IS NULL OR s.metadata @> $4)
                       AND ($5::timestamptz IS NULL OR s.started_at >= $5)
                       AND ($6::timestamptz IS NULL OR (s.started_at, s.id) > ($6, $7))
                     ORDER BY s.started_at, s.id LIMIT $8",
                    filter.team_id.uuid(),
                    &status,
                    template,
                    metadata as _,
                    filter.started_after,
                    after.map(|after| after.created_at),
                    after.map(|after| after.id),
                    filter.limit,
                )
                .fetch_all(&self.pool)
                .await?
            }
        };
        raws.into_iter().map(SandboxRow::try_from).collect()
    }
}
