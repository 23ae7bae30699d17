use serde_json::{Value, json};

use crate::platform::Platform;

fn actions(page: &Value) -> Vec<String> {
    let items = page["items"].as_array().unwrap();
    items
        .iter()
        .map(|item| {
            format!("{} {}", item["resource_type"].as_str().unwrap(), item["action"].as_str().unwrap())
        })
        .collect()
}

#[tokio::test]
async fn what_was_done_is_told_with_who_did_it_and_members_see_what_concerns_them() {
    let platform = Platform::start().await;
    let (ann, bob) = (platform.sign_up("ann").await, platform.sign_up("bob").await);
    ann.adds(&bob).await;
    ann.makes(&bob, "admin").await;
    ann.makes(&bob, "member").await;
    let (key, secret) = ann.key().await;
    let sandbox = platform.api.with_key(&secret).sandbox().await;
    ann.api.patch(&format!("/v1/teams/{}", ann.team), json!({"name": "Renamed"})).await.expect(200);
    ann.api.delete(&format!("/v1/api-keys/{key}")).await.expect(204);

    let all = ann.api.get("/v1/audit-logs").await.expect(200);
    assert_eq!(
        actions(&all),
        [
            "api_key revoke",
            "team rename",
            "sandbox create",
            "api_key create",
            "member role_update",
            "member role_update",
            "member add",
            "user signup"
        ]
    );
    assert_eq!(all["next_cursor"], Value::Null);
    let created = &all["items"][2];
    assert_eq!(
        (&created["actor_type"], &created["actor_id"], &created["actor_name"], &created["resource_id"]),
        (&json!("api_key"), &json!(key), &json!("k"), &json!(sandbox))
    );
    assert_eq!((&all["items"][7]["actor_id"], &all["items"][7]["scope"]), (&json!(ann.id), &json!("admin")));
    assert!(!all.to_string().contains(&secret));
    for event in &all["items"].as_array().unwrap()[4..=6] {
        assert_eq!(event["metadata"]["name"], "bob", "who it was about has a name");
    }

    let bobs = bob.in_team(&ann.team).await.get("/v1/audit-logs").await.expect(200);
    assert!(!actions(&bobs).contains(&"user signup".to_owned()), "{bobs}");
    assert_eq!(actions(&bobs).len(), 7);
    let own = bob.api.get("/v1/audit-logs").await.expect(200);
    assert_eq!(actions(&own), ["user signup"], "another team's is not his");
}

#[tokio::test]
async fn the_trail_is_walked_and_filtered() {
    let platform = Platform::start().await;
    let ann = platform.sign_up("ann").await;
    for n in 0..9 {
        let body = json!({"name": format!("n{n}")});
        ann.api.patch(&format!("/v1/teams/{}", ann.team), body).await.expect(200);
    }
    let (mut walked, mut cursor) = (Vec::new(), String::new());
    loop {
        let page = ann.api.get(&format!("/v1/audit-logs?limit=2{cursor}")).await.expect(200);
        walked.extend(page["items"].as_array().unwrap().clone());
        let Some(next) = page["next_cursor"].as_str() else { break };
        cursor = format!("&cursor={next}");
        // What comes meanwhile is not of this walk.
        ann.api.patch(&format!("/v1/teams/{}", ann.team), json!({"name": "late"})).await.expect(200);
    }
    assert_eq!(walked.len(), 10);
    let names: Vec<_> = walked.iter().take(9).map(|item| item["metadata"]["to"].clone()).collect();
    assert_eq!(names, ["n8", "n7", "n6", "n5", "n4", "n3", "n2", "n1", "n0"]);

    for (query, count) in [
        ("action=signup", 1),
        ("action=rename,signup&limit=200", 14),
        ("action=rename&action=signup&limit=200", 14),
        ("resource_type=sandbox", 0),
        ("resource_id=sb-none", 0),
        ("resource_type=%00", 0),
        ("from=2999-01-01T00:00:00Z", 0),
        ("to=2020-01-01T00:00:00Z", 0),
        ("from=2020-01-01T00:00:00Z&to=2999-01-01T00:00:00Z&limit=200", 14),
    ] {
        let page = ann.api.get(&format!("/v1/audit-logs?{query}")).await.expect(200);
        assert_eq!(page["items"].as_array().unwrap().len(), count, "{query}");
    }
    for bad in [
        "limit=0",
        "limit=201",
        "limit=x",
        "cursor=x",
        "cursor=AAAA",
        "from=today",
        "to=-99999-01-01T00:00:00Z",
    ] {
        ann.api.get(&format!("/v1/audit-logs?{bad}")).await.refused(400, "invalid_request");
    }
}

#[tokio::test]
async fn retention_forgets_what_is_older_than_it_says() {
    let config = sandbar_control::Config {
        audit_retention: Some(std::time::Duration::from_secs(30 * 24 * 3600)),
        ..crate::platform::config()
    };
    let platform = Platform::start_with(config).await;
    let ann = platform.sign_up("ann").await;
    let insert = "INSERT INTO audit_logs (id, team_id, actor_type, resource_type, action, scope, status, created_at)
                  SELECT gen_random_uuid(), m.team_id, 'system', 'sandbox', 'create', 'team', 'info', now() - make_interval(days => n)
                  FROM memberships m JOIN users u ON u.id = m.user_id, generate_series(29, 31) AS n WHERE u.email = $1";
    sqlx::query(insert).bind(&ann.email).execute(platform.database.pool()).await.unwrap();
    platform.control.forget_old().await.unwrap();
    let page = ann.api.get("/v1/audit-logs").await.expect(200);
    assert_eq!(actions(&page), ["user signup", "sandbox create"]);
}
