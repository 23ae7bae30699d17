//! QEMU's control protocol (QMP): JSON lines over a unix socket, requests answered in their order, events in between.
//!
//! QEMU reads its monitor a byte at a time and handles commands one after another, so requests carry no id, and they may be sent
//! before the greeting: a whole start is one round trip.

mod requests;

use std::{
    collections::VecDeque,
    fmt,
    io::{self, IoSlice},
    mem::MaybeUninit,
    os::fd::{AsFd, OwnedFd},
    time::Duration,
};

pub(crate) use requests::*;
use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, sendmsg};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use tokio::{
    io::{AsyncBufRead, AsyncBufReadExt, AsyncWriteExt, BufReader, Interest},
    net::{UnixStream, unix::OwnedWriteHalf},
    sync::{broadcast, mpsc, oneshot},
    time::timeout,
};

/// Requests that wait for the connection's task: none of our callers sends more at once.
const REQUESTS: usize = 16;
/// Events kept for a subscriber that has not looked yet. A machine sends a handful in its life.
const EVENTS: usize = 64;
/// Longest line taken from QEMU. Answers to what we ask are under a kilobyte; the bound is for a QEMU that went mad.
const LINE_BYTES: usize = 256 * 1024;

/// A failure of the control protocol.
#[derive(Debug, thiserror::Error)]
pub enum QmpError {
    /// The socket cannot be reached or failed.
    #[error("the control socket failed")]
    Socket(#[source] io::Error),
    /// QEMU closed the connection, which it does when it ends.
    #[error("the control socket was closed")]
    Closed,
    /// QEMU said something that is not the protocol.
    #[error("not understood: {line}")]
    Malformed {
        /// The beginning of what it said.
        line: String,
        /// Why it was not understood.
        source: serde_json::Error,
    },
    /// A line longer than any answer.
    #[error("a line of more than {LINE_BYTES} bytes")]
    TooLong,
    /// QEMU refused the request.
    #[error("{command} was refused: {reason}")]
    Refused {
        /// The request.
        command: &'static str,
        /// QEMU's words.
        reason: String,
    },
    /// What was asked for was not done in time.
    #[error("{what} took longer than {limit:?}")]
    Deadline {
        /// What was waited for.
        what: &'static str,
        /// How long.
        limit: Duration,
    },
    /// A state was not loaded.
    #[error("loading the state ended as {0:?}")]
    Transfer(String),
}

impl From<io::Error> for QmpError {
    fn from(error: io::Error) -> Self {
        match error.kind() {
            // QEMU ended before it accepted us, or while we spoke.
            io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe => Self::Closed,
            _ => Self::Socket(error),
        }
    }
}

/// What QEMU says unasked, as far as callers wait for it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Event {
    /// The guest's processors run.
    Resume,
    /// The disk's file cannot grow: the guest stands still until it is told to go on, and its write is tried again then.
    DiskFull,
    /// A state transfer changed its status; QEMU's word for it.
    Migration(String),
}

impl Event {
    fn parse(name: &str, data: &Value) -> Option<Self> {
        match name {
            "RESUME" => Some(Self::Resume),
            "BLOCK_IO_ERROR" if data.get("nospace")? == true && data.get("action")? == "stop" => {
                Some(Self::DiskFull)
            }
            "MIGRATION" => Some(Self::Migration(data.get("status")?.as_str()?.to_owned())),
            _ => None,
        }
    }
}

/// A connection. One task serves it; it ends when this is dropped or QEMU closes.
#[derive(Debug)]
pub(crate) struct Qmp {
    calls: mpsc::Sender<Call>,
    events: broadcast::Sender<Event>,
}

#[derive(Debug)]
struct Call {
    line: Vec<u8>,
    descriptor: Option<OwnedFd>,
    reply: oneshot::Sender<Result<Value, String>>,
}

#[derive(Serialize)]
struct Envelope<'a, R> {
    execute: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    arguments: Option<&'a R>,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Line {
    Return {
        r#return: Value,
    },
    Error {
        error: Refusal,
    },
    Event {
        event: String,
        #[serde(default)]
        data: Value,
    },
    Greeting {
        #[serde(rename = "QMP")]
        _version: Value,
    },
}

