//! Paused sandboxes in object storage: which pause is kept as which template, and sandboxes that are on no host because of it.
//!
//! ```text
//!   sandbox    paused ──► kept as a template ──► durable ──► without a host ──► resuming on another one ──► running
//!                  ▲               │ it goes on         │             ▲                    │ it does not     │
//!                  └───────────────┴────────────────────┘             └────────────────────┘                 ▼
//!   template   (no row)   reserved ──► ready ──► copied                                          swept, with its objects
//! ```
//!
//! A kept pause is a template that nobody sees (`templates.is_pause`), made, copied and deleted as all others are. `sandboxes.kept_as` is the
//! one thing that makes it the sandbox's; a trigger takes that away with whatever happens after the pause (`0016_kept_pauses.sql`), and what
//! no sandbox names any more is swept. So no copy of an earlier pause can be taken for this one's, whoever dies when.

use std::collections::BTreeMap;

use sandbar_types::id::{Host, Sandbox, Team, Template};
use sandbar_types::{Arch, Id, Ingress, NetworkPolicy, SandboxStatus, VmmKind, VolumeMount};
use serde_json::Value;
use sqlx::types::Json;
use uuid::Uuid;

use super::{Raw, SandboxRow, sandboxes, words};
use crate::convert::{bigint, integer, word};
use crate::templates::CompleteTemplate;
use crate::{Store, StoreError, Tx};

/// A pause that is to be kept, by whoever claimed it.
#[derive(Debug, Clone, PartialEq, Eq)]
#[expect(missing_docs, reason = "the names say it")]
pub struct PauseClaim {
    pub sandbox: Id<Sandbox>,
    pub host: Id<Host>,
    pub address: String,
}

/// What a host must be to take a sandbox from its kept pause.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[expect(missing_docs, reason = "the schema says what each column is")]
pub struct KeptPause {
    pub template: Id<Template>,
    pub arch: Arch,
    pub vmm: VmmKind,
}

