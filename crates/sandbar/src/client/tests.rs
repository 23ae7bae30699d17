//! The client against a server that says what the contract says, and what it does not.

use std::collections::HashMap;

use axum::Router;
use axum::body::Body;
use axum::extract::ws::{Message, WebSocketUpgrade};
use axum::extract::{Path, Query};
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse as _, Response};
use axum::routing::{get, post};
use sandbar_types::{Id, SandboxStatus, id};
use serde_json::{Value, json};

use super::*;

/// Serves until the test ends; gives the address.
pub(crate) async fn serve(router: Router) -> String {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    tokio::spawn(async move { axum::serve(listener, router).await });
    url
}

pub(crate) fn client(url: &str) -> Client {
    Client::new(url, "e2b_key".into()).unwrap()
}

fn sandbox_json(id: Id<id::Sandbox>) -> Value {
    json!({"id": id, "status": "running", "template": "base", "vcpus": 1, "memory_mb": 512, "disk_mb": 4096,
        "metadata": {"a": "b"}, "created_at": "2026-11-22T04:33:12.345678Z", "of_a_later_version": [1, 2]})
}

async fn error_of(status: StatusCode, body: &'static str) -> ClientError {
    let router = Router::new().fallback(move || async move { (status, body) });
    client(&serve(router).await).sandbox(Id::new()).await.unwrap_err()
}

#[tokio::test]
async fn refusals_say_what_to_do() {
    let error = error_of(
        StatusCode::CONFLICT,
        r#"{"error":{"code":"invalid_state","message":"it is stopped","request_id":"r1"}}"#,
    )
    .await;
    assert_eq!(error.code(), Some("invalid_state"));
    assert_eq!(error.to_string(), "it is stopped (invalid_state, request r1)");

    let error = error_of(
        StatusCode::UNAUTHORIZED,
        r#"{"error":{"code":"unauthorized","message":"no","request_id":"r1"}}"#,
    )
    .await;
    assert!(matches!(error, ClientError::KeyRefused { .. }));
    assert!(error.to_string().contains("SANDBAR_API_KEY"), "{error}");

    let error = error_of(StatusCode::BAD_GATEWAY, "<html>proxy</html>").await;
    assert!(matches!(error, ClientError::NotSandbar { status: StatusCode::BAD_GATEWAY, .. }), "{error}");

    // An address on which nobody listens.
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    drop(listener);
    let error = client(&url).sandbox(Id::new()).await.unwrap_err();
    assert!(matches!(error, ClientError::Unreachable { .. }), "{error:?}");
    assert!(error.to_string().contains("sandbar up") && error.to_string().contains(&url), "{error}");

    // A success that is none.
    let router = Router::new().fallback(|| async { "[]" });
    let error = client(&serve(router).await).sandbox(Id::new()).await.unwrap_err();
    assert!(matches!(error, ClientError::Broken { .. }), "{error:?}");
}

#[tokio::test]
async fn lists_all_pages_and_keeps_what_it_does_not_know() {
    async fn list(headers: HeaderMap, Query(query): Query<HashMap<String, String>>) -> Response {
        assert_eq!(headers["x-api-key"], "e2b_key");
        assert_eq!(query["status"], "running,paused");
        assert_eq!(query["metadata"], "name=a&b=c");
        let page = |next: Option<&'static str>| {
            let body = axum::Json(vec![sandbox_json(Id::new())]);
            next.map(|next| [("x-next-cursor", next)]).map_or_else(
                || body.clone().into_response(),
                |headers| (headers, body.clone()).into_response(),
            )
        };
        match query.get("cursor").map(String::as_str) {
            None => page(Some("2+/=")),
            Some("2+/=") => page(Some("3")),
            Some("3") => page(None),
            Some(other) => panic!("{other}"),
        }
    }
    let url = serve(Router::new().route("/v1/sandboxes", get(list))).await;
    let filter = SandboxFilter {
        status: vec![SandboxStatus::Running, SandboxStatus::Paused],
        template: None,
        metadata: [("name".to_owned(), "a&b=c".to_owned())].into(),
    };
    let all = client(&format!("{url}/")).sandboxes(&filter).await.unwrap();
    assert_eq!(all.len(), 3);
    assert_eq!(serde_json::to_value(&all[0]).unwrap()["of_a_later_version"], json!([1, 2]));
}

#[tokio::test]
async fn a_command_is_streamed_both_ways() {
    async fn exec(Path(id): Path<String>, headers: HeaderMap, upgrade: WebSocketUpgrade) -> Response {
        assert!(id.starts_with("sb-"));
        assert_eq!(headers["x-api-key"], "e2b_key");
        upgrade.on_upgrade(|mut socket| async move {
            let mut next = async || match socket.recv().await {
                Some(Ok(Message::Text(text))) => Some(serde_json::from_str::<Value>(&text).unwrap()),
                _ => None,
            };
            let start = next().await.unwrap();
            assert_eq!(start["type"], "start");
            assert_eq!((&start["cmd"], &start["args"]), (&json!("cat"), &json!(["-"])));
            assert!(start.get("cwd").is_none(), "what was not said is left to the platform");
            let text = next().await.unwrap();
            assert_eq!(text, json!({"type": "stdin", "data": "héllo", "encoding": "utf-8"}));
            let bytes = next().await.unwrap();
            assert_eq!(bytes, json!({"type": "stdin", "data": "/wA=", "encoding": "base64"}));
            assert_eq!(next().await.unwrap(), json!({"type": "close_stdin"}));
            for answer in [
                json!({"type": "start", "pid": 7}),
                json!({"type": "stdout", "data": "/wA=", "encoding": "base64"}),
                json!({"type": "exit", "exit_code": 3}),
            ] {
                socket.send(Message::Text(answer.to_string().into())).await.unwrap();
            }
        })
    }
    let url = serve(Router::new().route("/v1/sandboxes/{id}/exec/stream", get(exec))).await;
    let start = ExecStart { cmd: "cat".into(), args: vec!["-".into()], ..ExecStart::default() };
    let (mut input, mut output) = client(&url).exec_stream(Id::new(), &start).await.unwrap();
    input.stdin("héllo".as_bytes()).await.unwrap();
    input.stdin(&[255, 0]).await.unwrap();
    input.close_stdin().await.unwrap();
    assert_eq!(output.next().await.unwrap(), Some(ExecEvent::Started));
    assert_eq!(output.next().await.unwrap(), Some(ExecEvent::Stdout(vec![255, 0])));
    assert_eq!(output.next().await.unwrap(), Some(ExecEvent::Exit(3)));
}

