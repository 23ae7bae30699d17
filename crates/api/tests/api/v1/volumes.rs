use serde_json::{Value, json};

use crate::platform::Platform;

#[tokio::test]
async fn a_volume_is_made_mounted_shown_and_deleted_by_name_or_id() {
    let platform = Platform::start().await;
    let ann = platform.sign_up("ann").await;
    let made = ann.api.post("/v1/volumes", json!({"name": "Data_1", "size_mb": 64})).await.expect(201);
    assert_eq!((&made["name"], &made["size_mb"]), (&json!("Data_1"), &json!(64)));
    assert_eq!((&made["status"], &made["sandbox_id"]), (&json!("ready"), &Value::Null));
    assert_eq!((&made["creator_email"], &made["serving"]), (&json!(ann.email), &json!(false)));
    let path = format!("/v1/volumes/{}", made["id"].as_str().unwrap());
    for by in ["/v1/volumes/Data_1", &path] {
        assert_eq!(ann.api.get(by).await.expect(200), made);
    }
    // Names are told apart by their letters' size, as E2B does.
    ann.api.get("/v1/volumes/data_1").await.refused(404, "not_found");
    ann.api.post("/v1/volumes", json!({"name": "Data_1"})).await.refused(409, "already_exists");
    assert_eq!(ann.api.get("/v1/volumes").await.expect(200), json!([made]));

    let body = json!({"volumes": [{"name": "Data_1", "path": "/data/"}]});
    let sandbox = ann.api.post("/v1/sandboxes", body.clone()).await.expect(201);
    let id = sandbox["id"].as_str().unwrap();
    assert_eq!(sandbox["volumes"], json!([{"id": made["id"], "name": "Data_1", "path": "/data"}]));
    for path in [format!("/v1/sandboxes/{id}"), "/v1/sandboxes".to_owned()] {
        let answer = ann.api.get(&path).await.expect(200);
        let shown = answer.get(0).unwrap_or(&answer);
        assert_eq!(shown["volumes"], sandbox["volumes"], "{path}");
    }
    assert_eq!(ann.api.get(&path).await.expect(200)["sandbox_id"], sandbox["id"]);
    for refused in [ann.api.post("/v1/sandboxes", body).await, ann.api.delete(&path).await] {
        assert_eq!(refused.body["error"]["sandbox_ids"], json!([id]), "{}", refused.body);
        assert!(refused.refused(409, "conflict").contains(id));
    }
    for (action, body) in [("fork", json!({"count": 1})), ("snapshot", json!({}))] {
        let path = match action {
            "fork" => format!("/v1/sandboxes/{id}/fork"),
            _ => "/v1/snapshots".to_owned(),
        };
        let mut body = body;
        body["sandbox_id"] = json!(id);
        let message = ann.api.post(&path, body).await.refused(409, "invalid_state");
        assert!(message.contains("has volumes"), "{message}");
    }
    ann.api.delete(&format!("/v1/sandboxes/{id}")).await.expect(204);
    ann.api.delete("/v1/volumes/Data_1").await.expect(204);
    ann.api.delete("/v1/volumes/Data_1").await.refused(404, "not_found");
    assert_eq!(platform.host.volumes().len(), 0);
}

