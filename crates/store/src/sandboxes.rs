//! Sandboxes.

use std::collections::BTreeMap;

use chrono::{DateTime, Utc};
use sandbar_types::id::{Host, Sandbox, Team, Template};
use sandbar_types::{Id, SandboxStatus};
use sqlx::types::Json;
use uuid::Uuid;

use crate::convert::{integer, unsigned, word};
use crate::{Position, Store, StoreError, Tx};

/// One sandbox, with the name of its template and the address of its host.
#[derive(Debug, Clone, PartialEq, Eq)]
#[expect(missing_docs, reason = "the schema says what each column is")]
pub struct SandboxRow {
    pub id: Id<Sandbox>,
    pub team_id: Id<Team>,
    pub template_id: Id<Template>,
    pub template_name: String,
    pub host_id: Option<Id<Host>>,
    pub host_address: Option<String>,
    pub status: SandboxStatus,
    pub status_reason: Option<String>,
    pub generation: i64,
    pub vcpus: u32,
    pub memory_mb: u32,
    pub disk_mb: u32,
    pub timeout_sec: u32,
    pub on_timeout: String,
    pub metadata: BTreeMap<String, String>,
    pub guest_ip: Option<String>,
    pub host_ip: Option<String>,
    pub created_at: DateTime<Utc>,
    pub started_at: Option<DateTime<Utc>>,
    pub last_active_at: Option<DateTime<Utc>>,
    pub expires_at: Option<DateTime<Utc>>,
    pub transition_started_at: DateTime<Utc>,
    pub updated_at: DateTime<Utc>,
}

/// A sandbox to be.
#[derive(Debug, Clone)]
#[expect(missing_docs, reason = "the schema says what each column is")]
pub struct NewSandboxRow<'a> {
    pub id: Id<Sandbox>,
    pub team_id: Id<Team>,
    pub template_id: Id<Template>,
    pub vcpus: u32,
    pub memory_mb: u32,
    pub disk_mb: u32,
    pub timeout_sec: u32,
    pub on_timeout: &'a str,
    pub metadata: &'a BTreeMap<String, String>,
    /// Who made it, as the audit trail calls them.
    pub created_by: &'a str,
}

/// A change of state: compare-and-set. What it may come from is the transition table's to say, and can only be narrowed.
#[derive(Debug, Clone)]
pub struct Transition<'a> {
    id: Id<Sandbox>,
    to: SandboxStatus,
    from: Vec<SandboxStatus>,
    generation: Option<i64>,
    reason: Option<&'a str>,
}

impl<'a> Transition<'a> {
    /// To a state, from any that may become it.
    #[must_use]
    pub fn new(id: Id<Sandbox>, to: SandboxStatus) -> Self {
        Self { id, to, from: SandboxStatus::sources_of(to), generation: None, reason: None }
    }

    /// Only from these states.
    #[must_use]
    pub fn only_from(mut self, from: &[SandboxStatus]) -> Self {
        self.from.retain(|status| from.contains(status));
        self
    }

    /// Only if the row was not changed since it was read.
    #[must_use]
    pub const fn at_generation(mut self, generation: i64) -> Self {
        self.generation = Some(generation);
        self
    }

    /// Why, for people.
    #[must_use]
    pub const fn because(mut self, reason: &'a str) -> Self {
        self.reason = Some(reason);
        self
    }
}

/// What a host says of a sandbox that it runs.
#[derive(Debug, Clone, PartialEq, Eq)]
#[expect(missing_docs, reason = "the schema says what each column is")]
pub struct RunningOn {
    pub guest_ip: Option<String>,
    pub host_ip: Option<String>,
    pub last_active_at: Option<DateTime<Utc>>,
    pub expires_at: Option<DateTime<Utc>>,
}

/// When a sandbox was last used, and when it ends if it is not.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[expect(missing_docs, reason = "the schema says what each column is")]
pub struct Activity {
    pub id: Id<Sandbox>,
    pub last_active_at: Option<DateTime<Utc>>,
    pub expires_at: Option<DateTime<Utc>>,
}

/// Which sandboxes to list.
#[derive(Debug, Clone)]
pub struct ListFilter<'a> {
    /// Whose.
    pub team_id: Id<Team>,
    /// Of these states; empty = all that have not ended.
    pub status: &'a [SandboxStatus],
    /// Made from the template of this name.
    pub template: Option<&'a str>,
    /// With all these metadata entries.
    pub metadata: &'a BTreeMap<String, String>,
    /// Older than this one.
    pub after: Option<Position>,
    /// At most so many.
    pub limit: i64,
}

