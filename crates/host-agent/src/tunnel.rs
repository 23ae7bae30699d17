//! A byte stream to a port of a guest: what the control plane carries its callers' connections through.
//!
//! The guest's own address first; where nobody listens there, its loopback, which only its agent reaches (`GET /connect` with an
//! upgrade): many servers bind to that alone. Each direction ends by itself, and both when the sandbox does. Constant memory: whoever
//! reads slowly holds back the other side.

use std::io;
use std::pin::Pin;

use bytes::{Bytes, BytesMut};
use connectrpc::{ConnectError, InboundStream};
use futures::StreamExt as _;
use http::header::{CONNECTION, HOST, UPGRADE};
use http::{Request, StatusCode};
use http_body_util::Empty;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use sandbar_proto::host::{TunnelRequest, TunnelResponse};
use sandbar_types::guest::AGENT_PORT;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tokio::time::timeout;
use tokio_stream::wrappers::ReceiverStream;

use crate::error::{Error, chain};
use crate::guest::{CONNECT_TIMEOUT, GuestClient};
use crate::sandbox::Visit;

/// What one stream of the control plane may have on its way here, ...
pub(crate) const STREAM_WINDOW: u32 = 1 << 20;
/// ... and all streams of a connection together: as much as they can have each, so that one whose guest does not read holds up
/// no other. (HTTP/2 allows 200 streams here.)
pub(crate) const CONNECTION_WINDOW: u32 = 256 << 20;

/// What is read from a guest at once.
const CHUNK: usize = 64 * 1024;
/// Chunks on their way to the caller.
const CHUNKS_IN_FLIGHT: usize = 2;

/// A connection into a guest.
struct Inside {
    reader: Pin<Box<dyn AsyncRead + Send>>,
    writer: Pin<Box<dyn AsyncWrite + Send>>,
}

/// Opens a port and carries its bytes until both directions have ended, the caller goes away, or the sandbox does.
pub(crate) async fn open(
    mut visit: Visit,
    port: u16,
    requests: InboundStream<TunnelRequest>,
) -> Result<ReceiverStream<Result<TunnelResponse, ConnectError>>, Error> {
    let guest = visit.guest.clone();
    let inside = tokio::select! {
        inside = dial(&guest, port) => inside?,
        ended = visit.ended() => return Err(ended),
    };
    let (replies, stream) = mpsc::channel(CHUNKS_IN_FLIGHT);
    tokio::spawn(carry(visit, inside, requests, replies));
    Ok(ReceiverStream::new(stream))
}

async fn carry(
    mut visit: Visit,
    inside: Inside,
    requests: InboundStream<TunnelRequest>,
    replies: mpsc::Sender<Result<TunnelResponse, ConnectError>>,
) {
    let Inside { reader, writer } = inside;
    let both = async { tokio::try_join!(inward(requests, writer), outward(reader, &replies)) };
    let outcome = tokio::select! {
        outcome = both => outcome.map(|_| ()),
        ended = visit.ended() => Err(ended),
        () = replies.closed() => return,
    };
    if let Err(error) = outcome {
        // The caller may be gone, too.
        let _gone = replies.send(Err(error.into())).await;
    }
}

async fn inward(
    mut requests: InboundStream<TunnelRequest>,
    mut guest: Pin<Box<dyn AsyncWrite + Send>>,
) -> Result<(), Error> {
    while let Some(request) = requests.next().await {
        let request = request.map_err(|error| Error::BadInput(format!("the tunnel broke off: {error}")))?;
        if guest.write_all(request.view().data).await.is_err() {
            // It does not want more, but may have something to say yet.
            return Ok(());
        }
    }
    // That it is gone already is for the other direction to notice.
    let _gone = guest.shutdown().await;
    Ok(())
}

