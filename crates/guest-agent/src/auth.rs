//! Who may call what. One gate in front of every route, RPCs included, so that a new route cannot forget it.
//!
//! | route      | no token set yet       | token set                                            |
//! |------------|------------------------|------------------------------------------------------|
//! | `/health`  | open                   | open                                                 |
//! | `/init`    | the gateway only (403) | the token (401)                                      |
//! | `/files`   | closed (401)           | the token, or a signature that the handler verifies  |
//! | the rest   | closed (401)           | the token (401)                                      |

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use axum::extract::{ConnectInfo, Request, State as Extract};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use http::{HeaderMap, HeaderName, Method, StatusCode};

use crate::error::ApiError;
use crate::server::Agent;
use crate::state::AccessToken;

/// The header with the token.
pub const ACCESS_TOKEN: HeaderName = HeaderName::from_static("x-access-token");

/// What a route asks of its caller.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Guard {
    Open,
    Init,
    TokenOrSignature,
    Token,
}

/// How a request that may pass got here, for handlers that care.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Credential {
    /// The token, or none was needed.
    Full,
    /// Nothing yet: the handler must find a valid signature.
    SignatureDue,
}

fn guard(method: &Method, path: &str) -> Guard {
    match path {
        "/health" if *method == Method::GET => Guard::Open,
        "/init" if *method == Method::POST => Guard::Init,
        "/files" if [Method::GET, Method::HEAD, Method::POST].contains(method) => Guard::TokenOrSignature,
        _ => Guard::Token,
    }
}

/// The gate itself.
pub(crate) async fn gate(
    Extract(agent): Extract<Arc<Agent>>,
    ConnectInfo(peer): ConnectInfo<SocketAddr>,
    mut request: Request,
    next: Next,
) -> Response {
    let guard = guard(request.method(), request.uri().path());
    let sandbox = agent.state.current();
    match admit(guard, sandbox.access_token.as_ref(), request.headers(), peer.ip(), agent.options.gateway) {
        Ok(credential) => {
            request.extensions_mut().insert(credential);
            next.run(request).await
        }
        Err(error) => error.into_response(),
    }
}

fn admit(
    guard: Guard,
    token: Option<&AccessToken>,
    headers: &HeaderMap,
    peer: IpAddr,
    gateway: IpAddr,
) -> Result<Credential, ApiError> {
    if guard == Guard::Open {
        return Ok(Credential::Full);
    }
    let Some(token) = token else {
        return match guard {
            Guard::Init if peer.to_canonical() == gateway => Ok(Credential::Full),
            Guard::Init => {
                Err(ApiError::new(StatusCode::FORBIDDEN, "only the host may initialise this sandbox"))
            }
            _ => Err(ApiError::unauthorized("this sandbox is not initialised yet")),
        };
    };
    match headers.get(ACCESS_TOKEN) {
        Some(candidate) if token.matches(candidate.as_bytes()) => Ok(Credential::Full),
        Some(_) => Err(ApiError::unauthorized("invalid access token")),
        None if guard == Guard::TokenOrSignature => Ok(Credential::SignatureDue),
        None => Err(ApiError::unauthorized("access token missing")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GATEWAY: &str = "172.30.0.1";
    const STRANGER: &str = "172.30.0.9";

    fn decide(guard: Guard, token: Option<&str>, sent: Option<&str>, peer: &str) -> Result<Credential, u16> {
        let token = token.map(|token| AccessToken::new(token.into()).unwrap());
        let mut headers = HeaderMap::new();
        if let Some(sent) = sent {
            headers.insert(ACCESS_TOKEN, sent.parse().unwrap());
        }
        admit(guard, token.as_ref(), &headers, peer.parse().unwrap(), GATEWAY.parse().unwrap())
            .map_err(|error| error.status.as_u16())
    }

    #[test]
    fn the_whole_table() {
        use Credential::{Full, SignatureDue};
        use Guard::{Init, Open, Token, TokenOrSignature};
        let table = [
            (Open, None, None, STRANGER, Ok(Full)),
            (Open, Some("t"), None, STRANGER, Ok(Full)),
            (Init, None, None, GATEWAY, Ok(Full)),
            (Init, None, None, STRANGER, Err(403)),
            (Init, None, Some("t"), STRANGER, Err(403)),
            (Init, Some("t"), None, GATEWAY, Err(401)),
            (Init, Some("t"), Some("x"), GATEWAY, Err(401)),
            (Init, Some("t"), Some("t"), STRANGER, Ok(Full)),
            (TokenOrSignature, None, None, GATEWAY, Err(401)),
            (TokenOrSignature, Some("t"), None, STRANGER, Ok(SignatureDue)),
            (TokenOrSignature, Some("t"), Some("x"), STRANGER, Err(401)),
            (TokenOrSignature, Some("t"), Some("t"), STRANGER, Ok(Full)),
            (Token, None, None, GATEWAY, Err(401)),
            (Token, None, Some(""), GATEWAY, Err(401)),
            (Token, Some("t"), None, GATEWAY, Err(401)),
            (Token, Some("t"), Some(""), GATEWAY, Err(401)),
            (Token, Some("t"), Some("tt"), GATEWAY, Err(401)),
            (Token, Some("t"), Some("t"), STRANGER, Ok(Full)),
        ];
        for (guard, token, sent, peer, expected) in table {
            assert_eq!(decide(guard, token, sent, peer), expected, "{guard:?} {token:?} {sent:?} {peer}");
        }
    }

    #[test]
    fn a_gateway_seen_through_a_dual_stack_socket_is_the_gateway() {
        assert_eq!(decide(Guard::Init, None, None, "::ffff:172.30.0.1"), Ok(Credential::Full));
    }

    #[test]
    fn only_the_named_methods_are_open() {
        assert_eq!(guard(&Method::GET, "/health"), Guard::Open);
        assert_eq!(guard(&Method::POST, "/health"), Guard::Token);
        assert_eq!(guard(&Method::GET, "/init"), Guard::Token);
        assert_eq!(guard(&Method::HEAD, "/files"), Guard::TokenOrSignature);
        assert_eq!(guard(&Method::DELETE, "/files"), Guard::Token);
        for path in ["/health/", "//health", "/files/x", "/process.Process/Start", "/"] {
            assert_eq!(guard(&Method::GET, path), Guard::Token, "{path}");
        }
    }
}
