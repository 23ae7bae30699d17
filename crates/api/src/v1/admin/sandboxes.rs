//! `GET /v1/admin/sandboxes`.

use axum::Json;
use axum::extract::State;
use axum::http::HeaderMap;

use crate::AppState;
use crate::auth::PersonCaller;
use crate::error::ApiError;
use crate::extract::QueryPairs;
use crate::page::{self, PageParams};
use crate::schema::PeopleRefusals;
use crate::v1::sandboxes::Sandbox;

/// The sandboxes of all teams, newest first. Those that have ended are shown only where `status` asks for them.
#[utoipa::path(
    get,
    path = "/sandboxes",
    operation_id = "admin_list_sandboxes",
    tag = "admin",
    params(
        ("team_id" = Option<String>, Query, description = "Only this team's"),
        ("status" = Option<String>, Query, description = "Only these states; comma separated or repeated"),
        PageParams,
    ),
    responses(
        (status = 200, description = "One page", body = Vec<Sandbox>,
            headers(("X-Next-Cursor" = String, description = "Names the next page; absent on the last one"))),
        PeopleRefusals,
    ),
    security(("bearer" = [])),
)]
pub(crate) async fn admin_list_sandboxes(
    State(app): State<AppState>,
    PersonCaller(ctx): PersonCaller,
    query: QueryPairs,
) -> Result<(HeaderMap, Json<Vec<Sandbox>>), ApiError> {
    let (team, status) = (query.parse("team_id")?, query.list("status")?);
    let page = app.control.admin_sandbox_list(&ctx, team, &status, &page::request(&query)?).await?;
    Ok(page::answer(page, Sandbox::from))
}
