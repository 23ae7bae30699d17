use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use reqwest::Method;
use sandbar_testkit::sim_host::{Fault, Reason, Rpc, Times};
use serde_json::{Value, json};
use tokio_tungstenite::tungstenite::Message;

use crate::client::{Socket, send};
use crate::platform::{Platform, api_config};

async fn open(platform: &Platform, id: &str) -> Socket {
    platform.api.open(&format!("/v1/sandboxes/{id}/exec/stream")).await.unwrap()
}

/// A command from its start to its end, which must not need any input.
async fn run(platform: &Platform, id: &str, start: Value) -> Vec<Value> {
    let mut socket = open(platform, id).await;
    socket.say(start).await;
    socket.hear_all().await
}

fn started() -> Value {
    json!({"type": "start", "pid": 1000})
}

#[tokio::test]
async fn tells_the_start_the_output_and_the_end() {
    let platform = Platform::start().await;
    let id = platform.api.sandbox().await;
    let messages = run(&platform, &id, json!({"type": "start", "cmd": "echo", "args": ["hi"]})).await;
    let exit = json!({"type": "exit", "exit_code": 0});
    assert_eq!(messages, [started(), json!({"type": "stdout", "data": "hi\n"}), exit]);
    let messages = run(&platform, &id, json!({"type": "start", "cmd": "exit", "args": ["3"]})).await;
    assert_eq!(messages, [started(), json!({"type": "exit", "exit_code": 3})]);
    let start = json!({"type": "start", "cmd": "context", "cwd": "/", "user": "root", "env": {"A": "1"}});
    let messages = run(&platform, &id, start).await;
    assert_eq!(messages[1], json!({"type": "stdout", "data": "user=root\ncwd=/\nA=1\n"}));
}

#[tokio::test]
async fn input_goes_in_while_output_comes_out() {
    let platform = Platform::start().await;
    let id = platform.api.sandbox().await;
    let mut socket = open(&platform, &id).await;
    socket.say(json!({"type": "start", "cmd": "cat"})).await;
    assert_eq!(socket.hear().await, started());
    for data in ["one", "zwei – ü", ""] {
        socket.say(json!({"type": "stdin", "data": data})).await;
        if !data.is_empty() {
            assert_eq!(socket.hear().await, json!({"type": "stdout", "data": data}));
        }
    }
    socket.say(json!({"type": "stdin", "data": STANDARD.encode([0, 0xff]), "encoding": "base64"})).await;
    assert_eq!(socket.hear().await, json!({"type": "stdout", "data": "AP8=", "encoding": "base64"}));
    socket.say(json!({"type": "close_stdin"})).await;
    assert_eq!(socket.hear_all().await, [json!({"type": "exit", "exit_code": 0})]);
}

#[tokio::test]
async fn a_flood_both_ways_stalls_neither() {
    let platform = Platform::start().await;
    let id = platform.api.sandbox().await;
    let mut socket = open(&platform, &id).await;
    socket.say(json!({"type": "start", "cmd": "cat"})).await;
    // Far more than any buffer on the way holds, all of it sent before any of the echo is read.
    let data = "x".repeat(256 * 1024);
    for _ in 0..64 {
        socket.say(json!({"type": "stdin", "data": data})).await;
    }
    socket.say(json!({"type": "close_stdin"})).await;
    let messages = socket.hear_all().await;
    let echoed: usize = messages.iter().filter_map(|message| message["data"].as_str()).map(str::len).sum();
    assert_eq!(echoed, 64 * data.len());
    assert_eq!(messages.last().unwrap(), &json!({"type": "exit", "exit_code": 0}));
}

#[tokio::test]
async fn a_character_cut_in_two_arrives_whole_and_bytes_arrive_as_base64() {
    let platform = Platform::start().await;
    let id = platform.api.sandbox().await;
    // "aé" and "…" in pieces, then a byte that is no text, then a character that never ends.
    let args = json!(["61c3", "a9e2", "80", "a6", "ff", "62e2"]);
    let messages = run(&platform, &id, json!({"type": "start", "cmd": "bytes", "args": args})).await;
    let expected = [
        started(),
        json!({"type": "stdout", "data": "a"}),
        json!({"type": "stdout", "data": "é"}),
        json!({"type": "stdout", "data": "…"}),
        json!({"type": "stdout", "data": "/w==", "encoding": "base64"}),
        json!({"type": "stdout", "data": "b"}),
        json!({"type": "stdout", "data": "4g==", "encoding": "base64"}),
        json!({"type": "exit", "exit_code": 0}),
    ];
    assert_eq!(messages, expected);
}

