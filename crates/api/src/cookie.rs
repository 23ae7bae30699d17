//! A browser's session: the token of a sign-in, in a cookie that no script can read, and the proof that our own page sent it.
//!
//! A browser sends a cookie along with whatever any page makes it send, so the cookie alone says nothing about who asks. It counts where
//!
//! - `Sec-Fetch-Site`, if the browser sends it, names no other origin. Pages of sandboxes, at names below ours, are others;
//! - `Origin`, if it is sent, is where the request went to. A WebSocket must bring it, since it can bring nothing else;
//! - a request that may change something has the header `X-Sandbar-Page`: no form can send it, and another origin's script only after
//!   a preflight, which is never answered.
//!
//! Tabs share a cookie, so one of them may have chosen another team than a second one shows. What a page sends with `X-Sandbar-Team` is
//! refused where the token acts for another team than that.
//!
//! The header `X-Sandbar-Page` on a sign-in asks for the cookie in place of the token. A credential in a header of its own needs none of this, and
//! counts before the cookie.

use std::convert::Infallible;

use axum::Json;
use axum::extract::FromRequestParts;
use axum::http::request::Parts;
use axum::http::{HeaderMap, HeaderName, HeaderValue, Method, Uri, header};
use sandbar_control::{Actor, people};
use sandbar_types::ErrorCode;
use sandbar_types::cookie::{Cookie, SESSION};
use secrecy::ExposeSecret as _;

use crate::AppState;
use crate::browser::is_same;
use crate::client::{self, Scheme};
use crate::error::ApiError;
use crate::v1::auth::SignIn;

/// What our page says of itself.
const X_SANDBAR_PAGE: HeaderName = HeaderName::from_static("x-sandbar-page");
/// The team that it shows.
const X_SANDBAR_TEAM: HeaderName = HeaderName::from_static("x-sandbar-team");
const SEC_FETCH_SITE: HeaderName = HeaderName::from_static("sec-fetch-site");

/// The token in the request's cookie, where our own page sent it; nothing without a cookie.
pub(crate) fn token<'a>(parts: &'a Parts, app: &AppState) -> Result<Option<&'a str>, ApiError> {
    let scheme = client::scheme(&parts.extensions, &parts.headers, &app.trusted_proxies);
    let Some(token) = cookie(&parts.headers, cookie_name(SESSION, scheme)) else {
        return Ok(None);
    };
    let page = same_origin(parts)?;
    // On HTTP/2 a WebSocket is asked for by its method, which is routed to nothing else.
    let is_connect = parts.method == Method::CONNECT;
    let is_upgrade = is_connect || parts.headers.contains_key(header::UPGRADE);
    let may_change = !is_connect && !parts.method.is_safe();
    match page {
        Proof::Silent if is_upgrade => Err(forged("a WebSocket of a browser needs the header Origin")),
        _ if may_change && !parts.headers.contains_key(&X_SANDBAR_PAGE) => {
            Err(forged("a browser's session needs the header X-Sandbar-Page for this"))
        }
        Proof::Origin | Proof::Silent => Ok(Some(token)),
    }
}

/// Refuses what a page asks for while it shows another team than the one that its cookie acts for.
pub(crate) fn shows_its_team(parts: &Parts, actor: &Actor) -> Result<(), ApiError> {
    let Some(shown) = parts.headers.get(&X_SANDBAR_TEAM) else { return Ok(()) };
    match actor {
        Actor::User { team: Some(team), .. } if shown.as_bytes() == team.to_string().as_bytes() => Ok(()),
        _ => {
            let why = "the page shows another team than this browser acts for by now";
            Err(ApiError::new(ErrorCode::Conflict, why))
        }
    }
}

/// Whether `Origin` was there to look at.
enum Proof {
    Origin,
    Silent,
}

/// Refuses what another origin made the browser send.
fn same_origin(parts: &Parts) -> Result<Proof, ApiError> {
    let headers = &parts.headers;
    if let Some(site) = headers.get(&SEC_FETCH_SITE)
        && !matches!(site.as_bytes(), b"same-origin" | b"none")
    {
        return Err(forged("the request comes from another site's page"));
    }
    let Some(origin) = headers.get(header::ORIGIN) else { return Ok(Proof::Silent) };
    let origin = origin.to_str().ok().and_then(|text| text.parse::<Uri>().ok());
    let sent_to = headers.get(header::HOST).and_then(|value| value.to_str().ok());
    let sent_to = sent_to.or_else(|| parts.uri.authority().map(|authority| authority.as_str()));
    match (origin.as_ref().and_then(Uri::authority), sent_to) {
        (Some(origin), Some(sent_to)) if is_same(origin.as_str(), sent_to) => Ok(Proof::Origin),
        _ => Err(forged("the request comes from another origin's page")),
    }
}

