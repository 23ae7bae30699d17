//! `POST /v2/sandboxes/{id}/connect`, `/sandboxes/{id}/connect` and `/sandboxes/{id}/resume`.

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use sandbar_control::sandboxes::{Awakening, Entered, OnTimeout, Resume};
use sandbar_types::TimeoutFrom;
use serde::Deserialize;

use super::create::some_time;
use super::view::Sandbox;
use super::{find, find_settled};
use crate::AppState;
use crate::auth::Caller;
use crate::e2b::names::PathSandbox;
use crate::error::ApiError;
use crate::extract::JsonBody;

/// Seconds that a connection lets a sandbox live at least, where the caller does not say.
const DEFAULT_TIMEOUT_SEC: u32 = 300;
/// The same of a resume.
const RESUME_TIMEOUT_SEC: u32 = 15;

#[derive(Debug, Deserialize)]
pub(in crate::e2b) struct Connect {
    timeout: Option<u32>,
    memory: Option<bool>,
}

/// Whether its memory is to be used. One that runs does so whatever is asked for.
fn awakening(memory: Option<bool>) -> Awakening {
    if memory == Some(false) { Awakening::Reboot } else { Awakening::AsKept }
}

/// Makes sure that a sandbox runs, and for so long: 200 where it ran, 201 where it was paused. Its end never comes nearer.
pub(in crate::e2b) async fn connect(
    State(app): State<AppState>,
    Caller(ctx): Caller,
    PathSandbox(id): PathSandbox,
    JsonBody(Connect { timeout, memory }): JsonBody<Connect>,
) -> Result<(StatusCode, Json<Sandbox>), ApiError> {
    let timeout_sec = some_time(timeout.unwrap_or(DEFAULT_TIMEOUT_SEC))?;
    let sandbox = find(&app, &ctx, id).await?;
    let entered = app.control.sandbox_enter(&ctx, &sandbox, timeout_sec, awakening(memory)).await?;
    let (status, sandbox) = match entered {
        Entered::Running(sandbox) => (StatusCode::OK, sandbox),
        Entered::Resumed(sandbox) => (StatusCode::CREATED, sandbox),
    };
    Ok((status, Json(Sandbox::new(&app.control, &sandbox))))
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(in crate::e2b) struct ResumeSandbox {
    timeout: Option<u32>,
    auto_pause: Option<bool>,
    memory: Option<bool>,
}

pub(in crate::e2b) async fn resume(
    State(app): State<AppState>,
    Caller(ctx): Caller,
    PathSandbox(id): PathSandbox,
    JsonBody(ResumeSandbox { timeout, auto_pause, memory }): JsonBody<ResumeSandbox>,
) -> Result<(StatusCode, Json<Sandbox>), ApiError> {
    let resume = Resume {
        timeout_sec: Some(some_time(timeout.unwrap_or(RESUME_TIMEOUT_SEC))?),
        on_timeout: auto_pause.map(|pause| if pause { OnTimeout::Pause } else { OnTimeout::Kill }),
        timeout_from: Some(TimeoutFrom::Start),
        awakening: awakening(memory),
    };
    let sandbox = find_settled(&app, &ctx, id).await?;
    let sandbox = app.control.sandbox_resume(&ctx, &sandbox, resume).await?;
    Ok((StatusCode::CREATED, Json(Sandbox::new(&app.control, &sandbox))))
}
