//! One host's calls, typed and with deadlines.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use connectrpc::client::{
    BidiRecvHalf, BidiSendHalf, BidiStream, CallOptions, ClientConfig, Http2Connection, ServerStream,
};
use connectrpc::{CompressionRegistry, ConnectError};
use futures::Stream;
use http::Uri;
use rustls::pki_types::ServerName;
use sandbar_proto::host;
use sandbar_proto::host::exec_stream_request::Request;
use sandbar_types::Id;
use sandbar_types::id::{Host, Sandbox, Template};
use tokio::sync::{AcquireError, Semaphore, SemaphorePermit, watch};
use tokio_rustls::TlsConnector;

use super::circuit::{Breaker, Circuit};
use super::connect::Connect;
use super::measured::Measured;
use super::tunnel::Lanes;
use super::{HostError, Reason};
use crate::pki::host_name;
use crate::sandboxes::{ExecEvent, TerminalOutput};

pub(super) type ResponseBody = <Measured as connectrpc::client::ClientTransport>::ResponseBody;

/// Requests that may wait for the connection. More would mean that the host is gone.
const QUEUE: usize = 1024;
/// Network policies that are being replaced on one host at the same time, of the turns that all hosts share: one that does not answer
/// leaves the others theirs.
const NETWORK_TURNS: usize = 2;
/// How long a connection may take to be made, TLS included.
const CONNECT_LIMIT: Duration = Duration::from_secs(5);
/// A peer that is gone without a word is noticed by unanswered pings.
const KEEP_ALIVE: Duration = Duration::from_secs(10);
/// Flow-control windows: a file moves at the speed of the disk, not of one round trip per 64 KiB.
const STREAM_WINDOW: u32 = 2 << 20;
const CONNECTION_WINDOW: u32 = 16 << 20;
/// Largest message: an `exec`'s two outputs and some.
const MESSAGE_BYTES: usize = 8 << 20;

/// Calls to one host. Cheap to clone; the connection is made at the first call and again when it broke.
#[derive(Clone)]
pub struct HostClient {
    id: Id<Host>,
    address: Arc<str>,
    rpc: host::HostServiceClient<Measured>,
    lanes: Arc<Lanes>,
    breaker: Arc<Breaker>,
    probe_limit: Duration,
    network_turns: Arc<Semaphore>,
}

impl HostClient {
    pub(super) fn new(
        id: Id<Host>,
        address: &str,
        tls: Arc<rustls::ClientConfig>,
        probe_limit: Duration,
    ) -> Self {
        let address: Arc<str> = address.into();
        let name = host_name(id);
        let connect = Connect {
            address: Arc::clone(&address),
            name: ServerName::from(dns(&name)),
            tls: TlsConnector::from(tls),
        };
        let uri = base_uri(&name);
        let windows = Windows { stream: STREAM_WINDOW, connection: CONNECTION_WINDOW };
        let rpc = rpc(id, connect.clone(), uri.clone(), windows);
        let lanes = Arc::new(Lanes::new(id, connect, uri));
        let network_turns = Arc::new(Semaphore::new(NETWORK_TURNS));
        Self { id, address, rpc, lanes, breaker: Breaker::new(), probe_limit, network_turns }
    }

    /// The connections that tunnels go through.
    pub(super) fn lanes(&self) -> &Lanes {
        &self.lanes
    }

