//! The host's side of the guest agent: identity, commands and files, over HTTP through the sandbox's TAP device.
//!
//! A client belongs to one sandbox and dies with it: addresses are used again, connections and tokens must not be.

use std::net::Ipv4Addr;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use bytes::Bytes;
use connectrpc::client::{BoxFuture, CallOptions, ClientBody, ClientConfig, ClientTransport, HttpClient};
use connectrpc::{CompressionRegistry, ConnectError, ErrorCode};
use http::header::{ETAG, IF_MATCH, IF_NONE_MATCH};
use http::{HeaderMap, HeaderValue, Method, StatusCode, Uri};
use http_body_util::{BodyExt as _, Full, Limited, combinators::BoxBody};
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::client::legacy::{self, Client};
use hyper_util::rt::TokioExecutor;
use sandbar_proto::filesystem::FilesystemClient;
use sandbar_proto::host::Command;
use sandbar_proto::host::write_file_request::Open;
use sandbar_proto::process::{ProcessClient, ProcessConfig};
use sandbar_trace::Span;
use sandbar_types::guest::AGENT_PORT;

use crate::error::{Error, chain};
use crate::logs::Heard;

/// The header that carries the guest's token.
const TOKEN_HEADER: &str = "x-access-token";
/// A guest that runs takes a connection at once; after this it is not going to.
pub(crate) const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// The longest answer of the guest that is read, as an error's text and otherwise: a path in JSON at most.
const ERROR_TEXT_BYTES: usize = 4096;
const ANSWER_BYTES: usize = 64 * 1024;
/// The longest word for a file's state that is passed on.
const STATE_BYTES: usize = 256;
/// How long such an answer may take once it has begun: it is in memory.
const ANSWER_LIMIT: Duration = Duration::from_secs(10);

/// A request's body that may fail half way, which makes the guest drop what it has got.
pub(crate) type RequestBody = BoxBody<Bytes, std::io::Error>;

/// Who a sandbox is, as its guest is told at each restore.
#[derive(Debug)]
pub(crate) struct Identity<'a> {
    /// The only token that the guest takes from now on.
    pub(crate) access_token: &'a str,
    pub(crate) hostname: &'a str,
    /// None: as the guest's memory has it.
    pub(crate) env: Option<Vec<(&'a str, &'a str)>>,
    pub(crate) defaults: Defaults<'a>,
}

/// What commands have that do not say. None: as the guest's memory has it.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Defaults<'a> {
    pub(crate) user: Option<&'a str>,
    pub(crate) workdir: Option<&'a str>,
}

/// A client of one guest's agent.
#[derive(Clone)]
pub(crate) struct GuestClient {
    address: Ipv4Addr,
    base: String,
    access_token: String,
    http: Client<HttpConnector, RequestBody>,
    process: ProcessClient<Traced>,
    filesystem: FilesystemClient<Traced>,
}

/// A connection to a guest's agent. A call that is part of a trace is a span of it, and the guest is told so.
#[derive(Clone)]
pub(crate) struct Traced(HttpClient);

impl ClientTransport for Traced {
    type ResponseBody = <HttpClient as ClientTransport>::ResponseBody;
    type Error = <HttpClient as ClientTransport>::Error;

    fn send(
        &self,
        mut request: http::Request<ClientBody>,
    ) -> BoxFuture<'static, Result<http::Response<Self::ResponseBody>, Self::Error>> {
        let span = span(&mut request);
        let answer = self.0.send(request);
        Box::pin(async move { noted(&span, answer.await) })
    }
}

/// Of a request to a guest's agent, until its answer begins. Of its address the path is told, which no caller chooses.
fn span<B>(request: &mut http::Request<B>) -> Span {
    let span = Span::of_call(format_args!("guest {} {}", request.method(), request.uri().path()));
    span.carry(request.headers_mut());
    span
}

fn noted<B, E>(span: &Span, answer: Result<http::Response<B>, E>) -> Result<http::Response<B>, E> {
    match &answer {
        Ok(response) => span.answered(response.status()),
        Err(_) => span.failed("unreachable"),
    }
    answer
}

impl std::fmt::Debug for GuestClient {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("GuestClient").field("base", &self.base).finish_non_exhaustive()
    }
}

impl GuestClient {
    /// A client of the guest behind `address`, with its token.
    pub(crate) fn new(address: Ipv4Addr, access_token: String) -> Self {
        Self::on_port(address, AGENT_PORT, access_token)
    }

