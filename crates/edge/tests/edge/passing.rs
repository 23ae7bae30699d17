//! What passes through: bodies of any size both ways, as they come; heads as a proxy has to change them.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::{ConnectInfo, Request};
use axum::routing::{any, get};
use bytes::Bytes;
use http::{HeaderMap, Response};
use http_body_util::{BodyExt as _, StreamBody};
use hyper::body::Frame;
use sandbar_types::Ingress;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;

use crate::world::{World, client, serve};

#[tokio::test]
async fn a_body_comes_back_byte_for_byte_while_it_is_still_sent() {
    let world = World::new().await;
    let echo = any(async |request: Request| Body::from_stream(request.into_body().into_data_stream()));
    world.host.listen(3000, serve(Router::new().fallback(echo)).await);
    let sandbox = world.public().await;
    let (sender, receiver) = mpsc::channel::<Result<Bytes, std::io::Error>>(1);
    let body = reqwest::Body::wrap_stream(ReceiverStream::new(receiver));
    sender.send(Ok("first ".into())).await.unwrap();
    let mut response = world.request("POST", &sandbox, 3000, "/").body(body).send().await.unwrap();
    assert_eq!(response.chunk().await.unwrap().unwrap(), "first ");
    for number in 0..100_u8 {
        let chunk = vec![number; 50_000];
        sender.send(Ok(chunk.clone().into())).await.unwrap();
        let mut back = Vec::new();
        while back.len() < chunk.len() {
            back.extend_from_slice(&response.chunk().await.unwrap().unwrap());
        }
        assert!(back == chunk, "chunk {number}");
    }
    drop(sender);
    assert_eq!(response.chunk().await.unwrap(), None);
}

#[tokio::test]
async fn a_reader_that_does_not_read_holds_back_the_server_and_nobody_else() {
    let world = World::new().await;
    let produced = Arc::new(AtomicUsize::new(0));
    let flood = get({
        let produced = Arc::clone(&produced);
        async move || {
            Body::from_stream(futures::stream::repeat_with(move || {
                produced.fetch_add(1 << 16, Ordering::SeqCst);
                Ok::<_, std::io::Error>(Bytes::from_static(&[0; 1 << 16]))
            }))
        }
    });
    let routes = Router::new().route("/flood", flood).route("/", get(async || "served"));
    world.host.listen(3000, serve(routes).await);
    let sandbox = world.public().await;
    // More of them than would fit into the window of one connection, if they shared it.
    let mut stuck = Vec::new();
    for _ in 0..12 {
        let response = world.request("GET", &sandbox, 3000, "/flood").send().await.unwrap();
        assert_eq!(response.status(), 200);
        stuck.push(response);
    }
    let others = async {
        for _ in 0..5 {
            let response = world.request("GET", &sandbox, 3000, "/").send().await.unwrap();
            assert_eq!(response.text().await.unwrap(), "served");
        }
    };
    tokio::time::timeout(Duration::from_secs(120), others).await.unwrap();
    // Windows and socket buffers, but not without end.
    let before = produced.load(Ordering::SeqCst);
    assert!(before < 12 * (32 << 20), "{before}");
}

/// Tells when it is dropped.
struct Farewell(mpsc::UnboundedSender<()>);

impl Drop for Farewell {
    fn drop(&mut self) {
        let _ = self.0.send(());
    }
}

#[tokio::test]
async fn a_server_hears_that_its_client_has_gone() {
    let world = World::new().await;
    let (told, mut gone) = mpsc::unbounded_channel();
    let (began, mut begun) = mpsc::channel::<()>(1);
    let waits = get(async move || {
        let _farewell = Farewell(told.clone());
        began.send(()).await.unwrap();
        std::future::pending::<()>().await;
    });
    world.host.listen(3000, serve(Router::new().route("/", waits)).await);
    let sandbox = world.public().await;
    let request = tokio::spawn(world.request("GET", &sandbox, 3000, "/").send());
    begun.recv().await.unwrap();
    request.abort();
    let heard = tokio::time::timeout(Duration::from_secs(60), gone.recv()).await;
    assert_eq!(heard.expect("the server goes on for nobody"), Some(()));
}