struct Raw {
    id: Uuid,
    team_id: Uuid,
    template_id: Uuid,
    template_name: String,
    host_id: Option<Uuid>,
    host_address: Option<String>,
    status: String,
    status_reason: Option<String>,
    generation: i64,
    vcpus: i32,
    memory_mb: i32,
    disk_mb: i32,
    timeout_sec: i32,
    on_timeout: String,
    metadata: Json<BTreeMap<String, String>>,
    guest_ip: Option<String>,
    host_ip: Option<String>,
    created_at: DateTime<Utc>,
    started_at: Option<DateTime<Utc>>,
    last_active_at: Option<DateTime<Utc>>,
    expires_at: Option<DateTime<Utc>>,
    transition_started_at: DateTime<Utc>,
    updated_at: DateTime<Utc>,
}

impl TryFrom<Raw> for SandboxRow {
    type Error = StoreError;

    fn try_from(raw: Raw) -> Result<Self, StoreError> {
        Ok(Self {
            id: Id::from_uuid(raw.id),
            team_id: Id::from_uuid(raw.team_id),
            template_id: Id::from_uuid(raw.template_id),
            template_name: raw.template_name,
            host_id: raw.host_id.map(Id::from_uuid),
            host_address: raw.host_address,
            status: word("sandboxes.status", &raw.status)?,
            status_reason: raw.status_reason,
            generation: raw.generation,
            vcpus: unsigned("sandboxes.vcpus", raw.vcpus)?,
            memory_mb: unsigned("sandboxes.memory_mb", raw.memory_mb)?,
            disk_mb: unsigned("sandboxes.disk_mb", raw.disk_mb)?,
            timeout_sec: unsigned("sandboxes.timeout_sec", raw.timeout_sec)?,
            on_timeout: raw.on_timeout,
            metadata: raw.metadata.0,
            guest_ip: raw.guest_ip,
            host_ip: raw.host_ip,
            created_at: raw.created_at,
            started_at: raw.started_at,
            last_active_at: raw.last_active_at,
            expires_at: raw.expires_at,
            transition_started_at: raw.transition_started_at,
            updated_at: raw.updated_at,
        })
    }
}

/// A statement that yields sandboxes: `s` must be bound to rows of `sandboxes` by what stands before or after.
macro_rules! sandboxes {
    ($with:literal, $from:literal $(, $arg:expr)* $(,)?) => {
        sqlx::query_as!(
            Raw,
            $with
                + r#"
                SELECT s.id AS "id!", s.team_id AS "team_id!", s.template_id AS "template_id!",
                       t.name AS "template_name!", s.host_id AS "host_id?", h.address AS "host_address?",
                       s.status AS "status!", s.status_reason AS "status_reason?", s.generation AS "generation!",
                       s.vcpus AS "vcpus!", s.memory_mb AS "memory_mb!", s.disk_mb AS "disk_mb!",
                       s.timeout_sec AS "timeout_sec!", s.on_timeout AS "on_timeout!",
                       s.metadata AS "metadata!: Json<BTreeMap<String, String>>",
                       s.guest_ip AS "guest_ip?", s.host_ip AS "host_ip?", s.created_at AS "created_at!",
                       s.started_at AS "started_at?", s.last_active_at AS "last_active_at?",
                       s.expires_at AS "expires_at?", s.transition_started_at AS "transition_started_at!",
                       s.updated_at AS "updated_at!" "#
                + $from
            $(, $arg)*
        )
    };
}

impl Store {
    /// A team's sandbox. Another team's is not found.
    pub async fn sandbox_find(
        &self,
        team: Id<Team>,
        id: Id<Sandbox>,
    ) -> Result<Option<SandboxRow>, StoreError> {
        sandboxes!(
            "",
            "FROM sandboxes s JOIN templates t ON t.id = s.template_id LEFT JOIN hosts h ON h.id = s.host_id
             WHERE s.id = $1 AND s.team_id = $2",
            id.uuid(),
            team.uuid(),
        )
        .fetch_optional(&self.pool)
        .await?
        .map(SandboxRow::try_from)
        .transpose()
    }

