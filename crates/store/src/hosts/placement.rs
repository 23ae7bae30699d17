//! What the scheduler reads, and the room that a placement takes.

use sandbar_types::id::{Host, Team, Template};
use sandbar_types::{Arch, Id, VmmKind};

use crate::convert::{unsigned, word};
use crate::{Store, StoreError, Tx};

/// A host that is heard of, as the scheduler sees it for one team and one template.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Candidate {
    /// The host.
    pub host_id: Id<Host>,
    /// It takes the team's sandboxes: its own host for a team that brings hosts, the platform's for all others.
    pub is_for_team: bool,
    /// It takes no new sandboxes.
    pub is_draining: bool,
    /// Its processors' kind.
    pub arch: Arch,
    /// What runs its machines.
    pub vmm: VmmKind,
    /// Its memory.
    pub memory_mb: u32,
    /// Its processors.
    pub cpu_cores: u32,
    /// Its disk.
    pub disk_mb: u64,
    /// Memory of the sandboxes that it runs or is about to.
    pub promised_memory_mb: u64,
    /// Their virtual processors.
    pub promised_vcpus: u64,
    /// Disks of all its sandboxes, paused ones too, and its volumes.
    pub promised_disk_mb: u64,
    /// How many run, or are about to.
    pub sandboxes: u64,
    /// How many of them are the team's.
    pub of_team: u64,
    /// Whether it has the template's files.
    pub files: Files,
}

/// Where a template's files are, as one host sees it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Files {
    /// It has them.
    Here,
    /// It can get them from elsewhere.
    Elsewhere,
    /// It cannot have them.
    Nowhere,
}

/// What a sandbox takes of its host.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[expect(missing_docs, reason = "the names say it")]
pub struct Demand {
    pub memory_mb: u32,
    pub vcpus: u32,
    pub disk_mb: u32,
}

/// How much of what a host has may be promised, in percent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[expect(missing_docs, reason = "the names say it")]
pub struct Limits {
    pub memory: u32,
    pub vcpus: u32,
    pub disk: u32,
}

/// What room is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Purpose {
    /// A sandbox that is to come. Not on a host that drains.
    New,
    /// A paused one of the host's own goes on: it has its disk, and can go nowhere else.
    Resume,
}

/// Whether a host can take a sandbox.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Room {
    /// It can, and nobody else can take the room until this transaction ends.
    Enough,
    /// It is full.
    Full,
    /// It takes no new ones.
    Draining,
    /// It is not heard of.
    Gone,
}

