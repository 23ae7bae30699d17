//! Speaking to one Firecracker process: HTTP over the socket in its jail, a connection for each request.
//!
//! Firecracker answers one request after another. A connection costs some tens of microseconds, and none that is kept can have died
//! unnoticed.

use std::{
    io,
    mem::MaybeUninit,
    os::fd::{AsRawFd, OwnedFd},
    path::{Path, PathBuf},
    time::Duration,
};

use bytes::Bytes;
use http_body_util::{BodyExt, Full, Limited};
use hyper::{StatusCode, client::conn::http1, header};
use hyper_util::rt::TokioIo;
use rustix::{
    fs::{
        Mode, OFlags,
        inotify::{self, CreateFlags, ReadFlags, WatchFlags},
        open,
    },
    io::Errno,
};
use serde::Deserialize;
use tokio::{
    io::{Interest, unix::AsyncFd},
    net::UnixStream,
    time::{sleep, timeout},
};

use super::requests::Request;

/// The socket's name in the jail's root.
pub(super) const SOCKET: &str = "api.socket";
/// Longest answer taken. What we ask for is answered in under a kilobyte.
const ANSWER_BYTES: usize = 64 * 1024;
/// Between two tries to connect to a socket that has a name but is not listened to yet: two system calls of Firecracker's lie between.
const LISTEN_PAUSE: Duration = Duration::from_millis(1);

