//! Ports of a simulated host's guests: real servers on this machine.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::{Mutex, PoisonError};

use connectrpc::{ConnectError, InboundStream};
use futures::StreamExt as _;
use sandbar_proto::host as rpc;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;

use super::faults::refusal;
use super::{Agent, Reason};

type Replies = mpsc::Sender<Result<rpc::TunnelResponse, ConnectError>>;

/// Who listens on which port, in every guest.
#[derive(Default)]
pub(super) struct Ports(Mutex<HashMap<u32, SocketAddr>>);

impl Ports {
    pub(super) fn listen(&self, port: u16, address: SocketAddr) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).insert(port.into(), address);
    }

    fn find(&self, port: u32) -> Option<SocketAddr> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).get(&port).copied()
    }
}

pub(super) async fn open(
    agent: &Agent,
    port: u32,
    requests: InboundStream<rpc::TunnelRequest>,
) -> Result<ReceiverStream<Result<rpc::TunnelResponse, ConnectError>>, ConnectError> {
    let closed = || refusal(Reason::REASON_PORT_CLOSED);
    let address = agent.ports.find(port).ok_or_else(closed)?;
    let stream = TcpStream::connect(address).await.map_err(|_| closed())?;
    let (reader, writer) = stream.into_split();
    let (replies, stream) = mpsc::channel(2);
    tokio::spawn(async move {
        tokio::select! {
            _ = async { tokio::join!(inward(requests, writer), outward(reader, &replies)) } => {}
            () = replies.closed() => {}
        }
    });
    Ok(ReceiverStream::new(stream))
}

async fn inward(mut requests: InboundStream<rpc::TunnelRequest>, mut server: OwnedWriteHalf) {
    while let Some(Ok(request)) = requests.next().await {
        if server.write_all(request.view().data).await.is_err() {
            return;
        }
    }
    let _ = server.shutdown().await;
}

async fn outward(mut server: OwnedReadHalf, replies: &Replies) {
    let mut reply = rpc::TunnelResponse::default();
    let mut buffer = vec![0; 64 * 1024];
    loop {
        let last = reply.end;
        if replies.send(Ok(reply)).await.is_err() || last {
            return;
        }
        let read = server.read(&mut buffer).await.unwrap_or(0);
        let data = buffer.get(..read).unwrap_or_default().to_vec();
        reply = rpc::TunnelResponse { data, end: read == 0, ..Default::default() };
    }
}
