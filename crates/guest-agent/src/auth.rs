//! Who may call what. One gate in front of every route, RPCs included, so that a new route cannot forget it.
//!
//! | route         | no token set yet       | token set                                            | while sealed |
//! |---------------|------------------------|------------------------------------------------------|--------------|
//! | `/health`     | open                   | open                                                 | as ever      |
//! | `/init`       | the gateway only (403) | the token (401)                                      | as ever      |
//! | `/snapshot/*` | closed (401)           | the token (401), and the gateway only (403)          | as ever      |
//! | `/logs`       | closed (401)           | the token (401), and the gateway only (403)          | as ever      |
//! | `/volumes/*`  | closed (401)           | the token (401), and the gateway only (403)          | as ever      |
//! | `/files`      | closed (401)           | the token, or a signature that the handler verifies  | closed (503) |
//! | the rest      | closed (401)           | the token (401)                                      | closed (503) |

use std::net::IpAddr;
use std::sync::Arc;

use axum::extract::{ConnectInfo, Request, State as Extract};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use http::{HeaderMap, HeaderName, Method, StatusCode};

use crate::connections::Peer;
use crate::error::ApiError;
use crate::server::Agent;
use crate::state::{Door, Sandbox};

/// The header with the token.
pub const ACCESS_TOKEN: HeaderName = HeaderName::from_static("x-access-token");

/// What a route asks of its caller.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Guard {
    Open,
    Init,
    /// What the host asks of a sandbox that it knows.
    Host,
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
        "/snapshot/prepare" | "/snapshot/resume" if *method == Method::POST => Guard::Host,
        "/logs" | "/volumes/connect" | "/volumes/mount" => Guard::Host,
        "/files" if [Method::GET, Method::HEAD, Method::POST].contains(method) => Guard::TokenOrSignature,
        _ => Guard::Token,
    }
}

/// The gate itself.
pub(crate) async fn gate(
    Extract(agent): Extract<Arc<Agent>>,
    ConnectInfo(peer): ConnectInfo<Peer>,
    mut request: Request,
    next: Next,
) -> Response {
    let guard = guard(request.method(), request.uri().path());
    let sandbox = agent.state.current();
    match admit(guard, &sandbox, request.headers(), peer.address.ip(), agent.options.gateway) {
        Ok(credential) => {
            request.extensions_mut().insert(credential);
            next.run(request).await
        }
        Err(error) => error.into_response(),
    }
}

