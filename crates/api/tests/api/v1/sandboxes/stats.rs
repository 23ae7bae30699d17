use serde_json::json;

use crate::platform::Platform;

#[tokio::test]
async fn a_team_is_told_what_it_has_now_at_most_and_over_time() {
    let platform = Platform::start().await;
    let ids = [platform.api.sandbox().await, platform.api.sandbox().await];
    platform.control.sample_stats().await.unwrap();
    platform.api.post(&format!("/v1/sandboxes/{}/pause", ids[0]), json!({})).await.expect(200);

    let now = json!({"running_count": 1, "vcpus_reserved": 1, "memory_mb_reserved": 768});
    let most = json!({"running_count": 2, "vcpus_reserved": 2, "memory_mb_reserved": 1024});
    for (range, points) in [("5m", 30), ("1h", 120), ("6h", 120), ("24h", 120), ("30d", 120)] {
        for path in ["sandboxes", "capsules"] {
            let told = platform.api.get(&format!("/v1/{path}/stats?range={range}")).await.expect(200);
            assert_eq!((&told["range"], &told["current"], &told["peaks"]), (&json!(range), &now, &most));
            let series = &told["series"];
            for column in ["labels", "running", "vcpus", "memory_mb"] {
                assert_eq!(series[column].as_array().unwrap().len(), points, "{range} {column}");
            }
            assert!(series["labels"][0].as_str().unwrap().ends_with(".000000Z"));
            assert_eq!(series["running"][0], json!(null), "nobody looked then");
            let peak = series["running"].as_array().unwrap().iter().filter_map(|most| most.as_u64()).max();
            assert_eq!(peak, Some(2));
        }
    }
    let default = platform.api.get("/v1/sandboxes/stats").await.expect(200);
    assert_eq!(default["range"], "5m");
    platform.api.get("/v1/sandboxes/stats?range=7d").await.refused(400, "invalid_request");

    let stranger = platform.stranger().await;
    let theirs = stranger.get("/v1/sandboxes/stats").await.expect(200);
    assert_eq!(theirs["current"], json!({"running_count": 0, "vcpus_reserved": 0, "memory_mb_reserved": 0}));
    let sampled = theirs["series"]["running"].as_array().unwrap();
    assert!(sampled.contains(&json!(0)), "somebody looked, and they had none: {sampled:?}");
}