    /// The same, at another port than a guest's agent has.
    pub(crate) fn on_port(address: Ipv4Addr, port: u16, access_token: String) -> Self {
        let base = format!("http://{address}:{port}");
        let mut connector = HttpConnector::new();
        connector.set_nodelay(true);
        connector.set_connect_timeout(Some(CONNECT_TIMEOUT));
        let http = Client::builder(TokioExecutor::new()).build(connector);
        // Compressing would only cost both ends time: between them is memory, not a network.
        let config = ClientConfig::new(base.parse().expect("an address and a port are a URI"))
            .with_compression(CompressionRegistry::new())
            .with_default_header(TOKEN_HEADER, access_token.as_str());
        let rpc = Traced(HttpClient::builder().tcp_connect_timeout(CONNECT_TIMEOUT).plaintext());
        let filesystem = FilesystemClient::new(rpc.clone(), config.clone());
        Self { address, base, access_token, http, process: ProcessClient::new(rpc, config), filesystem }
    }

    /// The address at which this host reaches the guest.
    pub(crate) const fn address(&self) -> Ipv4Addr {
        self.address
    }

    /// The header that the guest agent knows its host by.
    pub(crate) fn credential(&self) -> (&'static str, &str) {
        (TOKEN_HEADER, &self.access_token)
    }

    /// Tells the guest who it is: clock, entropy, hostname, environment and, last, its token. `current_token` is what the
    /// guest's memory holds from before, where it holds one. It serves nothing until this has succeeded.
    pub(crate) async fn init(
        &self,
        identity: &Identity<'_>,
        current_token: Option<&str>,
    ) -> Result<(), Error> {
        let mut entropy = [0; 64];
        getrandom::fill(&mut entropy).map_err(Error::internal("read random bytes"))?;
        let mut body = serde_json::json!({
            "accessToken": identity.access_token,
            "hostname": identity.hostname,
            "entropy": BASE64.encode(entropy),
            "timestampUnixNanos": now_unix_nanos(),
        });
        let Defaults { user, workdir } = identity.defaults;
        for (field, value) in [("defaultUser", user), ("defaultWorkdir", workdir)] {
            if let Some(value) = value {
                body[field] = value.into();
            }
        }
        if let Some(env) = &identity.env {
            let pairs = env.iter().map(|(k, v)| ((*k).to_owned(), serde_json::Value::from(*v)));
            body["envVars"] = serde_json::Value::Object(pairs.collect());
        }
        let mut request = http::Request::builder()
            .method(Method::POST)
            .uri(format!("{}/init", self.base))
            .header(http::header::CONTENT_TYPE, "application/json");
        if let Some(token) = current_token {
            request = request.header(TOKEN_HEADER, token);
        }
        let body = Full::new(Bytes::from(body.to_string())).map_err(|never| match never {}).boxed();
        let request = request.body(body).map_err(Error::internal("build the guest's identity"))?;
        let response = self.ask(request).await.map_err(unreachable)?;
        if response.status().is_success() {
            return Ok(());
        }
        Err(Error::GuestInit(error_text(response).await))
    }

    /// Gets the guest ready to be copied: it is sealed, so that a copy serves nobody until it has been told who it is, and its
    /// filesystems are flushed. After a refusal it serves as before; after any other failure that is not known.
    pub(crate) async fn prepare_snapshot(&self, limit: Duration) -> Result<(), Error> {
        let limit_ms = u64::try_from(limit.as_millis()).unwrap_or(u64::MAX);
        let body = serde_json::json!({ "timeoutMs": limit_ms });
        self.command("/snapshot/prepare", &body, limit + CONNECT_TIMEOUT).await
    }

    /// Lets a guest that was copied serve again, its clock put right. Fine if it was not sealed.
    pub(crate) async fn end_snapshot(&self) -> Result<(), Error> {
        let body = serde_json::json!({ "timestampUnixNanos": now_unix_nanos() });
        self.command("/snapshot/resume", &body, CONNECT_TIMEOUT).await
    }

    /// A request to the guest agent that is answered by success alone.
    pub(crate) async fn command(
        &self,
        path: &str,
        body: &serde_json::Value,
        limit: Duration,
    ) -> Result<(), Error> {
        let body = Full::new(Bytes::from(body.to_string())).map_err(|never| match never {}).boxed();
        let request = http::Request::builder()
            .method(Method::POST)
            .uri(format!("{}{path}", self.base))
            .header(TOKEN_HEADER, &self.access_token)
            .header(http::header::CONTENT_TYPE, "application/json")
            .body(body)
            .map_err(Error::internal("build a request to the guest"))?;
        let answered = tokio::time::timeout(limit, self.ask(request)).await;
        let response =
            answered.map_err(|_| Error::Timeout("the guest agent did not answer in time".into()))?;
        let response = response.map_err(unreachable)?;
        let status = response.status();
        if status.is_success() {
            return Ok(());
        }
        Err(Error::GuestUnreachable(format!("{path}: {status}: {}", error_text(response).await)))
    }

