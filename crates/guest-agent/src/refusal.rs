//! Of a request that is refused early, the rest is read and dropped, within bounds, before the answer goes out.
//!
//! A server that stops reading an HTTP/1.1 request has to end the connection. A client that is still sending then sees a broken
//! pipe where the refusal should be, and the next request on a connection that it keeps is lost.

use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use axum::body::Body;
use axum::extract::Request;
use axum::middleware::Next;
use axum::response::Response;
use bytes::Bytes;
use futures::StreamExt;
use http_body::{Frame, SizeHint};
use tokio::sync::oneshot;
use tokio::time::timeout;

/// Past these, the end of the connection is the answer.
const MOST_BYTES: usize = 64 << 20;
const LONGEST: Duration = Duration::from_secs(10);

/// The layer.
pub(crate) async fn hear_out(request: Request, next: Next) -> Response {
    let (parts, body) = request.into_parts();
    let (owner, mut unread) = oneshot::channel();
    // Who waits to be told to go on is told by the answer not to.
    let owner = (!parts.headers.contains_key(http::header::EXPECT)).then_some(owner);
    let lent = Body::new(Lent { body, owner });
    let response = next.run(Request::from_parts(parts, lent)).await;
    let status = response.status();
    if (status.is_client_error() || status.is_server_error())
        && let Ok(body) = unread.try_recv()
    {
        hear(body).await;
    }
    response
}

async fn hear(body: Body) {
    let mut chunks = body.into_data_stream();
    let listening = async {
        let mut heard = 0;
        while let Some(Ok(chunk)) = chunks.next().await {
            heard += chunk.len();
            if heard > MOST_BYTES {
                break;
            }
        }
    };
    // The answer goes out either way.
    let _ = timeout(LONGEST, listening).await;
}

/// A body that comes back when its reader lets go of it too early.
struct Lent {
    body: Body,
    owner: Option<oneshot::Sender<Body>>,
}

impl http_body::Body for Lent {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        Pin::new(&mut self.body).poll_frame(context)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

impl Drop for Lent {
    fn drop(&mut self) {
        if let Some(owner) = self.owner.take()
            && !http_body::Body::is_end_stream(&self.body)
        {
            // Nobody waits for it after the answer.
            let _ = owner.send(std::mem::take(&mut self.body));
        }
    }
}
