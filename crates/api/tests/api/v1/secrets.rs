use serde_json::{Value, json};

use crate::platform::Platform;

const VALUE: &str = "hunter2-and-more";

#[tokio::test]
async fn a_value_is_taken_and_never_told() {
    let platform = Platform::start().await;
    let ann = platform.sign_up("ann").await;
    let body = json!({"name": "OpenAI-Key", "value": VALUE, "metadata": {"owner": "ann"}});
    let made = ann.api.post("/v1/secrets", body.clone()).await.expect(201);
    assert_eq!((&made["name"], &made["version"]), (&json!("openai-key"), &json!(1)));
    assert_eq!((&made["metadata"], &made["creator_email"]), (&json!({"owner": "ann"}), &json!(ann.email)));
    let path = format!("/v1/secrets/{}", made["id"].as_str().unwrap());
    for by in ["/v1/secrets/openai-key", "/v1/secrets/OPENAI-KEY", &path] {
        assert_eq!(ann.api.get(by).await.expect(200), made);
    }
    let taken = ann.api.post("/v1/secrets", body).await.refused(409, "already_exists");
    let set = ann.api.put("/v1/secrets/openai-key", json!({"value": format!("{VALUE}2")})).await.expect(200);
    assert_eq!((&set["version"], &set["metadata"]), (&json!(2), &json!({"owner": "ann"})));
    let set = ann.api.put(&path, json!({"value": VALUE, "metadata": {}})).await.expect(200);
    assert_eq!((&set["version"], &set["metadata"]), (&json!(3), &json!({})));

    let sandbox = ann.api.post("/v1/sandboxes", json!({"secrets": {"KEY": "openai-key"}})).await.expect(201);
    let id = sandbox["id"].as_str().unwrap();
    let told_host = platform.host.creation_of(id).unwrap();
    assert_eq!(told_host.secrets.get("KEY").map(String::as_str), Some(VALUE));
    ann.api.delete("/v1/secrets/openai-key").await.expect(204);
    ann.api.delete("/v1/secrets/openai-key").await.refused(404, "not_found");

    let mut answers = vec![made.to_string(), set.to_string(), sandbox.to_string(), taken];
    for path in [
        "/v1/secrets",
        "/v1/sandboxes",
        "/v1/audit-logs",
        &format!("/v1/sandboxes/{id}"),
        &format!("/v1/sandboxes/{id}/logs"),
    ] {
        answers.push(ann.api.get(path).await.expect(200).to_string());
    }
    assert!(answers.iter().all(|answer| !answer.contains(VALUE)), "{answers:#?}");
    let events = ann.api.get("/v1/audit-logs?resource_type=secret").await.expect(200);
    let told: Vec<_> =
        events["items"].as_array().unwrap().iter().map(|e| (&e["action"], &e["metadata"])).collect();
    let event =
        |action: &str, version: u32| (json!(action), json!({"name": "openai-key", "version": version}));
    let expected = [event("delete", 3), event("update", 3), event("update", 2), event("create", 1)];
    assert_eq!(told, expected.iter().map(|(action, told)| (action, told)).collect::<Vec<_>>());
}

#[tokio::test]
async fn what_is_no_secret_is_refused_and_its_value_is_not_repeated() {
    let platform = Platform::start().await;
    let ann = platform.sign_up("ann").await;
    let of = |change: Value| {
        let mut body = json!({"name": "token", "value": VALUE});
        body.as_object_mut().unwrap().extend(change.as_object().unwrap().clone());
        body
    };
    let many: Value = (0..33).map(|n| (n.to_string(), json!(""))).collect::<serde_json::Map<_, _>>().into();
    let large: Value =
        (0..9).map(|n| (n.to_string(), json!("x".repeat(1000)))).collect::<serde_json::Map<_, _>>().into();
    for bad in [
        json!({"name": ""}),
        json!({"name": "a b"}),
        json!({"name": "a/b"}),
        json!({"name": "sec_0192f0c15c4e7a3b9d2e3f4a5b6c7d8e"}),
        json!({"name": "sec-0192f0c1-5c4e-7a3b-9d2e-3f4a5b6c7d8e"}),
        json!({"name": "n".repeat(129)}),
        json!({"name": null}),
        json!({"value": ""}),
        json!({"value": format!("{VALUE}\u{0}")}),
        json!({"value": format!("{VALUE}{}", "x".repeat(4096))}),
        json!({"value": [VALUE]}),
        json!({"value": {"text": VALUE}}),
        json!({"value": 4_815_162_342_u64}),
        json!({"metadata": {"": "x"}}),
        json!({"metadata": {"a": "x".repeat(1025)}}),
        json!({"metadata": {"a": "\u{0}"}}),
        json!({"metadata": many}),
        json!({"metadata": large}),
    ] {
        let answer = ann.api.post("/v1/secrets", of(bad.clone())).await;
        let told = answer.body.to_string();
        answer.refused(400, "invalid_request");
        assert!(!told.contains(VALUE) && !told.contains("4815162342"), "{bad}: {told}");
    }
    ann.api.post("/v1/secrets", json!({"name": "token"})).await.refused(400, "invalid_request");
    ann.api.post("/v1/secrets", of(json!({"value": "x".repeat(4096)}))).await.expect(201);
    assert_eq!(ann.api.get("/v1/secrets").await.expect(200).as_array().unwrap().len(), 1);

    // What a sandbox asks for.
    for (bad, named) in [
        (json!({"secrets": {"KEY": "nothing"}}), "nothing"),
        (json!({"secrets": {"KEY": "token", "OTHER": "no name"}}), "no name"),
        (json!({"secrets": {"A=B": "token"}}), "secrets"),
        (json!({"secrets": {"": "token"}}), "secrets"),
        (json!({"secrets": {"KEY": "token"}, "env": {"KEY": "x"}}), "KEY"),
    ] {
        let message = ann.api.post("/v1/sandboxes", bad.clone()).await.refused(400, "invalid_request");
        assert!(message.contains(named), "{bad}: {message}");
    }
    assert_eq!(ann.api.get("/v1/sandboxes").await.expect(200), json!([]), "nothing was made");
    ann.api.post("/v1/sandboxes", json!({"secrets": {"KEY": "token"}})).await.expect(201);
}