#[tokio::test]
async fn what_is_no_volume_or_no_place_for_one_is_refused() {
    let platform = Platform::start().await;
    let ann = platform.sign_up("ann").await;
    ann.api.post("/v1/volumes", json!({"name": "a"})).await.expect(201);
    ann.api.post("/v1/volumes", json!({"name": "b"})).await.expect(201);
    for bad in [
        json!({}),
        json!({"name": ""}),
        json!({"name": "a b"}),
        json!({"name": "a.b"}),
        json!({"name": "vol-0192f0c1-5c4e-7a3b-9d2e-3f4a5b6c7d8e"}),
        json!({"name": "n".repeat(129)}),
        json!({"name": "c", "size_mb": 0}),
        json!({"name": "c", "size_mb": 102_401}),
        json!({"name": "c", "size_mb": -1}),
    ] {
        ann.api.post("/v1/volumes", bad).await.refused(400, "invalid_request");
    }
    let at = |name: &str, path: &str| json!({"name": name, "path": path});
    for bad in [
        json!([at("nothing", "/x")]),
        json!([at("a", "x")]),
        json!([at("a", "/")]),
        json!([at("a", "/x/../y")]),
        json!([at("a", "/etc")]),
        json!([at("a", "/proc/x")]),
        json!([at("a", "/x"), at("b", "/x/")]),
        json!([at("a", "/x"), at("b", "/x/y")]),
        json!([at("a", "/x"), at("a", "/y")]),
        json!([{"name": "a"}]),
        json!("a"),
    ] {
        let message = ann.api.post("/v1/sandboxes", json!({"volumes": bad})).await;
        message.refused(400, "invalid_request");
    }
    assert_eq!(ann.api.get("/v1/sandboxes").await.expect(200), json!([]), "nothing was made");
    let both = json!([at("a", "/x"), at("b", "/y")]);
    ann.api.post("/v1/sandboxes", json!({"volumes": both})).await.expect(201);
}

#[tokio::test]
async fn members_delete_their_own_admins_all_other_teams_none_and_quotas_bound_it() {
    let platform = Platform::start().await;
    let (ann, bob) = (platform.sign_up("ann").await, platform.sign_up("bob").await);
    ann.adds(&bob).await;
    let bobs = bob.in_team(&ann.team).await;
    ann.api.post("/v1/volumes", json!({"name": "anns", "size_mb": 64})).await.expect(201);
    bobs.post("/v1/volumes", json!({"name": "bobs", "size_mb": 64})).await.expect(201);
    bobs.delete("/v1/volumes/anns").await.refused(403, "forbidden");
    let mount = json!({"volumes": [{"name": "anns", "path": "/x"}]});
    let sandbox = bobs.post("/v1/sandboxes", mount.clone()).await.expect(201);
    bobs.delete(&format!("/v1/sandboxes/{}", sandbox["id"].as_str().unwrap())).await.expect(204);

    let stranger = platform.sign_up("eve").await;
    stranger.api.get("/v1/volumes/anns").await.refused(404, "not_found");
    stranger.api.delete("/v1/volumes/anns").await.refused(404, "not_found");
    stranger.api.post("/v1/sandboxes", mount).await.refused(400, "invalid_request");
    stranger.api.post("/v1/volumes", json!({"name": "anns", "size_mb": 64})).await.expect(201);

    let first = platform.first_person().await;
    let quotas = format!("/v1/admin/teams/{}/quotas", ann.team);
    first.api.put(&quotas, json!({"volumes": 3, "volume_mb": 200})).await.expect(200);
    let make = async |name: &str, size_mb: u32| {
        ann.api.post("/v1/volumes", json!({"name": name, "size_mb": size_mb})).await
    };
    let message = make("c", 100).await.refused(429, "rate_limited");
    assert!(message.contains("200 MiB of volumes"), "{message}");
    make("c", 64).await.expect(201);
    let message = make("d", 64).await.refused(429, "rate_limited");
    assert!(message.contains("3 volumes"), "{message}");
    let told = ann.api.get(&format!("/v1/teams/{}/quotas", ann.team)).await.expect(200);
    assert_eq!(told["volumes"], json!({"limit": 3, "used": 3, "is_default": false}));
    assert_eq!(told["volume_mb"], json!({"limit": 200, "used": 192, "is_default": false}));
    bobs.delete("/v1/volumes/bobs").await.expect(204);
    ann.api.delete("/v1/volumes/c").await.expect(204);

    // A team takes its volumes along.
    ann.api.post("/v1/teams", json!({"name": "Another"})).await.expect(201);
    ann.api.delete(&format!("/v1/teams/{}", ann.team)).await.expect(204);
    let left: i64 = sqlx::query_scalar("SELECT count(*) FROM volumes WHERE status <> 'deleting'")
        .fetch_one(platform.database.pool())
        .await
        .unwrap();
    assert_eq!(left, 1, "the stranger's");
}