impl Store {
    /// The hosts that are heard of, as the scheduler sees them for a team's sandbox of a template: all, or at most so many. Of many those
    /// that have its files come first, then those that may take it, else they are picked at random, so that replicas that ask at the same time do not all pick the same.
    pub async fn host_candidates(
        &self,
        team: Id<Team>,
        template: Id<Template>,
        at_most: Option<u32>,
    ) -> Result<Vec<Candidate>, StoreError> {
        sqlx::query!(
            r#"WITH sources AS (
                   SELECT COALESCE(bool_or(t.durable OR s.kind = 'regular'), FALSE) AS shared,
                          COALESCE(bool_or(s.team_id = $1), FALSE) AS own
                   FROM templates t
                   LEFT JOIN template_locations l ON l.template_id = t.id AND l.state = 'ready'
                   LEFT JOIN hosts s ON s.id = l.host_id AND s.status IN ('online', 'draining') AND s.deleted_at IS NULL
                   WHERE t.id = $2 AND NOT (t.team_id = $4 AND t.source_id IS NULL)),
               seen AS (
                   SELECT h.id, h.draining, h.arch, h.vmm, h.memory_mb, h.cpu_cores, h.disk_gb,
                          CASE WHEN EXISTS (SELECT 1 FROM teams t WHERE t.id = $1 AND t.is_byoc)
                               THEN h.kind = 'byoc' AND h.team_id = $1 ELSE h.kind = 'regular' END AS is_for_team,
                          EXISTS (SELECT 1 FROM template_locations l
                                  WHERE l.host_id = h.id AND l.template_id = $2 AND l.state = 'ready') AS has_files,
                          (x.shared OR (x.own AND h.team_id = $1)) AS can_fetch
                   FROM hosts h CROSS JOIN sources x WHERE h.status IN ('online', 'draining') AND h.deleted_at IS NULL),
               picked AS (
                   SELECT * FROM seen
                   ORDER BY (NOT draining AND is_for_team AND has_files) DESC, (NOT draining AND is_for_team) DESC, random()
                   LIMIT $3)
               SELECT h.id AS "id!", h.draining AS "draining!", h.is_for_team AS "is_for_team!", h.arch AS "arch!",
                      h.vmm AS "vmm!", h.memory_mb AS "memory_mb!", h.cpu_cores AS "cpu_cores!", h.disk_gb AS "disk_gb!",
                      COALESCE(p.memory_mb, 0) AS "promised_memory_mb!", COALESCE(p.vcpus, 0) AS "promised_vcpus!",
                      COALESCE(p.disk_mb, 0) + COALESCE(v.size_mb, 0) AS "promised_disk_mb!", p.sandboxes AS "sandboxes!", p.of_team AS "of_team!",
                      h.has_files AS "has_files!", h.can_fetch AS "can_fetch!"
               FROM picked h
               LEFT JOIN LATERAL (
                   SELECT sum(s.memory_mb) FILTER (WHERE s.status <> 'paused') AS memory_mb,
                          sum(s.vcpus) FILTER (WHERE s.status <> 'paused') AS vcpus,
                          sum(s.disk_mb) AS disk_mb,
                          count(*) FILTER (WHERE s.status <> 'paused') AS sandboxes,
                          count(*) FILTER (WHERE s.status <> 'paused' AND s.team_id = $1) AS of_team
                   FROM sandboxes s WHERE s.host_id = h.id AND s.status NOT IN ('stopped', 'error')
               ) p ON TRUE
               LEFT JOIN LATERAL (SELECT sum(size_mb) AS size_mb FROM volumes WHERE host_id = h.id) v ON TRUE"#,
            team.uuid(),
            template.uuid(),
            at_most.map(i64::from),
            Id::<Team>::PLATFORM.uuid(),
        )
        .fetch_all(&self.pool)
        .await?
        .into_iter()
        .map(|row| {
            Ok(Candidate {
                host_id: Id::from_uuid(row.id),
                is_for_team: row.is_for_team,
                is_draining: row.draining,
                arch: word("hosts.arch", &row.arch)?,
                vmm: word("hosts.vmm", &row.vmm)?,
                memory_mb: unsigned("hosts.memory_mb", row.memory_mb)?,
                cpu_cores: unsigned("hosts.cpu_cores", row.cpu_cores)?,
                disk_mb: u64::from(unsigned::<i32, u32>("hosts.disk_gb", row.disk_gb)?) * 1024,
                promised_memory_mb: unsigned("sum of memory_mb", row.promised_memory_mb)?,
                promised_vcpus: unsigned("sum of vcpus", row.promised_vcpus)?,
                promised_disk_mb: unsigned("sum of disk_mb", row.promised_disk_mb)?,
                sandboxes: unsigned("count of sandboxes", row.sandboxes)?,
                of_team: unsigned("count of sandboxes", row.of_team)?,
                files: match (row.has_files, row.can_fetch) {
                    (true, _) => Files::Here,
                    (false, true) => Files::Elsewhere,
                    (false, false) => Files::Nowhere,
                },
            })
        })
        .collect()
    }

    /// Where a template's files are at this moment: hosts that are heard of, with their addresses.
    pub async fn template_hosts(
        &self,
        template: Id<Template>,
    ) -> Result<Vec<(Id<Host>, String)>, StoreError> {
        Ok(sqlx::query!(
            r#"SELECT h.id, h.address AS "address!" FROM template_locations l JOIN hosts h ON h.id = l.host_id
               WHERE l.template_id = $1 AND l.state = 'ready' AND h.status IN ('online', 'draining')
                 AND h.deleted_at IS NULL ORDER BY l.created_at, h.id"#,
            template.uuid(),
        )
        .fetch_all(&self.pool)
        .await?
        .into_iter()
        .map(|row| (Id::from_uuid(row.id), row.address))
        .collect())
    }
}

impl Tx {
    /// Whether a host can take `demand` more, within `limits`. Holds the host's row until the transaction ends, so that of several
    /// creates at once none takes room that another was given.
    pub async fn host_room(
        &mut self,
        id: Id<Host>,
        demand: Demand,
        limits: Limits,
        purpose: Purpose,
    ) -> Result<Room, StoreError> {
        let host = sqlx::query!(
            r#"SELECT draining, memory_mb AS "memory_mb!", cpu_cores AS "cpu_cores!", disk_gb AS "disk_gb!" FROM hosts
               WHERE id = $1 AND deleted_at IS NULL AND status IN ('online', 'draining') FOR NO KEY UPDATE"#,
            id.uuid(),
        )
        .fetch_optional(self.connection())
        .await?;
        let Some(host) = host else { return Ok(Room::Gone) };
        if host.draining && purpose == Purpose::New {
            return Ok(Room::Draining);
        }
        let promised = sqlx::query!(
            r#"SELECT COALESCE(sum(memory_mb) FILTER (WHERE status <> 'paused'), 0) AS "memory_mb!",
                      COALESCE(sum(vcpus) FILTER (WHERE status <> 'paused'), 0) AS "vcpus!",
                      COALESCE(sum(disk_mb), 0)
                          + COALESCE((SELECT sum(size_mb) FROM volumes WHERE host_id = $1), 0) AS "disk_mb!"
               FROM sandboxes WHERE host_id = $1 AND status NOT IN ('stopped', 'error')"#,
            id.uuid(),
        )
        .fetch_one(self.connection())
        .await?;
        let fits = |has: i64, percent: u32, promised: i64, more: u32| {
            promised + i64::from(more) <= has * i64::from(percent) / 100
        };
        let disk_mb = match purpose {
            Purpose::New => demand.disk_mb,
            Purpose::Resume => 0,
        };
        let enough = fits(host.memory_mb.into(), limits.memory, promised.memory_mb, demand.memory_mb)
            && fits(host.cpu_cores.into(), limits.vcpus, promised.vcpus, demand.vcpus)
            && (disk_mb == 0 || fits(i64::from(host.disk_gb) * 1024, limits.disk, promised.disk_mb, disk_mb));
        Ok(if enough { Room::Enough } else { Room::Full })
    }
}
