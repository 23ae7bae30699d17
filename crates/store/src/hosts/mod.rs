//! Hosts: what they are, and their signs of life. What they come in with is in `credentials`, what the scheduler reads in
//! `placement`, what is decided about them in `fleet`: draining, tags, their end.

mod credentials;
mod fleet;
mod placement;

use chrono::{DateTime, Utc};
use sandbar_types::id::{Host, Team, User};
use sandbar_types::{Arch, Id, VmmKind};
use serde_json::Value;
use sqlx::postgres::PgListener;
use uuid::Uuid;

use crate::convert::{unsigned, unsigned_opt, word_opt};
use crate::{Position, Store, StoreError, Tx};

pub use credentials::{NewRefreshToken, RegistrationRow, ShownRefreshToken};
pub use fleet::{LostSnapshot, Tenant};
pub use placement::{Candidate, Demand, Files, Limits, Purpose, Room};

/// The channel on which a host's change of status is told, with its id.
const CHANNEL: &str = "sandbar_hosts";

/// One host.
#[derive(Debug, Clone, PartialEq)]
#[expect(missing_docs, reason = "the schema says what each column is")]
pub struct HostRow {
    pub id: Id<Host>,
    pub kind: String,
    pub team_id: Id<Team>,
    pub team_name: String,
    pub provider: Option<String>,
    pub availability_zone: Option<String>,
    pub arch: Option<Arch>,
    pub vmm: Option<VmmKind>,
    pub cpu_cores: Option<u32>,
    pub memory_mb: Option<u32>,
    pub disk_gb: Option<u32>,
    pub address: Option<String>,
    pub status: String,
    pub credential_epoch: i32,
    pub last_heartbeat_at: Option<DateTime<Utc>>,
    pub reconciled_generation: Option<i64>,
    pub created_by: Option<Id<User>>,
    pub created_at: DateTime<Utc>,
    pub updated_at: DateTime<Utc>,
}

/// A host to be.
#[derive(Debug, Clone)]
#[expect(missing_docs, reason = "the schema says what each column is")]
pub struct NewHostRow<'a> {
    pub id: Id<Host>,
    pub kind: &'a str,
    pub team_id: Id<Team>,
    pub provider: Option<&'a str>,
    pub availability_zone: Option<&'a str>,
    pub created_by: Option<Id<User>>,
}

/// What a heartbeat changed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Beat {
    /// The status before it.
    pub was: String,
    /// The status after it.
    pub is: String,
    /// The generation that the rows were last held against.
    pub reconciled_generation: Option<i64>,
    /// Whose host it is.
    pub team_id: Id<Team>,
}

struct Raw {
    id: Uuid,
    kind: String,
    team_id: Uuid,
    team_name: String,
    provider: Option<String>,
    availability_zone: Option<String>,
    arch: Option<String>,
    vmm: Option<String>,
    cpu_cores: Option<i32>,
    memory_mb: Option<i32>,
    disk_gb: Option<i32>,
    address: Option<String>,
    status: String,
    credential_epoch: i32,
    last_heartbeat_at: Option<DateTime<Utc>>,
    reconciled_generation: Option<i64>,
    created_by: Option<Uuid>,
    created_at: DateTime<Utc>,
    updated_at: DateTime<Utc>,
}

impl TryFrom<Raw> for HostRow {
    type Error = StoreError;

    fn try_from(raw: Raw) -> Result<Self, StoreError> {
        Ok(Self {
            id: Id::from_uuid(raw.id),
            kind: raw.kind,
            team_id: Id::from_uuid(raw.team_id),
            team_name: raw.team_name,
            provider: raw.provider,
            availability_zone: raw.availability_zone,
            arch: word_opt("hosts.arch", raw.arch.as_deref())?,
            vmm: word_opt("hosts.vmm", raw.vmm.as_deref())?,
            cpu_cores: unsigned_opt("hosts.cpu_cores", raw.cpu_cores)?,
            memory_mb: unsigned_opt("hosts.memory_mb", raw.memory_mb)?,
            disk_gb: unsigned_opt("hosts.disk_gb", raw.disk_gb)?,
            address: raw.address,
            status: raw.status,
            credential_epoch: raw.credential_epoch,
            last_heartbeat_at: raw.last_heartbeat_at,
            reconciled_generation: raw.reconciled_generation,
            created_by: raw.created_by.map(Id::from_uuid),
            created_at: raw.created_at,
            updated_at: raw.updated_at,
        })
    }
}

