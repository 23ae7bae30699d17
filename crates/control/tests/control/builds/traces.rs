//! A build's trace, as a collector receives it: the platform of this process once more, as its environment says.

use std::process::{Command, Stdio};

use http::{HeaderMap, HeaderValue};
use sandbar_testkit::collector::Collector;
use sandbar_trace::{Exporter, Span};

use super::*;

const TRACE: &str = "44444444444444444444444444444444";

/// What the process does: a build that is begun twice.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "run by the other, with an environment"]
async fn traced() {
    let exporter = Exporter::from_env("a-part").unwrap().unwrap();
    let building = Building::new(Queue::Postgres).await;
    let parent = format!("00-{TRACE}-5555555555555555-01");
    let headers = HeaderMap::from_iter([(
        http::HeaderName::from_static("traceparent"),
        HeaderValue::from_str(&parent).unwrap(),
    )]);
    let request = Span::of_request("POST /v1/builds", &headers);
    let build = request.run(building.submit("work", &["echo"])).await;
    drop(request);
    building.world.host.inject(Rpc::SnapshotSandbox, Fault::Fail, Times::Once);
    let _workers = building.workers().await;
    let (ended, _) = building.end_of(build.id).await;
    assert_eq!((ended.status, ended.attempts), (BuildStatus::Success, 2));
    building.no_sandbox_is_left().await;
    exporter.shut_down();
}

#[tokio::test(flavor = "multi_thread")]
async fn each_attempt_is_a_trace_of_its_own_linked_to_the_request_that_asked_for_it() {
    let collector = Collector::start().await.unwrap();
    let mut child = Command::new(std::env::current_exe().unwrap());
    child.args(["--exact", "builds::traces::traced", "--ignored"]).stdout(Stdio::null());
    child.env("OTEL_EXPORTER_OTLP_ENDPOINT", collector.url());
    let ended = tokio::task::spawn_blocking(move || child.status()).await.unwrap();
    assert!(ended.unwrap().success());

    let spans = collector.spans();
    let request = spans.iter().find(|span| span.name == "POST /v1/builds").unwrap();
    let attempts: Vec<_> = spans.iter().filter(|span| span.name == "build").collect();
    // The second ends after what was waited for: it may be cut off by the process' end.
    assert!(!attempts.is_empty(), "{spans:#?}");
    for attempt in attempts {
        assert!(attempt.parent.is_empty() && attempt.trace != TRACE, "{attempt:#?}");
        assert_eq!(attempt.links, [(TRACE.to_owned(), request.id.clone())]);
        assert!(attempt.attributes["sandbar.build.id"].starts_with("bld-"), "{attempt:#?}");
        // The work is in the attempt's trace.
        let calls = collector.of_trace(&attempt.trace);
        assert!(calls.iter().any(|span| span.name == "CreateSandbox"), "{calls:#?}");
    }
}
