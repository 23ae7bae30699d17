use std::time::Duration;

use futures::StreamExt as _;
use reqwest::Method;
use sandbar_testkit::sim_host::{Fault, LogLevel, Rpc, Times};
use serde_json::{Value, json};

use crate::client::Client;
use crate::platform::Platform;

/// Longer than anything takes on a machine that does much else.
const PATIENCE: Duration = Duration::from_secs(60);

/// Server-sent events as they come.
struct Events {
    body: futures::stream::BoxStream<'static, reqwest::Result<bytes::Bytes>>,
    rest: String,
}

impl Events {
    async fn open(api: &Client, path: &str, last: Option<&str>) -> Self {
        let mut request = api.request(Method::GET, path);
        if let Some(last) = last {
            request = request.header("Last-Event-ID", last);
        }
        let response = request.send().await.unwrap();
        assert_eq!(response.status(), 200, "{}", response.text().await.unwrap());
        assert_eq!(response.headers()["content-type"], "text/event-stream");
        Self { body: response.bytes_stream().boxed(), rest: String::new() }
    }

    /// The next event: name, id, data. None where the stream has ended.
    async fn next(&mut self) -> Option<(String, String, Value)> {
        loop {
            while let Some((event, rest)) = self.rest.split_once("\n\n") {
                let field = |name| event.lines().find_map(|line| line.strip_prefix(name)).unwrap_or_default();
                let (name, id, data) = (field("event: "), field("id: "), field("data: "));
                let event = (name.to_owned(), id.to_owned(), data.to_owned());
                self.rest = rest.to_owned();
                // Others are there to keep the connection alive.
                if !event.0.is_empty() {
                    return Some((event.0, event.1, serde_json::from_str(&event.2).unwrap()));
                }
            }
            let more = tokio::time::timeout(PATIENCE, self.body.next()).await.expect("something comes");
            self.rest.push_str(std::str::from_utf8(&more?.ok()?).unwrap());
        }
    }

    async fn message(&mut self) -> String {
        let (name, id, data) = self.next().await.unwrap();
        assert_eq!((name.as_str(), &data["id"]), ("log", &json!(id)));
        data["message"].as_str().unwrap().to_owned()
    }
}

/// A sandbox with entries 1 to 30, every tenth of them an error.
async fn sandbox(platform: &Platform) -> String {
    let id = platform.api.sandbox().await;
    for number in 1..=30 {
        let level = if number % 10 == 0 { LogLevel::LOG_LEVEL_ERROR } else { LogLevel::LOG_LEVEL_INFO };
        let pid = (number % 2).to_string();
        let fields = [("source", "guest"), ("event", "output"), ("pid", &*pid), ("tag", "job")];
        platform.host.log(&id, level, &format!("Line {number}"), &fields);
    }
    id
}

fn ids(page: &Value) -> Vec<u32> {
    page.as_array().unwrap().iter().map(|entry| entry["id"].as_str().unwrap().parse().unwrap()).collect()
}