fn forged(why: &'static str) -> ApiError {
    ApiError::new(ErrorCode::Forbidden, why)
}

/// How who signs in gets the token.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Delivery {
    /// Programs: in the answer.
    Body,
    /// Our page: where it cannot read it.
    Cookie(Scheme),
}

impl FromRequestParts<AppState> for Delivery {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, app: &AppState) -> Result<Self, ApiError> {
        if !parts.headers.contains_key(&X_SANDBAR_PAGE) {
            return Ok(Self::Body);
        }
        same_origin(parts)?;
        Ok(Self::Cookie(client::scheme(&parts.extensions, &parts.headers, &app.trusted_proxies)))
    }
}

impl Delivery {
    /// The answer to a sign-in.
    pub(crate) fn answer(self, signed_in: people::SignIn) -> Result<(HeaderMap, Json<SignIn>), ApiError> {
        let mut headers = HeaderMap::new();
        let mut body = SignIn::from(signed_in);
        if let Self::Cookie(scheme) = self
            && let Some(token) = body.token.take()
        {
            headers.insert(header::SET_COOKIE, set_cookie(scheme, token.expose_secret())?);
        }
        Ok((headers, Json(body)))
    }
}

/// What takes the cookie back.
pub(crate) struct Forget(HeaderMap);

impl Forget {
    pub(crate) fn into_headers(self) -> HeaderMap {
        self.0
    }
}

impl FromRequestParts<AppState> for Forget {
    type Rejection = Infallible;

    async fn from_request_parts(parts: &mut Parts, app: &AppState) -> Result<Self, Infallible> {
        let scheme = client::scheme(&parts.extensions, &parts.headers, &app.trusted_proxies);
        let mut headers = HeaderMap::new();
        if cookie(&parts.headers, cookie_name(SESSION, scheme)).is_some()
            && let Ok(value) = HeaderValue::from_str(&format!("{}; Max-Age=0", attributes(scheme, "")))
        {
            headers.insert(header::SET_COOKIE, value);
        }
        Ok(Self(headers))
    }
}

/// A cookie's name where the client speaks like this.
pub(crate) const fn cookie_name(cookie: Cookie, scheme: Scheme) -> &'static str {
    match scheme {
        Scheme::Https => cookie.over_tls,
        Scheme::Http => cookie.plain,
    }
}

/// Ends with the browser; the token in it ends by itself before.
fn set_cookie(scheme: Scheme, token: &str) -> Result<HeaderValue, ApiError> {
    let mut value = HeaderValue::from_str(&attributes(scheme, token))
        .map_err(|error| ApiError::from_typed(ErrorCode::InternalError, error))?;
    value.set_sensitive(true);
    Ok(value)
}

fn attributes(scheme: Scheme, token: &str) -> String {
    let secure = match scheme {
        Scheme::Https => "; Secure",
        Scheme::Http => "",
    };
    format!("{}={token}; Path=/; HttpOnly; SameSite=Strict{secure}", cookie_name(SESSION, scheme))
}

/// A cookie's value.
pub(crate) fn cookie<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    let sent = headers.get_all(header::COOKIE).iter().filter_map(|value| value.to_str().ok());
    let mut pairs = sent.flat_map(|value| value.split(';')).filter_map(|pair| pair.trim().split_once('='));
    pairs.find(|(given, _)| *given == name).map(|(_, value)| value)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cookie_over_tls_is_bound_to_the_host() {
        let value = set_cookie(Scheme::Https, "t").unwrap();
        assert_eq!(value, "__Host-sandbar=t; Path=/; HttpOnly; SameSite=Strict; Secure");
        let value = set_cookie(Scheme::Http, "t").unwrap();
        assert_eq!(value, "sandbar=t; Path=/; HttpOnly; SameSite=Strict");
    }
}
