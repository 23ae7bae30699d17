//! What people decide about hosts.

use sandbar_testkit::sim_host::SimHost;
use serde_json::{Value, json};

use crate::client::Client;
use crate::people::Someone;
use crate::platform::{Platform, registration};

async fn add(api: &Client, body: Value) -> (String, String) {
    let answer = api.post("/v1/hosts", body).await.expect(201);
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    (text(&answer["host"]["id"]), text(&answer["registration_token"]))
}

/// Lets a host in with a token and has it serve: the host, and its own token.
async fn join(platform: &Platform, token: &str) -> (SimHost, String) {
    let host = SimHost::bind().await.unwrap();
    let answer =
        platform.api.anonymous().post("/v1/hosts/register", registration(&host, token)).await.expect(201);
    let text = |name: &str| answer[name].as_str().unwrap().to_owned();
    let id = answer["host"]["id"].as_str().unwrap().to_owned();
    host.enroll(&id, &text("cert"), &text("ca")).await.unwrap();
    beat(platform, &id, &text("token")).await;
    (host, text("token"))
}

async fn beat(platform: &Platform, id: &str, token: &str) {
    let path = format!("/v1/hosts/{id}/heartbeat");
    platform.api.with_host_token(token).post(&path, json!({"inventory_generation": 1})).await.expect(204);
}

async fn brings_hosts(platform: &Platform, someone: &Someone) {
    let admin = platform.first_person().await;
    let path = format!("/v1/admin/teams/{}/byoc", someone.team);
    admin.api.put(&path, json!({"is_byoc": true})).await.expect(200);
}

async fn ids(api: &Client) -> Vec<String> {
    let listed = api.get("/v1/hosts").await.expect(200);
    listed.as_array().unwrap().iter().map(|host| host["id"].as_str().unwrap().to_owned()).collect()
}

async fn told(platform: &Platform) -> Vec<String> {
    sqlx::query_scalar(
        "SELECT concat_ws(' ', actor_type, action, status) FROM audit_logs
         WHERE resource_type = 'host' ORDER BY created_at, id",
    )
    .fetch_all(platform.database.pool())
    .await
    .unwrap()
}

#[tokio::test]
async fn an_administrator_adds_looks_drains_and_deletes() {
    let platform = Platform::start().await;
    let admin = platform.first_person().await;
    let body = json!({"provider": "bare", "availability_zone": "eu-1"});
    let (id, token) = add(&admin.api, body).await;
    let path = format!("/v1/hosts/{id}");
    let host = admin.api.get(&path).await.expect(200);
    assert_eq!((&host["type"], &host["status"]), (&json!("regular"), &json!("pending")));
    assert_eq!((&host["provider"], &host["availability_zone"]), (&json!("bare"), &json!("eu-1")));
    assert_eq!((&host["team_name"], &host["created_by"]), (&json!("Platform"), &json!(admin.id)));
    assert_eq!(ids(&admin.api).await, [id.clone(), platform.host_id.clone()], "newest first");
    let first = admin.api.get("/v1/hosts?limit=1").await;
    let next = format!("/v1/hosts?limit=1&cursor={}", first.next_cursor().unwrap());
    let second = admin.api.get(&next).await;
    assert_eq!(second.next_cursor(), None);
    assert_eq!(second.expect(200)[0]["id"], platform.host_id);

    let (_sim, host_token) = join(&platform, &token).await;
    let drained = admin.api.post(&format!("{path}/drain"), json!({})).await.expect(200);
    assert_eq!(drained["status"], "draining");
    beat(&platform, &id, &host_token).await;
    assert_eq!(admin.api.get(&path).await.expect(200)["status"], "draining", "a heartbeat undrains nothing");
    assert_eq!(admin.api.delete(&format!("{path}/drain")).await.expect(200)["status"], "online");

    admin.api.delete(&path).await.expect(204);
    admin.api.get(&path).await.refused(404, "not_found");
    assert_eq!(ids(&admin.api).await, std::slice::from_ref(&platform.host_id));
    let gone = format!("{path}/heartbeat");
    let host = platform.api.with_host_token(&host_token);
    host.post(&gone, json!({"inventory_generation": 1})).await.refused(404, "not_found");
    let told = told(&platform).await;
    let expected =
        ["user add success", "user drain success", "user drain_end success", "user delete success"];
    assert_eq!(told[told.len() - 4..], expected);
}

