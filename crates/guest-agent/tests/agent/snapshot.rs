//! The seal around a snapshot, as the host sees it.

use connectrpc::client::HttpClient;
use http::{Method, StatusCode};
use sandbar_proto::process::process_event::data_event::Output;
use sandbar_proto::process::process_selector::Selector;
use sandbar_proto::process::{
    ConnectRequest, ConnectResponse, ListRequest, ProcessClient, ProcessSelector, process_event::Event,
};
use tokio::io::AsyncReadExt;

use crate::harness::{Agent, Following, TOKEN, start, status_of};

/// What a restore sends, with this token.
fn identity(token: &str) -> String {
    format!(
        r#"{{"accessToken":"{token}","entropy":"AAECAwQFBgc=","timestampUnixNanos":"1700000000000000000"}}"#
    )
}

async fn seal(agent: &Agent) {
    let reply = agent.call(Method::POST, "/snapshot/prepare", &[], r#"{"timeoutMs":60000}"#).await;
    assert_eq!(reply.status, StatusCode::NO_CONTENT, "{}", reply.text());
}

async fn assert_sealed(agent: &Agent) {
    assert_eq!(agent.request(Method::GET, "/health", &[], "").await.status, StatusCode::NO_CONTENT);
    for (method, path) in [
        (Method::GET, "/envs"),
        (Method::GET, "/metrics"),
        (Method::GET, "/files?path=/etc/passwd"),
        (Method::POST, "/files?path=/tmp/sealed"),
        (Method::POST, "/process.Process/List"),
        (Method::POST, "/filesystem.Filesystem/Stat"),
    ] {
        let headers = [("content-type", "application/json")];
        let reply = agent.call(method.clone(), path, &headers, "{}").await;
        assert_eq!(reply.status, StatusCode::SERVICE_UNAVAILABLE, "{method} {path}: {}", reply.text());
        let reply = agent.request(method.clone(), path, &[("x-access-token", "wrong")], "{}").await;
        assert_eq!(reply.status, StatusCode::UNAUTHORIZED, "{method} {path}");
    }
    // A signed address is no way around it.
    let reply = agent.request(Method::GET, "/files?path=/etc/passwd&signature=v1_x", &[], "").await;
    assert_eq!(reply.status, StatusCode::SERVICE_UNAVAILABLE);
}

#[tokio::test]
async fn a_source_goes_on_where_it_was() {
    let agent = Agent::start().await;
    let script = "echo before; while [ ! -e go ]; do sleep 0.01; done; echo after";
    let mut request = start("/bin/sh", &["-c", script]);
    request.process.get_or_insert_default().cwd = Some(agent.at(""));
    let mut following = Following::new(agent.processes().start(request).await.unwrap());
    following.until("before\n").await;

    for _ in 0..2 {
        seal(&agent).await;
        assert_sealed(&agent).await;
    }
    // What was open stays open, and what runs runs on.
    std::fs::write(agent.path("go"), "").unwrap();
    following.until("after\n").await;
    for body in ["", r#"{"timestampUnixNanos":"1700000000000000000"}"#] {
        let reply = agent.call(Method::POST, "/snapshot/resume", &[], body).await;
        assert_eq!(reply.status, StatusCode::NO_CONTENT, "{}", reply.text());
    }
    assert_eq!(agent.sh("echo open").await.out(), "open\n");
    assert_eq!(following.finish().await.unwrap().out(), "before\nafter\n");
}

#[tokio::test]
async fn a_copy_is_another_sandbox_with_the_same_processes() {
    let agent = Agent::start().await;
    let script = "echo before; while [ ! -e go ]; do sleep 0.01; done; echo after; exec sleep 1000";
    let mut request = start("/bin/sh", &["-c", script]);
    request.process.get_or_insert_default().cwd = Some(agent.at(""));
    let mut following = Following::new(agent.processes().start(request).await.unwrap());
    following.until("before\n").await;
    let pid = following.so_far.pid;
    let mut idle = agent.connect_from("127.0.0.1").await;
    assert_eq!(status_of(&mut idle, Method::GET, "/envs", Some(TOKEN)).await, 200);
    seal(&agent).await;

    // Nothing less than a whole identity opens it, and only with the token of before.
    for (token, body) in [(TOKEN, String::new()), (TOKEN, "{}".to_owned()), ("new", identity("new"))] {
        let reply = agent.request(Method::POST, "/init", &[("x-access-token", token)], body).await;
        assert!(reply.status.is_client_error(), "{}", reply.text());
    }
    assert_sealed(&agent).await;
    let reply = agent.call(Method::POST, "/init", &[], identity("new")).await;
    assert_eq!(reply.status, StatusCode::NO_CONTENT, "{}", reply.text());

    // Everything from before is void: the token, idle connections and open streams.
    assert_eq!(agent.call(Method::GET, "/envs", &[], "").await.status, StatusCode::UNAUTHORIZED);
    let mut rest = Vec::new();
    let ended = idle.read_to_end(&mut rest).await;
    assert!(ended.is_ok() || ended.is_err_and(|error| error.kind() == std::io::ErrorKind::ConnectionReset));
    assert!(following.finish().await.is_err(), "a stream from before the seal still delivers");

    // The process is still there, with everything it said.
    std::fs::write(agent.path("go"), "").unwrap();
    let rpc = ProcessClient::new(HttpClient::plaintext(), agent.config_with("new"));
    let listed = rpc.list(ListRequest::default()).await.unwrap().into_owned();
    assert_eq!(listed.processes.iter().map(|process| process.pid).collect::<Vec<_>>(), [pid]);
    let selector = ProcessSelector { selector: Some(Selector::Pid(pid)), ..Default::default() };
    let request = ConnectRequest { process: selector.into(), from_offset: Some(0), ..Default::default() };
    let mut stream = rpc.connect(request).await.unwrap();
    let mut said = Vec::new();
    while !said.ends_with(b"after\n") {
        let message = stream.message::<ConnectResponse>().await.unwrap().expect("more");
        if let Some(Event::Data(data)) = message.to_owned_message().event.into_option().unwrap().event {
            let Some(Output::Stdout(bytes)) = data.output else { panic!("not standard output") };
            said.extend(bytes);
        }
    }
    assert_eq!(said, b"before\nafter\n");
}

#[tokio::test]
async fn the_same_sandbox_may_come_back_on_any_connection() {
    let agent = Agent::start().await;
    let mut stream = agent.connect_from("127.0.0.1").await;
    assert_eq!(status_of(&mut stream, Method::POST, "/snapshot/prepare", Some(TOKEN)).await, 204);
    // On the connection of the seal itself, which is one from before it.
    let body = identity(TOKEN);
    let head = format!(
        "POST /init HTTP/1.1\r\nhost: s\r\nx-access-token: {TOKEN}\r\ncontent-length: {}\r\n\r\n{body}",
        body.len()
    );
    tokio::io::AsyncWriteExt::write_all(&mut stream, head.as_bytes()).await.unwrap();
    let mut answer = [0; 12];
    stream.read_exact(&mut answer).await.unwrap();
    assert_eq!(&answer, b"HTTP/1.1 204");
    assert_eq!(agent.sh("echo open").await.out(), "open\n");
}

#[tokio::test]
async fn a_restarted_agent_is_still_sealed() {
    let mut agent = Agent::start().await;
    seal(&agent).await;
    agent.restart();
    assert_sealed(&agent).await;
    assert_eq!(agent.call(Method::POST, "/snapshot/resume", &[], "").await.status, StatusCode::NO_CONTENT);
    assert_eq!(agent.sh("echo open").await.out(), "open\n");
}

#[tokio::test]
async fn nonsense_seals_nothing() {
    let agent = Agent::start().await;
    for (path, body) in [
        ("/snapshot/prepare", "{"),
        ("/snapshot/prepare", r#"{"timeoutMs":0}"#),
        ("/snapshot/prepare", r#"{"timeoutMs":120001}"#),
        ("/snapshot/prepare", r#"{"timeoutMs":"soon"}"#),
        ("/snapshot/resume", "[1]"),
        ("/snapshot/resume", r#"{"timestampUnixNanos":"soon"}"#),
    ] {
        let reply = agent.call(Method::POST, path, &[], body).await;
        assert_eq!(reply.status, StatusCode::BAD_REQUEST, "{path} {body}");
    }
    assert_eq!(agent.call(Method::GET, "/envs", &[], "").await.status, StatusCode::OK);
}
