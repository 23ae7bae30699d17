//! Hosts, their one-time and refresh tokens, and what the scheduler reads.

use chrono::{DateTime, Utc};
use sandbar_types::id::{Host, HostRefreshToken, HostToken, Team, Template};
use sandbar_types::{Arch, Id, VmmKind};
use serde_json::Value;
use sqlx::postgres::PgListener;
use uuid::Uuid;

use crate::convert::{integer, unsigned, unsigned_opt, word_opt};
use crate::{Store, StoreError, Tx};

/// The channel on which a host's change of status is told, with its id.
const CHANNEL: &str = "sandbar_hosts";

/// One host.
#[derive(Debug, Clone, PartialEq)]
#[expect(missing_docs, reason = "the schema says what each column is")]
pub struct HostRow {
    pub id: Id<Host>,
    pub kind: String,
    pub team_id: Id<Team>,
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
    pub created_by: Option<Uuid>,
}

/// What an agent says of its host when it registers.
#[derive(Debug, Clone)]
#[expect(missing_docs, reason = "the schema says what each column is")]
pub struct RegistrationRow<'a> {
    pub arch: Arch,
    pub vmm: VmmKind,
    pub cpu_cores: u32,
    pub memory_mb: u32,
    pub disk_gb: u32,
    pub address: &'a str,
}

/// A refresh token to be kept.
#[derive(Debug, Clone)]
#[expect(missing_docs, reason = "the schema says what each column is")]
pub struct NewRefreshToken<'a> {
    pub id: Id<HostRefreshToken>,
    pub host_id: Id<Host>,
    pub family_id: Uuid,
    pub token_hash: &'a [u8; 32],
    pub expires_at: DateTime<Utc>,
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
}

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

struct Raw {
    id: Uuid,
    kind: String,
    team_id: Uuid,
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
                + " id, kind, team_id, provider, availability_zone, arch, vmm, cpu_cores, memory_mb, disk_gb, address,
                    status, credential_epoch, last_heartbeat_at, reconciled_generation, created_at, updated_at "
                + $tail
            $(, $arg)*
        )
    };
}

impl Store {
    /// A host.
    pub async fn host_find(&self, id: Id<Host>) -> Result<Option<HostRow>, StoreError> {
        hosts!("SELECT", "FROM hosts WHERE id = $1 AND deleted_at IS NULL", id.uuid())
            .fetch_optional(&self.pool)
            .await?
            .map(HostRow::try_from)
            .transpose()
    }

    /// All hosts, oldest first.
    pub async fn host_list(&self) -> Result<Vec<HostRow>, StoreError> {
        hosts!("SELECT", "FROM hosts WHERE deleted_at IS NULL ORDER BY created_at, id")
            .fetch_all(&self.pool)
            .await?
            .into_iter()
            .map(HostRow::try_from)
            .collect()
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
            new.created_by,
        )
        .fetch_one(self.connection())
        .await?
        .try_into()
    }

    /// Keeps a one-time token.
    pub async fn host_token_insert(
        &mut self,
        id: Id<HostToken>,
        host: Id<Host>,
        token_hash: &[u8; 32],
        expires_at: DateTime<Utc>,
    ) -> Result<(), StoreError> {
        sqlx::query!(
            "INSERT INTO host_tokens (id, host_id, token_hash, expires_at) VALUES ($1, $2, $3, $4)",
            id.uuid(),
            host.uuid(),
            token_hash,
            expires_at,
        )
        .execute(self.connection())
        .await?;
        Ok(())
    }

    /// Uses up a one-time token. None when it is unknown, used, expired, or its host is deleted.
    pub async fn host_token_use(&mut self, token_hash: &[u8; 32]) -> Result<Option<Id<Host>>, StoreError> {
        Ok(sqlx::query_scalar!(
            "UPDATE host_tokens t SET used_at = now() FROM hosts h
             WHERE t.token_hash = $1 AND t.used_at IS NULL AND t.expires_at > now()
               AND h.id = t.host_id AND h.deleted_at IS NULL
             RETURNING t.host_id",
            token_hash,
        )
        .fetch_optional(self.connection())
        .await?
        .map(Id::from_uuid))
    }

    /// Writes down what an agent says of its host, and begins a new epoch of its credentials: those of a registration before are
    /// void, and so are its refresh tokens.
    pub async fn host_register(
        &mut self,
        id: Id<Host>,
        registration: &RegistrationRow<'_>,
    ) -> Result<HostRow, StoreError> {
        sqlx::query!(
            "UPDATE host_refresh_tokens SET revoked_at = now() WHERE host_id = $1 AND revoked_at IS NULL",
            id.uuid(),
        )
        .execute(self.connection())
        .await?;
        hosts!(
            "UPDATE hosts SET arch = $2, vmm = $3, cpu_cores = $4, memory_mb = $5, disk_gb = $6, address = $7,
                    status = CASE WHEN status = 'pending' THEN 'offline' ELSE status END,
                    credential_epoch = credential_epoch + 1, generation = generation + 1, updated_at = now()
             WHERE id = $1 RETURNING",
            "",
            id.uuid(),
            registration.arch.as_str(),
            registration.vmm.as_str(),
            integer(registration.cpu_cores),
            integer(registration.memory_mb),
            integer(registration.disk_gb),
            registration.address,
        )
        .fetch_one(self.connection())
        .await?
        .try_into()
    }

    /// Keeps a refresh token.
    pub async fn host_refresh_token_insert(&mut self, new: &NewRefreshToken<'_>) -> Result<(), StoreError> {
        sqlx::query!(
            "INSERT INTO host_refresh_tokens (id, host_id, family_id, token_hash, expires_at)
             VALUES ($1, $2, $3, $4, $5)",
            new.id.uuid(),
            new.host_id.uuid(),
            new.family_id,
            new.token_hash,
            new.expires_at,
        )
        .execute(self.connection())
        .await?;
        Ok(())
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
                      status = CASE WHEN b.status = 'draining' THEN 'draining' ELSE 'online' END
               FROM before b WHERE h.id = b.id
               RETURNING b.status AS "was!", h.status AS "is!", h.reconciled_generation"#,
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
        Ok(Some(Beat { was: beat.was, is: beat.is, reconciled_generation: beat.reconciled_generation }))
    }

    /// Marks a host that is still silent as unreachable. Whether it was.
    pub async fn host_lost(&mut self, id: Id<Host>, before: DateTime<Utc>) -> Result<bool, StoreError> {
        let done = sqlx::query!(
            "UPDATE hosts SET status = 'unreachable', generation = generation + 1, updated_at = now()
             WHERE id = $1 AND status IN ('online', 'draining')
               AND (last_heartbeat_at IS NULL OR last_heartbeat_at < $2)",
            id.uuid(),
            before,
        )
        .execute(self.connection())
        .await?;
        let lost = done.rows_affected() > 0;
        if lost {
            self.host_tell(id).await?;
        }
        Ok(lost)
    }

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

    /// Tells whoever listens, once this transaction commits.
    async fn host_tell(&mut self, id: Id<Host>) -> Result<(), StoreError> {
        sqlx::query!("SELECT pg_notify($1, $2)", CHANNEL, id.uuid().to_string())
            .execute(self.connection())
            .await?;
        Ok(())
    }
}
