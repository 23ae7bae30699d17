use std::collections::BTreeSet;

use serde_json::{Value, json};

use crate::platform::Platform;

fn ids(list: &Value) -> Vec<String> {
    list.as_array().unwrap().iter().map(|item| item["id"].as_str().unwrap().to_owned()).collect()
}

#[tokio::test]
async fn pages_hold_every_sandbox_once_newest_first() {
    let platform = Platform::start().await;
    let mut made = Vec::new();
    for _ in 0..7 {
        made.push(platform.api.sandbox().await);
    }
    made.reverse();
    let mut seen = Vec::new();
    let mut path = "/v1/sandboxes?limit=3".to_owned();
    let mut sizes = Vec::new();
    loop {
        let answer = platform.api.get(&path).await;
        let next = answer.next_cursor();
        let page = ids(&answer.expect(200));
        sizes.push(page.len());
        seen.extend(page);
        // What is made meanwhile belongs to no later page.
        platform.api.sandbox().await;
        let Some(next) = next else { break };
        path = format!("/v1/sandboxes?limit=3&cursor={next}");
    }
    assert_eq!(seen, made);
    assert_eq!(sizes, [3, 3, 1]);
}

#[tokio::test]
async fn filters_by_state_template_and_metadata() {
    let platform = Platform::start().await;
    let make = async |metadata: Value| {
        let body = json!({"metadata": metadata});
        platform.api.post("/v1/sandboxes", body).await.expect(201)["id"].as_str().unwrap().to_owned()
    };
    let red = make(json!({"colour": "red", "size": "1"})).await;
    let blue = make(json!({"colour": "blue", "size": "1"})).await;
    let odd = make(json!({"a=b": "c d&e", "size": "2"})).await;
    platform.api.delete(&format!("/v1/sandboxes/{blue}")).await.expect(204);

    for (query, expected) in [
        ("", vec![&odd, &red]),
        ("status=running", vec![&odd, &red]),
        ("status=stopped", vec![&blue]),
        ("status=stopped,running", vec![&odd, &blue, &red]),
        ("status=stopped&status=running", vec![&odd, &blue, &red]),
        ("status=paused", vec![]),
        ("template=base", vec![&odd, &red]),
        ("template=other", vec![]),
        ("metadata=colour%3Dred", vec![&red]),
        ("metadata=colour=blue", vec![]),
        ("metadata=colour=blue&status=stopped", vec![&blue]),
        ("metadata=colour=red&metadata=size=1", vec![&red]),
        ("metadata=colour=red&metadata=size=2", vec![]),
        ("later=1", vec![&odd, &red]),
    ] {
        let list = platform.api.get(&format!("/v1/sandboxes?{query}")).await.expect(200);
        let expected: Vec<String> = expected.into_iter().cloned().collect();
        assert_eq!(ids(&list), expected, "{query}");
    }
    let unique: BTreeSet<_> = [&red, &blue, &odd].into();
    assert_eq!(unique.len(), 3);
}

#[tokio::test]
async fn a_query_that_makes_no_sense_is_refused() {
    let platform = Platform::start().await;
    for query in [
        "limit=0",
        "limit=201",
        "limit=-1",
        "limit=x",
        "limit=",
        "limit=1&limit=2",
        "cursor=x",
        "cursor=",
        "status=",
        "status=asleep",
        "status=running,",
        "metadata=x",
        "template=a&template=b",
    ] {
        let answer = platform.api.get(&format!("/v1/sandboxes?{query}")).await;
        assert_eq!(answer.status, 400, "{query}");
        answer.refused(400, "invalid_request");
    }
}
