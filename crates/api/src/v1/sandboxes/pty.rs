//! `GET /v1/sandboxes/{id}/pty`: a terminal over a WebSocket, which can be left and found again.
//!
//! ```text
//! client: {type: start, cols, rows, ...} or {type: connect, tag | pid, from?}   first, once
//!         {type: input, data, encoding?}   {type: resize, cols, rows}   {type: kill}
//! server: {type: start, pid, tag?}   {type: output, data, encoding?, offset, dropped?}   {type: exit, exit_code}
//!         {type: error, data, code}
//! ```
//!
//! `exit` or `error` is the last message; the server then closes. The client's closing leaves the terminal as it is,
//! and what it had sent before still arrives. `offset` says how many
//! bytes the terminal had shown before `data`: whoever comes back with `from` at the end of what they have misses nothing, for as long
//! as the guest keeps it; what it no longer has is counted in `dropped`.

use std::collections::BTreeMap;

use axum::extract::State;
use axum::extract::ws::rejection::WebSocketUpgradeRejection;
use axum::extract::ws::{Message, WebSocket, WebSocketUpgrade};
use axum::response::Response;
use futures::stream::{SplitSink, SplitStream};
use futures::{SinkExt as _, StreamExt as _};
use sandbar_control::sandboxes::{
    Command, ExecEvent, ExecInput, ExecOutput, ExecStream, ProcessRef, Sandbox, TerminalOutput, TerminalSize,
};
use sandbar_control::{Control, OpContext};
use sandbar_trace::{Context, FutureExt as _};
use sandbar_types::{ErrorCode, id};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use uuid::Uuid;

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

/// What runs where the client does not say.
const SHELL: [&str; 3] = ["/bin/bash", "-i", "-l"];
/// What it may take to itself for granted.
const TERMINAL_ENV: [(&str, &str); 3] =
    [("TERM", "xterm-256color"), ("LANG", "C.UTF-8"), ("LC_ALL", "C.UTF-8")];
const DEFAULT_COLS: u16 = 80;
const DEFAULT_ROWS: u16 = 24;

/// What a client says.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(tag = "type", rename_all = "snake_case")]
pub(crate) enum PtyClientMessage {
    /// What to run in a new terminal. The first message, or `connect` is.
    Start(PtyStart),
    /// Which terminal to come back to.
    Connect {
        /// Its tag.
        tag: Option<String>,
        /// Or its process id.
        pid: Option<u32>,
        /// From where on its output is wanted again; from now on, where it is left out.
        from: Option<u64>,
    },
    /// What is typed.
    Input {
        data: String,
        #[serde(default)]
        encoding: Encoding,
    },
    /// The terminal's new size.
    Resize { cols: u16, rows: u16 },
    /// Kills what runs in it; `exit` follows.
    Kill,
}

/// What to run.
#[derive(Debug, Deserialize, ToSchema)]
pub(crate) struct PtyStart {
    /// A program, found by the guest's PATH. A login shell where it is left out.
    cmd: Option<String>,
    #[serde(default)]
    args: Vec<String>,
    #[schema(minimum = 1, default = 80)]
    cols: Option<u16>,
    #[schema(minimum = 1, default = 24)]
    rows: Option<u16>,
    /// Beside the sandbox's own environment, and TERM, LANG and LC_ALL.
    #[serde(default)]
    env: BTreeMap<String, String>,
    /// By default the user's home.
    cwd: Option<String>,
    /// By default the template's user.
    user: Option<String>,
    /// A name to find it again by, that no other process of the sandbox has. One is chosen where it is left out.
    tag: Option<String>,
}

/// What the server says.
#[derive(Debug, Serialize, ToSchema)]
#[serde(tag = "type", rename_all = "snake_case")]
pub(crate) enum PtyServerMessage {
    /// It runs.
    Start {
        pid: u32,
        /// What finds it again, where this connection named or made it.
        #[serde(skip_serializing_if = "Option::is_none")]
        tag: Option<String>,
    },
    /// It showed something. `encoding` is left out where `data` is the text itself.
    Output {
        data: String,
        #[serde(skip_serializing_if = "is_text")]
        encoding: Encoding,
        /// How many bytes it had shown before.
        offset: u64,
        /// How many bytes before these were asked for and are gone. Left out where there are none.
        #[serde(skip_serializing_if = "is_zero")]
        dropped: u64,
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

fn is_zero(count: &u64) -> bool {
    *count == 0
}

/// Opens a terminal, or comes back to one, over a WebSocket; the messages are JSON texts (see the schemas `PtyClientMessage` and
/// `PtyServerMessage`). It runs on when the connection ends.
#[utoipa::path(
    get,
    path = "/{id}/pty",
    operation_id = "sandbox_pty",
    tag = "sandboxes",
    params(("id" = String, Path, description = "The sandbox's id, `sb-...`")),
    responses((status = 101, description = "The WebSocket is open: say what to run"), ActRefusals),
    security(("api_key" = [])),
)]
pub(crate) async fn sandbox_pty(
    State(app): State<AppState>,
    SocketCaller(ctx): SocketCaller,
    PathId(id): PathId<id::Sandbox>,
    upgrade: Result<WebSocketUpgrade, WebSocketUpgradeRejection>,
) -> Result<Response, ApiError> {
    let sandbox = app.control.sandbox_get(&ctx, id).await?;
    let upgrade = upgrade.map_err(|_| ApiError::invalid("this is a WebSocket: send an upgrade request"))?;
    let (span, trace) = (tracing::Span::current(), Context::current());
    Ok(upgrade.protocols([SOCKET_PROTOCOL]).max_message_size(MESSAGE_BYTES).on_upgrade(move |socket| {
        tracing::Instrument::instrument(session(app.control, ctx, sandbox, socket), span).with_context(trace)
    }))
}

