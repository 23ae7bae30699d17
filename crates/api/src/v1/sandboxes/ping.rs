//! `POST /v1/sandboxes/{id}/ping`.

use axum::extract::State;
use axum::http::StatusCode;
use sandbar_types::id;

use crate::AppState;
use crate::auth::Caller;
use crate::error::ApiError;
use crate::extract::PathId;
use crate::schema::ActRefusals;

/// Counts as activity, so that the sandbox's time-out starts anew.
#[utoipa::path(
    post,
    path = "/{id}/ping",
    operation_id = "ping_sandbox",
    tag = "sandboxes",
    params(("id" = String, Path, description = "The sandbox's id, `sb-...`")),
    responses((status = 204, description = "Its guest answers"), ActRefusals),
    security(("api_key" = [])),
)]
pub(crate) async fn ping_sandbox(
    State(app): State<AppState>,
    Caller(ctx): Caller,
    PathId(id): PathId<id::Sandbox>,
) -> Result<StatusCode, ApiError> {
    let sandbox = app.control.sandbox_get(&ctx, id).await?;
    app.control.sandbox_ping(&ctx, &sandbox).await?;
    Ok(StatusCode::NO_CONTENT)
}
