//! `POST /v1/sandboxes/{id}/pause`, `/resume`, `/timeout`.

use axum::Json;
use axum::extract::State;
use sandbar_control::sandboxes::{Awakening, NewDeadline, PauseMode, Resume};
use sandbar_types::id;
use serde::Deserialize;
use utoipa::ToSchema;

use super::{OnTimeout, Sandbox, TimeoutFrom};
use crate::AppState;
use crate::auth::Caller;
use crate::error::ApiError;
use crate::extract::{JsonBody, PathId};
use crate::schema::ActRefusals;

/// How to pause.
#[derive(Debug, Default, Deserialize, ToSchema)]
pub(crate) struct PauseSandbox {
    /// Whether its memory is kept. Without it, its processes end, and it boots when it is resumed.
    #[schema(default = true)]
    memory: Option<bool>,
}

/// Keeps a sandbox's memory and disk, or its disk alone, and gives back its processor, memory and network.
///
/// Its processes stand still and go on with `resume`, days later if need be; without memory they are gone, and `resume` boots it: files,
/// environment, tokens and network policy are as before. A pause that fails leaves it running. Takes as long as writing what the
/// sandbox wrote to its memory since it began or was last resumed, and without memory as long as flushing its files.
#[utoipa::path(
    post,
    path = "/{id}/pause",
    operation_id = "pause_sandbox",
    tag = "sandboxes",
    params(("id" = String, Path, description = "The sandbox's id, `sb-...`")),
    request_body(content = PauseSandbox, description = "May be left out"),
    responses((status = 200, description = "It is paused", body = Sandbox), ActRefusals),
    security(("api_key" = [])),
)]
pub(crate) async fn pause_sandbox(
    State(app): State<AppState>,
    Caller(ctx): Caller,
    PathId(id): PathId<id::Sandbox>,
    JsonBody(PauseSandbox { memory }): JsonBody<PauseSandbox>,
) -> Result<Json<Sandbox>, ApiError> {
    let mode = if memory.unwrap_or(true) { PauseMode::Full } else { PauseMode::Filesystem };
    let sandbox = app.control.sandbox_get(&ctx, id).await?;
    Ok(Json(app.control.sandbox_pause_keeping(&ctx, &sandbox, mode).await?.into()))
}

/// How it goes on. What is left out stays as it was.
#[derive(Debug, Deserialize, ToSchema)]
pub(crate) struct ResumeSandbox {
    /// Seconds without activity after which it ends; 0 = never.
    #[schema(minimum = 0, maximum = 2_592_000)]
    timeout_sec: Option<u32>,
    on_timeout: Option<OnTimeout>,
    /// Whether it goes on in its memory, where that was kept. Otherwise it boots from its disk, for instance because its processes are
    /// stuck; its memory is dropped once it serves.
    #[schema(default = true)]
    memory: Option<bool>,
}

/// Lets a paused sandbox go on where it was: the same processes, the same files, the clock put right. Its time-out starts anew.
///
/// One whose disk alone was kept boots. A resume that fails leaves it paused as it was.
#[utoipa::path(
    post,
    path = "/{id}/resume",
    operation_id = "resume_sandbox",
    tag = "sandboxes",
    params(("id" = String, Path, description = "The sandbox's id, `sb-...`")),
    request_body(content = ResumeSandbox, description = "May be left out"),
    responses((status = 200, description = "It runs", body = Sandbox), ActRefusals),
    security(("api_key" = [])),
)]
pub(crate) async fn resume_sandbox(
    State(app): State<AppState>,
    Caller(ctx): Caller,
    PathId(id): PathId<id::Sandbox>,
    JsonBody(body): JsonBody<ResumeSandbox>,
) -> Result<Json<Sandbox>, ApiError> {
    let ResumeSandbox { timeout_sec, on_timeout, memory } = body;
    let sandbox = app.control.sandbox_get(&ctx, id).await?;
    let awakening = if memory.unwrap_or(true) { Awakening::AsKept } else { Awakening::Reboot };
    let on_timeout = on_timeout.map(Into::into);
    let resume = Resume { timeout_sec, on_timeout, timeout_from: None, awakening };
    Ok(Json(app.control.sandbox_resume(&ctx, &sandbox, resume).await?.into()))
}

/// When it ends.
#[derive(Debug, Deserialize, ToSchema)]
pub(crate) struct SetTimeout {
    /// Seconds after which it ends; 0 = never.
    #[schema(minimum = 0, maximum = 2_592_000)]
    timeout_sec: u32,
    /// As it was, where it is left out.
    on_timeout: Option<OnTimeout>,
    /// As it was, where it is left out. `start`: from now.
    timeout_from: Option<TimeoutFrom>,
}

/// Changes when a running sandbox ends by itself, and how. Counts as activity.
#[utoipa::path(
    post,
    path = "/{id}/timeout",
    operation_id = "set_sandbox_timeout",
    tag = "sandboxes",
    params(("id" = String, Path, description = "The sandbox's id, `sb-...`")),
    request_body = SetTimeout,
    responses((status = 200, description = "Its time-out starts now", body = Sandbox), ActRefusals),
    security(("api_key" = [])),
)]
pub(crate) async fn set_sandbox_timeout(
    State(app): State<AppState>,
    Caller(ctx): Caller,
    PathId(id): PathId<id::Sandbox>,
    JsonBody(body): JsonBody<SetTimeout>,
) -> Result<Json<Sandbox>, ApiError> {
    let SetTimeout { timeout_sec, on_timeout, timeout_from } = body;
    let new = NewDeadline {
        on_timeout: on_timeout.map(Into::into),
        timeout_from: timeout_from.map(Into::into),
        ..NewDeadline::default()
    };
    let sandbox = app.control.sandbox_get(&ctx, id).await?;
    let changed = app.control.sandbox_set_timeout(&ctx, &sandbox, timeout_sec, new).await?;
    Ok(Json(changed.into()))
}
