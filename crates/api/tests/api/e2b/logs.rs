use chrono::DateTime;
use sandbar_testkit::sim_host::LogLevel;
use serde_json::{Value, json};

use super::refused;
use crate::platform::Platform;

fn messages(entries: &Value) -> Vec<&str> {
    entries.as_array().unwrap().iter().map(|entry| entry["message"].as_str().unwrap()).collect()
}

fn millis(entry: &Value) -> i64 {
    entry["timestamp"].as_str().unwrap().parse::<DateTime<chrono::Utc>>().unwrap().timestamp_millis()
}

#[tokio::test]
async fn both_versions_tell_what_happened_as_clients_read_it() {
    let platform = Platform::start().await;
    let id = platform.api.made(json!({})).await;
    let native = format!("sb-{}", uuid::Uuid::try_parse(&id).unwrap());
    let (first, second) = (format!("/sandboxes/{id}/logs"), format!("/v2/sandboxes/{id}/logs"));
    assert_eq!(platform.api.get(&first).await.expect(200), json!({"logs": [], "logEntries": []}));
    assert_eq!(platform.api.get(&second).await.expect(200), json!({"logs": []}));
    let host = &platform.host;
    host.log(&native, LogLevel::LOG_LEVEL_INFO, "created", &[("source", "host"), ("event", "created")]);
    let fields = [("source", "guest"), ("event", "output"), ("pid", "7"), ("stream", "stderr")];
    host.log(&native, LogLevel::LOG_LEVEL_WARN, "A \"quoted\" line", &fields);
    host.log(&native, LogLevel::LOG_LEVEL_ERROR, "broken", &[("source", "host")]);

    let told = platform.api.get(&first).await.expect(200);
    assert_eq!(messages(&told["logEntries"]), ["created", "A \"quoted\" line", "broken"]);
    let lines: Vec<Value> = told["logs"]
        .as_array()
        .unwrap()
        .iter()
        .map(|line| serde_json::from_str(line["line"].as_str().unwrap()).unwrap())
        .collect();
    let line = json!({
        "level": "warn", "logger": "process", "message": "A \"quoted\" line",
        "source": "guest", "event": "output", "pid": "7", "stream": "stderr",
    });
    assert_eq!((&lines[1], &lines[0]["logger"]), (&line, &json!("system")));
    assert_eq!(told["logs"][1]["timestamp"], told["logEntries"][1]["timestamp"]);
    let entry = &told["logEntries"][1];
    assert_eq!((&entry["level"], &entry["fields"]["pid"]), (&json!("warn"), &json!("7")));
    let after = millis(&told["logEntries"][2]) + 1;
    let none = platform.api.get(&format!("{first}?start={after}&limit=5")).await.expect(200);
    assert_eq!(none, json!({"logs": [], "logEntries": []}));

    let second =
        async |query: &str| platform.api.get(&format!("{second}?{query}")).await.expect(200)["logs"].clone();
    assert_eq!(messages(&second("direction=backward&limit=2").await), ["broken", "A \"quoted\" line"]);
    assert_eq!(messages(&second("level=warn&search=QUOTED").await), ["A \"quoted\" line"]);
    assert_eq!(messages(&second(&format!("direction=backward&cursor={after}")).await).len(), 3);
    assert_eq!(second(&format!("cursor={after}")).await, json!([]));
    assert_eq!(second("direction=backward&cursor=1").await, json!([]));
    assert_eq!(second("limit=0").await, json!([]));

    for query in ["start=then", "start=-1", "limit=-1"] {
        refused(&platform.api.get(&format!("{first}?{query}")).await, 400);
    }
    for query in ["cursor=x", "direction=up", "level=loud"] {
        refused(&platform.api.get(&format!("/v2/sandboxes/{id}/logs?{query}")).await, 400);
    }
}
