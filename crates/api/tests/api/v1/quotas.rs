use futures::future::join_all;
use serde_json::json;

use crate::platform::Platform;

#[tokio::test]
async fn of_fifty_creates_at_once_exactly_the_quota_is_made_and_the_others_are_told_why() {
    let platform = Platform::start().await;
    let (first, ann) = (platform.first_person().await, platform.sign_up("ann").await);
    let path = format!("/v1/admin/teams/{}/quotas", ann.team);
    let set = first.api.put(&path, json!({"sandboxes": 10})).await.expect(200);
    assert_eq!(set["sandboxes"], json!({"limit": 10, "used": 0, "is_default": false}));
    assert_eq!(set["snapshots"], json!({"limit": 500, "used": 0, "is_default": true}));

    let answers = join_all((0..50).map(|_| ann.api.post("/v1/sandboxes", json!({})))).await;
    let (made, refused): (Vec<_>, Vec<_>) = answers.into_iter().partition(|answer| answer.status == 201);
    assert_eq!((made.len(), refused.len()), (10, 40));
    for answer in refused {
        let message = answer.refused(429, "rate_limited");
        assert!(message.contains("10 running sandboxes") && message.contains("administrator"), "{message}");
    }
    let told = ann.api.get(&format!("/v1/teams/{}/quotas", ann.team)).await.expect(200);
    assert_eq!(told["sandboxes"], json!({"limit": 10, "used": 10, "is_default": false}));
    assert_eq!((&told["vcpus"]["used"], &told["memory_mb"]["used"]), (&json!(10), &json!(5120)));
    // Another team has its own.
    platform.api.sandbox().await;

    let id = made[0].body["id"].as_str().unwrap();
    ann.api.delete(&format!("/v1/sandboxes/{id}")).await.expect(204);
    ann.api.sandbox().await;
}

#[tokio::test]
async fn what_is_left_out_stays_null_is_the_default_and_changes_alone_are_told() {
    let platform = Platform::start().await;
    let (first, ann) = (platform.first_person().await, platform.sign_up("ann").await);
    let path = format!("/v1/admin/teams/{}/quotas", ann.team);
    first.api.put(&path, json!({"sandboxes": 3, "builds": 0})).await.expect(200);
    first.api.put(&path, json!({"vcpus": 9})).await.expect(200);
    let set = first.api.put(&path, json!({"sandboxes": null})).await.expect(200);
    assert_eq!((&set["sandboxes"]["limit"], &set["sandboxes"]["is_default"]), (&json!(100), &json!(true)));
    assert_eq!((&set["vcpus"]["limit"], &set["builds"]["limit"]), (&json!(9), &json!(0)));
    assert_eq!(first.api.put(&path, json!({"vcpus": 9})).await.expect(200), set);
    assert_eq!(first.api.get(&path).await.expect(200), set);

    let trail = ann.api.get("/v1/audit-logs?action=quota_update").await.expect(200);
    let told: Vec<_> = trail["items"].as_array().unwrap().iter().map(|event| &event["metadata"]).collect();
    let expected = [
        json!({"sandboxes": {"from": 3, "to": null}}),
        json!({"vcpus": {"from": null, "to": 9}}),
        json!({"sandboxes": {"from": null, "to": 3}, "builds": {"from": null, "to": 0}}),
    ];
    assert_eq!(told, expected.iter().collect::<Vec<_>>());

    for bad in [json!({"sandboxes": -1}), json!({"vcpus": 1.5}), json!({"builds": 1u64 << 31})] {
        first.api.put(&path, bad).await.refused(400, "invalid_request");
    }
    let none = "/v1/admin/teams/team-00000000-0000-0000-0000-000000000000/quotas";
    first.api.get(none).await.refused(404, "not_found");
    first.api.put(none, json!({})).await.refused(404, "not_found");
}
