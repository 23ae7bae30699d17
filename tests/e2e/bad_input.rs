//! Requests that make no sense, or that somebody else may make.

use anyhow::{Context as _, Result, ensure};
use sandbar_tests::{Platform, Sandbox};
use sandbar_types::{ErrorCode, limits};
use serde_json::{Value, json};

use crate::{Test, tests};

const UNKNOWN: &str = "sb-00000000-0000-7000-8000-000000000000";

pub(crate) fn tests() -> Vec<Test> {
    tests![
        a_sandbox_that_cannot_be_is_refused,
        unknown_and_malformed_ids_are_not_found,
        without_the_right_key_nothing_is_told,
        what_is_not_json_is_refused,
        unknown_fields_are_ignored,
        ended_sandboxes_take_no_commands,
        documents_and_probes_are_open,
    ]
}

async fn a_sandbox_that_cannot_be_is_refused(platform: &Platform) -> Result<()> {
    platform.start().await?;
    let client = platform.client()?;
    let template =
        client.create(&json!({"template": "no-such-template"})).await?.refusal(ErrorCode::NotFound)?;
    ensure!(template.contains("no-such-template"), "{template}");
    let many: serde_json::Map<String, Value> =
        (0..=limits::MAP_ENTRIES).map(|n| (format!("key-{n}"), json!("value"))).collect();
    let long = "v".repeat(limits::MAP_VALUE_BYTES + 1);
    let refused = [
        json!({"template": ""}),
        json!({"template": "../../etc/passwd"}),
        json!({"template": 7}),
        json!({"vcpus": 0}),
        json!({"vcpus": -1}),
        json!({"vcpus": 1_000_000}),
        json!({"vcpus": 1.5}),
        json!({"vcpus": "two"}),
        json!({"memory_mb": 0}),
        json!({"memory_mb": -512}),
        json!({"memory_mb": 1}),
        json!({"memory_mb": 1_u64 << 40}),
        json!({"disk_mb": -1}),
        json!({"disk_mb": 1}),
        json!({"timeout_sec": -1}),
        json!({"timeout_sec": 1_u64 << 40}),
        json!({"timeout_sec": "soon"}),
        json!({"on_timeout": "explode"}),
        json!({"metadata": many}),
        json!({"metadata": {"key": long}}),
        json!({"metadata": {"key": 7}}),
        json!({"metadata": ["key"]}),
        json!({"env": {"": "empty name"}}),
        json!({"env": {"A=B": "x"}}),
        json!({"network": {"allow_internet": "no"}}),
        json!({"network": {"deny_out": ["10.0.0.0/64"]}}),
    ];
    for body in refused {
        let message =
            client.create(&body).await?.refusal(ErrorCode::InvalidRequest).context(body.to_string())?;
        let field = body.as_object().and_then(|body| body.keys().next().cloned()).context("no field")?;
        ensure!(message.contains(&field) || message.contains("expected"), "{body}: {message}");
    }
    let huge = json!({"metadata": {"key": "v".repeat(2_200_000)}});
    client.create(&huge).await?.refusal(ErrorCode::TooLarge)?;
    Ok(())
}

async fn unknown_and_malformed_ids_are_not_found(platform: &Platform) -> Result<()> {
    platform.start().await?;
    let client = platform.client()?;
    let team = UNKNOWN.replacen("sb-", "team-", 1);
    for id in [UNKNOWN, &team, "sb-", "sb-nonsense", "0", "..%2f..", "%00"] {
        let path = format!("/v1/sandboxes/{id}");
        let of = || format!("for the id {id}");
        client.get(&path).await?.refusal(ErrorCode::NotFound).with_context(of)?;
        client.delete(&path).await?.refusal(ErrorCode::NotFound).with_context(of)?;
        client.exec(id, &json!({"cmd": "true"})).await?.refusal(ErrorCode::NotFound).with_context(of)?;
        client.read_file(id, "/etc/hosts").await?.refusal(ErrorCode::NotFound).with_context(of)?;
        client
            .write_file(id, "/tmp/x", b"x".to_vec())
            .await?
            .refusal(ErrorCode::NotFound)
            .with_context(of)?;
        client
            .post(&format!("{path}/ping"), &json!({}))
            .await?
            .refusal(ErrorCode::NotFound)
            .with_context(of)?;
    }
    client.get("/v1/no-such-thing").await?.refusal(ErrorCode::NotFound)?;
    let method = client.delete("/v1/sandboxes").await?;
    assert_eq!(method.status, 405);
    Ok(())
}

