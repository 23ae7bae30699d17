//! Spans as a collector receives them, of a process that is configured as any other: by its environment. That process is this test once more.

#![expect(clippy::unwrap_used, reason = "what is unwrapped here is what the test asserts")]

use std::process::{Command, Stdio};

use http::{HeaderMap, HeaderValue, StatusCode};
use sandbar_testkit::collector::{Collector, Manner, Span as Received};
use sandbar_trace::{Context, Exporter, FutureExt as _, Span};
use sandbar_types::TraceParent;

const TRACE: &str = "11111111111111111111111111111111";
const CALLER: &str = "2222222222222222";

/// Runs [`work`] in a process of its own. The collector's runtime has to have other threads.
fn process(variables: &[(&str, &str)]) {
    let mut child = Command::new(std::env::current_exe().unwrap());
    child.args(["--exact", "work", "--ignored"]).stdout(Stdio::null());
    for (name, _) in std::env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("OTEL_")) {
        child.env_remove(name);
    }
    assert!(child.envs(variables.iter().copied()).status().unwrap().success());
}

/// What the process does: two requests with a caller, one without, one whose caller does not keep its trace, and a call outside of any. What the
/// first two asked for is done at the end.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "run by the others, with an environment"]
async fn work() {
    let exporter = Exporter::from_env("a-part").unwrap();
    let mut asked_by = Vec::new();
    for flags in ["01", "00"] {
        asked_by.push(request(&from(&format!("00-{TRACE}-{CALLER}-{flags}"))).await);
    }
    request(&from("00-nonsense-01")).await;
    for asked_by in asked_by {
        drop(Span::of_work_for(asked_by, "later"));
    }
    call("Outside").await;
    drop(Span::of_answer("ForNobody", &HeaderMap::new()));
    if let Some(exporter) = exporter {
        exporter.shut_down();
    }
}

fn from(parent: &str) -> HeaderMap {
    [("traceparent", parent), ("tracestate", "vendor=kept")]
        .into_iter()
        .map(|(name, value)| (name.parse().unwrap(), HeaderValue::from_str(value).unwrap()))
        .collect()
}

/// The request, for what is done of it later.
async fn request(headers: &HeaderMap) -> Option<TraceParent> {
    let span = Span::of_request("GET /things", headers);
    span.set("http.route", "/things");
    span.run(async {
        sandbar_trace::note("sandbar.team.id", "team-1");
        // Another task goes on with it.
        tokio::spawn(call("Fetch").with_context(Context::current())).await.unwrap();
    })
    .await;
    span.answered(StatusCode::BAD_GATEWAY);
    span.run(async { sandbar_trace::current() }).await
}

/// A call, and its answer in another part of the platform.
async fn call(name: &str) {
    let call = Span::of_call(name);
    let mut headers = HeaderMap::new();
    call.carry(&mut headers);
    let answer = Span::of_answer(format_args!("{name} answered"), &headers);
    assert_eq!(answer.trace_id(), call.trace_id());
    answer.run(async { drop(Span::of_call("Deeper")) }).await;
    if headers.contains_key("traceparent") && call.trace_id().unwrap().to_string() == TRACE {
        assert_eq!(headers["tracestate"], "vendor=kept");
    }
    call.failed("refused");
}

fn named<'a>(spans: &'a [Received], name: &str) -> &'a Received {
    let found: Vec<_> = spans.iter().filter(|span| span.name == name).collect();
    assert_eq!(found.len(), 1, "{name} in {spans:#?}");
    found[0]
}

#[tokio::test(flavor = "multi_thread")]
async fn a_trace_is_one_from_process_to_process_and_from_task_to_task() {
    let collector = Collector::start().await.unwrap();
    process(&[("OTEL_EXPORTER_OTLP_ENDPOINT", collector.url())]);
    let spans = collector.of_trace(TRACE);
    assert_eq!(spans.len(), 4, "{spans:#?}");
    let chain = ["GET /things", "Fetch", "Fetch answered", "Deeper"].map(|name| named(&spans, name));
    assert_eq!(chain[0].parent, CALLER);
    for pair in chain.windows(2) {
        assert_eq!(pair[1].parent, pair[0].id, "{spans:#?}");
        assert_eq!(pair[1].service, "a-part");
    }
    assert_eq!(chain[0].attributes["http.route"], "/things");
    assert_eq!(chain[0].attributes["http.response.status_code"], "502");
    assert_eq!(chain[0].attributes["sandbar.team.id"], "team-1");
    assert_eq!(chain[1].attributes["error.type"], "refused");
    assert!(chain[0].failed && chain[1].failed && !chain[2].failed);

    // A caller that makes no sense begins nothing and ends nothing; one that does not keep its trace has none here either.
    let others: Vec<_> = collector.spans().into_iter().filter(|span| span.trace != TRACE).collect();
    assert_eq!(named(&others, "GET /things").parent, "");
    assert_eq!(others.len(), 6, "{others:#?}");
    // What is done later is a trace of its own, and says who asked for it, where that can be looked up.
    let mut later: Vec<_> = others.iter().filter(|span| span.name == "later").collect();
    later.sort_by_key(|span| span.links.len());
    assert_eq!(later.len(), 2, "{others:#?}");
    assert!(later.iter().all(|span| span.parent.is_empty()), "{later:#?}");
    assert_eq!((&later[0].links, &later[1].links), (&vec![], &vec![(TRACE.to_owned(), chain[0].id.clone())]));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_environment_says_who_is_traced_and_how_much() {
    let collector = Collector::start().await.unwrap();
    let endpoint = ("OTEL_EXPORTER_OTLP_ENDPOINT", collector.url());
    process(&[]);
    process(&[endpoint, ("OTEL_SDK_DISABLED", "true")]);
    process(&[endpoint, ("OTEL_TRACES_SAMPLER", "always_off")]);
    assert_eq!(collector.requests(), 0);
    process(&[endpoint, ("OTEL_TRACES_SAMPLER", "parentbased_always_off"), ("OTEL_SERVICE_NAME", "mine")]);
    let spans = collector.spans();
    assert_eq!(spans.len(), 4, "{spans:#?}");
    assert!(spans.iter().all(|span| span.trace == TRACE && span.service == "mine"), "{spans:#?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_collector_that_hangs_or_is_away_keeps_no_process_from_its_end() {
    let collector = Collector::start().await.unwrap();
    collector.set_manner(Manner::Hangs);
    process(&[("OTEL_EXPORTER_OTLP_ENDPOINT", collector.url())]);
    assert_eq!((collector.requests(), collector.spans().len()), (1, 0));
    let nobody = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    process(&[("OTEL_EXPORTER_OTLP_ENDPOINT", &format!("http://{nobody}"))]);
}
