use reqwest::Method;
use sandbar_testkit::sim_host::{Fault, Rpc, Times};
use serde_json::{Value, json};

use crate::client::send;
use crate::platform::Platform;

#[tokio::test]
async fn each_child_has_its_own_result_and_the_source_runs_on() {
    let platform = Platform::start().await;
    let made = platform.api.post("/v1/sandboxes", json!({"metadata": {"a": "b"}})).await.expect(201);
    let id = made["id"].as_str().unwrap();
    let path = format!("/v1/sandboxes/{id}/fork");
    let one = platform.api.post(&path, json!({})).await.expect(201);
    assert_eq!(one.as_array().unwrap().len(), 1);
    platform.host.fail_children(1);
    let children = platform.api.post(&path, json!({"count": 3, "timeout_sec": 30})).await.expect(201);
    let children = children.as_array().unwrap();
    let made: Vec<&Value> = children.iter().filter_map(|child| child.get("sandbox")).collect();
    let failed: Vec<&Value> = children.iter().filter_map(|child| child.get("error")).collect();
    assert_eq!((made.len(), failed.len()), (2, 1));
    assert_eq!(failed[0]["code"], "no_hosts_available");
    assert!(failed[0]["message"].is_string());
    for child in made {
        assert_eq!((&child["status"], &child["timeout_sec"]), (&json!("running"), &json!(30)));
        assert_eq!(child["metadata"], json!({"a": "b"}));
        assert_ne!(child["id"], id);
    }
    assert_eq!(platform.api.status_of(id).await, "running");
}

#[tokio::test]
async fn a_lost_answer_can_be_asked_for_again() {
    let platform = Platform::start().await;
    let id = platform.api.sandbox().await;
    let path = format!("/v1/sandboxes/{id}/fork");
    let with_key = |key: &'static str, body: Value| {
        send(platform.api.request(Method::POST, &path).header("Idempotency-Key", key).json(&body))
    };
    let first = with_key("k", json!({"count": 2})).await.expect(201);
    let again = with_key("k", json!({"count": 2})).await.expect(201);
    assert_eq!(first, again);
    assert_eq!(platform.host.sandboxes().len(), 3);
    with_key("k", json!({"count": 3})).await.refused(409, "conflict");
    with_key("not printable: \t", json!({})).await.refused(400, "invalid_request");
}

#[tokio::test]
async fn bad_input_and_failures_make_nothing() {
    let platform = Platform::start().await;
    let id = platform.api.sandbox().await;
    let path = format!("/v1/sandboxes/{id}/fork");
    for body in [
        json!({"count": 0}),
        json!({"count": 21}),
        json!({"count": "2"}),
        json!({"timeout_sec": -1}),
        json!([]),
    ] {
        platform.api.post(&path, body).await.refused(400, "invalid_request");
    }
    for (fault, status, code) in [
        (Fault::Fail, 502, "agent_error"),
        (Fault::LoseReply, 503, "host_unavailable"),
        (Fault::HangAfter, 504, "timeout"),
    ] {
        platform.host.inject(Rpc::ForkSandbox, fault, Times::Once);
        platform.api.post(&path, json!({"count": 2})).await.refused(status, code);
        assert_eq!(platform.host.sandboxes().len(), 1);
        assert_eq!(platform.api.get("/v1/sandboxes").await.expect(200).as_array().unwrap().len(), 1);
    }
}