    /// Whether the guest agent answers.
    pub(crate) async fn health(&self) -> Result<(), Error> {
        let empty = Full::default().map_err(|never| match never {}).boxed();
        let request = http::Request::get(format!("{}/health", self.base))
            .body(empty)
            .map_err(Error::internal("build a request to the guest"))?;
        let answered = tokio::time::timeout(CONNECT_TIMEOUT, self.ask(request)).await;
        let response =
            answered.map_err(|_| Error::Timeout("the guest agent did not answer in time".into()))?;
        match response.map_err(unreachable)?.status() {
            status if status.is_success() => Ok(()),
            status => Err(Error::GuestUnreachable(status.to_string())),
        }
    }

    /// Opens the guest's log, from where it was heard last on.
    pub(crate) async fn log(&self, heard: Option<&Heard>) -> Result<LogStream, Error> {
        let query = match heard {
            None => String::new(),
            Some(Heard { instance, seq }) => {
                let mut query = form_urlencoded::Serializer::for_suffix("?".to_owned(), 1);
                query.append_pair("instance", instance).append_pair("after", &seq.to_string());
                query.finish()
            }
        };
        let request = http::Request::get(format!("{}/logs{query}", self.base))
            .header(TOKEN_HEADER, &self.access_token)
            .body(Full::default().map_err(|never| match never {}).boxed())
            .map_err(Error::internal("build a request to the guest"))?;
        let answered = tokio::time::timeout(CONNECT_TIMEOUT, self.ask(request)).await;
        let response =
            answered.map_err(|_| Error::Timeout("the guest agent did not answer in time".into()))?;
        let response = response.map_err(unreachable)?;
        match response.status() {
            StatusCode::OK => Ok(LogStream::Open(response.into_body())),
            StatusCode::NOT_FOUND => Ok(LogStream::Mute),
            _ => Err(refusal(response).await),
        }
    }

    /// The guest's process service.
    pub(crate) fn process(&self) -> &ProcessClient<Traced> {
        &self.process
    }

    /// The guest's filesystem service.
    pub(crate) fn filesystem(&self) -> &FilesystemClient<Traced> {
        &self.filesystem
    }

    /// Options of a call made as `user` (empty: the guest's default user).
    pub(crate) fn options_for(user: &str) -> CallOptions {
        let options = CallOptions::default();
        if user.is_empty() {
            options
        } else {
            options.with_header(http::header::AUTHORIZATION, basic_user(user))
        }
    }

    /// Opens a file for reading, and tells its state where the guest does.
    pub(crate) async fn read_file(
        &self,
        path: &str,
        user: &str,
    ) -> Result<(String, hyper::body::Incoming), Error> {
        let empty = Full::default().map_err(|never| match never {}).boxed();
        let request = self.file_request(Method::GET, path, user, empty)?;
        let response = self.ask(request).await.map_err(unreachable)?;
        if response.status() == StatusCode::OK {
            Ok((state(response.headers()), response.into_body()))
        } else {
            Err(refusal(response).await)
        }
    }

    /// Writes a file whole, and returns its absolute path in the guest and its state, where the guest tells that.
    pub(crate) async fn write_file(&self, open: &Open, body: RequestBody) -> Result<(String, String), Error> {
        #[derive(serde::Deserialize)]
        struct Written {
            path: String,
        }
        let mut request = self.file_request(Method::POST, &open.path, &open.user, body)?;
        if !open.if_match.is_empty() {
            let states = HeaderValue::try_from(&open.if_match);
            let states = states.map_err(|_| Error::BadInput("if-match is no header's value".into()))?;
            request.headers_mut().insert(IF_MATCH, states);
        }
        if open.is_new {
            request.headers_mut().insert(IF_NONE_MATCH, HeaderValue::from_static("*"));
        }
        let response = self.ask(request).await.map_err(unreachable)?;
        if response.status() != StatusCode::OK {
            return Err(refusal(response).await);
        }
        let state = state(response.headers());
        let answer = collect(response, ANSWER_BYTES).await?;
        let written: Vec<Written> = serde_json::from_slice(&answer)
            .map_err(|_| Error::GuestUnreachable("its answer to a write is not JSON".into()))?;
        written
            .into_iter()
            .next()
            .map(|w| (w.path, state))
            .ok_or_else(|| Error::GuestUnreachable("its answer to a write names no file".into()))
    }

    async fn ask(
        &self,
        mut request: http::Request<RequestBody>,
    ) -> Result<http::Response<hyper::body::Incoming>, legacy::Error> {
        let span = span(&mut request);
        noted(&span, self.http.request(request).await)
    }

