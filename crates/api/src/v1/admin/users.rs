//! `/v1/admin/users`.

use axum::Json;
use axum::extract::State;
use axum::http::HeaderMap;
use sandbar_control::people::PlatformRole;
use sandbar_types::id;
use serde::Deserialize;
use utoipa::ToSchema;

use crate::AppState;
use crate::auth::PersonCaller;
use crate::error::ApiError;
use crate::extract::{JsonBody, PathId, QueryPairs};
use crate::page::{self, PageParams};
use crate::schema::PeopleRefusals;
use crate::v1::me::User;

/// Whether somebody administers the platform.
#[derive(Deserialize, ToSchema)]
pub(crate) struct SetAdmin {
    is_admin: bool,
}

/// Everybody, newest first.
#[utoipa::path(
    get,
    path = "/users",
    operation_id = "admin_list_users",
    tag = "admin",
    params(PageParams),
    responses(
        (status = 200, description = "One page", body = Vec<User>,
            headers(("X-Next-Cursor" = String, description = "Names the next page; absent on the last one"))),
        PeopleRefusals,
    ),
    security(("bearer" = [])),
)]
pub(crate) async fn admin_list_users(
    State(app): State<AppState>,
    PersonCaller(ctx): PersonCaller,
    query: QueryPairs,
) -> Result<(HeaderMap, Json<Vec<User>>), ApiError> {
    let page = app.control.user_list(&ctx, &page::request(&query)?).await?;
    Ok(page::answer(page, User::from))
}

/// Makes somebody an administrator of the platform, or ends that. One is always left.
#[utoipa::path(
    put,
    path = "/users/{id}/admin",
    operation_id = "admin_set_admin",
    tag = "admin",
    params(("id" = String, Path, description = "The user's id, `usr-...`")),
    request_body = SetAdmin,
    responses((status = 200, description = "The user", body = User), PeopleRefusals),
    security(("bearer" = [])),
)]
pub(crate) async fn admin_set_admin(
    State(app): State<AppState>,
    PersonCaller(ctx): PersonCaller,
    PathId(id): PathId<id::User>,
    JsonBody(body): JsonBody<SetAdmin>,
) -> Result<Json<User>, ApiError> {
    let role = if body.is_admin { PlatformRole::Admin } else { PlatformRole::None };
    Ok(Json(app.control.user_set_platform_role(&ctx, id, role).await?.into()))
}
