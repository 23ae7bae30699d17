//! `/metrics` on the internal listener: a process's figures in Prometheus' text format. `docs/metrics.md` names them all.

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::State;
use axum::http::{HeaderName, header};
use axum::routing::get;
use futures::future::BoxFuture;
use metrics_exporter_prometheus::{BuildError, PrometheusBuilder, PrometheusHandle, PrometheusRecorder};

/// Upper ends of the buckets into which times are counted: from a claim of a warm machine to a template's boot. The same everywhere, so that
/// times of a request, its call and its host can be held against each other.
const SECONDS: [f64; 16] =
    [0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0];
/// Time between two moves of what was recorded into the buckets: what nobody asks for must not pile up.
const UPKEEP: Duration = Duration::from_secs(5);

/// What keeps a process's figures. For [`install`], and for tests.
pub fn recorder() -> Result<PrometheusRecorder, BuildError> {
    Ok(PrometheusBuilder::new().set_buckets(&SECONDS)?.build_recorder())
}

/// Why figures cannot be collected.
#[derive(Debug, thiserror::Error)]
pub enum FiguresError {
    /// There are no buckets.
    #[error("the figures' buckets are not valid")]
    Buckets(#[from] BuildError),
    /// Something collects them already.
    #[error("this process's figures are collected already")]
    Taken(#[from] metrics::SetRecorderError<PrometheusRecorder>),
}

/// Collects this process's figures from now on, for as long as it lives. Must be called in a runtime.
pub fn install() -> Result<PrometheusHandle, FiguresError> {
    let recorder = recorder()?;
    let handle = recorder.handle();
    metrics::set_global_recorder(recorder)?;
    let kept = handle.clone();
    tokio::spawn(async move {
        loop {
            tokio::time::sleep(UPKEEP).await;
            kept.run_upkeep();
        }
    });
    Ok(handle)
}

/// Figures, and what brings those up to date that are read when somebody asks.
#[derive(Clone)]
pub struct Figures {
    handle: PrometheusHandle,
    refresh: Arc<dyn Fn() -> BoxFuture<'static, ()> + Send + Sync>,
}

impl Figures {
    /// With `refresh` before each answer.
    pub fn new<F: Future<Output = ()> + Send + 'static>(
        handle: PrometheusHandle,
        refresh: impl Fn() -> F + Send + Sync + 'static,
    ) -> Self {
        Self { handle, refresh: Arc::new(move || Box::pin(refresh())) }
    }
}

/// For the internal listener only: `/metrics`.
pub fn internal_router(figures: Figures) -> Router {
    Router::new().route("/metrics", get(metrics)).with_state(figures)
}

/// Not for the public listener: they tell of all teams.
async fn metrics(State(figures): State<Figures>) -> ([(HeaderName, &'static str); 1], String) {
    (figures.refresh)().await;
    ([(header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], figures.handle.render())
}

#[cfg(test)]
mod tests {
    use axum::body::{Body, to_bytes};
    use axum::http::Request;
    use tower::ServiceExt as _;

    use super::*;

    #[tokio::test]
    async fn the_internal_router_shows_the_figures_that_were_recorded_after_a_refresh() {
        let recorder = recorder().unwrap();
        metrics::with_local_recorder(&recorder, || {
            metrics::counter!("sandbar_test_total").increment(3);
            metrics::histogram!("sandbar_test_seconds").record(0.3);
        });
        let handle = recorder.handle();
        let recorder = Arc::new(recorder);
        let router = internal_router(Figures::new(handle, move || {
            let recorder = Arc::clone(&recorder);
            async move { metrics::with_local_recorder(&*recorder, || metrics::gauge!("sandbar_test_now").set(7)) }
        }));
        let response = router.oneshot(Request::get("/metrics").body(Body::empty()).unwrap()).await.unwrap();
        assert_eq!(response.headers()["content-type"], "text/plain; version=0.0.4; charset=utf-8");
        let text = to_bytes(response.into_body(), usize::MAX).await.unwrap();
        let text = String::from_utf8_lossy(&text);
        for line in
            ["sandbar_test_total 3", "sandbar_test_now 7", "sandbar_test_seconds_bucket{le=\"0.5\"} 1"]
        {
            assert!(text.contains(line), "{line} is not in {text}");
        }
    }
}