#[tokio::test]
async fn a_host_with_sandboxes_is_deleted_only_by_force_and_paused_ones_count() {
    let platform = Platform::start().await;
    let admin = platform.first_person().await;
    let (running, paused) = (platform.api.sandbox().await, platform.api.sandbox().await);
    platform.api.post(&format!("/v1/sandboxes/{paused}/pause"), json!({})).await.expect(200);
    platform.api.post("/v1/snapshots", json!({"sandbox_id": running, "name": "kept"})).await.expect(201);
    let path = format!("/v1/hosts/{}", platform.host_id);

    let preview = admin.api.get(&format!("{path}/delete-preview")).await.expect(200);
    assert_eq!(preview["sandboxes"].as_array().unwrap().len(), 2);
    let why = |number: usize| preview["sandboxes"][number]["reason"].clone();
    assert_eq!((why(0), why(1)), (json!("running"), json!("no_object_storage")));
    assert_eq!((&preview["paused_count"], &preview["snapshots"][0]["name"]), (&json!(1), &json!("kept")));

    let answer = admin.api.delete(&path).await;
    let in_the_way = answer.body["error"]["sandbox_ids"].clone();
    answer.refused(409, "host_has_sandboxes");
    assert_eq!(in_the_way, json!([running, paused]));
    assert_eq!(platform.host.sandboxes().len(), 2);
    assert_eq!(platform.api.status_of(&running).await, "running");
    assert_eq!(admin.api.get(&path).await.expect(200)["status"], "online", "nothing was changed");

    admin.api.delete(&format!("{path}?force=true")).await.expect(204);
    assert_eq!(platform.host.sandboxes().len(), 0, "its machines ended");
    for id in [running, paused] {
        assert_eq!(platform.api.status_of(&id).await, "stopped");
    }
    platform.api.post("/v1/sandboxes", json!({})).await.refused(503, "no_hosts_available");
}

#[tokio::test]
async fn a_host_that_does_not_answer_is_deleted_all_the_same() {
    let platform = Platform::start().await;
    let admin = platform.first_person().await;
    let sandbox = platform.api.sandbox().await;
    platform.host.crash().await.unwrap();
    let path = format!("/v1/hosts/{}", platform.host_id);
    admin.api.delete(&format!("{path}?force=maybe")).await.refused(400, "invalid_request");
    admin.api.delete(&format!("{path}?force=true")).await.expect(204);
    assert_eq!(platform.api.status_of(&sandbox).await, "stopped");
}

#[tokio::test]
async fn a_host_that_drains_takes_nothing_new_and_resumes_what_it_has() {
    let platform = Platform::start().await;
    let admin = platform.first_person().await;
    let sandbox = platform.api.sandbox().await;
    let path = format!("/v1/hosts/{}/drain", platform.host_id);
    let _background = platform.successor().await;
    admin.api.post(&path, json!({"pause": true})).await.expect(200);
    platform.rows_are("paused", 1).await;
    platform.api.post("/v1/sandboxes", json!({})).await.refused(503, "no_hosts_available");
    let resumed = platform.api.post(&format!("/v1/sandboxes/{sandbox}/resume"), json!({})).await.expect(200);
    assert_eq!(resumed["status"], "running");
    let fork = platform.api.post(&format!("/v1/sandboxes/{sandbox}/fork"), json!({"count": 1})).await;
    assert!(fork.refused(503, "no_hosts_available").contains("drains"));
    admin.api.delete(&path).await.expect(200);
    platform.api.sandbox().await;
}

