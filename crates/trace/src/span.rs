//! Spans, and the header by which a trace gets from one process to the next.

use std::fmt::Display;
use std::sync::OnceLock;

use http::{HeaderMap, HeaderName, HeaderValue, StatusCode};
use opentelemetry::trace::{
    FutureExt as _, Link, SpanContext, SpanKind, Status, TraceContextExt as _, TraceFlags, TraceId,
    TraceState, Tracer as _, WithContext,
};
use opentelemetry::{Context, KeyValue};
use opentelemetry_sdk::trace::SdkTracer;
use sandbar_types::TraceParent;

/// Set where the environment asks for traces, before the process serves anybody. Without it no span is ever made.
static TRACER: OnceLock<SdkTracer> = OnceLock::new();

const TRACE_PARENT: HeaderName = HeaderName::from_static(TraceParent::HEADER);
/// What others keep in a trace. It is handed on as it came.
const TRACE_STATE: HeaderName = HeaderName::from_static("tracestate");
/// What has to be handed on at least, and no more is: it is a stranger's.
const TRACE_STATE_BYTES: usize = 512;

pub(crate) fn turn_on(tracer: SdkTracer) {
    // Who is second has its spans with the first.
    let _first = TRACER.set(tracer);
}

/// A piece of work, from when this is made to when it is dropped. Where nobody traces it is nothing, and costs nothing.
#[derive(Debug)]
#[must_use = "a span ends when it is dropped"]
pub struct Span(Context);

impl Span {
    /// Of answering a request, whoever sent it: goes on with its sender's trace, or begins one.
    pub fn of_request(name: impl Display, headers: &HeaderMap) -> Self {
        Self::begin(SpanKind::Server, name, || Some(sender(headers).unwrap_or_default()))
    }

    /// Of answering a call from another part of the platform: goes on with its caller's trace, and is nothing where there is none.
    pub fn of_answer(name: impl Display, headers: &HeaderMap) -> Self {
        Self::begin(SpanKind::Server, name, || sender(headers))
    }

    /// Of calling another part of the platform: goes on with what is current, and is nothing where nothing is.
    pub fn of_call(name: impl Display) -> Self {
        Self::begin(SpanKind::Client, name, || Some(Context::current()).filter(Context::has_active_span))
    }

    /// Of work that nobody waits for: begins a trace.
    pub fn of_work(name: impl Display) -> Self {
        Self::begin(SpanKind::Internal, name, || Some(Context::new()))
    }

    /// The same, of work that somebody asked for a while ago: its trace has a link to that one.
    pub fn of_work_for(asked_by: Option<TraceParent>, name: impl Display) -> Self {
        let link = asked_by.map(|asked_by| Link::with_context(context_of(asked_by, TraceState::NONE)));
        Self::begin_linked(SpanKind::Internal, name, link, || Some(Context::new()))
    }

    fn begin(kind: SpanKind, name: impl Display, parent: impl FnOnce() -> Option<Context>) -> Self {
        Self::begin_linked(kind, name, None, parent)
    }

    fn begin_linked(
        kind: SpanKind,
        name: impl Display,
        link: Option<Link>,
        parent: impl FnOnce() -> Option<Context>,
    ) -> Self {
        let begun = TRACER.get().and_then(|tracer| {
            let parent = parent()?;
            let span = tracer.span_builder(name.to_string()).with_kind(kind);
            let span = span.with_links(link.into_iter().collect());
            Some(parent.with_span(span.start_with_context(tracer, &parent)))
        });
        Self(begun.unwrap_or_default())
    }

    /// Does work as a part of this.
    pub fn run<F: Future>(&self, work: F) -> WithContext<F> {
        work.with_context(self.0.clone())
    }

    /// Tells whoever is sent a request what it is part of.
    pub fn carry(&self, headers: &mut HeaderMap) {
        let span = self.0.span();
        let context = span.span_context();
        if !context.is_valid() {
            return;
        }
        let parent = parent_of(context);
        let state = context.trace_state().header();
        for (name, value) in [(TRACE_PARENT, parent.to_string()), (TRACE_STATE, state)] {
            if let Ok(value) = HeaderValue::try_from(value)
                && !value.is_empty()
            {
                headers.insert(name, value);
            }
        }
    }

    /// The trace's id, for the log.
    #[must_use]
    pub fn trace_id(&self) -> Option<TraceId> {
        let span = self.0.span();
        Some(span.span_context()).filter(|context| context.is_valid()).map(SpanContext::trace_id)
    }

    /// Says something about the work.
    pub fn set(&self, name: &'static str, value: impl Display) {
        set(&self.0, name, value);
    }

    /// The request has this answer.
    pub fn answered(&self, status: StatusCode) {
        if !self.0.has_active_span() {
            return;
        }
        let span = self.0.span();
        span.set_attribute(KeyValue::new("http.response.status_code", i64::from(status.as_u16())));
        if status.is_server_error() {
            span.set_status(Status::error(""));
        }
    }

    /// The work failed: one word of why.
    pub fn failed(&self, why: &'static str) {
        if self.0.has_active_span() {
            let span = self.0.span();
            span.set_attribute(KeyValue::new("error.type", why));
            span.set_status(Status::error(""));
        }
    }
}

impl Drop for Span {
    fn drop(&mut self) {
        self.0.span().end();
    }
}

/// Says something about the work that is being done.
pub fn note(name: &'static str, value: impl Display) {
    Context::map_current(|context| set(context, name, value));
}

/// The work that is being done, for what is done of it later; none where no collector is told of it.
#[must_use]
pub fn current() -> Option<TraceParent> {
    Context::map_current(|context| {
        let span = context.span();
        Some(span.span_context()).filter(|context| context.is_valid() && context.is_sampled()).map(parent_of)
    })
}

fn parent_of(context: &SpanContext) -> TraceParent {
    TraceParent {
        trace: u128::from_be_bytes(context.trace_id().to_bytes()),
        span: u64::from_be_bytes(context.span_id().to_bytes()),
        sampled: context.is_sampled(),
    }
}

fn context_of(TraceParent { trace, span, sampled }: TraceParent, state: TraceState) -> SpanContext {
    let flags = TraceFlags::default().with_sampled(sampled);
    SpanContext::new(trace.into(), span.into(), flags, true, state)
}

fn set(context: &Context, name: &'static str, value: impl Display) {
    let span = context.span();
    if span.span_context().is_sampled() {
        span.set_attribute(KeyValue::new(name, value.to_string()));
    }
}

/// What a request's sender says that it is part of.
fn sender(headers: &HeaderMap) -> Option<Context> {
    let mut said = headers.get_all(TRACE_PARENT).iter();
    // Two contradict each other.
    let (Some(parent), None) = (said.next(), said.next()) else { return None };
    let parent = TraceParent::read(parent.as_bytes())?;
    let state = headers.get(TRACE_STATE).filter(|value| value.len() <= TRACE_STATE_BYTES);
    let state = state.and_then(|value| value.to_str().ok()?.parse::<TraceState>().ok()).unwrap_or_default();
    Some(Context::new().with_remote_span_context(context_of(parent, state)))
}
