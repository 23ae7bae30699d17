//! What a guest's agent tells its host unasked: one line of JSON through a connection of its own.

use std::time::Duration;

use tokio::io::AsyncReadExt as _;
use tokio::net::TcpListener;

use crate::error::Error;

/// What a push may say, in bytes: one short line.
const MOST_BYTES: u64 = 4096;
/// What of a guest's words may go into the host's log.
const LOGGED_BYTES: usize = 200;
/// A guest's agent says it at once.
const READ_LIMIT: Duration = Duration::from_secs(5);

/// A push.
#[derive(Debug, Clone, PartialEq, Eq, serde::Deserialize)]
pub(crate) struct Push {
    pub(crate) event: Event,
    /// How the agent before this one ended.
    reason: Option<String>,
}

impl Push {
    /// How the agent before this one ended: the guest's words.
    pub(crate) fn reason(&self) -> Option<&str> {
        let reason = self.reason.as_deref()?;
        reason.get(..reason.floor_char_boundary(LOGGED_BYTES))
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Event {
    /// The first agent of a boot serves, or one that knows of no other.
    Ready,
    /// An agent serves in the place of another.
    Restarted,
}

/// The next push. Only the guest can reach the listener; what is no push is passed over.
pub(crate) async fn next(listener: &TcpListener) -> Result<Push, Error> {
    loop {
        let (stream, _) = listener.accept().await.map_err(Error::internal("listen for the guest"))?;
        let mut line = Vec::new();
        let read = tokio::time::timeout(READ_LIMIT, stream.take(MOST_BYTES).read_to_end(&mut line)).await;
        match serde_json::from_slice(&line) {
            Ok(push) if matches!(read, Ok(Ok(_))) => return Ok(push),
            _ => {
                let text = String::from_utf8_lossy(line.get(..LOGGED_BYTES).unwrap_or(&line));
                tracing::debug!(%text, "not a push of the guest's agent");
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::AsyncWriteExt as _;
    use tokio::net::TcpStream;

    use super::*;

    #[tokio::test]
    async fn pushes_are_told_from_other_things_that_a_guest_may_send() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let pushed = r#"{"event":"restarted","boot_id":"b","version":"1","reason":"was killed by signal 9"}"#;
        for line in ["", "{}", r#"{"event":"other"}"#, "not json", pushed] {
            let mut stream = TcpStream::connect(address).await.unwrap();
            stream.write_all(line.as_bytes()).await.unwrap();
        }
        let push = next(&listener).await.unwrap();
        assert_eq!(push, Push { event: Event::Restarted, reason: Some("was killed by signal 9".into()) });
        let mut stream = TcpStream::connect(address).await.unwrap();
        stream.write_all(br#"{"event":"ready","boot_id":"b","version":"1"}"#).await.unwrap();
        drop(stream);
        assert_eq!(next(&listener).await.unwrap(), Push { event: Event::Ready, reason: None });
    }
}