async fn outward(
    mut guest: Pin<Box<dyn AsyncRead + Send>>,
    replies: &mpsc::Sender<Result<TunnelResponse, ConnectError>>,
) -> Result<(), Error> {
    let mut buffer = BytesMut::new();
    let opened = TunnelResponse::default();
    let mut reply = opened;
    loop {
        let last = reply.end;
        // A caller that is gone ends all of it.
        if replies.send(Ok(reply)).await.is_err() || last {
            return Ok(());
        }
        buffer.reserve(CHUNK);
        let read = guest.read_buf(&mut buffer).await.map_err(|error| broken_off(&error))?;
        let data = buffer.split().freeze();
        reply = TunnelResponse { data: data.into(), end: read == 0, ..Default::default() };
    }
}

fn broken_off(error: &io::Error) -> Error {
    Error::GuestUnreachable(format!("the connection into the guest broke off: {error}"))
}

/// Connects to whoever listens on the port, wherever in the guest.
async fn dial(guest: &GuestClient, port: u16) -> Result<Inside, Error> {
    match connect(guest, port).await {
        Ok(stream) => {
            let (reader, writer) = stream.into_split();
            Ok(Inside { reader: Box::pin(reader), writer: Box::pin(writer) })
        }
        Err(Error::PortClosed(_)) if port != AGENT_PORT => by_the_agent(guest, port).await,
        Err(error) => Err(error),
    }
}

pub(crate) async fn connect(guest: &GuestClient, port: u16) -> Result<TcpStream, Error> {
    let connected = timeout(CONNECT_TIMEOUT, TcpStream::connect((guest.address(), port))).await;
    let late = |_| Error::Timeout(format!("what listens on port {port} takes no connections"));
    match connected.map_err(late)? {
        Ok(stream) => {
            // What is small must not wait for the guest's acknowledgement.
            stream.set_nodelay(true).map_err(Error::internal("set TCP_NODELAY"))?;
            Ok(stream)
        }
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => Err(Error::PortClosed(port)),
        Err(error) => Err(Error::GuestUnreachable(chain(&error))),
    }
}

/// To a server on the guest's loopback, through its agent.
async fn by_the_agent(guest: &GuestClient, port: u16) -> Result<Inside, Error> {
    let failed = |error: hyper::Error| Error::GuestUnreachable(chain(&error));
    let answered = async {
        let stream = connect(guest, AGENT_PORT).await?;
        let (mut sender, connection) =
            http1::handshake::<_, Empty<Bytes>>(TokioIo::new(stream)).await.map_err(failed)?;
        tokio::spawn(connection.with_upgrades());
        let (token_header, token) = guest.credential();
        let request = Request::get(format!("/connect?port={port}"))
            .header(HOST, "guest")
            .header(token_header, token)
            .header(CONNECTION, "upgrade")
            .header(UPGRADE, "tcp")
            .body(Empty::new())
            .map_err(Error::internal("ask for a tunnel"))?;
        let response = sender.send_request(request).await.map_err(failed)?;
        match response.status() {
            StatusCode::SWITCHING_PROTOCOLS => hyper::upgrade::on(response).await.map_err(failed),
            StatusCode::BAD_GATEWAY => Err(Error::PortClosed(port)),
            StatusCode::GATEWAY_TIMEOUT => {
                Err(Error::Timeout(format!("what listens on port {port} takes no connections")))
            }
            StatusCode::TOO_MANY_REQUESTS => {
                Err(Error::Busy("the guest has as many tunnels as it takes".into()))
            }
            status => Err(Error::GuestUnreachable(format!("/connect: {status}"))),
        }
    };
    // Twice: it may wait as long itself for whoever listens.
    let late = |_| Error::Timeout("the guest agent did not answer in time".into());
    let upgraded = timeout(2 * CONNECT_TIMEOUT, answered).await.map_err(late)??;
    let (reader, writer) = tokio::io::split(TokioIo::new(upgraded));
    Ok(Inside { reader: Box::pin(reader), writer: Box::pin(writer) })
}
