//! `GET /v1/users/search`.

use axum::Json;
use axum::extract::State;
use sandbar_types::Id;
use sandbar_types::id;
use serde::Serialize;
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::AppState;
use crate::auth::PersonCaller;
use crate::error::ApiError;
use crate::extract::QueryPairs;
use crate::schema::PeopleRefusals;

/// The routes, relative to where they are mounted.
pub(crate) fn routes() -> OpenApiRouter<AppState> {
    OpenApiRouter::new().routes(routes!(search_users))
}

/// Somebody who was found.
#[derive(Serialize, ToSchema)]
pub(crate) struct FoundUser {
    #[schema(value_type = String, example = "usr-0192f0c1-5c4e-7a3b-9d2e-3f4a5b6c7d8e")]
    user_id: Id<id::User>,
    email: String,
    name: String,
}

/// People whose address begins with a text, at most 10.
#[utoipa::path(
    get,
    path = "/search",
    operation_id = "search_users",
    tag = "users",
    params(("email" = String, Query, min_length = 3, description = "The beginning of an address, with its @")),
    responses((status = 200, description = "Who was found", body = Vec<FoundUser>), PeopleRefusals),
    security(("bearer" = [])),
)]
pub(crate) async fn search_users(
    State(app): State<AppState>,
    PersonCaller(ctx): PersonCaller,
    query: QueryPairs,
) -> Result<Json<Vec<FoundUser>>, ApiError> {
    let found = app.control.user_search(&ctx, query.one("email")?.unwrap_or_default()).await?;
    let user = |user: sandbar_control::people::User| FoundUser {
        user_id: user.id,
        email: user.email,
        name: user.name,
    };
    Ok(Json(found.into_iter().map(user).collect()))
}
