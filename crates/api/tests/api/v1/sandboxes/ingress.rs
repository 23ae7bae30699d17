use serde_json::json;

use crate::platform::Platform;

#[tokio::test]
async fn who_may_reach_its_ports_is_kept_and_shown_and_its_children_have_it_too() {
    let platform = Platform::start().await;
    let body = json!({
        "public_ports": [8080, 3000], "mask_request_host": "localhost:${PORT}", "auto_resume": true,
    });
    let made = platform.api.post("/v1/sandboxes", body).await.expect(201);
    let id = made["id"].as_str().unwrap();
    let child = platform.api.post(&format!("/v1/sandboxes/{id}/fork"), json!({})).await.expect(201);
    let child = child[0]["sandbox"]["id"].as_str().unwrap();
    for id in [id, child] {
        let shown = platform.api.get(&format!("/v1/sandboxes/{id}")).await.expect(200);
        assert_eq!(shown["public_ports"], json!([3000, 8080]));
        assert_eq!((&shown["public_traffic"], &shown["auto_resume"]), (&json!(false), &json!(true)));
        assert_eq!(shown["mask_request_host"], "localhost:${PORT}");
    }
    let default = platform.api.sandbox().await;
    let shown = platform.api.get(&format!("/v1/sandboxes/{default}")).await.expect(200);
    assert_eq!((&shown["public_traffic"], &shown["public_ports"]), (&json!(false), &json!([])));
    assert_eq!((&shown["auto_resume"], shown.get("mask_request_host")), (&json!(false), None));
}

#[tokio::test]
async fn what_gives_access_is_told_of_one_sandbox_and_never_in_lists() {
    let platform = Platform::start().await;
    let made = platform.api.post("/v1/sandboxes", json!({})).await.expect(201);
    let id = made["id"].as_str().unwrap();
    let shown = platform.api.get(&format!("/v1/sandboxes/{id}")).await.expect(200);
    for token in ["access_token", "traffic_access_token"] {
        assert_eq!(shown[token].as_str().unwrap().len(), 64, "{token}");
        assert_eq!(shown[token], made[token]);
    }
    assert_ne!(shown["access_token"], shown["traffic_access_token"]);
    assert_eq!(shown["access_token"], platform.host.creation_of(id).unwrap().access_token);
    assert_eq!(shown["domain"], json!(null));
    let listed = platform.api.get("/v1/sandboxes").await.expect(200);
    assert!(listed[0].get("access_token").is_none() && listed[0].get("traffic_access_token").is_none());
}

#[tokio::test]
async fn what_cannot_be_said_of_ports_is_refused() {
    let platform = Platform::start().await;
    for body in [
        json!({"public_ports": [0]}),
        json!({"public_ports": [65536]}),
        json!({"public_ports": (1..=65).collect::<Vec<_>>()}),
        json!({"mask_request_host": "a b"}),
        json!({"public_traffic": "yes"}),
    ] {
        platform.api.post("/v1/sandboxes", body).await.refused(400, "invalid_request");
    }
}
