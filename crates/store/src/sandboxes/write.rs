//! Making sandboxes and changing their state, by compare-and-set alone.

use std::collections::BTreeMap;

use chrono::{DateTime, Utc};
use sandbar_types::id::{Host, Sandbox, Team, Template};
use sandbar_types::{
    Id, Ingress, NetworkPolicy, OnTimeout, PauseMode, SandboxStatus, TimeoutFrom, VolumeMount,
};
use serde_json::Value;
use sqlx::types::Json;

use super::{Activity, Deadline, Raw, SandboxRow, sandboxes, words};
use crate::convert::integer;
use crate::{StoreError, Tx};

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
    pub on_timeout: OnTimeout,
    pub timeout_from: TimeoutFrom,
    pub metadata: &'a BTreeMap<String, String>,
    pub network: &'a NetworkPolicy,
    pub ingress: &'a Ingress,
    /// Who made it, as the audit trail calls them.
    pub created_by: &'a str,
    /// The sandbox that it is a fork of.
    pub parent_id: Option<Id<Sandbox>>,
    /// What it is to have: claimed by the caller ([`Tx::volume_claim`]).
    pub volumes: &'a [VolumeMount],
}

/// A change of state: compare-and-set. What it may come from is the transition table's to say, and can only be narrowed.
#[derive(Debug, Clone)]
pub struct Transition<'a> {
    id: Id<Sandbox>,
    to: SandboxStatus,
    from: Vec<SandboxStatus>,
    generation: Option<i64>,
    reason: Reason<'a>,
    operation: Option<&'a Value>,
    pause: Option<PauseMode>,
}

/// What becomes of the reason for the state that a sandbox is in.
#[derive(Debug, Clone, Copy)]
enum Reason<'a> {
    /// The new state has none.
    None,
    /// The sandbox is as it was: so is why.
    Kept,
    Because(&'a str),
}

impl<'a> Transition<'a> {
    /// To a state, from any that may become it.
    #[must_use]
    pub fn new(id: Id<Sandbox>, to: SandboxStatus) -> Self {
        Self {
            id,
            to,
            from: SandboxStatus::sources_of(to),
            generation: None,
            reason: Reason::None,
            operation: None,
            pause: None,
        }
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
        self.reason = Reason::Because(reason);
        self
    }

    /// For a state that changes nothing about the sandbox itself: why it is as it is stays.
    #[must_use]
    pub const fn keeping_the_reason(mut self) -> Self {
        self.reason = Reason::Kept;
        self
    }

    /// To `paused`: what was kept of it. Otherwise that stays as it is until the sandbox runs.
    #[must_use]
    pub const fn keeping(mut self, mode: PauseMode) -> Self {
        self.pause = Some(mode);
        self
    }

    /// Who began it, in the audit trail's words: kept for whoever finishes it, until the sandbox is at rest.
    #[must_use]
    pub const fn begun_by(mut self, operation: &'a Value) -> Self {
        self.operation = Some(operation);
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
    /// None where the host does not say.
    pub deadline: Option<Deadline>,
}

impl Tx {
    /// Makes a row in the state `pending`.
    pub async fn sandbox_insert(&mut self, new: &NewSandboxRow<'_>) -> Result<(), StoreError> {
        sqlx::query!(
            "INSERT INTO sandboxes (id, team_id, template_id, vcpus, memory_mb, disk_mb, timeout_sec, on_timeout,
                                    metadata, created_by, parent_id, network, timeout_from, ingress,
                                    volumes)
             VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15)",
            new.id.uuid(),
            new.team_id.uuid(),
            new.template_id.uuid(),
            integer(new.vcpus),
            integer(new.memory_mb),
            integer(new.disk_mb),
            integer(new.timeout_sec),
            new.on_timeout.as_str(),
            Json(new.metadata) as _,
            new.created_by,
            new.parent_id.map(Id::uuid),
            column(new.network) as _,
            new.timeout_from.as_str(),
            column(new.ingress) as _,
            Json(new.volumes) as _,
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

