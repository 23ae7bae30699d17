//! A collector of traces: OTLP over HTTP, as the published protocol has it (`opentelemetry-proto`).

use std::collections::BTreeMap;
use std::sync::Arc;

use axum::body::Bytes;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode, header};
use axum::routing::post;
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::common::v1::KeyValue;
use opentelemetry_proto::tonic::common::v1::any_value::Value;
use opentelemetry_proto::tonic::trace::v1 as otlp;
use prost::Message as _;
use tokio::net::TcpListener;
use tokio::sync::watch;

/// A span as it was received.
#[derive(Debug, Clone)]
pub struct Span {
    /// The name of the process that sent it.
    pub service: String,
    /// Its name.
    pub name: String,
    /// What kind it is.
    pub kind: otlp::span::SpanKind,
    /// Its trace, in hexadecimal digits.
    pub trace: String,
    /// Its id.
    pub id: String,
    /// Its parent's id; empty = it has none.
    pub parent: String,
    /// What it says, as text.
    pub attributes: BTreeMap<String, String>,
    /// Whether it failed.
    pub failed: bool,
    /// What it is linked to: trace and span.
    pub links: Vec<(String, String)>,
}

/// What a collector does with a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Manner {
    /// It takes the spans.
    Takes,
    /// It never answers.
    Hangs,
}

/// A collector. It ends with its runtime.
#[derive(Debug, Clone)]
pub struct Collector {
    url: String,
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    manner: watch::Sender<Manner>,
    spans: watch::Sender<Vec<Span>>,
    requests: watch::Sender<usize>,
}

impl Collector {
    /// Listens on a port of its own.
    pub async fn start() -> std::io::Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let url = format!("http://{}", listener.local_addr()?);
        let inner = Arc::new(Inner {
            manner: watch::Sender::new(Manner::Takes),
            spans: watch::Sender::new(Vec::new()),
            requests: watch::Sender::new(0),
        });
        let router = axum::Router::new().route("/v1/traces", post(take)).with_state(Arc::clone(&inner));
        tokio::spawn(async move { axum::serve(listener, router).await });
        Ok(Self { url, inner })
    }

    /// What `OTEL_EXPORTER_OTLP_ENDPOINT` has to be.
    #[must_use]
    pub fn url(&self) -> &str {
        &self.url
    }

    /// What it does with requests from now on.
    pub fn set_manner(&self, manner: Manner) {
        self.inner.manner.send_replace(manner);
    }

    /// All spans so far.
    #[must_use]
    pub fn spans(&self) -> Vec<Span> {
        self.inner.spans.borrow().clone()
    }

    /// The spans of a trace so far.
    #[must_use]
    pub fn of_trace(&self, trace: &str) -> Vec<Span> {
        self.inner.spans.borrow().iter().filter(|span| span.trace == trace).cloned().collect()
    }

    /// How many requests came so far, taken or not.
    #[must_use]
    pub fn requests(&self) -> usize {
        *self.inner.requests.borrow()
    }

    /// Completes when another request has come than these.
    pub async fn asked_again(&self, before: usize) {
        let mut requests = self.inner.requests.subscribe();
        // The sender is this collector's own.
        let _open = requests.wait_for(|requests| *requests > before).await;
    }
}

async fn take(State(inner): State<Arc<Inner>>, headers: HeaderMap, body: Bytes) -> StatusCode {
    inner.requests.send_modify(|requests| *requests += 1);
    if *inner.manner.borrow() == Manner::Hangs {
        std::future::pending::<()>().await;
    }
    let is_protobuf = headers.get(header::CONTENT_TYPE).is_some_and(|of| of == "application/x-protobuf");
    let Ok(request) = ExportTraceServiceRequest::decode(body) else { return StatusCode::BAD_REQUEST };
    if !is_protobuf {
        return StatusCode::UNSUPPORTED_MEDIA_TYPE;
    }
    let received = request.resource_spans.into_iter().flat_map(|resource| {
        let attributes = resource.resource.map(|resource| texts(&resource.attributes)).unwrap_or_default();
        let service = attributes.get("service.name").cloned().unwrap_or_default();
        let spans = resource.scope_spans.into_iter().flat_map(|scope| scope.spans);
        spans.map(move |span| read(&service, &span))
    });
    inner.spans.send_modify(|spans| spans.extend(received));
    StatusCode::OK
}

fn read(service: &str, span: &otlp::Span) -> Span {
    let failed = span.status.as_ref().is_some_and(|status| status.code() == otlp::status::StatusCode::Error);
    Span {
        service: service.to_owned(),
        name: span.name.clone(),
        kind: span.kind(),
        trace: hex::encode(&span.trace_id),
        id: hex::encode(&span.span_id),
        parent: hex::encode(&span.parent_span_id),
        attributes: texts(&span.attributes),
        failed,
        links: span
            .links
            .iter()
            .map(|link| (hex::encode(&link.trace_id), hex::encode(&link.span_id)))
            .collect(),
    }
}

fn texts(attributes: &[KeyValue]) -> BTreeMap<String, String> {
    let text = |attribute: &KeyValue| {
        let text = match attribute.value.as_ref()?.value.as_ref()? {
            Value::StringValue(text) => text.clone(),
            Value::IntValue(number) => number.to_string(),
            other => format!("{other:?}"),
        };
        Some((attribute.key.clone(), text))
    };
    attributes.iter().filter_map(text).collect()
}
