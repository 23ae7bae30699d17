//! Bounds how long a new connection may stay silent before it has said which HTTP it speaks.
//!
//! HTTP/2 begins with a fixed preface, HTTP/1 with a method. Until the first byte that tells them apart has come, neither
//! protocol's own time limits apply: without this, a client that connects and says nothing (or `P`) would be kept for ever.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Sleep, sleep};

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// A connection whose first bytes have a deadline.
pub(crate) struct FirstBytes<S> {
    stream: S,
    undecided: Option<Undecided>,
}

struct Undecided {
    /// How many bytes have come, all of them the preface's.
    matched: usize,
    deadline: Pin<Box<Sleep>>,
}

impl<S> FirstBytes<S> {
    pub(crate) fn within(limit: Duration, stream: S) -> Self {
        Self { stream, undecided: Some(Undecided { matched: 0, deadline: Box::pin(sleep(limit)) }) }
    }
}

impl Undecided {
    /// Whether it still is, now that `bytes` have come.
    fn goes_on(&mut self, bytes: &[u8]) -> bool {
        let expected = PREFACE.get(self.matched..).unwrap_or_default();
        self.matched += bytes.len();
        bytes.len() < expected.len() && expected.starts_with(bytes)
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for FirstBytes<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        let read = Pin::new(&mut self.stream).poll_read(cx, buffer);
        let Some(undecided) = &mut self.undecided else { return read };
        if read.is_pending() {
            ready!(undecided.deadline.as_mut().poll(cx));
            return Poll::Ready(Err(io::ErrorKind::TimedOut.into()));
        }
        if !undecided.goes_on(buffer.filled().get(before..).unwrap_or_default()) {
            self.undecided = None;
        }
        read
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for FirstBytes<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(cx, bytes)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_first_byte_that_is_not_the_prefaces_decides_and_so_does_its_last() {
        let undecided = || Undecided { matched: 0, deadline: Box::pin(sleep(Duration::MAX)) };
        assert!(!undecided().goes_on(b"GET / HTTP/1.1\r\n"));
        assert!(!undecided().goes_on(PREFACE));
        let (last, but_last) = PREFACE.split_last().unwrap();
        let mut slow = undecided();
        for byte in but_last {
            assert!(slow.goes_on(&[*byte]));
        }
        assert!(!slow.goes_on(&[*last]));
        let mut post = undecided();
        assert!(post.goes_on(b"P"));
        assert!(!post.goes_on(b"OST"));
        // The end of the stream is for its reader to judge.
        let mut ended = undecided();
        assert!(ended.goes_on(b""));
    }
}
