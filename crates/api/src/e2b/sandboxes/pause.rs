//! `POST /sandboxes/{id}/pause`.

use axum::extract::State;
use axum::http::StatusCode;
use sandbar_types::{ErrorCode, PauseMode, SandboxStatus};
use serde::Deserialize;

use super::find_settled;
use crate::AppState;
use crate::auth::Caller;
use crate::e2b::names::PathSandbox;
use crate::error::ApiError;
use crate::extract::JsonBody;

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(in crate::e2b) struct Pause {
    memory: Option<bool>,
    require_healthy_guest: Option<bool>,
}

/// Pauses a sandbox. 409 means to E2B's clients that it is paused already, and nothing else; whatever else is in the way is 503, and
/// they ask again. A guest that does not answer is never paused here, since its files could not be trusted; who requires it to be
/// healthy is told so beforehand.
pub(in crate::e2b) async fn pause(
    State(app): State<AppState>,
    Caller(ctx): Caller,
    PathSandbox(id): PathSandbox,
    JsonBody(Pause { memory, require_healthy_guest }): JsonBody<Pause>,
) -> Result<StatusCode, ApiError> {
    let sandbox = find_settled(&app, &ctx, id).await?;
    if sandbox.status == SandboxStatus::Paused {
        return Err(already(&id.e2b()));
    }
    if require_healthy_guest == Some(true) {
        app.control.sandbox_ping(&ctx, &sandbox).await.map_err(unavailable)?;
    }
    let mode = if memory.unwrap_or(true) { PauseMode::Full } else { PauseMode::Filesystem };
    match app.control.sandbox_pause_keeping(&ctx, &sandbox, mode).await.map_err(ApiError::from) {
        Ok(_) => Ok(StatusCode::NO_CONTENT),
        Err(error) if error.code() == ErrorCode::InvalidState => {
            // Somebody was faster: to their pause, or to something else.
            match find_settled(&app, &ctx, id).await?.status {
                SandboxStatus::Paused => Err(already(&id.e2b())),
                _ => Err(unavailable(error)),
            }
        }
        Err(error) => Err(error),
    }
}

fn already(id: &str) -> ApiError {
    ApiError::new(ErrorCode::InvalidState, format!("sandbox {id} is paused already"))
}

fn unavailable(error: impl Into<ApiError>) -> ApiError {
    ApiError::new(ErrorCode::HostUnavailable, error.into().message())
}
