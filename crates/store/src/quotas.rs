//! What teams may have and what they have.
//!
//! Nothing counts along: what there is is counted when it matters, by whoever holds the team's row ([`Tx::quota_hold`]). Everything
//! that makes more of it holds that row first, so of many at once each sees what those before it took.

use sandbar_types::id::Team;
use sandbar_types::{Id, PerResource};
use sqlx::PgExecutor;

use crate::convert::{bigint, unsigned, unsigned_opt};
use crate::{Store, StoreError, Tx};

/// A team's quotas.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct QuotaRow {
    /// What was set for the team; none = the platform's default.
    pub set: PerResource<Option<u64>>,
    /// What it has.
    pub used: PerResource<u64>,
}

impl Store {
    /// A team's quotas, at this moment. None when there is no such team.
    pub async fn quota(&self, team: Id<Team>) -> Result<Option<QuotaRow>, StoreError> {
        read(&self.pool, team).await
    }
}

impl Tx {
    /// A team's quotas, which nobody adds to until this transaction ends. Holds the team's row: it comes before hosts and sandboxes.
    pub async fn quota_hold(&mut self, team: Id<Team>) -> Result<QuotaRow, StoreError> {
        // A statement of its own: what the next one counts is what there is once the lock is had.
        self.team_lock(team).await?.ok_or(StoreError::TeamGone)?;
        read(self.connection(), team).await?.ok_or(StoreError::TeamGone)
    }

    /// Sets what a team may have.
    pub async fn quota_set(
        &mut self,
        team: Id<Team>,
        limits: &PerResource<Option<u64>>,
    ) -> Result<(), StoreError> {
        let integer = |limit: Option<u64>| limit.map(|limit| i32::try_from(limit).unwrap_or(i32::MAX));
        sqlx::query!(
            "INSERT INTO team_quotas (team_id, max_sandboxes, max_vcpus, max_memory_mb, max_snapshots, max_builds,
                                       max_secrets, max_volumes, max_volume_mb)
             VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9)
             ON CONFLICT (team_id) DO UPDATE SET max_sandboxes = $2, max_vcpus = $3, max_memory_mb = $4,
                 max_snapshots = $5, max_builds = $6, max_secrets = $7, max_volumes = $8, max_volume_mb = $9,
                 updated_at = now()",
            team.uuid(),
            integer(limits.sandboxes),
            integer(limits.vcpus),
            limits.memory_mb.map(bigint),
            integer(limits.snapshots),
            integer(limits.builds),
            integer(limits.secrets),
            integer(limits.volumes),
            limits.volume_mb.map(bigint),
        )
        .execute(self.connection())
        .await?;
        Ok(())
    }
}

async fn read(executor: impl PgExecutor<'_>, team: Id<Team>) -> Result<Option<QuotaRow>, StoreError> {
    let row = sqlx::query!(
        r#"SELECT q.max_sandboxes AS "max_sandboxes?", q.max_vcpus AS "max_vcpus?",
                  q.max_memory_mb AS "max_memory_mb?", q.max_snapshots AS "max_snapshots?",
                  q.max_builds AS "max_builds?", q.max_secrets AS "max_secrets?",
                  q.max_volumes AS "max_volumes?", q.max_volume_mb AS "max_volume_mb?",
                  s.sandboxes AS "sandboxes!", s.vcpus AS "vcpus!", s.memory_mb AS "memory_mb!",
                  (SELECT count(*) FROM templates WHERE team_id = t.id AND deleted_at IS NULL AND NOT is_pause) AS "snapshots!",
                  (SELECT count(*) FROM template_builds
                   WHERE team_id = t.id AND status IN ('pending', 'running')) AS "builds!",
                  (SELECT count(*) FROM team_secrets WHERE team_id = t.id) AS "secrets!",
                  v.volumes AS "volumes!", v.volume_mb AS "volume_mb!"
           FROM teams t
           LEFT JOIN team_quotas q ON q.team_id = t.id
           CROSS JOIN LATERAL (
               SELECT count(*) AS sandboxes, COALESCE(sum(vcpus), 0) AS vcpus,
                      COALESCE(sum(memory_mb), 0) AS memory_mb
               FROM sandboxes
               WHERE team_id = t.id AND status IN ('pending', 'starting', 'running', 'pausing', 'resuming',
                                                   'snapshotting', 'missing')
           ) s
           CROSS JOIN LATERAL (
               SELECT count(*) AS volumes, COALESCE(sum(size_mb), 0) AS volume_mb
               FROM volumes WHERE team_id = t.id AND status <> 'deleting'
           ) v
           WHERE t.id = $1 AND t.deleted_at IS NULL"#,
        team.uuid(),
    )
    .fetch_optional(executor)
    .await?;
    let Some(row) = row else { return Ok(None) };
    Ok(Some(QuotaRow {
        set: PerResource {
            sandboxes: unsigned_opt("team_quotas.max_sandboxes", row.max_sandboxes)?,
            vcpus: unsigned_opt("team_quotas.max_vcpus", row.max_vcpus)?,
            memory_mb: unsigned_opt("team_quotas.max_memory_mb", row.max_memory_mb)?,
            snapshots: unsigned_opt("team_quotas.max_snapshots", row.max_snapshots)?,
            builds: unsigned_opt("team_quotas.max_builds", row.max_builds)?,
            secrets: unsigned_opt("team_quotas.max_secrets", row.max_secrets)?,
            volumes: unsigned_opt("team_quotas.max_volumes", row.max_volumes)?,
            volume_mb: unsigned_opt("team_quotas.max_volume_mb", row.max_volume_mb)?,
        },
        used: PerResource {
            sandboxes: unsigned("count of sandboxes", row.sandboxes)?,
            vcpus: unsigned("sum of vcpus", row.vcpus)?,
            memory_mb: unsigned("sum of memory_mb", row.memory_mb)?,
            snapshots: unsigned("count of templates", row.snapshots)?,
            builds: unsigned("count of builds", row.builds)?,
            secrets: unsigned("count of secrets", row.secrets)?,
            volumes: unsigned("count of volumes", row.volumes)?,
            volume_mb: unsigned("sum of size_mb", row.volume_mb)?,
        },
    }))
}
