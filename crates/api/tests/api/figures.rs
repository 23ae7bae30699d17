//! What the control plane tells Prometheus, what the documentation says that it does, and what the dashboard for Grafana asks for: one list.

use std::collections::BTreeSet;
use std::path::Path;

use axum::http::Request;
use sandbar_api::figures::{Figures, internal_router, recorder};
use serde_json::json;
use tower::ServiceExt as _;

use crate::platform::Platform;

fn document(path: &str) -> String {
    std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs").join(path)).unwrap()
}

/// The names in the first column of a section's table.
fn documented(section: &str) -> BTreeSet<String> {
    let text = document("metrics.md");
    let (_, after) = text.split_once(&format!("## {section}\n")).unwrap();
    let table = after.split("\n## ").next().unwrap();
    table.lines().filter_map(|line| line.strip_prefix("| `")?.split('`').next().map(str::to_owned)).collect()
}

// The recorder is this thread's, as is all that the test runs.
#[tokio::test(flavor = "current_thread")]
async fn every_figure_of_the_control_plane_is_documented_and_there() {
    let recorder = recorder().unwrap();
    let handle = recorder.handle();
    let _recording = metrics::set_default_local_recorder(&recorder);
    let platform = Platform::start().await;
    let id = platform.api.sandbox().await;
    platform.api.post(&format!("/v1/sandboxes/{id}/fork"), json!({"count": 1})).await.expect(201);
    platform.api.post("/v1/snapshots", json!({"sandbox_id": id})).await.expect(201);
    platform.api.get("/v1/sandboxes/sb-none").await.expect(404);
    platform.control.reconcile_host(platform.host_id.parse().unwrap(), None).await.unwrap();

    let control = platform.control.clone();
    let router = internal_router(Figures::new(handle, move || {
        let control = control.clone();
        async move { control.record_figures().await }
    }));
    let request = Request::get("/metrics").body(axum::body::Body::empty()).unwrap();
    let answer = router.oneshot(request).await.unwrap();
    let text = axum::body::to_bytes(answer.into_body(), usize::MAX).await.unwrap();
    let text = String::from_utf8(text.to_vec()).unwrap();

    let told: BTreeSet<String> = text
        .lines()
        .filter_map(|line| line.strip_prefix("# TYPE ")?.split(' ').next().map(str::to_owned))
        .collect();
    let documented = documented("The control plane");
    let unknown: Vec<_> = told.difference(&documented).collect();
    assert!(unknown.is_empty(), "docs/metrics.md does not know {unknown:?}");
    // What needs a connection too many, a port of a sandbox, or a public certificate, is counted in the tests of those.
    let elsewhere = [
        "sandbar_http_connections_turned_away_total",
        "sandbar_edge_requests_total",
        "sandbar_certificate_expiry_timestamp_seconds",
        "sandbar_certificate_failures_total",
    ];
    let missing: Vec<_> =
        documented.difference(&told).filter(|name| !elsewhere.contains(&name.as_str())).collect();
    assert!(missing.is_empty(), "{missing:?} are documented and not there");

    for line in [
        "sandbar_sandboxes{status=\"running\"} 2",
        "sandbar_sandboxes{status=\"paused\"} 0",
        "sandbar_hosts{status=\"online\"} 1",
        "route=\"/v1/sandboxes/{id}\",status=\"404\"",
        "sandbar_host_rpc_seconds_count{rpc=\"CreateSandbox\",outcome=\"ok\"} 1",
    ] {
        assert!(text.contains(line), "{line} is not there");
    }
    assert!(!text.contains("sb-none"), "no raw address is a label");
}

#[test]
fn the_dashboard_asks_for_nothing_that_there_is_not() {
    let known: BTreeSet<String> =
        documented("The control plane").into_iter().chain(documented("A host agent")).collect();
    let dashboard: serde_json::Value = serde_json::from_str(&document("grafana/sandbar.json")).unwrap();
    let mut asked = BTreeSet::new();
    for panel in dashboard["panels"].as_array().unwrap() {
        for target in panel["targets"].as_array().into_iter().flatten() {
            let query = target["expr"].as_str().unwrap();
            let words = query.split(|c: char| !c.is_ascii_alphanumeric() && c != '_');
            asked.extend(words.filter(|word| word.starts_with("sandbar_")).map(|word| {
                let of_histogram =
                    ["_bucket", "_sum", "_count"].iter().find_map(|end| word.strip_suffix(end));
                of_histogram.unwrap_or(word).to_owned()
            }));
        }
    }
    assert!(asked.is_subset(&known), "{:?}", asked.difference(&known));
    assert!(asked.len() > 10, "{asked:?}");
}
