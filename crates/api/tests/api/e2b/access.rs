//! Who may call what: every route, with no key, with garbage, and with another team's key. Nobody learns of another team's sandbox.

use std::collections::BTreeSet;

use reqwest::Method;
use serde_json::{Value, json};

use super::refused;
use crate::client::{Answer, Client, send};
use crate::platform::Platform;

/// Whose a route's things are.
#[derive(Clone, Copy, PartialEq)]
enum Things {
    /// The caller's own, whoever they are.
    Own,
    /// The sandbox's or snapshot's in the path.
    Theirs,
}
use Things::{Own, Theirs};

/// Every route, with the status that the owning team gets.
const ROUTES: [(&str, &str, Things, u16); 45] = [
    ("POST", "/v2/sandboxes", Own, 201),
    ("POST", "/sandboxes", Own, 201),
    ("GET", "/v2/sandboxes", Own, 200),
    ("GET", "/sandboxes", Own, 200),
    ("GET", "/sandboxes/metrics?sandbox_ids={id}", Own, 200),
    ("GET", "/snapshots", Own, 200),
    ("GET", "/templates", Own, 200),
    ("GET", "/v2/templates", Own, 200),
    ("GET", "/templates/base", Own, 200),
    ("GET", "/templates/base/tags", Own, 200),
    ("POST", "/v3/templates", Own, 202),
    ("POST", "/v2/templates", Own, 202),
    ("GET", "/templates/{template}/builds/{build}/status", Theirs, 200),
    ("GET", "/templates/{template}/builds/{build}/logs", Theirs, 200),
    ("POST", "/v2/templates/{template}/builds/{build}", Theirs, 202),
    ("POST", "/templates/tags", Theirs, 201),
    ("DELETE", "/templates/tags", Theirs, 204),
    ("GET", "/templates/aliases/base", Own, 200),
    ("GET", "/templates/aliases/{snapshot}", Theirs, 200),
    ("GET", "/sandboxes/{id}", Theirs, 200),
    ("GET", "/sandboxes/{id}/metrics", Theirs, 200),
    ("GET", "/sandboxes/{id}/logs", Theirs, 200),
    ("GET", "/v2/sandboxes/{id}/logs", Theirs, 200),
    ("POST", "/v2/sandboxes/{id}/connect", Theirs, 200),
    ("POST", "/sandboxes/{id}/connect", Theirs, 200),
    ("POST", "/sandboxes/{id}/timeout", Theirs, 204),
    ("POST", "/sandboxes/{id}/refreshes", Theirs, 204),
    ("PUT", "/sandboxes/{id}/network", Theirs, 204),
    ("POST", "/sandboxes/{id}/fork", Theirs, 201),
    ("POST", "/sandboxes/{id}/snapshots", Theirs, 201),
    ("POST", "/sandboxes/{id}/pause", Theirs, 204),
    ("POST", "/sandboxes/{id}/resume", Theirs, 201),
    ("GET", "/volumes", Own, 200),
    ("POST", "/volumes", Own, 201),
    ("GET", "/volumes/{volume}", Theirs, 200),
    ("DELETE", "/volumes/{volume}", Theirs, 204),
    ("GET", "/secrets", Own, 200),
    ("POST", "/secrets", Own, 201),
    ("GET", "/secrets/{secret}", Theirs, 200),
    ("POST", "/secrets/{secret}", Theirs, 200),
    ("DELETE", "/secrets/{secret}", Theirs, 204),
    ("PATCH", "/templates/{snapshot}", Theirs, 200),
    ("PATCH", "/v2/templates/{snapshot}", Theirs, 200),
    ("DELETE", "/templates/{snapshot}", Theirs, 204),
    ("DELETE", "/sandboxes/{id}", Theirs, 204),
];

