//! `/v1/auth/oauth`: signing in at another provider. What a browser keeps between the steps is in cookies: over TLS in such as only this
//! very host can have set, since a page of a sandbox below its name could else slip its own under it.

use std::str::FromStr;
use std::time::Duration;

use axum::Json;
use axum::extract::State;
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use sandbar_control::oauth::{Begun, CallbackQuery, Finished, Intent};
use sandbar_types::cookie::{Cookie, OAUTH_BINDING, OAUTH_STATE};
use secrecy::{ExposeSecret as _, SecretString};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::SignIn;
use crate::AppState;
use crate::auth::AnonymousCaller;
use crate::client::{From, Scheme};
use crate::cookie::{Delivery, cookie, cookie_name};
use crate::error::ApiError;
use crate::extract::{JsonBody, PathName, QueryPairs};
use crate::schema::{OAuthRefusals, PeopleRefusals};

/// Where a browser sends them over plain HTTP. Those over TLS must be for the whole host.
const COOKIE_PATH: &str = "/v1/auth/oauth";

/// The routes, relative to where they are mounted.
pub(crate) fn routes() -> OpenApiRouter<AppState> {
    OpenApiRouter::new()
        .routes(routes!(list_oauth_providers))
        .routes(routes!(begin_oauth))
        .routes(routes!(finish_oauth))
        .routes(routes!(exchange_oauth_code))
}

/// Where people may sign in.
#[derive(Serialize, ToSchema)]
pub(crate) struct OAuthProvider {
    /// For URLs.
    #[schema(example = "github")]
    name: String,
    /// For people.
    #[schema(example = "GitHub")]
    label: String,
}

/// What a page exchanges.
#[derive(Deserialize, ToSchema)]
pub(crate) struct OAuthCode {
    /// From the fragment of the page's address; one use, a minute.
    #[schema(value_type = String)]
    code: SecretString,
}

struct IntentWord(Intent);

impl FromStr for IntentWord {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "login" => Ok(Self(Intent::SignIn)),
            "signup" => Ok(Self(Intent::SignUp)),
            _ => Err("login or signup"),
        }
    }
}

/// The providers that people may sign in at.
#[utoipa::path(
    get,
    path = "",
    operation_id = "list_oauth_providers",
    tag = "auth",
    responses((status = 200, description = "All of them", body = Vec<OAuthProvider>), PeopleRefusals),
    security(()),
)]
pub(crate) async fn list_oauth_providers(State(app): State<AppState>) -> Json<Vec<OAuthProvider>> {
    let providers = app.control.oauth_providers().into_iter();
    Json(providers.map(|info| OAuthProvider { name: info.name, label: info.label }).collect())
}

/// Sends the browser to a provider, to sign in or up.
#[utoipa::path(
    get,
    path = "/{provider}",
    operation_id = "begin_oauth",
    tag = "auth",
    params(
        ("provider" = String, Path, description = "The provider's name"),
        ("intent" = Option<String>, Query, description = "`login` (by default) or `signup`: who wants the one does not get the other"),
    ),
    responses(
        (status = 302, description = "To the provider", headers(("Location" = String))),
        OAuthRefusals,
    ),
    security(()),
)]
pub(crate) async fn begin_oauth(
    State(app): State<AppState>,
    From(client): From,
    scheme: Scheme,
    PathName(provider): PathName,
    query: QueryPairs,
) -> Result<(StatusCode, HeaderMap), ApiError> {
    let IntentWord(intent) = query.parse("intent")?.unwrap_or(IntentWord(Intent::SignIn));
    let begun = app.control.oauth_begin(&provider, intent, &client).await?;
    let mut headers = state_cookie(&begun, scheme)?;
    headers.insert(header::LOCATION, text(&begun.location)?);
    Ok((StatusCode::FOUND, headers))
}