#[tokio::test]
async fn heads_are_as_a_proxy_has_to_have_them() {
    let world = World::new().await;
    let seen = any(async |headers: HeaderMap| {
        let pairs = headers.iter().map(|(name, value)| format!("{name}={}\n", value.to_str().unwrap()));
        let body = pairs.collect::<String>();
        Response::builder()
            .header("connection", "x-hop")
            .header("x-hop", "1")
            .header("x-own", "2")
            .header("set-cookie", "a=1")
            .header("set-cookie", "b=2")
            .body(Body::from(body))
            .unwrap()
    });
    world.host.listen(3000, serve(Router::new().fallback(seen)).await);
    let sandbox = world.public().await;
    let request = world.request("GET", &sandbox, 3000, "/").header("x-forwarded-for", "198.51.100.7");
    let request = request.header("connection", "x-mine").header("x-mine", "1").header("cookie", "a=1");
    let request = request.header("traceparent", "theirs").header("tracestate", "a=1, b");
    let response = request.send().await.unwrap();
    assert!(response.headers().get("x-hop").is_none());
    assert_eq!(response.headers()["x-own"], "2");
    assert_eq!(response.headers().get_all("set-cookie").iter().count(), 2);
    let seen = response.text().await.unwrap();
    let host = format!("3000-{}.{}", sandbox.id.e2b(), crate::world::DOMAIN);
    for line in [
        format!("host={host}\n"),
        format!("x-forwarded-host={host}\n"),
        "x-forwarded-proto=http\n".to_owned(),
        "x-forwarded-for=127.0.0.1\n".to_owned(),
        "cookie=a=1\n".to_owned(),
        // The edge's own trace is not the server's.
        "traceparent=theirs\n".to_owned(),
        "tracestate=a=1, b\n".to_owned(),
    ] {
        assert!(seen.contains(&line), "{line}{seen}");
    }
    assert!(!seen.contains("x-mine"), "{seen}");

    let masked = Ingress {
        public: true,
        mask_request_host: Some("localhost:${PORT}".to_owned()),
        ..Ingress::default()
    };
    let masked = world.sandbox(masked).await;
    let seen = world.request("GET", &masked, 3000, "/").send().await.unwrap().text().await.unwrap();
    assert!(seen.contains("host=localhost:3000\n"), "{seen}");
}

#[tokio::test]
async fn a_trusted_proxy_says_for_whom_it_asks() {
    let world = World::trusting(&["127.0.0.0/8".parse().unwrap()]).await;
    let seen = any(async |headers: HeaderMap| {
        format!("{:?} {:?}", headers["x-forwarded-for"], headers["x-forwarded-proto"])
    });
    world.host.listen(3000, serve(Router::new().fallback(seen)).await);
    let sandbox = world.public().await;
    let request = world.request("GET", &sandbox, 3000, "/");
    let request = request.header("x-forwarded-for", "198.51.100.7").header("x-forwarded-proto", "https");
    let seen = request.send().await.unwrap().text().await.unwrap();
    assert_eq!(seen, r#""198.51.100.7, 127.0.0.1" "https""#);
}

#[tokio::test]
async fn http2_both_ways_with_trailers_as_grpc_has_them() {
    let world = World::new().await;
    let grpc = any(async |request: Request| {
        assert_eq!(request.version(), http::Version::HTTP_2);
        let collected = request.into_body().collect().await.unwrap();
        let sent = collected.trailers().cloned().unwrap_or_default();
        let frames = [
            Ok::<_, std::io::Error>(Frame::data(collected.to_bytes())),
            Ok(Frame::trailers(HeaderMap::from_iter([
                ("grpc-status".parse().unwrap(), "0".parse().unwrap()),
                ("seen".parse().unwrap(), sent.get("sum").cloned().unwrap_or("none".parse().unwrap())),
            ]))),
        ];
        Body::new(StreamBody::new(futures::stream::iter(frames)))
    });
    world.host.listen(3000, serve(Router::new().fallback(grpc)).await);
    let sandbox = world.public().await;

    let stream = tokio::net::TcpStream::connect(world.at).await.unwrap();
    let executor = hyper_util::rt::TokioExecutor::new();
    let io = hyper_util::rt::TokioIo::new(stream);
    let (mut sender, connection) = hyper::client::conn::http2::handshake(executor, io).await.unwrap();
    tokio::spawn(connection);
    let frames = [
        Ok::<_, std::io::Error>(Frame::data(Bytes::from_static(b"message"))),
        Ok(Frame::trailers(HeaderMap::from_iter([("sum".parse().unwrap(), "7".parse().unwrap())]))),
    ];
    let request = http::Request::post(format!("http://3000-{}.sbx.test/a.B/C", sandbox.id.e2b()))
        .header("content-type", "application/grpc")
        .header("te", "trailers")
        .body(StreamBody::new(futures::stream::iter(frames)))
        .unwrap();
    let response = sender.send_request(request).await.unwrap();
    assert_eq!(response.status(), 200);
    let collected = response.into_body().collect().await.unwrap();
    let trailers = collected.trailers().cloned().unwrap();
    assert_eq!((&trailers["grpc-status"], &trailers["seen"]), (&"0".parse().unwrap(), &"7".parse().unwrap()));
    assert_eq!(collected.to_bytes(), "message");
}

#[tokio::test]
async fn connections_into_a_sandbox_are_kept_for_the_next_request() {
    let world = World::new().await;
    let who = get(async |ConnectInfo(peer): ConnectInfo<SocketAddr>| peer.to_string());
    world.host.listen(3000, serve(Router::new().route("/", who)).await);
    let sandbox = world.public().await;
    let mut peers = Vec::new();
    for _ in 0..5 {
        let client = client();
        let response = world.request_by(&client, "GET", &sandbox, 3000, "/").send().await.unwrap();
        peers.push(response.text().await.unwrap());
    }
    peers.dedup();
    assert_eq!(peers.len(), 1, "{peers:?}");
}

#[tokio::test]
async fn a_head_request_has_the_length_and_no_body() {
    let world = World::new().await;
    world.host.listen(3000, serve(Router::new().route("/", get(async || "12345"))).await);
    let sandbox = world.public().await;
    let response = world.request("HEAD", &sandbox, 3000, "/").send().await.unwrap();
    assert_eq!(response.headers()["content-length"], "5");
    assert_eq!(response.text().await.unwrap(), "");
}
