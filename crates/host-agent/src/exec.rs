//! Commands in a guest: to the end with bounded output, or streamed both ways.

use std::time::{Duration, Instant};

use connectrpc::client::ServerStream;
use connectrpc::{ConnectError, InboundStream};
use futures::StreamExt as _;
use sandbar_proto::host::{
    Command, ExecRequest, ExecResponse, ExecStreamRequest, ExecStreamResponse, TerminalSize,
    exec_stream_request, exec_stream_response,
};
use sandbar_proto::process::{
    self, CloseStdinRequest, ConnectRequest, ConnectResponse, PTY, ProcessEvent, ProcessInput,
    ProcessSelector, SendInputRequest, SendSignalRequest, StartRequest, StartResponse, UpdateRequest, pty,
};
use sandbar_types::limits;
use tokio::sync::mpsc;

use crate::error::Error;
use crate::guest::{GuestClient, process_config, process_error};
use crate::processes;
use crate::sandbox::{DoorWatch, Visit};

use exec_stream_request::Request;
use exec_stream_response::Response;
use process::process_event::Event;
use process::process_event::data_event::Output;

/// Events of a command on their way to the caller. A caller that does not read holds back the guest's stream, not memory.
const EVENTS_IN_FLIGHT: usize = 16;

/// The guest's stream of one process.
enum Events {
    Started(ServerStream<hyper::body::Incoming, process::__buffa::view::StartResponseView<'static>>),
    Connected(ServerStream<hyper::body::Incoming, process::__buffa::view::ConnectResponseView<'static>>),
}

/// Runs a command to its end. Its output is bounded: what is over is read and dropped, and the answer says so.
pub(crate) async fn run(guest: &GuestClient, request: &ExecRequest) -> Result<ExecResponse, Error> {
    let command = request.command.as_option().ok_or_else(|| Error::BadInput("command is missing".into()))?;
    let timeout_sec =
        if request.timeout_sec == 0 { limits::DEFAULT_EXEC_TIMEOUT_SEC } else { request.timeout_sec };
    let limit =
        if request.max_output_bytes == 0 { limits::EXEC_OUTPUT_BYTES } else { request.max_output_bytes };
    let limit = usize::try_from(limit).unwrap_or(usize::MAX);

    let started = Instant::now();
    let mut events = start(guest, command, timeout_sec, Io::Pipes(Stdin::Closed), None).await?;
    let mut output = ExecResponse::default();
    while let Some(event) = next(&mut events).await? {
        match event {
            Event::Data(data) => {
                output.truncated |= data.dropped > 0;
                let (kept, bytes) = match data.output {
                    Some(Output::Stdout(bytes) | Output::Pty(bytes)) => (&mut output.stdout, bytes),
                    Some(Output::Stderr(bytes)) => (&mut output.stderr, bytes),
                    None => continue,
                };
                let room = limit - kept.len();
                output.truncated |= bytes.len() > room;
                kept.extend_from_slice(bytes.get(..room).unwrap_or(&bytes));
            }
            Event::End(end) => {
                output.exit_code = end.exit_code;
                output.duration_ms = u64::try_from(started.elapsed().as_millis()).unwrap_or(u64::MAX);
                return Ok(output);
            }
            Event::Start(_) | Event::Keepalive(_) => {}
        }
    }
    Err(Error::GuestUnreachable("the command's stream ended before the command".into()))
}

/// Runs a command with input and output streamed. Unless it was started detached, the command does not outlive the call.
pub(crate) async fn stream(
    visit: Visit,
    start_request: exec_stream_request::Start,
    requests: InboundStream<ExecStreamRequest>,
) -> Result<mpsc::Receiver<Result<ExecStreamResponse, ConnectError>>, Error> {
    let command =
        start_request.command.as_option().ok_or_else(|| Error::BadInput("command is missing".into()))?;
    let io = match start_request.terminal.as_option() {
        Some(size) => Io::Terminal(terminal(size)),
        None => Io::Pipes(if start_request.stdin { Stdin::Open } else { Stdin::Closed }),
    };
    let tag = (!start_request.tag.is_empty()).then(|| start_request.tag.clone());
    let mut events = start(&visit.guest, command, start_request.timeout_sec, io, tag).await?;
    let pid = pid_of(next(&mut events).await?)?;
    let on_close = if start_request.detach { OnClose::Detach } else { OnClose::Kill };
    let input = if start_request.terminal.is_set() { Via::Terminal } else { Via::Pipe };
    Ok(Call::begin(visit, Target { pid, input, on_close }, events, requests))
}

/// Comes back to a terminal; it runs on when the call ends.
pub(crate) async fn connect(
    visit: Visit,
    connect: exec_stream_request::Connect,
    requests: InboundStream<ExecStreamRequest>,
) -> Result<mpsc::Receiver<Result<ExecStreamResponse, ConnectError>>, Error> {
    let selector = connect.process.into_option().and_then(|process| process.selector);
    let request = ConnectRequest {
        process: processes::selector(selector)?.into(),
        from_offset: connect.from_offset,
        ..Default::default()
    };
    let events = visit.guest.process().connect(request).await.map_err(|e| processes::not_found_or(&e))?;
    let mut events = Events::Connected(events);
    // A stream's refusal is its first message.
    let first = next(&mut events).await.map_err(|error| match error {
        Error::CommandNotFound(message) => Error::ProcessNotFound(message),
        error => error,
    })?;
    let target = Target { pid: pid_of(first)?, input: Via::Terminal, on_close: OnClose::Detach };
    Ok(Call::begin(visit, target, events, requests))
}

fn pid_of(first: Option<Event>) -> Result<u32, Error> {
    match first {
        Some(Event::Start(start)) => Ok(start.pid),
        _ => Err(Error::GuestUnreachable("the command's stream did not begin with its start".into())),
    }
}

/// A streamed command under way.
struct Call {
    guest: GuestClient,
    target: Target,
    sender: mpsc::Sender<Result<ExecStreamResponse, ConnectError>>,
}

/// Which process a call is about.
#[derive(Debug, Clone, Copy)]
struct Target {
    pid: u32,
    input: Via,
    on_close: OnClose,
}

/// How a process takes its input.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Via {
    Pipe,
    Terminal,
}

/// What becomes of a process whose call ends early.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum OnClose {
    Kill,
    Detach,
}

