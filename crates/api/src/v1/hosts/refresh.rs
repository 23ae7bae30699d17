//! `POST /v1/hosts/auth/refresh`.

use axum::Json;
use axum::extract::State;
use sandbar_control::hosts::{Refresh, Refreshed};
use sandbar_types::{Id, id};
use secrecy::SecretString;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::HostCredentials;
use crate::AppState;
use crate::auth::AnonymousCaller;
use crate::error::ApiError;
use crate::extract::JsonBody;
use crate::schema::HostRefusals;

/// What an agent shows for new credentials.
#[derive(Debug, Deserialize, ToSchema)]
pub(crate) struct RefreshHost {
    #[schema(value_type = String)]
    refresh_token: SecretString,
    /// A certificate signing request in PEM, of the key that the agent will serve with from now on.
    csr: String,
}

/// New credentials.
#[derive(Serialize, ToSchema)]
pub(crate) struct RefreshedHost {
    #[schema(value_type = String)]
    host_id: Id<id::Host>,
    #[serde(flatten)]
    credentials: HostCredentials,
}

/// New credentials for a refresh token, which is replaced. It works once more for five minutes, for the case that this answer is lost;
/// any other use of a replaced one ends all credentials of the host.
#[utoipa::path(
    post,
    path = "/auth/refresh",
    operation_id = "refresh_host",
    tag = "hosts",
    request_body = RefreshHost,
    responses((status = 200, description = "The new ones", body = RefreshedHost), HostRefusals),
    security(()),
)]
pub(crate) async fn refresh_host(
    State(app): State<AppState>,
    AnonymousCaller(ctx): AnonymousCaller,
    JsonBody(body): JsonBody<RefreshHost>,
) -> Result<Json<RefreshedHost>, ApiError> {
    let RefreshHost { refresh_token, csr } = body;
    let Refreshed { host_id, credentials } =
        app.control.host_refresh(&ctx, &Refresh { refresh_token, csr }).await?;
    Ok(Json(RefreshedHost { host_id, credentials: credentials.into() }))
}
