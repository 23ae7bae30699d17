use serde_json::{Value, json};

use super::refused;
use crate::platform::Platform;

fn ids(listed: &Value) -> Vec<&str> {
    listed.as_array().unwrap().iter().map(|one| one["snapshotID"].as_str().unwrap()).collect()
}

#[tokio::test]
async fn a_snapshot_is_started_from_listed_and_deleted_by_the_id_that_it_was_given() {
    let platform = Platform::start().await;
    let id = platform.api.made(json!({"timeout": 600})).await;
    let other = platform.api.made(json!({"timeout": 600})).await;
    let path = format!("/sandboxes/{id}/snapshots");
    let unnamed = platform.api.post(&path, json!({})).await.expect(201);
    let named = platform.api.post(&path, json!({"name": "ready"})).await.expect(201);
    let full = named["snapshotID"].as_str().unwrap();
    assert!(full.ends_with("/ready:default"), "{full}");
    assert_eq!(named["names"], json!([full]));
    // Under its name it is made again, in the place of what had it.
    let again = platform.api.post(&path, json!({"name": full})).await.expect(201);
    assert_eq!(again, named);
    assert_eq!(platform.api.detail(&id).await["state"], "running");

    let listed = platform.api.get("/snapshots").await.expect(200);
    assert_eq!(ids(&listed), [full, unnamed["snapshotID"].as_str().unwrap()]);
    for (query, expected) in [
        (format!("sandboxID={id}"), 2),
        (format!("sandboxID={other}"), 0),
        ("sandboxID=x".to_owned(), 0),
        ("name=ready".to_owned(), 1),
        (format!("name={full}"), 1),
        ("name=base".to_owned(), 0),
        ("name=nothing".to_owned(), 0),
    ] {
        let listed = platform.api.get(&format!("/snapshots?{query}")).await.expect(200);
        assert_eq!(ids(&listed).len(), expected, "{query}");
    }
    let first = platform.api.get("/snapshots?limit=1").await;
    let token = first.headers["x-next-token"].to_str().unwrap().to_owned();
    let second = platform.api.get(&format!("/snapshots?limit=1&nextToken={token}")).await;
    assert!(second.headers.get("x-next-token").is_none());
    assert_ne!(first.expect(200), second.expect(200));

    for template in [full, "ready", "ready:default", unnamed["snapshotID"].as_str().unwrap()] {
        let body = json!({"templateID": template, "timeout": 60});
        platform.api.post("/v2/sandboxes", body).await.expect(201);
    }
    // Beside it, under another tag.
    let tagged = platform.api.post(&path, json!({"name": "ready:v2"})).await.expect(201);
    let v2 = tagged["snapshotID"].as_str().unwrap();
    assert!(v2.ends_with("/ready:v2"), "{v2}");
    let listed = platform.api.get("/snapshots").await.expect(200);
    assert_eq!(ids(&listed), [v2, full, unnamed["snapshotID"].as_str().unwrap()]);
    let delete = format!("/templates/{}", full.replace('/', "%2F").replace(':', "%3A"));
    platform.api.delete(&delete).await.expect(204);
    refused(&platform.api.delete(&delete).await, 404);
    refused(&platform.api.delete("/templates/base").await, 403);
    platform.api.post("/v2/sandboxes", json!({"templateID": v2, "timeout": 60})).await.expect(201);
    platform.api.delete("/templates/ready").await.expect(204);
    refused(&platform.api.post("/v2/sandboxes", json!({"templateID": v2, "timeout": 60})).await, 404);
    for name in ["a/b", "a:V2", "a:", "a b", "base"] {
        let answer = platform.api.post(&path, json!({"name": name})).await;
        refused(&answer, if name == "base" { 409 } else { 400 });
    }
}

#[tokio::test]
async fn templates_are_what_a_team_can_start_from() {
    let platform = Platform::start().await;
    let id = platform.api.made(json!({"timeout": 600})).await;
    platform.api.post(&format!("/sandboxes/{id}/snapshots"), json!({"name": "mine"})).await.expect(201);
    let listed = platform.api.get("/templates").await.expect(200);
    let base = listed.as_array().unwrap().iter().find(|one| one["aliases"] == json!(["base"])).unwrap();
    for (key, value) in [
        ("public", json!(true)),
        ("names", json!(["base"])),
        ("buildStatus", json!("ready")),
        ("cpuCount", json!(1)),
        ("memoryMB", json!(512)),
        ("spawnCount", json!(1)),
        ("createdBy", Value::Null),
        ("envdVersion", json!("0.6.13")),
    ] {
        assert_eq!(base[key], value, "{key}");
    }
    assert!(base["lastSpawnedAt"].is_string() && base["buildID"].is_string());
    let alias = platform.api.get("/templates/aliases/base").await.expect(200);
    assert_eq!(alias, json!({"templateID": base["templateID"], "public": true}));
    assert_eq!(platform.api.get("/templates/aliases/mine").await.expect(200)["public"], false);
    refused(&platform.api.get("/templates/aliases/nothing").await, 404);
}
