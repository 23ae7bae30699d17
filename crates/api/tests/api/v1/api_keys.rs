use serde_json::json;

use crate::platform::Platform;

#[tokio::test]
async fn a_key_is_shown_once_and_kept_as_a_hash() {
    let platform = Platform::start().await;
    let ann = platform.sign_up("ann").await;
    let made = ann.api.post("/v1/api-keys", json!({"name": "ci"})).await.expect(201);
    let key = made["key"].as_str().unwrap();
    assert!(key.starts_with("e2b_") && key.len() == 44);
    platform.api.with_key(key).get("/v1/sandboxes").await.expect(200);
    let list = ann.api.get("/v1/api-keys").await.expect(200);
    assert_eq!(
        (&list[0]["name"], &list[0]["creator_email"], &list[0]["key_prefix"]),
        (&json!("ci"), &json!(ann.email), &json!(&key[..12]))
    );
    assert!(list[0].get("expires_at").is_none() && !list.to_string().contains(key));
    let everything: Vec<String> = sqlx::query_scalar(
        "SELECT to_jsonb(k)::text FROM api_keys k UNION ALL SELECT to_jsonb(a)::text FROM audit_logs a",
    )
    .fetch_all(platform.database.pool())
    .await
    .unwrap();
    assert!(everything.iter().all(|row| !row.contains(key)), "the key itself is nowhere");
}

#[tokio::test]
async fn a_key_ends_at_its_time() {
    let platform = Platform::start().await;
    let ann = platform.sign_up("ann").await;
    for bad in ["2020-01-01T00:00:00Z", "3000-01-01T00:00:00Z", "soon", "+262000-01-01T00:00:00Z"] {
        let body = json!({"name": "k", "expires_at": bad});
        ann.api.post("/v1/api-keys", body).await.refused(400, "invalid_request");
    }
    for bad in [json!(""), json!("a\u{0}"), json!("n".repeat(101)), json!(null)] {
        ann.api.post("/v1/api-keys", json!({"name": bad})).await.refused(400, "invalid_request");
    }
    let body = json!({"name": "k", "expires_at": "2990-01-01T00:00:00Z"});
    let made = ann.api.post("/v1/api-keys", body).await.expect(201);
    assert_eq!(made["expires_at"], "2990-01-01T00:00:00.000000Z");
    let by_key = platform.api.with_key(made["key"].as_str().unwrap());
    by_key.get("/v1/sandboxes").await.expect(200);
    sqlx::query("UPDATE api_keys SET expires_at = now() WHERE name = 'k'")
        .execute(platform.database.pool())
        .await
        .unwrap();
    by_key.get("/v1/sandboxes").await.refused(401, "unauthorized");
}

#[tokio::test]
async fn keys_end_at_once_when_they_are_revoked_their_maker_goes_or_their_team_does() {
    let platform = Platform::start().await;
    let ann = platform.sign_up("ann").await;
    let mut keys = Vec::new();
    for name in ["bob", "cid", "dan"] {
        let other = platform.sign_up(name).await;
        ann.adds(&other).await;
        let api = other.in_team(&ann.team).await;
        let made = api.post("/v1/api-keys", json!({"name": name})).await.expect(201);
        let key = platform.api.with_key(made["key"].as_str().unwrap());
        key.get("/v1/sandboxes").await.expect(200);
        keys.push((other, api, made["id"].as_str().unwrap().to_owned(), key));
    }
    let [(_, bobs, bobs_key, by_bobs), (cid, cids, _, by_cids), (dan, _, dans_key, by_dans)] =
        keys.as_slice()
    else {
        panic!("three")
    };
    // Another's: not by a member; by an admin.
    bobs.delete(&format!("/v1/api-keys/{dans_key}")).await.refused(403, "forbidden");
    bobs.delete(&format!("/v1/api-keys/{bobs_key}")).await.expect(204);
    by_bobs.get("/v1/sandboxes").await.refused(401, "unauthorized");
    bobs.delete(&format!("/v1/api-keys/{bobs_key}")).await.refused(404, "not_found");

    cids.post(&format!("/v1/teams/{}/leave", ann.team), json!({})).await.expect(204);
    by_cids.get("/v1/sandboxes").await.refused(401, "unauthorized");
    let own = cid.key().await.1;
    platform.api.with_key(&own).get("/v1/sandboxes").await.expect(200);

    ann.api.delete(&format!("/v1/teams/{}/members/{}", ann.team, dan.id)).await.expect(204);
    by_dans.get("/v1/sandboxes").await.refused(401, "unauthorized");

    let (_, anns) = ann.key().await;
    ann.api.post("/v1/teams", json!({"name": "Another"})).await.expect(201);
    ann.api.delete(&format!("/v1/teams/{}", ann.team)).await.expect(204);
    platform.api.with_key(&anns).get("/v1/sandboxes").await.refused(401, "unauthorized");
}
