use sandbar_testkit::sim_host::{Fault, Reason, Rpc, Times};
use serde_json::json;

use crate::platform::Platform;

#[tokio::test]
async fn it_is_gone_from_the_host_and_the_list_but_its_end_can_be_seen() {
    let platform = Platform::start().await;
    let id = platform.api.sandbox().await;
    platform.api.delete(&format!("/v1/capsules/{id}")).await.expect(204);
    assert!(platform.host.sandboxes().is_empty());
    assert_eq!(platform.api.get("/v1/sandboxes").await.expect(200), json!([]));
    assert_eq!(platform.api.status_of(&id).await, "stopped");
    platform.api.delete(&format!("/v1/sandboxes/{id}")).await.refused(409, "invalid_state");
    platform
        .api
        .post(&format!("/v1/sandboxes/{id}/exec"), json!({"cmd": "echo"}))
        .await
        .refused(409, "invalid_state");
    platform.api.post(&format!("/v1/sandboxes/{id}/ping"), json!({})).await.refused(409, "invalid_state");
}

#[tokio::test]
async fn of_fifty_at_once_one_wins() {
    let platform = Platform::start().await;
    let id = platform.api.sandbox().await;
    let path = format!("/v1/sandboxes/{id}");
    let answers = futures::future::join_all((0..50).map(|_| platform.api.delete(&path))).await;
    assert_eq!(answers.iter().filter(|answer| answer.status == 204).count(), 1);
    for answer in answers.into_iter().filter(|answer| answer.status != 204) {
        answer.refused(409, "invalid_state");
    }
    assert_eq!(platform.host.calls(Rpc::DestroySandbox), 1);
    assert_eq!(platform.api.status_of(&id).await, "stopped");
}

#[tokio::test]
async fn a_sandbox_that_the_host_no_longer_has_counts_as_destroyed() {
    let platform = Platform::start().await;
    let id = platform.api.sandbox().await;
    platform.host.forget(&id);
    platform.api.delete(&format!("/v1/sandboxes/{id}")).await.expect(204);
    let id = platform.api.sandbox().await;
    let unknown = Fault::Refuse(Reason::REASON_SANDBOX_NOT_FOUND);
    platform.host.inject(Rpc::DestroySandbox, unknown, Times::Once);
    platform.api.delete(&format!("/v1/sandboxes/{id}")).await.expect(204);
}

#[tokio::test]
async fn any_other_failure_is_told_and_the_row_stays_until_the_reconciler_has_driven_it() {
    let platform = Platform::start().await;
    for (fault, status, code) in [
        (Fault::Fail, 502, "agent_error"),
        (Fault::Hang, 504, "timeout"),
        (Fault::LoseReply, 503, "host_unavailable"),
    ] {
        let id = platform.api.sandbox().await;
        platform.host.inject(Rpc::DestroySandbox, fault, Times::Once);
        platform.api.delete(&format!("/v1/sandboxes/{id}")).await.refused(status, code);
        assert_eq!(platform.api.status_of(&id).await, "stopping");
    }
    let _successor = platform.successor().await;
    platform.settled(3).await;
    assert!(platform.host.sandboxes().is_empty());
}