    /// Waits for this host's turn to replace a network policy. The semaphore is never closed.
    pub(crate) async fn network_turn(&self) -> Result<SemaphorePermit<'_>, AcquireError> {
        self.network_turns.acquire().await
    }

    /// The host.
    #[must_use]
    pub const fn id(&self) -> Id<Host> {
        self.id
    }

    pub(super) const fn rpc(&self) -> &host::HostServiceClient<Measured> {
        &self.rpc
    }

    pub(super) fn address(&self) -> &str {
        &self.address
    }

    /// Whether the host answers, and each change of that.
    #[must_use]
    pub fn circuit(&self) -> watch::Receiver<Circuit> {
        self.breaker.state()
    }

    /// Makes one call, unless the host is known not to answer. A stream in both directions is no call before it brought a message, or a
    /// failure: connecting goes on behind its back.
    pub(super) async fn call<T>(
        &self,
        rpc: impl Future<Output = Result<T, ConnectError>>,
    ) -> Result<T, HostError> {
        if self.breaker.is_open() {
            let error = ConnectError::unavailable("the host has not answered of late");
            return Err(HostError::Unreachable(error.into()));
        }
        let answer = rpc.await.map_err(HostError::from);
        answer.inspect_err(|error| self.note(error))
    }

    /// A call failed: where that is because no answer came, the host is asked whether it still gives any.
    fn note(&self, error: &HostError) {
        if matches!(error, HostError::Unreachable(_) | HostError::Deadline(_)) {
            let (rpc, limit) = (self.rpc.clone(), self.probe_limit);
            self.breaker.suspect(limit, move || {
                let rpc = rpc.clone();
                let request = host::GetHealthRequest::default();
                async move { rpc.get_health_with_options(request, within(limit)).await.is_ok() }
            });
        }
    }

    /// Whether the agent serves, and what it is.
    pub async fn health(&self, limit: Duration) -> Result<host::GetHealthResponse, HostError> {
        let request = host::GetHealthRequest::default();
        Ok(self.call(self.rpc.get_health_with_options(request, within(limit))).await?.into_owned())
    }

    /// The host's inventory.
    pub async fn list_sandboxes(&self, limit: Duration) -> Result<host::ListSandboxesResponse, HostError> {
        let request = host::ListSandboxesRequest::default();
        Ok(self.call(self.rpc.list_sandboxes_with_options(request, within(limit))).await?.into_owned())
    }

    /// Makes a sandbox.
    pub async fn create_sandbox(
        &self,
        request: host::CreateSandboxRequest,
        limit: Duration,
    ) -> Result<host::Sandbox, HostError> {
        let answer =
            self.call(self.rpc.create_sandbox_with_options(request, within(limit))).await?.into_owned();
        answer.sandbox.into_option().ok_or(HostError::Protocol("no sandbox in the answer to a create"))
    }

    /// Ends a sandbox. One that the host does not know is a success.
    pub async fn destroy_sandbox(&self, id: Id<Sandbox>, limit: Duration) -> Result<(), HostError> {
        let request = host::DestroySandboxRequest { id: id.to_string(), ..Default::default() };
        let answer = self.call(self.rpc.destroy_sandbox_with_options(request, within(limit))).await;
        match answer {
            // A host may also put it as a refusal.
            Err(error) if error.reason() != Some(Reason::REASON_SANDBOX_NOT_FOUND) => Err(error),
            Ok(_) | Err(_) => Ok(()),
        }
    }

    /// Counts as activity.
    pub async fn ping_sandbox(&self, id: Id<Sandbox>, limit: Duration) -> Result<host::Sandbox, HostError> {
        let request = host::PingSandboxRequest { id: id.to_string(), ..Default::default() };
        let answer =
            self.call(self.rpc.ping_sandbox_with_options(request, within(limit))).await?.into_owned();
        answer.sandbox.into_option().ok_or(HostError::Protocol("no sandbox in the answer to a ping"))
    }

    /// Runs a command to its end.
    pub async fn exec(
        &self,
        request: host::ExecRequest,
        limit: Duration,
    ) -> Result<host::ExecResponse, HostError> {
        Ok(self.call(self.rpc.exec_with_options(request, within(limit))).await?.into_owned())
    }

    /// Starts a command, or comes back to one, and streams it. The stream has no deadline of its own: the command has.
    pub async fn exec_stream(
        &self,
        first: Request,
    ) -> Result<(ExecStreamSender, ExecStreamReceiver), HostError> {
        let opened = async {
            let mut stream: BidiStream<_, _, _> = self.rpc.exec_stream().await?;
            stream.send(request(first)).await?;
            Ok(stream.into_split())
        };
        let (sender, stream) = self.call(opened).await?;
        Ok((ExecStreamSender(sender), ExecStreamReceiver { client: self.clone(), stream, ended: false }))
    }

    /// Writes a file from `open` and `chunk` requests. Dropping the call cuts it off, and the file does not appear.
    pub async fn write_file(
        &self,
        requests: impl Stream<Item = host::WriteFileRequest> + Send + 'static,
        limit: Duration,
    ) -> Result<host::WriteFileResponse, HostError> {
        Ok(self.call(self.rpc.write_file_with_options(requests, within(limit))).await?.into_owned())
    }

    /// Reads a file.
    pub async fn read_file(
        &self,
        request: host::ReadFileRequest,
        limit: Duration,
    ) -> Result<ReadFileStream, HostError> {
        Ok(ReadFileStream(self.call(self.rpc.read_file_with_options(request, within(limit))).await?))
    }

    /// Boots an image and keeps it as a template.
    pub async fn create_template(
        &self,
        id: Id<Template>,
        image: &str,
        size: TemplateSize,
        limit: Duration,
    ) -> Result<host::Template, HostError> {
        let request = host::CreateTemplateRequest {
            id: id.to_string(),
            image: image.to_owned(),
            vcpus: size.vcpus,
            memory_mb: size.memory_mb,
            ..Default::default()
        };
        let answer =
            self.call(self.rpc.create_template_with_options(request, within(limit))).await?.into_owned();
        answer.template.into_option().ok_or(HostError::Protocol("no template in the answer"))
    }
}

/// Flow-control windows of a connection to a host.
#[derive(Debug, Clone, Copy)]
pub(super) struct Windows {
    pub(super) stream: u32,
    pub(super) connection: u32,
}

