//! Connections that become something else: WebSocket or whatever both ends agree on. After the answer they are bytes, each direction
//! with an end of its own.
//!
//! On HTTP/2 a client asks by extended CONNECT (RFC 8441), which servers of HTTP/1.1 do not know: to them it is a GET that upgrades.

use axum::body::Body;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use http::header::{CONNECTION, SEC_WEBSOCKET_ACCEPT, SEC_WEBSOCKET_KEY, SEC_WEBSOCKET_VERSION, UPGRADE};
use http::{HeaderMap, HeaderValue, Response, StatusCode, response};
use hyper::ext::Protocol;
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use tokio::io::copy_bidirectional_with_sizes;

use crate::sandboxes::Place;

/// What is on its way in one direction.
const BUFFER: usize = 32 * 1024;

/// What a client wants its connection to become.
pub(crate) struct Asked {
    protocol: HeaderValue,
    way: Way,
}

#[derive(PartialEq)]
enum Way {
    Header,
    Connect,
}

impl Asked {
    pub(crate) fn by_header(protocol: HeaderValue) -> Self {
        Self { protocol, way: Way::Header }
    }

    pub(crate) fn by_connect(protocol: &Protocol) -> Option<Self> {
        let protocol = HeaderValue::from_str(protocol.as_str()).ok()?;
        Some(Self { protocol, way: Way::Connect })
    }

    /// Whether the server must be asked in another way than the client has asked.
    pub(crate) fn is_extended(&self) -> bool {
        self.way == Way::Connect
    }

    /// Asks the server.
    pub(crate) fn write(&self, headers: &mut HeaderMap) {
        headers.insert(CONNECTION, HeaderValue::from_static("upgrade"));
        headers.insert(UPGRADE, self.protocol.clone());
        if self.is_extended() && self.protocol.as_bytes().eq_ignore_ascii_case(b"websocket") {
            // On HTTP/2 there is none. What it proves is between this proxy and the server.
            let mut nonce = [0; 16];
            getrandom::fill(&mut nonce).expect("the kernel gives random bytes");
            if let Ok(key) = HeaderValue::from_str(&BASE64.encode(nonce)) {
                headers.insert(SEC_WEBSOCKET_KEY, key);
            }
            headers.entry(SEC_WEBSOCKET_VERSION).or_insert(HeaderValue::from_static("13"));
        }
    }
}

/// The server's yes, as the client has asked for it.
pub(crate) fn answer(asked: &Asked, server: response::Parts) -> Response<Body> {
    let mut response = Response::new(Body::empty());
    *response.headers_mut() = server.headers;
    if asked.is_extended() {
        for name in [CONNECTION, UPGRADE, SEC_WEBSOCKET_ACCEPT] {
            response.headers_mut().remove(name);
        }
    } else {
        *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    }
    response
}

/// Carries bytes both ways until both have ended, or either side is gone.
pub(crate) async fn carry(client: OnUpgrade, server: OnUpgrade, place: Place) {
    let _place = place;
    // Whoever left before the answer leaves nothing to do.
    let (Ok(client), Ok(server)) = tokio::join!(client, server) else { return };
    let (mut client, mut server) = (TokioIo::new(client), TokioIo::new(server));
    // Which side broke off first is nothing that anybody could act on.
    let _ended = copy_bidirectional_with_sizes(&mut client, &mut server, BUFFER, BUFFER).await;
}
