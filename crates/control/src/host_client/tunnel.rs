//! Byte streams to ports of guests, each a call of its own to the host agent.
//!
//! They go through connections of their own ("lanes"), so that callers who do not read hold up neither one another nor the calls
//! by which sandboxes are made and ended: a lane's window is as large as those of all its tunnels together.

use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::{Buf as _, Bytes};
use connectrpc::ConnectError;
use connectrpc::client::{BidiRecvHalf, BidiSendHalf};
use http::Uri;
use hyper_util::client::legacy::connect::{Connected, Connection};
use sandbar_proto::host;
use sandbar_types::Id;
use sandbar_types::id::{Host, Sandbox};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio_util::sync::{CancellationToken, DropGuard, PollSender};

use super::HostError;
use super::client::{HostClient, ResponseBody, Windows, rpc};
use super::connect::Connect;
use super::measured::Measured;

/// Tunnels of one connection. A host takes 200 calls on one.
const TUNNELS_OF_A_LANE: usize = 128;
const STREAM_WINDOW: u32 = 1 << 20;
const LANE_WINDOW: u32 = 256 << 20;
/// The most that one message carries.
const CHUNK: usize = 64 * 1024;
/// Messages on their way in one direction.
const CHUNKS_IN_FLIGHT: usize = 2;
/// How long a guest that has nothing more to say may take to read what was sent to it last.
const LINGER: Duration = Duration::from_secs(30);

type Sender = BidiSendHalf<host::TunnelRequest>;
type Receiver = BidiRecvHalf<ResponseBody, host::TunnelResponseView<'static>>;

/// The connections to one host that tunnels go through. A new one is made when all that there are have no place left.
pub(super) struct Lanes {
    host: Id<Host>,
    connect: Connect,
    uri: Uri,
    lanes: Mutex<Vec<Lane>>,
}

struct Lane {
    rpc: host::HostServiceClient<Measured>,
    places: Arc<Semaphore>,
}

impl Lanes {
    pub(super) const fn new(host: Id<Host>, connect: Connect, uri: Uri) -> Self {
        Self { host, connect, uri, lanes: Mutex::new(Vec::new()) }
    }

    /// A lane with a place.
    fn enter(&self) -> (host::HostServiceClient<Measured>, OwnedSemaphorePermit) {
        let mut lanes = self.lanes.lock().unwrap_or_else(PoisonError::into_inner);
        let free = lanes.iter().find_map(|lane| {
            let place = Arc::clone(&lane.places).try_acquire_owned().ok()?;
            Some((lane.rpc.clone(), place))
        });
        if let Some(free) = free {
            return free;
        }
        let windows = Windows { stream: STREAM_WINDOW, connection: LANE_WINDOW };
        let rpc = rpc(self.host, self.connect.clone(), self.uri.clone(), windows);
        let places = Arc::new(Semaphore::new(TUNNELS_OF_A_LANE));
        let place = Arc::clone(&places).try_acquire_owned().expect("a new lane is empty");
        lanes.push(Lane { rpc: rpc.clone(), places });
        (rpc, place)
    }
}

impl HostClient {
    /// Opens a port of a guest. Waits for a sandbox that is about to run.
    pub async fn open_tunnel(
        &self,
        id: Id<Sandbox>,
        port: u16,
        limit: Duration,
    ) -> Result<TunnelStream, HostError> {
        let (rpc, place) = self.lanes().enter();
        let opening = async {
            let mut call = rpc.tunnel().await?;
            let open = host::tunnel_request::Open {
                id: id.to_string(),
                port: u32::from(port),
                ..Default::default()
            };
            // Why it is refused is in the answer.
            let _sent = call.send(host::TunnelRequest { open: open.into(), ..Default::default() }).await;
            Ok(call.message().await?.is_some().then(|| call.into_split()))
        };
        let in_time = async {
            let late = |_| ConnectError::deadline_exceeded("the tunnel was not opened in time");
            tokio::time::timeout(limit, opening).await.map_err(late)?
        };
        let ended = HostError::Protocol("a tunnel ended before it was open");
        let (sender, receiver) = self.call(in_time).await?.ok_or(ended)?;
        let (outgoing, to_send) = mpsc::channel(CHUNKS_IN_FLIGHT);
        let (received, incoming) = mpsc::channel(CHUNKS_IN_FLIGHT);
        let dropped = CancellationToken::new();
        let end = dropped.clone();
        tokio::spawn(async move {
            let _place = place;
            tokio::join!(send(sender, to_send), receive(receiver, received, end));
        });
        let outgoing = Some(PollSender::new(outgoing));
        Ok(TunnelStream { incoming, chunk: Bytes::new(), outgoing, _dropped: dropped.drop_guard() })
    }
}

