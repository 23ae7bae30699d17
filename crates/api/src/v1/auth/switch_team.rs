//! `POST /v1/auth/switch-team`.

use axum::Json;
use axum::extract::State;
use axum::http::HeaderMap;
use sandbar_types::Id;
use sandbar_types::id::Team;
use serde::Deserialize;
use utoipa::ToSchema;

use super::SignIn;
use crate::AppState;
use crate::auth::PersonCaller;
use crate::cookie::Delivery;
use crate::error::ApiError;
use crate::extract::JsonBody;
use crate::schema::PeopleRefusals;

/// Which team to act for.
#[derive(Deserialize, ToSchema)]
pub(crate) struct SwitchTeam {
    #[schema(value_type = String, example = "team-0192f0c1-5c4e-7a3b-9d2e-3f4a5b6c7d8e")]
    team_id: Id<Team>,
}

/// A new token of the same sign-in, that acts for another team.
#[utoipa::path(
    post,
    path = "/switch-team",
    operation_id = "switch_team",
    tag = "auth",
    request_body = SwitchTeam,
    responses((status = 200, description = "The new token", body = SignIn), PeopleRefusals),
    security(("bearer" = [])),
)]
pub(crate) async fn switch_team(
    State(app): State<AppState>,
    PersonCaller(ctx): PersonCaller,
    delivery: Delivery,
    JsonBody(body): JsonBody<SwitchTeam>,
) -> Result<(HeaderMap, Json<SignIn>), ApiError> {
    delivery.answer(app.control.switch_team(&ctx, body.team_id).await?)
}
