//! `GET` and `DELETE /sandboxes/{id}`.

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;

use super::find;
use super::view::SandboxDetail;
use crate::AppState;
use crate::auth::Caller;
use crate::e2b::names::{PathSandbox, no_sandbox};
use crate::error::ApiError;

pub(in crate::e2b) async fn get(
    State(app): State<AppState>,
    Caller(ctx): Caller,
    PathSandbox(id): PathSandbox,
) -> Result<Json<SandboxDetail>, ApiError> {
    let sandbox = find(&app, &ctx, id).await?;
    SandboxDetail::new(&app.control, &sandbox).map(Json).ok_or_else(|| no_sandbox(&id.e2b()))
}

pub(in crate::e2b) async fn kill(
    State(app): State<AppState>,
    Caller(ctx): Caller,
    PathSandbox(id): PathSandbox,
) -> Result<StatusCode, ApiError> {
    let sandbox = find(&app, &ctx, id).await?;
    app.control.sandbox_destroy(&ctx, &sandbox).await?;
    Ok(StatusCode::NO_CONTENT)
}
