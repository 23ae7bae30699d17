//! `/v1/snapshots`: what sandboxes can start from, and making it of sandboxes.

use axum::Json;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};
use sandbar_control::snapshots::NewSnapshot;
use sandbar_control::templates;
use sandbar_types::{Id, TemplateName, id};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::AppState;
use crate::auth::Caller;
use crate::error::ApiError;
use crate::extract::{JsonBody, PathSnapshot, QueryPairs};
use crate::page::{self, PageParams};
use crate::schema::{ActRefusals, ReadRefusals, SnapshotRefusals, Timestamp};

/// The routes, relative to where they are mounted.
pub(crate) fn routes() -> OpenApiRouter<AppState> {
    OpenApiRouter::new()
        .routes(routes!(list_snapshots, create_snapshot))
        .routes(routes!(delete_snapshot))
        .routes(routes!(verify_snapshot))
}

/// What a sandbox can start from: a disk image, with or without a running machine's memory.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Snapshot {
    #[schema(example = "base")]
    name: String,
    /// `base` = a disk image only; `snapshot` = with memory.
    #[serde(rename = "type")]
    #[schema(schema_with = crate::schema::template_kind)]
    kind: &'static str,
    vcpus: u32,
    memory_mb: u32,
    size_bytes: u64,
    created_at: Timestamp,
    /// Whether it is the platform's, and so everybody's.
    platform: bool,
    /// Whether a complete copy is in object storage, so that it outlives the hosts that hold it.
    durable: bool,
}

impl From<templates::Template> for Snapshot {
    fn from(template: templates::Template) -> Self {
        Self {
            platform: template.is_platform(),
            kind: template.kind.as_str(),
            name: template.name.into(),
            vcpus: template.vcpus,
            memory_mb: template.memory_mb,
            size_bytes: template.size_bytes,
            created_at: Timestamp(template.created_at),
            durable: template.durable,
        }
    }
}

/// The team's and the platform's snapshots, newest first.
#[utoipa::path(
    get,
    path = "",
    operation_id = "list_snapshots",
    tag = "snapshots",
    params(
        ("type" = Option<String>, Query, description = "Only `base` or only `snapshot`"),
        PageParams,
    ),
    responses(
        (status = 200, description = "One page", body = Vec<Snapshot>,
            headers(("X-Next-Cursor" = String, description = "Names the next page; absent on the last one"))),
        ReadRefusals,
    ),
    security(("api_key" = [])),
)]
pub(crate) async fn list_snapshots(
    State(app): State<AppState>,
    Caller(ctx): Caller,
    query: QueryPairs,
) -> Result<(HeaderMap, Json<Vec<Snapshot>>), ApiError> {
    let page = app.control.template_list(&ctx, query.parse("type")?, &page::request(&query)?).await?;
    Ok(page::answer(page, Snapshot::from))
}

/// What to keep, and as what.
#[derive(Debug, Deserialize, ToSchema)]
pub(crate) struct CreateSnapshot {
    #[schema(value_type = String, example = "sb-0192f0c1-5c4e-7a3b-9d2e-3f4a5b6c7d8e")]
    sandbox_id: Id<id::Sandbox>,
    /// One is chosen where it is left out.
    #[schema(pattern = "^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$")]
    name: Option<String>,
    /// Whether its memory is kept. Without it, it is a `base`: sandboxes that are made from it boot, in any size.
    #[schema(default = true)]
    memory: Option<bool>,
}

/// Keeps a sandbox's memory and disk as a template of the team: sandboxes that are made from it go on where it was.
///
/// A running sandbox runs on: it stands still only while it is copied, and is `snapshotting` meanwhile. A paused one stays
/// paused. Sandboxes made from a snapshot have its number of processors and its memory; those made from one without memory boot, and
/// nothing runs in them that ran when it was made.
#[utoipa::path(
    post,
    path = "",
    operation_id = "create_snapshot",
    tag = "snapshots",
    params(
        ("overwrite" = Option<bool>, Query,
            description = "Whether it takes the place of a snapshot of the team's that has the name, once it is complete"),
    ),
    request_body = CreateSnapshot,
    responses((status = 201, description = "It can be used", body = Snapshot), SnapshotRefusals),
    security(("api_key" = [])),
)]
pub(crate) async fn create_snapshot(
    State(app): State<AppState>,
    Caller(ctx): Caller,
    query: QueryPairs,
    JsonBody(body): JsonBody<CreateSnapshot>,
) -> Result<(StatusCode, Json<Snapshot>), ApiError> {
    let CreateSnapshot { sandbox_id, name, memory } = body;
    let new = NewSnapshot { name, overwrite: query.parse("overwrite")?.unwrap_or_default(), tag: None };
    let sandbox = app.control.sandbox_get(&ctx, sandbox_id).await?;
    let template = match memory {
        None | Some(true) => app.control.snapshot_create(&ctx, &sandbox, &new).await?,
        Some(false) => app.control.sandbox_flatten(&ctx, &sandbox, &new).await?,
    };
    Ok((StatusCode::CREATED, Json(template.into())))
}

/// Deletes a snapshot of the team. Sandboxes that were made from it go on.
///
/// It is refused while a host has its files in use. A host that is away deletes them when it is back.
#[utoipa::path(
    delete,
    path = "/{name}",
    operation_id = "delete_snapshot",
    tag = "snapshots",
    params(("name" = String, Path, description = "The snapshot's name")),
    responses((status = 204, description = "It is gone"), ActRefusals),
    security(("api_key" = [])),
)]
pub(crate) async fn delete_snapshot(
    State(app): State<AppState>,
    Caller(ctx): Caller,
    PathSnapshot(name): PathSnapshot,
) -> Result<StatusCode, ApiError> {
    app.control.snapshot_delete(&ctx, &name).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// The files of a snapshot are what they were when it was made.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct VerifiedSnapshot {
    #[schema(value_type = String)]
    name: TemplateName,
    /// How much was read.
    bytes: u64,
}

/// Reads all files of a snapshot and checks them. One that is damaged is an `agent_error` that names the file.
#[utoipa::path(
    post,
    path = "/{name}/verify",
    operation_id = "verify_snapshot",
    tag = "snapshots",
    params(("name" = String, Path, description = "The snapshot's name")),
    responses((status = 200, description = "It is sound", body = VerifiedSnapshot), ActRefusals),
    security(("api_key" = [])),
)]
pub(crate) async fn verify_snapshot(
    State(app): State<AppState>,
    Caller(ctx): Caller,
    PathSnapshot(name): PathSnapshot,
) -> Result<Json<VerifiedSnapshot>, ApiError> {
    let bytes = app.control.snapshot_verify(&ctx, &name).await?;
    Ok(Json(VerifiedSnapshot { name, bytes }))
}
