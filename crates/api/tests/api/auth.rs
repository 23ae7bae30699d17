//! Who is let in, and what each may see.

use serde_json::json;
use tokio_tungstenite::tungstenite::http::Method;

use crate::platform::Platform;

/// Every route that takes a key, with a body that would do.
fn routes(id: &str) -> Vec<(Method, String)> {
    let sandbox = format!("/v1/sandboxes/{id}");
    vec![
        (Method::POST, "/v1/sandboxes".to_owned()),
        (Method::GET, "/v1/sandboxes".to_owned()),
        (Method::GET, sandbox.clone()),
        (Method::DELETE, sandbox.clone()),
        (Method::POST, format!("{sandbox}/exec")),
        (Method::GET, format!("{sandbox}/exec/stream")),
        (Method::POST, format!("{sandbox}/files/write")),
        (Method::POST, format!("{sandbox}/files/read")),
        (Method::POST, format!("{sandbox}/ping")),
        (Method::POST, format!("{sandbox}/pause")),
        (Method::POST, format!("{sandbox}/resume")),
        (Method::POST, format!("{sandbox}/timeout")),
        (Method::POST, format!("{sandbox}/fork")),
        (Method::GET, format!("{sandbox}/metrics")),
        (Method::GET, "/v1/snapshots".to_owned()),
        (Method::POST, "/v1/snapshots".to_owned()),
        (Method::DELETE, "/v1/snapshots/base".to_owned()),
        (Method::POST, "/v1/snapshots/base/verify".to_owned()),
    ]
}

#[tokio::test]
async fn without_a_valid_key_nothing_answers() {
    let platform = Platform::start().await;
    let id = platform.api.sandbox().await;
    let valid = "e2b_".to_owned() + &"0".repeat(40);
    let callers = [
        ("no key", platform.api.anonymous()),
        ("an unknown key", platform.api.with_key(&valid)),
        ("garbage", platform.api.with_key("garbage")),
        ("an empty key", platform.api.with_key("")),
        ("a host's token as a key", platform.api.with_key(&platform.host_token)),
        ("a host's token", platform.api.with_host_token(&platform.host_token)),
    ];
    for (who, caller) in &callers {
        for (method, path) in routes(&id) {
            let answer = crate::client::send(caller.request(method.clone(), &path)).await;
            assert_eq!(answer.status, 401, "{who}: {method} {path}");
            answer.refused(401, "unauthorized");
        }
    }
    assert_eq!(platform.api.status_of(&id).await, "running");
}

#[tokio::test]
async fn a_revoked_and_an_expired_key_are_refused_from_the_next_request_on() {
    let platform = Platform::start().await;
    platform.api.get("/v1/sandboxes").await.expect(200);
    for change in ["expires_at = now()", "revoked_at = now(), expires_at = NULL"] {
        let statement = sqlx::AssertSqlSafe(format!("UPDATE api_keys SET {change}"));
        sqlx::query(statement).execute(platform.database.pool()).await.unwrap();
        platform.api.get("/v1/sandboxes").await.refused(401, "unauthorized");
    }
}

#[tokio::test]
async fn another_teams_sandbox_does_not_exist() {
    let platform = Platform::start().await;
    let id = platform.api.sandbox().await;
    let stranger = platform.stranger().await;
    let sandbox = format!("/v1/sandboxes/{id}");
    let exec = json!({"cmd": "echo"});
    let read = json!({"path": "/etc/passwd"});
    let form = reqwest::multipart::Form::new().text("path", "/x").text("file", "x");
    let write = stranger.request(Method::POST, &format!("{sandbox}/files/write")).multipart(form);
    for answer in [
        stranger.get(&sandbox).await,
        stranger.delete(&sandbox).await,
        stranger.post(&format!("{sandbox}/exec"), exec).await,
        stranger.get(&format!("{sandbox}/exec/stream")).await,
        crate::client::send(write).await,
        stranger.post(&format!("{sandbox}/files/read"), read).await,
        stranger.post(&format!("{sandbox}/ping"), json!({})).await,
        stranger.post(&format!("{sandbox}/pause"), json!({})).await,
        stranger.post(&format!("{sandbox}/resume"), json!({})).await,
        stranger.post(&format!("{sandbox}/timeout"), json!({"timeout_sec": 1})).await,
        stranger.post(&format!("{sandbox}/fork"), json!({})).await,
        stranger.get(&format!("{sandbox}/metrics")).await,
        stranger.post("/v1/snapshots", json!({"sandbox_id": id})).await,
    ] {
        answer.refused(404, "not_found");
    }
    assert!(matches!(stranger.open(&format!("{sandbox}/exec/stream")).await, Err(404)));
    assert_eq!(stranger.get("/v1/sandboxes").await.expect(200), json!([]));
    assert_eq!(platform.api.status_of(&id).await, "running");
    assert_eq!(platform.host.sandboxes().len(), 1);
}

#[tokio::test]
async fn text_that_is_no_id_names_nothing() {
    let platform = Platform::start().await;
    let unknown = sandbar_types::Id::<sandbar_types::id::Sandbox>::new();
    for id in [
        unknown.to_string(),
        unknown.uuid().to_string(),
        unknown.to_string().to_uppercase(),
        platform.host_id.clone(),
        "sb-".to_owned(),
        "x".to_owned(),
        "%00".to_owned(),
        "..%2f..%2fetc".to_owned(),
        "%ff".to_owned(),
    ] {
        platform.api.get(&format!("/v1/sandboxes/{id}")).await.refused(404, "not_found");
        platform.api.delete(&format!("/v1/sandboxes/{id}")).await.refused(404, "not_found");
    }
}
