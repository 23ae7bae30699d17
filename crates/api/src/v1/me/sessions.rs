//! `/v1/me/sessions`: where somebody is signed in.

use std::net::IpAddr;

use axum::Json;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};
use sandbar_control::people;
use sandbar_types::{Id, id};
use serde::Serialize;
use utoipa::ToSchema;

use crate::AppState;
use crate::auth::PersonCaller;
use crate::error::ApiError;
use crate::extract::{PathId, QueryPairs};
use crate::page::{self, PageParams};
use crate::schema::{PeopleRefusals, Timestamp};

/// A sign-in that counts.
#[derive(Serialize, ToSchema)]
pub(crate) struct Session {
    #[schema(value_type = String, example = "ses-0192f0c1-5c4e-7a3b-9d2e-3f4a5b6c7d8e")]
    id: Id<id::Session>,
    /// Whether it is the one that asks.
    current: bool,
    user_agent: String,
    /// Where it was begun.
    #[schema(value_type = Option<String>)]
    address: Option<IpAddr>,
    created_at: Timestamp,
    /// To half a minute.
    last_used_at: Timestamp,
    expires_at: Timestamp,
}

impl From<people::Session> for Session {
    fn from(session: people::Session) -> Self {
        let people::Session { id, is_current, user_agent, address, created_at, last_used_at, expires_at } =
            session;
        Self {
            id,
            current: is_current,
            user_agent,
            address,
            created_at: Timestamp(created_at),
            last_used_at: Timestamp(last_used_at),
            expires_at: Timestamp(expires_at),
        }
    }
}

/// The caller's sign-ins, newest first.
#[utoipa::path(
    get,
    path = "/sessions",
    operation_id = "list_sessions",
    tag = "me",
    params(PageParams),
    responses(
        (status = 200, description = "One page", body = Vec<Session>,
            headers(("X-Next-Cursor" = String, description = "Names the next page; absent on the last one"))),
        PeopleRefusals,
    ),
    security(("bearer" = [])),
)]
pub(crate) async fn list_sessions(
    State(app): State<AppState>,
    PersonCaller(ctx): PersonCaller,
    query: QueryPairs,
) -> Result<(HeaderMap, Json<Vec<Session>>), ApiError> {
    let page = app.control.session_list(&ctx, &page::request(&query)?).await?;
    Ok(page::answer(page, Session::from))
}

/// Ends one of the caller's sign-ins.
#[utoipa::path(
    delete,
    path = "/sessions/{id}",
    operation_id = "end_session",
    tag = "me",
    params(("id" = String, Path, description = "The session's id, `ses-...`")),
    responses((status = 204, description = "It is ended"), PeopleRefusals),
    security(("bearer" = [])),
)]
pub(crate) async fn end_session(
    State(app): State<AppState>,
    PersonCaller(ctx): PersonCaller,
    PathId(id): PathId<id::Session>,
) -> Result<StatusCode, ApiError> {
    app.control.session_end(&ctx, id).await?;
    Ok(StatusCode::NO_CONTENT)
}
