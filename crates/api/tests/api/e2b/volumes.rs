//! `/volumes` and `/volumecontent` on the wire. What the SDKs make of them is in `sdk`.

use reqwest::Method;
use serde_json::{Value, json};

use super::refused;
use crate::client::{Answer, Client, send};
use crate::platform::Platform;

/// Every route of a volume's files, with the status that its token gets where nothing is in it but the folder `/d`.
const FILES: [(&str, &str, u16); 8] = [
    ("GET", "dir?path=/&depth=2", 200),
    ("POST", "dir?path=/d2&mode=448", 201),
    ("GET", "path?path=/d", 200),
    ("PATCH", "path?path=/d", 200),
    ("PUT", "file?path=/d/f&mode=384", 201),
    ("GET", "file?path=/d/f", 200),
    ("DELETE", "path?path=/d/f", 204),
    ("GET", "path?path=/d/f", 404),
];

async fn call(client: &Client, method: &str, path: &str) -> Answer {
    let request = client.request(method.parse::<Method>().unwrap(), path);
    send(match method {
        "PATCH" => request.json(&json!({"mode": 0o700})),
        "PUT" => request.header("content-type", "application/octet-stream").body("content"),
        _ => request,
    })
    .await
}

#[tokio::test]
async fn a_volume_is_told_with_its_token_which_opens_its_files_and_nothing_else() {
    let platform = Platform::start().await;
    let api = &platform.api;
    let made = api.post("/volumes", json!({"name": "data"})).await.expect(201);
    let id = made["volumeID"].as_str().unwrap();
    let token = made["token"].as_str().unwrap();
    assert_eq!(made, json!({"volumeID": id, "name": "data", "token": token}));
    for by in [id, "data"] {
        assert_eq!(api.get(&format!("/volumes/{by}")).await.expect(200), made);
    }
    assert_eq!(api.get("/volumes").await.expect(200), json!([{"volumeID": id, "name": "data"}]));
    assert!(refused(&api.post("/volumes", json!({"name": "data"})).await, 409).contains("data"));
    refused(&api.post("/volumes", json!({"name": "a.b"})).await, 400);
    refused(&api.post("/volumes", json!({})).await, 400);
    refused(&api.get("/volumes/nothing").await, 404);

    let other = api.post("/volumes", json!({"name": "other"})).await.expect(201);
    let files = |path: &str| format!("/volumecontent/{id}/{path}");
    let opened = api.anonymous().with_bearer(token);
    opened.request(Method::POST, &files("dir?path=/d")).send().await.unwrap().error_for_status().unwrap();
    let strangers = [
        api.anonymous(),
        api.anonymous().with_bearer("garbage"),
        api.anonymous().with_bearer(other["token"].as_str().unwrap()),
        // Keys open volumes, not their files.
        api.clone(),
    ];
    for (method, path, status) in FILES {
        for stranger in &strangers {
            refused(&call(stranger, method, &files(path)).await, 401);
        }
        refused(&call(&opened, method, &format!("/volumecontent/vol-x/{path}")).await, 401);
        let answer = call(&opened, method, &files(path)).await;
        assert_eq!(answer.status, status, "{method} {path}: {}", answer.body);
    }
    // Nor does the token open anything of the team's.
    refused(&opened.get("/volumes").await, 401);
    opened.get("/v1/sandboxes").await.refused(401, "unauthorized");

    let list = opened.get(&files("dir?path=")).await.expect(200);
    let told: Vec<_> =
        list.as_array().unwrap().iter().map(|e| (&e["path"], &e["type"], &e["mode"])).collect();
    let folder = |path: &'static str| (json!(path), json!("directory"), json!(0o700));
    assert_eq!(told, [folder("/d"), folder("/d2")].iter().map(|(a, b, c)| (a, b, c)).collect::<Vec<_>>());
    for key in ["name", "size", "uid", "gid", "atime", "mtime", "ctime"] {
        assert_ne!(list[0][key], Value::Null, "{key}");
    }
    for bad in ["dir", "dir?path=/&depth=0", "dir?path=/&depth=x", "path", "file", "dir?path=/&path=/"] {
        refused(&opened.get(&files(bad)).await, 400);
    }
    for (method, bad) in [
        ("POST", "dir?path=/e&mode=4096"),
        ("POST", "dir?path=/e&uid=-1"),
        ("DELETE", "path?path=/"),
        ("DELETE", "path?path=/d/.."),
        ("PUT", "file?path=/"),
    ] {
        refused(&call(&opened, method, &files(bad)).await, 400);
    }
    refused(&call(&opened, "POST", &files("dir?path=/d")).await, 409);
    assert_eq!(call(&opened, "POST", &files("dir?path=/d&force=true")).await.status, 201);
    refused(&opened.get(&files("nothing?path=/")).await, 404);
    api.delete("/volumes/data").await.expect(204);
    refused(&opened.get(&files("dir?path=/")).await, 404);
}

#[tokio::test]
async fn mounts_are_told_and_files_are_the_sandboxs_while_it_has_the_volume() {
    let platform = Platform::start().await;
    let api = &platform.api;
    let made = api.post("/volumes", json!({"name": "data"})).await.expect(201);
    let opened = api.anonymous().with_bearer(made["token"].as_str().unwrap());
    let files = format!("/volumecontent/{}/dir?path=/", made["volumeID"].as_str().unwrap());
    assert_eq!(opened.get(&files).await.expect(200), json!([]));
    let mounts = json!([{"name": "data", "path": "/mnt/data"}]);
    let id = api.made(json!({"volumeMounts": mounts})).await;
    assert_eq!(api.detail(&id).await["volumeMounts"], mounts);
    assert_eq!(api.get("/v2/sandboxes").await.expect(200)[0]["volumeMounts"], mounts);
    let native = format!("sb-{}", uuid::Uuid::try_parse(&id).unwrap());
    for answer in [opened.get(&files).await, api.delete("/volumes/data").await] {
        assert!(refused(&answer, 409).contains(&native), "{}", answer.body);
    }
    let again = json!({"templateID": "base", "volumeMounts": mounts});
    assert!(refused(&api.post("/v2/sandboxes", again).await, 409).contains(&native));
    refused(&api.post(&format!("/sandboxes/{id}/fork"), json!({"timeout": 60})).await, 409);
    refused(&api.post(&format!("/sandboxes/{id}/snapshots"), json!({})).await, 409);
    assert_eq!(api.delete(&format!("/sandboxes/{id}")).await.status, 204);
    assert_eq!(opened.get(&files).await.expect(200), json!([]));
    api.delete("/volumes/data").await.expect(204);
}