async fn without_the_right_key_nothing_is_told(platform: &Platform) -> Result<()> {
    platform.start().await?;
    let client = platform.client()?;
    let sandbox = platform.sandbox().await?;
    let wrong = format!("e2b_{}", "0".repeat(40));
    let right = client.key().context("no key")?.to_owned();
    for key in [None, Some(""), Some("x"), Some(&*wrong), Some(&right[..right.len() - 1]), Some("\u{fc}")] {
        let stranger = client.with_key(key);
        let path = format!("/v1/sandboxes/{}", sandbox.id);
        let replies = [
            stranger.create(&json!({})).await?,
            stranger.create(&json!({"vcpus": -1})).await?,
            stranger.get("/v1/sandboxes").await?,
            stranger.get(&path).await?,
            stranger.get("/v1/sandboxes/nonsense").await?,
            stranger.delete(&path).await?,
            stranger.exec(&sandbox.id, &json!({"cmd": "true"})).await?,
            stranger.read_file(&sandbox.id, "/etc/hosts").await?,
            stranger.write_file(&sandbox.id, "/tmp/x", b"x".to_vec()).await?,
            stranger.post(&format!("{path}/ping"), &json!({})).await?,
        ];
        for reply in replies {
            reply.refusal(ErrorCode::Unauthorized).with_context(|| format!("for the key {key:?}"))?;
        }
    }
    assert_eq!(sandbox.status().await?, "running");
    Ok(())
}

async fn what_is_not_json_is_refused(platform: &Platform) -> Result<()> {
    platform.start().await?;
    let client = platform.client()?;
    let path = "/v1/sandboxes";
    for body in ["{", "[]", "null", "\"base\"", "template=base", "{\"template\": \"base\",}", "\u{0}"] {
        let reply = client.post_raw(path, "application/json", body.into()).await?;
        reply.refusal(ErrorCode::InvalidRequest).with_context(|| format!("for {body:?}"))?;
    }
    client
        .post_raw(path, "text/plain", b"{\"template\":\"base\"}".to_vec())
        .await?
        .refusal(ErrorCode::InvalidRequest)?;
    for query in
        ["limit=0", "limit=-1", "limit=many", "limit=100000", "cursor=nonsense", "status=happy", "metadata=x"]
    {
        let reply = client.get(&format!("{path}?{query}")).await?;
        reply.refusal(ErrorCode::InvalidRequest).with_context(|| query.to_owned())?;
    }
    Ok(())
}

async fn unknown_fields_are_ignored(platform: &Platform) -> Result<()> {
    platform.start().await?;
    let client = platform.client()?;
    let body = json!({"colour": "blue", "metadata": {"test": "unknown fields"}, "timeout_sec": 600});
    let sandbox = Sandbox::create(&client, &body).await?;
    assert_eq!(sandbox.made["metadata"], json!({"test": "unknown fields"}));
    assert_eq!((&sandbox.made["timeout_sec"], &sandbox.made["template"]), (&json!(600), &json!("base")));
    assert_eq!(sandbox.made.get("colour"), None);
    let outcome = sandbox.exec(&json!({"cmd": "true", "colour": "blue"})).await?;
    assert_eq!(outcome.exit_code, 0);
    // The filters find it, and only it.
    let found = client.list("metadata=test%3Dunknown%20fields").await?;
    assert_eq!(found.iter().map(|sandbox| &sandbox["id"]).collect::<Vec<_>>(), [&json!(sandbox.id)]);
    assert_eq!(client.list("metadata=test%3Dsomething%20else").await?, Vec::<Value>::new());
    // The same resource under the dashboard's word.
    assert_eq!(
        client.get(&format!("/v1/capsules/{}", sandbox.id)).await?.json(200)?["id"],
        json!(sandbox.id)
    );
    Ok(())
}

async fn ended_sandboxes_take_no_commands(platform: &Platform) -> Result<()> {
    platform.start().await?;
    let client = platform.client()?;
    let sandbox = platform.sandbox().await?;
    let path = format!("/v1/sandboxes/{}", sandbox.id);
    client.delete(&path).await?.expect(204)?;
    assert_eq!(sandbox.status().await?, "stopped");
    sandbox.try_exec(&json!({"cmd": "true"})).await?.refusal(ErrorCode::InvalidState)?;
    client.post(&format!("{path}/ping"), &json!({})).await?.refusal(ErrorCode::InvalidState)?;
    client.read_file(&sandbox.id, "/etc/hosts").await?.refusal(ErrorCode::InvalidState)?;
    let listed = |all: Vec<Value>| all.iter().any(|one| one["id"] == json!(sandbox.id));
    ensure!(!listed(client.list("").await?), "the list shows it unasked");
    ensure!(listed(client.list("status=stopped").await?), "the list does not show it when asked");
    Ok(())
}

async fn documents_and_probes_are_open(platform: &Platform) -> Result<()> {
    platform.start().await?;
    let anyone = platform.client()?.with_key(None);
    for path in ["/healthz", "/readyz"] {
        let reply = anyone.get(path).await?;
        ensure!((200..300).contains(&reply.status), "{path}: {}", reply.status);
    }
    let openapi = anyone.get("/openapi.json").await?.json(200)?;
    assert!(openapi["openapi"].as_str().is_some_and(|version| version.starts_with("3.1")));
    assert!(openapi["paths"]["/v1/sandboxes"]["post"].is_object());
    assert!(anyone.get("/openapi.yaml").await?.expect(200)?.text().starts_with("openapi: 3.1"));
    let page = anyone.get("/docs/").await?;
    page.expect(200)?;
    // Offline: everything that the page loads is the platform's own.
    ensure!(!page.text().contains("https://") && !page.text().contains("//cdn"), "{}", page.text());
    Ok(())
}
