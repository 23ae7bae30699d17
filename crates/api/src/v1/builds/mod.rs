//! `/v1/builds`: templates made of recipes, for the team; `/v1/admin/builds`: the same handlers for the platform's own.
//!
//! - `create.rs`, `look.rs`, `cancel.rs`: asking for one, looking at them, ending one.
//! - `files.rs`: archives that recipes copy from, or start from.
//! - `stream.rs`: progress as it comes.

mod cancel;
mod create;
mod files;
mod look;
mod stream;

use sandbar_control::builds::{self, BuildLog};
use sandbar_types::{BuildStatus, Id, TemplateKind, TemplateName, id};
use serde::Serialize;
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::AppState;
use crate::schema::Timestamp;

/// The team's routes, relative to where they are mounted.
pub(crate) fn routes() -> OpenApiRouter<AppState> {
    OpenApiRouter::new()
        .routes(routes!(look::list_builds, create::create_build))
        .routes(routes!(look::get_build))
        .routes(routes!(cancel::cancel_build))
        .routes(routes!(stream::follow_build))
        .routes(routes!(files::get_build_files, files::put_build_files))
        .routes(routes!(files::get_build_files_received))
}

/// The platform's, relative to where they are mounted.
pub(crate) fn admin_routes() -> OpenApiRouter<AppState> {
    OpenApiRouter::new()
        .routes(routes!(look::admin_list_builds, create::admin_create_build))
        .routes(routes!(look::admin_get_build))
        .routes(routes!(cancel::admin_cancel_build))
        .routes(routes!(stream::admin_follow_build))
        .routes(routes!(files::admin_get_build_files, files::admin_put_build_files))
        .routes(routes!(files::admin_get_build_files_received))
}

/// A build of a template.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Build {
    #[schema(value_type = String, example = "bld-0192f0c1-5c4e-7a3b-9d2e-3f4a5b6c7d8e")]
    id: Id<id::Build>,
    #[schema(value_type = String)]
    team_id: Id<id::Team>,
    /// The template's name.
    #[schema(value_type = String, example = "python-tools")]
    name: TemplateName,
    /// What it starts from: a template's name, a registry's image, whose name has a slash or a colon, or `archive:sha256:` and the SHA-256 of an archive.
    #[schema(example = "base")]
    base_template: String,
    healthcheck: Option<String>,
    /// Whether its template has memory.
    memory: bool,
    vcpus: u32,
    memory_mb: u32,
    /// Where it starts from an image and asked for one.
    #[serde(skip_serializing_if = "Option::is_none")]
    disk_mb: Option<u32>,
    #[schema(schema_with = crate::schema::build_status)]
    status: BuildStatus,
    /// The step that it is at, from 1; 0 before the first.
    current_step: u32,
    /// The recipe's, the healthcheck, and the keeping of the template.
    total_steps: u32,
    /// How often it was begun.
    attempts: u32,
    created_at: Timestamp,
    started_at: Option<Timestamp>,
    finished_at: Option<Timestamp>,
    /// Why it failed.
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<String>,
}

impl From<builds::Build> for Build {
    fn from(build: builds::Build) -> Self {
        Self {
            id: build.id,
            team_id: build.team_id,
            name: build.name,
            base_template: build.base.to_string(),
            healthcheck: build.healthcheck,
            memory: build.kind == TemplateKind::Snapshot,
            vcpus: build.vcpus,
            memory_mb: build.memory_mb,
            disk_mb: build.disk_mb,
            status: build.status,
            current_step: build.current_step,
            total_steps: build.total_steps,
            attempts: build.attempts,
            created_at: Timestamp(build.created_at),
            started_at: build.started_at.map(Timestamp),
            finished_at: build.finished_at.map(Timestamp),
            error: build.error,
        }
    }
}

/// What one step wrote.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct StepLog {
    /// Of which attempt, from 1.
    attempt: u32,
    /// From 1.
    step: u32,
    /// The recipe's line.
    #[schema(example = "RUN pip install numpy")]
    cmd: String,
    stdout: String,
    stderr: String,
    /// Whether more was dropped: of each step 1 MiB is kept.
    truncated: bool,
    /// Null while it runs, and where it has none.
    exit_code: Option<i32>,
    started_at: Timestamp,
    /// Null while it runs.
    duration_ms: Option<u64>,
}

impl From<BuildLog> for StepLog {
    fn from(log: BuildLog) -> Self {
        Self {
            attempt: log.attempt,
            step: log.step,
            cmd: log.cmd,
            stdout: log.stdout,
            stderr: log.stderr,
            truncated: log.truncated,
            exit_code: log.exit_code,
            started_at: Timestamp(log.started_at),
            duration_ms: log.duration_ms,
        }
    }
}

/// A build, and what its steps wrote.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct BuildWithLogs {
    #[serde(flatten)]
    build: Build,
    /// Of its last attempt, in order.
    logs: Vec<StepLog>,
}
