//! `GET /logs?instance=I&after=N`: the log as it comes, lines of JSON.
//!
//! The first line is the [head](GuestLogHead): who tells. Then come the [entries](sandbar_types::log::GuestEntry) after number N, where the
//! caller heard so far of this very instance, else all that there are; then each as it happens, for as long as the caller listens. Numbers
//! that are left out are entries that were thrown out of the ring before they could be told.
//!
//! For the host alone, and also while the guest is sealed: what it says is what the host keeps of this sandbox anyway.

use std::sync::Arc;

use axum::body::Body;
use axum::extract::rejection::QueryRejection;
use axum::extract::{Query, State as Extract};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use futures::{StreamExt as _, stream};
use http::header::CONTENT_TYPE;
use sandbar_types::log::GuestLogHead;
use serde::Deserialize;

use crate::error::ApiError;
use crate::server::Agent;

/// What the caller has.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct Heard {
    instance: String,
    after: u64,
}

/// Handles the route.
pub(crate) async fn handle(
    Extract(agent): Extract<Arc<Agent>>,
    heard: Result<Query<Heard>, QueryRejection>,
) -> Result<Response, ApiError> {
    let Query(heard) = heard.map_err(|error| ApiError::bad_request(error.body_text()))?;
    let log = Arc::clone(agent.processes.log());
    let after = if heard.instance == log.instance { heard.after } else { 0 };
    let mut head = serde_json::to_vec(&GuestLogHead { instance: log.instance.clone() })
        .map_err(|error| ApiError::internal(error.to_string()))?;
    head.push(b'\n');
    let entries = stream::unfold((log, after), |(log, after)| async move {
        let (chunk, last) = log.next(after).await;
        Some((chunk, (log, last)))
    });
    let body =
        stream::once(async { Bytes::from(head) }).chain(entries).map(Ok::<_, std::convert::Infallible>);
    Ok(([(CONTENT_TYPE, "application/x-ndjson")], Body::from_stream(body)).into_response())
}
