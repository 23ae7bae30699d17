//! `/v1/me/identities`: the caller's identities at other providers.

use axum::Json;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};
use sandbar_control::oauth;
use serde::Serialize;
use utoipa::ToSchema;

use crate::AppState;
use crate::auth::PersonCaller;
use crate::client::Scheme;
use crate::error::ApiError;
use crate::extract::PathName;
use crate::schema::{OAuthRefusals, PeopleRefusals, Timestamp};
use crate::v1::auth::oauth::state_cookie;

/// An identity at a provider.
#[derive(Serialize, ToSchema)]
pub(crate) struct Identity {
    #[schema(example = "github")]
    provider: String,
    /// The address that the provider told; empty where it had not verified it.
    email: String,
    created_at: Timestamp,
}

/// Where to go on.
#[derive(Serialize, ToSchema)]
pub(crate) struct LinkBegun {
    /// The browser is to go there, with the cookie that came along.
    location: String,
}

impl From<oauth::Identity> for Identity {
    fn from(identity: oauth::Identity) -> Self {
        let oauth::Identity { provider, email, created_at } = identity;
        Self { provider, email, created_at: Timestamp(created_at) }
    }
}

/// The caller's identities.
#[utoipa::path(
    get,
    path = "/identities",
    operation_id = "list_identities",
    tag = "me",
    responses((status = 200, description = "All of them", body = Vec<Identity>), PeopleRefusals),
    security(("bearer" = [])),
)]
pub(crate) async fn list_identities(
    State(app): State<AppState>,
    PersonCaller(ctx): PersonCaller,
) -> Result<Json<Vec<Identity>>, ApiError> {
    let identities = app.control.identity_list(&ctx).await?;
    Ok(Json(identities.into_iter().map(Identity::from).collect()))
}

/// Begins to link an identity: from then on the caller can sign in by it.
#[utoipa::path(
    post,
    path = "/identities/{provider}",
    operation_id = "link_identity",
    tag = "me",
    params(("provider" = String, Path, description = "The provider's name")),
    responses((status = 200, description = "Where to go on", body = LinkBegun), OAuthRefusals),
    security(("bearer" = [])),
)]
pub(crate) async fn link_identity(
    State(app): State<AppState>,
    PersonCaller(ctx): PersonCaller,
    scheme: Scheme,
    PathName(provider): PathName,
) -> Result<(HeaderMap, Json<LinkBegun>), ApiError> {
    let begun = app.control.oauth_begin_link(&ctx, &provider).await?;
    Ok((state_cookie(&begun, scheme)?, Json(LinkBegun { location: begun.location })))
}

/// Ends the sign-in by an identity, unless it is the only way in.
#[utoipa::path(
    delete,
    path = "/identities/{provider}",
    operation_id = "unlink_identity",
    tag = "me",
    params(("provider" = String, Path, description = "The provider's name")),
    responses((status = 204, description = "It is unlinked"), PeopleRefusals),
    security(("bearer" = [])),
)]
pub(crate) async fn unlink_identity(
    State(app): State<AppState>,
    PersonCaller(ctx): PersonCaller,
    PathName(provider): PathName,
) -> Result<StatusCode, ApiError> {
    app.control.identity_unlink(&ctx, &provider).await?;
    Ok(StatusCode::NO_CONTENT)
}
