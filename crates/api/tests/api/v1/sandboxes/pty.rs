use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use sandbar_testkit::sim_host::{Fault, Reason, Rpc, Times};
use serde_json::{Value, json};
use tokio_tungstenite::tungstenite::Message;

use crate::client::Socket;
use crate::platform::Platform;

async fn open(platform: &Platform, id: &str, first: Value) -> Socket {
    let mut socket = platform.api.open(&format!("/v1/sandboxes/{id}/pty")).await.unwrap();
    socket.say(first).await;
    socket
}

#[tokio::test]
async fn a_terminal_shows_what_is_typed_and_where_that_stands() {
    let platform = Platform::start().await;
    let id = platform.api.sandbox().await;
    let mut socket =
        open(&platform, &id, json!({"type": "start", "tag": "mine", "cols": 100, "rows": 30})).await;
    assert_eq!(socket.hear().await, json!({"type": "start", "pid": 1000, "tag": "mine"}));
    socket.say(json!({"type": "input", "data": "h\u{fc}"})).await;
    assert_eq!(socket.hear().await, json!({"type": "output", "data": "h\u{fc}", "offset": 0}));
    let bytes = STANDARD.encode([0xff]);
    socket.say(json!({"type": "input", "data": bytes, "encoding": "base64"})).await;
    let shown = json!({"type": "output", "data": bytes, "encoding": "base64", "offset": 3});
    assert_eq!(socket.hear().await, shown);
    socket.say(json!({"type": "resize", "cols": 120, "rows": 40})).await;
    assert_eq!(socket.hear().await, json!({"type": "output", "data": "120x40\n", "offset": 4}));
    socket.say(json!({"type": "kill"})).await;
    assert_eq!(socket.hear_all().await, [json!({"type": "exit", "exit_code": -1})]);
}

#[tokio::test]
async fn who_comes_back_says_from_where_on() {
    let platform = Platform::start().await;
    let id = platform.api.sandbox().await;
    for named in [json!({"tag": "shell"}), json!({"pid": 1000})] {
        let mut connect = named.clone();
        (connect["type"], connect["from"]) = (json!("connect"), json!(512));
        let mut socket = open(&platform, &id, connect).await;
        assert_eq!(socket.hear().await["pid"], 1000);
        socket.say(json!({"type": "input", "data": "x"})).await;
        assert_eq!(socket.hear().await["offset"], 512);
    }
}

#[tokio::test]
async fn what_is_typed_just_before_the_client_leaves_arrives() {
    let platform = Platform::start().await;
    let id = platform.api.sandbox().await;
    let mut all = Vec::new();
    // Orderly, and by a connection that just breaks.
    for orderly in [true, false].repeat(10) {
        let mut socket = open(&platform, &id, json!({"type": "connect", "tag": "shell"})).await;
        assert_eq!(socket.hear().await["type"], "start");
        for _ in 0..20 {
            socket.say(json!({"type": "input", "data": "typed "})).await;
            all.extend_from_slice(b"typed ");
        }
        if orderly {
            socket.say_raw(Message::Close(None)).await;
        }
        drop(socket);
        let arrived = platform.host.processes_were_sent(&all);
        let arrived = tokio::time::timeout(Duration::from_secs(60), arrived).await;
        assert!(arrived.is_ok(), "orderly: {orderly}");
    }
}

#[tokio::test]
async fn what_makes_no_sense_is_told_and_ends_the_session() {
    let platform = Platform::start().await;
    let id = platform.api.sandbox().await;
    for (first, code) in [
        (json!({"type": "connect", "tag": "nothing"}), "not_found"),
        (json!({"type": "connect", "pid": 1}), "not_found"),
        (json!({"type": "connect"}), "invalid_request"),
        (json!({"type": "connect", "pid": 1, "tag": "a"}), "invalid_request"),
        (json!({"type": "connect", "tag": "7"}), "invalid_request"),
        (json!({"type": "start", "cols": 0}), "invalid_request"),
        (json!({"type": "start", "tag": "a/b"}), "invalid_request"),
        (json!({"type": "input", "data": "x"}), "invalid_request"),
        (json!({"type": "nothing"}), "invalid_request"),
    ] {
        let heard = open(&platform, &id, first.clone()).await.hear_all().await;
        assert_eq!((heard.len(), &heard[0]["code"]), (1, &json!(code)), "{first}: {heard:?}");
    }
    let mut twice = open(&platform, &id, json!({"type": "start"})).await;
    assert!(twice.hear().await["tag"].as_str().unwrap().starts_with("pty-"), "one is chosen");
    twice.say(json!({"type": "start"})).await;
    assert_eq!(twice.hear_all().await[0]["code"], "invalid_request");
    platform.host.inject(Rpc::ExecStream, Fault::Refuse(Reason::REASON_GUEST_UNREACHABLE), Times::Once);
    let heard = open(&platform, &id, json!({"type": "start"})).await.hear_all().await;
    assert_eq!(heard[0]["code"], "agent_error");
}
