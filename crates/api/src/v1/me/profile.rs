//! `GET` and `PATCH /v1/me`.

use axum::Json;
use axum::extract::State;
use sandbar_control::people::{PasswordChange, ProfileChange};
use secrecy::SecretString;
use serde::Deserialize;
use utoipa::ToSchema;

use super::{Profile, User};
use crate::AppState;
use crate::auth::PersonCaller;
use crate::error::ApiError;
use crate::extract::JsonBody;
use crate::schema::PeopleRefusals;

/// What to change; what is left out stays.
#[derive(Deserialize, ToSchema)]
pub(crate) struct ChangeProfile {
    #[schema(min_length = 1, max_length = 100)]
    name: Option<String>,
    /// Ends all other sign-ins.
    #[schema(value_type = Option<String>, min_length = 8, max_length = 1024, format = Password)]
    password: Option<SecretString>,
    /// The password until now; needed with `password` by whoever has one.
    #[schema(value_type = Option<String>, format = Password)]
    old_password: Option<SecretString>,
}

/// The person who asks.
#[utoipa::path(
    get,
    path = "",
    operation_id = "get_profile",
    tag = "me",
    responses((status = 200, description = "They", body = Profile), PeopleRefusals),
    security(("bearer" = [])),
)]
pub(crate) async fn get_profile(
    State(app): State<AppState>,
    PersonCaller(ctx): PersonCaller,
) -> Result<Json<Profile>, ApiError> {
    let user = app.control.profile(&ctx).await?.into();
    Ok(Json(Profile { user, team_id: ctx.team().ok() }))
}

/// Changes their name or password.
#[utoipa::path(
    patch,
    path = "",
    operation_id = "change_profile",
    tag = "me",
    request_body = ChangeProfile,
    responses((status = 200, description = "They, as they are now", body = User), PeopleRefusals),
    security(("bearer" = [])),
)]
pub(crate) async fn change_profile(
    State(app): State<AppState>,
    PersonCaller(ctx): PersonCaller,
    JsonBody(body): JsonBody<ChangeProfile>,
) -> Result<Json<User>, ApiError> {
    let ChangeProfile { name, password, old_password } = body;
    let password = password.map(|new| PasswordChange { old: old_password, new });
    Ok(Json(app.control.profile_change(&ctx, &ProfileChange { name, password }).await?.into()))
}
