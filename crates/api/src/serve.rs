//! Serves a router on a listener, with the time limits that a public port needs and an orderly end.

use std::convert::Infallible;
use std::time::Duration;

use axum::Router;
use axum::extract::Request;
use hyper::body::Incoming;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto::Builder;
use hyper_util::server::graceful::GracefulShutdown;
use hyper_util::service::TowerToHyperService;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tower::ServiceExt as _;

/// How long a client may take to send the head of a request. Also how long an idle connection is kept.
const HEADER_LIMIT: Duration = Duration::from_secs(30);
/// How often a silent HTTP/2 connection is asked whether it still lives, and how long it may take to answer.
const HTTP2_KEEP_ALIVE: Duration = Duration::from_secs(30);
/// After an accept error that will not go away by itself at once (out of file descriptors).
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Serves until `stop`, then takes no more connections, lets the requests that are under way end within `grace`, and returns.
pub async fn serve(listener: TcpListener, router: Router, stop: CancellationToken, grace: Duration) {
    let connections = GracefulShutdown::new();
    // Whatever ends this future cuts off the connections that are left.
    let cut = CancellationToken::new();
    let _cut_at_the_end = cut.clone().drop_guard();
    let mut builder = Builder::new(TokioExecutor::new());
    builder.http1().timer(TokioTimer::new()).header_read_timeout(HEADER_LIMIT);
    builder
        .http2()
        .timer(TokioTimer::new())
        .keep_alive_interval(HTTP2_KEEP_ALIVE)
        .keep_alive_timeout(HTTP2_KEEP_ALIVE)
        .enable_connect_protocol();

    while let Some(accepted) = stop.run_until_cancelled(listener.accept()).await {
        let stream = match accepted {
            Ok((stream, _)) => stream,
            Err(error) => {
                tracing::warn!(%error, "a connection could not be accepted");
                tokio::time::sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        // Small answers must not wait for one another; a socket that refuses is served all the same.
        let _ = stream.set_nodelay(true);
        let service = router
            .clone()
            .map_request(|request: Request<Incoming>| request.map(axum::body::Body::new))
            .map_err(|never: Infallible| match never {});
        let service = TowerToHyperService::new(service);
        let connection = builder.serve_connection_with_upgrades(TokioIo::new(stream), service).into_owned();
        let connection = cut.clone().run_until_cancelled_owned(connections.watch(connection));
        tokio::spawn(async move {
            // A client that breaks off is its own affair.
            if let Some(Err(error)) = connection.await {
                tracing::debug!(error, "a connection broke");
            }
        });
    }

    drop(listener);
    if tokio::time::timeout(grace, connections.shutdown()).await.is_err() {
        tracing::warn!("some requests did not end in time and are cut off");
    }
}
