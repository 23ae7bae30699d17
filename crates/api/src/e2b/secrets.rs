//! `/secrets`: the team's secrets, by E2B's ids or by name. Their placeholders in headers (`${e2b.secrets.NAME}`) are resolved by nothing here:
//! a sandbox whose network rules transform headers is refused (`sandboxes/network.rs`).

use std::collections::BTreeMap;

use axum::Json;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};
use sandbar_control::team_secrets;
use serde::{Deserialize, Serialize};

use super::page;
use crate::AppState;
use crate::auth::Caller;
use crate::error::ApiError;
use crate::extract::{JsonBody, PathName, QueryPairs};
use crate::schema::Timestamp;
use crate::write_only::WriteOnly;

/// A secret, without its value.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Secret {
    #[serde(rename = "secretID")]
    secret_id: String,
    name: String,
    current_version: u32,
    metadata: BTreeMap<String, String>,
    created_at: Timestamp,
    updated_at: Timestamp,
}

#[derive(Deserialize)]
pub(super) struct NewSecret {
    name: String,
    value: WriteOnly,
    metadata: Option<BTreeMap<String, String>>,
}

#[derive(Deserialize)]
pub(super) struct SecretUpdate {
    value: WriteOnly,
    metadata: Option<BTreeMap<String, String>>,
}

impl From<team_secrets::Secret> for Secret {
    fn from(secret: team_secrets::Secret) -> Self {
        Self {
            secret_id: secret.id.e2b(),
            name: secret.name.to_string(),
            current_version: secret.version,
            metadata: secret.metadata,
            created_at: Timestamp(secret.created_at),
            updated_at: Timestamp(secret.updated_at),
        }
    }
}

pub(super) async fn list(
    State(app): State<AppState>,
    Caller(ctx): Caller,
    query: QueryPairs,
) -> Result<(HeaderMap, Json<Vec<Secret>>), ApiError> {
    let page = app.control.team_secret_list(&ctx, &page::request(&query)?).await?;
    Ok(page::answer(page, Secret::from))
}

pub(super) async fn create(
    State(app): State<AppState>,
    Caller(ctx): Caller,
    JsonBody(body): JsonBody<NewSecret>,
) -> Result<(StatusCode, Json<Secret>), ApiError> {
    let NewSecret { name, value: WriteOnly(value), metadata } = body;
    let metadata = metadata.unwrap_or_default();
    let made = app.control.team_secret_create(&ctx, &name, &value, &metadata).await?;
    Ok((StatusCode::CREATED, Json(made.into())))
}

pub(super) async fn one(
    State(app): State<AppState>,
    Caller(ctx): Caller,
    PathName(secret): PathName,
) -> Result<Json<Secret>, ApiError> {
    Ok(Json(app.control.team_secret_get(&ctx, &secret).await?.into()))
}

pub(super) async fn update(
    State(app): State<AppState>,
    Caller(ctx): Caller,
    PathName(secret): PathName,
    JsonBody(body): JsonBody<SecretUpdate>,
) -> Result<Json<Secret>, ApiError> {
    let SecretUpdate { value: WriteOnly(value), metadata } = body;
    Ok(Json(app.control.team_secret_set(&ctx, &secret, &value, metadata.as_ref()).await?.into()))
}

pub(super) async fn remove(
    State(app): State<AppState>,
    Caller(ctx): Caller,
    PathName(secret): PathName,
) -> Result<StatusCode, ApiError> {
    app.control.team_secret_delete(&ctx, &secret).await?;
    Ok(StatusCode::NO_CONTENT)
}