#[tokio::test]
async fn stop_kills_and_the_end_is_still_told() {
    let platform = Platform::start().await;
    let id = platform.api.sandbox().await;
    let mut socket = open(&platform, &id).await;
    socket.say(json!({"type": "start", "cmd": "sleep"})).await;
    assert_eq!(socket.hear().await, started());
    socket.say(json!({"type": "stop"})).await;
    assert_eq!(socket.hear_all().await, [json!({"type": "exit", "exit_code": -1})]);
    platform.host.processes_are(0).await;
}

#[tokio::test]
async fn closing_kills_the_command_and_detached_ones_live_on() {
    let platform = Platform::start().await;
    let id = platform.api.sandbox().await;
    // Orderly, and by a connection that just breaks.
    for orderly in [true, false] {
        let mut socket = open(&platform, &id).await;
        socket.say(json!({"type": "start", "cmd": "sleep"})).await;
        assert_eq!(socket.hear().await, started());
        platform.host.processes_are(1).await;
        if orderly {
            socket.say_raw(Message::Close(None)).await;
        }
        drop(socket);
        platform.host.processes_are(0).await;
    }
    let mut socket = open(&platform, &id).await;
    socket.say(json!({"type": "start", "cmd": "sleep", "detach": true})).await;
    assert_eq!(socket.hear().await, started());
    drop(socket);
    // The one that is started and killed after it shows that the break has been noticed.
    let mut socket = open(&platform, &id).await;
    socket.say(json!({"type": "start", "cmd": "sleep"})).await;
    platform.host.processes_are(2).await;
    drop(socket);
    platform.host.processes_are(1).await;
}

#[tokio::test]
async fn a_detached_command_gets_what_it_was_sent_just_before_the_client_left() {
    let platform = Platform::start().await;
    let id = platform.api.sandbox().await;
    let mut all = Vec::new();
    for _ in 0..10 {
        let mut socket = open(&platform, &id).await;
        socket.say(json!({"type": "start", "cmd": "cat", "detach": true})).await;
        assert_eq!(socket.hear().await, started());
        for _ in 0..20 {
            socket.say(json!({"type": "stdin", "data": "sent "})).await;
            all.extend_from_slice(b"sent ");
        }
        socket.say_raw(Message::Close(None)).await;
        drop(socket);
        let arrived = platform.host.processes_were_sent(&all);
        tokio::time::timeout(Duration::from_secs(60), arrived).await.unwrap();
    }
}

#[tokio::test]
async fn what_makes_no_sense_ends_the_session_with_the_reason_and_kills_the_command() {
    let platform = Platform::start().await;
    let id = platform.api.sandbox().await;
    for first in [
        "",
        "{",
        "[]",
        "{}",
        "{\"type\": \"stdin\", \"data\": \"x\"}",
        "{\"type\": \"start\"}",
        "{\"type\": \"later\"}",
    ] {
        let mut socket = open(&platform, &id).await;
        socket.say_raw(Message::text(first)).await;
        let messages = socket.hear_all().await;
        assert_eq!(messages.len(), 1, "{first}");
        assert_eq!(
            (&messages[0]["type"], &messages[0]["code"]),
            (&json!("error"), &json!("invalid_request"))
        );
    }
    for second in [
        Message::text("{\"type\": \"start\", \"cmd\": \"echo\"}"),
        Message::text("{\"type\": \"stdin\", \"data\": \"x\", \"encoding\": \"base64\"}"),
        Message::text("nonsense"),
        Message::binary(vec![1, 2, 3]),
    ] {
        let mut socket = open(&platform, &id).await;
        socket.say(json!({"type": "start", "cmd": "sleep"})).await;
        assert_eq!(socket.hear().await, started());
        socket.say_raw(second).await;
        let messages = socket.hear_all().await;
        assert_eq!((messages.len(), &messages[0]["code"]), (1, &json!("invalid_request")));
        platform.host.processes_are(0).await;
    }
}

