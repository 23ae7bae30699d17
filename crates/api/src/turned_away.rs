//! Connections above the limit: each is told so and closed, so that a client knows at once, and does not wait for one that may never end.

use std::sync::Arc;
use std::time::Duration;

use sandbar_types::ErrorCode;
use serde_json::json;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::sync::Semaphore;
use tokio::time::timeout;
use uuid::Uuid;

/// Connections that are told at the same time; others are closed without a word.
const AT_ONCE: usize = 64;
/// How long a client may take to hear it.
const PATIENCE: Duration = Duration::from_secs(2);
/// How much of what a client sends meanwhile is read: closing a connection with something unread in it would take the answer back.
const READ_BYTES: u64 = 64 << 10;

/// See the module.
#[derive(Debug, Clone)]
pub(crate) struct TurnedAway(Arc<Semaphore>);

impl Default for TurnedAway {
    fn default() -> Self {
        Self(Arc::new(Semaphore::new(AT_ONCE)))
    }
}

impl TurnedAway {
    pub(crate) fn send(&self, mut stream: TcpStream) {
        metrics::counter!("sandbar_http_connections_turned_away_total").increment(1);
        let Ok(place) = Arc::clone(&self.0).try_acquire_owned() else { return };
        tokio::spawn(async move {
            let _place = place;
            let told = async {
                stream.write_all(answer(Uuid::now_v7()).as_bytes()).await?;
                stream.shutdown().await?;
                tokio::io::copy(&mut stream.take(READ_BYTES), &mut tokio::io::sink()).await
            };
            // Who does not listen misses nothing.
            let _ = timeout(PATIENCE, told).await;
        });
    }
}

/// In the form of every other refusal.
fn answer(id: Uuid) -> String {
    let message = "the server has all the connections that it takes: try again in a moment";
    let body =
        json!({"error": {"code": ErrorCode::RateLimited, "message": message, "request_id": id}}).to_string();
    format!(
        "HTTP/1.1 503 Service Unavailable\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\
         Retry-After: 1\r\nCache-Control: no-store\r\nX-Request-Id: {id}\r\nConnection: close\r\n\r\n{body}",
        body.len()
    )
}
