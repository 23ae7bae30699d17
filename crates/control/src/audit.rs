//! What the audit trail is told, in the words of its contract. The store appends it in the transaction of the change.

use sandbar_store::audit::{Event, Outcome, Scope};
use sandbar_store::sandboxes::SandboxRow;
use sandbar_types::Id;
use sandbar_types::id::{Host, Team, User};
use serde_json::{Value, json};

use crate::{Actor, OpContext};

/// The actor's columns: type, id, name.
pub(crate) fn actor(ctx: &OpContext) -> (&'static str, String, &str) {
    match &ctx.actor {
        Actor::ApiKey { id, name, team: _ } => ("api_key", id.to_string(), name),
        Actor::User { id, name, team: _, is_admin: _ } => ("user", id.to_string(), name),
        Actor::Host { id } => ("host", id.to_string(), ""),
        Actor::System | Actor::Anonymous => ("system", String::new(), ""),
    }
}

/// Who made a sandbox, in the word that its row keeps.
pub(crate) fn created_by(ctx: &OpContext) -> String {
    actor(ctx).1
}

/// Something happened to a sandbox.
pub(crate) fn sandbox<'a>(
    ctx: &'a OpContext,
    row: &SandboxRow,
    action: &'a str,
    outcome: Outcome,
) -> Event<'a> {
    let (actor_type, actor_id, actor_name) = actor(ctx);
    let mut metadata = json!({ "template": row.template_name });
    if let (Some(reason), Value::Object(map)) = (&row.status_reason, &mut metadata) {
        map.insert("reason".to_owned(), Value::from(reason.as_str()));
    }
    Event {
        team_id: Some(row.team_id),
        actor_type,
        actor_id,
        actor_name,
        resource_type: "sandbox",
        resource_id: row.id.to_string(),
        action,
        scope: Scope::Team,
        outcome,
        metadata,
        request_id: Some(ctx.request_id),
    }
}

/// Something happened to a host of the platform.
pub(crate) fn host<'a>(ctx: &'a OpContext, id: Id<Host>, action: &'a str, outcome: Outcome) -> Event<'a> {
    let (actor_type, actor_id, actor_name) = actor(ctx);
    Event {
        team_id: Some(Id::PLATFORM),
        actor_type,
        actor_id,
        actor_name,
        resource_type: "host",
        resource_id: id.to_string(),
        action,
        scope: Scope::Admin,
        outcome,
        metadata: json!({}),
        request_id: Some(ctx.request_id),
    }
}

/// Somebody got an account.
pub(crate) fn signup(ctx: &OpContext, team: Id<Team>, user: Id<User>) -> Event<'_> {
    let (actor_type, actor_id, actor_name) = actor(ctx);
    Event {
        team_id: Some(team),
        actor_type,
        actor_id,
        actor_name,
        resource_type: "user",
        resource_id: user.to_string(),
        action: "signup",
        scope: Scope::Admin,
        outcome: Outcome::Success,
        metadata: json!({}),
        request_id: Some(ctx.request_id),
    }
}
