//! `GET /v1/audit-logs`, and `GET /v1/admin/audit-logs`: the same of everybody.

use std::convert::Infallible;
use std::str::FromStr;

use axum::Json;
use axum::extract::State;
use chrono::{DateTime, Datelike as _, Utc};
use sandbar_control::audit_trail::{AuditCursor, AuditEvent, AuditPage, AuditQuery, Whose};
use sandbar_types::Id;
use sandbar_types::id::{AuditLog, Team};
use serde::Serialize;
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;
use uuid::Uuid;

use crate::AppState;
use crate::auth::PersonCaller;
use crate::error::ApiError;
use crate::extract::QueryPairs;
use crate::page::PageParams;
use crate::schema::{PeopleRefusals, Timestamp};

/// Events of one page, where the caller does not say.
const DEFAULT_LIMIT: u32 = 50;

/// The routes, relative to where they are mounted.
pub(crate) fn routes() -> OpenApiRouter<AppState> {
    OpenApiRouter::new().routes(routes!(list_audit_logs))
}

/// Something that was done.
#[derive(Serialize, ToSchema)]
pub struct AuditLogEntry {
    #[schema(value_type = String, example = "log-0192f0c1-5c4e-7a3b-9d2e-3f4a5b6c7d8e")]
    id: Id<AuditLog>,
    #[schema(value_type = Option<String>)]
    team_id: Option<Id<Team>>,
    /// `user`, `api_key`, `host` or `system`.
    actor_type: String,
    actor_id: String,
    actor_name: String,
    #[schema(example = "sandbox")]
    resource_type: String,
    resource_id: String,
    #[schema(example = "create")]
    action: String,
    /// `team` = every member may read it; `admin` = the team's admins and owner.
    scope: String,
    /// `success`, `info`, `warning` or `error`.
    status: String,
    #[schema(value_type = Object)]
    metadata: serde_json::Value,
    /// The request that did it.
    request_id: Option<Uuid>,
    created_at: Timestamp,
}

/// One page of the trail.
#[derive(Serialize, ToSchema)]
pub(crate) struct AuditLogPage {
    /// Newest first.
    items: Vec<AuditLogEntry>,
    /// Names the next page; null on the last one.
    next_cursor: Option<String>,
}

impl From<AuditEvent> for AuditLogEntry {
    fn from(event: AuditEvent) -> Self {
        let AuditEvent {
            id,
            team_id,
            actor_type,
            actor_id,
            actor_name,
            resource_type,
            resource_id,
            action,
            scope,
            status,
            metadata,
            request_id,
            created_at,
        } = event;
        Self {
            id,
            team_id,
            actor_type,
            actor_id,
            actor_name,
            resource_type,
            resource_id,
            action,
            scope,
            status,
            metadata,
            request_id,
            created_at: Timestamp(created_at),
        }
    }
}

impl From<AuditPage> for AuditLogPage {
    fn from(page: AuditPage) -> Self {
        Self {
            items: page.items.into_iter().map(AuditLogEntry::from).collect(),
            next_cursor: page.next.map(|cursor| cursor.to_string()),
        }
    }
}

/// A moment that the database can tell.
pub(crate) struct Moment(pub(crate) DateTime<Utc>);

impl FromStr for Moment {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let moment = DateTime::parse_from_rfc3339(text).map_err(|_| "not a time as RFC 3339 writes it")?;
        let moment = moment.to_utc();
        if (1..=9999).contains(&moment.year()) { Ok(Self(moment)) } else { Err("out of range") }
    }
}

/// The team's audit trail, newest first. A walk by `cursor` sees each event that was there when it began, once. Members see what
/// concerns the whole team, admins and the owner all.
#[utoipa::path(
    get,
    path = "",
    operation_id = "list_audit_logs",
    tag = "audit",
    params(
        ("resource_type" = Option<String>, Query, description = "Only these kinds of resources; comma separated or repeated"),
        ("resource_id" = Option<String>, Query, description = "Only what was done to these; comma separated or repeated"),
        ("action" = Option<String>, Query, description = "Only these actions; comma separated or repeated"),
        ("from" = Option<String>, Query, description = "Not before this time (RFC 3339)"),
        ("to" = Option<String>, Query, description = "Before this time (RFC 3339)"),
        PageParams,
    ),
    responses((status = 200, description = "One page", body = AuditLogPage), PeopleRefusals),
    security(("bearer" = [])),
)]
pub(crate) async fn list_audit_logs(
    State(app): State<AppState>,
    PersonCaller(ctx): PersonCaller,
    query: QueryPairs,
) -> Result<Json<AuditLogPage>, ApiError> {
    let Asked { of, after, limit } = asked(&query)?;
    Ok(Json(app.control.audit_list(&ctx, &of, after, limit).await?.into()))
}

/// The audit trail of all teams and of the platform, newest first.
#[utoipa::path(
    get,
    path = "/audit-logs",
    operation_id = "admin_list_audit_logs",
    tag = "admin",
    params(
        ("team_id" = Option<String>, Query, description = "Only this team's"),
        ("resource_type" = Option<String>, Query, description = "Only these kinds of resources; comma separated or repeated"),
        ("resource_id" = Option<String>, Query, description = "Only what was done to these; comma separated or repeated"),
        ("action" = Option<String>, Query, description = "Only these actions; comma separated or repeated"),
        ("from" = Option<String>, Query, description = "Not before this time (RFC 3339)"),
        ("to" = Option<String>, Query, description = "Before this time (RFC 3339)"),
        PageParams,
    ),
    responses((status = 200, description = "One page", body = AuditLogPage), PeopleRefusals),
    security(("bearer" = [])),
)]
pub(crate) async fn admin_list_audit_logs(
    State(app): State<AppState>,
    PersonCaller(ctx): PersonCaller,
    query: QueryPairs,
) -> Result<Json<AuditLogPage>, ApiError> {
    let whose = query.parse("team_id")?.map_or(Whose::All, Whose::Team);
    let Asked { of, after, limit } = asked(&query)?;
    Ok(Json(app.control.admin_audit_list(&ctx, whose, &of, after, limit).await?.into()))
}

/// Which page of which events.
struct Asked {
    of: AuditQuery,
    after: Option<AuditCursor>,
    limit: u32,
}

fn asked(query: &QueryPairs) -> Result<Asked, ApiError> {
    let limit = query.parse("limit")?.unwrap_or(DEFAULT_LIMIT);
    if !(1..=sandbar_control::page::MAX_LIMIT).contains(&limit) {
        return Err(ApiError::invalid(sandbar_control::page::InvalidLimit.to_string()));
    }
    let moment = |name| query.parse::<Moment>(name).map(|moment| moment.map(|moment| moment.0));
    let of = AuditQuery {
        resource_types: words(query, "resource_type")?,
        resource_ids: words(query, "resource_id")?,
        actions: words(query, "action")?,
        from: moment("from")?,
        to: moment("to")?,
    };
    Ok(Asked { of, after: query.parse("cursor")?, limit })
}

/// Words to filter by. Text that cannot be in the database matches nothing there, and must not be asked for.
fn words(query: &QueryPairs, name: &'static str) -> Result<Vec<String>, ApiError> {
    struct Word(String);
    impl FromStr for Word {
        type Err = Infallible;
        fn from_str(text: &str) -> Result<Self, Infallible> {
            Ok(Self(text.replace('\0', "\u{fffd}")))
        }
    }
    Ok(query.list::<Word>(name)?.into_iter().map(|word| word.0).collect())
}
