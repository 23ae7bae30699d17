//! All sandboxes of a host that is deleted.

use std::collections::BTreeMap;

use sandbar_types::Id;
use sandbar_types::id::Host;
use sandbar_types::{Ingress, NetworkPolicy, SandboxStatus, VolumeMount};
use sqlx::types::Json;

use super::{Raw, SandboxRow, sandboxes, words};
use crate::{StoreError, Tx};

impl Tx {
    /// Brings all sandboxes of a host that the caller holds to their end: each that may is `stopping` now, and is returned.
    pub async fn sandboxes_stop_on_host(&mut self, host: Id<Host>) -> Result<Vec<SandboxRow>, StoreError> {
        let from = words(&SandboxStatus::sources_of(SandboxStatus::Stopping));
        sandboxes!(
            "WITH s AS (
                 UPDATE sandboxes SET status = 'stopping', status_reason = 'its host was deleted',
                        generation = generation + 1, transition_started_at = now(), updated_at = now()
                 WHERE id IN (SELECT id FROM sandboxes WHERE host_id = $1 AND status = ANY($2) ORDER BY id FOR UPDATE)
                   AND status = ANY($2) RETURNING *)",
            "FROM s JOIN templates t ON t.id = s.template_id LEFT JOIN hosts h ON h.id = s.host_id",
            host.uuid(),
            &from,
        )
        .fetch_all(self.connection())
        .await?
        .into_iter()
        .map(SandboxRow::try_from)
        .collect()
    }

    /// The end of all sandboxes of a host that are `stopping`, whatever its machines do.
    pub async fn sandboxes_end_on_host(&mut self, host: Id<Host>) -> Result<u64, StoreError> {
        let done = sqlx::query!(
            "UPDATE sandboxes SET status = 'stopped', generation = generation + 1, transition_started_at = now(),
                    updated_at = now()
             WHERE host_id = $1 AND status = 'stopping'",
            host.uuid(),
        )
        .execute(self.connection())
        .await?;
        Ok(done.rows_affected())
    }
}
