//! The audit trail: append-only, each event in the transaction of the change that it tells.
//!
//! Events are ordered by when their transaction began, and appear when it commits: one may appear below others that were read
//! already. A walk through the pages, newest first, therefore keeps to the snapshot of its first page ([`Horizon`]): it sees each
//! event that was there when it began exactly once, and none that came since.

use chrono::{DateTime, Utc};
use sandbar_types::Id;
use sandbar_types::id::{AuditLog, Team};
use serde_json::Value;
use uuid::Uuid;

use crate::{Position, Store, StoreError, Tx};

/// Who may read an event.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scope {
    /// Every member of the team.
    Team,
    /// The team's admins and owner.
    Admin,
}

/// How an event is to be taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// What was asked for was done.
    Success,
    /// Something happened by itself, as it should.
    Info,
    /// Something that somebody may want to look at.
    Warning,
    /// What was asked for could not be done.
    Error,
}

/// One event.
#[derive(Debug, Clone)]
#[expect(missing_docs, reason = "the schema says what each column is")]
pub struct Event<'a> {
    pub team_id: Option<Id<Team>>,
    /// `user`, `api_key`, `host` or `system`.
    pub actor_type: &'a str,
    pub actor_id: String,
    pub actor_name: &'a str,
    pub resource_type: &'a str,
    pub resource_id: String,
    pub action: &'a str,
    pub scope: Scope,
    pub outcome: Outcome,
    /// An object. Never a secret.
    pub metadata: Value,
    pub request_id: Option<Uuid>,
}

/// One event that was told.
#[derive(Debug, Clone, PartialEq)]
#[expect(missing_docs, reason = "the schema says what each column is")]
pub struct AuditRow {
    pub id: Id<AuditLog>,
    pub team_id: Option<Id<Team>>,
    pub actor_type: String,
    pub actor_id: String,
    pub actor_name: String,
    pub resource_type: String,
    pub resource_id: String,
    pub action: String,
    pub scope: String,
    pub status: String,
    pub metadata: Value,
    pub request_id: Option<Uuid>,
    pub created_at: DateTime<Utc>,
}

/// What a walk sees: PostgreSQL's snapshot of its first page, and when that was taken.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Horizon {
    /// As PostgreSQL writes it: `xmin:xmax:xip,...`.
    pub snapshot: String,
    /// The database's clock then.
    pub taken_at: DateTime<Utc>,
}

/// Which events to list.
#[derive(Debug, Clone)]
pub struct AuditFilter<'a> {
    /// Of this team; none = of all, and of the platform.
    pub team_id: Option<Id<Team>>,
    /// Whether those are meant that only admins may read, too.
    pub admin_scope: bool,
    /// Of these kinds of resources; empty = all.
    pub resource_types: &'a [String],
    /// Of these resources; empty = all.
    pub resource_ids: &'a [String],
    /// Of these actions; empty = all.
    pub actions: &'a [String],
    /// Not before.
    pub from: Option<DateTime<Utc>>,
    /// Before.
    pub to: Option<DateTime<Utc>>,
    /// Older than this one.
    pub after: Option<Position>,
    /// At most so many.
    pub limit: i64,
}

impl Store {
    /// Where a walk through the trail that begins now has its horizon.
    pub async fn audit_horizon(&self) -> Result<Horizon, StoreError> {
        let row = sqlx::query!(
            r#"SELECT pg_current_snapshot()::text AS "snapshot!", clock_timestamp() AS "taken_at!""#
        )
        .fetch_one(&self.pool)
        .await?;
        Ok(Horizon { snapshot: row.snapshot, taken_at: row.taken_at })
    }

    /// Events within a horizon, newest first.
    pub async fn audit_list(
        &self,
        filter: &AuditFilter<'_>,
        horizon: &Horizon,
    ) -> Result<Vec<AuditRow>, StoreError> {
        // Transaction ids start anew in a restored database, whose old rows would then lie in the future: what is an hour older than
        // the horizon is within it whatever its id, since no transaction of ours lives that long.
        let rows = sqlx::query!(
            "SELECT id, team_id, actor_type, actor_id, actor_name, resource_type, resource_id, action, scope, status,
                    metadata, request_id, created_at
             FROM audit_logs
             WHERE ($1::uuid IS NULL OR team_id = $1) AND ($2 OR scope = 'team')
               AND (cardinality($3::text[]) = 0 OR resource_type = ANY($3))
               AND (cardinality($4::text[]) = 0 OR action = ANY($4))
               AND ($5::timestamptz IS NULL OR created_at >= $5) AND ($6::timestamptz IS NULL OR created_at < $6)
               AND ($7::timestamptz IS NULL OR (created_at, id) < ($7, $8))
               AND (pg_visible_in_snapshot(xid, $9::text::pg_snapshot)
                    OR created_at < $10::timestamptz - interval '1 hour')
               AND (cardinality($12::text[]) = 0 OR resource_id = ANY($12))
             ORDER BY created_at DESC, id DESC LIMIT $11",
            filter.team_id.map(Id::uuid),
            filter.admin_scope,
            filter.resource_types,
            filter.actions,
            filter.from,
            filter.to,
            filter.after.map(|after| after.created_at),
            filter.after.map(|after| after.id),
            horizon.snapshot,
            horizon.taken_at,
            filter.limit,
            filter.resource_ids,
        )
        .fetch_all(&self.pool)
        .await?;
        Ok(rows
            .into_iter()
            .map(|raw| AuditRow {
                id: Id::from_uuid(raw.id),
                team_id: raw.team_id.map(Id::from_uuid),
                actor_type: raw.actor_type,
                actor_id: raw.actor_id,
                actor_name: raw.actor_name,
                resource_type: raw.resource_type,
                resource_id: raw.resource_id,
                action: raw.action,
                scope: raw.scope,
                status: raw.status,
                metadata: raw.metadata,
                request_id: raw.request_id,
                created_at: raw.created_at,
            })
            .collect())
    }

    /// Forgets events that are older than `before`, at most `limit` of them. How many there were.
    pub async fn audit_prune(&self, before: DateTime<Utc>, limit: i64) -> Result<u64, StoreError> {
        let mut tx = self.begin().await?;
        sqlx::query("SET LOCAL sandbar.audit_retention = 'on'").execute(tx.connection()).await?;
        let done = sqlx::query!(
            "DELETE FROM audit_logs WHERE id IN (SELECT id FROM audit_logs WHERE created_at < $1
                                                 ORDER BY created_at LIMIT $2)",
            before,
            limit,
        )
        .execute(tx.connection())
        .await?;
        tx.commit().await?;
        Ok(done.rows_affected())
    }
}

impl Tx {
    /// Appends an event.
    pub async fn audit(&mut self, event: &Event<'_>) -> Result<(), StoreError> {
        let scope = match event.scope {
            Scope::Team => "team",
            Scope::Admin => "admin",
        };
        let status = match event.outcome {
            Outcome::Success => "success",
            Outcome::Info => "info",
            Outcome::Warning => "warning",
            Outcome::Error => "error",
        };
        sqlx::query!(
            "INSERT INTO audit_logs (id, team_id, actor_type, actor_id, actor_name, resource_type, resource_id, action,
                                     scope, status, metadata, request_id)
             VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12)",
            Id::<AuditLog>::new().uuid(),
            event.team_id.map(Id::uuid),
            event.actor_type,
            event.actor_id,
            event.actor_name,
            event.resource_type,
            event.resource_id,
            event.action,
            scope,
            status,
            event.metadata,
            event.request_id,
        )
        .execute(self.connection())
        .await?;
        Ok(())
    }
}
