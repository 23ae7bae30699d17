//! Who asks: from a request's credential to an [`OpContext`].

use axum::extract::FromRequestParts;
use axum::http::request::Parts;
use axum::http::uri::Authority;
use axum::http::{HeaderMap, HeaderName, header};
use sandbar_control::auth::AuthError;
use sandbar_control::{Actor, OpContext};
use sandbar_types::ErrorCode;

use crate::AppState;
use crate::browser::may_open_socket;
use crate::cookie;
use crate::error::ApiError;
use crate::request::RequestId;

/// A team's key.
pub(crate) const X_API_KEY: HeaderName = HeaderName::from_static("x-api-key");
/// A host's JWT.
pub(crate) const X_HOST_TOKEN: HeaderName = HeaderName::from_static("x-host-token");
/// What is spoken over a WebSocket: the one protocol that is ever answered.
pub(crate) const SOCKET_PROTOCOL: &str = "sandbar.v1";
/// What a browser's page puts before its token, among the protocols that it offers.
const SOCKET_TOKEN: &str = "bearer.";

/// A caller with a valid API key or a valid token of a sign-in. The key counts where both are sent, the cookie of a browser last.
pub(crate) struct Caller(pub(crate) OpContext);

impl FromRequestParts<AppState> for Caller {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, app: &AppState) -> Result<Self, ApiError> {
        let actor = if parts.headers.contains_key(&X_API_KEY) {
            app.control.authenticate_api_key(&credential(parts, &X_API_KEY)?).await?
        } else if let Some(person) = person(parts, app).await? {
            person
        } else {
            let needed = "this needs the header X-API-Key, or Authorization: Bearer";
            return Err(ApiError::new(ErrorCode::Unauthorized, needed));
        };
        context(parts, app, actor).await.map(Self)
    }
}

/// As [`Caller`], of a WebSocket. A page cannot set headers: it offers the protocol `sandbar.v1` and, beside it, `bearer.TOKEN`. That counts
/// where there is no other credential, and for pages of one's own or an allowed origin.
pub(crate) struct SocketCaller(pub(crate) OpContext);

impl FromRequestParts<AppState> for SocketCaller {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, app: &AppState) -> Result<Self, ApiError> {
        let elsewhere = [&X_API_KEY, &header::AUTHORIZATION];
        let Some(token) = socket_token(&parts.headers)
            .filter(|_| !elsewhere.into_iter().any(|name| parts.headers.contains_key(name)))
        else {
            return Caller::from_request_parts(parts, app).await.map(|Caller(ctx)| Self(ctx));
        };
        let authority = parts.uri.authority().map(Authority::as_str);
        if !may_open_socket(&parts.headers, authority, &app.allowed_origins) {
            let message = "pages of this origin may not open WebSockets here";
            return Err(ApiError::new(ErrorCode::Forbidden, message));
        }
        if !socket_protocols(&parts.headers).any(|offered| offered == SOCKET_PROTOCOL) {
            let message =
                format!("offer the protocol {SOCKET_PROTOCOL} beside the token: only that is answered");
            return Err(ApiError::invalid(message));
        }
        let actor = app.control.authenticate_user(token).await?;
        context(parts, app, actor).await.map(Self)
    }
}

/// The protocols that a WebSocket's client offers.
fn socket_protocols(headers: &HeaderMap) -> impl Iterator<Item = &str> {
    let offered = headers.get_all(header::SEC_WEBSOCKET_PROTOCOL).iter();
    offered.filter_map(|value| value.to_str().ok()).flat_map(|value| value.split(',')).map(str::trim)
}

/// The token that a page offers among them.
pub(crate) fn socket_token(headers: &HeaderMap) -> Option<&str> {
    socket_protocols(headers).find_map(|offered| offered.strip_prefix(SOCKET_TOKEN))
}

/// A person who signed in: a caller with a valid token of a sign-in.
pub(crate) struct PersonCaller(pub(crate) OpContext);

impl FromRequestParts<AppState> for PersonCaller {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, app: &AppState) -> Result<Self, ApiError> {
        let actor = person(parts, app).await?.ok_or_else(|| {
            let needed = "this is for people who signed in: it needs the header Authorization: Bearer";
            ApiError::new(ErrorCode::Unauthorized, needed)
        })?;
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

/// Whose sign-in it is: by its token as programs send it, else as a browser does.
async fn person(parts: &Parts, app: &AppState) -> Result<Option<Actor>, ApiError> {
    if let Some(token) = bearer(parts) {
        return Ok(Some(app.control.authenticate_user(token).await?));
    }
    let Some(token) = cookie::token(parts, app)? else { return Ok(None) };
    let actor = app.control.authenticate_user(token).await?;
    cookie::shows_its_team(parts, &actor)?;
    Ok(Some(actor))
}

/// The token after `Authorization: Bearer`.
pub(crate) fn bearer(parts: &Parts) -> Option<&str> {
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
    let ctx = OpContext::new(id, actor);
    if let Ok(team) = ctx.team() {
        sandbar_trace::note("sandbar.team.id", team);
    }
    Ok(ctx)
}