    /// Changes a sandbox's state. None when it is in none of the states that it may come from: another change came first. A paused
    /// one has no address and does not end by itself; one at rest has no change under way.
    pub async fn sandbox_transition(
        &mut self,
        transition: &Transition<'_>,
    ) -> Result<Option<SandboxRow>, StoreError> {
        let (because, kept) = match transition.reason {
            Reason::None => (None, false),
            Reason::Kept => (None, true),
            Reason::Because(reason) => (Some(reason), false),
        };
        sandboxes!(
            "WITH s AS (
                 UPDATE sandboxes SET status = $2, generation = generation + 1,
                        status_reason = CASE WHEN $7 THEN status_reason ELSE $5 END,
                        host_ip = CASE WHEN $2 = 'paused' THEN NULL ELSE host_ip END,
                        expires_at = CASE WHEN $2 = 'paused' THEN NULL ELSE expires_at END,
                        pause_mode = CASE WHEN $2 <> 'running' THEN COALESCE($8, pause_mode) END,
                        operation = CASE WHEN $2 NOT IN ('running', 'paused') THEN COALESCE($6, operation) END,
                        transition_started_at = now(), updated_at = now()
                 WHERE id = $1 AND status = ANY($3) AND ($4::bigint IS NULL OR generation = $4) RETURNING *)",
            "FROM s JOIN templates t ON t.id = s.template_id LEFT JOIN hosts h ON h.id = s.host_id",
            transition.id.uuid(),
            transition.to.as_str(),
            &words(&transition.from),
            transition.generation,
            because,
            transition.operation,
            kept,
            transition.pause.map(PauseMode::as_str),
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
                 UPDATE sandboxes SET status = 'running', status_reason = NULL, operation = NULL, pause_mode = NULL,
                        generation = generation + 1,
                        guest_ip = $4, host_ip = $5, last_active_at = $6, expires_at = $7,
                        timeout_sec = COALESCE($8, timeout_sec), on_timeout = COALESCE($9, on_timeout),
                        timeout_from = COALESCE($10, timeout_from),
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
            on.deadline.map(|deadline| integer(deadline.timeout_sec)),
            on.deadline.map(|deadline| deadline.on_timeout.as_str()),
            on.deadline.map(|deadline| deadline.timeout_from.as_str()),
        )
        .fetch_optional(self.connection())
        .await?
        .map(SandboxRow::try_from)
        .transpose()
    }

    /// The change that is under way in a row which was not changed since it was read: who began it, in the audit trail's words.
    pub async fn sandbox_operation(
        &mut self,
        id: Id<Sandbox>,
        generation: i64,
    ) -> Result<Option<Value>, StoreError> {
        let operation = sqlx::query_scalar!(
            "SELECT operation FROM sandboxes WHERE id = $1 AND generation = $2",
            id.uuid(),
            generation,
        );
        Ok(operation.fetch_optional(self.connection()).await?.flatten())
    }

    /// Takes a change off a row, wherever that is by now, so that nobody else tells of it. False when somebody has done so.
    pub async fn sandbox_operation_take(
        &mut self,
        id: Id<Sandbox>,
        operation: &Value,
    ) -> Result<bool, StoreError> {
        let taken = sqlx::query!(
            "UPDATE sandboxes SET operation = NULL, updated_at = now() WHERE id = $1 AND operation = $2",
            id.uuid(),
            operation,
        );
        Ok(taken.execute(self.connection()).await?.rows_affected() > 0)
    }

    /// Writes down a deadline that the host has taken. Grows the generation: what was read of the row before is old; not in the middle
    /// of a change, whose end compares it. None when the sandbox has ended.
    pub async fn sandbox_deadline(
        &mut self,
        seen: &Activity,
        deadline: Deadline,
    ) -> Result<Option<SandboxRow>, StoreError> {
        sandboxes!(
            "WITH s AS (
                 UPDATE sandboxes SET timeout_sec = $2, on_timeout = $3, last_active_at = $4, timeout_from = $6,
                        expires_at = CASE WHEN status IN ('running', 'snapshotting') THEN $5 ELSE expires_at END,
                        generation = generation
                            + CASE WHEN status IN ('pausing', 'resuming', 'snapshotting') THEN 0 ELSE 1 END,
                        updated_at = now()
                 WHERE id = $1 AND status NOT IN ('stopped', 'error') RETURNING *)",
            "FROM s JOIN templates t ON t.id = s.template_id LEFT JOIN hosts h ON h.id = s.host_id",
            seen.id.uuid(),
            integer(deadline.timeout_sec),
            deadline.on_timeout.as_str(),
            seen.last_active_at,
            seen.expires_at,
            deadline.timeout_from.as_str(),
        )
        .fetch_optional(self.connection())
        .await?
        .map(SandboxRow::try_from)
        .transpose()
    }

    /// Writes down a network policy that the host has put in force. Grows the generation, but not in the middle of a change, whose end
    /// compares it. None when the sandbox has ended.
    pub async fn sandbox_network(
        &mut self,
        id: Id<Sandbox>,
        policy: &NetworkPolicy,
    ) -> Result<Option<SandboxRow>, StoreError> {
        sandboxes!(
            "WITH s AS (
                 UPDATE sandboxes SET network = $2, updated_at = now(), generation = generation
                            + CASE WHEN status IN ('pausing', 'resuming', 'snapshotting') THEN 0 ELSE 1 END
                 WHERE id = $1 AND status NOT IN ('stopped', 'error') RETURNING *)",
            "FROM s JOIN templates t ON t.id = s.template_id LEFT JOIN hosts h ON h.id = s.host_id",
            id.uuid(),
            column(policy) as _,
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

/// A policy as its column keeps it: none = the default.
fn column<P: Default + PartialEq>(policy: &P) -> Option<Json<&P>> {
    (*policy != P::default()).then_some(Json(policy))
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
