//! `/v1/teams` and `/v1/teams/{id}`.

use axum::Json;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};
use sandbar_types::id;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::{Member, Team};
use crate::AppState;
use crate::auth::PersonCaller;
use crate::error::ApiError;
use crate::extract::{JsonBody, PathId, QueryPairs};
use crate::page::{self, PageParams};
use crate::schema::PeopleRefusals;

/// What a team is to be called.
#[derive(Deserialize, ToSchema)]
pub(crate) struct TeamName {
    #[schema(pattern = "^[A-Za-z0-9 _\\-@']{1,128}$", example = "Ann's Team")]
    name: String,
}

/// A team and its members.
#[derive(Serialize, ToSchema)]
pub(crate) struct TeamWithMembers {
    team: Team,
    members: Vec<Member>,
}

/// The caller's teams, newest first.
#[utoipa::path(
    get,
    path = "",
    operation_id = "list_teams",
    tag = "teams",
    params(PageParams),
    responses(
        (status = 200, description = "One page", body = Vec<Team>,
            headers(("X-Next-Cursor" = String, description = "Names the next page; absent on the last one"))),
        PeopleRefusals,
    ),
    security(("bearer" = [])),
)]
pub(crate) async fn list_teams(
    State(app): State<AppState>,
    PersonCaller(ctx): PersonCaller,
    query: QueryPairs,
) -> Result<(HeaderMap, Json<Vec<Team>>), ApiError> {
    let page = app.control.team_list(&ctx, &page::request(&query)?).await?;
    Ok(page::answer(page, Team::from))
}

/// Makes a team, which the caller owns.
#[utoipa::path(
    post,
    path = "",
    operation_id = "create_team",
    tag = "teams",
    request_body = TeamName,
    responses((status = 201, description = "The team", body = Team), PeopleRefusals),
    security(("bearer" = [])),
)]
pub(crate) async fn create_team(
    State(app): State<AppState>,
    PersonCaller(ctx): PersonCaller,
    JsonBody(body): JsonBody<TeamName>,
) -> Result<(StatusCode, Json<Team>), ApiError> {
    Ok((StatusCode::CREATED, Json(app.control.team_create(&ctx, &body.name).await?.into())))
}

/// A team and its members, for them.
#[utoipa::path(
    get,
    path = "/{id}",
    operation_id = "get_team",
    tag = "teams",
    params(("id" = String, Path, description = "The team's id, `team-...`")),
    responses((status = 200, description = "The team", body = TeamWithMembers), PeopleRefusals),
    security(("bearer" = [])),
)]
pub(crate) async fn get_team(
    State(app): State<AppState>,
    PersonCaller(ctx): PersonCaller,
    PathId(id): PathId<id::Team>,
) -> Result<Json<TeamWithMembers>, ApiError> {
    let (team, members) = app.control.team_get(&ctx, id).await?;
    Ok(Json(TeamWithMembers { team: team.into(), members: members.into_iter().map(Member::from).collect() }))
}

/// Gives a team another name. For its admins and owner.
#[utoipa::path(
    patch,
    path = "/{id}",
    operation_id = "rename_team",
    tag = "teams",
    params(("id" = String, Path, description = "The team's id, `team-...`")),
    request_body = TeamName,
    responses((status = 200, description = "The team", body = Team), PeopleRefusals),
    security(("bearer" = [])),
)]
pub(crate) async fn rename_team(
    State(app): State<AppState>,
    PersonCaller(ctx): PersonCaller,
    PathId(id): PathId<id::Team>,
    JsonBody(body): JsonBody<TeamName>,
) -> Result<Json<Team>, ApiError> {
    Ok(Json(app.control.team_rename(&ctx, id, &body.name).await?.into()))
}

/// Deletes a team, revokes its keys, deletes its snapshots and destroys its sandboxes, which may go on in the background. For its owner,
/// who must have another team.
#[utoipa::path(
    delete,
    path = "/{id}",
    operation_id = "delete_team",
    tag = "teams",
    params(("id" = String, Path, description = "The team's id, `team-...`")),
    responses((status = 204, description = "It is deleted"), PeopleRefusals),
    security(("bearer" = [])),
)]
pub(crate) async fn delete_team(
    State(app): State<AppState>,
    PersonCaller(ctx): PersonCaller,
    PathId(id): PathId<id::Team>,
) -> Result<StatusCode, ApiError> {
    app.control.team_delete(&ctx, id).await?;
    Ok(StatusCode::NO_CONTENT)
}