/// A failure of Firecracker's API.
#[derive(Debug, thiserror::Error)]
pub enum ApiError {
    /// The socket cannot be reached.
    #[error("the API's socket failed")]
    Socket(#[source] io::Error),
    /// Nobody listens: Firecracker has ended.
    #[error("the API's socket was closed")]
    Closed,
    /// What came is not HTTP.
    #[error("{request} failed")]
    Http {
        /// The request.
        request: &'static str,
        /// What was wrong.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// Firecracker refused the request.
    #[error("{request} was refused: {reason}")]
    Refused {
        /// The request.
        request: &'static str,
        /// Firecracker's words.
        reason: String,
    },
    /// The answer is not what the API promises.
    #[error("the answer to {request} is not understood: {answer}")]
    Malformed {
        /// The request.
        request: &'static str,
        /// What was answered.
        answer: String,
        /// Why it was not understood.
        source: serde_json::Error,
    },
    /// There was no answer in time.
    #[error("{request} took longer than {limit:?}")]
    Deadline {
        /// The request.
        request: &'static str,
        /// How long.
        limit: Duration,
    },
}

/// One process's API.
#[derive(Debug, Clone)]
pub(super) struct Api {
    /// The jail's root.
    root: PathBuf,
}

#[derive(Deserialize)]
struct Fault {
    fault_message: String,
}

impl Api {
    pub(super) fn new(root: &Path) -> Self {
        Self { root: root.to_owned() }
    }

    /// Asks and waits for the answer.
    pub(super) async fn call<R: Request>(&self, request: &R, limit: Duration) -> Result<R::Answer, ApiError> {
        let exchange = async { self.exchange(request, self.connect().await?).await };
        timeout(limit, exchange).await.map_err(|_| ApiError::Deadline { request: R::PATH, limit })?
    }

    async fn exchange<R: Request>(&self, request: &R, stream: UnixStream) -> Result<R::Answer, ApiError> {
        let name = R::PATH;
        let malformed = |answer: &[u8]| {
            let answer = String::from_utf8_lossy(answer).into_owned();
            move |source| ApiError::Malformed { request: name, answer, source }
        };
        let body = match R::METHOD {
            hyper::Method::GET => Bytes::new(),
            _ => serde_json::to_vec(request).map_err(malformed(b""))?.into(),
        };
        let message = hyper::Request::builder()
            .method(R::METHOD)
            .uri(name)
            .header(header::HOST, "localhost")
            .header(header::ACCEPT, "application/json")
            .header(header::CONTENT_TYPE, "application/json")
            .body(Full::new(body))
            .map_err(|source| ApiError::Http { request: name, source: source.into() })?;
        let failed = |source: hyper::Error| broken(name, source);
        let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.map_err(failed)?;
        // Served beside the exchange, not by a task of its own: both end together.
        let serve = async {
            // Whatever ends the connection fails the exchange too, which then says why.
            let _ = connection.await;
            std::future::pending::<()>().await;
        };
        let ask = async {
            let (head, body) = sender.send_request(message).await.map_err(failed)?.into_parts();
            let limited = Limited::new(body, ANSWER_BYTES).collect().await;
            let body = limited.map_err(|source| ApiError::Http { request: name, source })?.to_bytes();
            Ok::<_, ApiError>((head.status, body))
        };
        let (status, body) = tokio::select! {
            biased;
            answer = ask => answer?,
            () = serve => return Err(ApiError::Closed),
        };
        match status {
            StatusCode::OK => serde_json::from_slice(&body).map_err(malformed(&body)),
            StatusCode::NO_CONTENT => serde_json::from_slice(b"null").map_err(malformed(b"")),
            status => {
                let reason = match serde_json::from_slice::<Fault>(&body) {
                    Ok(fault) => fault.fault_message,
                    Err(_) => format!("{status}: {}", String::from_utf8_lossy(&body)),
                };
                Err(ApiError::Refused { request: name, reason })
            }
        }
    }

    /// Connects. Addresses of unix sockets end at 107 bytes, paths do not, and the folder is the process's: so the socket is opened
    /// first, and no link that may lead elsewhere is.
    async fn connect(&self) -> Result<UnixStream, ApiError> {
        let failed = |error: io::Error| match error.kind() {
            io::ErrorKind::ConnectionRefused | io::ErrorKind::NotFound => ApiError::Closed,
            _ => ApiError::Socket(error),
        };
        let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let socket =
            open(self.root.join(SOCKET), flags, Mode::empty()).map_err(|errno| failed(errno.into()))?;
        UnixStream::connect(format!("/proc/self/fd/{}", socket.as_raw_fd())).await.map_err(failed)
    }
}

/// A connection that broke was Firecracker's end; anything else is its fault.
fn broken(request: &'static str, source: hyper::Error) -> ApiError {
    let reset = |error: &hyper::Error| {
        std::error::Error::source(error).and_then(|cause| cause.downcast_ref::<io::Error>()).is_some_and(
            |cause| matches!(cause.kind(), io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe),
        )
    };
    if source.is_closed() || source.is_canceled() || source.is_incomplete_message() || reset(&source) {
        ApiError::Closed
    } else {
        ApiError::Http { request, source: source.into() }
    }
}

/// Waits for a process's socket. Made before the process: nothing is missed.
#[derive(Debug)]
pub(super) struct Listening {
    root: PathBuf,
    names: AsyncFd<OwnedFd>,
}

impl Listening {
    pub(super) fn watch(root: &Path) -> io::Result<Self> {
        let names = inotify::init(CreateFlags::CLOEXEC | CreateFlags::NONBLOCK)?;
        inotify::add_watch(&names, root, WatchFlags::CREATE)?;
        // SAFETY: an `OwnedFd` stays open, and is the same descriptor, as long as the `AsyncFd` owns it.
        let names = unsafe { AsyncFd::register_with_interest(names, Interest::READABLE) }
            .map_err(|error| error.into_parts().1)?;
        Ok(Self { root: root.to_owned(), names })
    }

    /// Completes when the process takes connections.
    pub(super) async fn listens(&self, api: &Api) -> Result<(), ApiError> {
        while !self.root.join(SOCKET).exists() {
            self.next_name().await.map_err(ApiError::Socket)?;
        }
        loop {
            match api.connect().await {
                // The name comes before the queue.
                Err(ApiError::Closed) => sleep(LISTEN_PAUSE).await,
                connected => return connected.map(drop),
            }
        }
    }

    /// Waits until something got a name since the last look.
    async fn next_name(&self) -> io::Result<()> {
        let mut guard = self.names.readable().await?;
        let mut buffer = [MaybeUninit::uninit(); 1024];
        let mut events = inotify::Reader::new(guard.get_inner(), &mut buffer);
        loop {
            match events.next() {
                // Lost events are a reason to look as well.
                Ok(event) if event.events().contains(ReadFlags::IGNORED) => {
                    return Err(io::ErrorKind::NotFound.into());
                }
                Ok(_) => {}
                Err(Errno::AGAIN) => break,
                Err(errno) => return Err(errno.into()),
            }
        }
        guard.clear_ready();
        Ok(())
    }
}
