//! Emptying and deleting hosts: `/v1/hosts/{id}/drain`, `DELETE /v1/hosts/{id}`.

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use sandbar_control::hosts::{Draining, Existing, Running};
use sandbar_types::id;
use serde::Deserialize;
use utoipa::ToSchema;

use super::Host;
use crate::AppState;
use crate::auth::PersonCaller;
use crate::error::ApiError;
use crate::extract::{JsonBody, PathId, QueryPairs};
use crate::schema::FleetRefusals;

/// How a host is emptied.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(default)]
pub(crate) struct DrainHost {
    /// Whether the sandboxes that run there are paused; otherwise they go on to their end. Paused ones can be resumed there.
    pause: bool,
}

/// The host takes no new sandboxes from now on.
#[utoipa::path(
    post,
    path = "/{id}/drain",
    operation_id = "drain_host",
    tag = "hosts",
    params(("id" = String, Path, description = "The host's id, `host-...`")),
    request_body = DrainHost,
    responses((status = 200, description = "The host", body = Host), FleetRefusals),
    security(("bearer" = [])),
)]
pub(crate) async fn drain_host(
    State(app): State<AppState>,
    PersonCaller(ctx): PersonCaller,
    PathId(id): PathId<id::Host>,
    JsonBody(body): JsonBody<DrainHost>,
) -> Result<Json<Host>, ApiError> {
    let running = if body.pause { Running::Pause } else { Running::GoOn };
    Ok(Json(app.control.host_drain(&ctx, id, Draining::On(running)).await?.into()))
}

/// The host takes new sandboxes again.
#[utoipa::path(
    delete,
    path = "/{id}/drain",
    operation_id = "end_host_drain",
    tag = "hosts",
    params(("id" = String, Path, description = "The host's id, `host-...`")),
    responses((status = 200, description = "The host", body = Host), FleetRefusals),
    security(("bearer" = [])),
)]
pub(crate) async fn end_host_drain(
    State(app): State<AppState>,
    PersonCaller(ctx): PersonCaller,
    PathId(id): PathId<id::Host>,
) -> Result<Json<Host>, ApiError> {
    Ok(Json(app.control.host_drain(&ctx, id, Draining::Off).await?.into()))
}

/// Deletes a host that has no sandboxes, and no snapshots that no other host has; or, forced, with all that it has. Its agent's
/// credentials are void.
#[utoipa::path(
    delete,
    path = "/{id}",
    operation_id = "delete_host",
    tag = "hosts",
    params(
        ("id" = String, Path, description = "The host's id, `host-...`"),
        ("force" = Option<bool>, Query, description = "Its sandboxes are destroyed, paused ones too, and its volumes and the snapshots that it alone has are deleted"),
    ),
    responses((status = 204, description = "It is gone"), FleetRefusals),
    security(("bearer" = [])),
)]
pub(crate) async fn delete_host(
    State(app): State<AppState>,
    PersonCaller(ctx): PersonCaller,
    PathId(id): PathId<id::Host>,
    query: QueryPairs,
) -> Result<StatusCode, ApiError> {
    let forced = query.parse("force")?.unwrap_or(false);
    let existing = if forced { Existing::Destroy } else { Existing::Refuse };
    app.control.host_delete(&ctx, id, existing).await?;
    Ok(StatusCode::NO_CONTENT)
}
