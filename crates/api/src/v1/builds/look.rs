//! Looking at builds.

use axum::Json;
use axum::extract::State;
use axum::http::HeaderMap;
use sandbar_control::OpContext;
use sandbar_control::builds::BuildScope;
use sandbar_types::{Id, id};

use super::{Build, BuildWithLogs};
use crate::AppState;
use crate::auth::{Caller, PersonCaller};
use crate::error::ApiError;
use crate::extract::{PathId, QueryPairs};
use crate::page::{self, PageParams};
use crate::schema::ReadRefusals;

/// The team's builds, newest first, without their logs.
#[utoipa::path(
    get,
    path = "",
    operation_id = "list_builds",
    tag = "builds",
    params(PageParams),
    responses(
        (status = 200, description = "One page", body = Vec<Build>,
            headers(("X-Next-Cursor" = String, description = "Names the next page; absent on the last one"))),
        ReadRefusals,
    ),
    security(("api_key" = [])),
)]
pub(crate) async fn list_builds(
    State(app): State<AppState>,
    Caller(ctx): Caller,
    query: QueryPairs,
) -> Result<(HeaderMap, Json<Vec<Build>>), ApiError> {
    list(&app, &ctx, BuildScope::Team, &query).await
}

/// The builds of all teams and of the platform, newest first, without their logs.
#[utoipa::path(
    get,
    path = "",
    operation_id = "admin_list_builds",
    tag = "admin",
    params(PageParams),
    responses(
        (status = 200, description = "One page", body = Vec<Build>,
            headers(("X-Next-Cursor" = String, description = "Names the next page; absent on the last one"))),
        ReadRefusals,
    ),
    security(("bearer" = [])),
)]
pub(crate) async fn admin_list_builds(
    State(app): State<AppState>,
    PersonCaller(ctx): PersonCaller,
    query: QueryPairs,
) -> Result<(HeaderMap, Json<Vec<Build>>), ApiError> {
    list(&app, &ctx, BuildScope::Platform, &query).await
}

async fn list(
    app: &AppState,
    ctx: &OpContext,
    scope: BuildScope,
    query: &QueryPairs,
) -> Result<(HeaderMap, Json<Vec<Build>>), ApiError> {
    let page = app.control.build_list(ctx, scope, &page::request(query)?).await?;
    Ok(page::answer(page, Build::from))
}

/// A build, and what its steps have written so far.
#[utoipa::path(
    get,
    path = "/{id}",
    operation_id = "get_build",
    tag = "builds",
    params(("id" = String, Path, description = "The build's id, `bld-...`")),
    responses((status = 200, description = "The build", body = BuildWithLogs), ReadRefusals),
    security(("api_key" = [])),
)]
pub(crate) async fn get_build(
    State(app): State<AppState>,
    Caller(ctx): Caller,
    PathId(id): PathId<id::Build>,
) -> Result<Json<BuildWithLogs>, ApiError> {
    get(&app, &ctx, BuildScope::Team, id).await
}

/// A build of any team or of the platform, and what its steps have written so far.
#[utoipa::path(
    get,
    path = "/{id}",
    operation_id = "admin_get_build",
    tag = "admin",
    params(("id" = String, Path, description = "The build's id, `bld-...`")),
    responses((status = 200, description = "The build", body = BuildWithLogs), ReadRefusals),
    security(("bearer" = [])),
)]
pub(crate) async fn admin_get_build(
    State(app): State<AppState>,
    PersonCaller(ctx): PersonCaller,
    PathId(id): PathId<id::Build>,
) -> Result<Json<BuildWithLogs>, ApiError> {
    get(&app, &ctx, BuildScope::Platform, id).await
}

async fn get(
    app: &AppState,
    ctx: &OpContext,
    scope: BuildScope,
    id: Id<id::Build>,
) -> Result<Json<BuildWithLogs>, ApiError> {
    let build = app.control.build_get(ctx, scope, id).await?;
    let logs = app.control.build_logs(&build).await?;
    let logs = logs.into_iter().map(Into::into).collect();
    Ok(Json(BuildWithLogs { build: build.into(), logs }))
}
