//! What the WebSockets of a sandbox's commands and terminals have in common: JSON texts both ways, and a client that may be gone.

use std::time::Duration;

use axum::extract::ws::{Message, WebSocket};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use futures::StreamExt as _;
use futures::stream::SplitStream;
use sandbar_types::ErrorCode;
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::time::{Instant, Interval, interval_at, timeout};

use super::exec::Encoding;
use super::liveness::Liveness;
use crate::error::ApiError;

/// Largest message of a client.
pub(super) const MESSAGE_BYTES: usize = 1 << 20;
/// How long the client may take to say what to run.
const START_LIMIT: Duration = Duration::from_secs(30);
/// How often the client is asked whether it is still there: its TCP connection may be dead without a word, and proxies cut
/// silent ones.
const PING_INTERVAL: Duration = Duration::from_secs(20);
/// A client that has read all that it was sent, and then not even answered a ping for this long, is gone.
const SILENCE_LIMIT: Duration = Duration::from_secs(60);

/// When to ping.
pub(super) fn pings() -> Interval {
    interval_at(Instant::now() + PING_INTERVAL, PING_INTERVAL)
}

/// The client's first message. None: it left first.
pub(super) async fn first<T: DeserializeOwned>(
    source: &mut SplitStream<WebSocket>,
) -> Result<Option<T>, ApiError> {
    timeout(START_LIMIT, next(source, &Liveness::default()))
        .await
        .map_err(|_| ApiError::new(ErrorCode::Timeout, "no start message came"))?
}

/// The client's next message. None: it left, or must have.
pub(super) async fn next<T: DeserializeOwned>(
    source: &mut SplitStream<WebSocket>,
    liveness: &Liveness,
) -> Result<Option<T>, ApiError> {
    loop {
        let message = match timeout(SILENCE_LIMIT, source.next()).await {
            Ok(Some(Ok(message))) => message,
            Ok(Some(Err(_)) | None) => return Ok(None),
            Err(_) if liveness.has_read_all() => return Ok(None),
            Err(_) => continue,
        };
        let message = match message {
            Message::Text(text) => text,
            Message::Pong(payload) => {
                liveness.pong(&payload);
                continue;
            }
            Message::Ping(_) => continue,
            Message::Close(_) => return Ok(None),
            Message::Binary(_) => return Err(ApiError::invalid("messages are JSON texts")),
        };
        return serde_json::from_str(&message)
            .map(Some)
            .map_err(|error| ApiError::invalid(format!("not a valid message: {error}")));
    }
}

/// A message to the client.
pub(super) fn text(message: &impl Serialize) -> Message {
    // Strings, numbers and words: this cannot fail.
    Message::Text(serde_json::to_string(message).unwrap_or_default().into())
}

/// The bytes that a client sends as text.
pub(super) fn decode(data: String, encoding: Encoding) -> Result<Bytes, ApiError> {
    match encoding {
        Encoding::Utf8 => Ok(data.into()),
        Encoding::Base64 => {
            STANDARD.decode(data).map(Bytes::from).map_err(|_| ApiError::invalid("data is not valid base64"))
        }
    }
}
