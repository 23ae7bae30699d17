//! What browsers are let do: pages of other origins, and whether TLS is to be insisted on.
//!
//! Nothing here is a guard against programs. The one credential that a browser sends by itself is the cookie of the dashboard, which counts
//! for our own pages alone (`cookie.rs`); so pages of other origins are never allowed credentials.

use std::sync::Arc;
use std::time::Duration;

use axum::extract::{Request, State};
use axum::http::{HeaderMap, HeaderName, HeaderValue, Method, Response, header};
use axum::middleware::Next;
use ipnet::IpNet;
use tower_http::cors::{AllowOrigin, CorsLayer};

use crate::auth::X_API_KEY;
use crate::client::{self, Scheme};
use crate::page::X_NEXT_CURSOR;
use crate::request::X_REQUEST_ID;

const IDEMPOTENCY_KEY: HeaderName = HeaderName::from_static("idempotency-key");
/// How long a browser need not ask again.
const PREFLIGHT_AGE: Duration = Duration::from_secs(600);

/// The origin of a page: scheme, host and, where it is not the scheme's own, port.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Origin(HeaderValue);

/// Text that is no origin.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("not an origin: write it as a browser sends it, e.g. https://sandbar.example.com")]
pub struct InvalidOrigin;

impl std::str::FromStr for Origin {
    type Err = InvalidOrigin;

    fn from_str(text: &str) -> Result<Self, InvalidOrigin> {
        let authority = text.strip_prefix("https://").or_else(|| text.strip_prefix("http://"));
        let authority = authority.ok_or(InvalidOrigin)?;
        let known = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b"-._:[]".contains(&b);
        if authority.is_empty() || !authority.bytes().all(known) {
            return Err(InvalidOrigin);
        }
        HeaderValue::from_str(text).map(Self).map_err(|_| InvalidOrigin)
    }
}

/// Lets pages of these origins call the API. None where there is none: every other page is refused by its browser.
pub(crate) fn cross_origin(allowed: &[Origin]) -> Option<CorsLayer> {
    let origins: Vec<HeaderValue> = allowed.iter().map(|origin| origin.0.clone()).collect();
    (!origins.is_empty()).then(|| {
        CorsLayer::new()
            .allow_origin(AllowOrigin::list(origins))
            .allow_methods([Method::GET, Method::POST, Method::PUT, Method::PATCH, Method::DELETE])
            .allow_headers([
                header::AUTHORIZATION,
                header::CONTENT_TYPE,
                X_API_KEY,
                X_REQUEST_ID,
                IDEMPOTENCY_KEY,
            ])
            .expose_headers([X_REQUEST_ID, X_NEXT_CURSOR, header::RETRY_AFTER])
            .max_age(PREFLIGHT_AGE)
    })
}

/// Whether a page may open a WebSocket: one of the API's own origin, or of one that is allowed. A program says nothing of pages.
pub(crate) fn may_open_socket(headers: &HeaderMap, authority: Option<&str>, allowed: &[Origin]) -> bool {
    let Some(origin) = headers.get(header::ORIGIN) else { return true };
    if allowed.iter().any(|allowed| allowed.0 == *origin) {
        return true;
    }
    let host = headers.get(header::HOST).and_then(|host| host.to_str().ok()).or(authority);
    let origin = origin.to_str().ok().and_then(|origin| origin.split_once("://"));
    matches!((origin, host), (Some((_, page)), Some(host)) if is_same(page, host))
}

/// Whether a page's origin is where its request went to. Browsers leave the usual ports out, proxies may not. The scheme is not
/// compared: a proxy may have taken TLS off, and who can serve a page in our name without it can do worse.
pub(crate) fn is_same(origin: &str, sent_to: &str) -> bool {
    let without_port = |text: &str| {
        let text = text.strip_suffix(":443").or_else(|| text.strip_suffix(":80")).unwrap_or(text);
        text.to_ascii_lowercase()
    };
    without_port(origin) == without_port(sent_to)
}