async fn session(control: Control, ctx: OpContext, sandbox: Sandbox, socket: WebSocket) {
    let (sink, mut source) = socket.split();
    match start(&control, &ctx, &sandbox, &mut source).await {
        Ok(Some((stream, tag))) => carry(stream, tag, sink, source).await,
        Ok(None) => end(sink, None).await,
        Err(error) => end(sink, Some(error)).await,
    }
}

/// Carries both directions until one ends. The terminal is left as it is, with all that the client typed.
async fn carry(
    ExecStream { input, mut output, .. }: ExecStream,
    tag: Option<String>,
    mut sink: SplitSink<WebSocket, Message>,
    source: SplitStream<WebSocket>,
) {
    let liveness = Liveness::default();
    let mut typing = std::pin::pin!(pump_input(input, source, &liveness));
    tokio::select! {
        ending = pump_output(&mut output, tag, &mut sink, &liveness) => match ending {
            Ok(ending) => end(sink, ending).await,
            Err(Gone) => farewell::pass_on(typing, &mut output).await,
        },
        ending = &mut typing => {
            tokio::join!(end(sink, ending), farewell::arrive(&mut output));
        }
    }
}

/// The last words.
async fn end(mut sink: SplitSink<WebSocket, Message>, ending: Option<ApiError>) {
    if let Some(error) = ending {
        error.log();
        let message = PtyServerMessage::Error { data: error.message().to_owned(), code: error.code() };
        // A client that is gone misses nothing.
        let _ = sink.send(socket::text(&message)).await;
    }
    let _ = sink.close().await;
}

/// Reads the first message and does what it says. None: the client left first.
async fn start(
    control: &Control,
    ctx: &OpContext,
    sandbox: &Sandbox,
    source: &mut SplitStream<WebSocket>,
) -> Result<Option<(ExecStream, Option<String>)>, ApiError> {
    match socket::first(source).await? {
        None => Ok(None),
        Some(PtyClientMessage::Start(start)) => {
            let tag = start.tag.clone().unwrap_or_else(|| format!("pty-{}", Uuid::now_v7().simple()));
            let size = size(start.cols.unwrap_or(DEFAULT_COLS), start.rows.unwrap_or(DEFAULT_ROWS))?;
            let command = start.command();
            let stream = control.sandbox_open_terminal(ctx, sandbox, &command, size, &tag).await?;
            Ok(Some((stream, Some(tag))))
        }
        Some(PtyClientMessage::Connect { tag, pid, from }) => {
            let process = match (&tag, pid) {
                (Some(tag), None) => ProcessRef::Tag(tag.clone()),
                (None, Some(pid)) => ProcessRef::Pid(pid),
                _ => return Err(ApiError::invalid("connect: name either a tag or a pid")),
            };
            let stream = control.sandbox_connect_terminal(ctx, sandbox, &process, from).await?;
            Ok(Some((stream, tag)))
        }
        Some(_) => Err(ApiError::invalid("the first message must be of type start or connect")),
    }
}

/// Terminal to client. Ends with the process, or when the client cannot be written to.
async fn pump_output(
    output: &mut ExecOutput,
    mut tag: Option<String>,
    sink: &mut SplitSink<WebSocket, Message>,
    liveness: &Liveness,
) -> Result<Option<ApiError>, Gone> {
    let mut shown = Shown::default();
    let mut ping = socket::pings();
    loop {
        let event = tokio::select! {
            event = output.next() => event,
            _ = ping.tick() => {
                sink.send(Message::Ping(liveness.ping())).await.map_err(|_| Gone)?;
                continue;
            }
        };
        let (messages, ending) = match event {
            Ok(Some(ExecEvent::Started { pid })) => {
                (vec![PtyServerMessage::Start { pid, tag: tag.take() }], None)
            }
            Ok(Some(ExecEvent::Terminal(output))) => (shown.push(output), None),
            // A process that has no terminal, to which somebody came back: its output has no place.
            Ok(Some(ExecEvent::Stdout(data) | ExecEvent::Stderr(data))) => {
                (shown.push(TerminalOutput { offset: shown.end, data, dropped: 0 }), None)
            }
            Ok(Some(ExecEvent::Exit { exit_code, .. })) => {
                let mut messages = shown.finish();
                messages.push(PtyServerMessage::Exit { exit_code });
                (messages, Some(None))
            }
            Ok(None) => {
                let what = "the terminal's stream ended without telling how the command did";
                (shown.finish(), Some(Some(ApiError::new(ErrorCode::AgentError, what))))
            }
            Err(error) => (shown.finish(), Some(Some(error.into()))),
        };
        for message in messages {
            liveness.sent();
            sink.send(socket::text(&message)).await.map_err(|_| Gone)?;
        }
        if let Some(ending) = ending {
            return Ok(ending);
        }
    }
}

