use sandbar_control::OpContext;
use sandbar_control::hosts::NewHost;
use sandbar_testkit::sim_host::SimHost;
use secrecy::ExposeSecret as _;
use serde_json::{Value, json};

use crate::platform::{Platform, let_in, registration};

async fn token(platform: &Platform) -> String {
    let created = platform.control.host_create(&OpContext::system(), &NewHost::default()).await.unwrap();
    created.registration_token.expose_secret().to_owned()
}

#[tokio::test]
async fn a_registration_token_lets_one_host_in_once() {
    let platform = Platform::start().await;
    let anyone = platform.api.anonymous();
    let host = SimHost::bind().await.unwrap();
    let body = registration(&host, &token(&platform).await);
    let answer = anyone.post("/v1/hosts/register", body.clone()).await.expect(201);
    assert_eq!(answer["host"]["arch"], "x86_64");
    assert_eq!(answer["host"]["type"], "regular");
    assert_eq!(answer["host"]["address"], host.address());
    assert!(answer["cert"].as_str().unwrap().contains("BEGIN CERTIFICATE"));
    assert_ne!(answer["token"], answer["refresh_token"]);
    anyone.post("/v1/hosts/register", body).await.refused(401, "unauthorized");
}

#[tokio::test]
async fn one_token_used_by_many_at_once_lets_one_in() {
    let platform = Platform::start().await;
    let anyone = platform.api.anonymous();
    let host = SimHost::bind().await.unwrap();
    let body = registration(&host, &token(&platform).await);
    let attempts = (0..10).map(|_| anyone.post("/v1/hosts/register", body.clone()));
    let answers = futures::future::join_all(attempts).await;
    assert_eq!(answers.iter().filter(|answer| answer.status == 201).count(), 1);
    assert_eq!(answers.iter().filter(|answer| answer.status == 401).count(), 9);
}

#[tokio::test]
async fn an_expired_and_an_unknown_token_let_nobody_in() {
    let platform = Platform::start().await;
    let host = SimHost::bind().await.unwrap();
    let expired = token(&platform).await;
    sqlx::query("UPDATE host_tokens SET expires_at = now()").execute(platform.database.pool()).await.unwrap();
    for token in [expired.as_str(), "htok-unknown", ""] {
        let body = registration(&host, token);
        platform.api.anonymous().post("/v1/hosts/register", body).await.refused(401, "unauthorized");
    }
}

#[tokio::test]
async fn a_refused_registration_does_not_use_up_the_token() {
    let platform = Platform::start().await;
    let anyone = platform.api.anonymous();
    let host = SimHost::bind().await.unwrap();
    let good = registration(&host, &token(&platform).await);
    for (field, value) in [
        ("csr", json!("not PEM")),
        ("csr", json!("-----BEGIN CERTIFICATE REQUEST-----\nAAAA\n-----END CERTIFICATE REQUEST-----\n")),
        ("address", json!("nowhere")),
        ("address", json!("")),
        ("arch", json!("sparc")),
        ("vmm", json!("other")),
        ("cpu_cores", json!(0)),
        ("memory_mb", json!(-1)),
        ("disk_gb", json!(1.5)),
        ("token", Value::Null),
        ("cpu_cores", json!(u64::MAX)),
    ] {
        let mut body = good.clone();
        body[field] = value;
        anyone.post("/v1/hosts/register", body).await.refused(400, "invalid_request");
    }
    anyone.post("/v1/hosts/register", good).await.expect(201);
}

#[tokio::test]
async fn only_a_hosts_own_token_speaks_for_it() {
    let platform = Platform::start().await;
    let (_other_host, other_id, other_token) = let_in(&platform.control, &platform.api).await;
    let own = format!("/v1/hosts/{}/heartbeat", platform.host_id);
    let beat = || json!({"inventory_generation": 7, "load": {"sandboxes": 3, "load1": 0.5, "later": true}});
    let host = platform.api.with_host_token(&platform.host_token);

    host.post(&own, beat()).await.expect(204);
    host.post(&format!("/v1/hosts/{other_id}/heartbeat"), beat()).await.refused(403, "forbidden");
    platform.api.with_host_token(&other_token).post(&own, beat()).await.refused(403, "forbidden");
    platform.api.with_host_token("garbage").post(&own, beat()).await.refused(401, "unauthorized");
    platform.api.anonymous().post(&own, beat()).await.refused(401, "unauthorized");
    // A team's key is no host's token.
    platform.api.post(&own, beat()).await.refused(401, "unauthorized");
    host.post(&own, json!({})).await.refused(400, "invalid_request");
    host.post(&own, json!({"inventory_generation": -1})).await.refused(400, "invalid_request");
}

#[tokio::test]
async fn a_new_registration_ends_the_credentials_of_the_one_before() {
    let platform = Platform::start().await;
    let id = platform.host_id.parse().unwrap();
    let token = platform.control.host_issue_token(&OpContext::system(), id).await.unwrap();
    let own = format!("/v1/hosts/{}/heartbeat", platform.host_id);
    let beat = json!({"inventory_generation": 1});
    // Until it is used, the old ones hold.
    platform.api.with_host_token(&platform.host_token).post(&own, beat.clone()).await.expect(204);
    let body = registration(&platform.host, token.expose_secret());
    let answer = platform.api.anonymous().post("/v1/hosts/register", body).await.expect(201);
    platform
        .api
        .with_host_token(&platform.host_token)
        .post(&own, beat.clone())
        .await
        .refused(401, "unauthorized");
    let new = answer["token"].as_str().unwrap();
    platform.api.with_host_token(new).post(&own, beat).await.expect(204);
}
