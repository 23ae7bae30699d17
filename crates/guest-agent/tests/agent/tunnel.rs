//! Tunnels to ports inside.

use std::net::SocketAddr;

use http::{Method, StatusCode};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpSocket, TcpStream};

use crate::harness::{Agent, TOKEN};

/// Asks for a tunnel: the status, and the connection behind the answer's head.
async fn ask(agent: &Agent, query: &str, more: &str) -> (u16, BufReader<TcpStream>) {
    let mut stream = BufReader::new(agent.connect_from("127.0.0.1").await);
    let head = format!("GET /connect{query} HTTP/1.1\r\nhost: s\r\nx-access-token: {TOKEN}\r\n{more}\r\n");
    stream.write_all(head.as_bytes()).await.unwrap();
    let mut lines = Vec::new();
    loop {
        let mut line = String::new();
        stream.read_line(&mut line).await.unwrap();
        if line.trim().is_empty() {
            break;
        }
        lines.push(line.to_ascii_lowercase());
    }
    let status = lines[0].split_whitespace().nth(1).unwrap().parse().unwrap();
    if status == 101 {
        assert!(lines.iter().any(|line| line.trim() == "upgrade: tcp"), "{lines:?}");
    }
    (status, stream)
}

const UPGRADE: &str = "connection: Upgrade\r\nupgrade: tcp\r\n";

async fn tunnel(agent: &Agent, port: u16) -> BufReader<TcpStream> {
    let (status, stream) = ask(agent, &format!("?port={port}"), UPGRADE).await;
    assert_eq!(status, 101);
    stream
}

/// A port on which nobody listens, and nobody else can for as long as the socket is there.
fn closed_port(wanted: u16) -> std::io::Result<(TcpSocket, u16)> {
    let socket = TcpSocket::new_v4()?;
    socket.bind(SocketAddr::from(([127, 0, 0, 1], wanted)))?;
    let port = socket.local_addr()?.port();
    Ok((socket, port))
}

#[tokio::test]
async fn each_direction_ends_by_itself() {
    let agent = Agent::start().await;
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let mut outside = tunnel(&agent, listener.local_addr().unwrap().port()).await;
    let (mut inside, _) = listener.accept().await.unwrap();

    // The caller has said all, and still hears.
    outside.write_all(b"question").await.unwrap();
    outside.shutdown().await.unwrap();
    let mut heard = String::new();
    inside.read_to_string(&mut heard).await.unwrap();
    inside.write_all(b"answer").await.unwrap();
    drop(inside);
    let mut answer = String::new();
    outside.read_to_string(&mut answer).await.unwrap();
    assert_eq!((heard.as_str(), answer.as_str()), ("question", "answer"));

    // And the other way round.
    let mut outside = tunnel(&agent, listener.local_addr().unwrap().port()).await;
    let (mut inside, _) = listener.accept().await.unwrap();
    inside.write_all(b"welcome").await.unwrap();
    inside.shutdown().await.unwrap();
    let mut welcome = String::new();
    outside.read_to_string(&mut welcome).await.unwrap();
    outside.write_all(b"thanks").await.unwrap();
    drop(outside);
    let mut thanks = String::new();
    inside.read_to_string(&mut thanks).await.unwrap();
    assert_eq!((welcome.as_str(), thanks.as_str()), ("welcome", "thanks"));
}

#[tokio::test]
async fn a_hundred_megabytes_pass_both_ways_in_little_memory() {
    const LENGTH: usize = 100 << 20;
    let agent = Agent::start().await;
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let outside = tunnel(&agent, listener.local_addr().unwrap().port()).await.into_inner();
    let (inside, _) = listener.accept().await.unwrap();
    let before = agent.memory_kib();
    async fn send(mut to: impl AsyncWriteExt + Unpin, seed: u8) {
        let piece: Vec<u8> = (0..64 << 10).map(|n: u32| u8::try_from(n % 251).unwrap() ^ seed).collect();
        for _ in 0..LENGTH / piece.len() {
            to.write_all(&piece).await.unwrap();
        }
        to.shutdown().await.unwrap();
    }
    async fn receive(mut from: impl AsyncReadExt + Unpin, seed: u8) {
        let piece: Vec<u8> = (0..64 << 10).map(|n: u32| u8::try_from(n % 251).unwrap() ^ seed).collect();
        let mut buffer = vec![0; piece.len()];
        for _ in 0..LENGTH / piece.len() {
            from.read_exact(&mut buffer).await.unwrap();
            assert!(buffer == piece);
        }
        assert_eq!(from.read(&mut buffer).await.unwrap(), 0);
    }
    let ((from_inside, to_inside), (from_outside, to_outside)) = (inside.into_split(), outside.into_split());
    tokio::join!(send(to_inside, 1), receive(from_outside, 1), send(to_outside, 2), receive(from_inside, 2),);
    let grown = agent.memory_kib().saturating_sub(before);
    assert!(grown < 4096, "{grown} KiB more");
}

