//! All sandboxes of a team that ends, and all of the platform.

use std::collections::BTreeMap;

use sandbar_types::Id;
use sandbar_types::id::Team;
use sandbar_types::{Ingress, NetworkPolicy, SandboxStatus, VolumeMount};
use sqlx::types::Json;

use super::{Raw, SandboxRow, sandboxes, words};
use crate::{Position, Store, StoreError, Tx};

impl Store {
    /// All sandboxes that have not ended, or all of these states, newest first; of one team or of all.
    pub async fn sandbox_list_everywhere(
        &self,
        team: Option<Id<Team>>,
        status: &[SandboxStatus],
        after: Option<Position>,
        limit: i64,
    ) -> Result<Vec<SandboxRow>, StoreError> {
        sandboxes!(
            "",
            "FROM sandboxes s JOIN templates t ON t.id = s.template_id LEFT JOIN hosts h ON h.id = s.host_id
             WHERE ($1::uuid IS NULL OR s.team_id = $1)
               AND CASE WHEN cardinality($2::text[]) = 0 THEN s.status NOT IN ('stopped', 'error') ELSE s.status = ANY($2) END
               AND ($3::timestamptz IS NULL OR (s.created_at, s.id) < ($3, $4))
             ORDER BY s.created_at DESC, s.id DESC LIMIT $5",
            team.map(Id::uuid),
            &words(status),
            after.map(|after| after.created_at),
            after.map(|after| after.id),
            limit,
        )
        .fetch_all(&self.pool)
        .await?
        .into_iter()
        .map(SandboxRow::try_from)
        .collect()
    }
}

impl Tx {
    /// Brings all of a team's sandboxes to their end: each that may is `stopping` now, and is returned. With the team's row locked
    /// against the making of new ones, none is missed.
    pub async fn sandboxes_stop_of_team(&mut self, team: Id<Team>) -> Result<Vec<SandboxRow>, StoreError> {
        let from = words(&SandboxStatus::sources_of(SandboxStatus::Stopping));
        sandboxes!(
            "WITH s AS (
                 UPDATE sandboxes SET status = 'stopping', status_reason = 'its team was deleted',
                        generation = generation + 1, transition_started_at = now(), updated_at = now()
                 WHERE id IN (SELECT id FROM sandboxes WHERE team_id = $1 AND status = ANY($2) ORDER BY id FOR UPDATE)
                   AND status = ANY($2) RETURNING *)",
            "FROM s JOIN templates t ON t.id = s.template_id LEFT JOIN hosts h ON h.id = s.host_id",
            team.uuid(),
            &from,
        )
        .fetch_all(self.connection())
        .await?
        .into_iter()
        .map(SandboxRow::try_from)
        .collect()
    }
}