#[tokio::test]
async fn a_command_that_cannot_run_is_told_by_its_code() {
    let platform = Platform::start().await;
    let id = platform.api.sandbox().await;
    let messages = run(&platform, &id, json!({"type": "start", "cmd": "no-such-command"})).await;
    assert_eq!((messages.len(), &messages[0]["code"]), (1, &json!("invalid_request")));
    let messages = run(&platform, &id, json!({"type": "start", "cmd": ""})).await;
    assert_eq!((messages.len(), &messages[0]["code"]), (1, &json!("invalid_request")));
    for (reason, code) in [
        (Reason::REASON_GUEST_UNREACHABLE, "agent_error"),
        (Reason::REASON_SANDBOX_NOT_FOUND, "invalid_state"),
    ] {
        platform.host.inject(Rpc::ExecStream, Fault::Refuse(reason), Times::Once);
        let messages = run(&platform, &id, json!({"type": "start", "cmd": "echo"})).await;
        assert_eq!((messages.len(), &messages[0]["code"]), (1, &json!(code)));
    }
    // The connection to the host breaks after the output has come.
    platform.host.inject(Rpc::ExecStream, Fault::LoseReply, Times::Once);
    let messages = run(&platform, &id, json!({"type": "start", "cmd": "echo"})).await;
    assert_eq!(messages.last().unwrap()["code"], "host_unavailable");
}

#[tokio::test]
async fn a_host_that_dies_ends_the_session() {
    let platform = Platform::start().await;
    let id = platform.api.sandbox().await;
    let mut socket = open(&platform, &id).await;
    socket.say(json!({"type": "start", "cmd": "sleep"})).await;
    assert_eq!(socket.hear().await, started());
    platform.host.crash().await.unwrap();
    let messages = socket.hear_all().await;
    assert_eq!(messages.len(), 1, "{messages:?}");
    assert_eq!(messages[0]["type"], "error");
}

#[tokio::test]
async fn a_plain_request_is_told_that_this_is_a_websocket() {
    let platform = Platform::start().await;
    let id = platform.api.sandbox().await;
    let path = format!("/v1/sandboxes/{id}/exec/stream");
    let message = platform.api.get(&path).await.refused(400, "invalid_request");
    assert!(message.contains("WebSocket"));
    assert!(matches!(platform.api.anonymous().open(&path).await, Err(401)));
}

#[tokio::test]
async fn a_page_opens_a_stream_with_its_token_among_the_protocols() {
    let platform = Platform::start().await;
    let ann = platform.sign_up("ann").await;
    let id = ann.api.sandbox().await;
    let path = format!("/v1/sandboxes/{id}/exec/stream");
    let offered = format!("sandbar.v1, bearer.{}", ann.api.token());
    let listed = "https://app.example.com";
    let config = sandbar_api::Config { allowed_origins: vec![listed.parse().unwrap()], ..api_config() };
    let (page, _stop) = platform.facing(&config).await;
    let own = format!("http://{}", page.address());
    for origin in [own.as_str(), listed] {
        let headers = [("Sec-WebSocket-Protocol", offered.as_str()), ("Origin", origin)];
        let (mut socket, answer) = page.open_with(&path, &headers).await.unwrap();
        // The one that is spoken, never the token.
        assert_eq!(answer["sec-websocket-protocol"], "sandbar.v1");
        socket.say(json!({"type": "start", "cmd": "echo", "args": ["hi"]})).await;
        let heard = socket.hear_all().await;
        assert_eq!(heard.last().unwrap()["exit_code"], 0, "{heard:?}");
    }
    let refused = async |protocols: &str, origin: &str| {
        let headers = [("Sec-WebSocket-Protocol", protocols), ("Origin", origin)];
        page.open_with(&path, &headers).await.err()
    };
    assert_eq!(refused(&offered, "https://evil.example").await, Some(403));
    assert_eq!(refused(&offered, "null").await, Some(403));
    assert_eq!(refused("sandbar.v1, bearer.garbage", &own).await, Some(401));
    assert_eq!(refused("sandbar.v1", &own).await, Some(401));
    let alone = offered.replace("sandbar.v1, ", "");
    assert_eq!(refused(&alone, &own).await, Some(400));
    // Another team's sandbox is not there for a page either.
    let bob = platform.sign_up("bob").await;
    let theirs = format!("sandbar.v1, bearer.{}", bob.api.token());
    assert_eq!(refused(&theirs, &own).await, Some(404));
    // And nowhere else does a protocol let anybody in.
    let request = page.request(Method::GET, &format!("/v1/sandboxes/{id}"));
    send(request.header("Sec-WebSocket-Protocol", &offered)).await.refused(401, "unauthorized");
}
