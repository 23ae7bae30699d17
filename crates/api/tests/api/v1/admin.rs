use serde_json::json;

use crate::platform::Platform;

#[tokio::test]
async fn administrators_are_who_the_database_says_and_one_is_always_left() {
    let platform = Platform::start().await;
    let (first, ann) = (platform.first_person().await, platform.sign_up("ann").await);
    ann.api.get("/v1/admin/users").await.refused(403, "forbidden");
    let admin = |id: &str| format!("/v1/admin/users/{id}/admin");
    let answer = first.api.put(&admin(&ann.id), json!({"is_admin": true})).await.expect(200);
    assert_eq!(answer["is_admin"], true);
    // By the token that she had before.
    ann.api.get("/v1/admin/users").await.expect(200);
    ann.api.put(&admin(&first.id), json!({"is_admin": false})).await.expect(200);
    first.api.get("/v1/admin/users").await.refused(403, "forbidden");
    ann.api.put(&admin(&ann.id), json!({"is_admin": false})).await.refused(409, "conflict");
    let nobody = "usr-0192f0c1-5c4e-7a3b-9d2e-3f4a5b6c7d8e";
    ann.api.put(&admin(nobody), json!({"is_admin": true})).await.refused(404, "not_found");

    // Two who take it from each other at once.
    ann.api.put(&admin(&first.id), json!({"is_admin": true})).await.expect(200);
    let (off, annoff) = (admin(&ann.id), admin(&first.id));
    let (a, b) = tokio::join!(
        first.api.put(&off, json!({"is_admin": false})),
        ann.api.put(&annoff, json!({"is_admin": false}))
    );
    assert!([a.status, b.status].contains(&200), "{a:?} {b:?}");
    let left: i64 = sqlx::query_scalar("SELECT count(*) FROM users WHERE is_admin")
        .fetch_one(platform.database.pool())
        .await
        .unwrap();
    assert_eq!(left, 1);
}

#[tokio::test]
async fn administrators_see_all_teams_people_and_sandboxes() {
    let platform = Platform::start().await;
    let (first, ann) = (platform.first_person().await, platform.sign_up("ann").await);
    let sandbox = ann.api.sandbox().await;
    let teams = first.api.get("/v1/admin/teams").await.expect(200);
    assert_eq!(teams.as_array().unwrap().len(), 2, "without the platform's own");
    assert!(teams[0].get("role").is_none());
    let people = first.api.get("/v1/admin/users?limit=1").await;
    assert!(people.next_cursor().is_some());
    assert_eq!(people.expect(200)[0]["email"], ann.email);
    let list = async |query: &str| {
        let found = first.api.get(&format!("/v1/admin/sandboxes{query}")).await.expect(200);
        found.as_array().unwrap().iter().map(|row| row["id"].as_str().unwrap().to_owned()).collect::<Vec<_>>()
    };
    assert_eq!(list("").await, [sandbox.as_str()]);
    assert_eq!(list(&format!("?team_id={}", ann.team)).await, [sandbox.as_str()]);
    assert_eq!(list(&format!("?team_id={}", first.team)).await, [] as [String; 0]);
    assert_eq!(list("?status=stopped").await, [] as [String; 0]);
    first.api.get("/v1/admin/sandboxes?team_id=x").await.refused(400, "invalid_request");

    // The whole trail, or one team's, a page at a time.
    let trail = async |query: &str| first.api.get(&format!("/v1/admin/audit-logs{query}")).await.expect(200);
    let anns = trail(&format!("?team_id={}&limit=1", ann.team)).await;
    assert_eq!(
        (&anns["items"][0]["resource_id"], &anns["items"][0]["action"]),
        (&json!(sandbox), &json!("create"))
    );
    let rest =
        trail(&format!("?team_id={}&cursor={}", ann.team, anns["next_cursor"].as_str().unwrap())).await;
    let of_ann = |page: &serde_json::Value| {
        page["items"].as_array().unwrap().iter().all(|one| one["team_id"] == ann.team)
    };
    assert!(of_ann(&rest) && rest["items"].as_array().is_some_and(|items| !items.is_empty()));
    assert!(!of_ann(&trail("").await), "there is the first person's team as well");
    first.api.get("/v1/admin/audit-logs?team_id=x").await.refused(400, "invalid_request");
}

#[tokio::test]
async fn a_team_may_bring_hosts_once_it_is_let_and_cannot_be_stopped_while_it_has_some() {
    let platform = Platform::start().await;
    let (first, ann) = (platform.first_person().await, platform.sign_up("ann").await);
    let path = format!("/v1/admin/teams/{}/byoc", ann.team);
    assert_eq!(first.api.put(&path, json!({"is_byoc": true})).await.expect(200)["is_byoc"], true);
    let team: sandbar_types::Id<sandbar_types::id::Team> = ann.team.parse().unwrap();
    let insert = "INSERT INTO hosts (id, kind, team_id) VALUES (gen_random_uuid(), 'byoc', $1)";
    sqlx::query(insert).bind(team.uuid()).execute(platform.database.pool()).await.unwrap();
    first.api.put(&path, json!({"is_byoc": false})).await.refused(409, "conflict");
    ann.api.post("/v1/teams", json!({"name": "Other"})).await.expect(201);
    let message = ann.api.delete(&format!("/v1/teams/{}", ann.team)).await.refused(409, "conflict");
    assert!(message.contains("hosts"), "{message}");
    sqlx::query("UPDATE hosts SET deleted_at = now() WHERE kind = 'byoc'")
        .execute(platform.database.pool())
        .await
        .unwrap();
    assert_eq!(first.api.put(&path, json!({"is_byoc": false})).await.expect(200)["is_byoc"], false);
    let none = "/v1/admin/teams/team-00000000-0000-0000-0000-000000000000/byoc";
    first.api.put(none, json!({"is_byoc": true})).await.refused(404, "not_found");
}
