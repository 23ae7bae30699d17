use sandbar_types::limits;
use serde_json::{Value, json};

use crate::platform::Platform;

#[tokio::test]
async fn answers_once_it_runs_with_all_that_is_known_of_it() {
    let platform = Platform::start().await;
    let body = json!({
        "template": "base", "timeout_sec": 600, "on_timeout": "kill",
        "metadata": {"task": "42"}, "env": {"LANG": "C.UTF-8"}, "a_field_of_later": [1, 2],
    });
    let made = platform.api.post("/v1/sandboxes", body).await.expect(201);
    let id = made["id"].as_str().unwrap();
    for (field, value) in [
        ("status", json!("running")),
        ("template", json!("base")),
        ("vcpus", json!(1)),
        ("memory_mb", json!(512)),
        ("disk_mb", json!(2048)),
        ("timeout_sec", json!(600)),
        ("on_timeout", json!("kill")),
        ("metadata", json!({"task": "42"})),
        ("host_id", json!(platform.host_id)),
        ("guest_ip", json!("172.30.0.2")),
    ] {
        assert_eq!(made[field], value, "{field}");
    }
    for time in ["created_at", "started_at", "updated_at", "expires_at"] {
        let text = made[time].as_str().unwrap_or_else(|| panic!("{time}: {made}"));
        // 2026-11-22T04:33:12.345678Z
        assert!(text.len() == 27 && text.ends_with('Z'), "{time}: {text}");
    }
    // The environment may hold secrets: it goes to the guest and nowhere else.
    assert!(made.get("env").is_none());
    assert_eq!(platform.api.get(&format!("/v1/sandboxes/{id}")).await.expect(200), made);
    assert_eq!(platform.api.get(&format!("/v1/capsules/{id}")).await.expect(200), made);

    let asked = platform.host.creation_of(id).unwrap();
    assert_eq!(asked.env.get("LANG").map(String::as_str), Some("C.UTF-8"));
    assert_eq!(asked.timeout_sec, 600);
    assert!(asked.access_token.len() >= 32, "the guest's token is too short to be one");
    assert!(!asked.hostname.is_empty());
}

#[tokio::test]
async fn everything_has_a_default() {
    let platform = Platform::start().await;
    let answer = crate::client::send(platform.api.request(reqwest::Method::POST, "/v1/sandboxes")).await;
    let made = answer.expect(201);
    assert_eq!((&made["template"], &made["timeout_sec"]), (&json!("base"), &json!(0)));
    assert!(made.get("expires_at").is_none());
}

#[tokio::test]
async fn every_guest_has_a_token_of_its_own() {
    let platform = Platform::start().await;
    let (one, other) = (platform.api.sandbox().await, platform.api.sandbox().await);
    let token = |id: &str| platform.host.creation_of(id).unwrap().access_token;
    assert_ne!(token(&one), token(&other));
}

#[tokio::test]
async fn bad_input_is_refused_before_anything_is_made() {
    let platform = Platform::start().await;
    let many: serde_json::Map<String, Value> =
        (0..=limits::MAP_ENTRIES).map(|i| (format!("k{i}"), json!("v"))).collect();
    let long_key = "k".repeat(limits::MAP_KEY_BYTES + 1);
    let long_value = "v".repeat(limits::MAP_VALUE_BYTES + 1);
    for body in [
        json!({"vcpus": 0}),
        json!({"vcpus": -1}),
        json!({"vcpus": 33}),
        json!({"vcpus": 1.5}),
        json!({"vcpus": "1"}),
        json!({"vcpus": 1e300}),
        json!({"memory_mb": 0}),
        json!({"memory_mb": -512}),
        json!({"memory_mb": 127}),
        json!({"memory_mb": u64::MAX}),
        json!({"disk_mb": 0}),
        json!({"disk_mb": 4096}),
        json!({"timeout_sec": -1}),
        json!({"timeout_sec": 2_592_001}),
        json!({"timeout_sec": true}),
        json!({"on_timeout": "explode"}),
        json!({"template": ""}),
        json!({"template": "../etc"}),
        json!({"template": 7}),
        json!({"template": ["base"]}),
        json!({"metadata": {"k": 1}}),
        json!({"metadata": ["k"]}),
        json!({"metadata": {"": "v"}}),
        json!({"metadata": {"k\u{0}": "v"}}),
        json!({"metadata": {"k": "v\u{0}"}}),
        json!({"metadata": many.clone()}),
        json!({"metadata": {long_key.clone(): "v"}}),
        json!({"metadata": {"k": long_value.clone()}}),
        json!({"env": {"A=B": "v"}}),
        json!({"env": {"": "v"}}),
        json!({"env": {"A": "v\u{0}"}}),
        json!({"env": many}),
        json!({"network": {"allow_out": ["example.com"]}}),
        json!({"network": {"deny_out": ["::/0"]}}),
        json!({"network": {"deny_out": "0.0.0.0/0"}}),
        json!({"network": {"allow_internet": "no"}}),
        json!({"network": "closed"}),
    ] {
        let text = body.to_string();
        let answer = platform.api.post("/v1/sandboxes", body).await;
        assert_eq!(answer.status, 400, "{text}");
        answer.refused(400, "invalid_request");
    }
    platform.api.post("/v1/sandboxes", json!({"template": "no-such"})).await.refused(404, "not_found");
    assert_eq!(platform.api.get("/v1/sandboxes?status=error,stopped,running").await.expect(200), json!([]));
    assert!(platform.host.sandboxes().is_empty());
}

#[tokio::test]
async fn a_template_with_memory_keeps_its_own_sizes() {
    let platform = Platform::start().await;
    let body = json!({"vcpus": 4, "memory_mb": 4096, "disk_mb": 2048});
    let made = platform.api.post("/v1/sandboxes", body).await.expect(201);
    assert_eq!((&made["vcpus"], &made["memory_mb"]), (&json!(1), &json!(512)));
}

#[tokio::test]
async fn fifty_at_once_are_fifty() {
    let platform = Platform::start().await;
    let attempts = (0..50).map(|_| platform.api.sandbox());
    let ids: std::collections::BTreeSet<String> =
        futures::future::join_all(attempts).await.into_iter().collect();
    assert_eq!(ids.len(), 50);
    let on_host: std::collections::BTreeSet<String> =
        platform.host.sandboxes().into_iter().map(|sandbox| sandbox.id).collect();
    assert_eq!(on_host, ids);
}
