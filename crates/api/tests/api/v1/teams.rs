use sandbar_types::id::Sandbox;
use sandbar_types::{Id, SandboxStatus};
use serde_json::{Value, json};

use crate::platform::Platform;

#[tokio::test]
async fn teams_are_made_renamed_and_listed_page_by_page() {
    let platform = Platform::start().await;
    let ann = platform.sign_up("ann").await;
    for n in 0..5 {
        let team = ann.api.post("/v1/teams", json!({"name": format!("T{n}")})).await.expect(201);
        assert_eq!((&team["role"], &team["is_byoc"]), (&json!("owner"), &json!(false)));
    }
    let mut names: Vec<Value> = Vec::new();
    let mut cursor = String::new();
    loop {
        let answer = ann.api.get(&format!("/v1/teams?limit=4{cursor}")).await;
        let next = answer.next_cursor();
        names.extend(answer.expect(200).as_array().unwrap().iter().map(|team| team["name"].clone()));
        let Some(next) = next else { break };
        cursor = format!("&cursor={next}");
    }
    assert_eq!(names, ["T4", "T3", "T2", "T1", "T0", "ann's Team"]);
    let path = format!("/v1/teams/{}", ann.team);
    let before = ann.api.get(&path).await.expect(200);
    let after = ann.api.patch(&path, json!({"name": "Other"})).await.expect(200);
    assert_eq!((&after["name"], &after["slug"]), (&json!("Other"), &before["team"]["slug"]));
    for bad in ["", "a/b", "Zoë", "a\u{0}", &"n".repeat(129)] {
        ann.api.patch(&path, json!({"name": bad})).await.refused(400, "invalid_request");
        ann.api.post("/v1/teams", json!({"name": bad})).await.refused(400, "invalid_request");
    }
}

#[tokio::test]
async fn the_owner_stays_and_hands_over_what_is_theirs() {
    let platform = Platform::start().await;
    let (ann, bob) = (platform.sign_up("ann").await, platform.sign_up("bob").await);
    ann.adds(&bob).await;
    ann.makes(&bob, "admin").await;
    let members = format!("/v1/teams/{}/members", ann.team);
    let owner = format!("{members}/{}", ann.id);
    for by in [&ann.api, &bob.api] {
        by.delete(&owner).await.refused(409, "conflict");
        by.patch(&owner, json!({"role": "member"})).await.refused(409, "conflict");
        by.patch(&owner, json!({"role": "owner"})).await.refused(400, "invalid_request");
    }
    ann.api.post(&format!("/v1/teams/{}/leave", ann.team), json!({})).await.refused(409, "conflict");
    let transfer = format!("/v1/teams/{}/transfer", ann.team);
    bob.api.post(&transfer, json!({"user_id": bob.id})).await.refused(403, "forbidden");
    let cid = platform.sign_up("cid").await;
    ann.api.post(&transfer, json!({"user_id": cid.id})).await.refused(404, "not_found");
    let answer = ann.api.post(&transfer, json!({"user_id": bob.id})).await.expect(200);
    assert_eq!(answer["role"], "owner");
    let team = ann.api.get(&format!("/v1/teams/{}", ann.team)).await.expect(200);
    assert_eq!(team["team"]["role"], "admin");
    assert_eq!(team["members"][0]["user_id"], bob.id);

    // It was her only team: she cannot leave it before she has another.
    let leave = format!("/v1/teams/{}/leave", ann.team);
    ann.api.post(&leave, json!({})).await.refused(409, "conflict");
    let other = ann.api.post("/v1/teams", json!({"name": "Other"})).await.expect(201);
    ann.api.post(&leave, json!({})).await.expect(204);
    let signed_in = platform.log_in(&ann.email, crate::people::PASSWORD).await.expect(200);
    assert_eq!(signed_in["team_id"], other["id"], "the default moved on");
}

#[tokio::test]
async fn two_who_hand_over_or_leave_at_once_leave_one_owner() {
    let platform = Platform::start().await;
    let ann = platform.sign_up("ann").await;
    let mut others = Vec::new();
    for name in ["bob", "cid", "dan"] {
        let other = platform.sign_up(name).await;
        ann.adds(&other).await;
        others.push(other);
    }
    let transfer = format!("/v1/teams/{}/transfer", ann.team);
    let leave = format!("/v1/teams/{}/leave", ann.team);
    let handing = others.iter().map(|other| ann.api.post(&transfer, json!({"user_id": other.id})));
    let leaving = others.iter().map(|other| other.api.post(&leave, json!({})));
    let (handed, left) = tokio::join!(futures::future::join_all(handing), futures::future::join_all(leaving));
    for answer in handed.iter().chain(&left) {
        assert!(matches!(answer.status, 200 | 204 | 403 | 404 | 409), "{}: {}", answer.status, answer.body);
    }
    let wrong: i64 = sqlx::query_scalar(
        "SELECT count(*) FROM teams t WHERE t.id <> '00000000-0000-0000-0000-000000000000'
         AND (SELECT count(*) FROM memberships m WHERE m.team_id = t.id AND m.role = 'owner') <> 1",
    )
    .fetch_one(platform.database.pool())
    .await
    .unwrap();
    assert_eq!(wrong, 0);
}

