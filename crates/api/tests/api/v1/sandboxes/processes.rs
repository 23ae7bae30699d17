use sandbar_testkit::sim_host::{Fault, Rpc, Times};
use serde_json::json;

use crate::platform::Platform;

#[tokio::test]
async fn processes_are_listed_and_killed_by_id_or_tag() {
    let platform = Platform::start().await;
    let id = platform.api.sandbox().await;
    let path = format!("/v1/sandboxes/{id}/processes");
    let listed = platform.api.get(&path).await.expect(200);
    let only = json!({"pid": 1000, "tag": "shell", "cmd": "/bin/bash", "args": ["-i", "-l"]});
    assert_eq!(listed, json!({"processes": [only]}));
    for process in ["1000", "shell"] {
        platform.api.delete(&format!("{path}/{process}")).await.expect(204);
    }
    for process in ["1", "nothing"] {
        platform.api.delete(&format!("{path}/{process}")).await.refused(404, "not_found");
    }
    platform.api.delete(&format!("{path}/a%20b")).await.refused(400, "invalid_request");
    platform.host.inject(Rpc::ListProcesses, Fault::Fail, Times::Once);
    platform.api.get(&path).await.refused(502, "agent_error");
    platform.api.post(&format!("/v1/sandboxes/{id}/pause"), json!({})).await.expect(200);
    platform.api.get(&path).await.refused(409, "invalid_state");
}
