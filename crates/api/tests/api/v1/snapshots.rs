use serde_json::json;

use crate::platform::Platform;

#[tokio::test]
async fn lists_the_platforms_templates_to_every_team() {
    let platform = Platform::start().await;
    for api in [&platform.api, &platform.stranger().await] {
        let list = api.get("/v1/snapshots").await.expect(200);
        let mut first = list[0].clone();
        assert!(first["created_at"].as_str().unwrap().ends_with('Z'));
        first.as_object_mut().unwrap().remove("created_at");
        let base = json!({
            "name": "base", "type": "snapshot", "vcpus": 1, "memory_mb": 512, "size_bytes": 300 << 20,
            "platform": true, "durable": false,
        });
        assert_eq!((list.as_array().unwrap().len(), first), (1, base));
        assert_eq!(api.get("/v1/snapshots?type=snapshot").await.expect(200), list);
        assert_eq!(api.get("/v1/snapshots?type=base").await.expect(200), json!([]));
        api.get("/v1/snapshots?type=other").await.refused(400, "invalid_request");
    }
}
