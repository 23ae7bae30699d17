//! A create that fails at any step leaves nothing behind: not on the host, and no row that is not at its end.

use sandbar_testkit::sim_host::{Fault, Reason, Rpc, Times};
use serde_json::json;

use crate::platform::Platform;

/// All states there are.
const ANY: &str = "/v1/sandboxes?status=pending,starting,running,missing,stopping,stopped,error";

async fn assert_nothing_is_left(platform: &Platform, rows: usize) {
    assert!(platform.host.sandboxes().is_empty(), "a machine is left");
    let list = platform.api.get(ANY).await.expect(200);
    let list = list.as_array().unwrap();
    assert_eq!(list.len(), rows, "{list:?}");
    for row in list {
        assert!(["error", "stopped"].contains(&row["status"].as_str().unwrap()), "{row}");
    }
    // Ended ones are not shown unless asked for.
    assert_eq!(platform.api.get("/v1/sandboxes").await.expect(200), json!([]));
}

#[tokio::test]
async fn what_the_host_refuses_is_told_and_undone() {
    let platform = Platform::start().await;
    for (rows, (fault, status, code)) in [
        (Fault::Refuse(Reason::REASON_NO_CAPACITY), 503, "no_hosts_available"),
        (Fault::Refuse(Reason::REASON_GUEST_UNREACHABLE), 502, "agent_error"),
        (Fault::Fail, 502, "agent_error"),
        (Fault::Hang, 504, "timeout"),
        (Fault::LoseReply, 503, "host_unavailable"),
        (Fault::HangAfter, 504, "timeout"),
    ]
    .into_iter()
    .enumerate()
    {
        let name = format!("{fault:?}");
        platform.host.inject(Rpc::CreateSandbox, fault, Times::Once);
        let answer = platform.api.post("/v1/sandboxes", json!({})).await;
        assert_eq!(answer.status, status, "{name}: {}", answer.body);
        answer.refused(status, code);
        assert_nothing_is_left(&platform, rows + 1).await;
    }
    platform.api.sandbox().await;
}

#[tokio::test]
async fn a_host_that_lacks_the_templates_files_is_not_asked_again_until_it_has_them() {
    let platform = Platform::start().await;
    let lacking = Fault::Refuse(Reason::REASON_TEMPLATE_NOT_FOUND);
    platform.host.inject(Rpc::CreateSandbox, lacking, Times::Once);
    for rows in [1, 1] {
        platform.api.post("/v1/sandboxes", json!({})).await.refused(503, "no_hosts_available");
        assert_nothing_is_left(&platform, rows).await;
    }
    assert_eq!(platform.host.calls(Rpc::CreateSandbox), 1);
    platform.control.ensure_base_template(platform.host_id.parse().unwrap()).await.unwrap();
    platform.api.sandbox().await;
}

#[tokio::test]
async fn without_a_host_there_is_none_to_take_it() {
    let platform = Platform::start().await;
    sqlx::query("UPDATE hosts SET status = 'unreachable'").execute(platform.database.pool()).await.unwrap();
    platform.api.post("/v1/sandboxes", json!({})).await.refused(503, "no_hosts_available");
    assert_eq!(platform.host.calls(Rpc::CreateSandbox), 0);
}

#[tokio::test]
async fn a_dead_agent_is_unavailable_and_its_leftover_is_destroyed_when_it_is_back() {
    let platform = Platform::start().await;
    platform.host.crash().await.unwrap();
    platform.api.post("/v1/sandboxes", json!({})).await.refused(503, "host_unavailable");
    platform.host.restart().await.unwrap();
    assert_nothing_is_left(&platform, 1).await;
    platform.api.sandbox().await;
}

#[tokio::test]
async fn a_machine_whose_undoing_failed_too_is_destroyed_by_the_reconciler() {
    let platform = Platform::start().await;
    platform.host.inject(Rpc::CreateSandbox, Fault::LoseReply, Times::Once);
    platform.host.inject(Rpc::DestroySandbox, Fault::Fail, Times::Once);
    platform.api.post("/v1/sandboxes", json!({})).await.refused(503, "host_unavailable");
    assert_eq!(platform.host.sandboxes().len(), 1, "the undoing was made to fail");
    let _successor = platform.successor().await;
    platform.host.arrived(Rpc::DestroySandbox, 2).await;
    assert_nothing_is_left(&platform, 1).await;
}

#[tokio::test]
async fn a_control_plane_that_dies_in_the_middle_leaves_nothing_that_its_successor_does_not_clear() {
    let platform = Platform::start().await;
    // It dies before the host has done anything ...
    let gate = platform.host.hold(Rpc::CreateSandbox);
    let doomed = platform.doomed_create();
    platform.host.arrived(Rpc::CreateSandbox, 1).await;
    doomed.shutdown_background();
    let successor = platform.successor().await;
    platform.settled(1).await;
    gate.open();
    assert_nothing_is_left(&platform, 1).await;
    drop(successor);

    // ... and when the machine runs, of which it has not heard.
    platform.host.inject(Rpc::CreateSandbox, Fault::HangAfter, Times::Once);
    let doomed = platform.doomed_create();
    platform.host.sandboxes_are(1).await;
    doomed.shutdown_background();
    let _successor = platform.successor().await;
    platform.settled(2).await;
    assert_nothing_is_left(&platform, 2).await;
}

#[tokio::test]
async fn a_client_that_goes_away_does_not_cut_the_work() {
    let platform = Platform::start().await;
    let gate = platform.host.hold(Rpc::CreateSandbox);
    let api = platform.api.clone();
    let create = tokio::spawn(async move { api.post("/v1/sandboxes", json!({})).await });
    platform.host.arrived(Rpc::CreateSandbox, 1).await;
    create.abort();
    assert!(create.await.unwrap_err().is_cancelled());
    gate.open();
    platform.control.drain().await;
    let list = platform.api.get("/v1/sandboxes").await.expect(200);
    assert_eq!((list.as_array().unwrap().len(), &list[0]["status"]), (1, &json!("running")));
}

#[tokio::test]
async fn a_delete_that_comes_while_it_is_made_wins() {
    let platform = Platform::start().await;
    let gate = platform.host.hold(Rpc::CreateSandbox);
    let api = platform.api.clone();
    let create = tokio::spawn(async move { api.post("/v1/sandboxes", json!({})).await });
    platform.host.arrived(Rpc::CreateSandbox, 1).await;
    let list = platform.api.get("/v1/sandboxes").await.expect(200);
    let id = list[0]["id"].as_str().unwrap();
    assert_eq!(list[0]["status"], "starting");
    platform.api.delete(&format!("/v1/sandboxes/{id}")).await.expect(204);
    gate.open();
    create.await.unwrap().refused(409, "invalid_state");
    assert_nothing_is_left(&platform, 1).await;
}
