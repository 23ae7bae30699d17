use sandbar_testkit::sim_host::{Fault, Reason, Rpc, Times};
use secrecy::ExposeSecret as _;
use serde_json::json;

use crate::platform::{Platform, config};

fn path(id: &str) -> String {
    format!("/v1/sandboxes/{id}/network")
}

#[tokio::test]
async fn a_policy_goes_to_the_host_with_the_sandbox() {
    let platform = Platform::start().await;
    let network = json!({"allow_out": ["1.1.1.1", "Example.com"], "allow_internet": false});
    let made = platform.api.post("/v1/sandboxes", json!({"network": network})).await.expect(201);
    let id = made["id"].as_str().unwrap();
    let sent = platform.host.creation_of(id).unwrap().network.into_option().unwrap();
    assert_eq!(sent.allow_out, ["1.1.1.1", "example.com"]);
    assert!(sent.deny_internet && sent.deny_out.is_empty());

    let told = platform.api.get(&path(id)).await.expect(200);
    assert_eq!(told["allow_out"], json!(["1.1.1.1", "example.com"]));
    assert_eq!((&told["deny_out"], &told["allow_internet"]), (&json!([]), &json!(false)));
    assert_eq!(told["denials"]["counts"], json!({"policy": 3, "name": 2}));
    let address = &told["denials"]["addresses"][0];
    assert_eq!((&address["address"], &address["port"]), (&json!("203.0.113.7"), &json!(443)));
    assert!(address["last_at"].as_str().unwrap().ends_with('Z'));
    assert_eq!(told["denials"]["names"][0]["name"], "evil.example");
}

#[tokio::test]
async fn a_policy_is_replaced_as_a_whole_running_or_paused() {
    let platform = Platform::start().await;
    let id = platform.api.sandbox().await;
    let first = json!({"allow_out": ["10.0.0.0/8"], "deny_out": ["0.0.0.0/0", "evil.example"]});
    platform.api.put(&path(&id), first).await.expect(204);
    let told = platform.api.get(&path(&id)).await.expect(200);
    assert_eq!(told["deny_out"], json!(["0.0.0.0/0", "evil.example"]));
    assert_eq!(told["allow_internet"], true);

    platform.api.post(&format!("/v1/sandboxes/{id}/pause"), json!({})).await.expect(200);
    platform.api.put(&path(&id), json!({"allow_internet": false})).await.expect(204);
    let told = platform.api.get(&path(&id)).await.expect(200);
    assert_eq!((&told["allow_out"], &told["deny_out"]), (&json!([]), &json!([])));
    assert_eq!(told["allow_internet"], false);
}

#[tokio::test]
async fn children_may_connect_to_where_their_source_may() {
    let platform = Platform::start().await;
    let id = platform.api.sandbox().await;
    platform.api.put(&path(&id), json!({"allow_internet": false})).await.expect(204);
    let children = platform.api.post(&format!("/v1/sandboxes/{id}/fork"), json!({})).await.expect(201);
    let child = children[0]["sandbox"]["id"].as_str().unwrap();
    let told = platform.api.get(&path(child)).await.expect(200);
    assert_eq!(told["allow_internet"], false);
}

#[tokio::test]
async fn rules_that_cannot_be_are_refused_before_the_host_hears_of_them() {
    let platform = Platform::start().await;
    let id = platform.api.sandbox().await;
    let many = vec!["1.1.1.1"; 257];
    for body in [
        json!({"allow_out": ["example.com"]}),
        json!({"deny_out": ["1.2.3"]}),
        json!({"deny_out": ["https://example.com"]}),
        json!({"deny_out": ["2001:db8::/32"]}),
        json!({"deny_out": [7]}),
        json!({"deny_out": many}),
        json!({"allow_internet": 0}),
        json!([]),
    ] {
        platform.api.put(&path(&id), body).await.refused(400, "invalid_request");
    }
    assert_eq!(platform.host.calls(Rpc::SetNetworkPolicy), 0);
}

#[tokio::test]
async fn another_teams_sandbox_and_one_that_ended_have_no_policy() {
    let platform = Platform::start().await;
    let id = platform.api.sandbox().await;
    let stranger = platform.stranger().await;
    stranger.get(&path(&id)).await.refused(404, "not_found");
    stranger.put(&path(&id), json!({})).await.refused(404, "not_found");
    assert_eq!(platform.host.calls(Rpc::SetNetworkPolicy) + platform.host.calls(Rpc::GetNetworkDenials), 0);
    platform.api.delete(&format!("/v1/sandboxes/{id}")).await.expect(204);
    platform.api.get(&path(&id)).await.refused(409, "invalid_state");
    platform.api.put(&path(&id), json!({})).await.refused(409, "invalid_state");
}

#[tokio::test]
async fn a_host_that_fails_leaves_the_old_policy() {
    let platform = Platform::start().await;
    let id = platform.api.sandbox().await;
    platform.api.put(&path(&id), json!({"allow_internet": false})).await.expect(204);
    platform.host.inject(Rpc::SetNetworkPolicy, Fault::Fail, Times::Once);
    let failed = platform.api.put(&path(&id), json!({})).await;
    assert!(failed.status >= 500, "{}", failed.status);
    assert_eq!(platform.api.get(&path(&id)).await.expect(200)["allow_internet"], false);
    platform.host.inject(Rpc::SetNetworkPolicy, Fault::Refuse(Reason::REASON_BUSY), Times::Once);
    platform.api.put(&path(&id), json!({})).await.refused(409, "invalid_state");
}

#[tokio::test]
async fn of_two_changes_at_once_one_is_made_and_host_and_row_say_the_same() {
    let platform = Platform::start().await;
    let id = platform.api.sandbox().await;
    let (beside, _stop) = platform.beside(config()).await;
    let beside = beside.with_key(platform.key.expose_secret());
    let gate = platform.host.hold(Rpc::SetNetworkPolicy);
    let url = path(&id);
    let first = platform.api.put(&url, json!({"deny_out": ["192.0.2.1"]}));
    let second = async {
        platform.host.arrived(Rpc::SetNetworkPolicy, 1).await;
        let second = beside.put(&path(&id), json!({"deny_out": ["192.0.2.2"]})).await;
        gate.open();
        second
    };
    let (first, second) = tokio::join!(first, second);
    first.expect(204);
    second.refused(409, "invalid_state");
    let row: serde_json::Value = sqlx::query_scalar("SELECT network FROM sandboxes")
        .fetch_one(platform.database.pool())
        .await
        .unwrap();
    let told = platform.api.get(&path(&id)).await.expect(200);
    assert_eq!((&row["deny_out"], &told["deny_out"]), (&json!(["192.0.2.1"]), &json!(["192.0.2.1"])));
    beside.put(&path(&id), json!({"deny_out": ["192.0.2.2"]})).await.expect(204);
}
