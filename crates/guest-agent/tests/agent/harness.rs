//! Starts agents and talks to them.

use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use bytes::Bytes;
use connectrpc::ConnectError;
use connectrpc::client::{CallOptions, ClientConfig, HttpClient, ServerStream};
use http::{HeaderMap, Method, Request, StatusCode};
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt, Full};
use hyper_util::client::legacy::Client;
use hyper_util::rt::TokioExecutor;
use sandbar_proto::filesystem::FilesystemClient;
use sandbar_proto::process::process_event::data_event::Output;
use sandbar_proto::process::process_event::{EndEvent, Event};
use sandbar_proto::process::{ProcessClient, ProcessConfig, ProcessEvent, StartRequest, StartResponse};
use tempfile::TempDir;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};

pub(crate) const TOKEN: &str = "the-token-of-this-sandbox";

/// A running agent with a folder of its own. It ends with the test.
pub(crate) struct Agent {
    child: Child,
    pub(crate) address: SocketAddr,
    pub(crate) dir: TempDir,
    args: Vec<String>,
}

/// What a plain request came back with.
pub(crate) struct Reply {
    pub(crate) status: StatusCode,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Bytes,
}

impl Reply {
    pub(crate) fn text(&self) -> &str {
        std::str::from_utf8(&self.body).unwrap()
    }

    pub(crate) fn json(&self) -> serde_json::Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|error| panic!("{error}: {}", self.text()))
    }
}

