//! Who asks: from a request's credential to an [`OpContext`].

use axum::extract::FromRequestParts;
use axum::http::request::Parts;
use axum::http::{HeaderName, header};
use sandbar_control::auth::AuthError;
use sandbar_control::{Actor, OpContext};
use sandbar_types::ErrorCode;

use crate::AppState;
use crate::browser;
use crate::error::ApiError;
use crate::request::RequestId;

/// A team's key.
const X_API_KEY: HeaderName = HeaderName::from_static("x-api-key");
/// A host's JWT.
const X_HOST_TOKEN: HeaderName = HeaderName::from_static("x-host-token");

/// A caller with a valid API key or a valid token of a sign-in. The key counts where both are sent, the cookie of a browser last.
pub(crate) struct Caller(pub(crate) OpContext);

impl FromRequestParts<AppState> for Caller {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, app: &AppState) -> Result<Self, ApiError> {
        let actor = if parts.headers.contains_key(&X_API_KEY) {
            app.control.authenticate_api_key(&credential(parts, &X_API_KEY)?).await?
        } else if let Some(token) = person_token(parts, app)? {
            app.control.authenticate_user(token).await?
        } else {
            let needed = "this needs the header X-API-Key, or Authorization: Bearer";
            return Err(ApiError::new(ErrorCode::Unauthorized, needed));
        };
        context(parts, app, actor).await.map(Self)
    }
}

/// A person who signed in: a caller with a valid token of a sign-in.
pub(crate) struct PersonCaller(pub(crate) OpContext);

impl FromRequestParts<AppState> for PersonCaller {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, app: &AppState) -> Result<Self, ApiError> {
        let token = person_token(parts, app)?.ok_or_else(|| {
            let needed = "this is for people who signed in: it needs the header Authorization: Bearer";
            ApiError::new(ErrorCode::Unauthorized, needed)
        })?;
        let actor = app.control.authenticate_user(token).await?;
        context(parts, app, actor).await.map(Self)
    }
}

/// A host agent with a valid token.
pub(crate) struct HostCaller(pub(crate) OpContext);

impl FromRequestParts<AppState> for HostCaller {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, app: &AppState) -> Result<Self, ApiError> {
        let token = credential(parts, &X_HOST_TOKEN)?;
        let actor = app.control.authenticate_host(&token).await?;
        context(parts, app, actor).await.map(Self)
    }
}

/// A caller whose credential is in the body, or who needs none.
pub(crate) struct AnonymousCaller(pub(crate) OpContext);

impl FromRequestParts<AppState> for AnonymousCaller {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, app: &AppState) -> Result<Self, ApiError> {
        context(parts, app, Actor::Anonymous).await.map(Self)
    }
}

/// The token of a sign-in: as programs send it, else as a browser does.
fn person_token<'a>(parts: &'a Parts, app: &AppState) -> Result<Option<&'a str>, ApiError> {
    match bearer(parts) {
        Some(token) => Ok(Some(token)),
        None => browser::token(parts, app),
    }
}

/// The token after `Authorization: Bearer`.
fn bearer(parts: &Parts) -> Option<&str> {
    let value = parts.headers.get(header::AUTHORIZATION)?.to_str().ok()?;
    let (scheme, token) = value.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then_some(token.trim())
}

fn credential(parts: &Parts, name: &HeaderName) -> Result<String, ApiError> {
    let value = parts
        .headers
        .get(name)
        .ok_or_else(|| ApiError::new(ErrorCode::Unauthorized, format!("this needs the header {name}")))?;
    // Text that cannot be a credential is refused as any wrong one is.
    value.to_str().map(str::to_owned).map_err(|_| AuthError::Invalid.into())
}

async fn context(parts: &mut Parts, app: &AppState, actor: Actor) -> Result<OpContext, ApiError> {
    let RequestId(id) = RequestId::from_request_parts(parts, app).await?;
    Ok(OpContext::new(id, actor))
}