#[derive(Deserialize)]
struct Refusal {
    desc: String,
}

impl Qmp {
    /// Serves a connection. The caller's first request has to be [`Negotiate`].
    pub(crate) fn new(stream: UnixStream) -> Self {
        let (calls, queue) = mpsc::channel(REQUESTS);
        let (events, _) = broadcast::channel(EVENTS);
        tokio::spawn(Connection { queue, events: events.clone(), pending: VecDeque::new() }.serve(stream));
        Self { calls, events }
    }

    /// Events from now on.
    pub(crate) fn events(&self) -> Events {
        Events(self.events.subscribe())
    }

    /// Asks and waits for the answer.
    pub(crate) async fn call<R: Request>(&self, request: &R, limit: Duration) -> Result<R::Reply, QmpError> {
        self.exchange(request, None, limit).await
    }

    /// The same, with a descriptor that QEMU gets a copy of.
    pub(crate) async fn hand<R: Request>(
        &self,
        request: &R,
        descriptor: OwnedFd,
        limit: Duration,
    ) -> Result<R::Reply, QmpError> {
        self.exchange(request, Some(descriptor), limit).await
    }

    async fn exchange<R: Request>(
        &self,
        request: &R,
        descriptor: Option<OwnedFd>,
        limit: Duration,
    ) -> Result<R::Reply, QmpError> {
        let command = R::COMMAND;
        let malformed = |line: String| move |source| QmpError::Malformed { line, source };
        let arguments = (size_of::<R>() > 0).then_some(request);
        let mut line = serde_json::to_vec(&Envelope { execute: command, arguments })
            .map_err(malformed(command.to_owned()))?;
        line.push(b'\n');
        let exchange = async {
            let (reply, answer) = oneshot::channel();
            self.calls.send(Call { line, descriptor, reply }).await.map_err(|_| QmpError::Closed)?;
            answer
                .await
                .map_err(|_| QmpError::Closed)?
                .map_err(|reason| QmpError::Refused { command, reason })
        };
        let value =
            timeout(limit, exchange).await.map_err(|_| QmpError::Deadline { what: command, limit })??;
        let text = value.to_string();
        serde_json::from_value(value).map_err(malformed(text))
    }
}

/// A subscription to events.
pub(crate) struct Events(broadcast::Receiver<Event>);

impl Events {
    /// Waits for the disk to be full; `None` when the connection has ended.
    pub(crate) async fn disk_full(&mut self) -> Option<()> {
        loop {
            match self.0.recv().await {
                // One that was lost may have been it: to go on once too often does no harm.
                Ok(Event::DiskFull) | Err(broadcast::error::RecvError::Lagged(_)) => return Some(()),
                Ok(_) => {}
                Err(broadcast::error::RecvError::Closed) => return None,
            }
        }
    }

    /// Waits for an event that `pick` makes something of.
    pub(crate) async fn wait<T>(
        &mut self,
        what: &'static str,
        limit: Duration,
        mut pick: impl FnMut(Event) -> Option<T>,
    ) -> Result<T, QmpError> {
        let search = async {
            loop {
                match self.0.recv().await {
                    Ok(event) => {
                        if let Some(found) = pick(event) {
                            return Ok(found);
                        }
                    }
                    // What was lost may be what we wait for; the deadline ends the wait.
                    Err(broadcast::error::RecvError::Lagged(count)) => {
                        tracing::warn!(count, "control events were lost");
                    }
                    Err(broadcast::error::RecvError::Closed) => return Err(QmpError::Closed),
                }
            }
        };
        timeout(limit, search).await.map_err(|_| QmpError::Deadline { what, limit })?
    }
}

impl fmt::Debug for Events {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Events")
    }
}

struct Connection {
    queue: mpsc::Receiver<Call>,
    events: broadcast::Sender<Event>,
    /// Answers come in the order of the requests. A caller that gave up keeps its place.
    pending: VecDeque<oneshot::Sender<Result<Value, String>>>,
}