#[tokio::test]
async fn a_stream_that_is_refused_says_why() {
    let refuse = || async {
        (StatusCode::NOT_FOUND, r#"{"error":{"code":"not_found","message":"no sandbox","request_id":"r"}}"#)
    };
    let url = serve(Router::new().fallback(refuse)).await;
    let refused = client(&url).exec_stream(Id::new(), &ExecStart::default()).await;
    assert_eq!(refused.err().unwrap().code(), Some("not_found"));
    // A server that answers something else than a WebSocket.
    let url = serve(Router::new().fallback(|| async { "hello" })).await;
    let refused = client(&url).exec_stream(Id::new(), &ExecStart::default()).await;
    assert!(matches!(refused.err().unwrap(), ClientError::NotUnderstood { .. }));
}

#[tokio::test]
async fn a_file_goes_after_its_path() {
    async fn write(headers: HeaderMap, body: String) -> StatusCode {
        assert!(headers["content-type"].to_str().unwrap().starts_with("multipart/form-data"));
        let (path, file) = (body.find("name=\"path\"").unwrap(), body.find("name=\"file\"").unwrap());
        assert!(path < file && body.find("name=\"user\"").unwrap() < file, "{body}");
        assert!(body.contains("/tmp/x") && body.contains("contents"), "{body}");
        StatusCode::NO_CONTENT
    }
    let url = serve(Router::new().route("/v1/sandboxes/{id}/files/write", post(write))).await;
    for length in [Some(8), None] {
        let body = reqwest::Body::from("contents");
        client(&url).write_file(Id::new(), "/tmp/x", Some("root"), body, length).await.unwrap();
    }
}

/// A server that sends the first part of a file, and breaks off.
pub(crate) async fn serve_half_a_file() -> String {
    let half = || async {
        let parts = [Ok("the first half"), Err(std::io::Error::other("the guest is gone"))];
        Body::from_stream(futures::stream::iter(parts))
    };
    serve(Router::new().route("/v1/sandboxes/{id}/files/read", post(half))).await
}

#[tokio::test]
async fn a_fork_tells_of_each_child_and_a_time_out_says_only_what_was_said() {
    async fn fork(axum::Json(body): axum::Json<Value>) -> axum::Json<Value> {
        assert_eq!(body, json!({"count": 2, "timeout_sec": 60}));
        axum::Json(json!([
            {"sandbox": sandbox_json(Id::new())},
            {"error": {"code": "no_hosts_available", "message": "full"}},
        ]))
    }
    async fn resume(Path(id): Path<String>, axum::Json(body): axum::Json<Value>) -> axum::Json<Value> {
        assert_eq!(body, json!({"on_timeout": "pause", "memory": false}));
        axum::Json(sandbox_json(id.parse().unwrap()))
    }
    let router = Router::new()
        .route("/v1/sandboxes/{id}/fork", post(fork))
        .route("/v1/sandboxes/{id}/resume", post(resume));
    let client = client(&serve(router).await);
    let timeout = Timeout { timeout_sec: Some(60), on_timeout: None };
    let children = client.fork_sandbox(Id::new(), NewFork { count: 2, timeout }).await.unwrap();
    let [Child::Sandbox(_), Child::Error(error)] = children.as_slice() else { panic!("{children:?}") };
    assert_eq!(error.code, "no_hosts_available");
    let id = Id::new();
    let timeout = Timeout { timeout_sec: None, on_timeout: Some(sandbar_types::OnTimeout::Pause) };
    let resume = Resume { timeout, memory: Memory::of(false) };
    assert_eq!(client.resume_sandbox(id, resume).await.unwrap().id, id);
}

#[tokio::test]
async fn a_snapshot_replaces_only_where_that_is_said() {
    async fn create(
        Query(query): Query<HashMap<String, String>>,
        axum::Json(body): axum::Json<Value>,
    ) -> axum::Json<Value> {
        assert_eq!(query.get("overwrite").map(String::as_str), body.get("name").map(|_| "true"));
        axum::Json(
            json!({"name": body.get("name").cloned().unwrap_or(json!("chosen")), "type": "snapshot", "vcpus": 1,
            "memory_mb": 512, "size_bytes": 1, "created_at": "2026-11-22T04:33:12.345678Z", "platform": false}),
        )
    }
    let client = client(&serve(Router::new().route("/v1/snapshots", post(create))).await);
    let chosen = client.create_snapshot(Id::new(), None, Existing::Refuse, Memory::of(true)).await.unwrap();
    assert_eq!(chosen.name, "chosen");
    let name = "work".parse().unwrap();
    let replaced =
        client.create_snapshot(Id::new(), Some(&name), Existing::Replace, Memory::of(true)).await.unwrap();
    assert_eq!(replaced.name, "work");
}