/// The host's service, over a connection of its own.
pub(super) fn rpc(
    id: Id<Host>,
    connect: Connect,
    uri: Uri,
    windows: Windows,
) -> host::HostServiceClient<Measured> {
    let transport = Http2Connection::builder()
        .establishment_timeout(CONNECT_LIMIT)
        .keep_alive_interval(KEEP_ALIVE)
        .keep_alive_timeout(KEEP_ALIVE)
        .initial_stream_window_size(windows.stream)
        .initial_connection_window_size(windows.connection)
        .lazy_with_connector(connect, uri.clone())
        .shared(QUEUE);
    let config = ClientConfig::new(uri)
        .with_default_max_message_size(MESSAGE_BYTES)
        // Hosts are near: compressing output and files would cost them far more time than it saves on the wire.
        .with_compression(CompressionRegistry::new());
    host::HostServiceClient::new(Measured::new(transport, id), config)
}

/// The size of a template's machine.
#[derive(Debug, Clone, Copy)]
pub struct TemplateSize {
    /// Virtual CPUs.
    pub vcpus: u32,
    /// Memory in MiB.
    pub memory_mb: u32,
}

/// The way into a streamed command.
pub struct ExecStreamSender(BidiSendHalf<host::ExecStreamRequest>);

impl ExecStreamSender {
    /// Bytes for standard input.
    pub async fn stdin(&mut self, data: Bytes) -> Result<(), HostError> {
        Ok(self.0.send(request(Request::Stdin(data.into()))).await?)
    }

    /// Closes standard input.
    pub async fn close_stdin(&mut self) -> Result<(), HostError> {
        Ok(self.0.send(request(Request::CloseStdin(true))).await?)
    }

    /// Gives the terminal another size.
    pub async fn resize(&mut self, size: host::TerminalSize) -> Result<(), HostError> {
        Ok(self.0.send(request(Request::from(size))).await?)
    }

    /// Kills the command.
    pub async fn stop(&mut self) -> Result<(), HostError> {
        Ok(self.0.send(request(Request::Stop(true))).await?)
    }
}

/// The way out of a streamed command. Dropping it ends the call.
pub struct ExecStreamReceiver {
    /// Whose host is suspected where the stream breaks.
    client: HostClient,
    stream: BidiRecvHalf<ResponseBody, host::ExecStreamResponseView<'static>>,
    ended: bool,
}

impl ExecStreamReceiver {
    /// The next event; none after the command's end. A stream that ends without telling how the command ended is an error.
    pub async fn next(&mut self) -> Result<Option<ExecEvent>, HostError> {
        use host::exec_stream_response::Response;
        if self.ended {
            return Ok(None);
        }
        let message = self.stream.message().await.map_err(HostError::from);
        let Some(message) = message.inspect_err(|error| self.client.note(error))? else {
            return Err(HostError::Protocol("the stream ended before the command"));
        };
        Ok(match message.to_owned_message().response {
            Some(Response::Started(pid)) => Some(ExecEvent::Started { pid }),
            Some(Response::Stdout(data)) => Some(ExecEvent::Stdout(data.into())),
            Some(Response::Stderr(data)) => Some(ExecEvent::Stderr(data.into())),
            Some(Response::Terminal(output)) => Some(ExecEvent::Terminal(TerminalOutput {
                data: output.data.into(),
                offset: output.offset,
                dropped: output.dropped,
            })),
            Some(Response::Exit(exit)) => {
                self.ended = true;
                Some(ExecEvent::Exit { exit_code: exit.exit_code, status: exit.status.clone() })
            }
            None => return Err(HostError::Protocol("an empty event of a command")),
        })
    }
}

/// A file being read.
pub struct ReadFileStream(ServerStream<ResponseBody, host::ReadFileResponseView<'static>>);

impl ReadFileStream {
    /// The next chunk, and with the first one the file's state; none at the end.
    pub async fn next(&mut self) -> Result<Option<(Bytes, Option<String>)>, HostError> {
        let Some(message) = self.0.message().await? else { return Ok(None) };
        let state = Some(message.view().etag).filter(|state| !state.is_empty()).map(str::to_owned);
        // The view borrows from the message's buffer: no copy is made.
        Ok(Some((message.bytes().slice_ref(message.view().chunk), state)))
    }
}

fn request(request: Request) -> host::ExecStreamRequest {
    host::ExecStreamRequest { request: Some(request), ..Default::default() }
}

pub(super) fn within(limit: Duration) -> CallOptions {
    CallOptions::default().with_timeout(limit)
}

fn dns(name: &str) -> rustls::pki_types::DnsName<'static> {
    rustls::pki_types::DnsName::try_from(name.to_owned()).expect("a UUID and a fixed suffix are a DNS name")
}

fn base_uri(name: &str) -> Uri {
    format!("https://{name}").parse().expect("a DNS name makes a URI")
}
