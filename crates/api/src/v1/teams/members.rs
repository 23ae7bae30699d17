//! `/v1/teams/{id}/members`, `/leave` and `/transfer`.

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use sandbar_control::teams;
use sandbar_types::Id;
use sandbar_types::id::{Team, User};
use serde::Deserialize;
use utoipa::ToSchema;

use super::Member;
use crate::AppState;
use crate::auth::PersonCaller;
use crate::error::ApiError;
use crate::extract::{JsonBody, PathId, PathIds};
use crate::schema::PeopleRefusals;

/// Whom to add.
#[derive(Deserialize, ToSchema)]
pub(crate) struct AddMember {
    #[schema(example = "bob@example.org")]
    email: String,
}

/// What to make of a member.
#[derive(Deserialize, ToSchema)]
pub(crate) struct ChangeMember {
    role: NewRole,
}

/// What a member can be made. An owner is made by a transfer.
#[derive(Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub(crate) enum NewRole {
    Admin,
    Member,
}

/// To whom.
#[derive(Deserialize, ToSchema)]
pub(crate) struct TransferTeam {
    #[schema(value_type = String, example = "usr-0192f0c1-5c4e-7a3b-9d2e-3f4a5b6c7d8e")]
    user_id: Id<User>,
}

impl From<NewRole> for teams::NewRole {
    fn from(role: NewRole) -> Self {
        match role {
            NewRole::Admin => Self::Admin,
            NewRole::Member => Self::Member,
        }
    }
}

/// Adds the person with an address, as a member. For the team's admins and owner.
#[utoipa::path(
    post,
    path = "/{id}/members",
    operation_id = "add_member",
    tag = "teams",
    params(("id" = String, Path, description = "The team's id, `team-...`")),
    request_body = AddMember,
    responses((status = 201, description = "The member", body = Member), PeopleRefusals),
    security(("bearer" = [])),
)]
pub(crate) async fn add_member(
    State(app): State<AppState>,
    PersonCaller(ctx): PersonCaller,
    PathId(id): PathId<Team>,
    JsonBody(body): JsonBody<AddMember>,
) -> Result<(StatusCode, Json<Member>), ApiError> {
    Ok((StatusCode::CREATED, Json(app.control.member_add(&ctx, id, &body.email).await?.into())))
}

/// Makes a member an admin, or the reverse. For the team's admins and owner; the owner keeps their role.
#[utoipa::path(
    patch,
    path = "/{id}/members/{user_id}",
    operation_id = "change_member",
    tag = "teams",
    params(
        ("id" = String, Path, description = "The team's id, `team-...`"),
        ("user_id" = String, Path, description = "The member's id, `usr-...`"),
    ),
    request_body = ChangeMember,
    responses((status = 200, description = "The member", body = Member), PeopleRefusals),
    security(("bearer" = [])),
)]
pub(crate) async fn change_member(
    State(app): State<AppState>,
    PersonCaller(ctx): PersonCaller,
    PathIds(id, user): PathIds<Team, User>,
    JsonBody(body): JsonBody<ChangeMember>,
) -> Result<Json<Member>, ApiError> {
    Ok(Json(app.control.member_set_role(&ctx, id, user, body.role.into()).await?.into()))
}

/// Takes a member out of the team, and revokes the keys that they made. For the team's admins and owner.
#[utoipa::path(
    delete,
    path = "/{id}/members/{user_id}",
    operation_id = "remove_member",
    tag = "teams",
    params(
        ("id" = String, Path, description = "The team's id, `team-...`"),
        ("user_id" = String, Path, description = "The member's id, `usr-...`"),
    ),
    responses((status = 204, description = "They are out"), PeopleRefusals),
    security(("bearer" = [])),
)]
pub(crate) async fn remove_member(
    State(app): State<AppState>,
    PersonCaller(ctx): PersonCaller,
    PathIds(id, user): PathIds<Team, User>,
) -> Result<StatusCode, ApiError> {
    app.control.member_remove(&ctx, id, user).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// The caller leaves the team. The owner cannot, and nobody their last team.
#[utoipa::path(
    post,
    path = "/{id}/leave",
    operation_id = "leave_team",
    tag = "teams",
    params(("id" = String, Path, description = "The team's id, `team-...`")),
    responses((status = 204, description = "They are out"), PeopleRefusals),
    security(("bearer" = [])),
)]
pub(crate) async fn leave_team(
    State(app): State<AppState>,
    PersonCaller(ctx): PersonCaller,
    PathId(id): PathId<Team>,
) -> Result<StatusCode, ApiError> {
    app.control.team_leave(&ctx, id).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// The owner makes a member the owner, and becomes an admin.
#[utoipa::path(
    post,
    path = "/{id}/transfer",
    operation_id = "transfer_team",
    tag = "teams",
    params(("id" = String, Path, description = "The team's id, `team-...`")),
    request_body = TransferTeam,
    responses((status = 200, description = "The new owner", body = Member), PeopleRefusals),
    security(("bearer" = [])),
)]
pub(crate) async fn transfer_team(
    State(app): State<AppState>,
    PersonCaller(ctx): PersonCaller,
    PathId(id): PathId<Team>,
    JsonBody(body): JsonBody<TransferTeam>,
) -> Result<Json<Member>, ApiError> {
    Ok(Json(app.control.team_transfer(&ctx, id, body.user_id).await?.into()))
}
