use serde_json::json;

use crate::people::PASSWORD;
use crate::platform::Platform;

#[tokio::test]
async fn another_password_needs_the_old_one_and_ends_all_other_sign_ins() {
    let platform = Platform::start().await;
    let ann = platform.sign_up("ann").await;
    let elsewhere = ann.sign_in_again().await;
    let new = "another good password";
    for (old, new) in [(None, new), (Some("wrong old one"), new)] {
        let body = json!({"password": new, "old_password": old});
        ann.api.patch("/v1/me", body).await.refused(403, "forbidden");
    }
    let short = json!({"password": "short", "old_password": PASSWORD});
    ann.api.patch("/v1/me", short).await.refused(400, "invalid_request");
    elsewhere.get("/v1/me").await.expect(200);

    ann.api.patch("/v1/me", json!({"password": new, "old_password": PASSWORD})).await.expect(200);
    elsewhere.get("/v1/me").await.refused(401, "unauthorized");
    ann.api.get("/v1/me").await.expect(200);
    platform.log_in(&ann.email, PASSWORD).await.refused(401, "unauthorized");
    platform.log_in(&ann.email, new).await.expect(200);
}

#[tokio::test]
async fn a_name_is_seen_wherever_its_person_is() {
    let platform = Platform::start().await;
    let ann = platform.sign_up("ann").await;
    let changed = ann.api.patch("/v1/me", json!({"name": " Ann Other "})).await.expect(200);
    assert_eq!(changed["name"], "Ann Other");
    for bad in ["", "\n", "a\u{0}"] {
        ann.api.patch("/v1/me", json!({"name": bad})).await.refused(400, "invalid_request");
    }
    let team = ann.api.get(&format!("/v1/teams/{}", ann.team)).await.expect(200);
    assert_eq!(team["members"][0]["name"], "Ann Other");
    let (key, _) = ann.key().await;
    let log = ann.api.get("/v1/audit-logs?resource_type=api_key").await.expect(200);
    assert_eq!(
        (&log["items"][0]["resource_id"], &log["items"][0]["actor_name"]),
        (&json!(key), &json!("Ann Other"))
    );
}

#[tokio::test]
async fn sign_ins_are_listed_page_by_page_and_ended_by_their_person_only() {
    let platform = Platform::start().await;
    let (ann, bob) = (platform.sign_up("ann").await, platform.sign_up("bob").await);
    let mut others = Vec::new();
    for _ in 0..3 {
        others.push(ann.sign_in_again().await);
    }
    let (mut seen, mut cursor) = (Vec::new(), String::new());
    loop {
        let answer = ann.api.get(&format!("/v1/me/sessions?limit=3{cursor}")).await;
        let next = answer.next_cursor();
        seen.extend(answer.expect(200).as_array().unwrap().clone());
        match next {
            Some(next) => cursor = format!("&cursor={next}"),
            None => break,
        }
    }
    assert_eq!(seen.len(), 4);
    assert_eq!(seen.iter().filter(|session| session["current"] == true).count(), 1);
    assert_eq!(seen[3]["current"], true, "newest first");
    assert_eq!(seen[0]["address"], "127.0.0.1");

    let path = format!("/v1/me/sessions/{}", seen[0]["id"].as_str().unwrap());
    bob.api.delete(&path).await.refused(404, "not_found");
    ann.api.delete(&path).await.expect(204);
    ann.api.delete(&path).await.refused(404, "not_found");
    others[2].get("/v1/me").await.refused(401, "unauthorized");
    others[1].get("/v1/me").await.expect(200);
}

#[tokio::test]
async fn uses_are_written_down_together_and_not_by_each_request() {
    let platform = Platform::start().await;
    let ann = platform.sign_up("ann").await;
    let (id, key) = ann.key().await;
    let by_key = platform.api.with_key(&key);
    let written = "SELECT xmin::text FROM api_keys WHERE id = $1";
    let row = async || -> String {
        let id: sandbar_types::Id<sandbar_types::id::ApiKey> = id.parse().unwrap();
        sqlx::query_scalar(written).bind(id.uuid()).fetch_one(platform.database.pool()).await.unwrap()
    };
    let before = row().await;
    for _ in 0..5 {
        by_key.get("/v1/sandboxes").await.expect(200);
    }
    assert_eq!(row().await, before, "requests do not write");
    platform.control.write_last_use().await.unwrap();
    assert_ne!(row().await, before);
    let keys = ann.api.get("/v1/api-keys").await.expect(200);
    assert!(keys[0]["last_used"].is_string());
    let once = row().await;
    platform.control.write_last_use().await.unwrap();
    assert_eq!(row().await, once, "nothing was used since");
}