fn admit(
    guard: Guard,
    sandbox: &Sandbox,
    headers: &HeaderMap,
    peer: IpAddr,
    gateway: IpAddr,
) -> Result<Credential, ApiError> {
    if guard == Guard::Open {
        return Ok(Credential::Full);
    }
    let is_host = peer.to_canonical() == gateway;
    let not_the_host = || ApiError::new(StatusCode::FORBIDDEN, "only the host may do this");
    let Some(token) = &sandbox.access_token else {
        return match guard {
            Guard::Init if is_host => Ok(Credential::Full),
            Guard::Init => Err(not_the_host()),
            _ => Err(ApiError::unauthorized("this sandbox is not initialised yet")),
        };
    };
    let credential = match headers.get(ACCESS_TOKEN) {
        Some(candidate) if token.matches(candidate.as_bytes()) => Credential::Full,
        Some(_) => return Err(ApiError::unauthorized("invalid access token")),
        None if guard == Guard::TokenOrSignature => Credential::SignatureDue,
        None => return Err(ApiError::unauthorized("access token missing")),
    };
    match (guard, sandbox.door) {
        (Guard::Init, _) => Ok(credential),
        (Guard::Host, _) => {
            if is_host {
                Ok(credential)
            } else {
                Err(not_the_host())
            }
        }
        (_, Door::Open) => Ok(credential),
        (_, Door::Sealed) => {
            Err(ApiError::new(StatusCode::SERVICE_UNAVAILABLE, "this sandbox is being saved or restored"))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::state::AccessToken;

    const GATEWAY: &str = "172.30.0.1";
    const STRANGER: &str = "172.30.0.9";

    fn decide(guard: Guard, token: Option<&str>, sent: Option<&str>, peer: &str) -> Result<Credential, u16> {
        decide_at(Door::Open, guard, token, sent, peer)
    }

    fn decide_at(
        door: Door,
        guard: Guard,
        token: Option<&str>,
        sent: Option<&str>,
        peer: &str,
    ) -> Result<Credential, u16> {
        let access_token = token.map(|token| AccessToken::new(token.into()).unwrap());
        let sandbox = Sandbox { access_token, door, ..Sandbox::default() };
        let mut headers = HeaderMap::new();
        if let Some(sent) = sent {
            headers.insert(ACCESS_TOKEN, sent.parse().unwrap());
        }
        admit(guard, &sandbox, &headers, peer.parse().unwrap(), GATEWAY.parse().unwrap())
            .map_err(|error| error.status.as_u16())
    }

    /// Every guard, by every caller: without a token set, and with one.
    #[test]
    fn the_whole_table() {
        use Credential::{Full, SignatureDue};
        let callers = [None, Some(""), Some("x"), Some("tt"), Some("t")];
        for peer in [GATEWAY, STRANGER] {
            let host = peer == GATEWAY;
            for sent in callers {
                let expect = |guard, token, expected| {
                    assert_eq!(
                        decide(guard, token, sent, peer),
                        expected,
                        "{guard:?} {token:?} {sent:?} {peer}"
                    );
                };
                expect(Guard::Open, None, Ok(Full));
                expect(Guard::Init, None, if host { Ok(Full) } else { Err(403) });
                for guard in [Guard::Host, Guard::TokenOrSignature, Guard::Token] {
                    expect(guard, None, Err(401));
                }

                let right = sent == Some("t");
                let token = Some("t");
                expect(Guard::Open, token, Ok(Full));
                for guard in [Guard::Init, Guard::Token] {
                    expect(guard, token, if right { Ok(Full) } else { Err(401) });
                }
                expect(
                    Guard::Host,
                    token,
                    match (right, host) {
                        (true, true) => Ok(Full),
                        (true, false) => Err(403),
                        (false, _) => Err(401),
                    },
                );
                expect(
                    Guard::TokenOrSignature,
                    token,
                    match sent {
                        Some("t") => Ok(Full),
                        None => Ok(SignatureDue),
                        Some(_) => Err(401),
                    },
                );
            }
        }
    }

    #[test]
    fn a_sealed_guest_serves_the_host_and_nobody_learns_of_the_seal_without_the_token() {
        for (guard, sent, expected) in [
            (Guard::Open, None, Ok(Credential::Full)),
            (Guard::Init, Some("t"), Ok(Credential::Full)),
            (Guard::Host, Some("t"), Ok(Credential::Full)),
            (Guard::Token, Some("t"), Err(503)),
            (Guard::TokenOrSignature, Some("t"), Err(503)),
            (Guard::TokenOrSignature, None, Err(503)),
            (Guard::Init, Some("x"), Err(401)),
            (Guard::Host, Some("x"), Err(401)),
            (Guard::Token, Some("x"), Err(401)),
            (Guard::Token, None, Err(401)),
        ] {
            assert_eq!(
                decide_at(Door::Sealed, guard, Some("t"), sent, GATEWAY),
                expected,
                "{guard:?} {sent:?}"
            );
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
        assert_eq!(guard(&Method::POST, "/snapshot/prepare"), Guard::Host);
        assert_eq!(guard(&Method::GET, "/logs"), Guard::Host);
        assert_eq!(guard(&Method::GET, "/snapshot/prepare"), Guard::Token);
        for path in ["/health/", "//health", "/files/x", "/process.Process/Start", "/"] {
            assert_eq!(guard(&Method::GET, path), Guard::Token, "{path}");
        }
    }
}
