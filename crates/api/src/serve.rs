//! Serves a router on a listener, with the limits that a public port needs and an orderly end.
//!
//! | what | limit |
//! |---|---|
//! | connections | [`Limits`]; those above are answered 503 and closed (`turned_away.rs`) |
//! | silence before the first request, while the head of one is sent, and by HTTP/1 between two | [`HEADER_LIMIT`] |
//! | a request's head | [`HEAD_BYTES`], [`HTTP1_HEADERS`] lines |
//! | requests at once over one HTTP/2 connection | [`HTTP2_STREAMS`] |
//! | a client of HTTP/2 that is gone without a word | two of [`HTTP2_KEEP_ALIVE`]; one that answers may be idle for as long as it likes |
//!
//! Bodies are bounded where they are read: in time in `request.rs` and `extract.rs`, in bytes in `extract.rs`.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::{ConnectInfo, Request};
use hyper::body::Incoming;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto::Builder;
use hyper_util::server::graceful::GracefulShutdown;
use hyper_util::service::TowerToHyperService;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tower::ServiceExt as _;

use crate::client::Peer;
use crate::first_bytes::FirstBytes;
use crate::transport::Listener;
use crate::turned_away::TurnedAway;

/// How long a client may take to send the head of a request. Also how long an idle one of HTTP/1 is kept.
const HEADER_LIMIT: Duration = Duration::from_secs(30);
/// How often a silent HTTP/2 connection is asked whether it still lives, and how long it may take to answer.
const HTTP2_KEEP_ALIVE: Duration = Duration::from_secs(30);
/// Most bytes of the head of a request.
const HEAD_BYTES: u32 = 64 << 10;
/// Most header lines of a request by HTTP/1.
const HTTP1_HEADERS: usize = 100;
/// Most requests at once over one HTTP/2 connection.
const HTTP2_STREAMS: u32 = 128;
/// After an accept error that will not go away by itself at once (out of file descriptors).
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// What one listener takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Connections at the same time.
    pub connections: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self { connections: 4096 }
    }
}

