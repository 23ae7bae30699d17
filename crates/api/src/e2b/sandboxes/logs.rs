//! `GET /sandboxes/{id}/logs` and `GET /v2/sandboxes/{id}/logs`: empty, since nothing that a guest's system says is kept. What commands
//! write goes to whoever runs them.

use axum::Json;
use axum::extract::State;
use serde::Serialize;

use super::find;
use crate::AppState;
use crate::auth::Caller;
use crate::e2b::names::PathSandbox;
use crate::error::ApiError;

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(in crate::e2b) struct Logs {
    logs: [(); 0],
    #[serde(skip_serializing_if = "Option::is_none")]
    log_entries: Option<[(); 0]>,
}

pub(in crate::e2b) async fn first_version(
    State(app): State<AppState>,
    Caller(ctx): Caller,
    PathSandbox(id): PathSandbox,
) -> Result<Json<Logs>, ApiError> {
    find(&app, &ctx, id).await?;
    Ok(Json(Logs { logs: [], log_entries: Some([]) }))
}

pub(in crate::e2b) async fn second_version(
    State(app): State<AppState>,
    Caller(ctx): Caller,
    PathSandbox(id): PathSandbox,
) -> Result<Json<Logs>, ApiError> {
    find(&app, &ctx, id).await?;
    Ok(Json(Logs { logs: [], log_entries: None }))
}
