//! The agent's own figures, for its `/metrics`: calls of the control plane, sandboxes by state, the warm pool. A call that
//! is part of a trace is a span of it.
//!
//! What the sandboxes use is not among them: that is theirs, and asked for by their ids.

use std::time::{Duration, Instant};

use connectrpc::interceptor::{StreamRequest, StreamResponse, UnaryRequest, UnaryResponse};
use connectrpc::{ConnectError, Interceptor, Next, NextStream, PayloadStream, RequestContext};
use sandbar_trace::Span;
use tracing::Instrument as _;

use crate::registry::Registry;
use crate::resources::Resources;
use crate::sandbox::State;

/// Time between two looks at what there is.
pub(super) const EVERY: Duration = Duration::from_secs(5);

/// Measures and traces each call, until its answer is there or, of a stream, begins.
pub(crate) struct Calls;

#[connectrpc::async_trait]
impl Interceptor for Calls {
    async fn intercept_unary(
        &self,
        request: UnaryRequest,
        next: Next<'_>,
    ) -> Result<UnaryResponse, ConnectError> {
        let call = Call::begin(&request.ctx);
        let answer = call.span.run(next.run(request)).instrument(call.log.clone()).await;
        call.end(answer.as_ref().err());
        answer
    }

    async fn intercept_streaming(
        &self,
        request: StreamRequest,
        inbound: PayloadStream,
        next: NextStream<'_>,
    ) -> Result<StreamResponse, ConnectError> {
        let call = Call::begin(&request.ctx);
        let answer = call.span.run(next.run(request, inbound)).instrument(call.log.clone()).await;
        call.end(answer.as_ref().err());
        answer
    }
}

struct Call {
    rpc: String,
    begun: Instant,
    span: Span,
    log: tracing::Span,
}

impl Call {
    fn begin(context: &RequestContext) -> Self {
        let rpc = context.path().and_then(|path| path.rsplit('/').next()).unwrap_or_default().to_owned();
        let span = Span::of_answer(&rpc, context.headers());
        let log = span
            .trace_id()
            .map_or_else(tracing::Span::none, |trace| tracing::info_span!("call", rpc, %trace));
        Self { rpc, begun: Instant::now(), span, log }
    }

    fn end(self, error: Option<&ConnectError>) {
        let outcome = error.map_or("ok", |error| error.code.as_str());
        if error.is_some() {
            self.span.failed(outcome);
        }
        metrics::histogram!("sandbar_agent_rpc_seconds", "rpc" => self.rpc, "outcome" => outcome)
            .record(self.begun.elapsed());
    }
}

/// Brings the gauges up to date.
pub(super) fn record(registry: &Registry, resources: &Resources) {
    let states: Vec<State> = registry.all().iter().map(|handle| handle.view().state).collect();
    let counts = resources.spares.counts();
    record_counts(&states, counts.spares, (counts.hits, counts.misses));
}

#[expect(clippy::cast_precision_loss, reason = "no host has 2^53 sandboxes")]
fn record_counts(states: &[State], spares: usize, (hits, misses): (u64, u64)) {
    for (word, state) in [
        ("starting", State::Starting),
        ("running", State::Running),
        ("pausing", State::Pausing),
        ("paused", State::Paused),
        ("resuming", State::Resuming),
        ("stopping", State::Stopping),
        ("stopped", State::Stopped),
    ] {
        let count = states.iter().filter(|of| **of == state).count();
        metrics::gauge!("sandbar_agent_sandboxes", "state" => word).set(count as f64);
    }
    metrics::gauge!("sandbar_agent_warm_spares").set(spares as f64);
    metrics::counter!("sandbar_agent_warm_claims_total", "outcome" => "hit").absolute(hits);
    metrics::counter!("sandbar_agent_warm_claims_total", "outcome" => "miss").absolute(misses);
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use metrics_exporter_prometheus::PrometheusBuilder;

    use super::*;

    /// `crates/api` does the same for the control plane.
    #[test]
    fn every_figure_of_the_agent_is_documented_and_there() {
        let recorder = PrometheusBuilder::new().build_recorder();
        let call = || {
            let span = Span::of_answer("Exec", &http::HeaderMap::new());
            Call { rpc: "Exec".to_owned(), begun: Instant::now(), span, log: tracing::Span::none() }
        };
        metrics::with_local_recorder(&recorder, || {
            record_counts(&[State::Running, State::Running, State::Paused], 3, (5, 7));
            call().end(None);
            let late = ConnectError::deadline_exceeded("late");
            call().end(Some(&late));
        });
        let text = recorder.handle().render();
        let told: BTreeSet<&str> =
            text.lines().filter_map(|line| line.strip_prefix("# TYPE ")?.split(' ').next()).collect();
        let (_, table) = include_str!("../../../../docs/metrics.md").split_once("## A host agent\n").unwrap();
        let documented: BTreeSet<&str> =
            table.lines().filter_map(|line| line.strip_prefix("| `")?.split('`').next()).collect();
        assert_eq!(told, documented);
        for line in [
            "sandbar_agent_sandboxes{state=\"running\"} 2",
            "sandbar_agent_sandboxes{state=\"pausing\"} 0",
            "sandbar_agent_warm_spares 3",
            "sandbar_agent_warm_claims_total{outcome=\"miss\"} 7",
            "sandbar_agent_rpc_seconds_count{rpc=\"Exec\",outcome=\"deadline_exceeded\"} 1",
        ] {
            assert!(text.contains(line), "{line} is not in {text}");
        }
    }
}