impl Store {
    /// Claims the oldest pause on a host of the platform's that is not kept as anything, to be kept as `template`, which is reserved. Passes
    /// over what is named, over what others are changing, and over what has volumes, which stay on their host.
    pub async fn pause_claim(
        &self,
        template: Id<Template>,
        passed: &[Id<Sandbox>],
        passed_hosts: &[Id<Host>],
    ) -> Result<Option<PauseClaim>, StoreError> {
        let passed: Vec<Uuid> = passed.iter().map(|id| id.uuid()).collect();
        let passed_hosts: Vec<Uuid> = passed_hosts.iter().map(|id| id.uuid()).collect();
        let row = sqlx::query!(
            r#"WITH next AS (
                   SELECT s.id, s.team_id, s.vcpus, s.memory_mb, s.host_id, h.arch, h.vmm, h.address
                   FROM sandboxes s JOIN hosts h ON h.id = s.host_id JOIN teams t ON t.id = s.team_id
                   WHERE s.status = 'paused' AND s.kept_as IS NULL AND s.volumes = '[]' AND s.id <> ALL($2) AND h.id <> ALL($3)
                     AND s.team_id <> $4 AND t.deleted_at IS NULL
                     AND h.kind = 'regular' AND h.status IN ('online', 'draining') AND h.deleted_at IS NULL
                     AND h.address IS NOT NULL AND h.arch IS NOT NULL AND h.vmm IS NOT NULL
                   ORDER BY s.transition_started_at LIMIT 1 FOR SHARE OF t SKIP LOCKED FOR NO KEY UPDATE OF s SKIP LOCKED),
               made AS (
                   INSERT INTO templates (id, team_id, name, kind, vcpus, memory_mb, disk_mb, size_bytes, arch, vmm, draft,
                                          source_id, is_pause)
                   SELECT $1, team_id, 'pause-' || id, 'snapshot', vcpus, memory_mb, 0, 0, arch, vmm, TRUE, id, TRUE FROM next),
               placed AS (
                   INSERT INTO template_locations (template_id, host_id, state) SELECT $1, host_id, 'fetching' FROM next)
               UPDATE sandboxes s SET kept_as = $1, updated_at = now() FROM next n WHERE s.id = n.id
               RETURNING s.id, n.host_id AS "host_id!", n.address AS "address!""#,
            template.uuid(),
            &passed,
            &passed_hosts,
            Id::<Team>::PLATFORM.uuid(),
        )
        .fetch_optional(&self.pool)
        .await?;
        Ok(row.map(|row| PauseClaim {
            sandbox: Id::from_uuid(row.id),
            host: Id::from_uuid(row.host_id),
            address: row.address,
        }))
    }

    /// Says that a claimed pause's files are complete on its host: they can be copied. Whether it is still the sandbox's.
    pub async fn pause_ready(
        &self,
        template: Id<Template>,
        host: Id<Host>,
        complete: &CompleteTemplate<'_>,
    ) -> Result<bool, StoreError> {
        let ready = sqlx::query!(
            "WITH ready AS (
                 UPDATE templates t SET vcpus = $3, memory_mb = $4, disk_mb = $5, size_bytes = $6, compatibility = $7,
                        ready_at = now(), updated_at = now()
                 WHERE id = $1 AND is_pause AND ready_at IS NULL AND deleted_at IS NULL
                   AND EXISTS (SELECT 1 FROM sandboxes s WHERE s.kept_as = t.id)
                 RETURNING id)
             UPDATE template_locations SET state = 'ready', updated_at = now()
             WHERE host_id = $2 AND template_id IN (SELECT id FROM ready)",
            template.uuid(),
            host.uuid(),
            integer(complete.vcpus),
            integer(complete.memory_mb),
            integer(complete.disk_mb),
            bigint(complete.size_bytes),
            complete.compatibility,
        )
        .execute(&self.pool)
        .await?;
        Ok(ready.rows_affected() > 0)
    }

    /// Gives a claim up that came to nothing: somebody may claim the pause again.
    pub async fn pause_abandon(&self, template: Id<Template>) -> Result<(), StoreError> {
        sqlx::query!(
            "UPDATE sandboxes SET kept_as = NULL, updated_at = now() WHERE kept_as = $1 AND NOT durable",
            template.uuid(),
        )
        .execute(&self.pool)
        .await?;
        Ok(())
    }

    /// Deletes the kept pauses that are no sandbox's any more, and lets those be claimed again that were given up by others. The hosts that
    /// owe the deletion of files.
    pub async fn pauses_sweep(&self) -> Result<Vec<Id<Host>>, StoreError> {
        sqlx::query!(
            "UPDATE sandboxes s SET kept_as = NULL, updated_at = now() FROM templates t
             WHERE t.id = s.kept_as AND t.deleted_at IS NOT NULL AND NOT s.durable",
        )
        .execute(&self.pool)
        .await?;
        let owing = sqlx::query_scalar!(
            "WITH gone AS (
                 UPDATE templates t SET deleted_at = now(), updated_at = now()
                 WHERE t.is_pause AND t.deleted_at IS NULL
                   AND NOT EXISTS (SELECT 1 FROM sandboxes s WHERE s.kept_as = t.id)
                 RETURNING t.id)
             UPDATE template_locations SET state = 'deleting', fetcher = NULL, fetcher_until = NULL, updated_at = now()
             WHERE template_id IN (SELECT id FROM gone) RETURNING host_id",
        )
        .fetch_all(&self.pool)
        .await?;
        Ok(owing.into_iter().map(Id::from_uuid).collect())
    }

    /// Takes paused sandboxes that are durable off hosts that drain. The hosts, which have files of theirs that nobody wants any more.
    pub async fn pauses_leave_draining(&self) -> Result<Vec<Id<Host>>, StoreError> {
        let left = sqlx::query_scalar!(
            r#"WITH leaving AS (
                   SELECT s.id, s.host_id FROM sandboxes s JOIN hosts h ON h.id = s.host_id
                   WHERE h.draining AND s.status = 'paused' AND s.durable
                   ORDER BY s.id FOR NO KEY UPDATE OF s SKIP LOCKED)
               UPDATE sandboxes s SET host_id = NULL, generation = generation + 1, updated_at = now()
               FROM leaving l WHERE s.id = l.id RETURNING l.host_id AS "host_id!""#,
        )
        .fetch_all(&self.pool)
        .await?;
        Ok(left.into_iter().map(Id::from_uuid).collect())
    }

    /// What a paused sandbox can be restored from elsewhere; none while object storage has not all of it.
    pub async fn kept_pause(&self, sandbox: Id<Sandbox>) -> Result<Option<KeptPause>, StoreError> {
        let row = sqlx::query!(
            "SELECT t.id, t.arch, t.vmm FROM sandboxes s JOIN templates t ON t.id = s.kept_as
             WHERE s.id = $1 AND s.status = 'paused' AND s.durable AND t.durable AND t.deleted_at IS NULL",
            sandbox.uuid(),
        )
        .fetch_optional(&self.pool)
        .await?;
        row.map(|row| {
            Ok(KeptPause {
                template: Id::from_uuid(row.id),
                arch: word("templates.arch", &row.arch)?,
                vmm: word("templates.vmm", &row.vmm)?,
            })
        })
        .transpose()
    }

    /// Those of `ids` whose rows live, and not on this host: what it has of them is no more than a copy.
    pub async fn sandboxes_elsewhere(
        &self,
        host: Id<Host>,
        ids: &[Id<Sandbox>],
    ) -> Result<Vec<Id<Sandbox>>, StoreError> {
        let ids: Vec<Uuid> = ids.iter().map(|id| id.uuid()).collect();
        Ok(sqlx::query_scalar!(
            "SELECT id FROM sandboxes WHERE id = ANY($2) AND status NOT IN ('pending', 'stopped', 'error')
               AND host_id IS DISTINCT FROM $1",
            host.uuid(),
            &ids,
        )
        .fetch_all(&self.pool)
        .await?
        .into_iter()
        .map(Id::from_uuid)
        .collect())
    }
}

