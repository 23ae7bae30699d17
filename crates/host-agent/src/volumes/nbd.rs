//! The transmission phase of NBD, as its server: what a guest's kernel asks of a volume. There is no handshake; the guest's agent has told its kernel
//! what that would say.
//!
//! The guest is not trusted. Every offset and length is checked, what is under way is bounded in number and in bytes, and what makes no sense
//! ends its connection and nothing else. A flush is answered once all that was answered before it is on disk.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt as _;
use std::sync::Arc;

use rustix::fs::{FallocateFlags, fallocate};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio_util::task::TaskTracker;

const REQUEST_MAGIC: u32 = 0x2560_9513;
const REPLY_MAGIC: u32 = 0x6744_6698;
const REQUEST: usize = 28;
const REPLY: usize = 16;
/// The longest piece that is read or written at once.
const LONGEST: u32 = 32 << 20;
/// What may be in memory of requests and answers: two of the longest, counted in units.
const BUDGET: usize = 64 << 20;
const UNIT: u32 = 4096;
/// Requests that may be under way: each has a thread.
const AT_ONCE: usize = 16;
/// The write is to be on disk when it is answered.
const FORCE_UNIT_ACCESS: u16 = 1;

const READ: u16 = 0;
const WRITE: u16 = 1;
const DISCONNECT: u16 = 2;
const FLUSH: u16 = 3;
const TRIM: u16 = 4;
const WRITE_ZEROES: u16 = 6;

/// How a request failed, in the protocol's numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u32)]
enum Refusal {
    Io = 5,
    Invalid = 22,
    NoSpace = 28,
}

/// Why a connection ended that its guest did not end.
#[derive(Debug, thiserror::Error)]
pub(crate) enum NbdError {
    /// The connection broke.
    #[error("the connection broke")]
    Io(#[from] io::Error),
    /// It is not the protocol, or asks for more at once than is given.
    #[error("the guest sent what is no request")]
    Protocol,
}

struct Request {
    flags: u16,
    kind: u16,
    cookie: [u8; 8],
    offset: u64,
    length: u32,
}

struct Reply {
    cookie: [u8; 8],
    outcome: Result<Vec<u8>, Refusal>,
    _room: OwnedSemaphorePermit,
    _turn: OwnedSemaphorePermit,
}

/// A volume's blocks.
#[derive(Debug, Clone)]
pub(super) struct Disk {
    pub(super) file: Arc<File>,
    pub(super) size: u64,
}

/// Serves a connection until the guest ends it. Work on the file is counted by `jobs`, and may go on when this is dropped.
pub(super) async fn serve(
    stream: impl AsyncRead + AsyncWrite,
    disk: &Disk,
    jobs: &TaskTracker,
) -> Result<(), NbdError> {
    let (reader, writer) = tokio::io::split(stream);
    let (replies, answers) = mpsc::channel(AT_ONCE);
    tokio::try_join!(receive(reader, disk, jobs, replies), answer(writer, answers)).map(|_| ())
}

async fn receive(
    mut guest: impl AsyncRead + Unpin,
    disk: &Disk,
    jobs: &TaskTracker,
    replies: mpsc::Sender<Reply>,
) -> Result<(), NbdError> {
    let budget = Arc::new(Semaphore::new(BUDGET / UNIT as usize));
    let turns = Arc::new(Semaphore::new(AT_ONCE));
    let closed = |_| NbdError::Io(io::ErrorKind::BrokenPipe.into());
    loop {
        let mut header = [0; REQUEST];
        match guest.read_exact(&mut header).await {
            // Between two requests that is an end like another.
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(()),
            read => read?,
        };
        let request = Request::parse(&header).ok_or(NbdError::Protocol)?;
        if request.kind == DISCONNECT {
            return Ok(());
        }
        let carries = matches!(request.kind, READ | WRITE);
        if carries && request.length > LONGEST {
            return Err(NbdError::Protocol);
        }
        let units = if carries { request.length.div_ceil(UNIT).max(1) } else { 1 };
        let room = Arc::clone(&budget).acquire_many_owned(units).await.map_err(closed)?;
        let mut data = Vec::new();
        if request.kind == WRITE {
            data.resize(usize::try_from(request.length).unwrap_or(usize::MAX), 0);
            guest.read_exact(&mut data).await?;
        }
        let turn = Arc::clone(&turns).acquire_owned().await.map_err(closed)?;
        let (disk, replies) = (disk.clone(), replies.clone());
        let cookie = request.cookie;
        let work = jobs.spawn_blocking(move || disk.carry_out(&request, data));
        // A guest that reads no answers keeps no thread.
        tokio::spawn(async move {
            if let Ok(outcome) = work.await {
                // Nobody wants it where the connection is over.
                let _gone = replies.send(Reply { cookie, outcome, _room: room, _turn: turn }).await;
            }
        });
    }
}

async fn answer(
    mut guest: impl AsyncWrite + Unpin,
    mut replies: mpsc::Receiver<Reply>,
) -> Result<(), NbdError> {
    while let Some(Reply { cookie, outcome, _room, _turn }) = replies.recv().await {
        let (code, data) = match outcome {
            Ok(data) => (0, data),
            Err(refusal) => (refusal as u32, Vec::new()),
        };
        let mut message = Vec::with_capacity(REPLY + data.len());
        message.extend_from_slice(&REPLY_MAGIC.to_be_bytes());
        message.extend_from_slice(&code.to_be_bytes());
        message.extend_from_slice(&cookie);
        message.extend_from_slice(&data);
        guest.write_all(&message).await?;
        guest.flush().await?;
    }
    Ok(())
}

impl Request {
    fn parse(bytes: &[u8; REQUEST]) -> Option<Self> {
        let (magic, rest) = bytes.split_first_chunk()?;
        let (flags, rest) = rest.split_first_chunk()?;
        let (kind, rest) = rest.split_first_chunk()?;
        let (cookie, rest) = rest.split_first_chunk()?;
        let (offset, rest) = rest.split_first_chunk()?;
        let length = rest.first_chunk()?;
        (u32::from_be_bytes(*magic) == REQUEST_MAGIC).then_some(Self {
            flags: u16::from_be_bytes(*flags),
            kind: u16::from_be_bytes(*kind),
            cookie: *cookie,
            offset: u64::from_be_bytes(*offset),
            length: u32::from_be_bytes(*length),
        })
    }
}

impl Disk {
    fn carry_out(&self, request: &Request, mut data: Vec<u8>) -> Result<Vec<u8>, Refusal> {
        let Request { flags, kind, offset, length, cookie: _ } = *request;
        let end = offset.checked_add(length.into());
        let is_within = length > 0 && end.is_some_and(|end| end <= self.size);
        match kind {
            READ if is_within => {
                data.resize(usize::try_from(length).unwrap_or(usize::MAX), 0);
                self.done("read", self.file.read_exact_at(&mut data, offset))?;
                return Ok(data);
            }
            WRITE if is_within => self.done("write", self.file.write_all_at(&data, offset))?,
            TRIM if is_within => self.punch(offset, length)?,
            WRITE_ZEROES if is_within => self.punch(offset, length)?,
            FLUSH => return self.done("sync", self.file.sync_data()).map(|()| Vec::new()),
            _ => return Err(Refusal::Invalid),
        }
        if flags & FORCE_UNIT_ACCESS != 0 {
            self.done("sync", self.file.sync_data())?;
        }
        Ok(Vec::new())
    }