impl Call {
    fn begin(
        visit: Visit,
        target: Target,
        events: Events,
        requests: InboundStream<ExecStreamRequest>,
    ) -> mpsc::Receiver<Result<ExecStreamResponse, ConnectError>> {
        let (sender, receiver) = mpsc::channel(EVENTS_IN_FLIGHT);
        let call = Self { guest: visit.guest.clone(), target, sender };
        tokio::spawn(call.pump(events, requests, visit));
        receiver
    }

    async fn pump(self, events: Events, requests: InboundStream<ExecStreamRequest>, mut visit: Visit) {
        let door = visit.door();
        // Input runs beside output: a command that does not read its input must not hold back what it writes.
        let ended = tokio::select! {
            ended = self.forward_output(events) => ended,
            () = self.sender.closed() => false,
            gone = visit.ended() => {
                let _gone = self.sender.send(Err(gone.into())).await;
                true
            }
            () = self.forward_input(requests, door) => false,
        };
        if !ended && self.target.on_close == OnClose::Kill {
            self.kill().await;
        }
    }

    /// Forwards events until the command ends (true), or its stream or its reader is gone (false).
    async fn forward_output(&self, mut events: Events) -> bool {
        if self.send(Response::Started(self.target.pid)).await.is_err() {
            return false;
        }
        loop {
            let response = match next(&mut events).await {
                Ok(Some(Event::Data(data))) => match data.output {
                    Some(Output::Stdout(bytes)) => Response::Stdout(bytes),
                    Some(Output::Pty(bytes)) => Response::from(exec_stream_response::TerminalOutput {
                        data: bytes,
                        offset: data.offset,
                        dropped: data.dropped,
                        ..Default::default()
                    }),
                    Some(Output::Stderr(bytes)) => Response::Stderr(bytes),
                    None => continue,
                },
                Ok(Some(Event::End(end))) => {
                    let exit = exec_stream_response::Exit {
                        exit_code: end.exit_code,
                        status: end.status,
                        ..Default::default()
                    };
                    // Whether the reader is still there no longer matters: the command has ended.
                    let _gone = self.send(Response::from(exit)).await;
                    return true;
                }
                Ok(Some(Event::Start(_) | Event::Keepalive(_))) => continue,
                Ok(None) => {
                    let error =
                        Error::GuestUnreachable("the command's stream ended before the command".into());
                    let _gone = self.sender.send(Err(error.into())).await;
                    return false;
                }
                Err(error) => {
                    // The guest kills a command that is over its time itself.
                    let killed = matches!(error, Error::Timeout(_));
                    let _gone = self.sender.send(Err(error.into())).await;
                    return killed;
                }
            };
            if self.send(response).await.is_err() {
                return false;
            }
        }
    }

