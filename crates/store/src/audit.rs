//! The audit trail: append-only, each event in the transaction of the change that it tells.

use sandbar_types::Id;
use sandbar_types::id::{AuditLog, Team};
use serde_json::Value;
use uuid::Uuid;

use crate::{StoreError, Tx};

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