/// Client to terminal. Ends when the client leaves, falls silent, or says what makes no sense; the terminal's input ends with it.
async fn pump_input(
    mut input: ExecInput,
    mut source: SplitStream<WebSocket>,
    liveness: &Liveness,
) -> Option<ApiError> {
    loop {
        let sent = match socket::next(&mut source, liveness).await {
            Ok(Some(PtyClientMessage::Input { data, encoding })) => match socket::decode(data, encoding) {
                Ok(data) => input.stdin(data).await,
                Err(error) => return Some(error),
            },
            Ok(Some(PtyClientMessage::Resize { cols, rows })) => match size(cols, rows) {
                Ok(size) => input.resize(size).await,
                Err(error) => return Some(error),
            },
            Ok(Some(PtyClientMessage::Kill)) => input.stop().await,
            Ok(Some(PtyClientMessage::Start(_) | PtyClientMessage::Connect { .. })) => {
                return Some(ApiError::invalid("start or connect may be sent only once"));
            }
            Ok(None) => return None,
            Err(error) => return Some(error),
        };
        if sent.is_err() {
            // The terminal's stream has ended: the other pump is about to say how.
            std::future::pending::<()>().await;
        }
    }
}

fn size(cols: u16, rows: u16) -> Result<TerminalSize, ApiError> {
    if cols == 0 || rows == 0 {
        return Err(ApiError::invalid("cols and rows must be at least 1"));
    }
    Ok(TerminalSize { cols, rows })
}

impl PtyStart {
    fn command(self) -> Command {
        let Self { cmd, args, env, cwd, user, .. } = self;
        let (cmd, args) = match cmd {
            Some(cmd) => (cmd, args),
            None => {
                let [shell, options @ ..] = SHELL;
                (shell.to_owned(), options.map(str::to_owned).into_iter().chain(args).collect())
            }
        };
        let mut all: BTreeMap<String, String> =
            TERMINAL_ENV.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
        all.extend(env);
        Command { cmd, args, env: all, cwd, user }
    }
}

/// What a terminal showed so far: text wherever it can be, each piece with its place.
#[derive(Debug, Default)]
struct Shown {
    text: Utf8Stream,
    /// Where the next piece begins.
    begins: u64,
    /// How many bytes were shown.
    end: u64,
}

impl Shown {
    fn push(&mut self, TerminalOutput { data, offset, dropped }: TerminalOutput) -> Vec<PtyServerMessage> {
        let mut messages = Vec::new();
        if offset != self.end {
            // Not what comes next: the rest of a broken character will not come.
            messages.extend(self.finish());
            self.begins = offset;
        }
        self.end = offset + data.len() as u64;
        let piece = self.text.push(&data);
        let waiting = self.text.waiting() as u64;
        match piece {
            Some(piece) => {
                messages.push(output(piece, self.begins, dropped));
                self.begins = self.end - waiting;
            }
            // Told with the piece that comes.
            None if dropped > 0 => {
                let nothing = Piece { data: String::new(), encoding: Encoding::Utf8 };
                messages.push(output(nothing, self.begins, dropped));
            }
            None => {}
        }
        messages
    }

    /// What is left of a character that was never completed.
    fn finish(&mut self) -> Vec<PtyServerMessage> {
        let rest = self.text.finish().map(|piece| output(piece, self.begins, 0));
        self.begins = self.end;
        rest.into_iter().collect()
    }
}

fn output(Piece { data, encoding }: Piece, offset: u64, dropped: u64) -> PtyServerMessage {
    PtyServerMessage::Output { data, encoding, offset, dropped }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;

    fn of(messages: Vec<PtyServerMessage>) -> Vec<(String, u64, u64)> {
        messages
            .into_iter()
            .map(|message| match message {
                PtyServerMessage::Output { data, offset, dropped, .. } => (data, offset, dropped),
                other => panic!("{other:?}"),
            })
            .collect()
    }

    #[test]
    fn each_piece_has_its_place_wherever_a_character_is_cut() {
        let mut shown = Shown::default();
        let mut push = |data: &'static [u8], offset, dropped| {
            of(shown.push(TerminalOutput { data: Bytes::from_static(data), offset, dropped }))
        };
        assert_eq!(push(b"ab\xc3", 0, 0), [("ab".to_owned(), 0, 0)]);
        assert_eq!(push(b"\xbcc", 3, 0), [("\u{fc}c".to_owned(), 2, 0)]);
        // A character of which the rest was dropped goes out as the bytes that it was.
        assert_eq!(push(b"\xc3", 5, 0), []);
        assert_eq!(push(b"z", 100, 94), [("ww==".to_owned(), 5, 0), ("z".to_owned(), 100, 94)]);
    }
}
