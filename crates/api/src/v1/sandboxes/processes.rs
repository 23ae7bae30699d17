//! `GET /v1/sandboxes/{id}/processes` and `DELETE /v1/sandboxes/{id}/processes/{process}`.

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use sandbar_control::sandboxes::{self, ProcessRef};
use sandbar_types::id;
use serde::Serialize;
use utoipa::ToSchema;

use crate::AppState;
use crate::auth::Caller;
use crate::error::ApiError;
use crate::extract::{PathId, PathIdAndName};
use crate::schema::ActRefusals;

/// What runs in a sandbox.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Processes {
    processes: Vec<Process>,
}

/// A process that was started from outside and runs.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Process {
    pid: u32,
    /// The name that it was given.
    #[serde(skip_serializing_if = "Option::is_none")]
    tag: Option<String>,
    cmd: String,
    args: Vec<String>,
}

/// The processes that were started in a sandbox from outside and run; not those that they started themselves.
#[utoipa::path(
    get,
    path = "/{id}/processes",
    operation_id = "list_sandbox_processes",
    tag = "sandboxes",
    params(("id" = String, Path, description = "The sandbox's id, `sb-...`")),
    responses((status = 200, description = "What runs", body = Processes), ActRefusals),
    security(("api_key" = [])),
)]
pub(crate) async fn list_sandbox_processes(
    State(app): State<AppState>,
    Caller(ctx): Caller,
    PathId(id): PathId<id::Sandbox>,
) -> Result<Json<Processes>, ApiError> {
    let sandbox = app.control.sandbox_get(&ctx, id).await?;
    let processes = app.control.sandbox_processes(&ctx, &sandbox).await?;
    Ok(Json(Processes { processes: processes.into_iter().map(Process::from).collect() }))
}

/// Kills a process, and with it what it started, as far as that is in its session.
#[utoipa::path(
    delete,
    path = "/{id}/processes/{process}",
    operation_id = "kill_sandbox_process",
    tag = "sandboxes",
    params(
        ("id" = String, Path, description = "The sandbox's id, `sb-...`"),
        ("process" = String, Path, description = "A process id in the guest, or a tag"),
    ),
    responses((status = 204, description = "It was sent SIGKILL"), ActRefusals),
    security(("api_key" = [])),
)]
pub(crate) async fn kill_sandbox_process(
    State(app): State<AppState>,
    Caller(ctx): Caller,
    PathIdAndName(id, process): PathIdAndName<id::Sandbox>,
) -> Result<StatusCode, ApiError> {
    let sandbox = app.control.sandbox_get(&ctx, id).await?;
    app.control.sandbox_kill_process(&ctx, &sandbox, &ProcessRef::from(process)).await?;
    Ok(StatusCode::NO_CONTENT)
}

impl From<sandboxes::Process> for Process {
    fn from(process: sandboxes::Process) -> Self {
        let sandboxes::Process { pid, tag, cmd, args } = process;
        Self { pid, tag, cmd, args }
    }
}
