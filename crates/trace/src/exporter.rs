//! Spans on their way out: OTLP, protocol buffers over HTTP, as OpenTelemetry's own variables of the environment say.
//!
//! A span that has ended goes into a queue with an end, and is dropped where that is full. One thread empties it, a batch at a time, and waits for the
//! collector; nobody else does.

use std::env;
use std::time::Duration;

use async_trait::async_trait;
use bytes::{Bytes, BytesMut};
use opentelemetry::trace::TracerProvider as _;
use opentelemetry::{Key, KeyValue};
use opentelemetry_http::{HttpClient, HttpError, Request, Response};
use opentelemetry_otlp::{SpanExporter, WithHttpConfig as _};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::trace::SdkTracerProvider;
use tokio::runtime::Handle;

use crate::span::turn_on;

/// Either says where spans go, and that they do.
const ENDPOINTS: [&str; 2] = ["OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT"];
/// In milliseconds; the first that is there counts.
const TIMEOUTS: [&str; 2] = ["OTEL_EXPORTER_OTLP_TRACES_TIMEOUT", "OTEL_EXPORTER_OTLP_TIMEOUT"];
const DISABLED: &str = "OTEL_SDK_DISABLED";
const EXPORTER: &str = "OTEL_TRACES_EXPORTER";
const SERVICE_NAME: &str = "service.name";
/// What a service is called whose name nobody said.
const NAMELESS: &str = "unknown_service";
/// A collector that takes longer does not answer, unless the environment says otherwise.
const REQUEST_LIMIT: Duration = Duration::from_secs(10);
/// How much of a collector's answer is of interest.
const ANSWER_BYTES: usize = 64 << 10;
/// How long an end waits for the last spans to be taken.
const FAREWELL: Duration = Duration::from_secs(3);

