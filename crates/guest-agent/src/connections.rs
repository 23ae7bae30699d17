//! The connections of the one listener: who called, how many may, and which of them belong to a guest that is no more.
//!
//! A restored guest remembers connections whose other ends are gone, or belong to the sandbox that it was copied from.
//! Nothing would ever close most of them. So each has a number: when the guest is sealed for a snapshot, the next number is
//! remembered, and when it gets its new identity, every older connection ends (`snapshot` says when exactly).

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};

use axum::extract::connect_info::Connected;
use axum::serve::{IncomingStream, Listener};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};

/// Connections from anybody but the gateway, which are those of the sandbox's own processes: none of them can keep the
/// host from getting through, or fill the agent's memory.
const FROM_INSIDE: usize = 256;

/// Which connections there are.
pub(crate) struct Connections {
    next: AtomicU64,
    /// The first number that was not given out when the guest was sealed.
    sealed_at: AtomicU64,
    cut: watch::Sender<Cut>,
}

/// Connections that have to end.
#[derive(Debug, Clone, Copy, Default)]
struct Cut {
    before: u64,
    except: Option<u64>,
}

impl Cut {
    fn hits(self, number: u64) -> bool {
        number < self.before && self.except != Some(number)
    }
}

impl Connections {
    pub(crate) fn new() -> Self {
        Self { next: AtomicU64::new(0), sealed_at: AtomicU64::new(0), cut: watch::Sender::default() }
    }

    /// Remembers which connections there are now.
    pub(crate) fn sealed(&self) {
        self.sealed_at.store(self.next.load(Ordering::SeqCst), Ordering::SeqCst);
    }

    /// Ends the connections that were there at the last seal, except the one on which that is asked for.
    pub(crate) fn end_sealed(&self, except: Option<u64>) {
        let before = self.sealed_at.load(Ordering::SeqCst);
        self.cut.send_replace(Cut { before, except });
    }

    /// Waits until a connection has to end.
    pub(crate) fn cut(&self, number: u64) -> impl Future<Output = ()> + Send + use<> {
        let mut cuts = self.cut.subscribe();
        async move {
            // The sender lives as long as the agent; should it go, so may the connection.
            let _ = cuts.wait_for(|cut| cut.hits(number)).await;
        }
    }

    fn accepted(&self, address: SocketAddr) -> Peer {
        Peer { address, connection: self.next.fetch_add(1, Ordering::SeqCst) }
    }
}

/// The other end of a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Peer {
    pub(crate) address: SocketAddr,
    pub(crate) connection: u64,
}

impl Connected<IncomingStream<'_, CountedListener>> for Peer {
    fn connect_info(stream: IncomingStream<'_, CountedListener>) -> Self {
        *stream.remote_addr()
    }
}

/// A listener that counts.
pub(crate) struct CountedListener {
    listener: TcpListener,
    gateway: IpAddr,
    from_inside: Arc<Semaphore>,
    connections: Arc<Connections>,
}

impl CountedListener {
    pub(crate) fn new(listener: TcpListener, gateway: IpAddr, connections: Arc<Connections>) -> Self {
        Self { listener, gateway, from_inside: Arc::new(Semaphore::new(FROM_INSIDE)), connections }
    }
}

impl Listener for CountedListener {
    type Io = Connection;
    type Addr = Peer;

    async fn accept(&mut self) -> (Connection, Peer) {
        loop {
            let (stream, address) = Listener::accept(&mut self.listener).await;
            let place = if address.ip().to_canonical() == self.gateway {
                None
            } else if let Ok(place) = Arc::clone(&self.from_inside).try_acquire_owned() {
                Some(place)
            } else {
                tracing::debug!(%address, "too many connections from inside the sandbox");
                continue;
            };
            // Without this an answer of two writes waits for the peer's delayed acknowledgement.
            if let Err(error) = stream.set_nodelay(true) {
                tracing::debug!(%error, "cannot set TCP_NODELAY");
            }
            let peer = self.connections.accepted(address);
            let cut = self.connections.cut(peer.connection);
            return (Connection { stream, cut: Some(Box::pin(cut)), _place: place }, peer);
        }
    }

    fn local_addr(&self) -> io::Result<Peer> {
        Ok(Peer { address: self.listener.local_addr()?, connection: 0 })
    }
}

/// A stream that can be cut.
pub(crate) struct Connection {
    stream: TcpStream,
    /// Ends when the connection has to. Gone once it has.
    cut: Option<Pin<Box<dyn Future<Output = ()> + Send>>>,
    _place: Option<OwnedSemaphorePermit>,
}

impl Connection {
    /// The stream, for what is no HTTP any more and is not to be cut: somebody else ends it.
    pub(crate) fn into_stream(self) -> TcpStream {
        self.stream
    }

    /// The stream, unless the connection was cut. Asked in every direction: a server of HTTP does not wait for the next byte while a
    /// whole request is waiting already, but it always goes on with its answers. To fail here ends the connection, and drops those.
    fn stream(&mut self, cx: &mut Context<'_>) -> io::Result<Pin<&mut TcpStream>> {
        if self.cut.as_mut().is_some_and(|cut| cut.as_mut().poll(cx).is_ready()) {
            self.cut = None;
        }
        match self.cut {
            Some(_) => Ok(Pin::new(&mut self.stream)),
            None => Err(io::ErrorKind::ConnectionAborted.into()),
        }
    }
}

impl AsyncRead for Connection {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        self.stream(cx)?.poll_read(cx, buf)
    }
}

impl AsyncWrite for Connection {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.stream(cx)?.poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.stream(cx)?.poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.stream(cx)?.poll_shutdown(cx)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        parts: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.stream(cx)?.poll_write_vectored(cx, parts)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }
}
