//! `GET /v1/sandboxes/{id}/exec/stream`: a command whose input and output are streamed over a WebSocket.
//!
//! ```text
//! client: {type: start, ...}   first, once
//!         {type: stdin, data, encoding?}   {type: close_stdin}   {type: stop}
//! server: {type: start, pid}   {type: stdout|stderr, data, encoding?}   {type: exit, exit_code}   {type: error, data, code}
//! ```
//!
//! `exit` or `error` is the last message; the server then closes. The client's closing kills the command unless it was started
//! with `detach`. Two pumps run side by side, so that a command which waits for its output to be read does not keep its input
//! from being written, and the other way round; whichever ends first ends the session.

use std::collections::BTreeMap;
use std::time::Duration;

use axum::extract::State;
use axum::extract::ws::rejection::WebSocketUpgradeRejection;
use axum::extract::ws::{Message, WebSocket, WebSocketUpgrade};
use axum::response::Response;
use futures::stream::{SplitSink, SplitStream};
use futures::{SinkExt as _, StreamExt as _};
use sandbar_control::sandboxes::{
    Command, ExecEvent, ExecInput, ExecOutput, ExecStream, ExecStreamOptions, OnClose, Sandbox, Stdin,
};
use sandbar_control::{Control, OpContext};
use sandbar_trace::{Context, FutureExt as _};
use sandbar_types::{ErrorCode, id};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::exec::Encoding;
use super::farewell::{self, Gone};
use super::liveness::Liveness;
use super::socket::{self, MESSAGE_BYTES};
use super::utf8_stream::{Piece, Utf8Stream};
use crate::AppState;
use crate::auth::{SOCKET_PROTOCOL, SocketCaller};
use crate::error::ApiError;
use crate::extract::PathId;
use crate::schema::ActRefusals;

/// What a client says.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(tag = "type", rename_all = "snake_case")]
pub(crate) enum ExecStreamClientMessage {
    /// What to run. The first message, and the only one of its kind.
    Start(ExecStreamStart),
    /// Bytes for the command's standard input.
    Stdin {
        data: String,
        #[serde(default)]
        encoding: Encoding,
    },
    /// The end of the command's standard input.
    CloseStdin,
    /// Kills the command; `exit` follows.
    Stop,
}

/// What to run.
#[derive(Debug, Deserialize, ToSchema)]
pub(crate) struct ExecStreamStart {
    /// A program, found by the guest's PATH. No shell is involved.
    cmd: String,
    #[serde(default)]
    args: Vec<String>,
    /// Beside the sandbox's own environment.
    #[serde(default)]
    env: BTreeMap<String, String>,
    /// By default the user's home.
    cwd: Option<String>,
    /// By default the template's user.
    user: Option<String>,
    /// Seconds after which it is killed; 0 or left out = never.
    timeout_sec: Option<u32>,
    /// Whether it runs on when the connection ends.
    #[serde(default)]
    detach: bool,
    /// Whether its standard input is open (the default) or at its end from the start.
    stdin: Option<bool>,
}

/// What the server says.
#[derive(Debug, Serialize, ToSchema)]
#[serde(tag = "type", rename_all = "snake_case")]
pub(crate) enum ExecStreamServerMessage {
    /// It runs.
    Start { pid: u32 },
    /// It wrote to standard output. `encoding` is left out where `data` is the text itself.
    Stdout {
        data: String,
        #[serde(skip_serializing_if = "is_text")]
        encoding: Encoding,
    },
    /// It wrote to standard error. `encoding` is left out where `data` is the text itself.
    Stderr {
        data: String,
        #[serde(skip_serializing_if = "is_text")]
        encoding: Encoding,
    },
    /// It ended; -1 where a signal ended it. The last message.
    Exit { exit_code: i32 },
    /// It could not be run, or the connection to it broke. The last message.
    Error {
        data: String,
        #[schema(schema_with = crate::schema::error_code)]
        code: ErrorCode,
    },
}

fn is_text(encoding: &Encoding) -> bool {
    *encoding == Encoding::Utf8
}

