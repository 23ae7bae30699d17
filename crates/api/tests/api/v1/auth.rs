use std::time::Duration;

use reqwest::Method;
use sandbar_control::config::Allowance;
use sandbar_control::{Config, OpContext};
use serde_json::{Value, json};

use crate::client::send;
use crate::people::PASSWORD;
use crate::platform::{Platform, config};

#[tokio::test]
async fn whoever_signs_up_owns_a_team_that_the_token_acts_for() {
    let platform = Platform::start().await;
    let ann = platform.sign_up("ann").await;
    let team = ann.api.get(&format!("/v1/teams/{}", ann.team)).await.expect(200);
    assert_eq!((&team["team"]["name"], &team["team"]["role"]), (&json!("ann's Team"), &json!("owner")));
    assert_eq!(team["members"][0]["user_id"], ann.id);
    let profile = ann.api.get("/v1/me").await.expect(200);
    assert_eq!(
        (&profile["email"], &profile["is_admin"], &profile["has_password"]),
        (&json!("ann@example.org"), &json!(false), &json!(true)),
        "only the first person administers the platform"
    );
    // The same routes as a key.
    let sandbox = ann.api.sandbox().await;
    assert_eq!(ann.api.status_of(&sandbox).await, "running");
    let rows = "SELECT count(*) FROM memberships m JOIN users u ON u.id = m.user_id
                WHERE u.email = $1 AND m.role = 'owner' AND m.is_default";
    let rows: i64 =
        sqlx::query_scalar(rows).bind(&ann.email).fetch_one(platform.database.pool()).await.unwrap();
    assert_eq!(rows, 1);
}

#[tokio::test]
async fn an_address_has_one_account_however_it_is_spelt_and_many_at_once_make_one() {
    let platform = Platform::start().await;
    let body = |email: &str| json!({"email": email, "password": PASSWORD, "name": "N"});
    let attempts = ["a@x.org", "A@x.org", "a@X.ORG", "a@x.org", "A@X.org"];
    let anyone = platform.api.anonymous();
    let attempts = attempts.map(|email| anyone.post("/v1/auth/signup", body(email)));
    let mut answers = futures::future::join_all(attempts).await;
    answers.sort_by_key(|answer| answer.status);
    assert_eq!(answers[0].status, 201);
    for answer in answers.drain(..).skip(1) {
        answer.refused(409, "email_taken");
    }
    // What the refused ones began is undone.
    let teams: i64 = sqlx::query_scalar("SELECT count(*) FROM teams WHERE name = 'N''s Team'")
        .fetch_one(platform.database.pool())
        .await
        .unwrap();
    assert_eq!(teams, 1);
}

#[tokio::test]
async fn what_cannot_be_an_account_is_refused_with_the_reason() {
    let platform = Platform::start().await;
    let good = json!({"email": "a@x.org", "password": PASSWORD, "name": "N"});
    for (field, value) in [
        ("email", json!("a")),
        ("email", json!("a b@x.org")),
        ("email", json!("a\u{0}@x.org")),
        ("password", json!("1234567")),
        ("password", json!("p".repeat(1025))),
        ("name", json!("")),
        ("name", json!("a\u{0}")),
        ("name", json!("n".repeat(101))),
    ] {
        let mut body = good.clone();
        body[field] = value;
        let answer = platform.api.anonymous().post("/v1/auth/signup", body).await;
        assert!(answer.refused(400, "invalid_request").contains(field), "{field}");
    }
}

#[tokio::test]
async fn the_first_person_of_an_installation_administers_it() {
    let platform = Platform::start().await;
    // Rows that refer to people go, too; teams and the trail stay.
    sqlx::raw_sql("TRUNCATE users CASCADE").execute(platform.database.pool()).await.unwrap();
    // Several at once: one of them is the first.
    let people = (0..6).map(|n| {
        let body = json!({"email": format!("p{n}@x.org"), "password": PASSWORD, "name": "N"});
        let anyone = platform.api.anonymous();
        async move { anyone.post("/v1/auth/signup", body).await.expect(201) }
    });
    let people = futures::future::join_all(people).await;
    let mut admins = 0;
    for person in &people {
        let api = platform.api.with_bearer(person["token"].as_str().unwrap());
        admins += u32::from(api.get("/v1/me").await.expect(200)["is_admin"] == true);
    }
    assert_eq!(admins, 1);
}