    /// Reads as zeroes from then on, and takes no room.
    fn punch(&self, offset: u64, length: u32) -> Result<(), Refusal> {
        let flags = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
        self.done("trim", fallocate(&self.file, flags, offset, length.into()).map_err(io::Error::from))
    }

    fn done<T>(&self, what: &'static str, outcome: io::Result<T>) -> Result<T, Refusal> {
        outcome.map_err(|error| {
            tracing::error!(%error, what, "a volume's file fails");
            match error.kind() {
                io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => Refusal::NoSpace,
                _ => Refusal::Io,
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt as _;

    use tokio::io::DuplexStream;
    use tokio::task::JoinHandle;

    use super::*;

    const SIZE: u64 = 1 << 20;

    /// A server and the guest's end of its connection.
    struct Served {
        guest: DuplexStream,
        file: Arc<File>,
        server: JoinHandle<Result<(), NbdError>>,
        next: u64,
    }

    impl Served {
        fn start() -> Self {
            let file = Arc::new(tempfile::tempfile().unwrap());
            file.set_len(SIZE).unwrap();
            let disk = Disk { file: Arc::clone(&file), size: SIZE };
            let (guest, stream) = tokio::io::duplex(1 << 16);
            let server = tokio::spawn(async move {
                let jobs = TaskTracker::new();
                let served = serve(stream, &disk, &jobs).await;
                jobs.close();
                jobs.wait().await;
                served
            });
            Self { guest, file, server, next: 0 }
        }

        async fn send(&mut self, kind: u16, offset: u64, length: u32, data: &[u8]) -> [u8; 8] {
            self.next += 1;
            let cookie = self.next.to_be_bytes();
            let mut message = REQUEST_MAGIC.to_be_bytes().to_vec();
            message.extend_from_slice(&0u16.to_be_bytes());
            message.extend_from_slice(&kind.to_be_bytes());
            message.extend_from_slice(&cookie);
            message.extend_from_slice(&offset.to_be_bytes());
            message.extend_from_slice(&length.to_be_bytes());
            message.extend_from_slice(data);
            self.guest.write_all(&message).await.unwrap();
            cookie
        }

        async fn reply(&mut self) -> ([u8; 8], u32) {
            let mut reply = [0; REPLY];
            self.guest.read_exact(&mut reply).await.unwrap();
            assert_eq!(reply[..4], REPLY_MAGIC.to_be_bytes());
            (reply[8..].try_into().unwrap(), u32::from_be_bytes(reply[4..8].try_into().unwrap()))
        }

        async fn ask(&mut self, kind: u16, offset: u64, length: u32, data: &[u8]) -> u32 {
            let cookie = self.send(kind, offset, length, data).await;
            let (answered, code) = self.reply().await;
            assert_eq!(answered, cookie);
            code
        }

        async fn read(&mut self, offset: u64, length: u32) -> Vec<u8> {
            assert_eq!(self.ask(READ, offset, length, &[]).await, 0);
            let mut data = vec![0; length as usize];
            self.guest.read_exact(&mut data).await.unwrap();
            data
        }
    }

    #[tokio::test]
    async fn what_is_written_is_read_again_and_what_is_trimmed_is_gone() {
        let mut served = Served::start();
        let data = vec![7; 128 << 10];
        assert_eq!(served.ask(WRITE, 4096, 128 << 10, &data).await, 0);
        assert_eq!(served.ask(FLUSH, 0, 0, &[]).await, 0);
        assert_eq!(served.read(4096, 128 << 10).await, data);
        let before = served.file.metadata().unwrap().blocks();
        assert_eq!(served.ask(TRIM, 4096, 64 << 10, &[]).await, 0);
        assert_eq!(served.ask(WRITE_ZEROES, 4096 + (64 << 10), 4096, &[]).await, 0);
        assert!(served.file.metadata().unwrap().blocks() < before);
        assert_eq!(served.read(4096, 68 << 10).await, vec![0; 68 << 10]);
        assert_eq!(served.read(4096 + (68 << 10), 4096).await, vec![7; 4096]);
        assert_eq!(served.file.metadata().unwrap().len(), SIZE);
        served.send(DISCONNECT, 0, 0, &[]).await;
        served.server.await.unwrap().unwrap();
    }

    #[tokio::test]
    async fn what_lies_beyond_the_end_is_refused_and_the_connection_goes_on() {
        let mut served = Served::start();
        for kind in [READ, TRIM, WRITE_ZEROES] {
            for (offset, length) in [(SIZE, 1), (SIZE - 1, 2), (u64::MAX, 1), (0, 0), (u64::MAX - 1, 4096)] {
                assert_eq!(served.ask(kind, offset, length, &[]).await, 22, "{kind} {offset} {length}");
            }
        }
        assert_eq!(served.ask(TRIM, 0, u32::MAX, &[]).await, 22);
        // Its data is read over.
        assert_eq!(served.ask(WRITE, SIZE - 1, 2, b"ab").await, 22);
        assert_eq!(served.ask(77, 0, 1, &[]).await, 22);
        assert_eq!(served.read(SIZE - 2, 2).await, [0, 0]);
        assert_eq!(served.file.metadata().unwrap().len(), SIZE);
    }

    #[tokio::test]
    async fn nonsense_ends_its_connection() {
        let mut served = Served::start();
        served.guest.write_all(&[0x25; REQUEST]).await.unwrap();
        assert!(matches!(served.server.await.unwrap(), Err(NbdError::Protocol)));

        for kind in [READ, WRITE] {
            let mut served = Served::start();
            served.send(kind, 0, LONGEST + 1, &[]).await;
            assert!(matches!(served.server.await.unwrap(), Err(NbdError::Protocol)), "{kind}");
        }
    }

    #[tokio::test]
    async fn a_guest_that_leaves_in_the_middle_of_a_write_has_written_nothing() {
        let mut served = Served::start();
        served.send(WRITE, 0, 4096, &[7; 100]).await;
        drop(served.guest);
        assert!(matches!(served.server.await.unwrap(), Err(NbdError::Io(_))));
        let mut first = [0; 100];
        served.file.read_exact_at(&mut first, 0).unwrap();
        assert_eq!(first, [0; 100]);
    }

    #[tokio::test]
    async fn requests_may_be_sent_before_others_are_answered() {
        let mut served = Served::start();
        let mut sent = Vec::new();
        for block in 0..40 {
            sent.push(served.send(WRITE, block * 512, 512, &[1; 512]).await);
        }
        let mut answered = Vec::new();
        for _ in 0..40 {
            let (cookie, code) = served.reply().await;
            assert_eq!(code, 0);
            answered.push(cookie);
        }
        answered.sort_unstable();
        assert_eq!(answered, sent);
        assert_eq!(served.read(0, 40 * 512).await, vec![1; 40 * 512]);
    }
}
