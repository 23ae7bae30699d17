use sandbar_testkit::sim_host::{Fault, Reason, Rpc, Times};
use serde_json::json;

use crate::platform::Platform;

#[tokio::test]
async fn counts_as_activity_where_the_guest_answers() {
    let platform = Platform::start().await;
    let id = platform.api.sandbox().await;
    let path = format!("/v1/sandboxes/{id}/ping");
    platform.api.post(&path, json!({})).await.expect(204);
    assert_eq!(platform.host.calls(Rpc::PingSandbox), 1);

    let unreachable = Fault::Refuse(Reason::REASON_GUEST_UNREACHABLE);
    platform.host.inject(Rpc::PingSandbox, unreachable, Times::Once);
    platform.api.post(&path, json!({})).await.refused(502, "agent_error");
    platform.host.kill_vmm(&id);
    platform.api.post(&path, json!({})).await.refused(409, "invalid_state");
}

#[tokio::test]
async fn a_machine_that_died_is_seen_at_the_hosts_next_word() {
    let platform = Platform::start().await;
    let id = platform.api.sandbox().await;
    let _successor = platform.successor().await;
    platform.host.kill_vmm(&id);
    let beat = json!({"inventory_generation": platform.host.inventory_generation()});
    let path = format!("/v1/hosts/{}/heartbeat", platform.host_id);
    platform.api.with_host_token(&platform.host_token).post(&path, beat).await.expect(204);
    // The host is told to reclaim what is left of it.
    platform.host.arrived(Rpc::DestroySandbox, 1).await;
    platform.settled(1).await;
    assert_eq!(platform.api.status_of(&id).await, "stopped");
    assert!(platform.host.sandboxes().is_empty());
}
