//! Connections to servers in sandboxes, kept for the next request.
//!
//! HTTP/1.1, as nearly everything in a sandbox speaks; HTTP/2 by prior knowledge where the request is gRPC, which knows nothing else.
//! A connection's key is its authority, `ID:PORT`. It is cut when its sandbox stops or pauses, so what is kept always leads to one that
//! runs.

use std::error::Error as StdError;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use axum::body::Body;
use http::uri::{Authority, PathAndQuery, Scheme};
use http::{HeaderMap, Request, Response, Uri, header};
use hyper::body::Incoming;
use hyper_util::client::legacy::{Client, Error};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use sandbar_control::host_client::TunnelStream;
use sandbar_types::Id;
use uuid::Uuid;

use crate::address::Address;
use crate::refusal::Refusal;
use crate::sandboxes::{Sandboxes, Wake};

/// For how long a connection is kept that nobody uses. It counts as a use of the sandbox, whose time-out begins that much later.
const KEPT: Duration = Duration::from_secs(4);
/// Connections to one port that are kept.
const KEPT_OF_A_PORT: usize = 64;
/// What a server in a sandbox may send without being read, on HTTP/2.
const STREAM_WINDOW: u32 = 1 << 20;

/// See the module. Whoever may not resume a sandbox has connections apart: what one request dials for, another may get.
#[derive(Clone)]
pub(crate) struct Upstreams {
    waking: Connections,
    leaving_be: Connections,
}

#[derive(Clone)]
struct Connections {
    http1: Client<Dialer, Body>,
    http2: Client<Dialer, Body>,
}

impl Upstreams {
    pub(crate) fn new(sandboxes: Arc<Sandboxes>) -> Self {
        let waking = Connections::new(Dialer { sandboxes: Arc::clone(&sandboxes), wake: Wake::Allowed });
        Self { waking, leaving_be: Connections::new(Dialer { sandboxes, wake: Wake::Denied }) }
    }

    /// Sends a request whose head is as the server is to see it.
    pub(crate) async fn send(
        &self,
        request: Request<Body>,
        wake: Wake,
    ) -> Result<Response<Incoming>, Refusal> {
        let connections = match wake {
            Wake::Allowed => &self.waking,
            Wake::Denied => &self.leaving_be,
        };
        let client = if is_grpc(request.headers()) { &connections.http2 } else { &connections.http1 };
        client.request(request).await.map_err(|error| refusal(&error))
    }
}

impl Connections {
    fn new(dialer: Dialer) -> Self {
        let mut http1 = Client::builder(TokioExecutor::new());
        http1.pool_timer(TokioTimer::new()).pool_idle_timeout(KEPT).pool_max_idle_per_host(KEPT_OF_A_PORT);
        let mut http2 = Client::builder(TokioExecutor::new());
        http2.pool_timer(TokioTimer::new()).pool_idle_timeout(KEPT).http2_only(true);
        http2.http2_initial_stream_window_size(STREAM_WINDOW);
        Self { http1: http1.build(dialer.clone()), http2: http2.build(dialer) }
    }
}

/// The URI of a request to a port: the authority is the connection's key, which HTTP/1.1's servers do not see.
pub(crate) fn uri(address: &Address, path: Option<&PathAndQuery>) -> Result<Uri, http::Error> {
    let path = path.filter(|path| path.as_str().starts_with('/')).cloned();
    Uri::builder()
        .scheme(Scheme::HTTP)
        .authority(format!("{}:{}", address.id.e2b(), address.port))
        .path_and_query(path.unwrap_or_else(|| PathAndQuery::from_static("/")))
        .build()
}

pub(crate) fn is_grpc(headers: &HeaderMap) -> bool {
    let kind = headers.get(header::CONTENT_TYPE).map(|kind| kind.as_bytes());
    // gRPC-Web is for those who cannot speak HTTP/2.
    let rest = kind.and_then(|kind| kind.strip_prefix(b"application/grpc"));
    rest.is_some_and(|rest| matches!(rest.first(), None | Some(b'+' | b';')))
}

/// What the dialer said, or what came of a connection that was there.
fn refusal(error: &Error) -> Refusal {
    let causes = std::iter::successors(error.source(), |error| (*error).source());
    let said = causes.filter_map(|cause| cause.downcast_ref::<Refusal>()).next().copied();
    if said.is_none() {
        tracing::debug!(error = error as &dyn StdError, "a request to a sandbox failed");
    }
    said.unwrap_or(Refusal::BrokeOff)
}

#[derive(Clone)]
struct Dialer {
    sandboxes: Arc<Sandboxes>,
    wake: Wake,
}

impl tower::Service<Uri> for Dialer {
    type Response = TokioIo<TunnelStream>;
    type Error = Refusal;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Refusal>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Refusal>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, uri: Uri) -> Self::Future {
        let (sandboxes, wake) = (Arc::clone(&self.sandboxes), self.wake);
        Box::pin(async move {
            let (id, port) = uri.authority().and_then(target).ok_or(Refusal::Internal)?;
            Ok(TokioIo::new(sandboxes.dial(Id::from_uuid(id), port, wake).await?))
        })
    }
}

fn target(authority: &Authority) -> Option<(Uuid, u16)> {
    Some((Uuid::try_parse(authority.host()).ok()?, authority.port_u16()?))
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    #[test]
    fn an_authority_is_a_port_of_a_sandbox() {
        let address = Address { id: Id::new(), port: 3000, name: String::new() };
        for (path, sent) in [("/a//b?c=%20", "/a//b?c=%20"), ("*", "/")] {
            let uri = uri(&address, Some(&path.parse().unwrap())).unwrap();
            assert_eq!(uri.path_and_query().unwrap().as_str(), sent);
            assert_eq!(target(uri.authority().unwrap()), Some((address.id.uuid(), 3000)));
        }
    }

    #[test]
    fn grpc_is_told_by_its_content_type() {
        for (kind, is) in [
            ("application/grpc", true),
            ("application/grpc+proto", true),
            ("application/grpc; x=y", true),
            ("application/grpc-web+proto", false),
            ("application/json", false),
        ] {
            let headers = HeaderMap::from_iter([(header::CONTENT_TYPE, HeaderValue::from_static(kind))]);
            assert_eq!(is_grpc(&headers), is, "{kind}");
        }
    }
}
