use serde_json::{Value, json};

use super::refused;
use crate::platform::Platform;

fn ids(listed: &Value) -> Vec<&str> {
    listed.as_array().unwrap().iter().map(|one| one["sandboxID"].as_str().unwrap()).collect()
}

#[tokio::test]
async fn sandboxes_are_listed_by_their_start_paused_or_not() {
    let platform = Platform::start().await;
    let mut made = Vec::new();
    for name in ["one", "two", "three"] {
        made.push(platform.api.made(json!({"timeout": 600, "metadata": {"name": name, "a b": "c&d"}})).await);
    }
    let [one, two, three] = made.as_slice() else { panic!() };
    platform.api.post(&format!("/sandboxes/{two}/pause"), json!({})).await.expect(204);
    let ended = platform.api.made(json!({})).await;
    platform.api.delete(&format!("/sandboxes/{ended}")).await.expect(204);

    let all = platform.api.get("/v2/sandboxes").await.expect(200);
    assert_eq!(ids(&all), [three, two, one]);
    for key in
        ["templateID", "clientID", "startedAt", "endAt", "cpuCount", "memoryMB", "diskSizeMB", "envdVersion"]
    {
        assert!(!all[0][key].is_null(), "{key}");
    }
    assert_eq!((&all[0]["state"], &all[1]["state"]), (&json!("running"), &json!("paused")));
    let started = all[1]["startedAt"].as_str().unwrap().replace('+', "%2B");
    let template = all[0]["templateID"].as_str().unwrap();
    for (query, expected) in [
        ("state=running", vec![three, one]),
        ("state=paused", vec![two]),
        ("state=running,paused&order=asc", vec![one, two, three]),
        (&format!("startedAfter={started}"), vec![three, two]),
        ("metadata=a%252520b%3Dc%252526d", vec![three, two, one]),
        ("metadata=a%252520b%3Dc%252526d%26name%3Dtwo", vec![two]),
        ("metadata=name%3Dfour", vec![]),
        ("template=base", vec![three, two, one]),
        (&format!("template={template}"), vec![three, two, one]),
        ("template=nothing", vec![]),
    ] {
        let listed = platform.api.get(&format!("/v2/sandboxes?{query}")).await.expect(200);
        assert_eq!(ids(&listed), expected, "{query}");
    }
    for query in ["state=ended", "order=up", "limit=0", "limit=x", "nextToken=x", "startedAfter=x"] {
        refused(&platform.api.get(&format!("/v2/sandboxes?{query}")).await, 400);
    }
    let old = platform.api.get("/sandboxes").await.expect(200);
    assert_eq!(ids(&old), [three, one]);
}

#[tokio::test]
async fn pages_neither_skip_nor_repeat_in_either_order() {
    let platform = Platform::start().await;
    let mut made = Vec::new();
    for _ in 0..5 {
        made.push(platform.api.made(json!({"timeout": 600})).await);
    }
    for order in ["asc", "desc"] {
        let (mut seen, mut token) = (Vec::new(), String::new());
        loop {
            let page =
                platform.api.get(&format!("/v2/sandboxes?limit=2&order={order}&nextToken={token}")).await;
            let next = page.headers.get("x-next-token").map(|value| value.to_str().unwrap().to_owned());
            let listed = page.expect(200);
            assert!(ids(&listed).len() <= 2);
            seen.extend(ids(&listed).into_iter().map(str::to_owned));
            match next {
                Some(next) => token = next,
                None => break,
            }
        }
        if order == "desc" {
            seen.reverse();
        }
        assert_eq!(seen, made, "{order}");
    }
}
