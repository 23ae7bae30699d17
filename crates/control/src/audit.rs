//! What the audit trail is told, in the words of its contract. The store appends it in the transaction of the change.

use std::net::IpAddr;

use sandbar_store::audit::{Event, Outcome, Scope};
use sandbar_store::sandboxes::SandboxRow;
use sandbar_types::Id;
use sandbar_types::id::{ApiKey, Host, Secret, Team, User, Volume};
use serde_json::{Value, json};

use crate::{Actor, OpContext};

/// The actor's columns: type, id, name.
pub(crate) fn actor(ctx: &OpContext) -> (&'static str, String, &str) {
    match &ctx.actor {
        Actor::ApiKey { id, name, team: _ } => ("api_key", id.to_string(), name),
        Actor::User { id, name, .. } => ("user", id.to_string(), name),
        Actor::Host { id } => ("host", id.to_string(), ""),
        Actor::Traffic { .. } => ("system", String::new(), "traffic"),
        Actor::VolumeFiles { .. } => ("system", String::new(), "volume files"),
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

/// Something happened to a host of the platform's or of a team's.
pub(crate) fn host<'a>(
    ctx: &'a OpContext,
    (id, team): (Id<Host>, Id<Team>),
    action: &'a str,
    outcome: Outcome,
) -> Event<'a> {
    let (actor_type, actor_id, actor_name) = actor(ctx);
    Event {
        team_id: Some(team),
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

/// Somebody got an account, by their own doing unless it was the platform's.
pub(crate) fn signup<'a>(ctx: &'a OpContext, team: Id<Team>, user: Id<User>, name: &'a str) -> Event<'a> {
    let event = Event { scope: Scope::Admin, ..of(ctx, Some(team), "user", user.to_string(), "signup") };
    match &ctx.actor {
        Actor::Anonymous => {
            Event { actor_type: "user", actor_id: user.to_string(), actor_name: name, ..event }
        }
        _ => event,
    }
}

/// Something happened to a person.
pub(crate) fn user<'a>(
    ctx: &'a OpContext,
    team: Option<Id<Team>>,
    id: Id<User>,
    action: &'a str,
    outcome: Outcome,
) -> Event<'a> {
    Event { scope: Scope::Admin, outcome, ..of(ctx, team, "user", id.to_string(), action) }
}

/// Somebody could not sign in. What they typed is not kept: it may be a password in the wrong field.
pub(crate) fn login_failed(
    ctx: &OpContext,
    whose: Option<(Id<User>, Option<Id<Team>>)>,
    address: Option<IpAddr>,
) -> Event<'_> {
    let resource_id = whose.map(|(user, _)| user.to_string()).unwrap_or_default();
    let team = whose.and_then(|(_, team)| team);
    Event {
        scope: Scope::Admin,
        outcome: Outcome::Warning,
        metadata: json!({ "address": address }),
        ..of(ctx, team, "user", resource_id, "login_failed")
    }
}

/// Something happened to a team.
pub(crate) fn team<'a>(ctx: &'a OpContext, id: Id<Team>, action: &'a str, metadata: Value) -> Event<'a> {
    Event { metadata, ..of(ctx, Some(id), "team", id.to_string(), action) }
}

/// Something happened to somebody's membership.
pub(crate) fn member<'a>(
    ctx: &'a OpContext,
    team: Id<Team>,
    user: Id<User>,
    action: &'a str,
    metadata: Value,
) -> Event<'a> {
    Event { metadata, ..of(ctx, Some(team), "member", user.to_string(), action) }
}

/// Something happened to an API key.
pub(crate) fn api_key<'a>(
    ctx: &'a OpContext,
    team: Id<Team>,
    id: Id<ApiKey>,
    name: &str,
    action: &'a str,
) -> Event<'a> {
    Event { metadata: json!({ "name": name }), ..of(ctx, Some(team), "api_key", id.to_string(), action) }
}

/// Something happened to a secret. Of its value nothing is told.
pub(crate) fn secret<'a>(
    ctx: &'a OpContext,
    team: Id<Team>,
    id: Id<Secret>,
    (name, version): (&str, u32),
    action: &'a str,
) -> Event<'a> {
    Event {
        metadata: json!({ "name": name, "version": version }),
        ..of(ctx, Some(team), "secret", id.to_string(), action)
    }
}

/// Something happened to a volume.
pub(crate) fn volume<'a>(
    ctx: &'a OpContext,
    team: Id<Team>,
    id: Id<Volume>,
    (name, size_mb): (&str, u32),
    action: &'a str,
) -> Event<'a> {
    Event {
        metadata: json!({ "name": name, "size_mb": size_mb }),
        ..of(ctx, Some(team), "volume", id.to_string(), action)
    }
}

/// A success that every member of the team may read of; what differs is said by whoever asks.
fn of<'a>(
    ctx: &'a OpContext,
    team_id: Option<Id<Team>>,
    resource_type: &'a str,
    resource_id: String,
    action: &'a str,
) -> Event<'a> {
    let (actor_type, actor_id, actor_name) = actor(ctx);
    Event {
        team_id,
        actor_type,
        actor_id,
        actor_name,
        resource_type,
        resource_id,
        action,
        scope: Scope::Team,
        outcome: Outcome::Success,
        metadata: json!({}),
        request_id: Some(ctx.request_id),
    }
}