/// Runs a command with its input and output streamed over a WebSocket; the messages are JSON texts (see the schemas
/// `ExecStreamClientMessage` and `ExecStreamServerMessage`).
///
/// A page, which can set no headers, offers its token as a protocol beside the one that is spoken, `new WebSocket(url, ["sandbar.v1",
/// "bearer." + token])`, and is answered `sandbar.v1`. Only pages of the API's own origin may, and of those that its operator allows.
#[utoipa::path(
    get,
    path = "/{id}/exec/stream",
    operation_id = "exec_stream_in_sandbox",
    tag = "sandboxes",
    params(("id" = String, Path, description = "The sandbox's id, `sb-...`")),
    responses((status = 101, description = "The WebSocket is open: say what to run"), ActRefusals),
    security(("api_key" = [])),
)]
pub(crate) async fn exec_stream_in_sandbox(
    State(app): State<AppState>,
    SocketCaller(ctx): SocketCaller,
    PathId(id): PathId<id::Sandbox>,
    upgrade: Result<WebSocketUpgrade, WebSocketUpgradeRejection>,
) -> Result<Response, ApiError> {
    let sandbox = app.control.sandbox_get(&ctx, id).await?;
    let upgrade = upgrade.map_err(|_| ApiError::invalid("this is a WebSocket: send an upgrade request"))?;
    let (span, trace) = (tracing::Span::current(), Context::current());
    let upgrade = upgrade.protocols([SOCKET_PROTOCOL]).max_message_size(MESSAGE_BYTES);
    Ok(upgrade.on_upgrade(move |socket| {
        tracing::Instrument::instrument(session(app.control, ctx, sandbox, socket), span).with_context(trace)
    }))
}

async fn session(control: Control, ctx: OpContext, sandbox: Sandbox, socket: WebSocket) {
    let (sink, mut source) = socket.split();
    match start(&control, &ctx, &sandbox, &mut source).await {
        Ok(Some((stream, on_close))) => carry(stream, on_close, sink, source).await,
        Ok(None) => end(sink, None).await,
        Err(error) => end(sink, Some(error)).await,
    }
}

/// Carries both directions until one ends. Dropping the command's output is what kills it, unless it is detached: then all that the
/// client sent goes in first.
async fn carry(
    ExecStream { input, mut output, .. }: ExecStream,
    on_close: OnClose,
    mut sink: SplitSink<WebSocket, Message>,
    source: SplitStream<WebSocket>,
) {
    let liveness = Liveness::default();
    let mut feeding = std::pin::pin!(pump_input(input, source, &liveness));
    let ending = tokio::select! {
        ending = pump_output(&mut output, &mut sink, &liveness) => match ending {
            Ok(ending) => return end(sink, ending).await,
            Err(Gone) => return match on_close {
                OnClose::Kill => {}
                OnClose::Detach => farewell::pass_on(feeding, &mut output).await,
            },
        },
        ending = &mut feeding => ending,
    };
    match on_close {
        OnClose::Kill => {
            drop(output);
            end(sink, ending).await;
        }
        OnClose::Detach => {
            tokio::join!(end(sink, ending), farewell::arrive(&mut output));
        }
    }
}

/// The last words.
async fn end(mut sink: SplitSink<WebSocket, Message>, ending: Option<ApiError>) {
    if let Some(error) = ending {
        error.log();
        let message = ExecStreamServerMessage::Error { data: error.message().to_owned(), code: error.code() };
        // A client that is gone misses nothing.
        let _ = sink.send(socket::text(&message)).await;
    }
    let _ = sink.close().await;
}

/// Reads the first message and runs what it says. None: the client left first.
async fn start(
    control: &Control,
    ctx: &OpContext,
    sandbox: &Sandbox,
    source: &mut SplitStream<WebSocket>,
) -> Result<Option<(ExecStream, OnClose)>, ApiError> {
    let Some(first) = socket::first(source).await? else { return Ok(None) };
    let ExecStreamClientMessage::Start(start) = first else {
        return Err(ApiError::invalid("the first message must be of type start"));
    };
    let ExecStreamStart { cmd, args, env, cwd, user, timeout_sec, detach, stdin } = start;
    let on_close = if detach { OnClose::Detach } else { OnClose::Kill };
    let options = ExecStreamOptions {
        timeout: timeout_sec
            .filter(|seconds| *seconds > 0)
            .map(|seconds| Duration::from_secs(seconds.into())),
        on_close,
        stdin: if stdin.unwrap_or(true) { Stdin::Open } else { Stdin::Closed },
    };
    let command = Command { cmd, args, env, cwd, user };
    let stream = control.sandbox_exec_stream(ctx, sandbox, &command, options).await?;
    Ok(Some((stream, on_close)))
}

