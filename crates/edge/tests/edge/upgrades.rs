//! Connections that become something else.

use axum::Router;
use axum::extract::ws::{Message, WebSocketUpgrade};
use axum::routing::any;
use futures::{SinkExt as _, StreamExt as _};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::client::IntoClientRequest as _;
use tokio_tungstenite::tungstenite::protocol::Role;

use crate::world::{World, edge, serve};

async fn echo() -> std::net::SocketAddr {
    let echo = any(async |upgrade: WebSocketUpgrade| {
        upgrade.on_upgrade(async |mut socket| {
            while let Some(Ok(message)) = socket.next().await {
                if matches!(message, Message::Text(_) | Message::Binary(_)) {
                    socket.send(message).await.unwrap();
                }
            }
        })
    });
    serve(Router::new().route("/ws", echo)).await
}

#[tokio::test]
async fn a_websocket_passes_and_ends_by_its_own_farewell() {
    let world = World::new().await;
    world.host.listen(3000, echo().await);
    let sandbox = world.public().await;
    let mut request = format!("ws://{}/ws", world.at).into_client_request().unwrap();
    let host = format!("3000-{}.sbx.test", sandbox.id);
    request.headers_mut().insert("host", host.parse().unwrap());
    let stream = TcpStream::connect(world.at).await.unwrap();
    let (mut socket, _) = tokio_tungstenite::client_async(request, stream).await.unwrap();
    for size in [0, 1, 70_000, 1 << 20] {
        let bytes = vec![7; size];
        socket.send(bytes.clone().into()).await.unwrap();
        assert!(socket.next().await.unwrap().unwrap().into_data() == bytes, "{size}");
    }
    socket.close(None).await.unwrap();
    while let Some(Ok(_)) = socket.next().await {}
}

#[tokio::test]
async fn a_websocket_over_http2_is_one_to_a_server_of_http1() {
    let world = World::new().await;
    world.host.listen(3000, echo().await);
    let sandbox = world.public().await;
    let at = extended(&world).await;
    let stream = TcpStream::connect(at).await.unwrap();
    let (mut sender, connection) =
        hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await.unwrap();
    tokio::spawn(connection);
    // Until the server has said that it knows the method.
    sender.ready().await.unwrap();
    let plain = http::Request::get(format!("http://3000-{}.sbx.test/ws", sandbox.id.e2b()));
    sender.send_request(plain.body(http_body_util::Empty::<bytes::Bytes>::new()).unwrap()).await.unwrap();
    let request = http::Request::connect(format!("http://3000-{}.sbx.test/ws", sandbox.id.e2b()))
        .header("sec-websocket-version", "13")
        .extension(hyper::ext::Protocol::from_static("websocket"))
        .body(http_body_util::Empty::<bytes::Bytes>::new())
        .unwrap();
    let response = sender.send_request(request).await.unwrap();
    assert_eq!(response.status(), 200);
    assert!(response.headers().get("sec-websocket-accept").is_none());
    let upgraded = TokioIo::new(hyper::upgrade::on(response).await.unwrap());
    let mut socket = WebSocketStream::from_raw_socket(upgraded, Role::Client, None).await;
    socket.send("hello".into()).await.unwrap();
    assert_eq!(socket.next().await.unwrap().unwrap().into_text().unwrap(), "hello");
}

/// The same edge on a listener that takes extended CONNECT, as the platform's does.
async fn extended(world: &World) -> std::net::SocketAddr {
    let router = sandbar_edge::router(world.control.clone(), edge(), Router::new());
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let at = listener.local_addr().unwrap();
    tokio::spawn(async move {
        let mut builder = hyper_util::server::conn::auto::Builder::new(TokioExecutor::new());
        builder.http2().enable_connect_protocol();
        let (stream, _) = listener.accept().await.unwrap();
        let service = hyper_util::service::TowerToHyperService::new(router);
        builder.serve_connection_with_upgrades(TokioIo::new(stream), service).await
    });
    at
}

#[tokio::test]
async fn any_protocol_passes_and_each_direction_ends_by_itself() {
    let world = World::new().await;
    // Reads to the end of what it is sent, and only then says how much that was.
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    world.host.listen(3000, listener.local_addr().unwrap());
    tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            head.push(stream.read_u8().await.unwrap());
        }
        let answer = "HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: counting\r\n\r\n";
        stream.write_all(answer.as_bytes()).await.unwrap();
        let mut all = Vec::new();
        stream.read_to_end(&mut all).await.unwrap();
        stream.write_all(format!("{} bytes", all.len()).as_bytes()).await.unwrap();
    });
    let sandbox = world.public().await;
    let mut stream = TcpStream::connect(world.at).await.unwrap();
    let head = format!(
        "GET / HTTP/1.1\r\nHost: 3000-{}.x\r\nConnection: upgrade\r\nUpgrade: counting\r\n\r\n",
        sandbox.id.e2b()
    );
    stream.write_all(head.as_bytes()).await.unwrap();
    let mut answer = Vec::new();
    while !answer.ends_with(b"\r\n\r\n") {
        answer.push(stream.read_u8().await.unwrap());
    }
    let answer = String::from_utf8(answer).unwrap().to_lowercase();
    assert!(answer.starts_with("http/1.1 101") && answer.contains("upgrade: counting"), "{answer}");
    stream.write_all(&vec![1; 300_000]).await.unwrap();
    stream.shutdown().await.unwrap();
    let mut counted = String::new();
    stream.read_to_string(&mut counted).await.unwrap();
    assert_eq!(counted, "300000 bytes");
}
