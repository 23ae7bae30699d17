use reqwest::Method;
use sandbar_testkit::sim_host::{Fault, Rpc, Times};
use serde_json::{Value, json};

use crate::client::{Answer, Client, send};
use crate::platform::Platform;

async fn create(api: &Client, key: &str, body: Value) -> Answer {
    send(api.request(Method::POST, "/v1/sandboxes").header("Idempotency-Key", key).json(&body)).await
}

#[tokio::test]
async fn the_same_key_and_body_are_the_same_sandbox() {
    let platform = Platform::start().await;
    let body = || json!({"metadata": {"task": "1"}});
    let first = create(&platform.api, "key-1", body()).await.expect(201);
    let again = create(&platform.api, "key-1", body()).await.expect(201);
    assert_eq!(again["id"], first["id"]);
    assert_ne!(create(&platform.api, "key-2", body()).await.expect(201)["id"], first["id"]);
    // Keys belong to teams.
    let stranger = platform.stranger().await;
    assert_ne!(create(&stranger, "key-1", body()).await.expect(201)["id"], first["id"]);
    assert_eq!(platform.host.calls(Rpc::CreateSandbox), 3);
}

#[tokio::test]
async fn a_key_used_for_another_body_is_a_conflict() {
    let platform = Platform::start().await;
    create(&platform.api, "key", json!({"timeout_sec": 1})).await.expect(201);
    create(&platform.api, "key", json!({"timeout_sec": 2})).await.refused(409, "conflict");
}

#[tokio::test]
async fn of_many_at_once_with_one_key_one_makes_it() {
    let platform = Platform::start().await;
    let gate = platform.host.hold(Rpc::CreateSandbox);
    let first = tokio::spawn({
        let api = platform.api.clone();
        async move { create(&api, "key", json!({})).await }
    });
    platform.host.arrived(Rpc::CreateSandbox, 1).await;
    create(&platform.api, "key", json!({})).await.refused(409, "conflict");
    gate.open();
    let made = first.await.unwrap().expect(201);
    assert_eq!(create(&platform.api, "key", json!({})).await.expect(201)["id"], made["id"]);
    assert_eq!(platform.host.calls(Rpc::CreateSandbox), 1);
}

#[tokio::test]
async fn an_attempt_that_failed_may_be_made_again() {
    let platform = Platform::start().await;
    platform.host.inject(Rpc::CreateSandbox, Fault::Fail, Times::Once);
    create(&platform.api, "key", json!({})).await.refused(502, "agent_error");
    create(&platform.api, "key", json!({})).await.expect(201);
}

#[tokio::test]
async fn keys_that_cannot_be_one_are_refused() {
    let platform = Platform::start().await;
    for key in ["", "two words", &"k".repeat(256)] {
        create(&platform.api, key, json!({})).await.refused(400, "invalid_request");
    }
    assert_eq!(platform.host.calls(Rpc::CreateSandbox), 0);
}
