use sandbar_testkit::sim_host::{Fault, Reason, Rpc, Times};
use serde_json::json;

use crate::platform::Platform;

#[tokio::test]
async fn a_sandbox_is_paused_and_goes_on_under_both_of_its_names() {
    let platform = Platform::start().await;
    let made = platform
        .api
        .post("/v1/sandboxes", json!({"timeout_sec": 60, "on_timeout": "pause"}))
        .await
        .expect(201);
    assert_eq!(made["on_timeout"], "pause");
    let id = made["id"].as_str().unwrap();
    let paused = platform.api.post(&format!("/v1/sandboxes/{id}/pause"), json!({})).await.expect(200);
    assert_eq!((&paused["status"], &paused["host_ip"]), (&json!("paused"), &json!(null)));
    assert!(paused.get("expires_at").is_none());
    let listed = platform.api.get("/v1/sandboxes?status=paused").await.expect(200);
    assert_eq!(listed[0], paused);
    for (path, body) in [
        ("pause", json!({})),
        ("timeout", json!({"timeout_sec": 1})),
        ("fork", json!({})),
        ("ping", json!({})),
        ("exec", json!({"cmd": "true"})),
    ] {
        platform.api.post(&format!("/v1/sandboxes/{id}/{path}"), body).await.refused(409, "invalid_state");
    }
    let path = format!("/v1/capsules/{id}/resume");
    let resumed =
        platform.api.post(&path, json!({"timeout_sec": 90, "on_timeout": "kill"})).await.expect(200);
    assert_eq!((&resumed["status"], &resumed["timeout_sec"]), (&json!("running"), &json!(90)));
    assert_eq!(resumed["on_timeout"], "kill");
    assert!(resumed["host_ip"].is_string() && resumed["expires_at"].is_string());
    platform.api.post(&path, json!({})).await.refused(409, "invalid_state");
}

#[tokio::test]
async fn a_failure_is_told_and_the_sandbox_is_as_it_was() {
    let platform = Platform::start().await;
    let id = platform.api.sandbox().await;
    for (fault, status, code) in [
        (Fault::Refuse(Reason::REASON_NO_CAPACITY), 503, "no_hosts_available"),
        (Fault::Refuse(Reason::REASON_BUSY), 409, "invalid_state"),
        (Fault::Fail, 502, "agent_error"),
        (Fault::Hang, 504, "timeout"),
    ] {
        platform.host.inject(Rpc::PauseSandbox, fault, Times::Once);
        platform.api.post(&format!("/v1/sandboxes/{id}/pause"), json!({})).await.refused(status, code);
        assert_eq!(platform.api.status_of(&id).await, "running");
    }
    let bad = [json!({"timeout_sec": -1}), json!({"timeout_sec": 2_592_001}), json!({"on_timeout": "sleep"})];
    for path in ["resume", "timeout"] {
        for body in &bad {
            let path = format!("/v1/sandboxes/{id}/{path}");
            platform.api.post(&path, body.clone()).await.refused(400, "invalid_request");
        }
    }
    platform
        .api
        .post(&format!("/v1/sandboxes/{id}/timeout"), json!({}))
        .await
        .refused(400, "invalid_request");
}

#[tokio::test]
async fn a_time_out_can_be_changed_while_it_runs() {
    let platform = Platform::start().await;
    let id = platform.api.sandbox().await;
    let path = format!("/v1/sandboxes/{id}/timeout");
    let body = json!({"timeout_sec": 120, "on_timeout": "pause"});
    let changed = platform.api.post(&path, body).await.expect(200);
    assert_eq!((&changed["timeout_sec"], &changed["on_timeout"]), (&json!(120), &json!("pause")));
    assert!(changed["expires_at"].is_string());
    let never = platform.api.post(&path, json!({"timeout_sec": 0})).await.expect(200);
    assert_eq!((never.get("expires_at"), &never["on_timeout"]), (None, &json!("pause")));
}

#[tokio::test]
async fn what_was_idle_is_seen_paused_at_the_hosts_next_word() {
    let platform = Platform::start().await;
    let id = platform.api.sandbox().await;
    let _successor = platform.successor().await;
    platform.host.auto_pause(&id);
    let beat = json!({"inventory_generation": platform.host.inventory_generation()});
    let path = format!("/v1/hosts/{}/heartbeat", platform.host_id);
    platform.api.with_host_token(&platform.host_token).post(&path, beat).await.expect(204);
    platform.rows_are("paused", 1).await;
    let paused = platform.api.get(&format!("/v1/sandboxes/{id}")).await.expect(200);
    assert_eq!(paused["status_reason"], "it was idle for its time-out");
}

#[tokio::test]
async fn figures_are_there_in_three_ranges_until_it_ends() {
    let platform = Platform::start().await;
    let id = platform.api.sandbox().await;
    let path = format!("/v1/sandboxes/{id}/metrics");
    let live = platform.api.get(&path).await.expect(200);
    assert_eq!((&live["sandbox_id"], &live["range"]), (&json!(id), &json!("10m")));
    let point = &live["points"][0];
    assert_eq!(
        (&point["cpu_pct"], &point["mem_bytes"], &point["disk_bytes"]),
        (&json!(12.5), &json!(100 << 20), &json!(5 << 20))
    );
    assert!(point["timestamp"].as_str().unwrap().ends_with('Z'));
    platform.api.post(&format!("/v1/sandboxes/{id}/pause"), json!({})).await.expect(200);
    for range in ["10m", "2h", "24h"] {
        let kept = platform.api.get(&format!("{path}?range={range}")).await.expect(200);
        assert_eq!((&kept["range"], kept["points"].as_array().unwrap().len()), (&json!(range), 3));
    }
    assert_eq!(platform.api.get(&path).await.expect(200)["points"], live["points"]);
    for bad in ["range=1h", "range=", "range=10m&range=2h"] {
        platform.api.get(&format!("{path}?{bad}")).await.refused(400, "invalid_request");
    }
    platform.api.delete(&format!("/v1/sandboxes/{id}")).await.expect(204);
    platform.api.get(&path).await.refused(404, "not_found");
}

#[tokio::test]
async fn a_control_plane_that_dies_in_the_middle_leaves_no_row_between_two_states() {
    let platform = Platform::start().await;
    let (early, late) = (platform.api.sandbox().await, platform.api.sandbox().await);
    // It dies before the host has done anything, and when the sandbox is paused, of which it has not heard.
    for (id, fault) in [(&early, Fault::Hang), (&late, Fault::HangAfter)] {
        let calls = platform.host.calls(Rpc::PauseSandbox);
        platform.host.inject(Rpc::PauseSandbox, fault, Times::Once);
        let doomed = platform.doomed_pause(id);
        platform.host.arrived(Rpc::PauseSandbox, calls + 1).await;
        doomed.shutdown_background();
        assert_eq!(platform.api.status_of(id).await, "pausing");
    }
    let _successor = platform.successor().await;
    platform.rows_are("paused", 1).await;
    platform.rows_are("running", 1).await;
    assert_eq!(platform.api.status_of(&early).await, "running");
    assert_eq!(platform.api.status_of(&late).await, "paused");
}