#[tokio::test]
async fn a_log_is_read_page_by_page_either_way_and_filtered() {
    let platform = Platform::start().await;
    let id = sandbox(&platform).await;
    let path = format!("/v1/sandboxes/{id}/logs");
    let newest = platform.api.get(&path).await.expect(200);
    assert_eq!(ids(&newest), (1..=30).rev().collect::<Vec<_>>());
    assert_eq!(newest[0]["level"], "error");
    assert_eq!(newest[0]["fields"], json!({"source": "guest", "event": "output", "pid": "0", "tag": "job"}));
    let timestamp = newest[0]["timestamp"].as_str().unwrap().to_owned();

    for (direction, expected) in
        [("forward", (1..=30).collect::<Vec<u32>>()), ("backward", (1..=30).rev().collect())]
    {
        let (mut all, mut next) = (Vec::new(), String::new());
        loop {
            let page = platform.api.get(&format!("{path}?direction={direction}&limit=7{next}")).await;
            let cursor = page.headers.get("x-next-cursor").map(|cursor| cursor.to_str().unwrap().to_owned());
            all.extend(ids(&page.expect(200)));
            let Some(cursor) = cursor else { break };
            next = format!("&cursor={cursor}");
        }
        assert_eq!(all, expected, "{direction}");
    }
    let filtered = async |query: &str| {
        ids(&platform.api.get(&format!("{path}?direction=forward&{query}")).await.expect(200))
    };
    assert_eq!(filtered("level=warn").await, [10, 20, 30]);
    assert_eq!(filtered("search=line%202&process=1").await, [21, 23, 25, 27, 29]);
    assert_eq!(filtered("process=job").await.len(), 30);
    assert!(filtered("process=other").await.is_empty());
    assert!(filtered("from=2100-01-01T00:00:00Z").await.is_empty());
    assert!(filtered("to=2000-01-01T00:00:00Z").await.is_empty());
    assert_eq!(filtered(&format!("from={timestamp}")).await.last(), Some(&30));

    for query in ["limit=0", "limit=1001", "direction=up", "level=loud", "cursor=0", "cursor=x", "from=then"]
    {
        platform.api.get(&format!("{path}?{query}")).await.refused(400, "invalid_request");
    }
    let long = "x".repeat(257);
    platform.api.get(&format!("{path}?search={long}")).await.refused(400, "invalid_request");
}

#[tokio::test]
async fn a_log_is_followed_through_a_pause_to_the_sandboxs_end() {
    let platform = Platform::start().await;
    let id = sandbox(&platform).await;
    let path = format!("/v1/sandboxes/{id}/logs/stream");
    let mut events = Events::open(&platform.api, &format!("{path}?after=28"), None).await;
    assert_eq!(
        (events.message().await, events.message().await),
        ("Line 29".to_owned(), "Line 30".to_owned())
    );
    platform.api.post(&format!("/v1/sandboxes/{id}/pause"), json!({})).await.expect(200);
    platform.host.log(&id, LogLevel::LOG_LEVEL_INFO, "while it was paused", &[]);
    assert_eq!(events.message().await, "while it was paused");
    // A browser that comes back asks for what it asked for first, and says what it has seen.
    let mut again = Events::open(&platform.api, &format!("{path}?after=2&level=error"), Some("20")).await;
    assert_eq!(again.message().await, "Line 30");
    platform.host.log(&id, LogLevel::LOG_LEVEL_ERROR, "\u{1b}[31m\u{0}\nred", &[]);
    assert_eq!(again.message().await, "\u{1b}[31m\u{0}\nred");
    assert_eq!(events.message().await, "\u{1b}[31m\u{0}\nred");
    platform.host.end_log(&id);
    assert_eq!(events.next().await.unwrap().0, "end");
    assert_eq!(events.next().await, None);
}

#[tokio::test]
async fn a_stream_that_breaks_off_ends_without_an_end() {
    let platform = Platform::start().await;
    let id = sandbox(&platform).await;
    let path = format!("/v1/sandboxes/{id}/logs/stream?after=29");
    let mut events = Events::open(&platform.api, &path, None).await;
    assert_eq!(events.message().await, "Line 30");
    platform.host.crash().await.unwrap();
    assert_eq!(events.next().await, None);
}

#[tokio::test]
async fn a_log_is_there_as_long_as_its_sandbox() {
    let platform = Platform::start().await;
    let id = sandbox(&platform).await;
    let paths = [format!("/v1/sandboxes/{id}/logs"), format!("/v1/sandboxes/{id}/logs/stream")];
    platform.host.inject(Rpc::GetSandboxLogs, Fault::Fail, Times::Once);
    platform.api.get(&paths[0]).await.refused(502, "agent_error");
    platform.host.inject(Rpc::FollowSandboxLogs, Fault::Fail, Times::Once);
    platform.api.get(&paths[1]).await.refused(502, "agent_error");
    platform.api.post(&format!("/v1/sandboxes/{id}/pause"), json!({})).await.expect(200);
    assert_eq!(platform.api.get(&paths[0]).await.expect(200).as_array().unwrap().len(), 30);
    platform.api.delete(&format!("/v1/sandboxes/{id}")).await.expect(204);
    for path in paths {
        platform.api.get(&path).await.refused(404, "not_found");
    }
}