/// A statement that yields hosts; deleted ones never.
macro_rules! hosts {
    ($head:literal, $tail:literal $(, $arg:expr)* $(,)?) => {
        sqlx::query_as!(
            Raw,
            $head
                + r#" id, kind, team_id, (SELECT t.name FROM teams t WHERE t.id = team_id) AS "team_name!", provider,
                    availability_zone, arch, vmm, cpu_cores, memory_mb, disk_gb, address, status, credential_epoch,
                    last_heartbeat_at, reconciled_generation, created_by, created_at, updated_at "#
                + $tail
            $(, $arg)*
        )
    };
}

use hosts;

impl Store {
    /// A host.
    pub async fn host_find(&self, id: Id<Host>) -> Result<Option<HostRow>, StoreError> {
        hosts!("SELECT", "FROM hosts WHERE id = $1 AND deleted_at IS NULL", id.uuid())
            .fetch_optional(&self.pool)
            .await?
            .map(HostRow::try_from)
            .transpose()
    }

    /// All hosts, or a team's own, newest first.
    pub async fn host_list(
        &self,
        team: Option<Id<Team>>,
        after: Option<Position>,
        limit: i64,
    ) -> Result<Vec<HostRow>, StoreError> {
        hosts!(
            "SELECT",
            "FROM hosts WHERE deleted_at IS NULL AND ($1::uuid IS NULL OR team_id = $1)
               AND ($2::timestamptz IS NULL OR (created_at, id) < ($2, $3))
             ORDER BY created_at DESC, id DESC LIMIT $4",
            team.map(Id::uuid),
            after.map(|after| after.created_at),
            after.map(|after| after.id),
            limit,
        )
        .fetch_all(&self.pool)
        .await?
        .into_iter()
        .map(HostRow::try_from)
        .collect()
    }

    /// All hosts that exist, and whether each is heard of.
    pub async fn hosts_heard_of(&self) -> Result<Vec<(Id<Host>, bool)>, StoreError> {
        Ok(sqlx::query!(
            r#"SELECT id, status IN ('online', 'draining') AS "heard!" FROM hosts WHERE deleted_at IS NULL"#
        )
        .fetch_all(&self.pool)
        .await?
        .into_iter()
        .map(|row| (Id::from_uuid(row.id), row.heard))
        .collect())
    }

    /// Hosts that were not heard of since `before`, though they count as reachable.
    pub async fn hosts_silent_since(&self, before: DateTime<Utc>) -> Result<Vec<Id<Host>>, StoreError> {
        Ok(sqlx::query_scalar!(
            "SELECT id FROM hosts
             WHERE status IN ('online', 'draining') AND deleted_at IS NULL
               AND (last_heartbeat_at IS NULL OR last_heartbeat_at < $1)",
            before,
        )
        .fetch_all(&self.pool)
        .await?
        .into_iter()
        .map(Id::from_uuid)
        .collect())
    }

    /// How many hosts take sandboxes.
    pub async fn hosts_online(&self) -> Result<u32, StoreError> {
        let count = sqlx::query_scalar!(
            r#"SELECT count(*) AS "count!" FROM hosts WHERE status = 'online' AND deleted_at IS NULL"#
        )
        .fetch_one(&self.pool)
        .await?;
        unsigned("count of hosts", count)
    }

    /// Says that the rows were held against an inventory of this generation.
    pub async fn host_reconciled(&self, id: Id<Host>, generation: i64) -> Result<(), StoreError> {
        sqlx::query!(
            "UPDATE hosts SET reconciled_generation = $2
             WHERE id = $1 AND reconciled_generation IS DISTINCT FROM $2",
            id.uuid(),
            generation,
        )
        .execute(&self.pool)
        .await?;
        Ok(())
    }