/// Insists on TLS where the client came by it.
pub(crate) async fn insist_on_tls(
    State(trusted_proxies): State<Arc<[IpNet]>>,
    request: Request,
    next: Next,
) -> Response<axum::body::Body> {
    let scheme = client::scheme(request.extensions(), request.headers(), &trusted_proxies);
    let mut response = next.run(request).await;
    if scheme == Scheme::Https {
        let value = HeaderValue::from_static("max-age=31536000");
        response.headers_mut().insert(header::STRICT_TRANSPORT_SECURITY, value);
    }
    response
}

#[cfg(test)]
mod tests {
    use axum::http::uri;
    use tower::ServiceExt as _;

    use super::*;

    #[tokio::test]
    async fn tls_is_insisted_on_where_our_own_listener_speaks_it() {
        let trusted: Arc<[IpNet]> = Arc::new([]);
        let router = axum::Router::new()
            .route("/", axum::routing::get(async || ()))
            .layer(axum::middleware::from_fn_with_state(trusted, insist_on_tls));
        for (scheme, is_insisted) in [(uri::Scheme::HTTPS, true), (uri::Scheme::HTTP, false)] {
            let mut request = Request::new(axum::body::Body::empty());
            request.extensions_mut().insert(scheme);
            let response = router.clone().oneshot(request).await.unwrap();
            assert_eq!(response.headers().contains_key(header::STRICT_TRANSPORT_SECURITY), is_insisted);
        }
    }

    #[test]
    fn origins_are_written_as_browsers_send_them() {
        for good in ["https://sandbar.example.com", "http://localhost:5173", "http://[::1]:8080"] {
            assert!(good.parse::<Origin>().is_ok(), "{good}");
        }
        for bad in ["*", "null", "sandbar.example.com", "https://", "https://a/", "https://A", "ws://a"] {
            assert_eq!(bad.parse::<Origin>(), Err(InvalidOrigin), "{bad}");
        }
    }

    #[test]
    fn an_origin_is_ours_where_it_is_the_address_that_was_asked() {
        for (origin, sent_to, same) in [
            ("127.0.0.1:8080", "127.0.0.1:8080", true),
            ("sandbar.example.com", "sandbar.example.com:443", true),
            ("Sandbar.example.com", "sandbar.example.com", true),
            ("8080-sb.sandbar.example.com", "sandbar.example.com", false),
            ("127.0.0.1:3000", "127.0.0.1:8080", false),
            ("sandbar.example.com:8443", "sandbar.example.com", false),
        ] {
            assert_eq!(is_same(origin, sent_to), same, "{origin} {sent_to}");
        }
    }

    #[test]
    fn sockets_are_for_pages_of_ones_own_and_of_those_that_are_allowed() {
        let allowed: Vec<Origin> = vec!["https://app.example.com".parse().unwrap()];
        let may = |origin: Option<&'static str>, host: &'static str| {
            let mut headers = HeaderMap::new();
            if let Some(origin) = origin {
                headers.insert(header::ORIGIN, HeaderValue::from_static(origin));
            }
            headers.insert(header::HOST, HeaderValue::from_static(host));
            may_open_socket(&headers, None, &allowed)
        };
        assert!(may(None, "api.example.com"));
        assert!(may(Some("https://api.example.com"), "api.example.com"));
        assert!(may(Some("http://127.0.0.1:8080"), "127.0.0.1:8080"));
        assert!(may(Some("https://app.example.com"), "api.example.com"));
        assert!(may(Some("https://api.example.com"), "api.example.com:443"));
        for origin in
            ["https://evil.example", "null", "https://api.example.com.evil.example", "http://127.0.0.1"]
        {
            assert!(!may(Some(origin), "api.example.com"), "{origin}");
        }
        assert!(!may(Some("http://127.0.0.1:9"), "127.0.0.1:8080"));
        // HTTP/2 has no Host.
        let mut headers = HeaderMap::new();
        headers.insert(header::ORIGIN, HeaderValue::from_static("https://api.example.com"));
        assert!(may_open_socket(&headers, Some("api.example.com"), &[]));
        assert!(!may_open_socket(&headers, None, &[]));
    }
}
