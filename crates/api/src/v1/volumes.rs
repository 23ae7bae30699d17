//! `/v1/volumes`: volumes of the team that is acted for.

use axum::Json;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};
use sandbar_control::volumes;
use sandbar_types::id::{Host, Sandbox, User};
use sandbar_types::{Id, VolumeStatus, id};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::AppState;
use crate::auth::Caller;
use crate::error::ApiError;
use crate::extract::{JsonBody, PathName, QueryPairs};
use crate::page::{self, PageParams};
use crate::schema::{PeopleRefusals, Timestamp, VolumeRefusals};

/// The routes, relative to where they are mounted.
pub(crate) fn routes() -> OpenApiRouter<AppState> {
    OpenApiRouter::new()
        .routes(routes!(list_volumes, create_volume))
        .routes(routes!(get_volume, delete_volume))
}

/// A disk that outlives sandboxes.
#[derive(Serialize, ToSchema)]
pub(crate) struct Volume {
    #[schema(value_type = String, example = "vol-0192f0c1-5c4e-7a3b-9d2e-3f4a5b6c7d8e")]
    id: Id<id::Volume>,
    #[schema(example = "training-data")]
    name: String,
    /// What it may hold, in MiB. It takes what is written to it.
    size_mb: u32,
    status: Status,
    /// The host that it is on, and that sandboxes which have it run on.
    #[schema(value_type = String)]
    host_id: Id<Host>,
    /// The sandbox that has it, until that is deleted; null = none.
    #[schema(value_type = Option<String>)]
    sandbox_id: Option<Id<Sandbox>>,
    /// Whether that sandbox is there for requests for its files alone, and goes when another wants the volume.
    serving: bool,
    /// None where one of the team's keys made it.
    #[schema(value_type = Option<String>)]
    created_by: Option<Id<User>>,
    creator_email: Option<String>,
    created_at: Timestamp,
}

/// Whether a volume can be mounted.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
#[schema(as = VolumeStatus)]
enum Status {
    /// Not yet.
    Creating,
    /// It can.
    Ready,
    /// Not any more.
    Deleting,
}

/// A volume to be.
#[derive(Deserialize, ToSchema)]
pub(crate) struct CreateVolume {
    /// Letters, digits, underscores and dashes.
    #[schema(min_length = 1, max_length = 128)]
    name: String,
    /// What it may hold, in MiB. The platform may allow less.
    #[schema(minimum = 64, maximum = 16_777_216, default = 10_240)]
    size_mb: Option<u32>,
}

impl From<volumes::Volume> for Volume {
    fn from(volume: volumes::Volume) -> Self {
        let volumes::Volume {
            id,
            team_id: _,
            name,
            size_mb,
            host_id,
            host_address: _,
            status,
            sandbox_id,
            serving,
            created_by,
            creator_email,
            created_at,
        } = volume;
        Self {
            id,
            name: name.to_string(),
            size_mb,
            status: match status {
                VolumeStatus::Creating => Status::Creating,
                VolumeStatus::Ready => Status::Ready,
                VolumeStatus::Deleting => Status::Deleting,
            },
            host_id,
            sandbox_id,
            serving,
            created_by,
            creator_email,
            created_at: Timestamp(created_at),
        }
    }
}

/// The team's volumes, newest first.
#[utoipa::path(
    get,
    path = "",
    operation_id = "list_volumes",
    tag = "volumes",
    params(PageParams),
    responses(
        (status = 200, description = "One page", body = Vec<Volume>,
            headers(("X-Next-Cursor" = String, description = "Names the next page; absent on the last one"))),
        PeopleRefusals,
    ),
    security(("api_key" = [])),
)]
pub(crate) async fn list_volumes(
    State(app): State<AppState>,
    Caller(ctx): Caller,
    query: QueryPairs,
) -> Result<(HeaderMap, Json<Vec<Volume>>), ApiError> {
    let page = app.control.volume_list(&ctx, &page::request(&query)?).await?;
    Ok(page::answer(page, Volume::from))
}

/// Makes a volume: an empty disk, which one sandbox at a time can have.
#[utoipa::path(
    post,
    path = "",
    operation_id = "create_volume",
    tag = "volumes",
    request_body = CreateVolume,
    responses((status = 201, description = "The volume, which can be mounted", body = Volume), VolumeRefusals),
    security(("api_key" = [])),
)]
pub(crate) async fn create_volume(
    State(app): State<AppState>,
    Caller(ctx): Caller,
    JsonBody(body): JsonBody<CreateVolume>,
) -> Result<(StatusCode, Json<Volume>), ApiError> {
    let CreateVolume { name, size_mb } = body;
    let made = app.control.volume_create(&ctx, &volumes::NewVolume { name, size_mb }).await?;
    Ok((StatusCode::CREATED, Json(made.into())))
}

/// A volume, by its name or id.
#[utoipa::path(
    get,
    path = "/{id}",
    operation_id = "get_volume",
    tag = "volumes",
    params(("id" = String, Path, description = "The volume's name, or its id, `vol-...`")),
    responses((status = 200, description = "The volume", body = Volume), PeopleRefusals),
    security(("api_key" = [])),
)]
pub(crate) async fn get_volume(
    State(app): State<AppState>,
    Caller(ctx): Caller,
    PathName(volume): PathName,
) -> Result<Json<Volume>, ApiError> {
    Ok(Json(app.control.volume_get(&ctx, &volume).await?.into()))
}

/// Deletes a volume that no sandbox has, with all that is in it: an admin and the team's keys any, others what they made.
#[utoipa::path(
    delete,
    path = "/{id}",
    operation_id = "delete_volume",
    tag = "volumes",
    params(("id" = String, Path, description = "The volume's name, or its id, `vol-...`")),
    responses((status = 204, description = "It is gone"), VolumeRefusals),
    security(("api_key" = [])),
)]
pub(crate) async fn delete_volume(
    State(app): State<AppState>,
    Caller(ctx): Caller,
    PathName(volume): PathName,
) -> Result<StatusCode, ApiError> {
    app.control.volume_delete(&ctx, &volume).await?;
    Ok(StatusCode::NO_CONTENT)
}