#[tokio::test]
async fn members_are_added_by_address_once() {
    let platform = Platform::start().await;
    let (ann, bob) = (platform.sign_up("ann").await, platform.sign_up("bob").await);
    let members = format!("/v1/teams/{}/members", ann.team);
    ann.api.post(&members, json!({"email": "nobody@example.org"})).await.refused(404, "not_found");
    ann.api.post(&members, json!({"email": "a\u{0}"})).await.refused(404, "not_found");
    let adds = (0..4).map(|_| ann.api.post(&members, json!({"email": "BOB@example.org"})));
    let answers = futures::future::join_all(adds).await;
    assert_eq!(answers.iter().filter(|answer| answer.status == 201).count(), 1);
    for answer in answers.into_iter().filter(|answer| answer.status != 201) {
        answer.refused(409, "already_exists");
    }
    let found = ann.api.get("/v1/users/search?email=bob@").await.expect(200);
    assert_eq!(found, json!([{"user_id": bob.id, "email": bob.email, "name": "bob"}]));
    for bad in ["", "?email=", "?email=bo", "?email=bob", "?email=b@", "?email=%00@x"] {
        ann.api.get(&format!("/v1/users/search{bad}")).await.refused(400, "invalid_request");
    }
    assert_eq!(ann.api.get("/v1/users/search?email=%25@x").await.expect(200), json!([]));
}

#[tokio::test]
async fn a_deleted_team_is_nowhere_and_its_sandboxes_end() {
    let platform = Platform::start().await;
    let (ann, bob) = (platform.sign_up("ann").await, platform.sign_up("bob").await);
    ann.adds(&bob).await;
    let path = format!("/v1/teams/{}", ann.team);
    let message = ann.api.delete(&path).await.refused(409, "conflict");
    assert!(message.contains("last team"), "{message}");
    let mut sandbox = String::new();
    for _ in 0..3 {
        sandbox = ann.api.sandbox().await;
    }
    let templates = platform.host.templates().len();
    ann.api.post("/v1/snapshots", json!({"sandbox_id": sandbox})).await.expect(201);
    assert_eq!(platform.host.templates().len(), templates + 1);
    ann.api.post("/v1/teams", json!({"name": "Other"})).await.expect(201);
    bob.api.delete(&path).await.refused(403, "forbidden");
    ann.api.delete(&path).await.expect(204);

    ann.api.delete(&path).await.refused(404, "not_found");
    ann.api.get(&path).await.refused(404, "not_found");
    ann.api.get("/v1/sandboxes").await.refused(403, "no_team");
    ann.api.post("/v1/sandboxes", json!({})).await.refused(403, "no_team");
    ann.api.post("/v1/api-keys", json!({"name": "k"})).await.refused(403, "no_team");
    ann.api.post("/v1/auth/switch-team", json!({"team_id": ann.team})).await.refused(403, "forbidden");
    assert_eq!(ann.api.get("/v1/teams").await.expect(200).as_array().unwrap().len(), 1);
    assert_eq!(bob.api.get("/v1/teams").await.expect(200).as_array().unwrap().len(), 1);
    let signed_in = platform.log_in(&ann.email, crate::people::PASSWORD).await.expect(200);
    assert_ne!(signed_in["team_id"], ann.team);

    platform.settled(3).await;
    assert_eq!(platform.host.sandboxes().len(), 0);
    let _successor = platform.successor().await;
    let deadline = tokio::time::Instant::now() + std::time::Duration::from_secs(30);
    while platform.host.templates().len() > templates {
        assert!(tokio::time::Instant::now() < deadline, "the files of its snapshot are still there");
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
    let slug_again = "INSERT INTO teams (id, name, slug) SELECT gen_random_uuid(), 'x', slug FROM teams WHERE deleted_at IS NOT NULL";
    assert!(sqlx::query(slug_again).execute(platform.database.pool()).await.is_err(), "slugs stay reserved");
}

/// The process dies between the decision and its doing: what is left is a row that says what must be.
#[tokio::test]
async fn a_team_that_was_deleted_by_a_control_plane_that_died_ends_all_the_same() {
    let platform = Platform::start().await;
    let ann = platform.sign_up("ann").await;
    for _ in 0..2 {
        ann.api.sandbox().await;
    }
    ann.api.post("/v1/teams", json!({"name": "Other"})).await.expect(201);
    let mut tx = platform.store.begin().await.unwrap();
    let team: Id<sandbar_types::id::Team> = ann.team.parse().unwrap();
    let rows = tx.sandboxes_stop_of_team(team).await.unwrap();
    assert!(rows.iter().all(|row| row.status == SandboxStatus::Stopping));
    tx.team_delete(team).await.unwrap();
    tx.defaults_move_away(team, None).await.unwrap();
    tx.commit().await.unwrap();
    assert_eq!(platform.host.sandboxes().len(), 2, "nobody has ended them yet");
    let _successor = platform.successor().await;
    platform.settled(2).await;
    assert_eq!(platform.host.sandboxes().len(), 0);
}

#[tokio::test]
async fn sandboxes_that_are_made_while_their_team_is_deleted_end_or_are_refused() {
    let platform = Platform::start().await;
    let ann = platform.sign_up("ann").await;
    ann.api.post("/v1/teams", json!({"name": "Other"})).await.expect(201);
    let creates = (0..8).map(|_| ann.api.post("/v1/sandboxes", json!({})));
    let path = format!("/v1/teams/{}", ann.team);
    let (created, deleted) = tokio::join!(futures::future::join_all(creates), ann.api.delete(&path));
    deleted.expect(204);
    for answer in created {
        assert!(matches!(answer.status, 201 | 403 | 409), "{}: {}", answer.status, answer.body);
    }
    let _successor = platform.successor().await;
    let rows: i64 = sqlx::query_scalar("SELECT count(*) FROM sandboxes")
        .fetch_one(platform.database.pool())
        .await
        .unwrap();
    platform.settled(rows).await;
    let left: Vec<Id<Sandbox>> =
        platform.host.sandboxes().iter().filter_map(|sandbox| sandbox.id.parse().ok()).collect();
    assert_eq!(left, []);
}