#[tokio::test]
async fn a_teams_own_hosts_take_its_sandboxes_alone_and_are_hidden_from_others() {
    let platform = Platform::start().await;
    let owner = platform.sign_up("owner").await;
    let stranger = platform.sign_up("stranger").await;
    let byoc = || json!({"type": "byoc"});
    owner.api.post("/v1/hosts", byoc()).await.refused(403, "forbidden");
    brings_hosts(&platform, &owner).await;
    let key = platform.api.with_key(&owner.key().await.1);
    // It does not fall back to the platform's hosts.
    key.post("/v1/sandboxes", json!({})).await.refused(503, "no_hosts_available");

    let (id, token) = add(&owner.api, byoc()).await;
    let (host, _) = join(&platform, &token).await;
    platform.control.ensure_base_template(id.parse().unwrap()).await.unwrap();
    let admin = platform.first_person().await;
    assert_eq!(ids(&owner.api).await, std::slice::from_ref(&id));
    assert_eq!(ids(&stranger.api).await, Vec::<String>::new());
    assert_eq!(ids(&admin.api).await, [id.clone(), platform.host_id.clone()]);
    stranger.api.get(&format!("/v1/hosts/{id}")).await.refused(404, "not_found");
    let seen = owner.api.get(&format!("/v1/hosts/{id}")).await.expect(200);
    assert_eq!((&seen["type"], &seen["team_id"]), (&json!("byoc"), &json!(owner.team)));
    owner.api.get(&format!("/v1/hosts/{}", platform.host_id)).await.refused(404, "not_found");

    let own = key.sandbox().await;
    let strange = platform.api.sandbox().await;
    let of = |host: &SimHost| host.sandboxes().into_iter().map(|sandbox| sandbox.id).collect::<Vec<_>>();
    assert_eq!((of(&host), of(&platform.host)), (vec![own], vec![strange]));
    // The switch stays as long as there are hosts.
    let path = format!("/v1/admin/teams/{}/byoc", owner.team);
    admin.api.put(&path, json!({"is_byoc": false})).await.refused(409, "conflict");
}

#[tokio::test]
async fn a_deleted_team_gets_no_hosts() {
    let platform = Platform::start().await;
    let owner = platform.sign_up("owner").await;
    let team = owner.api.post("/v1/teams", json!({"name": "Second"})).await.expect(201);
    let team = team["id"].as_str().unwrap();
    let second = owner.in_team(team).await;
    let admin = platform.first_person().await;
    admin.api.put(&format!("/v1/admin/teams/{team}/byoc"), json!({"is_byoc": true})).await.expect(200);
    second.delete(&format!("/v1/teams/{team}")).await.expect(204);
    second.post("/v1/hosts", json!({"type": "byoc"})).await.refused(403, "no_team");
}

#[tokio::test]
async fn hosts_have_tags() {
    let platform = Platform::start().await;
    let api = platform.first_person().await.api;
    let path = format!("/v1/hosts/{}/tags", platform.host_id);
    assert_eq!(api.get(&path).await.expect(200), json!([]));
    api.post(&path, json!({"tag": "rack=12"})).await.expect(201);
    assert_eq!(api.post(&path, json!({"tag": "eu/west"})).await.expect(201), json!(["eu/west", "rack=12"]));
    api.post(&path, json!({"tag": "rack=12"})).await.expect(201);
    api.post(&path, json!({"tag": "a b"})).await.refused(400, "invalid_request");
    api.delete(&format!("{path}/eu%2Fwest")).await.expect(204);
    api.delete(&format!("{path}/eu%2Fwest")).await.refused(404, "not_found");
    assert_eq!(api.get(&path).await.expect(200), json!(["rack=12"]));
}

