//! `POST /sandboxes/{id}/snapshots`.

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use sandbar_control::snapshots::NewSnapshot;
use serde::Deserialize;

use super::find_settled;
use crate::AppState;
use crate::auth::Caller;
use crate::e2b::names::{PathSandbox, own_name};
use crate::e2b::snapshots::SnapshotInfo;
use crate::error::ApiError;
use crate::extract::JsonBody;

#[derive(Debug, Deserialize)]
pub(in crate::e2b) struct NewSandboxSnapshot {
    name: Option<String>,
    memory: Option<bool>,
}

/// Keeps a sandbox as something to start from. One that has name and tag already is replaced once this one is complete.
pub(in crate::e2b) async fn snapshot(
    State(app): State<AppState>,
    Caller(ctx): Caller,
    PathSandbox(id): PathSandbox,
    JsonBody(NewSandboxSnapshot { name, memory }): JsonBody<NewSandboxSnapshot>,
) -> Result<(StatusCode, Json<SnapshotInfo>), ApiError> {
    let namespace = app.control.team_namespace(&ctx).await?;
    let (name, tag) = match name.map(|name| own_name(&name, &namespace)).transpose()? {
        Some((name, tag)) => (Some(name), tag),
        None => (None, None),
    };
    let sandbox = find_settled(&app, &ctx, id).await?;
    let new = NewSnapshot { overwrite: name.is_some(), name, tag };
    let template = match memory {
        None | Some(true) => app.control.snapshot_create(&ctx, &sandbox, &new).await?,
        // Its disk alone: what is made from it boots.
        Some(false) => app.control.sandbox_flatten(&ctx, &sandbox, &new).await?,
    };
    Ok((
        StatusCode::CREATED,
        Json(SnapshotInfo::new(&namespace, &template.name, std::slice::from_ref(&template.tag))),
    ))
}