#[tokio::test]
async fn every_failed_sign_in_has_one_answer_and_is_told_without_what_was_typed() {
    let platform = Platform::start().await;
    let ann = platform.sign_up("ann").await;
    sqlx::query("INSERT INTO users (id, email, name) VALUES (gen_random_uuid(), 'oauth@example.org', 'O')")
        .execute(platform.database.pool())
        .await
        .unwrap();
    let mut messages = Vec::new();
    for (email, password) in [
        (ann.email.as_str(), "wrong password"),
        ("unknown@example.org", PASSWORD),
        ("oauth@example.org", PASSWORD),
        ("oauth@example.org", ""),
        ("typed-s3cret-here", "x"),
        ("a\u{0}@x", "x"),
    ] {
        messages.push(platform.log_in(email, password).await.refused(401, "unauthorized"));
    }
    messages.dedup();
    assert_eq!(messages.len(), 1, "{messages:?}");
    platform.log_in("ANN@example.org", PASSWORD).await.expect(200);

    let log: Vec<Value> =
        sqlx::query_scalar("SELECT to_jsonb(a) FROM audit_logs a WHERE action = 'login_failed'")
            .fetch_all(platform.database.pool())
            .await
            .unwrap();
    assert_eq!(log.len(), 6);
    let text = Value::from(log).to_string();
    for secret in ["wrong password", PASSWORD, "s3cret"] {
        assert!(!text.contains(secret), "{text}");
    }
}

#[tokio::test]
async fn guessing_is_slowed_by_account_and_by_address_and_across_replicas() {
    let strict = |burst| Allowance { burst, refill: Duration::from_secs(600) };
    let by_account = Config { sign_ins_by_account: strict(4), ..config() };
    let platform = Platform::start_with(by_account.clone()).await;
    let ann = platform.sign_up("ann").await;
    let (replica, _stop) = platform.beside(by_account).await;
    let body = |password: &str| json!({"email": ann.email, "password": password});
    for api in [&platform.api.anonymous(), &replica, &platform.api.anonymous(), &replica] {
        api.post("/v1/auth/login", body("wrong guess")).await.refused(401, "unauthorized");
    }
    // Now not even the right one; and who has no account is treated as who has.
    let answer = replica.post("/v1/auth/login", body(PASSWORD)).await;
    let wait: u64 = answer.headers["retry-after"].to_str().unwrap().parse().unwrap();
    assert!((1..=600).contains(&wait), "{wait}");
    answer.refused(429, "rate_limited");
    for _ in 0..4 {
        platform.log_in("nobody@example.org", "wrong guess").await.refused(401, "unauthorized");
    }
    platform.log_in("nobody@example.org", "wrong guess").await.refused(429, "rate_limited");

    let older = "UPDATE sign_in_attempts SET updated_at = updated_at - interval '601 seconds'";
    sqlx::query(older).execute(platform.database.pool()).await.unwrap();
    platform.log_in(&ann.email, PASSWORD).await.expect(200);
    for _ in 0..4 {
        platform.log_in(&ann.email, PASSWORD).await.expect(200);
    }

    let (strictest, _stop) = platform.beside(Config { sign_ins_by_address: strict(3), ..config() }).await;
    let from = |address: &'static str, n: u32| {
        let request = strictest.request(Method::POST, "/v1/auth/login").header("X-Forwarded-For", address);
        send(request.json(&json!({"email": format!("{n}@x.org"), "password": "guess"})))
    };
    for n in 0..3 {
        from("192.0.2.1", n).await.refused(401, "unauthorized");
    }
    from("192.0.2.1", 3).await.refused(429, "rate_limited");
    from("192.0.2.2", 3).await.refused(401, "unauthorized");
}