impl Agent {
    /// An agent that has no token yet.
    pub(crate) fn bare(args: &[&str]) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let args: Vec<String> = args.iter().map(|arg| (*arg).to_owned()).collect();
        let (child, address) = launch(dir.path(), &args);
        Self { child, address, dir, args }
    }

    /// An agent that is a sandbox: with a token, and root as its default user.
    pub(crate) async fn start() -> Self {
        Self::start_with(&[], serde_json::json!({})).await
    }

    /// As [`Self::start`], with more arguments and more for `/init`.
    pub(crate) async fn start_with(args: &[&str], init: serde_json::Value) -> Self {
        let agent = Self::bare(args);
        let mut body = serde_json::json!({ "accessToken": TOKEN, "defaultUser": "root" });
        body.as_object_mut().unwrap().extend(init.as_object().unwrap().clone());
        let reply = agent.request(Method::POST, "/init", &[], body.to_string()).await;
        assert_eq!(reply.status, StatusCode::NO_CONTENT, "{}", reply.text());
        agent
    }

    /// Kills the agent and starts another over the same state, as init does.
    pub(crate) fn restart(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
        (self.child, self.address) = launch(self.dir.path(), &self.args);
    }

    /// A path below the test's own folder.
    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// A path below the test's own folder, as text.
    pub(crate) fn at(&self, name: &str) -> String {
        self.path(name).to_str().unwrap().to_owned()
    }

    /// The most memory that the agent ever had, in MiB.
    pub(crate) fn peak_memory_mib(&self) -> u64 {
        self.status("VmHWM:") / 1024
    }

    /// The memory that the agent has now, in KiB.
    pub(crate) fn memory_kib(&self) -> u64 {
        self.status("VmRSS:")
    }

    fn status(&self, field: &str) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id())).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix(field)).unwrap();
        line.split_whitespace().next().unwrap().parse().unwrap()
    }

    /// How many descriptors the agent has open.
    pub(crate) fn descriptors(&self) -> usize {
        std::fs::read_dir(format!("/proc/{}/fd", self.child.id())).unwrap().count()
    }

    /// How many of the kernel's event queues the agent has open.
    pub(crate) fn inotify_queues(&self) -> usize {
        let descriptors = std::fs::read_dir(format!("/proc/{}/fd", self.child.id())).unwrap();
        descriptors
            .filter_map(|descriptor| std::fs::read_link(descriptor.unwrap().path()).ok())
            .filter(|target| target.to_str() == Some("anon_inode:inotify"))
            .count()
    }

    /// Waits until the agent has so many of them open.
    pub(crate) async fn until_queues(&self, count: usize) {
        while self.inotify_queues() != count {
            // A request is a turn for everything else.
            self.request(Method::GET, "/health", &[], "").await;
        }
    }

    /// Waits until the agent has a file without a name open that is so long.
    pub(crate) async fn until_open_without_a_name(&self, bytes: u64) {
        while !self.has_open_without_a_name(bytes) {
            // A request is a turn for everything else.
            self.request(Method::GET, "/health", &[], "").await;
        }
    }

    /// Waits until it has no such file open any more.
    pub(crate) async fn until_none_without_a_name(&self) {
        while self.has_open_without_a_name(1) {
            self.request(Method::GET, "/health", &[], "").await;
        }
    }

    fn has_open_without_a_name(&self, bytes: u64) -> bool {
        let descriptors = std::fs::read_dir(format!("/proc/{}/fd", self.child.id())).unwrap();
        let is_it = |path: &Path| {
            let metadata = std::fs::metadata(path);
            metadata.is_ok_and(|file| file.is_file() && file.nlink() == 0 && file.len() >= bytes)
        };
        descriptors.flatten().any(|descriptor| is_it(&descriptor.path()))
    }

    /// A request without the token.
    pub(crate) async fn request(
        &self,
        method: Method,
        path: &str,
        headers: &[(&str, &str)],
        body: impl Into<Bytes>,
    ) -> Reply {
        self.send(method, path, headers, Full::new(body.into()).map_err(|never| match never {}).boxed())
            .await
            .unwrap()
    }

    /// A request with the token.
    pub(crate) async fn call(
        &self,
        method: Method,
        path: &str,
        headers: &[(&str, &str)],
        body: impl Into<Bytes>,
    ) -> Reply {
        let headers = [&[("x-access-token", TOKEN)], headers].concat();
        self.request(method, path, &headers, body).await
    }

    pub(crate) async fn send(
        &self,
        method: Method,
        path: &str,
        headers: &[(&str, &str)],
        body: BoxBody<Bytes, std::io::Error>,
    ) -> Result<Reply, Box<dyn std::error::Error>> {
        let client = Client::builder(TokioExecutor::new()).build_http();
        let mut request = Request::builder().method(method).uri(format!("http://{}{path}", self.address));
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let response = client.request(request.body(body)?).await?;
        let (parts, body) = response.into_parts();
        Ok(Reply { status: parts.status, headers: parts.headers, body: body.collect().await?.to_bytes() })
    }

    /// A connection of its own, from any of this machine's addresses.
    pub(crate) async fn connect_from(&self, source: &str) -> TcpStream {
        let socket = TcpSocket::new_v4().unwrap();
        socket.bind(SocketAddr::new(source.parse().unwrap(), 0)).unwrap();
        socket.connect(self.address).await.unwrap()
    }

    /// How to reach the agent's RPCs with the token, in JSON as E2B's SDKs do.
    pub(crate) fn config(&self) -> ClientConfig {
        self.config_with(TOKEN)
    }

    /// The same with another token.
    pub(crate) fn config_with(&self, token: &str) -> ClientConfig {
        ClientConfig::new(format!("http://{}", self.address).parse().unwrap())
            .json()
            .with_default_header("x-access-token", token)
    }

    pub(crate) fn processes(&self) -> ProcessClient<HttpClient> {
        ProcessClient::new(HttpClient::plaintext(), self.config())
    }

    pub(crate) fn filesystem(&self) -> FilesystemClient<HttpClient> {
        FilesystemClient::new(HttpClient::plaintext(), self.config())
    }

    /// Runs a shell script to its end.
    pub(crate) async fn sh(&self, script: &str) -> Finished {
        self.run(start("/bin/sh", &["-c", script]), CallOptions::default()).await.unwrap()
    }

    /// Runs a process to its end.
    pub(crate) async fn run(
        &self,
        request: StartRequest,
        options: CallOptions,
    ) -> Result<Finished, ConnectError> {
        let stream = self.processes().start_with_options(request, options).await?;
        Following::new(stream).finish().await
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        // Its processes would outlive it, as they do in a sandbox. Each leads a group.
        let children = format!("/proc/{0}/task/{0}/children", self.child.id());
        for child in std::fs::read_to_string(children).unwrap_or_default().split_whitespace() {
            if let Some(leader) = child.parse().ok().and_then(rustix::process::Pid::from_raw) {
                let _ = rustix::process::kill_process_group(leader, rustix::process::Signal::KILL);
            }
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn launch(dir: &Path, args: &[String]) -> (Child, SocketAddr) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_sandbar-guest-agent"));
    command.args(["--listen", "127.0.0.1", "--port", "0", "--gateway", "127.0.0.1", "--no-system-changes"]);
    command.arg("--state-file").arg(dir.join("state.json"));
    if !args.iter().any(|arg| arg == "--ready-port") {
        command.arg("--no-ready-push");
    }
    let mut child = command.args(args).stdout(Stdio::piped()).spawn().unwrap();
    let mut line = String::new();
    BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
    let address = line.trim().strip_prefix("listening on ").unwrap_or_else(|| panic!("agent said {line:?}"));
    (child, address.parse().unwrap())
}

/// Sends a request without a body over a connection as it is, and returns the status.
pub(crate) async fn status_of(
    stream: &mut TcpStream,
    method: Method,
    path: &str,
    token: Option<&str>,
) -> u16 {
    let token = token.map(|token| format!("x-access-token: {token}\r\n")).unwrap_or_default();
    let head = format!("{method} {path} HTTP/1.1\r\nhost: sandbox\r\ncontent-length: 0\r\n{token}\r\n");
    stream.write_all(head.as_bytes()).await.unwrap();
    let mut line = String::new();
    tokio::io::BufReader::new(stream).read_line(&mut line).await.unwrap();
    line.split_whitespace().nth(1).unwrap_or_else(|| panic!("{line:?}")).parse().unwrap()
}

/// A request to start a program without input.
pub(crate) fn start(cmd: &str, args: &[&str]) -> StartRequest {
    let config = ProcessConfig {
        cmd: cmd.to_owned(),
        args: args.iter().map(|arg| (*arg).to_owned()).collect(),
        ..Default::default()
    };
    StartRequest { process: config.into(), stdin: Some(false), ..Default::default() }
}

/// All that a process did.
#[derive(Debug, Default)]
pub(crate) struct Finished {
    pub(crate) pid: u32,
    pub(crate) stdout: Vec<u8>,
    pub(crate) stderr: Vec<u8>,
    pub(crate) pty: Vec<u8>,
    pub(crate) dropped: u64,
    pub(crate) keepalives: u32,
    pub(crate) end: EndEvent,
}

impl Finished {
    pub(crate) fn out(&self) -> &str {
        std::str::from_utf8(&self.stdout).unwrap()
    }
}

/// A stream of a process's events, held to the protocol: one start, then output, one end, then nothing.
pub(crate) struct Following<B> {
    stream: ServerStream<B, sandbar_proto::process::StartResponseView<'static>>,
    pub(crate) so_far: Finished,
    offset: u64,
    started: bool,
    ended: bool,
}

impl<B> Following<B>
where
    B: http_body::Body<Data = Bytes> + Unpin,
    B::Error: std::error::Error + Send + Sync + 'static,
{
    pub(crate) fn new(stream: ServerStream<B, sandbar_proto::process::StartResponseView<'static>>) -> Self {
        Self { stream, so_far: Finished::default(), offset: 0, started: false, ended: false }
    }

    /// Takes one event in. False once the stream is over.
    pub(crate) async fn step(&mut self) -> Result<bool, ConnectError> {
        let Some(message) = self.stream.message::<StartResponse>().await? else { return Ok(false) };
        self.take(message.to_owned_message().event.into_option().expect("an event"));
        Ok(true)
    }

    fn take(&mut self, event: ProcessEvent) {
        assert!(!self.ended, "{event:?} after the end");
        match event.event.expect("a kind of event") {
            Event::Start(start) => {
                assert!(!self.started, "a second start");
                self.started = true;
                self.so_far.pid = start.pid;
            }
            Event::Data(data) => {
                assert!(self.started, "output before the start");
                assert_eq!(data.offset, self.offset + data.dropped, "offsets without gaps");
                self.so_far.dropped += data.dropped;
                let (kept, bytes) = match data.output.expect("output") {
                    Output::Stdout(bytes) => (&mut self.so_far.stdout, bytes),
                    Output::Stderr(bytes) => (&mut self.so_far.stderr, bytes),
                    Output::Pty(bytes) => (&mut self.so_far.pty, bytes),
                };
                assert!(!bytes.is_empty() && bytes.len() <= 32 * 1024, "a chunk of {}", bytes.len());
                self.offset = data.offset + bytes.len() as u64;
                kept.extend(bytes);
            }
            Event::Keepalive(_) => self.so_far.keepalives += 1,
            Event::End(end) => {
                self.ended = true;
                self.so_far.end = *end;
            }
        }
    }

    /// Reads until the process was started, and returns its pid.
    pub(crate) async fn pid(&mut self) -> u32 {
        while !self.started {
            assert!(self.step().await.unwrap(), "the stream ended before the start");
        }
        self.so_far.pid
    }

    /// Reads until standard output contains `text`.
    pub(crate) async fn until(&mut self, text: &str) {
        let seen = |all: &Finished| {
            [&all.stdout, &all.pty].iter().any(|bytes| String::from_utf8_lossy(bytes).contains(text))
        };
        while !seen(&self.so_far) {
            assert!(self.step().await.unwrap(), "{text:?} did not come: {:?}", self.so_far);
        }
    }

    pub(crate) async fn finish(mut self) -> Result<Finished, ConnectError> {
        while self.step().await? {}
        assert!(self.ended, "no end: {:?}", self.so_far.end);
        Ok(self.so_far)
    }
}