    /// Forwards input. Whoever ends the requests of a process that outlives the call has left it, and hears by the call's end that all
    /// of them were passed on; the end of other requests says nothing, and this lasts as long as the call.
    async fn forward_input(&self, mut requests: InboundStream<ExecStreamRequest>, mut door: DoorWatch) {
        while let Some(Ok(request)) = requests.next().await {
            // A guest that is being copied takes nothing, and will in a moment.
            door.open().await;
            match request.to_owned_message().request {
                Some(Request::Stdin(bytes)) => {
                    let input = match self.target.input {
                        Via::Pipe => process::process_input::Input::Stdin(bytes),
                        Via::Terminal => process::process_input::Input::Pty(bytes),
                    };
                    let input = ProcessInput { input: Some(input), ..Default::default() };
                    let request = SendInputRequest {
                        process: self.selector().into(),
                        input: input.into(),
                        ..Default::default()
                    };
                    if let Err(error) = self.guest.process().send_input(request).await {
                        tracing::debug!(pid = self.target.pid, %error, "input not taken");
                    }
                }
                Some(Request::CloseStdin(true)) => {
                    let request = CloseStdinRequest { process: self.selector().into(), ..Default::default() };
                    if let Err(error) = self.guest.process().close_stdin(request).await {
                        tracing::debug!(pid = self.target.pid, %error, "input not closed");
                    }
                }
                Some(Request::Stop(true)) => self.kill().await,
                Some(Request::Resize(size)) => {
                    let request = UpdateRequest {
                        process: self.selector().into(),
                        pty: terminal(&size).into(),
                        ..Default::default()
                    };
                    if let Err(error) = self.guest.process().update(request).await {
                        tracing::debug!(pid = self.target.pid, %error, "terminal not resized");
                    }
                }
                Some(
                    Request::Start(_)
                    | Request::Connect(_)
                    | Request::CloseStdin(false)
                    | Request::Stop(false),
                )
                | None => {}
            }
        }
        if self.target.on_close == OnClose::Kill {
            std::future::pending::<()>().await;
        }
    }

    async fn send(&self, response: Response) -> Result<(), ()> {
        let message = ExecStreamResponse { response: Some(response), ..Default::default() };
        self.sender.send(Ok(message)).await.map_err(|_| ())
    }

    async fn kill(&self) {
        let request = SendSignalRequest {
            process: self.selector().into(),
            signal: process::Signal::SIGNAL_SIGKILL.into(),
            ..Default::default()
        };
        // A command that is gone already is what was wanted.
        if let Err(error) = self.guest.process().send_signal(request).await {
            tracing::debug!(pid = self.target.pid, %error, "command not killed");
        }
    }

    fn selector(&self) -> ProcessSelector {
        ProcessSelector {
            selector: Some(process::process_selector::Selector::Pid(self.target.pid)),
            ..Default::default()
        }
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Stdin {
    Open,
    Closed,
}

/// What a command reads and writes.
enum Io {
    Pipes(Stdin),
    Terminal(PTY),
}

fn terminal(size: &TerminalSize) -> PTY {
    let TerminalSize { cols, rows, .. } = *size;
    PTY { size: pty::Size { cols, rows, ..Default::default() }.into(), ..Default::default() }
}

async fn start(
    guest: &GuestClient,
    command: &Command,
    timeout_sec: u32,
    io: Io,
    tag: Option<String>,
) -> Result<Events, Error> {
    if command.cmd.is_empty() {
        return Err(Error::BadInput("cmd is empty".into()));
    }
    let mut options = GuestClient::options_for(&command.user);
    if timeout_sec > 0 {
        options = options.with_timeout(Duration::from_secs(timeout_sec.into()));
    }
    let mut request = StartRequest { process: process_config(command).into(), tag, ..Default::default() };
    match io {
        Io::Pipes(stdin) => request.stdin = Some(stdin == Stdin::Open),
        Io::Terminal(size) => request.pty = size.into(),
    }
    let started = guest.process().start_with_options(request, options).await;
    started.map(Events::Started).map_err(|e| process_error(&e))
}

/// The next event, or `None` at the stream's orderly end.
async fn next(events: &mut Events) -> Result<Option<Event>, Error> {
    loop {
        let event = match events {
            Events::Started(events) => {
                let message = events.message::<StartResponse>().await.map_err(|e| process_error(&e))?;
                message.map(|message| message.to_owned_message().event)
            }
            Events::Connected(events) => {
                let message = events.message::<ConnectResponse>().await.map_err(|e| process_error(&e))?;
                message.map(|message| message.to_owned_message().event)
            }
        };
        let Some(event) = event else { return Ok(None) };
        let ProcessEvent { event, .. } = event.into_option().unwrap_or_default();
        if event.is_some() {
            return Ok(event);
        }
    }
}
