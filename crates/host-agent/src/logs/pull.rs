//! The connection over which a running guest's agent tells its log. It says something when there is something to say, so nothing is polled;
//! a connection that breaks (the agent in the guest was started again, the guest was sealed) is made anew.
//!
//! What a guest may say is bounded by not reading more: then its agent waits, and throws out what is oldest. Its numbers tell how much.

use std::sync::Arc;
use std::time::Duration;

use http_body_util::BodyExt as _;
use hyper::body::Incoming;
use sandbar_types::log::{GuestEntry, GuestLogHead};
use tokio::time::Instant;
use tokio_util::sync::{CancellationToken, DropGuard};

use super::{Draft, Log};
use crate::error::{Error, chain};
use crate::guest::{GuestClient, LogStream};

/// The longest line that an agent of ours says, and the longest name that it has.
const LINE_BYTES: usize = 128 << 10;
const INSTANCE_BYTES: usize = 64;
/// What a guest may say at once, and each second after that.
const BURST: f64 = 1024.0 * 1024.0;
const PER_SECOND: f64 = 64.0 * 1024.0;
/// Between two connections, growing with each that brought nothing.
const FIRST_WAIT: Duration = Duration::from_millis(500);
const LAST_WAIT: Duration = Duration::from_secs(60);

/// Hears one guest. Dropped, it ends.
#[derive(Debug)]
pub(crate) struct Pull {
    _stop: DropGuard,
}

impl Pull {
    pub(crate) fn start(log: Arc<Log>, guest: GuestClient) -> Self {
        let stop = CancellationToken::new();
        let stopped = stop.clone();
        tokio::spawn(async move { stopped.run_until_cancelled(keep_hearing(&log, &guest)).await });
        Self { _stop: stop.drop_guard() }
    }
}

async fn keep_hearing(log: &Arc<Log>, guest: &GuestClient) {
    let mut pace = Pace::new();
    let mut wait = FIRST_WAIT;
    loop {
        let before = Instant::now();
        match hear(log, guest, &mut pace).await {
            Ok(Outcome::Ended) => {}
            Ok(Outcome::Mute) => {
                tracing::debug!(sandbox = %log.id, "its guest's agent is of a version that has no log");
                return;
            }
            Err(error) => {
                tracing::debug!(sandbox = %log.id, error = chain(&error), "its guest is not heard now");
            }
        }
        wait = if before.elapsed() > LAST_WAIT { FIRST_WAIT } else { (wait * 2).min(LAST_WAIT) };
        tokio::time::sleep(wait).await;
    }
}

enum Outcome {
    /// The connection ended.
    Ended,
    /// There is nothing to hear, now or later.
    Mute,
}

/// One connection, from its beginning to its end.
async fn hear(log: &Arc<Log>, guest: &GuestClient, pace: &mut Pace) -> Result<Outcome, Error> {
    let heard = log.heard().await?;
    let body = match guest.log(heard.as_ref()).await? {
        LogStream::Open(body) => body,
        LogStream::Mute => return Ok(Outcome::Mute),
    };
    let mut pieces = Pieces { body, rest: Vec::new() };
    let mut teller: Option<String> = None;
    let mut last = 0;
    while let Some(piece) = pieces.next().await? {
        pace.spend(piece.len()).await;
        let mut drafts = Vec::new();
        for line in piece.split(|byte| *byte == b'\n').filter(|line| !line.is_empty()) {
            let Some(instance) = &teller else {
                let GuestLogHead { instance } = serde_json::from_slice(line).map_err(|_| nonsense())?;
                if instance.len() > INSTANCE_BYTES {
                    return Err(nonsense());
                }
                last = heard.as_ref().filter(|heard| heard.instance == instance).map_or(0, |heard| heard.seq);
                teller = Some(instance);
                continue;
            };
            let entry: GuestEntry = serde_json::from_slice(line).map_err(|_| nonsense())?;
            let missed = entry.seq.saturating_sub(last).saturating_sub(1);
            if last > 0 && missed > 0 {
                drafts.push(Draft::missed(missed));
            }
            last = entry.seq;
            drafts.push(Draft::of_guest(entry, instance));
        }
        if !drafts.is_empty() {
            log.append(drafts).await;
        }
    }
    Ok(Outcome::Ended)
}

fn nonsense() -> Error {
    Error::GuestUnreachable("what it tells is no log".into())
}

/// Whole lines as they come.
struct Pieces {
    body: Incoming,
    /// A line that is not complete.
    rest: Vec<u8>,
}

impl Pieces {
    /// One or more whole lines; none where the connection has ended.
    async fn next(&mut self) -> Result<Option<Vec<u8>>, Error> {
        while let Some(frame) = self.body.frame().await {
            let frame = frame.map_err(|error| Error::GuestUnreachable(chain(&error)))?;
            let Ok(data) = frame.into_data() else { continue };
            self.rest.extend_from_slice(&data);
            if let Some(end) = self.rest.iter().rposition(|byte| *byte == b'\n') {
                let rest = self.rest.split_off(end + 1);
                return Ok(Some(std::mem::replace(&mut self.rest, rest)));
            }
            if self.rest.len() > LINE_BYTES {
                return Err(nonsense());
            }
        }
        Ok(None)
    }
}

/// How fast a guest is listened to.
struct Pace {
    left: f64,
    at: Instant,
}