/// Command to client. Ends with the command, or when the client cannot be written to.
async fn pump_output(
    output: &mut ExecOutput,
    sink: &mut SplitSink<WebSocket, Message>,
    liveness: &Liveness,
) -> Result<Option<ApiError>, Gone> {
    let (mut stdout, mut stderr) = (Utf8Stream::default(), Utf8Stream::default());
    let mut ping = socket::pings();
    loop {
        let event = tokio::select! {
            event = output.next() => event,
            _ = ping.tick() => {
                sink.send(Message::Ping(liveness.ping())).await.map_err(|_| Gone)?;
                continue;
            }
        };
        let (messages, ended) = match event {
            Ok(Some(ExecEvent::Started { pid })) => (vec![ExecStreamServerMessage::Start { pid }], false),
            Ok(Some(ExecEvent::Stdout(data))) => {
                (stdout.push(&data).map(on_stdout).into_iter().collect(), false)
            }
            Ok(Some(ExecEvent::Stderr(data))) => {
                (stderr.push(&data).map(on_stderr).into_iter().collect(), false)
            }
            // There is none: it has pipes.
            Ok(Some(ExecEvent::Terminal(_))) => (Vec::new(), false),
            Ok(Some(ExecEvent::Exit { exit_code, .. })) => {
                let mut messages = rest(&mut stdout, &mut stderr);
                messages.push(ExecStreamServerMessage::Exit { exit_code });
                (messages, true)
            }
            Ok(None) => {
                let what = "the command's stream ended without telling how the command did";
                return Ok(Some(ApiError::new(ErrorCode::AgentError, what)));
            }
            Err(error) => {
                for message in rest(&mut stdout, &mut stderr) {
                    let _ = sink.send(socket::text(&message)).await;
                }
                return Ok(Some(error.into()));
            }
        };
        for message in messages {
            liveness.sent();
            sink.send(socket::text(&message)).await.map_err(|_| Gone)?;
        }
        if ended {
            return Ok(None);
        }
    }
}

fn on_stdout(Piece { data, encoding }: Piece) -> ExecStreamServerMessage {
    ExecStreamServerMessage::Stdout { data, encoding }
}

fn on_stderr(Piece { data, encoding }: Piece) -> ExecStreamServerMessage {
    ExecStreamServerMessage::Stderr { data, encoding }
}

/// What still waited for the rest of a character.
fn rest(stdout: &mut Utf8Stream, stderr: &mut Utf8Stream) -> Vec<ExecStreamServerMessage> {
    stdout.finish().map(on_stdout).into_iter().chain(stderr.finish().map(on_stderr)).collect()
}

/// Client to command. Ends when the client leaves, falls silent, or says what makes no sense; the command's input ends with it.
async fn pump_input(
    mut input: ExecInput,
    mut source: SplitStream<WebSocket>,
    liveness: &Liveness,
) -> Option<ApiError> {
    loop {
        let sent = match socket::next(&mut source, liveness).await {
            Ok(Some(ExecStreamClientMessage::Stdin { data, encoding })) => {
                match socket::decode(data, encoding) {
                    Ok(data) => input.stdin(data).await,
                    Err(error) => return Some(error),
                }
            }
            Ok(Some(ExecStreamClientMessage::CloseStdin)) => input.close_stdin().await,
            Ok(Some(ExecStreamClientMessage::Stop)) => input.stop().await,
            Ok(Some(ExecStreamClientMessage::Start(_))) => {
                return Some(ApiError::invalid("start may be sent only once"));
            }
            Ok(None) => return None,
            Err(error) => return Some(error),
        };
        if sent.is_err() {
            // The command's stream has ended: the other pump is about to say how.
            std::future::pending::<()>().await;
        }
    }
}
