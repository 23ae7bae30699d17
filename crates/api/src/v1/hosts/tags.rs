//! `/v1/hosts/{id}/tags`.

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use sandbar_types::id;
use serde::Deserialize;
use utoipa::ToSchema;

use crate::AppState;
use crate::auth::PersonCaller;
use crate::error::ApiError;
use crate::extract::{JsonBody, PathId, PathIdAndName};
use crate::schema::FleetRefusals;

/// A tag to give.
#[derive(Debug, Deserialize, ToSchema)]
pub(crate) struct HostTag {
    /// 1 to 64 of the characters `A-Z a-z 0-9 . _ : = / -`.
    #[schema(min_length = 1, max_length = 64, example = "rack=12")]
    tag: String,
}

/// A host's tags, in order.
#[utoipa::path(
    get,
    path = "/{id}/tags",
    operation_id = "list_host_tags",
    tag = "hosts",
    params(("id" = String, Path, description = "The host's id, `host-...`")),
    responses((status = 200, description = "The tags", body = Vec<String>), FleetRefusals),
    security(("bearer" = [])),
)]
pub(crate) async fn list_host_tags(
    State(app): State<AppState>,
    PersonCaller(ctx): PersonCaller,
    PathId(id): PathId<id::Host>,
) -> Result<Json<Vec<String>>, ApiError> {
    Ok(Json(app.control.host_tags(&ctx, id).await?))
}

/// Gives a host a tag. One that it has stays.
#[utoipa::path(
    post,
    path = "/{id}/tags",
    operation_id = "add_host_tag",
    tag = "hosts",
    params(("id" = String, Path, description = "The host's id, `host-...`")),
    request_body = HostTag,
    responses((status = 201, description = "All its tags", body = Vec<String>), FleetRefusals),
    security(("bearer" = [])),
)]
pub(crate) async fn add_host_tag(
    State(app): State<AppState>,
    PersonCaller(ctx): PersonCaller,
    PathId(id): PathId<id::Host>,
    JsonBody(body): JsonBody<HostTag>,
) -> Result<(StatusCode, Json<Vec<String>>), ApiError> {
    Ok((StatusCode::CREATED, Json(app.control.host_tag_add(&ctx, id, &body.tag).await?)))
}

/// Takes a tag from a host.
#[utoipa::path(
    delete,
    path = "/{id}/tags/{tag}",
    operation_id = "remove_host_tag",
    tag = "hosts",
    params(
        ("id" = String, Path, description = "The host's id, `host-...`"),
        ("tag" = String, Path, description = "The tag"),
    ),
    responses((status = 204, description = "It is gone"), FleetRefusals),
    security(("bearer" = [])),
)]
pub(crate) async fn remove_host_tag(
    State(app): State<AppState>,
    PersonCaller(ctx): PersonCaller,
    PathIdAndName(id, tag): PathIdAndName<id::Host>,
) -> Result<StatusCode, ApiError> {
    app.control.host_tag_remove(&ctx, id, &tag).await?;
    Ok(StatusCode::NO_CONTENT)
}
