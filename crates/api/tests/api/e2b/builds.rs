//! What the SDKs do not show: who may see a build, and what comes of one that is asked for wrongly.

use sandbar_control::Config;
use sandbar_control::config::BuildConfig;
use serde_json::{Value, json};

use super::refused;
use crate::client::{Client, send};
use crate::platform::{Platform, config};

/// Announces a build: the path of its steps, and of its status.
async fn announced(api: &Client, body: Value) -> (String, String) {
    let announced = api.post("/v3/templates", body).await.expect(202);
    let path = format!(
        "/templates/{}/builds/{}",
        announced["templateID"].as_str().unwrap(),
        announced["buildID"].as_str().unwrap()
    );
    (format!("/v2{path}"), format!("{path}/status"))
}

fn steps(steps: &Value) -> Value {
    json!({"fromTemplate": "base", "steps": steps})
}

#[tokio::test]
async fn a_build_is_announced_before_its_steps_and_begun_once() {
    let platform = Platform::start().await;
    let api = &platform.api;
    let body = json!({"name": "tools:v1", "tags": ["v2"], "cpuCount": 2, "memoryMB": 1024});
    let answer = api.post("/v3/templates", body.clone()).await.expect(202);
    assert_eq!((&answer["tags"], &answer["aliases"]), (&json!(["v1", "v2"]), &json!(["tools"])));
    assert!(answer["names"][0].as_str().unwrap().ends_with("/tools") && answer["public"] == false);
    let (begin, status) = announced(api, body).await;
    let waiting = api.get(&status).await.expect(200);
    assert_eq!(
        (&waiting["status"], &waiting["logEntries"], &waiting["logs"]),
        (&json!("waiting"), &json!([]), &json!([]))
    );
    assert_eq!(waiting["templateID"], answer["templateID"], "all builds of a name have one template");
    assert_eq!(api.get(&status.replace("/status", "/logs")).await.expect(200), json!({"logs": []}));
    // No worker sees it, nor do lists.
    assert_eq!(api.get("/v1/builds").await.expect(200), json!([]));

    for (wrong, why) in [
        (json!({"steps": []}), "fromImage"),
        (json!({"fromImage": "a", "fromTemplate": "base"}), "fromImage"),
        (json!({"fromImage": "a", "fromImageRegistry": {"type": "aws"}}), "fromImageRegistry"),
        (steps(&json!([{"type": "RUN", "args": []}])), "step 1: RUN"),
        (steps(&json!([{"type": "ENV", "args": ["A", "1"]}, {"type": "ADD", "args": ["x"]}])), "step 2"),
        (steps(&json!([{"type": "COPY", "args": ["a", "b", "", ""], "filesHash": "00"}])), "COPY"),
        (steps(&json!(vec![json!({"type": "RUN", "args": ["a"]}); 201])), "200"),
        (json!({"fromTemplate": "base", "readyCmd": "x".repeat(5000)}), "healthcheck"),
    ] {
        let told = refused(&api.post(&begin, wrong.clone()).await, 400);
        assert!(told.contains(why), "{wrong}: {told}");
    }
    // What was refused may be sent again.
    api.post(&begin, steps(&json!([{"type": "RUN", "args": ["echo", ""]}]))).await.expect(202);
    refused(&api.post(&begin, steps(&json!([]))).await, 409);
    let builds = api.get("/v1/builds").await.expect(200);
    assert_eq!(
        (&builds[0]["name"], &builds[0]["status"], builds.as_array().unwrap().len()),
        (&json!("tools"), &json!("pending"), 1)
    );
    let queued = api.get(&status).await.expect(200);
    assert_eq!(queued["status"], "waiting");
    assert!(queued["logEntries"][0]["message"].as_str().unwrap().contains("not what was asked for"));
    assert_eq!(api.get(&format!("{status}?logsOffset=1&limit=5")).await.expect(200)["logEntries"], json!([]));
    refused(&api.get(&format!("{status}?logsOffset=-1")).await, 400);
    let warned = api.get(&format!("{status}?level=warn")).await.expect(200);
    assert_eq!(warned["logEntries"], queued["logEntries"]);
    assert_eq!(api.get(&format!("{status}?level=error")).await.expect(200)["logEntries"], json!([]));
    refused(&api.get(&format!("{status}?level=loud")).await, 400);

    // Its log alone, by time.
    let logs = status.replace("/status", "/logs");
    assert_eq!(api.get(&logs).await.expect(200), json!({ "logs": queued["logEntries"] }));
    let begun =
        queued["logEntries"][0]["timestamp"].as_str().unwrap().parse::<chrono::DateTime<chrono::Utc>>();
    let millis = begun.unwrap().timestamp_millis();
    for (query, count) in [
        (format!("cursor={millis}"), 1),
        (format!("cursor={}", millis + 1), 0),
        (format!("cursor={millis}&direction=backward"), 0),
        (format!("cursor={}&direction=backward&source=persistent", millis + 1), 1),
        ("direction=backward".to_owned(), 1),
        ("level=error".to_owned(), 0),
        ("limit=0".to_owned(), 0),
    ] {
        let told = api.get(&format!("{logs}?{query}")).await.expect(200);
        assert_eq!(told["logs"].as_array().unwrap().len(), count, "{query}");
    }
    for query in ["cursor=-1", "cursor=x", "direction=up", "level=loud", "limit=-1"] {
        refused(&api.get(&format!("{logs}?{query}")).await, 400);
    }

    for (body, code) in [
        (json!({}), 400),
        (json!({"name": "a:b:c"}), 400),
        (json!({"name": "a", "tags": ["UP"]}), 400),
        (json!({"name": "nobody/a"}), 400),
        (json!({"name": "a", "cpuCount": 64}), 400),
        (json!({"name": "base"}), 409),
    ] {
        refused(&api.post("/v3/templates", body).await, code);
    }
    // As they were called once.
    let old = api.post("/v2/templates", json!({"alias": "older"})).await.expect(202);
    assert_eq!((&old["aliases"], &old["tags"]), (&json!(["older"]), &json!(["default"])));
}

