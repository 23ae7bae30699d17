//! Where a request comes from: what attempts to sign in are counted by, and sign-ins are told apart by.
//!
//! Behind a proxy every connection comes from the proxy, which says in `X-Forwarded-For` whom it speaks for. Anybody can write that
//! header, so it counts only as far as each step was written by a proxy that is trusted.

use std::convert::Infallible;
use std::net::{IpAddr, SocketAddr};

use axum::extract::FromRequestParts;
use axum::http::request::Parts;
use axum::http::{Extensions, HeaderMap, HeaderName, header, uri};
use ipnet::IpNet;
use sandbar_control::Client;

use crate::AppState;
use crate::error::ApiError;

const X_FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
const X_FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");

/// How the client speaks to us, or to the proxy before us.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Scheme {
    Http,
    Https,
}

impl FromRequestParts<AppState> for Scheme {
    type Rejection = Infallible;

    async fn from_request_parts(parts: &mut Parts, app: &AppState) -> Result<Self, Infallible> {
        Ok(scheme(&parts.extensions, &parts.headers, &app.trusted_proxies))
    }
}

/// Of a proxy that took TLS off the word counts, where it is trusted.
pub(crate) fn scheme(extensions: &Extensions, headers: &HeaderMap, trusted: &[IpNet]) -> Scheme {
    if extensions.get::<uri::Scheme>() == Some(&uri::Scheme::HTTPS) {
        return Scheme::Https;
    }
    let peer = extensions.get::<Peer>().map(|peer| peer.0.ip().to_canonical());
    let is_trusted = peer.is_some_and(|peer| trusted.iter().any(|proxy| proxy.contains(&peer)));
    let told = headers.get(X_FORWARDED_PROTO).and_then(|value| value.to_str().ok());
    match told {
        Some(told) if is_trusted && told.trim().eq_ignore_ascii_case("https") => Scheme::Https,
        _ => Scheme::Http,
    }
}

/// The other end of the connection that a request came by; set by the listener.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Peer(pub(crate) SocketAddr);

/// Where the request comes from.
pub(crate) struct From(pub(crate) Client);

impl FromRequestParts<AppState> for From {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, app: &AppState) -> Result<Self, ApiError> {
        let peer = parts.extensions.get::<Peer>().map(|peer| peer.0.ip());
        let address = peer.map(|peer| client_address(peer, &parts.headers, &app.trusted_proxies));
        let user_agent = parts.headers.get(header::USER_AGENT).and_then(|value| value.to_str().ok());
        Ok(Self(Client { address, user_agent: user_agent.unwrap_or_default().to_owned() }))
    }
}

/// The last address on the way that is no trusted proxy's.
pub(crate) fn client_address(peer: IpAddr, headers: &HeaderMap, trusted: &[IpNet]) -> IpAddr {
    let is_trusted = |address: IpAddr| trusted.iter().any(|network| network.contains(&address));
    let mut address = peer.to_canonical();
    let told = headers.get_all(X_FORWARDED_FOR).iter().filter_map(|value| value.to_str().ok());
    let told: Vec<&str> = told.flat_map(|value| value.split(',')).collect();
    for step in told.into_iter().rev() {
        if !is_trusted(address) {
            break;
        }
        match step.trim().parse::<IpAddr>() {
            Ok(before) => address = before.to_canonical(),
            Err(_) => break,
        }
    }
    address
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_header_counts_as_far_as_trusted_proxies_wrote_it() {
        let trusted: Vec<IpNet> = vec!["127.0.0.0/8".parse().unwrap(), "10.0.0.0/8".parse().unwrap()];
        for (peer, told, client) in [
            ("192.0.2.1", "", "192.0.2.1"),
            ("192.0.2.1", "198.51.100.7", "192.0.2.1"),
            ("127.0.0.1", "", "127.0.0.1"),
            ("127.0.0.1", "198.51.100.7", "198.51.100.7"),
            ("::ffff:127.0.0.1", "198.51.100.7", "198.51.100.7"),
            ("127.0.0.1", "203.0.113.9, 198.51.100.7", "198.51.100.7"),
            ("127.0.0.1", "203.0.113.9, 198.51.100.7, 10.0.0.2", "198.51.100.7"),
            ("127.0.0.1", "198.51.100.7, nonsense", "127.0.0.1"),
            ("127.0.0.1", "2001:db8::1", "2001:db8::1"),
        ] {
            let mut headers = HeaderMap::new();
            if !told.is_empty() {
                headers.insert(X_FORWARDED_FOR, told.parse().unwrap());
            }
            let found = client_address(peer.parse().unwrap(), &headers, &trusted);
            assert_eq!(found.to_string(), client, "{peer} {told}");
        }
    }
}
