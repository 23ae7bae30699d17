//! `/secrets` on the wire.

use serde_json::json;

use super::refused;
use crate::platform::Platform;

#[tokio::test]
async fn a_secret_is_known_by_its_id_and_its_name_and_refusals_are_in_their_form() {
    let platform = Platform::start().await;
    let api = &platform.api;
    let body = json!({"name": "OpenAI-Key", "value": "hunter2", "metadata": {"env": "ci"}});
    let made = api.post("/secrets", body.clone()).await.expect(201);
    let id = made["secretID"].as_str().unwrap();
    assert!(id.starts_with("sec_") && id.len() == 36, "{id}");
    assert_eq!((&made["name"], &made["currentVersion"]), (&json!("openai-key"), &json!(1)));
    assert_eq!(made["metadata"], json!({"env": "ci"}));
    assert!(made["createdAt"].is_string() && made["updatedAt"].is_string() && made.get("value").is_none());
    for by in [id, "openai-key", "OpenAI-Key"] {
        assert_eq!(api.get(&format!("/secrets/{by}")).await.expect(200), made, "{by}");
    }
    assert!(refused(&api.post("/secrets", body).await, 409).contains("openai-key"));
    let set = api.post(&format!("/secrets/{id}"), json!({"value": "hunter3"})).await.expect(200);
    assert_eq!((&set["currentVersion"], &set["metadata"]), (&json!(2), &json!({"env": "ci"})));
    // The same secret is the native API's.
    let native = api.get("/v1/secrets/openai-key").await.expect(200);
    assert_eq!((&native["version"], &native["metadata"]), (&json!(2), &json!({"env": "ci"})));

    api.post("/secrets", json!({"name": "other", "value": "v"})).await.expect(201);
    let first = api.get("/secrets?limit=1").await;
    let next = first.headers["x-next-token"].to_str().unwrap().to_owned();
    assert_eq!(first.expect(200)[0]["name"], "other");
    let last = api.get(&format!("/secrets?limit=1&nextToken={next}")).await;
    assert!(!last.headers.contains_key("x-next-token"));
    assert_eq!(last.expect(200), json!([set]));

    for bad in [
        json!({"name": "sec_a", "value": "v"}),
        json!({"name": "a b", "value": "v"}),
        json!({"name": "a", "value": ""}),
    ] {
        refused(&api.post("/secrets", bad).await, 400);
    }
    refused(&api.get("/secrets?limit=0").await, 400);
    refused(&api.get("/secrets/nothing").await, 404);
    refused(&api.get(&format!("/secrets/{}", id.to_uppercase())).await, 404);
    refused(&api.post("/secrets/nothing", json!({"value": "v"})).await, 404);
    assert_eq!(api.delete(&format!("/secrets/{id}")).await.status, 204);
    refused(&api.delete(&format!("/secrets/{id}")).await, 404);
}

#[tokio::test]
async fn headers_of_outgoing_requests_are_not_filled_in_and_whoever_wants_that_is_told() {
    let platform = Platform::start().await;
    platform.api.post("/secrets", json!({"name": "key", "value": "v"})).await.expect(201);
    let transform = json!([{"transform": {"headers": {"Authorization": "Bearer ${e2b.secrets.key}"}}}]);
    let rules = json!({"rules": {"api.example.org": transform}});
    let body = json!({"templateID": "base", "network": rules});
    assert!(refused(&platform.api.post("/v2/sandboxes", body).await, 400).contains("network.rules"));
    let sandbox = platform.api.post("/v2/sandboxes", json!({"templateID": "base"})).await.expect(201);
    let path = format!("/sandboxes/{}/network", sandbox["sandboxID"].as_str().unwrap());
    assert!(refused(&platform.api.put(&path, rules).await, 400).contains("network.rules"));
}
