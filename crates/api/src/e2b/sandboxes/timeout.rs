//! `POST /sandboxes/{id}/timeout` and `/refreshes`.

use axum::extract::State;
use axum::http::StatusCode;
use sandbar_control::OpContext;
use sandbar_control::sandboxes::{Extent, NewDeadline, Sandbox};
use sandbar_types::{ErrorCode, Id, SandboxStatus, TimeoutFrom, id};
use serde::Deserialize;

use super::create::some_time;
use super::{find, find_settled};
use crate::AppState;
use crate::auth::Caller;
use crate::e2b::names::PathSandbox;
use crate::error::ApiError;
use crate::extract::JsonBody;

/// Seconds that a refresh lets a sandbox live at least, where the caller does not say.
const DEFAULT_REFRESH_SEC: u32 = 15;

#[derive(Debug, Deserialize)]
pub(in crate::e2b) struct SetTimeout {
    timeout: u32,
}

/// Ends it so many seconds from now, later or earlier than it would have; 0 = now.
pub(in crate::e2b) async fn set(
    State(app): State<AppState>,
    Caller(ctx): Caller,
    PathSandbox(id): PathSandbox,
    JsonBody(SetTimeout { timeout }): JsonBody<SetTimeout>,
) -> Result<StatusCode, ApiError> {
    let sandbox = running(&app, &ctx, id).await?;
    match timeout {
        0 => app.control.sandbox_expire(&ctx, &sandbox).await?,
        seconds => {
            let new = NewDeadline { timeout_from: Some(TimeoutFrom::Start), ..NewDeadline::default() };
            app.control.sandbox_set_timeout(&ctx, &sandbox, seconds, new).await?;
        }
    }
    Ok(StatusCode::NO_CONTENT)
}

#[derive(Debug, Deserialize)]
pub(in crate::e2b) struct Refresh {
    duration: Option<u32>,
}

/// Lets it live for so many seconds at least.
pub(in crate::e2b) async fn refresh(
    State(app): State<AppState>,
    Caller(ctx): Caller,
    PathSandbox(id): PathSandbox,
    JsonBody(Refresh { duration }): JsonBody<Refresh>,
) -> Result<StatusCode, ApiError> {
    let seconds = some_time(duration.unwrap_or(DEFAULT_REFRESH_SEC))?;
    let sandbox = running(&app, &ctx, id).await?;
    let longer = NewDeadline { extent: Extent::LongerOnly, ..NewDeadline::default() };
    app.control.sandbox_set_timeout(&ctx, &sandbox, seconds, longer).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// A sandbox whose time passes. To this contract, one that is paused is not there.
async fn running(app: &AppState, ctx: &OpContext, id: Id<id::Sandbox>) -> Result<Sandbox, ApiError> {
    let sandbox = find(app, ctx, id).await?;
    let sandbox = match sandbox.status {
        // It serves while it is copied.
        SandboxStatus::Snapshotting => sandbox,
        _ => find_settled(app, ctx, id).await?,
    };
    if sandbox.status == SandboxStatus::Paused {
        let message = format!("sandbox {} is paused: it has no end until it is resumed", id.e2b());
        return Err(ApiError::new(ErrorCode::NotFound, message));
    }
    Ok(sandbox)
}
