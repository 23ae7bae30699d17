//! `/v1/api-keys`: keys of the team that is acted for.

use axum::Json;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};
use chrono::{DateTime, Utc};
use sandbar_control::api_keys;
use sandbar_types::id::{Team, User};
use sandbar_types::{Id, id};
use secrecy::ExposeSecret as _;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::AppState;
use crate::auth::PersonCaller;
use crate::error::ApiError;
use crate::extract::{JsonBody, PathId, QueryPairs};
use crate::page::{self, PageParams};
use crate::schema::{PeopleRefusals, Timestamp};

/// The routes, relative to where they are mounted.
pub(crate) fn routes() -> OpenApiRouter<AppState> {
    OpenApiRouter::new().routes(routes!(list_api_keys, create_api_key)).routes(routes!(revoke_api_key))
}

/// A key, without what it opens with.
#[derive(Serialize, ToSchema)]
pub(crate) struct ApiKey {
    #[schema(value_type = String, example = "key-0192f0c1-5c4e-7a3b-9d2e-3f4a5b6c7d8e")]
    id: Id<id::ApiKey>,
    #[schema(value_type = String)]
    team_id: Id<Team>,
    name: String,
    /// Its first characters, to tell keys apart.
    #[schema(example = "e2b_0123abcd")]
    key_prefix: String,
    #[schema(value_type = Option<String>)]
    created_by: Option<Id<User>>,
    creator_email: Option<String>,
    created_at: Timestamp,
    /// To half a minute.
    last_used: Option<Timestamp>,
    #[serde(skip_serializing_if = "Option::is_none")]
    expires_at: Option<Timestamp>,
}

/// A key that was just made.
#[derive(Serialize, ToSchema)]
pub(crate) struct CreatedApiKey {
    #[serde(flatten)]
    api_key: ApiKey,
    /// The key itself. Shown this once.
    key: String,
}

/// A key to be.
#[derive(Deserialize, ToSchema)]
pub(crate) struct CreateApiKey {
    #[schema(min_length = 1, max_length = 100)]
    name: String,
    /// When it stops to work; without it, it works until it is revoked.
    expires_at: Option<DateTime<Utc>>,
}

impl From<api_keys::ApiKey> for ApiKey {
    fn from(key: api_keys::ApiKey) -> Self {
        let api_keys::ApiKey {
            id,
            team_id,
            name,
            key_prefix,
            created_by,
            creator_email,
            created_at,
            last_used_at,
            expires_at,
        } = key;
        Self {
            id,
            team_id,
            name,
            key_prefix,
            created_by,
            creator_email,
            created_at: Timestamp(created_at),
            last_used: last_used_at.map(Timestamp),
            expires_at: expires_at.map(Timestamp),
        }
    }
}

/// The team's keys, newest first.
#[utoipa::path(
    get,
    path = "",
    operation_id = "list_api_keys",
    tag = "api-keys",
    params(PageParams),
    responses(
        (status = 200, description = "One page", body = Vec<ApiKey>,
            headers(("X-Next-Cursor" = String, description = "Names the next page; absent on the last one"))),
        PeopleRefusals,
    ),
    security(("bearer" = [])),
)]
pub(crate) async fn list_api_keys(
    State(app): State<AppState>,
    PersonCaller(ctx): PersonCaller,
    query: QueryPairs,
) -> Result<(HeaderMap, Json<Vec<ApiKey>>), ApiError> {
    let page = app.control.api_key_list(&ctx, &page::request(&query)?).await?;
    Ok(page::answer(page, ApiKey::from))
}

/// Makes a key. It ends when it expires, is revoked, its maker leaves the team, or the team is deleted.
#[utoipa::path(
    post,
    path = "",
    operation_id = "create_api_key",
    tag = "api-keys",
    request_body = CreateApiKey,
    responses((status = 201, description = "The key", body = CreatedApiKey), PeopleRefusals),
    security(("bearer" = [])),
)]
pub(crate) async fn create_api_key(
    State(app): State<AppState>,
    PersonCaller(ctx): PersonCaller,
    JsonBody(body): JsonBody<CreateApiKey>,
) -> Result<(StatusCode, Json<CreatedApiKey>), ApiError> {
    let CreateApiKey { name, expires_at } = body;
    let api_keys::CreatedKey { key, secret } = app.control.api_key_create(&ctx, &name, expires_at).await?;
    let answer = CreatedApiKey { api_key: key.into(), key: secret.expose_secret().to_owned() };
    Ok((StatusCode::CREATED, Json(answer)))
}

/// Revokes a key, from the next request on: an admin any, others what they made.
#[utoipa::path(
    delete,
    path = "/{id}",
    operation_id = "revoke_api_key",
    tag = "api-keys",
    params(("id" = String, Path, description = "The key's id, `key-...`")),
    responses((status = 204, description = "It is revoked"), PeopleRefusals),
    security(("bearer" = [])),
)]
pub(crate) async fn revoke_api_key(
    State(app): State<AppState>,
    PersonCaller(ctx): PersonCaller,
    PathId(id): PathId<id::ApiKey>,
) -> Result<StatusCode, ApiError> {
    app.control.api_key_revoke(&ctx, id).await?;
    Ok(StatusCode::NO_CONTENT)
}
