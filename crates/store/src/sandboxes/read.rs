//! Finding and listing sandboxes, and noting their use.

use std::collections::BTreeMap;

use chrono::{DateTime, Utc};
use sandbar_types::id::{Host, Sandbox, Team};
use sandbar_types::{Id, Ingress, NetworkPolicy, OnTimeout, SandboxStatus, TimeoutFrom, VolumeMount};
use sqlx::types::Json;
use uuid::Uuid;

use super::{Raw, SandboxRow, sandboxes, words};
use crate::convert::{integer, word};
use crate::{Position, Store, StoreError};

/// When a sandbox was last used, and when it ends if it is not.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[expect(missing_docs, reason = "the schema says what each column is")]
pub struct Activity {
    pub id: Id<Sandbox>,
    pub last_active_at: Option<DateTime<Utc>>,
    pub expires_at: Option<DateTime<Utc>>,
    /// None where the host does not say.
    pub deadline: Option<Deadline>,
    /// Only if the row was not changed since it was read; none = whatever it was.
    pub generation: Option<i64>,
}

/// When a sandbox ends by itself, and how.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[expect(missing_docs, reason = "the schema says what each column is")]
pub struct Deadline {
    pub timeout_sec: u32,
    pub on_timeout: OnTimeout,
    pub timeout_from: TimeoutFrom,
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

    /// A sandbox, whosever it is: for whoever asks on nobody's behalf.
    pub async fn sandbox_find_any(&self, id: Id<Sandbox>) -> Result<Option<SandboxRow>, StoreError> {
        sandboxes!(
            "",
            "FROM sandboxes s JOIN templates t ON t.id = s.template_id LEFT JOIN hosts h ON h.id = s.host_id
             WHERE s.id = $1",
            id.uuid(),
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

    /// Writes down when sandboxes were last used and when they end, as their host says. Rows that say so already are not written, nor
    /// those that somebody else is changing: the next inventory tells of them again.
    pub async fn sandbox_activity(&self, activity: &[Activity]) -> Result<(), StoreError> {
        let ids: Vec<Uuid> = activity.iter().map(|seen| seen.id.uuid()).collect();
        let active: Vec<Option<DateTime<Utc>>> = activity.iter().map(|seen| seen.last_active_at).collect();
        let expires: Vec<Option<DateTime<Utc>>> = activity.iter().map(|seen| seen.expires_at).collect();
        let timeouts: Vec<Option<i32>> =
            activity.iter().map(|seen| seen.deadline.map(|deadline| integer(deadline.timeout_sec))).collect();
        let on_timeouts: Vec<Option<String>> = activity
            .iter()
            .map(|seen| seen.deadline.map(|deadline| deadline.on_timeout.to_string()))
            .collect();
        let timeouts_from: Vec<Option<String>> = activity
            .iter()
            .map(|seen| seen.deadline.map(|deadline| deadline.timeout_from.to_string()))
            .collect();
        let generations: Vec<Option<i64>> = activity.iter().map(|seen| seen.generation).collect();
        sqlx::query!(
            "UPDATE sandboxes s SET last_active_at = u.last_active_at, expires_at = u.expires_at,
                    timeout_sec = COALESCE(u.timeout_sec, s.timeout_sec),
                    on_timeout = COALESCE(u.on_timeout, s.on_timeout),
                    timeout_from = COALESCE(u.timeout_from, s.timeout_from)
             FROM (SELECT u.* FROM UNNEST($1::uuid[], $2::timestamptz[], $3::timestamptz[], $4::integer[], $5::text[],
                                          $6::bigint[], $7::text[])
                          AS u (id, last_active_at, expires_at, timeout_sec, on_timeout, generation, timeout_from)
                   JOIN sandboxes s ON s.id = u.id
                   WHERE s.status = 'running' AND s.generation = COALESCE(u.generation, s.generation)
                     AND (s.last_active_at, s.expires_at, s.timeout_sec, s.on_timeout, s.timeout_from) IS DISTINCT FROM
                         (u.last_active_at, u.expires_at, COALESCE(u.timeout_sec, s.timeout_sec),
                          COALESCE(u.on_timeout, s.on_timeout), COALESCE(u.timeout_from, s.timeout_from))
                   FOR NO KEY UPDATE OF s SKIP LOCKED) AS u
             WHERE s.id = u.id",
            &ids,
            &active as _,
            &expires as _,
            &timeouts as _,
            &on_timeouts as _,
            &generations as _,
            &timeouts_from as _,
        )
        .execute(&self.pool)
        .await?;
        Ok(())
    }
}
