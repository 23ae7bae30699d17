//! `/v1/secrets`: secrets of the team that is acted for.

use std::collections::BTreeMap;

use axum::Json;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};
use sandbar_control::team_secrets;
use sandbar_types::id::User;
use sandbar_types::{Id, id};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::AppState;
use crate::auth::Caller;
use crate::error::ApiError;
use crate::extract::{JsonBody, PathName, QueryPairs};
use crate::page::{self, PageParams};
use crate::schema::{PeopleRefusals, Timestamp};
use crate::write_only::WriteOnly;

/// The routes, relative to where they are mounted.
pub(crate) fn routes() -> OpenApiRouter<AppState> {
    OpenApiRouter::new().routes(routes!(list_secrets, create_secret)).routes(routes!(
        get_secret,
        set_secret,
        delete_secret
    ))
}

/// A secret, without its value, which no answer has.
#[derive(Serialize, ToSchema)]
pub(crate) struct Secret {
    #[schema(value_type = String, example = "sec-0192f0c1-5c4e-7a3b-9d2e-3f4a5b6c7d8e")]
    id: Id<id::Secret>,
    #[schema(example = "openai-api-key")]
    name: String,
    /// How often it was given a value.
    version: u32,
    metadata: BTreeMap<String, String>,
    /// None where one of the team's keys made it.
    #[schema(value_type = Option<String>)]
    created_by: Option<Id<User>>,
    creator_email: Option<String>,
    created_at: Timestamp,
    /// When it was given its value.
    updated_at: Timestamp,
}

/// A secret to be.
#[derive(Deserialize, ToSchema)]
pub(crate) struct CreateSecret {
    /// Letters, digits, dots, underscores and dashes; capital letters are taken as small ones.
    #[schema(min_length = 1, max_length = 128)]
    name: String,
    #[schema(schema_with = crate::write_only::schema)]
    value: WriteOnly,
    /// Words of your own about it.
    metadata: Option<BTreeMap<String, String>>,
}

/// A secret's next version.
#[derive(Deserialize, ToSchema)]
pub(crate) struct SetSecret {
    #[schema(schema_with = crate::write_only::schema)]
    value: WriteOnly,
    /// Replaces what there is, where it is given.
    metadata: Option<BTreeMap<String, String>>,
}

impl From<team_secrets::Secret> for Secret {
    fn from(secret: team_secrets::Secret) -> Self {
        let team_secrets::Secret {
            id,
            name,
            version,
            metadata,
            created_by,
            creator_email,
            created_at,
            updated_at,
        } = secret;
        Self {
            id,
            name: name.to_string(),
            version,
            metadata,
            created_by,
            creator_email,
            created_at: Timestamp(created_at),
            updated_at: Timestamp(updated_at),
        }
    }
}

/// The team's secrets, newest first.
#[utoipa::path(
    get,
    path = "",
    operation_id = "list_secrets",
    tag = "secrets",
    params(PageParams),
    responses(
        (status = 200, description = "One page", body = Vec<Secret>,
            headers(("X-Next-Cursor" = String, description = "Names the next page; absent on the last one"))),
        PeopleRefusals,
    ),
    security(("api_key" = [])),
)]
pub(crate) async fn list_secrets(
    State(app): State<AppState>,
    Caller(ctx): Caller,
    query: QueryPairs,
) -> Result<(HeaderMap, Json<Vec<Secret>>), ApiError> {
    let page = app.control.team_secret_list(&ctx, &page::request(&query)?).await?;
    Ok(page::answer(page, Secret::from))
}

/// Makes a secret, whose value nobody reads again: sandboxes that are made with it have it in their environment.
#[utoipa::path(
    post,
    path = "",
    operation_id = "create_secret",
    tag = "secrets",
    request_body = CreateSecret,
    responses((status = 201, description = "The secret", body = Secret), PeopleRefusals),
    security(("api_key" = [])),
)]
pub(crate) async fn create_secret(
    State(app): State<AppState>,
    Caller(ctx): Caller,
    JsonBody(body): JsonBody<CreateSecret>,
) -> Result<(StatusCode, Json<Secret>), ApiError> {
    let CreateSecret { name, value: WriteOnly(value), metadata } = body;
    let metadata = metadata.unwrap_or_default();
    let made = app.control.team_secret_create(&ctx, &name, &value, &metadata).await?;
    Ok((StatusCode::CREATED, Json(made.into())))
}

/// A secret, by its name or id.
#[utoipa::path(
    get,
    path = "/{id}",
    operation_id = "get_secret",
    tag = "secrets",
    params(("id" = String, Path, description = "The secret's name, or its id, `sec-...`")),
    responses((status = 200, description = "The secret", body = Secret), PeopleRefusals),
    security(("api_key" = [])),
)]
pub(crate) async fn get_secret(
    State(app): State<AppState>,
    Caller(ctx): Caller,
    PathName(secret): PathName,
) -> Result<Json<Secret>, ApiError> {
    Ok(Json(app.control.team_secret_get(&ctx, &secret).await?.into()))
}

/// Gives a secret another value, for sandboxes that are made from now on: an admin and the team's keys any, others what they made.
#[utoipa::path(
    put,
    path = "/{id}",
    operation_id = "set_secret",
    tag = "secrets",
    params(("id" = String, Path, description = "The secret's name, or its id, `sec-...`")),
    request_body = SetSecret,
    responses((status = 200, description = "The secret", body = Secret), PeopleRefusals),
    security(("api_key" = [])),
)]
pub(crate) async fn set_secret(
    State(app): State<AppState>,
    Caller(ctx): Caller,
    PathName(secret): PathName,
    JsonBody(body): JsonBody<SetSecret>,
) -> Result<Json<Secret>, ApiError> {
    let SetSecret { value: WriteOnly(value), metadata } = body;
    Ok(Json(app.control.team_secret_set(&ctx, &secret, &value, metadata.as_ref()).await?.into()))
}

/// Deletes a secret and its value: an admin and the team's keys any, others what they made. Sandboxes that were given it keep their copies.
#[utoipa::path(
    delete,
    path = "/{id}",
    operation_id = "delete_secret",
    tag = "secrets",
    params(("id" = String, Path, description = "The secret's name, or its id, `sec-...`")),
    responses((status = 204, description = "It is gone"), PeopleRefusals),
    security(("api_key" = [])),
)]
pub(crate) async fn delete_secret(
    State(app): State<AppState>,
    Caller(ctx): Caller,
    PathName(secret): PathName,
) -> Result<StatusCode, ApiError> {
    app.control.team_secret_delete(&ctx, &secret).await?;
    Ok(StatusCode::NO_CONTENT)
}