/// Serves until `stop`, then takes no more connections, lets the requests that are under way end within `grace`, and returns.
pub async fn serve(
    listener: impl Into<Listener>,
    router: Router,
    limits: Limits,
    stop: CancellationToken,
    grace: Duration,
) {
    let listener = listener.into();
    let connections = GracefulShutdown::new();
    // Whatever ends this future cuts off the connections that are left.
    let cut = CancellationToken::new();
    let _cut_at_the_end = cut.clone().drop_guard();
    let mut builder = Builder::new(TokioExecutor::new());
    builder
        .http1()
        .timer(TokioTimer::new())
        .header_read_timeout(HEADER_LIMIT)
        .max_headers(HTTP1_HEADERS)
        .max_buf_size(HEAD_BYTES as usize);
    builder
        .http2()
        .timer(TokioTimer::new())
        .max_concurrent_streams(HTTP2_STREAMS)
        .max_header_list_size(HEAD_BYTES)
        .keep_alive_interval(HTTP2_KEEP_ALIVE)
        .keep_alive_timeout(HTTP2_KEEP_ALIVE)
        .enable_connect_protocol();

    let places = Arc::new(Semaphore::new(limits.connections));
    let turned_away = TurnedAway::default();
    while let Some(accepted) = stop.run_until_cancelled(listener.tcp.accept()).await {
        let (stream, peer) = match accepted {
            Ok(accepted) => accepted,
            Err(error) => {
                tracing::warn!(%error, "a connection could not be accepted");
                tokio::time::sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        // Small answers must not wait for one another; a socket that refuses is served all the same.
        let _ = stream.set_nodelay(true);
        let Ok(place) = Arc::clone(&places).try_acquire_owned() else {
            turned_away.send(stream);
            continue;
        };
        let (stream, scheme) = (FirstBytes::within(HEADER_LIMIT, listener.secure(stream)), listener.scheme());
        let service = router
            .clone()
            .map_request(move |mut request: Request<Incoming>| {
                request.extensions_mut().insert(Peer(peer));
                // For what stands before the API, which does not know it.
                request.extensions_mut().insert(ConnectInfo(peer));
                request.extensions_mut().insert(scheme.clone());
                request.map(axum::body::Body::new)
            })
            .map_err(|never: Infallible| match never {});
        let service = TowerToHyperService::new(service);
        let connection = builder.serve_connection_with_upgrades(TokioIo::new(stream), service).into_owned();
        let connection = cut.clone().run_until_cancelled_owned(connections.watch(connection));
        tokio::spawn(async move {
            let _place = place;
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

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;
    use std::sync::Arc;

    use axum::routing::{get, post};
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::net::{TcpListener, TcpStream};
    use tokio::sync::Notify;
    use tokio::task::JoinHandle;

    use super::*;
    use crate::extract::JsonBody;

    async fn started(
        router: Router,
        stop: &CancellationToken,
        grace: Duration,
    ) -> (SocketAddr, JoinHandle<()>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        (address, tokio::spawn(serve(listener, router, Limits::default(), stop.clone(), grace)))
    }

    /// Sends this and returns all that comes back until the server closes.
    async fn exchange(address: SocketAddr, bytes: &str) -> String {
        let mut stream = TcpStream::connect(address).await.unwrap();
        stream.write_all(bytes.as_bytes()).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        answer
    }

    // The clock is stopped and jumps to the next timer whenever nothing else is left to do.
    #[tokio::test(start_paused = true)]
    async fn a_client_that_never_ends_its_request_is_cut_off() {
        let router = Router::new()
            .route("/", post(async |JsonBody(_): JsonBody<serde_json::Value>| ()))
            .layer(axum::middleware::from_fn(crate::request::surround));
        let (address, _server) = started(router, &CancellationToken::new(), Duration::ZERO).await;
        for silence in ["", "P", "POST / HTTP/1.1\r\nHost: x\r\n"] {
            let answer = exchange(address, silence).await;
            assert!(!answer.contains("200 OK"), "{answer}");
        }
        let half_a_body =
            "POST / HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 9\r\n\r\n{";
        assert!(exchange(address, half_a_body).await.starts_with("HTTP/1.1 400"));
    }

    #[tokio::test]
    async fn a_request_that_is_under_way_at_the_end_is_answered_and_no_other_is_taken() {
        let (entered, release) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
        let router = Router::new().route("/", {
            let (entered, release) = (Arc::clone(&entered), Arc::clone(&release));
            get(async move || {
                entered.notify_one();
                release.notified().await;
                "done"
            })
        });
        let stop = CancellationToken::new();
        let (address, server) = started(router, &stop, Duration::from_secs(30)).await;
        let request = tokio::spawn(exchange(address, "GET / HTTP/1.1\r\nHost: x\r\n\r\n"));
        entered.notified().await;
        stop.cancel();
        // The listener is gone once the server waits for the request alone; until then the kernel may still take connections.
        while TcpStream::connect(address).await.is_ok() {
            tokio::task::yield_now().await;
        }
        release.notify_one();
        assert!(request.await.unwrap().ends_with("done"));
        server.await.unwrap();
    }

    #[tokio::test(start_paused = true)]
    async fn a_request_that_does_not_end_is_cut_off_after_the_grace() {
        let entered = Arc::new(Notify::new());
        let router = Router::new().route("/", {
            let entered = Arc::clone(&entered);
            get(async move || {
                entered.notify_one();
                std::future::pending::<()>().await;
            })
        });
        let stop = CancellationToken::new();
        let (address, server) = started(router, &stop, Duration::from_secs(5)).await;
        let request = tokio::spawn(exchange(address, "GET / HTTP/1.1\r\nHost: x\r\n\r\n"));
        entered.notified().await;
        stop.cancel();
        server.await.unwrap();
        assert_eq!(request.await.unwrap(), "");
    }

    #[tokio::test(start_paused = true)]
    async fn a_body_that_trickles_in_is_cut_off_too() {
        let router = Router::new()
            .route("/", post(async |JsonBody(_): JsonBody<serde_json::Value>| ()))
            .layer(axum::middleware::from_fn(crate::request::surround));
        let (address, _server) = started(router, &CancellationToken::new(), Duration::ZERO).await;
        let mut stream = TcpStream::connect(address).await.unwrap();
        let head =
            "POST / HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 900\r\n\r\n{";
        stream.write_all(head.as_bytes()).await.unwrap();
        let (mut read, mut write) = stream.into_split();
        let trickle = tokio::spawn(async move {
            while write.write_all(b" ").await.is_ok() {
                tokio::time::sleep(Duration::from_secs(5)).await;
            }
        });
        let mut answer = vec![0; 12];
        read.read_exact(&mut answer).await.unwrap();
        assert_eq!(answer, b"HTTP/1.1 400");
        trickle.abort();
    }

    #[tokio::test]
    async fn a_head_that_is_too_large_is_refused() {
        let router = Router::new().route("/", get(async || "served"));
        let (address, _server) = started(router, &CancellationToken::new(), Duration::ZERO).await;
        let filler = "x".repeat(16 << 10);
        let of = |lines: &str| format!("GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n{lines}\r\n");
        let small = exchange(address, &of(&format!("A: {filler}\r\n"))).await;
        assert!(small.starts_with("HTTP/1.1 200"), "{small}");
        for lines in [format!("A: {filler}\r\n").repeat(5), "A: b\r\n".repeat(101)] {
            let answer = exchange(address, &of(&lines)).await;
            assert!(answer.starts_with("HTTP/1.1 431"), "{answer}");
        }
    }

    #[tokio::test]
    async fn a_connection_above_the_limit_is_told_so_at_once_and_one_that_ends_makes_room() {
        let router = Router::new().route("/", get(async || "served"));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let limits = Limits { connections: 1 };
        let _server = tokio::spawn(serve(listener, router, limits, CancellationToken::new(), Duration::ZERO));
        let mut first = TcpStream::connect(address).await.unwrap();
        first.write_all(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n").await.unwrap();
        let mut answer = [0; 12];
        first.read_exact(&mut answer).await.unwrap();
        assert_eq!(&answer, b"HTTP/1.1 200");

        let request = "GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n";
        let refused = exchange(address, request).await;
        assert!(refused.starts_with("HTTP/1.1 503") && refused.contains("Retry-After: 1"), "{refused}");
        let body = refused.split_once("\r\n\r\n").unwrap().1;
        let body: serde_json::Value = serde_json::from_str(body).unwrap();
        assert_eq!(body["error"]["code"], "rate_limited");

        drop(first);
        // The server notices a moment later.
        while !exchange(address, request).await.starts_with("HTTP/1.1 200") {
            tokio::task::yield_now().await;
        }
    }

    #[tokio::test]
    async fn one_http2_connection_carries_so_many_requests_at_once_and_no_more() {
        let entered = Arc::new(Semaphore::new(0));
        let router = Router::new().route("/", {
            let entered = Arc::clone(&entered);
            get(async move || {
                entered.add_permits(1);
                std::future::pending::<()>().await;
            })
        });
        let (address, _server) = started(router, &CancellationToken::new(), Duration::ZERO).await;
        let stream = TcpStream::connect(address).await.unwrap();
        let (mut client, connection) =
            hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await.unwrap();
        tokio::spawn(connection);
        let mut requests = Vec::new();
        for _ in 0..HTTP2_STREAMS + 20 {
            let request = Request::get(format!("http://{address}/")).body(String::new()).unwrap();
            requests.push(Box::pin(client.send_request(request)));
        }
        let all = futures::future::select_all(requests);
        let full = async {
            let _permits = entered.acquire_many(HTTP2_STREAMS).await.unwrap();
            // A request by another connection is served after all that this one was let in with.
            exchange(address, "GET /none HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").await
        };
        tokio::select! {
            (ended, ..) = all => panic!("{ended:?}"),
            answer = full => assert!(answer.starts_with("HTTP/1.1 404"), "{answer}"),
        }
        assert_eq!(entered.available_permits(), HTTP2_STREAMS as usize);
    }
}
