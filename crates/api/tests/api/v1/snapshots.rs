use sandbar_testkit::sim_host::{Fault, Reason, Rpc, Times};
use serde_json::json;

use crate::platform::Platform;

#[tokio::test]
async fn lists_the_platforms_templates_to_every_team() {
    let platform = Platform::start().await;
    for api in [&platform.api, &platform.stranger().await] {
        let list = api.get("/v1/snapshots").await.expect(200);
        let mut first = list[0].clone();
        assert!(first["created_at"].as_str().unwrap().ends_with('Z'));
        first.as_object_mut().unwrap().remove("created_at");
        let base = json!({
            "name": "base", "type": "snapshot", "vcpus": 1, "memory_mb": 512, "size_bytes": 300 << 20,
            "platform": true, "durable": false,
        });
        assert_eq!((list.as_array().unwrap().len(), first), (1, base));
        assert_eq!(api.get("/v1/snapshots?type=snapshot").await.expect(200), list);
        assert_eq!(api.get("/v1/snapshots?type=base").await.expect(200), json!([]));
        api.get("/v1/snapshots?type=other").await.refused(400, "invalid_request");
    }
}

#[tokio::test]
async fn a_snapshot_is_made_listed_used_replaced_and_deleted() {
    let platform = Platform::start().await;
    let id = platform.api.sandbox().await;
    let body = json!({"sandbox_id": id, "name": "work-1.0"});
    let mut made = platform.api.post("/v1/snapshots", body.clone()).await.expect(201);
    let listed = platform.api.get("/v1/snapshots?limit=1").await.expect(200);
    assert_eq!(listed[0], made);
    assert!(made.as_object_mut().unwrap().remove("created_at").unwrap().as_str().unwrap().ends_with('Z'));
    let expected = json!({
        "name": "work-1.0", "type": "snapshot", "vcpus": 1, "memory_mb": 512, "size_bytes": 90 << 20,
        "platform": false, "durable": false,
    });
    assert_eq!(made, expected);
    platform.api.post("/v1/snapshots", body.clone()).await.refused(409, "already_exists");
    platform.api.post("/v1/snapshots?overwrite=false", body.clone()).await.refused(409, "already_exists");
    platform.api.post("/v1/snapshots?overwrite=true", body).await.expect(201);
    let child =
        platform.api.post("/v1/sandboxes", json!({"template": "work-1.0", "vcpus": 8})).await.expect(201);
    assert_eq!((&child["template"], &child["vcpus"]), (&json!("work-1.0"), &json!(1)));
    let checked = platform.api.post("/v1/snapshots/work-1.0/verify", json!({})).await.expect(200);
    assert_eq!(checked, json!({"name": "work-1.0", "bytes": 90 << 20}));
    platform.api.delete("/v1/snapshots/work-1.0").await.expect(204);
    platform.api.delete("/v1/snapshots/work-1.0").await.refused(404, "not_found");
    platform.api.post("/v1/sandboxes", json!({"template": "work-1.0"})).await.refused(404, "not_found");
    let unnamed = platform.api.post("/v1/snapshots", json!({"sandbox_id": id})).await.expect(201);
    assert!(unnamed["name"].as_str().unwrap().starts_with("snapshot-"));
}

#[tokio::test]
async fn what_cannot_be_is_refused() {
    let platform = Platform::start().await;
    let id = platform.api.sandbox().await;
    for body in [
        json!({}),
        json!({"sandbox_id": "x"}),
        json!({"sandbox_id": id, "name": ""}),
        json!({"sandbox_id": id, "name": "../etc"}),
        json!({"sandbox_id": id, "name": "x".repeat(65)}),
    ] {
        platform.api.post("/v1/snapshots", body).await.refused(400, "invalid_request");
    }
    let body = json!({"sandbox_id": id, "name": "a"});
    platform.api.post("/v1/snapshots?overwrite=maybe", body.clone()).await.refused(400, "invalid_request");
    let unknown = sandbar_types::Id::<sandbar_types::id::Sandbox>::new();
    platform.api.post("/v1/snapshots", json!({"sandbox_id": unknown})).await.refused(404, "not_found");
    platform
        .api
        .post("/v1/snapshots", json!({"sandbox_id": id, "name": "base"}))
        .await
        .refused(409, "name_reserved");
    platform.api.delete("/v1/snapshots/base").await.refused(403, "forbidden");
    for name in ["no-such", "%2e%2e%2fetc", "%ff", "-x"] {
        platform.api.delete(&format!("/v1/snapshots/{name}")).await.refused(404, "not_found");
    }

    platform.host.inject(Rpc::SnapshotSandbox, Fault::Refuse(Reason::REASON_NO_CAPACITY), Times::Once);
    platform.api.post("/v1/snapshots", body.clone()).await.refused(503, "no_hosts_available");
    platform.api.post("/v1/snapshots", body).await.expect(201);
    platform.host.inject(Rpc::DeleteTemplate, Fault::Refuse(Reason::REASON_TEMPLATE_IN_USE), Times::Once);
    platform.api.delete("/v1/snapshots/a").await.refused(409, "conflict");
    platform.host.inject(Rpc::VerifyTemplate, Fault::Refuse(Reason::REASON_SNAPSHOT_DAMAGED), Times::Once);
    let told = platform.api.post("/v1/snapshots/a/verify", json!({})).await.refused(502, "agent_error");
    assert!(told.contains("REASON_SNAPSHOT_DAMAGED"), "what the host said: {told}");
}

#[tokio::test]
async fn another_teams_snapshot_does_not_exist() {
    let platform = Platform::start().await;
    let id = platform.api.sandbox().await;
    platform.api.post("/v1/snapshots", json!({"sandbox_id": id, "name": "mine"})).await.expect(201);
    let stranger = platform.stranger().await;
    stranger
        .post("/v1/snapshots", json!({"sandbox_id": id, "name": "yours"}))
        .await
        .refused(404, "not_found");
    stranger.post("/v1/snapshots/mine/verify", json!({})).await.refused(404, "not_found");
    stranger.delete("/v1/snapshots/mine").await.refused(404, "not_found");
    stranger.delete("/v1/snapshots/base").await.refused(403, "forbidden");
    stranger.post("/v1/sandboxes", json!({"template": "mine"})).await.refused(404, "not_found");
    assert_eq!(stranger.get("/v1/snapshots").await.expect(200).as_array().unwrap().len(), 1);
    // Its name is free to them.
    let theirs = stranger.sandbox().await;
    stranger.post("/v1/snapshots", json!({"sandbox_id": theirs, "name": "mine"})).await.expect(201);
}
