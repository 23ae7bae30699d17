//! What the scheduler reads, and the room that a placement takes.

use sandbar_types::Id;
use sandbar_types::id::{Host, Team, Template};

use crate::convert::unsigned;
use crate::{Store, StoreError, Tx};

/// A host that may take a sandbox of a template, with what is promised already.
#[derive(Debug, Clone, PartialEq, Eq)]
#[expect(missing_docs, reason = "the names say it")]
pub struct Candidate {
    pub host_id: Id<Host>,
    pub memory_mb: u32,
    pub cpu_cores: u32,
    pub promised_memory_mb: u64,
    pub promised_vcpus: u64,
    pub sandboxes: u64,
}

/// Whether a host can take a sandbox.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Room {
    /// It can, and nobody else can take the room until this transaction ends.
    Enough,
    /// It is full.
    Full,
    /// It is not online any more.
    Gone,
}

impl Store {
    /// The hosts that may take a team's sandbox of a template: online, the team's own or the platform's, with the template's files.
    pub async fn host_candidates(
        &self,
        team: Id<Team>,
        template: Id<Template>,
    ) -> Result<Vec<Candidate>, StoreError> {
        sqlx::query!(
            r#"SELECT h.id, h.memory_mb AS "memory_mb!", h.cpu_cores AS "cpu_cores!",
                      COALESCE(p.memory_mb, 0) AS "promised_memory_mb!", COALESCE(p.vcpus, 0) AS "promised_vcpus!",
                      COALESCE(p.sandboxes, 0) AS "sandboxes!"
               FROM hosts h
               JOIN template_locations l ON l.host_id = h.id AND l.template_id = $2 AND l.state = 'ready'
               LEFT JOIN LATERAL (
                   SELECT sum(s.memory_mb) AS memory_mb, sum(s.vcpus) AS vcpus, count(*) AS sandboxes
                   FROM sandboxes s WHERE s.host_id = h.id AND s.status NOT IN ('stopped', 'error', 'paused')
               ) p ON TRUE
               WHERE h.status = 'online' AND h.deleted_at IS NULL AND (h.kind = 'regular' OR h.team_id = $1)"#,
            team.uuid(),
            template.uuid(),
        )
        .fetch_all(&self.pool)
        .await?
        .into_iter()
        .map(|row| {
            Ok(Candidate {
                host_id: Id::from_uuid(row.id),
                memory_mb: unsigned("hosts.memory_mb", row.memory_mb)?,
                cpu_cores: unsigned("hosts.cpu_cores", row.cpu_cores)?,
                promised_memory_mb: unsigned("sum of memory_mb", row.promised_memory_mb)?,
                promised_vcpus: unsigned("sum of vcpus", row.promised_vcpus)?,
                sandboxes: unsigned("count of sandboxes", row.sandboxes)?,
            })
        })
        .collect()
    }
}

impl Tx {
    /// Whether a host can take `memory_mb` more, with at most `promise_percent` of its memory promised. Holds the host's row until
    /// the transaction ends, so that of several creates at once none takes room that another was given.
    pub async fn host_room(
        &mut self,
        id: Id<Host>,
        memory_mb: u32,
        promise_percent: u32,
    ) -> Result<Room, StoreError> {
        let host = sqlx::query!(
            r#"SELECT memory_mb AS "memory_mb!" FROM hosts
               WHERE id = $1 AND status = 'online' AND deleted_at IS NULL FOR NO KEY UPDATE"#,
            id.uuid(),
        )
        .fetch_optional(self.connection())
        .await?;
        let Some(host) = host else { return Ok(Room::Gone) };
        let promised = sqlx::query_scalar!(
            r#"SELECT COALESCE(sum(memory_mb), 0) AS "promised!" FROM sandboxes
               WHERE host_id = $1 AND status NOT IN ('stopped', 'error', 'paused')"#,
            id.uuid(),
        )
        .fetch_one(self.connection())
        .await?;
        let limit = i64::from(host.memory_mb) * i64::from(promise_percent) / 100;
        Ok(if promised + i64::from(memory_mb) <= limit { Room::Enough } else { Room::Full })
    }
}