async fn send(mut sender: Sender, mut to_send: mpsc::Receiver<Bytes>) {
    while let Some(data) = to_send.recv().await {
        if sender.send(host::TunnelRequest { data: data.into(), ..Default::default() }).await.is_err() {
            // The other direction tells why.
            return;
        }
    }
    sender.close_send();
}

/// Until the host ends the call, or nobody reads it any more: dropping it then ends it.
async fn receive(
    mut receiver: Receiver,
    received: mpsc::Sender<io::Result<Bytes>>,
    dropped: CancellationToken,
) {
    let mut received = Some(received);
    loop {
        let unread = async {
            match &received {
                Some(received) => received.closed().await,
                // What was written last is on its way to a guest that has nothing more to say.
                None => {
                    dropped.cancelled().await;
                    tokio::time::sleep(LINGER).await;
                }
            }
        };
        let message = tokio::select! {
            message = receiver.message() => message,
            () = unread => return,
        };
        let item = match message {
            Ok(Some(message)) if message.view().end => {
                received = None;
                continue;
            }
            // The view borrows from the message's buffer: no copy is made.
            Ok(Some(message)) => Ok(message.bytes().slice_ref(message.view().data)),
            // Either way nobody said that it is complete.
            Ok(None) => Err(io::ErrorKind::ConnectionReset.into()),
            Err(error) => Err(io::Error::new(io::ErrorKind::ConnectionReset, HostError::from(error))),
        };
        let Some(received) = &received else { return };
        let last = item.is_err();
        if received.send(item).await.is_err() || last {
            return;
        }
    }
}

/// A connection to a port of a guest. Each direction ends by itself; dropping it ends both. A sandbox that ends breaks it, which is
/// told apart from the guest's own end.
#[derive(Debug)]
pub struct TunnelStream {
    incoming: mpsc::Receiver<io::Result<Bytes>>,
    /// What is left of the last message.
    chunk: Bytes,
    outgoing: Option<PollSender<Bytes>>,
    _dropped: DropGuard,
}

impl AsyncRead for TunnelStream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        while self.chunk.is_empty() {
            match ready!(self.incoming.poll_recv(cx)) {
                Some(chunk) => self.chunk = chunk?,
                None => return Poll::Ready(Ok(())),
            }
        }
        let length = self.chunk.len().min(buf.remaining());
        buf.put_slice(self.chunk.get(..length).unwrap_or_default());
        self.chunk.advance(length);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for TunnelStream {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let gone = || io::Error::from(io::ErrorKind::BrokenPipe);
        let outgoing = self.outgoing.as_mut().ok_or_else(gone)?;
        ready!(outgoing.poll_reserve(cx)).map_err(|_| gone())?;
        let chunk = bytes.get(..CHUNK).unwrap_or(bytes);
        outgoing.send_item(Bytes::copy_from_slice(chunk)).map_err(|_| gone())?;
        Poll::Ready(Ok(chunk.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        // What was written is on its way.
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.outgoing = None;
        Poll::Ready(Ok(()))
    }
}

impl Connection for TunnelStream {
    fn connected(&self) -> Connected {
        Connected::new()
    }
}
