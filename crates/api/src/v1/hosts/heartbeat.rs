//! `POST /v1/hosts/{id}/heartbeat`.

use axum::extract::State;
use axum::http::StatusCode;
use sandbar_control::hosts::{self, HostLoad};
use sandbar_types::id;
use serde::Deserialize;
use utoipa::ToSchema;

use crate::AppState;
use crate::auth::HostCaller;
use crate::error::ApiError;
use crate::extract::{JsonBody, PathId};
use crate::schema::HostRefusals;

/// A host's sign of life.
#[derive(Debug, Deserialize, ToSchema)]
pub(crate) struct Heartbeat {
    /// Grows with each change of the host's inventory.
    inventory_generation: u64,
    #[serde(default)]
    load: Load,
}

/// How busy the host is; what is left out is unknown.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(default)]
#[schema(as = HostLoad)]
pub(crate) struct Load {
    sandboxes: Option<u32>,
    memory_used_mb: Option<u64>,
    disk_free_mb: Option<u64>,
    load1: Option<f64>,
}

/// Says that the host lives and what generation its inventory has.
#[utoipa::path(
    post,
    path = "/{id}/heartbeat",
    operation_id = "host_heartbeat",
    tag = "hosts",
    params(("id" = String, Path, description = "The host's id, `host-...`")),
    request_body = Heartbeat,
    responses((status = 204, description = "Heard"), HostRefusals),
    security(("host_token" = [])),
)]
pub(crate) async fn host_heartbeat(
    State(app): State<AppState>,
    HostCaller(ctx): HostCaller,
    PathId(id): PathId<id::Host>,
    JsonBody(body): JsonBody<Heartbeat>,
) -> Result<StatusCode, ApiError> {
    let Heartbeat { inventory_generation, load } = body;
    let Load { sandboxes, memory_used_mb, disk_free_mb, load1 } = load;
    let load = HostLoad { sandboxes, memory_used_mb, disk_free_mb, load1 };
    app.control.host_heartbeat(&ctx, id, &hosts::Heartbeat { inventory_generation, load }).await?;
    Ok(StatusCode::NO_CONTENT)
}
