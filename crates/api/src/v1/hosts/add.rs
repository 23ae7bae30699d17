//! `POST /v1/hosts` and `POST /v1/hosts/{id}/token`.

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use sandbar_control::hosts::{CreatedHost, HostKind, NewHost};
use sandbar_types::id;
use secrecy::{ExposeSecret as _, SecretString};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::Host;
use crate::AppState;
use crate::auth::PersonCaller;
use crate::error::ApiError;
use crate::extract::{JsonBody, PathId};
use crate::schema::FleetRefusals;

/// A host to be.
#[derive(Debug, Deserialize, ToSchema)]
#[schema(as = NewHost)]
pub(crate) struct AddHost {
    /// `regular` = everybody's, for the platform's administrators; `byoc` = the own one of the team that is acted for.
    #[serde(rename = "type", default)]
    #[schema(schema_with = crate::schema::host_kind)]
    kind: HostKind,
    #[schema(max_length = 128)]
    provider: Option<String>,
    #[schema(max_length = 128)]
    availability_zone: Option<String>,
}

/// A host that waits for its agent.
#[derive(Serialize, ToSchema)]
pub(crate) struct AddedHost {
    host: Host,
    /// What its agent registers with: one use, one hour. Shown once.
    registration_token: String,
}

/// What a host's agent registers with.
#[derive(Serialize, ToSchema)]
pub(crate) struct RegistrationToken {
    /// One use, one hour. Shown once.
    registration_token: String,
}

/// Adds a host: the platform's, or the team's own.
#[utoipa::path(
    post,
    path = "",
    operation_id = "add_host",
    tag = "hosts",
    request_body = AddHost,
    responses((status = 201, description = "It waits for its agent", body = AddedHost), FleetRefusals),
    security(("bearer" = [])),
)]
pub(crate) async fn add_host(
    State(app): State<AppState>,
    PersonCaller(ctx): PersonCaller,
    JsonBody(body): JsonBody<AddHost>,
) -> Result<(StatusCode, Json<AddedHost>), ApiError> {
    let AddHost { kind, provider, availability_zone } = body;
    let new = NewHost { kind, provider, availability_zone };
    let CreatedHost { host, registration_token } = app.control.host_create(&ctx, &new).await?;
    let answer = AddedHost { host: host.into(), registration_token: shown(&registration_token) };
    Ok((StatusCode::CREATED, Json(answer)))
}

/// A new registration token, also for a host that lost its credentials: those that it has are void once the token is used. Its
/// sandboxes stay.
#[utoipa::path(
    post,
    path = "/{id}/token",
    operation_id = "issue_host_token",
    tag = "hosts",
    params(("id" = String, Path, description = "The host's id, `host-...`")),
    responses((status = 201, description = "The token", body = RegistrationToken), FleetRefusals),
    security(("bearer" = [])),
)]
pub(crate) async fn issue_host_token(
    State(app): State<AppState>,
    PersonCaller(ctx): PersonCaller,
    PathId(id): PathId<id::Host>,
) -> Result<(StatusCode, Json<RegistrationToken>), ApiError> {
    let token = app.control.host_issue_token(&ctx, id).await?;
    Ok((StatusCode::CREATED, Json(RegistrationToken { registration_token: shown(&token) })))
}

fn shown(token: &SecretString) -> String {
    token.expose_secret().to_owned()
}