/// Why there is no trace though one was asked for.
#[derive(Debug, thiserror::Error)]
pub enum ExportError {
    /// There is no HTTP client.
    #[error("no HTTP client for the collector of traces")]
    Client(#[source] reqwest::Error),
    /// The environment says what cannot be.
    #[error("the variables OTEL_* cannot be followed")]
    Settings(#[from] opentelemetry_otlp::ExporterBuildError),
}

/// Sends a process' spans to a collector.
#[derive(Debug)]
#[must_use = "the last spans are sent when it is shut down"]
pub struct Exporter {
    provider: SdkTracerProvider,
}

impl Exporter {
    /// As the environment says; none where it names no collector. `service` is what the process is called where the environment does not say.
    ///
    /// # Errors
    /// If the environment asks for what there is not.
    ///
    /// # Panics
    /// Outside of a Tokio runtime, which sends what there is to send.
    pub fn from_env(service: &'static str) -> Result<Option<Self>, ExportError> {
        let variable = |name: &str| env::var(name).ok();
        if !is_wanted(variable) {
            return Ok(None);
        }
        let courier = Courier::new(request_limit(variable))?;
        let exporter = SpanExporter::builder().with_http().with_http_client(courier).build()?;
        Ok(Some(Self::start(exporter, service)))
    }

    pub(crate) fn start(exporter: SpanExporter, service: &'static str) -> Self {
        let detected = Resource::builder().build();
        let name = detected.get_ref(&Key::new(SERVICE_NAME)).map(|name| name.as_str());
        let is_named = name.is_some_and(|name| !name.starts_with(NAMELESS));
        let resource =
            Resource::builder().with_attribute(KeyValue::new("service.version", env!("CARGO_PKG_VERSION")));
        let resource = if is_named { resource } else { resource.with_service_name(service) };
        let provider = SdkTracerProvider::builder()
            .with_batch_exporter(exporter)
            .with_resource(resource.build())
            .build();
        turn_on(provider.tracer("sandbar"));
        Self { provider }
    }

    /// Sends what has not been sent yet. Blocks, for some seconds at most; the runtime must still run.
    pub fn shut_down(self) {
        if let Err(error) = self.provider.shutdown_with_timeout(FAREWELL) {
            tracing::warn!(%error, "the last spans were not taken");
        }
    }
}

/// Whether the environment names a collector, and does not take that back.
fn is_wanted(variable: impl Fn(&str) -> Option<String>) -> bool {
    let is_set = |name: &str| variable(name).is_some_and(|value| !value.is_empty());
    let disabled = variable(DISABLED).is_some_and(|value| value.eq_ignore_ascii_case("true"));
    let none = variable(EXPORTER).is_some_and(|value| value == "none");
    !disabled && !none && ENDPOINTS.into_iter().any(is_set)
}

fn request_limit(variable: impl Fn(&str) -> Option<String>) -> Duration {
    let told = TIMEOUTS.into_iter().find_map(|name| variable(name)?.parse().ok());
    told.map_or(REQUEST_LIMIT, Duration::from_millis)
}

/// Carries requests on the process' own runtime: the exporter's thread has none.
#[derive(Debug)]
pub(crate) struct Courier {
    http: reqwest::Client,
    runtime: Handle,
}

impl Courier {
    pub(crate) fn new(limit: Duration) -> Result<Self, ExportError> {
        let http = reqwest::Client::builder().timeout(limit).build().map_err(ExportError::Client)?;
        Ok(Self { http, runtime: Handle::current() })
    }
}

#[async_trait]
impl HttpClient for Courier {
    async fn send_bytes(&self, request: Request<Bytes>) -> Result<Response<Bytes>, HttpError> {
        let (http, request) = (self.http.clone(), reqwest::Request::try_from(request)?);
        let sent = self.runtime.spawn(async move {
            let mut response = http.execute(request).await?;
            let mut answer = Response::builder().status(response.status());
            if let Some(headers) = answer.headers_mut() {
                *headers = std::mem::take(response.headers_mut());
            }
            let mut body = BytesMut::new();
            while let Some(chunk) = response.chunk().await? {
                body.extend_from_slice(&chunk);
                if body.len() > ANSWER_BYTES {
                    return Err(opentelemetry_http::ResponseBodyTooLarge::new().into());
                }
            }
            Ok(answer.body(body.freeze())?)
        });
        sent.await?
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_who_names_a_collector_has_traces() {
        let wanted = |variables: &[(&str, &str)]| {
            is_wanted(|name| {
                variables.iter().find(|(of, _)| *of == name).map(|(_, value)| (*value).to_owned())
            })
        };
        let endpoint = ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:4318");
        assert!(wanted(&[endpoint]));
        assert!(wanted(&[("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "http://127.0.0.1:4318/v1/traces")]));
        assert!(wanted(&[endpoint, (DISABLED, "false"), (EXPORTER, "otlp")]));
        assert!(!wanted(&[]));
        assert!(!wanted(&[("OTEL_SERVICE_NAME", "sandbar")]));
        assert!(!wanted(&[("OTEL_EXPORTER_OTLP_ENDPOINT", "")]));
        assert!(!wanted(&[endpoint, (DISABLED, "True")]));
        assert!(!wanted(&[endpoint, (EXPORTER, "none")]));
    }

    #[test]
    fn a_collector_has_the_time_that_the_environment_says() {
        let limit = |variables: &[(&str, &str)]| {
            request_limit(|name| {
                variables.iter().find(|(of, _)| *of == name).map(|(_, value)| (*value).to_owned())
            })
        };
        assert_eq!(limit(&[]), REQUEST_LIMIT);
        assert_eq!(limit(&[(TIMEOUTS[1], "250")]), Duration::from_millis(250));
        assert_eq!(limit(&[(TIMEOUTS[0], "20"), (TIMEOUTS[1], "250")]), Duration::from_millis(20));
        assert_eq!(limit(&[(TIMEOUTS[0], "soon")]), REQUEST_LIMIT);
    }
}