impl Connection {
    async fn serve(mut self, stream: UnixStream) {
        let (reading, mut writing) = stream.into_split();
        let mut lines = Lines { reader: BufReader::new(reading), partial: Vec::new() };
        let ended = loop {
            tokio::select! {
                call = self.queue.recv() => {
                    let Some(mut call) = call else { return };
                    // Whatever else is waiting goes out in the same write, but for what comes with a descriptor.
                    let mut bytes = Vec::new();
                    let written = loop {
                        self.pending.push_back(call.reply);
                        if let Some(descriptor) = call.descriptor.take() {
                            let before = writing.write_all(&bytes).await;
                            let after = before.and(send_with(&mut writing, &call.line, &descriptor).await);
                            bytes.clear();
                            if after.is_err() {
                                break after;
                            }
                        } else {
                            bytes.append(&mut call.line);
                        }
                        match self.queue.try_recv() {
                            Ok(next) => call = next,
                            Err(_) => break writing.write_all(&bytes).await,
                        }
                    };
                    if let Err(error) = written {
                        break QmpError::from(error);
                    }
                }
                line = lines.next() => match line.and_then(|line| self.take(&line)) {
                    Ok(()) => {}
                    Err(error) => break error,
                },
            }
        };
        // Dropping the queue, the pending replies and the events tells every caller.
        if !matches!(ended, QmpError::Closed) {
            tracing::warn!(error = %ended, "a control connection failed");
        }
    }

