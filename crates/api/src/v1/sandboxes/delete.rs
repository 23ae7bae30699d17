//! `DELETE /v1/sandboxes/{id}`.

use axum::extract::State;
use axum::http::StatusCode;
use sandbar_types::id;

use crate::AppState;
use crate::auth::Caller;
use crate::error::ApiError;
use crate::extract::PathId;
use crate::schema::ActRefusals;

/// Ends a sandbox: its machine, its disk and its network are gone when this answers.
#[utoipa::path(
    delete,
    path = "/{id}",
    operation_id = "delete_sandbox",
    tag = "sandboxes",
    params(("id" = String, Path, description = "The sandbox's id, `sb-...`")),
    responses((status = 204, description = "It is gone"), ActRefusals),
    security(("api_key" = [])),
)]
pub(crate) async fn delete_sandbox(
    State(app): State<AppState>,
    Caller(ctx): Caller,
    PathId(id): PathId<id::Sandbox>,
) -> Result<StatusCode, ApiError> {
    let sandbox = app.control.sandbox_get(&ctx, id).await?;
    app.control.sandbox_destroy(&ctx, &sandbox).await?;
    Ok(StatusCode::NO_CONTENT)
}
