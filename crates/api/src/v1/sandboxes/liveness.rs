//! Whether a client that says nothing is gone, or only has not come to read what it was sent.
//!
//! A client that is held up (its own output is a pipe that nobody empties) reads nothing, and so answers no ping: the answer
//! would come after the output that waits before it. It must not be taken for dead. So each ping carries how much output was
//! sent before it, and the answer, which repeats it, tells how far the client has read. One that has read everything and still
//! answers nothing is gone. One that has not is left to TCP, which asks the other machine, not the program.

use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;

/// Shared by the two directions of one session.
#[derive(Debug, Default)]
pub(super) struct Liveness {
    sent: AtomicU64,
    read: AtomicU64,
}

impl Liveness {
    /// Output was sent.
    pub(super) fn sent(&self) {
        self.sent.fetch_add(1, Ordering::Relaxed);
    }

    /// What the next ping carries.
    pub(super) fn ping(&self) -> Bytes {
        Bytes::copy_from_slice(&self.sent.load(Ordering::Relaxed).to_be_bytes())
    }

    /// A ping was answered. Clients may send such answers unasked, with anything in them: those tell nothing.
    pub(super) fn pong(&self, payload: &[u8]) {
        if let Ok(bytes) = payload.try_into() {
            self.read.store(u64::from_be_bytes(bytes), Ordering::Relaxed);
        }
    }

    /// Whether all that was sent has been read, so that silence means that nobody is there.
    pub(super) fn has_read_all(&self) -> bool {
        self.read.load(Ordering::Relaxed) == self.sent.load(Ordering::Relaxed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn silence_counts_only_once_everything_was_read() {
        let liveness = Liveness::default();
        assert!(liveness.has_read_all());
        let before = liveness.ping();
        liveness.sent();
        // The answer to a ping that went before the output says nothing about the output.
        liveness.pong(&before);
        assert!(!liveness.has_read_all());
        let after = liveness.ping();
        for unasked in [b"".as_slice(), b"x", b"more than eight bytes"] {
            liveness.pong(unasked);
        }
        assert!(!liveness.has_read_all());
        liveness.pong(&after);
        assert!(liveness.has_read_all());
    }
}