#[tokio::test]
async fn members_keep_their_own_admins_all_and_other_teams_none() {
    let platform = Platform::start().await;
    let (ann, bob) = (platform.sign_up("ann").await, platform.sign_up("bob").await);
    ann.adds(&bob).await;
    let bobs = bob.in_team(&ann.team).await;
    let own = |name: &str| json!({"name": name, "value": "v"});
    ann.api.post("/v1/secrets", own("anns")).await.expect(201);
    bobs.post("/v1/secrets", own("bobs")).await.expect(201);
    let by_key = platform.api.with_key(&ann.key().await.1);
    by_key.post("/v1/secrets", own("keys")).await.expect(201);
    assert!(by_key.get("/v1/secrets/keys").await.expect(200)["created_by"].is_null());

    let names = bobs.get("/v1/secrets?limit=2").await;
    let next = names.headers["x-next-cursor"].to_str().unwrap().to_owned();
    assert_eq!(names.expect(200)[1]["name"], "bobs");
    let rest = bobs.get(&format!("/v1/secrets?limit=2&cursor={next}")).await.expect(200);
    assert_eq!((rest.as_array().unwrap().len(), &rest[0]["name"]), (1, &json!("anns")));
    // A member sees all, and may use all, but replaces what is theirs.
    for (name, status) in [("anns", 403), ("keys", 403), ("bobs", 200)] {
        assert_eq!(bobs.put(&format!("/v1/secrets/{name}"), json!({"value": "w"})).await.status, status);
    }
    bobs.post("/v1/sandboxes", json!({"secrets": {"A": "anns"}})).await.expect(201);
    bobs.delete("/v1/secrets/anns").await.refused(403, "forbidden");
    ann.api.put("/v1/secrets/bobs", json!({"value": "w"})).await.expect(200);
    by_key.put("/v1/secrets/bobs", json!({"value": "w"})).await.expect(200);

    let stranger = platform.sign_up("eve").await;
    stranger.api.get("/v1/secrets/anns").await.refused(404, "not_found");
    stranger.api.put("/v1/secrets/anns", json!({"value": "w"})).await.refused(404, "not_found");
    stranger.api.delete("/v1/secrets/anns").await.refused(404, "not_found");
    let message = stranger.api.post("/v1/sandboxes", json!({"secrets": {"A": "anns"}})).await;
    message.refused(400, "invalid_request");
    assert_eq!(stranger.api.get("/v1/secrets").await.expect(200), json!([]));
    // The same name is another secret there.
    stranger.api.post("/v1/secrets", own("anns")).await.expect(201);

    bobs.delete("/v1/secrets/bobs").await.expect(204);
    ann.api.delete("/v1/secrets/keys").await.expect(204);
}

#[tokio::test]
async fn a_team_has_as_many_as_it_may_have_and_takes_them_along() {
    let platform = Platform::start().await;
    let (first, ann) = (platform.first_person().await, platform.sign_up("ann").await);
    let path = format!("/v1/admin/teams/{}/quotas", ann.team);
    first.api.put(&path, json!({"secrets": 2})).await.expect(200);
    let make = async |name: &str| ann.api.post("/v1/secrets", json!({"name": name, "value": "v"})).await;
    make("a").await.expect(201);
    make("b").await.expect(201);
    let message = make("c").await.refused(429, "rate_limited");
    assert!(message.contains("2 secrets"), "{message}");
    make("a").await.refused(409, "already_exists");
    ann.api.put("/v1/secrets/a", json!({"value": "w"})).await.expect(200);
    let quotas = ann.api.get(&format!("/v1/teams/{}/quotas", ann.team)).await.expect(200);
    assert_eq!(quotas["secrets"], json!({"limit": 2, "used": 2, "is_default": false}));
    ann.api.delete("/v1/secrets/a").await.expect(204);
    make("c").await.expect(201);

    ann.api.post("/v1/teams", json!({"name": "Another"})).await.expect(201);
    ann.api.delete(&format!("/v1/teams/{}", ann.team)).await.expect(204);
    let left: i64 = sqlx::query_scalar("SELECT count(*) FROM team_secrets")
        .fetch_one(platform.database.pool())
        .await
        .unwrap();
    assert_eq!(left, 0);
}