    /// A team's sandboxes, newest first.
    pub async fn sandbox_list(&self, filter: &ListFilter<'_>) -> Result<Vec<SandboxRow>, StoreError> {
        let after = filter.after;
        let metadata = (!filter.metadata.is_empty()).then_some(Json(filter.metadata));
        let raws = if filter.status.is_empty() {
            // A statement of its own, so that its condition is the partial index's.
            sandboxes!(
                "",
                "FROM sandboxes s JOIN templates t ON t.id = s.template_id LEFT JOIN hosts h ON h.id = s.host_id
                 WHERE s.team_id = $1 AND s.status NOT IN ('stopped', 'error')
                   AND ($2::text IS NULL OR t.name = $2)
                   AND ($3::jsonb IS NULL OR s.metadata @> $3)
                   AND ($4::timestamptz IS NULL OR (s.created_at, s.id) < ($4, $5))
                 ORDER BY s.created_at DESC, s.id DESC LIMIT $6",
                filter.team_id.uuid(),
                filter.template,
                metadata as _,
                after.map(|after| after.created_at),
                after.map(|after| after.id),
                filter.limit,
            )
            .fetch_all(&self.pool)
            .await?
        } else {
            sandboxes!(
                "",
                "FROM sandboxes s JOIN templates t ON t.id = s.template_id LEFT JOIN hosts h ON h.id = s.host_id
                 WHERE s.team_id = $1 AND s.status = ANY($2)
                   AND ($3::text IS NULL OR t.name = $3)
                   AND ($4::jsonb IS NULL OR s.metadata @> $4)
                   AND ($5::timestamptz IS NULL OR (s.created_at, s.id) < ($5, $6))
                 ORDER BY s.created_at DESC, s.id DESC LIMIT $7",
                filter.team_id.uuid(),
                &words(filter.status),
                filter.template,
                metadata as _,
                after.map(|after| after.created_at),
                after.map(|after| after.id),
                filter.limit,
            )
            .fetch_all(&self.pool)
            .await?
        };
        raws.into_iter().map(SandboxRow::try_from).collect()
    }

    /// A host's sandboxes that have not ended.
    pub async fn sandboxes_living_on(&self, host: Id<Host>) -> Result<Vec<SandboxRow>, StoreError> {
        sandboxes!(
            "",
            "FROM sandboxes s JOIN templates t ON t.id = s.template_id LEFT JOIN hosts h ON h.id = s.host_id
             WHERE s.host_id = $1 AND s.status NOT IN ('stopped', 'error')",
            host.uuid(),
        )
        .fetch_all(&self.pool)
        .await?
        .into_iter()
        .map(SandboxRow::try_from)
        .collect()
    }

    /// The states of sandboxes, of those that are known at all.
    pub async fn sandbox_statuses(
        &self,
        ids: &[Id<Sandbox>],
    ) -> Result<Vec<(Id<Sandbox>, SandboxStatus)>, StoreError> {
        let ids: Vec<Uuid> = ids.iter().map(|id| id.uuid()).collect();
        sqlx::query!("SELECT id, status FROM sandboxes WHERE id = ANY($1)", &ids)
            .fetch_all(&self.pool)
            .await?
            .into_iter()
            .map(|row| Ok((Id::from_uuid(row.id), word("sandboxes.status", &row.status)?)))
            .collect()
    }

    /// Sandboxes without a host that have been in a transitional state since before `before`.
    pub async fn sandboxes_stuck_without_host(
        &self,
        before: DateTime<Utc>,
    ) -> Result<Vec<SandboxRow>, StoreError> {
        sandboxes!(
            "",
            "FROM sandboxes s JOIN templates t ON t.id = s.template_id LEFT JOIN hosts h ON h.id = s.host_id
             WHERE s.host_id IS NULL AND s.status IN ('pending', 'stopping') AND s.transition_started_at < $1
             ORDER BY s.transition_started_at LIMIT 1000",
            before,
        )
        .fetch_all(&self.pool)
        .await?
        .into_iter()
        .map(SandboxRow::try_from)
        .collect()
    }

    /// Writes down when sandboxes were last used, as their host says. Rows that say so already are not written.
    pub async fn sandbox_activity(&self, activity: &[Activity]) -> Result<(), StoreError> {
        let ids: Vec<Uuid> = activity.iter().map(|seen| seen.id.uuid()).collect();
        let active: Vec<Option<DateTime<Utc>>> = activity.iter().map(|seen| seen.last_active_at).collect();
        let expires: Vec<Option<DateTime<Utc>>> = activity.iter().map(|seen| seen.expires_at).collect();
        sqlx::query!(
            "UPDATE sandboxes s SET last_active_at = u.last_active_at, expires_at = u.expires_at
             FROM UNNEST($1::uuid[], $2::timestamptz[], $3::timestamptz[]) AS u (id, last_active_at, expires_at)
             WHERE s.id = u.id AND s.status = 'running'
               AND (s.last_active_at, s.expires_at) IS DISTINCT FROM (u.last_active_at, u.expires_at)",
            &ids,
            &active as _,
            &expires as _,
        )
        .execute(&self.pool)
        .await?;
        Ok(())
    }
}

