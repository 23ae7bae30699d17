//! What surrounds every request: an id, a log span, a span of a trace, metrics, error bodies, headers, and a bound on idle bodies.

use std::any::Any;
use std::time::{Duration, Instant};

use axum::body::Body;
use axum::extract::{FromRequestParts, MatchedPath, Request};
use axum::http::request::Parts;
use axum::http::{HeaderMap, HeaderName, HeaderValue, Method, Response, header};
use axum::middleware::Next;
use axum::response::IntoResponse;
use sandbar_trace::Span;
use sandbar_types::ErrorCode;
use tower_http::timeout::TimeoutBody;
use tracing::Instrument as _;
use uuid::Uuid;

use crate::error::ApiError;

/// The request's id, both ways.
pub(crate) const X_REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
/// A client that sends nothing of its body for this long is cut off.
const BODY_IDLE: Duration = Duration::from_secs(60);

/// The request's id: the client's, where it sent a UUID, else one of ours.
#[derive(Debug, Clone, Copy)]
pub(crate) struct RequestId(pub(crate) Uuid);

impl RequestId {
    fn of(headers: &HeaderMap) -> Self {
        let given = headers.get(X_REQUEST_ID).and_then(|value| value.to_str().ok());
        Self(given.and_then(|text| Uuid::try_parse(text).ok()).unwrap_or_else(Uuid::now_v7))
    }
}

impl<S: Sync> FromRequestParts<S> for RequestId {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, _state: &S) -> Result<Self, ApiError> {
        // Set by `surround`, which wraps every route.
        Ok(parts.extensions.get().copied().unwrap_or_else(|| Self::of(&parts.headers)))
    }
}

/// The outermost layer.
pub(crate) async fn surround(mut request: Request, next: Next) -> Response<Body> {
    let started = Instant::now();
    let id = RequestId::of(request.headers());
    request.extensions_mut().insert(id);
    let request = request.map(|body| Body::new(TimeoutBody::new(BODY_IDLE, body)));
    let method = request.method().clone();
    let route = request.extensions().get::<MatchedPath>().cloned();
    let route = route.as_ref().map_or("unmatched", MatchedPath::as_str).to_owned();
    let trace = Span::of_request(format_args!("{} {route}", label(&method)), request.headers());
    trace.set("http.request.method", label(&method));
    trace.set("http.route", &route);
    trace.set("sandbar.request.id", id.0);
    let trace_id = trace.trace_id().map(tracing::field::display);
    let span = tracing::info_span!("request", id = %id.0, trace = trace_id, %method, route);

    let response = trace.run(async {
        let mut response = next.run(request).await;
        if let Some(error) = response.extensions_mut().remove::<ApiError>() {
            error.log();
            let given = std::mem::take(response.headers_mut());
            response = error.render(id.0);
            // What was said beside the refusal stays: the methods that there are, and a cookie that is taken back.
            for name in [header::ALLOW, header::SET_COOKIE] {
                if let Some(value) = given.get(&name) {
                    response.headers_mut().insert(name, value.clone());
                }
            }
        }
        tracing::debug!(status = response.status().as_u16(), elapsed = ?started.elapsed(), "answered");
        response
    });
    let response = response.instrument(span).await;
    trace.answered(response.status());

    let labels = [
        ("method", label(&method).to_owned()),
        ("route", route),
        ("status", response.status().as_u16().to_string()),
    ];
    metrics::histogram!("sandbar_http_request_seconds", &labels).record(started.elapsed());
    finish(response, id)
}

/// A client may call its methods anything: their number in the figures must not grow with that.
fn label(method: &Method) -> &str {
    match method.as_str() {
        known @ ("GET" | "HEAD" | "POST" | "PUT" | "PATCH" | "DELETE" | "OPTIONS") => known,
        _ => "other",
    }
}

/// The headers of every answer. A route may have set stricter or looser ones of its own.
fn finish(mut response: Response<Body>, id: RequestId) -> Response<Body> {
    let headers = response.headers_mut();
    if let Ok(value) = HeaderValue::from_str(&id.0.to_string()) {
        headers.insert(X_REQUEST_ID, value);
    }
    for (name, value) in [
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (header::X_FRAME_OPTIONS, "DENY"),
        (header::REFERRER_POLICY, "no-referrer"),
        (header::CONTENT_SECURITY_POLICY, "default-src 'none'; frame-ancestors 'none'"),
        (header::CACHE_CONTROL, "no-store"),
    ] {
        headers.entry(name).or_insert(HeaderValue::from_static(value));
    }
    response
}

/// A handler that panicked: a fault of ours like any other.
pub(crate) fn panicked(panic: Box<dyn Any + Send>) -> Response<Body> {
    let what = match panic.downcast::<String>() {
        Ok(text) => *text,
        Err(panic) => panic
            .downcast::<&str>()
            .map_or_else(|_| "of an unknown kind".to_owned(), |text| (*text).to_owned()),
    };
    ApiError::from_typed(ErrorCode::InternalError, HandlerPanicked(what)).into_response()
}

#[derive(Debug, thiserror::Error)]
#[error("a handler panicked: {0}")]
struct HandlerPanicked(String);

/// No such route.
pub(crate) async fn no_route(request: Request) -> ApiError {
    ApiError::new(ErrorCode::NotFound, format!("there is nothing at {}", request.uri().path()))
}

/// The route exists, for other methods.
pub(crate) async fn no_method(request: Request) -> ApiError {
    ApiError::method_not_allowed(format!(
        "{} takes other methods than {}: see the header Allow",
        request.uri().path(),
        request.method()
    ))
}

#[cfg(test)]
mod tests {
    use axum::Router;
    use axum::body::to_bytes;
    use axum::middleware::from_fn;
    use axum::routing::get;
    use tower::ServiceExt as _;
    use tower_http::catch_panic::CatchPanicLayer;

    use super::*;

    #[tokio::test]
    async fn a_handler_that_panics_answers_500_with_the_id_and_without_a_word_of_why() {
        async fn broken() -> &'static str {
            panic!("a secret detail")
        }
        let router = Router::new()
            .route("/broken", get(broken))
            .layer(CatchPanicLayer::custom(panicked))
            .layer(from_fn(surround));
        let request = Request::get("/broken").body(Body::empty()).unwrap();
        let response = router.oneshot(request).await.unwrap();
        assert_eq!(response.status(), 500);
        let id = response.headers()[&X_REQUEST_ID].to_str().unwrap().to_owned();
        let body = to_bytes(response.into_body(), usize::MAX).await.unwrap();
        let body: serde_json::Value = serde_json::from_slice(&body).unwrap();
        assert_eq!(body["error"]["code"], "internal_error");
        assert_eq!(body["error"]["request_id"], id);
        assert!(!body.to_string().contains("secret"));
    }
}