impl Pace {
    fn new() -> Self {
        Self { left: BURST, at: Instant::now() }
    }

    /// Waits until as much as that may have come.
    async fn spend(&mut self, bytes: usize) {
        let now = Instant::now();
        let since = now.duration_since(self.at).as_secs_f64();
        let bytes = f64::from(u32::try_from(bytes).unwrap_or(u32::MAX));
        self.left = since.mul_add(PER_SECOND, self.left).min(BURST) - bytes;
        self.at = now;
        if self.left < 0.0 {
            tokio::time::sleep(Duration::from_secs_f64(-self.left / PER_SECOND)).await;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use sandbar_types::Id;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::net::{TcpListener, TcpStream};

    use super::*;
    use crate::logs::{Entry, Filter};

    const HEAD: &str = "HTTP/1.1 200 OK\r\nconnection: close\r\n\r\n";

    /// A guest whose every connection is for the test to answer: what it was asked, and its end of it.
    struct Guest(TcpListener);

    impl Guest {
        async fn new() -> (Self, GuestClient) {
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            let port = listener.local_addr().unwrap().port();
            (Self(listener), GuestClient::on_port(Ipv4Addr::LOCALHOST, port, "token".into()))
        }

        async fn asked(&self) -> (TcpStream, String) {
            let (mut stream, _) = self.0.accept().await.unwrap();
            let mut head = Vec::new();
            while !head.ends_with(b"\r\n\r\n") {
                head.push(stream.read_u8().await.unwrap());
            }
            let head = String::from_utf8(head).unwrap();
            (stream, head.lines().next().unwrap().to_owned())
        }
    }

    fn entry(seq: u64) -> String {
        format!(
            "{}\n",
            serde_json::json!({
                "seq": seq, "unix_ms": 1, "level": "info", "event": "output", "message": format!("line {seq}")
            })
        )
    }

    async fn until(log: &Arc<Log>, message: &str) -> Vec<Entry> {
        let mut follower = log.follow(Filter::default(), 0);
        let mut all = Vec::new();
        while !all.iter().any(|entry: &Entry| entry.message == message) {
            all.extend(follower.next().await.unwrap().unwrap());
        }
        all
    }

    #[tokio::test]
    async fn a_connection_that_breaks_is_made_anew_and_goes_on_where_it_was() {
        let folder = tempfile::tempdir().unwrap();
        let log = Log::new(Id::new(), folder.path().join("logs"));
        let (guest, client) = Guest::new().await;
        let _pull = Pull::start(Arc::clone(&log), client);
        let (mut stream, asked) = guest.asked().await;
        assert_eq!(asked, "GET /logs HTTP/1.1");
        let told = format!("{HEAD}{{\"instance\":\"a\"}}\n{}{}", entry(1), entry(2));
        // In two pieces, and cut in the middle of a third entry.
        stream.write_all(&told.as_bytes()[..80]).await.unwrap();
        stream.write_all(&told.as_bytes()[80..]).await.unwrap();
        stream.write_all(b"{\"seq\":3").await.unwrap();
        until(&log, "line 2").await;
        drop(stream);
        let (mut stream, asked) = guest.asked().await;
        assert_eq!(asked, "GET /logs?instance=a&after=2 HTTP/1.1");
        // The guest threw two away.
        let told = format!("{HEAD}{{\"instance\":\"a\"}}\n{}", entry(5));
        stream.write_all(told.as_bytes()).await.unwrap();
        let all = until(&log, "line 5").await;
        let messages: Vec<_> = all.iter().map(|entry| entry.message.as_str()).collect();
        let missed = "2 entries of the guest are not in the log: they came too fast";
        assert_eq!(messages, ["line 1", "line 2", missed, "line 5"]);
        drop(stream);
        // Another agent counts anew.
        let (mut stream, _) = guest.asked().await;
        let told = format!("{HEAD}{{\"instance\":\"b\"}}\n{}", entry(1).replace("line 1", "anew"));
        stream.write_all(told.as_bytes()).await.unwrap();
        assert_eq!(until(&log, "anew").await.len(), 5);
    }

    #[tokio::test]
    async fn nonsense_and_lines_without_end_are_not_listened_to() {
        let folder = tempfile::tempdir().unwrap();
        let log = Log::new(Id::new(), folder.path().join("logs"));
        let (guest, client) = Guest::new().await;
        let _pull = Pull::start(Arc::clone(&log), client);
        for nonsense in
            ["x\n".to_owned(), "x".repeat(LINE_BYTES * 4), "{\"instance\":\"a\"}\n{}\n".to_owned()]
        {
            let (mut stream, _) = guest.asked().await;
            let told = format!("{HEAD}{nonsense}");
            let _closed = stream.write_all(told.as_bytes()).await;
            // It hangs up.
            while stream.read(&mut [0; 64]).await.is_ok_and(|read| read > 0) {}
        }
        let (_stream, asked) = guest.asked().await;
        assert_eq!(asked, "GET /logs HTTP/1.1");
    }

    #[tokio::test(start_paused = true)]
    async fn a_guest_that_talks_without_end_is_heard_at_its_pace() {
        let mut pace = Pace::new();
        let begun = Instant::now();
        for _ in 0..100 {
            pace.spend(64 << 10).await;
        }
        let seconds = begun.elapsed().as_secs_f64();
        assert!((83.0..85.0).contains(&seconds), "{seconds}");
    }
}