    fn take(&mut self, line: &[u8]) -> Result<(), QmpError> {
        let parsed = serde_json::from_slice(line).map_err(|source| QmpError::Malformed {
            line: String::from_utf8_lossy(line).chars().take(200).collect(),
            source,
        })?;
        let answer = match parsed {
            Line::Return { r#return } => Ok(r#return),
            Line::Error { error } => Err(error.desc),
            Line::Event { event, data } => {
                if let Some(event) = Event::parse(&event, &data) {
                    // Nobody listens most of the time.
                    let _ = self.events.send(event);
                }
                return Ok(());
            }
            Line::Greeting { .. } => return Ok(()),
        };
        if let Some(caller) = self.pending.pop_front() {
            // The caller may have given up.
            let _ = caller.send(answer);
        }
        Ok(())
    }
}

/// Writes a line, a descriptor with its first byte.
async fn send_with(writing: &mut OwnedWriteHalf, line: &[u8], descriptor: &OwnedFd) -> io::Result<()> {
    let stream: &UnixStream = writing.as_ref();
    let sent = stream.async_io(Interest::WRITABLE, || {
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut attached = SendAncillaryBuffer::new(&mut space);
        let descriptors = [descriptor.as_fd()];
        // The space is for exactly this.
        let _fits = attached.push(SendAncillaryMessage::ScmRights(&descriptors));
        Ok(sendmsg(stream, &[IoSlice::new(line)], &mut attached, SendFlags::NOSIGNAL)?)
    });
    let sent = sent.await?;
    writing.write_all(&line[sent..]).await
}

struct Lines<R> {
    reader: R,
    partial: Vec<u8>,
}

impl<R: AsyncBufRead + Unpin> Lines<R> {
    /// The next line. May be dropped at any time without losing a byte.
    async fn next(&mut self) -> Result<Vec<u8>, QmpError> {
        loop {
            let available = self.reader.fill_buf().await?;
            if available.is_empty() {
                return Err(QmpError::Closed);
            }
            let end = available.iter().position(|byte| *byte == b'\n');
            let taken = end.map_or(available.len(), |end| end + 1);
            self.partial.extend_from_slice(&available[..taken]);
            self.reader.consume(taken);
            if self.partial.len() > LINE_BYTES {
                return Err(QmpError::TooLong);
            }
            if end.is_some() {
                return Ok(std::mem::take(&mut self.partial));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use tokio::{io::AsyncReadExt, net::unix::OwnedReadHalf};

    use super::*;

    const LIMIT: Duration = Duration::from_secs(10);

    /// The client, and the ends of the socket on which a test plays QEMU.
    fn pair() -> (Arc<Qmp>, BufReader<OwnedReadHalf>, OwnedWriteHalf) {
        let (ours, theirs) = UnixStream::pair().unwrap();
        let (reading, writing) = theirs.into_split();
        (Arc::new(Qmp::new(ours)), BufReader::new(reading), writing)
    }

    async fn expect(reader: &mut BufReader<OwnedReadHalf>, expected: &str) {
        let mut line = String::new();
        reader.read_line(&mut line).await.unwrap();
        assert_eq!(line.trim_end(), expected);
    }

    #[tokio::test]
    async fn answers_find_their_requests_with_events_in_between() {
        let (qmp, mut reader, mut writer) = pair();
        let mut events = qmp.events();
        let calls = {
            let qmp = Arc::clone(&qmp);
            tokio::spawn(async move {
                let save = SaveDevices { filename: "/x".to_owned(), live: false };
                tokio::join!(
                    qmp.call(&Negotiate {}, LIMIT),
                    qmp.call(&save, LIMIT),
                    qmp.call(&QueryStatus {}, LIMIT),
                )
            })
        };
        expect(&mut reader, r#"{"execute":"qmp_capabilities"}"#).await;
        expect(
            &mut reader,
            r#"{"execute":"xen-save-devices-state","arguments":{"filename":"/x","live":false}}"#,
        )
        .await;
        expect(&mut reader, r#"{"execute":"query-status"}"#).await;
        let script = [
            r#"{"QMP": {"version": {}, "capabilities": ["oob"]}}"#,
            r#"{"return": {}}"#,
            r#"{"timestamp": {"seconds": 1}, "event": "NIC_RX_FILTER_CHANGED", "data": {"name": "n0"}}"#,
            r#"{"timestamp": {"seconds": 1}, "event": "MIGRATION", "data": {"status": "setup"}}"#,
            r#"{"error": {"class": "GenericError", "desc": "no such file"}}"#,
            r#"{"timestamp": {"seconds": 1}, "event": "RESUME"}"#,
            r#"{"return": {"status": "prelaunch", "running": false}}"#,
        ];
        writer.write_all((script.join("\r\n") + "\r\n").as_bytes()).await.unwrap();
        let (negotiated, saved, status) = calls.await.unwrap();
        negotiated.unwrap();
        assert_eq!(saved.unwrap_err().to_string(), "xen-save-devices-state was refused: no such file");
        assert_eq!(status.unwrap().status, RunState::Stopped);
        let seen = events.wait("setup", LIMIT, |event| match event {
            Event::Migration(status) => Some(status),
            Event::Resume | Event::DiskFull => None,
        });
        assert_eq!(seen.await.unwrap(), "setup");
        events.wait("resume", LIMIT, |event| (event == Event::Resume).then_some(())).await.unwrap();
    }

    #[tokio::test]
    async fn a_full_disk_is_told_and_other_errors_of_it_are_not() {
        let (qmp, _reader, mut writer) = pair();
        let mut events = qmp.events();
        let event = |nospace: bool, action: &str| {
            let data = serde_json::json!({"device": "disk", "nospace": nospace, "action": action});
            serde_json::json!({"event": "BLOCK_IO_ERROR", "data": data}).to_string() + "\n"
        };
        for other in [event(false, "report"), event(true, "report"), event(true, "stop")] {
            writer.write_all(other.as_bytes()).await.unwrap();
        }
        assert_eq!(events.disk_full().await, Some(()));
        assert!(events.0.try_recv().is_err(), "something else was told");
        drop((qmp, writer));
        assert_eq!(events.disk_full().await, None);
    }

    #[tokio::test]
    async fn a_descriptor_arrives_with_its_request_and_with_no_other() {
        use std::os::unix::fs::FileExt;
        let (ours, theirs) = UnixStream::pair().unwrap();
        let qmp = Arc::new(Qmp::new(ours));
        let file = tempfile::tempfile().unwrap();
        file.write_all_at(b"x", 6).unwrap();
        let give = AddDescriptor { fdset_id: 3 };
        let calls = {
            let (qmp, file) = (Arc::clone(&qmp), file.try_clone().unwrap());
            tokio::spawn(async move {
                tokio::join!(
                    qmp.call(&Stop {}, LIMIT),
                    qmp.hand(&give, file.into(), LIMIT),
                    qmp.call(&Continue {}, LIMIT)
                )
            })
        };
        // As QEMU does it: whatever comes with a byte is kept for the next request that wants it.
        let (mut text, mut received) = (Vec::new(), Vec::new());
        while text.iter().filter(|byte| **byte == b'\n').count() < 3 {
            let read = theirs.async_io(Interest::READABLE, || {
                let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
                let mut attached = rustix::net::RecvAncillaryBuffer::new(&mut space);
                let mut bytes = [0; 4096];
                let flags = rustix::net::RecvFlags::empty();
                let into = &mut [io::IoSliceMut::new(&mut bytes)];
                let read = rustix::net::recvmsg(&theirs, into, &mut attached, flags)?.bytes;
                for message in attached.drain() {
                    if let rustix::net::RecvAncillaryMessage::ScmRights(descriptors) = message {
                        received.extend(descriptors);
                    }
                }
                text.extend_from_slice(&bytes[..read]);
                Ok(())
            });
            read.await.unwrap();
        }
        let lines: Vec<_> = str::from_utf8(&text).unwrap().lines().collect();
        assert_eq!(
            lines,
            [
                r#"{"execute":"stop"}"#,
                r#"{"execute":"add-fd","arguments":{"fdset-id":3}}"#,
                r#"{"execute":"cont"}"#
            ]
        );
        let [received] = &received[..] else { panic!("{received:?}") };
        let found = std::fs::File::from(received.try_clone().unwrap()).metadata().unwrap().len();
        assert_eq!(found, 7);
        theirs
            .try_write(b"{\"return\":{}}\n{\"return\":{\"fdset-id\":3,\"fd\":9}}\n{\"return\":{}}\n")
            .unwrap();
        let (stopped, handed, gone_on) = calls.await.unwrap();
        stopped.unwrap();
        handed.unwrap();
        gone_on.unwrap();
    }

    #[tokio::test]
    async fn a_caller_that_gives_up_does_not_get_the_next_ones_answer() {
        let (qmp, mut reader, mut writer) = pair();
        let short = Duration::from_millis(1);
        let given_up = qmp.call(&Stop {}, short).await.unwrap_err();
        assert!(matches!(given_up, QmpError::Deadline { what: "stop", .. }), "{given_up}");
        expect(&mut reader, r#"{"execute":"stop"}"#).await;
        writer.write_all(b"{\"error\": {\"desc\": \"for stop\"}}\n{\"return\": {}}\n").await.unwrap();
        qmp.call(&Continue {}, LIMIT).await.unwrap();
    }

    #[tokio::test]
    async fn the_end_of_qemu_reaches_every_caller() {
        let (qmp, mut reader, writer) = pair();
        let mut events = qmp.events();
        let call = {
            let qmp = Arc::clone(&qmp);
            tokio::spawn(async move { qmp.call(&Stop {}, LIMIT).await })
        };
        expect(&mut reader, r#"{"execute":"stop"}"#).await;
        drop((reader, writer));
        assert!(matches!(call.await.unwrap(), Err(QmpError::Closed)));
        assert!(matches!(qmp.call(&Stop {}, LIMIT).await, Err(QmpError::Closed)));
        drop(qmp);
        assert!(matches!(events.wait("x", LIMIT, |_| Some(())).await, Err(QmpError::Closed)));
    }

    #[tokio::test]
    async fn nonsense_and_endless_lines_end_the_connection() {
        for flood in [b"no json\n".to_vec(), vec![b'x'; LINE_BYTES + 1]] {
            let (qmp, mut reader, mut writer) = pair();
            let (call, ()) = tokio::join!(qmp.call(&Stop {}, LIMIT), async {
                // The client hangs up on the flood before it is all written.
                let _ = writer.write_all(&flood).await;
                let mut rest = Vec::new();
                let _ = reader.read_to_end(&mut rest).await;
            });
            assert!(matches!(call, Err(QmpError::Closed)));
        }
    }
}
