//! `GET /connect?port=N` with `Upgrade: tcp`: a byte stream to a port that something in the sandbox listens on.
//!
//! Servers often bind 127.0.0.1 or ::1 alone, where nobody outside reaches them. The other ways to let callers in are to watch
//! for such listeners and to listen in their place on the guest's own address, which needs a scan, comes too late for a
//! caller that is there first, and takes the port from a server that wants all addresses later; or address translation,
//! which needs tools and privileges that an image may not have, and does not do IPv6's loopback. A tunnel has no state
//! between calls and covers both loopbacks, and a closed port is known at once.
//!
//! 101 and then bytes both ways, each direction closed by itself. Constant memory; no more than [`TUNNELS`] at a time (429).
//! 400: the port makes no sense. 426: not asked to upgrade (over HTTP/2 nobody can be). 502: nothing listens; the answer
//! names the port, and is what E2B's clients know as a closed one. 504: whoever listens does not take connections.
//!
//! It ends when both directions have ended, when one of the sides is gone, and when the guest becomes another sandbox.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use axum::Json;
use axum::extract::rejection::QueryRejection;
use axum::extract::{Query, Request, State as Extract};
use axum::response::{IntoResponse, Response};
use http::header::{CONNECTION, UPGRADE};
use http::{HeaderValue, StatusCode};
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use serde::Deserialize;
use tokio::io::copy_bidirectional_with_sizes;
use tokio::net::TcpStream;
use tokio::sync::Semaphore;
use tokio::time::timeout;

use crate::error::ApiError;
use crate::server::Agent;

/// How many tunnels there may be.
pub(crate) const TUNNELS: usize = 1024;
/// What is on its way in one direction.
const BUFFER: usize = 16 * 1024;
/// A listener on the same machine that does not take a connection by then has a full queue.
const CONNECT_LIMIT: Duration = Duration::from_secs(5);
const PROTOCOL: &str = "tcp";

/// What the caller asks for.
#[derive(Deserialize)]
pub(crate) struct Target {
    port: u16,
}

/// The tunnels that may still be opened.
pub(crate) struct Tunnels(Arc<Semaphore>);

impl Default for Tunnels {
    fn default() -> Self {
        Self(Arc::new(Semaphore::new(TUNNELS)))
    }
}

/// Why there is no tunnel.
#[derive(Debug, thiserror::Error)]
enum TunnelError {
    #[error("port must be 1 to 65535, and not the agent's own")]
    Port,
    #[error("this takes a request over HTTP/1.1 with Upgrade: {PROTOCOL}")]
    NoUpgrade,
    #[error("too many tunnels")]
    TooMany,
    // The text is E2B's.
    #[error("The sandbox is running but port is not open")]
    Closed(u16),
    #[error("what listens on port {0} takes no connections")]
    Full(u16),
}

impl IntoResponse for TunnelError {
    fn into_response(self) -> Response {
        let status = match self {
            Self::Port => StatusCode::BAD_REQUEST,
            Self::NoUpgrade => StatusCode::UPGRADE_REQUIRED,
            Self::TooMany => StatusCode::TOO_MANY_REQUESTS,
            Self::Closed(port) => {
                let status = StatusCode::BAD_GATEWAY;
                let body = serde_json::json!({
                    "code": status.as_u16(), "message": self.to_string(), "port": port
                });
                return (status, Json(body)).into_response();
            }
            Self::Full(_) => StatusCode::GATEWAY_TIMEOUT,
        };
        ApiError::new(status, self.to_string()).into_response()
    }
}

/// Handles the route.
pub(crate) async fn handle(
    Extract(agent): Extract<Arc<Agent>>,
    target: Result<Query<Target>, QueryRejection>,
    request: Request,
) -> Response {
    match open(&agent, target, request).await {
        Ok(()) => {
            let headers = [
                (CONNECTION, HeaderValue::from_static("upgrade")),
                (UPGRADE, HeaderValue::from_static(PROTOCOL)),
            ];
            (StatusCode::SWITCHING_PROTOCOLS, headers).into_response()
        }
        Err(error) => error.into_response(),
    }
}

async fn open(
    agent: &Agent,
    target: Result<Query<Target>, QueryRejection>,
    mut request: Request,
) -> Result<(), TunnelError> {
    let Query(Target { port }) = target.map_err(|_| TunnelError::Port)?;
    // A call that came through the agent's own loopback would look like one from inside.
    if port == 0 || port == agent.options.listen.port() {
        return Err(TunnelError::Port);
    }
    let asked = request
        .headers()
        .get(UPGRADE)
        .is_some_and(|value| value.as_bytes().eq_ignore_ascii_case(PROTOCOL.as_bytes()));
    let upgrade =
        request.extensions_mut().remove::<OnUpgrade>().filter(|_| asked).ok_or(TunnelError::NoUpgrade)?;
    let place = Arc::clone(&agent.tunnels.0).try_acquire_owned().map_err(|_| TunnelError::TooMany)?;
    let mut inside = connect(port).await?;
    tokio::spawn(async move {
        let _place = place;
        // A caller that leaves before it was answered leaves nothing to do.
        let Ok(upgraded) = upgrade.await else { return };
        let mut outside = TokioIo::new(upgraded);
        // Which side broke off first is nothing that anybody could act on.
        let _ = copy_bidirectional_with_sizes(&mut outside, &mut inside, BUFFER, BUFFER).await;
    });
    Ok(())
}

/// Whoever listens on all addresses listens on the first of the two as well.
async fn connect(port: u16) -> Result<TcpStream, TunnelError> {
    for loopback in [IpAddr::V4(Ipv4Addr::LOCALHOST), IpAddr::V6(Ipv6Addr::LOCALHOST)] {
        match timeout(CONNECT_LIMIT, TcpStream::connect(SocketAddr::new(loopback, port))).await {
            Ok(Ok(stream)) => {
                if let Err(error) = stream.set_nodelay(true) {
                    tracing::debug!(%error, "cannot set TCP_NODELAY");
                }
                return Ok(stream);
            }
            Ok(Err(error)) if error.kind() == io::ErrorKind::ConnectionRefused => {}
            Ok(Err(error)) => tracing::debug!(%error, %loopback, port, "cannot connect"),
            Err(_) => return Err(TunnelError::Full(port)),
        }
    }
    Err(TunnelError::Closed(port))
}
