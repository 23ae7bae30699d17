//! `/v1/admin/teams`.

use axum::Json;
use axum::extract::State;
use axum::http::HeaderMap;
use sandbar_control::teams::Byoc;
use sandbar_types::id;
use serde::Deserialize;
use utoipa::ToSchema;

use crate::AppState;
use crate::auth::PersonCaller;
use crate::error::ApiError;
use crate::extract::{JsonBody, PathId, QueryPairs};
use crate::page::{self, PageParams};
use crate::schema::PeopleRefusals;
use crate::v1::teams::Team;

/// Whether a team may bring hosts of its own.
#[derive(Deserialize, ToSchema)]
pub(crate) struct SetByoc {
    is_byoc: bool,
}

/// All teams, newest first.
#[utoipa::path(
    get,
    path = "/teams",
    operation_id = "admin_list_teams",
    tag = "admin",
    params(PageParams),
    responses(
        (status = 200, description = "One page", body = Vec<Team>,
            headers(("X-Next-Cursor" = String, description = "Names the next page; absent on the last one"))),
        PeopleRefusals,
    ),
    security(("bearer" = [])),
)]
pub(crate) async fn admin_list_teams(
    State(app): State<AppState>,
    PersonCaller(ctx): PersonCaller,
    query: QueryPairs,
) -> Result<(HeaderMap, Json<Vec<Team>>), ApiError> {
    let page = app.control.admin_team_list(&ctx, &page::request(&query)?).await?;
    Ok(page::answer(page, Team::from))
}

/// Lets a team bring hosts of its own, or not; not while it has some.
#[utoipa::path(
    put,
    path = "/teams/{id}/byoc",
    operation_id = "admin_set_byoc",
    tag = "admin",
    params(("id" = String, Path, description = "The team's id, `team-...`")),
    request_body = SetByoc,
    responses((status = 200, description = "The team", body = Team), PeopleRefusals),
    security(("bearer" = [])),
)]
pub(crate) async fn admin_set_byoc(
    State(app): State<AppState>,
    PersonCaller(ctx): PersonCaller,
    PathId(id): PathId<id::Team>,
    JsonBody(body): JsonBody<SetByoc>,
) -> Result<Json<Team>, ApiError> {
    let byoc = if body.is_byoc { Byoc::On } else { Byoc::Off };
    Ok(Json(app.control.team_set_byoc(&ctx, id, byoc).await?.into()))
}