impl Tx {
    /// Holds a sandbox's row until the transaction ends, so that it goes to no host meanwhile. Whether it is on another one than this, or on
    /// none.
    pub async fn sandbox_is_elsewhere(
        &mut self,
        id: Id<Sandbox>,
        host: Id<Host>,
    ) -> Result<bool, StoreError> {
        let elsewhere = sqlx::query_scalar!(
            r#"SELECT host_id IS DISTINCT FROM $2 AS "elsewhere!" FROM sandboxes WHERE id = $1 FOR SHARE"#,
            id.uuid(),
            host.uuid(),
        )
        .fetch_optional(self.connection())
        .await?;
        Ok(elsewhere.unwrap_or_default())
    }

    /// Begins to restore a paused sandbox on another host. None when that pause is not the one that it is in, or somebody else was faster.
    pub async fn sandbox_move(
        &mut self,
        id: Id<Sandbox>,
        kept: Id<Template>,
        to: Id<Host>,
        operation: &Value,
    ) -> Result<Option<SandboxRow>, StoreError> {
        sandboxes!(
            "WITH s AS (
                 UPDATE sandboxes SET status = 'resuming', host_id = $3, status_reason = NULL, operation = $4,
                        generation = generation + 1, transition_started_at = now(), updated_at = now()
                 WHERE id = $1 AND status = 'paused' AND durable AND kept_as = $2 AND host_id IS DISTINCT FROM $3 RETURNING *)",
            "FROM s JOIN templates t ON t.id = s.template_id LEFT JOIN hosts h ON h.id = s.host_id",
            id.uuid(),
            kept.uuid(),
            to.uuid(),
            operation,
        )
        .fetch_optional(self.connection())
        .await?
        .map(SandboxRow::try_from)
        .transpose()
    }

    /// A sandbox that was to be restored and was not is paused as before, on no host. The caller knows that the host has nothing of it. None
    /// when the row was changed since it was read.
    pub async fn sandbox_move_back(
        &mut self,
        id: Id<Sandbox>,
        generation: i64,
    ) -> Result<Option<SandboxRow>, StoreError> {
        let from = words(&SandboxStatus::sources_of(SandboxStatus::Paused));
        sandboxes!(
            "WITH s AS (
                 UPDATE sandboxes SET status = 'paused', host_id = NULL, host_ip = NULL, expires_at = NULL, operation = NULL,
                        status_reason = NULL, generation = generation + 1, transition_started_at = now(), updated_at = now()
                 WHERE id = $1 AND generation = $2 AND durable AND status = ANY($3) RETURNING *)",
            "FROM s JOIN templates t ON t.id = s.template_id LEFT JOIN hosts h ON h.id = s.host_id",
            id.uuid(),
            generation,
            &from,
        )
        .fetch_optional(self.connection())
        .await?
        .map(SandboxRow::try_from)
        .transpose()
    }

    /// Takes the sandboxes off a host that the caller holds which need no host: paused, or being restored there, and durable. Which.
    pub async fn sandboxes_leave_host(&mut self, host: Id<Host>) -> Result<Vec<Id<Sandbox>>, StoreError> {
        Ok(sqlx::query_scalar!(
            "WITH leaving AS (
                 SELECT id FROM sandboxes WHERE host_id = $1 AND durable AND status IN ('paused', 'resuming', 'missing')
                 ORDER BY id FOR NO KEY UPDATE)
             UPDATE sandboxes s SET status = 'paused', host_id = NULL, host_ip = NULL, expires_at = NULL, operation = NULL,
                    generation = generation + 1, transition_started_at = now(), updated_at = now()
             FROM leaving l WHERE s.id = l.id AND s.durable RETURNING s.id",
            host.uuid(),
        )
        .fetch_all(self.connection())
        .await?
        .into_iter()
        .map(Id::from_uuid)
        .collect())
    }
}
