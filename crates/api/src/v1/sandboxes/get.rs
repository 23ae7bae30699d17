//! `GET /v1/sandboxes/{id}`.

use axum::Json;
use axum::extract::State;
use sandbar_types::id;

use super::SandboxWithAccess;
use crate::AppState;
use crate::auth::Caller;
use crate::error::ApiError;
use crate::extract::PathId;
use crate::schema::ReadRefusals;

/// One sandbox of the team, and what gives access to its ports.
#[utoipa::path(
    get,
    path = "/{id}",
    operation_id = "get_sandbox",
    tag = "sandboxes",
    params(("id" = String, Path, description = "The sandbox's id, `sb-...`")),
    responses((status = 200, description = "The sandbox", body = SandboxWithAccess), ReadRefusals),
    security(("api_key" = [])),
)]
pub(crate) async fn get_sandbox(
    State(app): State<AppState>,
    Caller(ctx): Caller,
    PathId(id): PathId<id::Sandbox>,
) -> Result<Json<SandboxWithAccess>, ApiError> {
    let sandbox = app.control.sandbox_get(&ctx, id).await?;
    Ok(Json(SandboxWithAccess::of(&app.control, sandbox)))
}