    fn file_request(
        &self,
        method: Method,
        path: &str,
        user: &str,
        body: RequestBody,
    ) -> Result<http::Request<RequestBody>, Error> {
        let mut query = form_urlencoded::Serializer::new(String::new());
        query.append_pair("path", path);
        if !user.is_empty() {
            query.append_pair("username", user);
        }
        let uri: Uri = format!("{}/files?{}", self.base, query.finish())
            .parse()
            .map_err(|_| Error::BadInput("the path is too long".into()))?;
        http::Request::builder()
            .method(method)
            .uri(uri)
            .header(TOKEN_HEADER, &self.access_token)
            .header(http::header::CONTENT_TYPE, "application/octet-stream")
            .body(body)
            .map_err(Error::internal("build a request to the guest"))
    }
}

/// A guest's log.
pub(crate) enum LogStream {
    Open(hyper::body::Incoming),
    /// Its agent is older than logs are.
    Mute,
}

/// The guest's process configuration for a command.
pub(crate) fn process_config(command: &Command) -> ProcessConfig {
    ProcessConfig {
        cmd: command.cmd.clone(),
        args: command.args.clone(),
        envs: command.env.clone(),
        cwd: (!command.cwd.is_empty()).then(|| command.cwd.clone()),
        ..Default::default()
    }
}

/// What a failed process call means. The host always sends the right token, so a guest that says `unauthenticated` speaks
/// of the user.
pub(crate) fn process_error(error: &ConnectError) -> Error {
    let message = error.message.clone().unwrap_or_default();
    match error.code {
        ErrorCode::InvalidArgument | ErrorCode::Unauthenticated | ErrorCode::PermissionDenied => {
            Error::BadInput(message)
        }
        ErrorCode::NotFound => Error::CommandNotFound(message),
        ErrorCode::DeadlineExceeded => {
            Error::Timeout("the command did not end in time and was killed".into())
        }
        _ => Error::GuestUnreachable(format!("{}: {message}", error.code.as_str())),
    }
}

/// The time, as the guest agent takes it: a number that JSON's readers may not have room for.
fn now_unix_nanos() -> String {
    chrono::Utc::now().timestamp_nanos_opt().unwrap_or_default().to_string()
}

fn basic_user(user: &str) -> String {
    format!("Basic {}", BASE64.encode(format!("{user}:")))
}

fn unreachable<E: std::error::Error + 'static>(error: E) -> Error {
    Error::GuestUnreachable(chain(&error))
}

/// The state of a file, in an answer's head. One that is too long to be kept is none.
fn state(headers: &HeaderMap) -> String {
    let state = headers.get(ETAG).and_then(|state| state.to_str().ok());
    state.filter(|state| state.len() <= STATE_BYTES).unwrap_or_default().to_owned()
}

/// What a file request's refusal means.
async fn refusal(response: http::Response<hyper::body::Incoming>) -> Error {
    let status = response.status();
    let text = error_text(response).await;
    match status {
        StatusCode::BAD_REQUEST | StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => Error::BadInput(text),
        StatusCode::NOT_FOUND => Error::FileNotFound(text),
        StatusCode::PRECONDITION_FAILED => Error::FileChanged(text),
        StatusCode::INSUFFICIENT_STORAGE => Error::GuestDiskFull(text),
        _ => Error::GuestUnreachable(format!("{status}: {text}")),
    }
}

/// An answer whose head has come. The guest is its sandbox's: it may send without end, or nothing any more.
async fn collect(response: http::Response<hyper::body::Incoming>, most: usize) -> Result<Bytes, Error> {
    let body = Limited::new(response.into_body(), most).collect();
    match tokio::time::timeout(ANSWER_LIMIT, body).await {
        Ok(Ok(collected)) => Ok(collected.to_bytes()),
        Ok(Err(error)) => Err(Error::GuestUnreachable(chain(&*error))),
        Err(_) => Err(Error::Timeout("the guest agent did not end its answer in time".into())),
    }
}

/// The message of an error answer `{"code":…,"message":"…"}`, or its text as it is, bounded.
async fn error_text(response: http::Response<hyper::body::Incoming>) -> String {
    #[derive(serde::Deserialize)]
    struct Body {
        message: String,
    }
    let status = response.status();
    let Ok(bytes) = collect(response, ERROR_TEXT_BYTES).await else { return status.to_string() };
    match serde_json::from_slice::<Body>(&bytes) {
        Ok(body) => body.message,
        Err(_) if bytes.is_empty() => status.to_string(),
        Err(_) => String::from_utf8_lossy(&bytes).into_owned(),
    }
}

#[cfg(test)]
#[path = "guest_tests.rs"]
mod tests;