/// Where a provider sends the browser back to; it goes on to the page `/login`, with `code`, `linked` or `error` in the fragment.
#[utoipa::path(
    get,
    path = "/{provider}/callback",
    operation_id = "finish_oauth",
    tag = "auth",
    params(
        ("provider" = String, Path, description = "The provider's name"),
        ("code" = Option<String>, Query, description = "The provider's code"),
        ("state" = Option<String>, Query, description = "As it went out"),
        ("error" = Option<String>, Query, description = "Why there is no code"),
    ),
    responses(
        (status = 302, description = "To the page", headers(("Location" = String))),
        OAuthRefusals,
    ),
    security(()),
)]
pub(crate) async fn finish_oauth(
    State(app): State<AppState>,
    AnonymousCaller(ctx): AnonymousCaller,
    From(client): From,
    scheme: Scheme,
    PathName(provider): PathName,
    headers: HeaderMap,
    query: QueryPairs,
) -> Result<(StatusCode, HeaderMap), ApiError> {
    let given = |name| query.one(name).map(|value| value.map(str::to_owned));
    let query = CallbackQuery { code: given("code")?, state: given("state")?, error: given("error")? };
    let cookie = cookie(&headers, cookie_name(OAUTH_STATE, scheme));
    let finished = app.control.oauth_finish(&ctx, &provider, cookie, &query, &client).await?;
    let Finished { location, binding, binding_life, failed } = finished;
    if let Some(error) = failed {
        tracing::info!(provider, error = &error as &dyn std::error::Error, "a sign-in at a provider failed");
    }
    let mut headers = HeaderMap::new();
    headers.insert(header::LOCATION, text(&location)?);
    headers.append(header::SET_COOKIE, set_cookie(OAUTH_STATE, scheme, "", Duration::ZERO)?);
    if let Some(binding) = binding {
        let binding = set_cookie(OAUTH_BINDING, scheme, binding.expose_secret(), binding_life)?;
        headers.append(header::SET_COOKIE, binding);
    }
    Ok((StatusCode::FOUND, headers))
}

/// The token for the code that a page came back with. Only the browser that signed in can do so.
#[utoipa::path(
    post,
    path = "/exchange",
    operation_id = "exchange_oauth_code",
    tag = "auth",
    request_body = OAuthCode,
    responses((status = 200, description = "Signed in", body = SignIn), PeopleRefusals),
    security(()),
)]
pub(crate) async fn exchange_oauth_code(
    State(app): State<AppState>,
    From(client): From,
    scheme: Scheme,
    delivery: Delivery,
    headers: HeaderMap,
    JsonBody(body): JsonBody<OAuthCode>,
) -> Result<(HeaderMap, Json<SignIn>), ApiError> {
    let binding = cookie(&headers, cookie_name(OAUTH_BINDING, scheme)).map(SecretString::from);
    delivery.answer(app.control.oauth_exchange(&body.code, binding.as_ref(), &client).await?)
}

/// The cookie that a browser keeps until it is back.
pub(crate) fn state_cookie(begun: &Begun, scheme: Scheme) -> Result<HeaderMap, ApiError> {
    let cookie = set_cookie(OAUTH_STATE, scheme, &begun.state, begun.state_life)?;
    Ok(HeaderMap::from_iter([(header::SET_COOKIE, cookie)]))
}

fn set_cookie(cookie: Cookie, scheme: Scheme, value: &str, life: Duration) -> Result<HeaderValue, ApiError> {
    let (path, secure) = match scheme {
        Scheme::Https => ("/", "; Secure"),
        Scheme::Http => (COOKIE_PATH, ""),
    };
    let (name, seconds) = (cookie_name(cookie, scheme), life.as_secs());
    text(&format!("{name}={value}; Path={path}; Max-Age={seconds}; HttpOnly; SameSite=Lax{secure}"))
}

fn text(value: &str) -> Result<HeaderValue, ApiError> {
    HeaderValue::from_str(value)
        .map_err(|error| ApiError::from_typed(sandbar_types::ErrorCode::InternalError, error))
}