impl Tx {
    /// Makes a row in the state `pending`.
    pub async fn sandbox_insert(&mut self, new: &NewSandboxRow<'_>) -> Result<(), StoreError> {
        sqlx::query!(
            "INSERT INTO sandboxes (id, team_id, template_id, vcpus, memory_mb, disk_mb, timeout_sec, on_timeout,
                                    metadata, created_by)
             VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10)",
            new.id.uuid(),
            new.team_id.uuid(),
            new.template_id.uuid(),
            integer(new.vcpus),
            integer(new.memory_mb),
            integer(new.disk_mb),
            integer(new.timeout_sec),
            new.on_timeout,
            Json(new.metadata) as _,
            new.created_by,
        )
        .execute(self.connection())
        .await?;
        Ok(())
    }

    /// Places a `pending` sandbox on a host. None when it is not pending any more.
    pub async fn sandbox_place(
        &mut self,
        id: Id<Sandbox>,
        host: Id<Host>,
    ) -> Result<Option<SandboxRow>, StoreError> {
        sandboxes!(
            "WITH s AS (
                 UPDATE sandboxes SET status = 'starting', host_id = $2, generation = generation + 1,
                        transition_started_at = now(), updated_at = now()
                 WHERE id = $1 AND status = 'pending' RETURNING *)",
            "FROM s JOIN templates t ON t.id = s.template_id LEFT JOIN hosts h ON h.id = s.host_id",
            id.uuid(),
            host.uuid(),
        )
        .fetch_optional(self.connection())
        .await?
        .map(SandboxRow::try_from)
        .transpose()
    }

    /// Changes a sandbox's state. None when it is in none of the states that it may come from: another change came first.
    pub async fn sandbox_transition(
        &mut self,
        transition: &Transition<'_>,
    ) -> Result<Option<SandboxRow>, StoreError> {
        sandboxes!(
            "WITH s AS (
                 UPDATE sandboxes SET status = $2, status_reason = $5, generation = generation + 1,
                        transition_started_at = now(), updated_at = now()
                 WHERE id = $1 AND status = ANY($3) AND ($4::bigint IS NULL OR generation = $4) RETURNING *)",
            "FROM s JOIN templates t ON t.id = s.template_id LEFT JOIN hosts h ON h.id = s.host_id",
            transition.id.uuid(),
            transition.to.as_str(),
            &words(&transition.from),
            transition.generation,
            transition.reason,
        )
        .fetch_optional(self.connection())
        .await?
        .map(SandboxRow::try_from)
        .transpose()
    }

    /// As [`Tx::sandbox_transition`] to `running`, with what its host says of it.
    pub async fn sandbox_run(
        &mut self,
        transition: &Transition<'_>,
        on: &RunningOn,
    ) -> Result<Option<SandboxRow>, StoreError> {
        debug_assert_eq!(transition.to, SandboxStatus::Running);
        sandboxes!(
            "WITH s AS (
                 UPDATE sandboxes SET status = 'running', status_reason = NULL, generation = generation + 1,
                        guest_ip = $4, host_ip = $5, last_active_at = $6, expires_at = $7,
                        started_at = COALESCE(started_at, now()), transition_started_at = now(), updated_at = now()
                 WHERE id = $1 AND status = ANY($2) AND ($3::bigint IS NULL OR generation = $3) RETURNING *)",
            "FROM s JOIN templates t ON t.id = s.template_id LEFT JOIN hosts h ON h.id = s.host_id",
            transition.id.uuid(),
            &words(&transition.from),
            transition.generation,
            on.guest_ip,
            on.host_ip,
            on.last_active_at,
            on.expires_at,
        )
        .fetch_optional(self.connection())
        .await?
        .map(SandboxRow::try_from)
        .transpose()
    }

    /// Marks the sandboxes of an unreachable host as missing, which loses nothing: the host's inventory restores them.
    pub async fn sandboxes_go_missing(&mut self, host: Id<Host>) -> Result<u64, StoreError> {
        let from = words(&SandboxStatus::sources_of(SandboxStatus::Missing));
        let done = sqlx::query!(
            "UPDATE sandboxes SET status = 'missing', status_reason = 'its host cannot be reached',
                    generation = generation + 1, transition_started_at = now(), updated_at = now()
             WHERE host_id = $1 AND status = ANY($2)",
            host.uuid(),
            &from,
        )
        .execute(self.connection())
        .await?;
        Ok(done.rows_affected())
    }
}

fn words(statuses: &[SandboxStatus]) -> Vec<String> {
    statuses.iter().map(|status| status.as_str().to_owned()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_transition_can_only_be_narrowed() {
        let id = Id::new();
        let all = Transition::new(id, SandboxStatus::Stopped);
        assert_eq!(all.from, SandboxStatus::sources_of(SandboxStatus::Stopped));
        let narrowed = all.only_from(&[SandboxStatus::Running, SandboxStatus::Pending]);
        // A pending sandbox never becomes stopped directly, whatever the caller says.
        assert_eq!(narrowed.from, [SandboxStatus::Running]);
    }
}