async fn call(client: &Client, method: &str, path: &str) -> Answer {
    let request = client.request(method.parse::<Method>().unwrap(), path);
    let body = match path {
        "/templates/tags" if method == "DELETE" => json!({"name": "kept", "tags": ["mine"]}),
        _ if method == "GET" || method == "DELETE" => return send(request).await,
        "/templates/tags" => json!({"target": "kept:default", "tags": ["mine"]}),
        "/v3/templates" | "/v2/templates" => json!({"name": "new"}),
        _ if method == "PATCH" => json!({"public": false}),
        path if path.contains("/builds/") => {
            json!({"fromTemplate": "base", "steps": [{"type": "RUN", "args": ["echo"], "force": false}]})
        }
        "/volumes" => json!({"name": "new"}),
        "/secrets" => json!({"name": "new", "value": "v"}),
        path if path.starts_with("/secrets/") => json!({"value": "w"}),
        "/v2/sandboxes" | "/sandboxes" => json!({"templateID": "base"}),
        _ => json!({"timeout": 600}),
    };
    send(request.json(&body)).await
}

#[tokio::test]
async fn every_route_asks_for_a_key_and_shows_a_team_its_own_things_only() {
    let platform = Platform::start().await;
    let stranger = platform.stranger().await;
    let id = platform.api.made(json!({"timeout": 600})).await;
    let kept = platform.api.post(&format!("/sandboxes/{id}/snapshots"), json!({"name": "kept"})).await;
    let kept = kept.expect(201)["snapshotID"].as_str().unwrap().replace('/', "%2F");
    let announced = platform.api.post("/v3/templates", json!({"name": "built"})).await.expect(202);
    let secret = platform.api.post("/secrets", json!({"name": "own", "value": "v"})).await.expect(201);
    let volume = platform.api.post("/volumes", json!({"name": "own"})).await.expect(201);
    let named = |path: &str| {
        path.replace("{id}", &id)
            .replace("{snapshot}", &kept)
            .replace("{template}", announced["templateID"].as_str().unwrap())
            .replace("{secret}", secret["secretID"].as_str().unwrap())
            .replace("{volume}", volume["volumeID"].as_str().unwrap())
            .replace("{build}", announced["buildID"].as_str().unwrap())
    };
    for (method, path, things, _) in ROUTES {
        let path = named(path);
        let anyone = platform.api.anonymous();
        for nobody in [&anyone, &anyone.with_key("e2b_garbage"), &anyone.with_bearer("garbage")] {
            refused(&call(nobody, method, &path).await, 401);
        }
        let answer = call(&stranger, method, &path).await;
        match things {
            Theirs => _ = refused(&answer, 404),
            Own => assert!(
                answer.status < 300 && !answer.body.to_string().contains(&id),
                "{path}: {}",
                answer.body
            ),
        }
    }
    // In this order nothing is gone before its turn.
    for (method, path, _, status) in ROUTES {
        let path = named(path);
        let answer = call(&platform.api, method, &path).await;
        assert_eq!(answer.status, status, "{method} {path}: {}", answer.body);
    }
}

#[tokio::test]
async fn what_is_not_here_is_told_in_the_form_of_whose_it_would_be() {
    let platform = Platform::start().await;
    for path in
        ["/volumes/x/y", "/secrets/x/y", "/v3/nothing", "/v2/templates/x/builds/y", "/sandboxes/x/y/z"]
    {
        refused(&platform.api.post(path, json!({})).await, 404);
    }
    let other = platform.api.post("/snapshots", json!({})).await;
    assert!(other.headers.contains_key("allow"));
    refused(&other, 405);
    platform.api.get("/v1/nothing").await.refused(404, "not_found");
    let odd = ["sb-0192f0c1-5c4e-7a3b-9d2e-3f4a5b6c7d8e", "0192F0C15C4E7A3B9D2E3F4A5B6C7D8E", "x"];
    for id in odd {
        refused(&platform.api.get(&format!("/sandboxes/{id}")).await, 404);
    }
    refused(&platform.api.post("/v2/sandboxes", json!({"templateID": 7})).await, 400);
    let body: Value = platform.api.get("/openapi.json").await.expect(200);
    let paths: BTreeSet<&str> = body["paths"].as_object().unwrap().keys().map(String::as_str).collect();
    assert!(paths.iter().all(|path| path.starts_with("/v1/") || path.ends_with('z')), "{paths:?}");
}