#[tokio::test]
async fn a_refresh_token_is_replaced_and_its_second_use_ends_all() {
    let platform = Platform::start().await;
    let admin = platform.first_person().await;
    let (id, token) = add(&admin.api, json!({})).await;
    let host = SimHost::bind().await.unwrap();
    let anyone = platform.api.anonymous();
    let first = anyone.post("/v1/hosts/register", registration(&host, &token)).await.expect(201);
    assert_eq!(first["token_expires_in_sec"], 7 * 24 * 3600);
    let refresh = async |token: &Value| {
        let body = json!({"refresh_token": token, "csr": host.csr().unwrap()});
        anyone.post("/v1/hosts/auth/refresh", body).await
    };
    let second = refresh(&first["refresh_token"]).await.expect(200);
    assert_eq!(second["host_id"], id);
    assert!(second["cert"].as_str().unwrap().contains("BEGIN CERTIFICATE"));
    // Its reply was lost: the old one works once more, and what was lost is void.
    let third = refresh(&first["refresh_token"]).await.expect(200);
    refresh(&second["refresh_token"]).await.refused(401, "unauthorized");
    let fourth = refresh(&third["refresh_token"]).await.expect(200);
    let tell = async |token: &Value| {
        let host = platform.api.with_host_token(token.as_str().unwrap());
        host.post(&format!("/v1/hosts/{id}/heartbeat"), json!({"inventory_generation": 1})).await
    };
    for token in [&first["token"], &second["token"], &fourth["token"]] {
        tell(token).await.expect(204);
    }
    // Once more is once too often: somebody else has it.
    refresh(&first["refresh_token"]).await.refused(401, "unauthorized");
    refresh(&fourth["refresh_token"]).await.refused(401, "unauthorized");
    tell(&fourth["token"]).await.refused(401, "unauthorized");
    assert_eq!(told(&platform).await.last().unwrap(), "system credentials_revoked warning");
    refresh(&json!("hrt_none")).await.refused(401, "unauthorized");
}

#[tokio::test]
async fn a_lost_reply_is_believed_for_five_minutes() {
    let platform = Platform::start().await;
    let admin = platform.first_person().await;
    let (_, token) = add(&admin.api, json!({})).await;
    let host = SimHost::bind().await.unwrap();
    let anyone = platform.api.anonymous();
    let first = anyone.post("/v1/hosts/register", registration(&host, &token)).await.expect(201);
    let body = json!({"refresh_token": first["refresh_token"], "csr": host.csr().unwrap()});
    anyone.post("/v1/hosts/auth/refresh", body.clone()).await.expect(200);
    let age = "UPDATE host_refresh_tokens SET replaced_at = now() - interval '301 seconds' WHERE replaced_at IS NOT NULL";
    sqlx::query(age).execute(platform.database.pool()).await.unwrap();
    anyone.post("/v1/hosts/auth/refresh", body).await.refused(401, "unauthorized");
}

#[tokio::test]
async fn a_host_that_lost_its_credentials_comes_back_with_its_sandboxes() {
    let platform = Platform::start().await;
    let admin = platform.first_person().await;
    let sandbox = platform.api.sandbox().await;
    let path = format!("/v1/hosts/{}/token", platform.host_id);
    let answer = admin.api.post(&path, json!({})).await.expect(201);
    let body = registration(&platform.host, answer["registration_token"].as_str().unwrap());
    let let_in = platform.api.anonymous().post("/v1/hosts/register", body).await.expect(201);
    assert_eq!(let_in["host"]["id"], platform.host_id);
    let text = |name: &str| let_in[name].as_str().unwrap();
    platform.host.enroll(&platform.host_id, text("cert"), text("ca")).await.unwrap();
    beat(&platform, &platform.host_id, text("token")).await;
    platform.api.post(&format!("/v1/sandboxes/{sandbox}/ping"), json!({})).await.expect(204);
    assert_eq!(platform.api.status_of(&sandbox).await, "running");
}