    /// The changes of hosts' status from now on, at whichever control plane they happen.
    pub async fn host_events(&self) -> Result<HostEvents, StoreError> {
        let mut listener = PgListener::connect_with(&self.pool).await?;
        listener.listen(CHANNEL).await?;
        Ok(HostEvents { listener })
    }
}

/// Changes of hosts' status.
#[derive(Debug)]
pub struct HostEvents {
    listener: PgListener,
}

impl HostEvents {
    /// Waits for the next change, of any host. Changes during a loss of the connection may go by unseen: look again after an
    /// `Ok(None)`, which says that it was re-made.
    pub async fn next(&mut self) -> Result<Option<Id<Host>>, StoreError> {
        let event = self.listener.try_recv().await?;
        Ok(event.and_then(|event| Uuid::parse_str(event.payload()).ok()).map(Id::from_uuid))
    }
}

impl Tx {
    /// Adds a host.
    pub async fn host_insert(&mut self, new: &NewHostRow<'_>) -> Result<HostRow, StoreError> {
        hosts!(
            "INSERT INTO hosts (id, kind, team_id, provider, availability_zone, created_by)
             VALUES ($1, $2, $3, $4, $5, $6) RETURNING",
            "",
            new.id.uuid(),
            new.kind,
            new.team_id.uuid(),
            new.provider,
            new.availability_zone,
            new.created_by.map(Id::uuid),
        )
        .fetch_one(self.connection())
        .await?
        .try_into()
    }

    /// Takes a sign of life: a host that was away is online, one that drains goes on draining. None when there is no such host.
    pub async fn host_beat(
        &mut self,
        id: Id<Host>,
        inventory_generation: i64,
        load: &Value,
    ) -> Result<Option<Beat>, StoreError> {
        let beat = sqlx::query!(
            r#"WITH before AS (SELECT id, status FROM hosts WHERE id = $1 AND deleted_at IS NULL FOR NO KEY UPDATE)
               UPDATE hosts h SET last_heartbeat_at = now(), inventory_generation = $2, load = $3,
                      status = CASE WHEN h.draining THEN 'draining' ELSE 'online' END
               FROM before b WHERE h.id = b.id
               RETURNING b.status AS "was!", h.status AS "is!", h.reconciled_generation, h.team_id"#,
            id.uuid(),
            inventory_generation,
            load,
        )
        .fetch_optional(self.connection())
        .await?;
        let Some(beat) = beat else { return Ok(None) };
        if beat.was != beat.is {
            self.host_tell(id).await?;
        }
        Ok(Some(Beat {
            was: beat.was,
            is: beat.is,
            reconciled_generation: beat.reconciled_generation,
            team_id: Id::from_uuid(beat.team_id),
        }))
    }

    /// Marks a host that is still silent as unreachable. Whose it is, if it was.
    pub async fn host_lost(
        &mut self,
        id: Id<Host>,
        before: DateTime<Utc>,
    ) -> Result<Option<Id<Team>>, StoreError> {
        let team = sqlx::query_scalar!(
            "UPDATE hosts SET status = 'unreachable', generation = generation + 1, updated_at = now()
             WHERE id = $1 AND status IN ('online', 'draining') AND deleted_at IS NULL
               AND (last_heartbeat_at IS NULL OR last_heartbeat_at < $2) RETURNING team_id",
            id.uuid(),
            before,
        )
        .fetch_optional(self.connection())
        .await?;
        if team.is_some() {
            self.host_tell(id).await?;
        }
        Ok(team.map(Id::from_uuid))
    }

    /// Tells whoever listens, once this transaction commits.
    pub(super) async fn host_tell(&mut self, id: Id<Host>) -> Result<(), StoreError> {
        sqlx::query!("SELECT pg_notify($1, $2)", CHANNEL, id.uuid().to_string())
            .execute(self.connection())
            .await?;
        Ok(())
    }
}
