//! Commands in a guest: to the end with bounded output, or streamed both ways.

use std::time::{Duration, Instant};

use connectrpc::{ConnectError, InboundStream};
use futures::StreamExt as _;
use sandbar_proto::host::{
    Command, ExecRequest, ExecResponse, ExecStreamRequest, ExecStreamResponse, exec_stream_request,
    exec_stream_response,
};
use sandbar_proto::process::{
    self, CloseStdinRequest, ProcessEvent, ProcessInput, ProcessSelector, SendInputRequest,
    SendSignalRequest, StartRequest, StartResponse,
};
use sandbar_types::limits;
use tokio::sync::mpsc;

use crate::error::Error;
use crate::guest::{GuestClient, process_config, process_error};
use crate::sandbox::{DoorWatch, Visit};

use exec_stream_request::Request;
use exec_stream_response::Response;
use process::process_event::Event;
use process::process_event::data_event::Output;

/// Events of a command on their way to the caller. A caller that does not read holds back the guest's stream, not memory.
const EVENTS_IN_FLIGHT: usize = 16;

/// The guest's stream of one process.
type Events = connectrpc::client::ServerStream<
    hyper::body::Incoming,
    process::__buffa::view::StartResponseView<'static>,
>;

/// Runs a command to its end. Its output is bounded: what is over is read and dropped, and the answer says so.
pub(crate) async fn run(guest: &GuestClient, request: &ExecRequest) -> Result<ExecResponse, Error> {
    let command = request.command.as_option().ok_or_else(|| Error::BadInput("command is missing".into()))?;
    let timeout_sec =
        if request.timeout_sec == 0 { limits::DEFAULT_EXEC_TIMEOUT_SEC } else { request.timeout_sec };
    let limit =
        if request.max_output_bytes == 0 { limits::EXEC_OUTPUT_BYTES } else { request.max_output_bytes };
    let limit = usize::try_from(limit).unwrap_or(usize::MAX);

    let started = Instant::now();
    let mut events = start(guest, command, timeout_sec, Stdin::Closed).await?;
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
    let stdin = if start_request.stdin { Stdin::Open } else { Stdin::Closed };
    let mut events = start(&visit.guest, command, start_request.timeout_sec, stdin).await?;
    let pid = match next(&mut events).await? {
        Some(Event::Start(start)) => start.pid,
        _ => return Err(Error::GuestUnreachable("the command's stream did not begin with its start".into())),
    };
    let (sender, receiver) = mpsc::channel(EVENTS_IN_FLIGHT);
    let call = Call { guest: visit.guest.clone(), pid, detach: start_request.detach, sender };
    tokio::spawn(call.pump(events, requests, visit));
    Ok(receiver)
}

/// A streamed command under way.
struct Call {
    guest: GuestClient,
    pid: u32,
    detach: bool,
    sender: mpsc::Sender<Result<ExecStreamResponse, ConnectError>>,
}

impl Call {
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
            never = self.forward_input(requests, door) => match never {},
        };
        if !ended && !self.detach {
            self.kill().await;
        }
    }

    /// Forwards events until the command ends (true), or its stream or its reader is gone (false).
    async fn forward_output(&self, mut events: Events) -> bool {
        if self.send(Response::Started(self.pid)).await.is_err() {
            return false;
        }
        loop {
            let response = match next(&mut events).await {
                Ok(Some(Event::Data(data))) => match data.output {
                    Some(Output::Stdout(bytes) | Output::Pty(bytes)) => Response::Stdout(bytes),
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

    /// Forwards input for as long as the call lasts; never completes by itself, so that the end of the caller's requests
    /// does not end the command.
    async fn forward_input(
        &self,
        mut requests: InboundStream<ExecStreamRequest>,
        mut door: DoorWatch,
    ) -> std::convert::Infallible {
        while let Some(Ok(request)) = requests.next().await {
            // A guest that is being copied takes nothing, and will in a moment.
            door.open().await;
            match request.to_owned_message().request {
                Some(Request::Stdin(bytes)) => {
                    let input = ProcessInput {
                        input: Some(process::process_input::Input::Stdin(bytes)),
                        ..Default::default()
                    };
                    let request = SendInputRequest {
                        process: self.selector().into(),
                        input: input.into(),
                        ..Default::default()
                    };
                    if let Err(error) = self.guest.process().send_input(request).await {
                        tracing::debug!(pid = self.pid, %error, "input not taken");
                    }
                }
                Some(Request::CloseStdin(true)) => {
                    let request = CloseStdinRequest { process: self.selector().into(), ..Default::default() };
                    if let Err(error) = self.guest.process().close_stdin(request).await {
                        tracing::debug!(pid = self.pid, %error, "input not closed");
                    }
                }
                Some(Request::Stop(true)) => self.kill().await,
                Some(Request::Start(_) | Request::CloseStdin(false) | Request::Stop(false)) | None => {}
            }
        }
        std::future::pending().await
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
            tracing::debug!(pid = self.pid, %error, "command not killed");
        }
    }

    fn selector(&self) -> ProcessSelector {
        ProcessSelector {
            selector: Some(process::process_selector::Selector::Pid(self.pid)),
            ..Default::default()
        }
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Stdin {
    Open,
    Closed,
}

async fn start(
    guest: &GuestClient,
    command: &Command,
    timeout_sec: u32,
    stdin: Stdin,
) -> Result<Events, Error> {
    if command.cmd.is_empty() {
        return Err(Error::BadInput("cmd is empty".into()));
    }
    let mut options = GuestClient::options_for(&command.user);
    if timeout_sec > 0 {
        options = options.with_timeout(Duration::from_secs(timeout_sec.into()));
    }
    let request = StartRequest {
        process: process_config(command).into(),
        stdin: Some(stdin == Stdin::Open),
        ..Default::default()
    };
    guest.process().start_with_options(request, options).await.map_err(|e| process_error(&e))
}

/// The next event, or `None` at the stream's orderly end.
async fn next(events: &mut Events) -> Result<Option<Event>, Error> {
    loop {
        let Some(message) = events.message::<StartResponse>().await.map_err(|e| process_error(&e))? else {
            return Ok(None);
        };
        let ProcessEvent { event, .. } = message.to_owned_message().event.into_option().unwrap_or_default();
        if event.is_some() {
            return Ok(event);
        }
    }
}