#[tokio::test]
async fn a_token_ends_with_its_sign_in_and_what_it_says_of_rights_counts_nothing() {
    let platform = Platform::start().await;
    let (ann, bob) = (platform.sign_up("ann").await, platform.sign_up("bob").await);
    ann.adds(&bob).await;
    let in_anns = bob.in_team(&ann.team).await;
    in_anns.get("/v1/sandboxes").await.expect(200);
    // The token still names the team: the database does not.
    ann.api.delete(&format!("/v1/teams/{}/members/{}", ann.team, bob.id)).await.expect(204);
    in_anns.get("/v1/sandboxes").await.refused(403, "no_team");
    in_anns.get("/v1/me").await.expect(200);
    bob.api.post("/v1/auth/switch-team", json!({"team_id": ann.team})).await.refused(403, "forbidden");

    let again = bob.sign_in_again().await;
    again.post("/v1/auth/logout", json!({})).await.expect(204);
    again.get("/v1/me").await.refused(401, "unauthorized");
    bob.api.get("/v1/me").await.expect(200);
}

#[tokio::test]
async fn a_switched_token_says_what_the_database_says_and_lives_no_longer() {
    let platform = Platform::start().await;
    let (ann, bob) = (platform.sign_up("ann").await, platform.sign_up("bob").await);
    ann.adds(&bob).await;
    bob.api.patch("/v1/me", json!({"name": "Robert"})).await.expect(200);
    let answer = bob.api.post("/v1/auth/switch-team", json!({"team_id": ann.team})).await.expect(200);
    assert_eq!((&answer["name"], &answer["team_id"]), (&json!("Robert"), &json!(ann.team)));
    let sessions = bob.api.get("/v1/me/sessions").await.expect(200);
    assert_eq!(sessions.as_array().unwrap().len(), 1, "one sign-in, two tokens");
    for team in ["team-x", "usr-0192f0c1-5c4e-7a3b-9d2e-3f4a5b6c7d8e"] {
        bob.api.post("/v1/auth/switch-team", json!({"team_id": team})).await.refused(400, "invalid_request");
    }
}

#[tokio::test]
async fn a_key_counts_where_a_token_is_sent_as_well() {
    let platform = Platform::start().await;
    let ann = platform.sign_up("ann").await;
    let sandbox = platform.api.sandbox().await;
    let path = format!("/v1/sandboxes/{sandbox}");
    ann.api.get(&path).await.refused(404, "not_found");
    use secrecy::ExposeSecret as _;
    let with_both = ann.api.request(Method::GET, &path).header("X-API-Key", platform.key.expose_secret());
    send(with_both).await.expect(200);
    let bad_key = ann.api.request(Method::GET, "/v1/sandboxes").header("X-API-Key", "e2b_x");
    send(bad_key).await.refused(401, "unauthorized");
}

#[tokio::test]
async fn a_new_key_for_tokens_signs_nobody_out_and_is_known_to_all_replicas_at_once() {
    let platform = Platform::start().await;
    let ann = platform.sign_up("ann").await;
    let (replica, _stop) = platform.beside(config()).await;
    let token_of = |answer: Value| answer["token"].as_str().unwrap().to_owned();
    let header = |token: &str| token.split('.').next().unwrap().to_owned();
    let log_in = json!({"email": ann.email, "password": PASSWORD});
    let before = token_of(platform.log_in(&ann.email, PASSWORD).await.expect(200));
    platform.control.rotate_token_key(&OpContext::system()).await.unwrap();
    let after = token_of(platform.log_in(&ann.email, PASSWORD).await.expect(200));
    assert_ne!(header(&before), header(&after));
    // The replica has not looked yet: it takes the old ones, and finds the new one when it is shown a token of it.
    assert_eq!(
        header(&token_of(replica.post("/v1/auth/login", log_in.clone()).await.expect(200))),
        header(&before)
    );
    let shown = async || replica.with_bearer(&after).get("/v1/me").await.status;
    // It looks once a second at most.
    let deadline = tokio::time::Instant::now() + Duration::from_secs(60);
    while shown().await != 200 {
        assert!(tokio::time::Instant::now() < deadline, "the new key is never found");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    for api in [&platform.api, &replica] {
        api.with_bearer(&before).get("/v1/me").await.expect(200);
    }
    assert_eq!(header(&token_of(replica.post("/v1/auth/login", log_in).await.expect(200))), header(&after));
}