#[tokio::test]
async fn nobody_learns_of_another_teams_builds_and_names() {
    let platform = Platform::start().await;
    let stranger = platform.stranger().await;
    let (begin, status) = announced(&platform.api, json!({"name": "tools"})).await;
    for _ in 0..2 {
        refused(&stranger.get(&status).await, 404);
        refused(&stranger.get(&status.replace("/status", "/logs")).await, 404);
        refused(&stranger.post(&begin, steps(&json!([{"type": "RUN", "args": ["echo"]}]))).await, 404);
        platform.api.post(&begin, steps(&json!([{"type": "RUN", "args": ["echo"]}]))).await;
    }
    // A build of one's own under another's template, and another's build under one's own.
    let (_, own) = announced(&stranger, json!({"name": "tools"})).await;
    let (own_build, build) = (own.rsplit('/').nth(1).unwrap(), status.rsplit('/').nth(1).unwrap());
    refused(&stranger.get(&own.replace(own_build, build)).await, 404);
    refused(&stranger.get(&status.replace(build, own_build)).await, 404);
    refused(&stranger.get("/templates/x/builds/y/status").await, 404);
    assert_ne!(own.split('/').nth(2), status.split('/').nth(2), "names are a team's own");

    let id = platform.api.made(json!({"timeout": 600})).await;
    platform.api.post(&format!("/sandboxes/{id}/snapshots"), json!({"name": "kept"})).await.expect(201);
    let alias = platform.api.get("/templates/aliases/kept").await.expect(200);
    let by_id = format!("/templates/{}", alias["templateID"].as_str().unwrap());
    for path in [
        "/templates/kept",
        "/templates/aliases/kept",
        "/templates/kept/tags",
        &by_id,
        &format!("{by_id}/tags"),
    ] {
        platform.api.get(path).await.expect(200);
        refused(&stranger.get(path).await, 404);
    }
    refused(&stranger.delete(&by_id).await, 404);
    for path in ["/templates/kept", "/v2/templates/kept", &by_id] {
        let stays = platform.api.patch(path, json!({"public": false})).await.expect(200);
        assert!(stays["names"][0].as_str().unwrap().ends_with("/kept"), "{stays}");
        assert!(
            refused(&platform.api.patch(path, json!({"public": true})).await, 400).contains("administrators")
        );
        refused(&platform.api.patch(path, json!({"name": "other"})).await, 400);
        refused(&stranger.patch(path, json!({"public": false})).await, 404);
    }
    refused(&platform.api.patch("/v2/templates/base", json!({"public": false})).await, 403);
    refused(&stranger.post("/v2/sandboxes", json!({"templateID": alias["templateID"]})).await, 404);
    refused(&platform.api.post("/templates/tags", json!({"target": "base", "tags": ["a"]})).await, 403);
    refused(&platform.api.post("/templates/tags", json!({"target": "kept", "tags": []})).await, 400);
    let held = platform.api.get("/templates/kept").await.expect(200);
    assert_eq!((&held["builds"], &held["buildStatus"]), (&json!([]), &json!("ready")));
}

#[tokio::test]
async fn files_are_taken_from_whoever_has_the_ticket_and_for_one_team_and_name() {
    let folder = tempfile::tempdir().unwrap();
    let builds = BuildConfig { files_folder: Some(folder.path().to_owned()), ..BuildConfig::default() };
    let platform = Platform::start_with(Config { builds, ..config() }).await;
    let api = &platform.api;
    let stranger = platform.stranger().await;
    let (begin, status) = announced(api, json!({"name": "tools"})).await;
    let (_, own) = announced(&stranger, json!({"name": "tools"})).await;
    let files =
        |status: &str, hash: &str| format!("{}/files/{hash}", status.rsplit_once("/builds").unwrap().0);
    let (hash, other) = ("0a".repeat(32), "0b".repeat(32));
    refused(&api.anonymous().get(&files(&status, &hash)).await, 401);
    refused(&stranger.get(&files(&status, &hash)).await, 404);
    refused(&api.get(&files(&status, "0A")).await, 400);
    let wanted = api.get(&files(&status, &hash)).await.expect(201);
    assert_eq!(wanted["present"], false);
    let url = wanted["url"].as_str().unwrap();
    let path = url.strip_prefix(&api.url()).expect("where the client found us");
    let put =
        async |path: &str| send(api.anonymous().request(reqwest::Method::PUT, path).body("an archive")).await;
    let wrong = format!("{}x", &path[..path.len() - 1]);
    refused(&put(&wrong).await, 403);
    refused(&put("/v3/templates/files/none").await, 403);
    let copy = |hash: &str| steps(&json!([{"type": "COPY", "args": ["a", "b", "", ""], "filesHash": hash}]));
    assert_eq!(put(path).await.status, 201);
    assert_eq!(api.get(&files(&status, &hash)).await.expect(201)["present"], true);
    // By the same name another team has nothing, and nothing else was taken.
    assert_eq!(stranger.get(&files(&own, &hash)).await.expect(201)["present"], false);
    assert_eq!(api.get(&files(&status, &other)).await.expect(201)["present"], false);
    assert!(api.post(&begin, copy(&other)).await.status >= 400);
    api.post(&begin, copy(&hash)).await.expect(202);
}
