//! Requests that are part of a trace are logged with its id, so that one id leads from the platform's API to the sandbox's console. The agent sends
//! no spans: a guest reaches no collector, and is not believed.

use std::time::Instant;

use axum::extract::Request;
use axum::middleware::Next;
use axum::response::Response;
use http::HeaderMap;
use sandbar_types::TraceParent;

/// The layer. Of other requests nothing is written: a console is slow, and kept within bounds.
pub(crate) async fn log(request: Request, next: Next) -> Response {
    let Some(trace) = kept_trace(request.headers()) else { return next.run(request).await };
    let (method, path) = (request.method().clone(), request.uri().path().to_owned());
    let begun = Instant::now();
    let response = next.run(request).await;
    tracing::info!(%trace, %method, path, status = response.status().as_u16(), took = ?begun.elapsed(), "answered");
    response
}

/// The id of the trace that a request is part of, if somebody keeps it.
fn kept_trace(headers: &HeaderMap) -> Option<String> {
    let parent = TraceParent::read(headers.get(TraceParent::HEADER)?.as_bytes())?;
    parent.sampled.then(|| format!("{:032x}", parent.trace))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_kept_somewhere_has_an_id() {
        let (trace, span) = ("4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7");
        let told = |value: &str| {
            kept_trace(
                &[(TraceParent::HEADER.parse().unwrap(), value.parse().unwrap())].into_iter().collect(),
            )
        };
        assert_eq!(told(&format!("00-{trace}-{span}-01")).as_deref(), Some(trace));
        assert_eq!(told(&format!("00-{trace}-{span}-00")), None);
        assert_eq!(told("00-\"; rm-x-01"), None);
        assert_eq!(kept_trace(&HeaderMap::new()), None);
    }
}
