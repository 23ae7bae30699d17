use reqwest::Method;
use serde_json::json;

use crate::client::send;
use crate::platform::Platform;

#[tokio::test]
async fn folders_are_listed_made_and_removed() {
    let platform = Platform::start().await;
    let id = platform.api.sandbox().await;
    let files = format!("/v1/sandboxes/{id}/files");
    for path in ["/data/b", "/data/a", "/data/deep/c"] {
        let write = platform.api.request(Method::POST, &format!("{files}/stream/write?path={path}"));
        send(write.body("four")).await.expect(204);
    }
    let list = format!("{files}/list");
    let listed = platform.api.post(&list, json!({"path": "/data"})).await.expect(200);
    let entries = listed["entries"].as_array().unwrap();
    let names: Vec<&str> = entries.iter().map(|entry| entry["name"].as_str().unwrap()).collect();
    assert_eq!(names, ["a", "b"]);
    let first = &entries[0];
    for (key, value) in [
        ("path", json!("/data/a")),
        ("type", json!("file")),
        ("size", json!(4)),
        ("mode", json!(0o644)),
        ("permissions", json!("-rw-r--r--")),
        ("owner", json!("user")),
        ("group", json!("user")),
    ] {
        assert_eq!(first[key], value, "{key}");
    }
    assert!(first["modified_at"].as_str().unwrap().ends_with('Z') && first.get("symlink_target").is_none());
    platform.api.post(&list, json!({"path": "/nothing"})).await.refused(404, "not_found");
    for body in
        [json!({}), json!({"path": ""}), json!({"path": "/data", "depth": 0}), json!({"path": "a\u{0}"})]
    {
        platform.api.post(&list, body).await.refused(400, "invalid_request");
    }
    let mkdir = format!("{files}/mkdir");
    for _ in 0..2 {
        let made = platform.api.post(&mkdir, json!({"path": "/data/new"})).await.expect(200);
        assert_eq!(
            (&made["entry"]["path"], &made["entry"]["type"]),
            (&json!("/data/new"), &json!("directory"))
        );
    }
    let remove = format!("{files}/remove");
    for _ in 0..2 {
        platform.api.post(&remove, json!({"path": "/data"})).await.expect(204);
    }
    platform.api.post(&list, json!({"path": "/data"})).await.refused(404, "not_found");
}

#[tokio::test]
async fn a_stream_of_any_size_goes_in_and_comes_out() {
    let platform = Platform::start().await;
    let id = platform.api.sandbox().await;
    let files = format!("/v1/sandboxes/{id}/files");
    let contents = vec![7; 24 << 20];
    let write = platform.api.request(Method::POST, &format!("{files}/stream/write?path=/big"));
    send(write.body(contents.clone())).await.expect(204);
    let read = platform.api.post(&format!("{files}/stream/read"), json!({"path": "/big"})).await;
    assert!(read.bytes == contents);
    let nameless = platform.api.request(Method::POST, &format!("{files}/stream/write"));
    send(nameless.body("x")).await.refused(400, "invalid_request");
}
