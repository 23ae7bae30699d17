//! Ending a build.

use axum::Json;
use axum::extract::State;
use sandbar_control::builds::BuildScope;
use sandbar_types::id;

use super::Build;
use crate::AppState;
use crate::auth::{Caller, PersonCaller};
use crate::error::ApiError;
use crate::extract::PathId;
use crate::schema::BuildRefusals;

/// Cancels a build of the team. One that a worker has is `cancelled` soon after.
#[utoipa::path(
    post,
    path = "/{id}/cancel",
    operation_id = "cancel_build",
    tag = "builds",
    params(("id" = String, Path, description = "The build's id, `bld-...`")),
    responses((status = 200, description = "The build", body = Build), BuildRefusals),
    security(("api_key" = [])),
)]
pub(crate) async fn cancel_build(
    State(app): State<AppState>,
    Caller(ctx): Caller,
    PathId(id): PathId<id::Build>,
) -> Result<Json<Build>, ApiError> {
    Ok(Json(app.control.build_cancel(&ctx, BuildScope::Team, id).await?.into()))
}

/// Cancels a build of any team or of the platform.
#[utoipa::path(
    post,
    path = "/{id}/cancel",
    operation_id = "admin_cancel_build",
    tag = "admin",
    params(("id" = String, Path, description = "The build's id, `bld-...`")),
    responses((status = 200, description = "The build", body = Build), BuildRefusals),
    security(("bearer" = [])),
)]
pub(crate) async fn admin_cancel_build(
    State(app): State<AppState>,
    PersonCaller(ctx): PersonCaller,
    PathId(id): PathId<id::Build>,
) -> Result<Json<Build>, ApiError> {
    Ok(Json(app.control.build_cancel(&ctx, BuildScope::Platform, id).await?.into()))
}