#[tokio::test]
async fn who_listens_on_the_sixth_versions_loopback_alone_is_reached() {
    let agent = Agent::start().await;
    // A port that nobody has on the fourth's.
    let (listener, _reserved, port) = loop {
        let listener = TcpListener::bind("[::1]:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        if let Ok((reserved, port)) = closed_port(port) {
            break (listener, reserved, port);
        }
    };
    let mut outside = tunnel(&agent, port).await;
    let (mut inside, _) = listener.accept().await.unwrap();
    inside.write_all(b"six").await.unwrap();
    drop(inside);
    let mut heard = String::new();
    outside.read_to_string(&mut heard).await.unwrap();
    assert_eq!(heard, "six");
}

#[tokio::test]
async fn a_closed_port_is_named() {
    let agent = Agent::start().await;
    let (_reserved, port) = closed_port(0).unwrap();
    let (status, mut stream) = ask(&agent, &format!("?port={port}"), UPGRADE).await;
    assert_eq!(status, 502);
    let body = serde_json::json!({
        "code": 502, "message": "The sandbox is running but port is not open", "port": port
    });
    let mut answer = vec![0; body.to_string().len()];
    stream.read_exact(&mut answer).await.unwrap();
    assert_eq!(serde_json::from_slice::<serde_json::Value>(&answer).unwrap(), body);
    // A refusal is an answer like any other: the connection goes on.
    stream.write_all(b"GET /health HTTP/1.1\r\nhost: s\r\n\r\n").await.unwrap();
    let mut line = String::new();
    stream.read_line(&mut line).await.unwrap();
    assert!(line.starts_with("HTTP/1.1 204"), "{line:?}");
}

#[tokio::test]
async fn nonsense_is_refused() {
    let agent = Agent::start().await;
    let own = format!("?port={}", agent.address.port());
    for query in ["", "?port=", "?port=0", "?port=65536", "?port=-1", "?port=x", "?ports=80", &own] {
        assert_eq!(ask(&agent, query, UPGRADE).await.0, 400, "{query}");
    }
    let open = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = open.local_addr().unwrap().port();
    for more in ["", "connection: Upgrade\r\nupgrade: websocket\r\n", "connection: Upgrade\r\n"] {
        assert_eq!(ask(&agent, &format!("?port={port}"), more).await.0, 426, "{more:?}");
    }
    let reply = agent.request(Method::GET, &format!("/connect?port={port}"), &[], "").await;
    assert_eq!(reply.status, StatusCode::UNAUTHORIZED);
}

#[tokio::test]
async fn a_tunnel_ends_when_the_guest_becomes_another_sandbox() {
    let agent = Agent::start().await;
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let _outside = tunnel(&agent, listener.local_addr().unwrap().port()).await;
    let (mut inside, _) = listener.accept().await.unwrap();
    let reply = agent.call(Method::POST, "/snapshot/prepare", &[], "").await;
    assert_eq!(reply.status, StatusCode::NO_CONTENT);
    let identity = r#"{"accessToken":"new","entropy":"AAECAwQFBgc=","timestampUnixNanos":1}"#;
    assert_eq!(agent.call(Method::POST, "/init", &[], identity).await.status, StatusCode::NO_CONTENT);
    let ended = inside.read(&mut [0; 1]).await;
    assert!(matches!(ended, Ok(0) | Err(_)), "{ended:?}");
}
