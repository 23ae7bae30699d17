//! The RPCs of `process.Process`: reads requests, calls the table and the processes, writes events.

use std::sync::Arc;
use std::time::Duration;

use connectrpc::{
    ConnectError, InboundStream, RequestContext, Response, ServiceRequest, ServiceResult, ServiceStream,
};
use futures::{Stream, StreamExt, stream};
use rustix::process::Signal as OsSignal;
use sandbar_proto::process::process_event::data_event::Output as OutputBytes;
use sandbar_proto::process::process_event::{DataEvent, EndEvent, Event, KeepAlive, StartEvent};
use sandbar_proto::process::{
    CloseStdinRequest, CloseStdinResponse, ConnectRequest, ConnectResponse, ListRequest, ListResponse, PTY,
    ProcessConfig, ProcessEvent, ProcessInfo, ProcessInput, ProcessSelector, SendInputRequest,
    SendInputResponse, SendSignalRequest, SendSignalResponse, Signal, StartRequest, StartResponse,
    StreamInputRequest, StreamInputResponse, UpdateRequest, UpdateResponse, process_input, process_selector,
    stream_input_request,
};
use tokio::time::{Instant, timeout, timeout_at};

use super::launch::{Launch, LaunchError, Place, Streams};
use super::output::{Cause, End, Exit, Item, Subscription};
use super::pty::Size;
use super::ring::{Read, Source};
use super::running::{InputKind, Process, ProcessError};
use super::table::Selector;
use crate::caller::Caller;
use crate::keepalive;
use crate::server::Agent;
use crate::users::UserError;

/// The service.
pub(crate) struct ProcessService {
    agent: Arc<Agent>,
}

impl ProcessService {
    pub(crate) fn new(agent: Arc<Agent>) -> Self {
        Self { agent }
    }

    fn find(&self, selector: Option<&ProcessSelector>) -> Result<Arc<Process>, ConnectError> {
        let selector = match selector.and_then(|selector| selector.selector.as_ref()) {
            Some(process_selector::Selector::Pid(pid)) => Selector::Pid(*pid),
            Some(process_selector::Selector::Tag(tag)) => Selector::Tag(tag.clone()),
            None => return Err(ConnectError::invalid_argument("no process given")),
        };
        self.agent.processes.find(&selector).ok_or_else(|| match selector {
            Selector::Pid(pid) => ConnectError::not_found(format!("process with pid {pid} not found")),
            Selector::Tag(tag) => ConnectError::not_found(format!("process with tag {tag} not found")),
        })
    }
}

#[expect(
    refining_impl_trait,
    reason = "the trait's return types are opaque; naming ours is what implementing it means"
)]
impl sandbar_proto::process::Process for ProcessService {
    async fn list(
        &self,
        _: RequestContext,
        _: ServiceRequest<'_, ListRequest>,
    ) -> ServiceResult<ListResponse> {
        let processes = self.agent.processes.running().iter().map(|process| info(process)).collect();
        Response::ok(ListResponse { processes, ..Default::default() })
    }

    async fn start(
        &self,
        ctx: RequestContext,
        request: ServiceRequest<'_, StartRequest>,
    ) -> ServiceResult<ServiceStream<StartResponse>> {
        let StartRequest { process, pty, tag, stdin, .. } = request.to_owned_message();
        let ProcessConfig { cmd, args, envs, cwd, .. } = process.into_option().unwrap_or_default();
        let streams = match pty.into_option() {
            Some(pty) => Streams::Terminal(size(&pty)?),
            None if stdin.unwrap_or(true) => Streams::InputAndOutput,
            None => Streams::Output,
        };
        let sandbox = self.agent.state.current();
        let caller = Caller::of(ctx.headers(), &sandbox)?;
        let launch = Launch { cmd, args, envs: envs.into_iter().collect(), cwd, streams };
        let deadline = ctx.deadline().map(Instant::from_std);
        let place =
            Place { caller: &caller, sandbox: &sandbox, confinement: self.agent.confinement.as_ref() };
        let log = self.agent.processes.log();
        let launched = launch.start(&place).inspect_err(|error| log.refused(&error.to_string()))?;
        let (process, subscription) = Process::adopt(launched, launch, tag, deadline, &self.agent.processes);
        // The process keeps its own deadline, and its end then says so: the stream needs none.
        let events =
            follow(process.pid, subscription, keepalive::interval(&ctx), None, DeadlineKill::IsAnError);
        let responses = events.map(|event| Ok(StartResponse { event: event?.into(), ..Default::default() }));
        Ok(Response::stream(responses))
    }

    async fn connect(
        &self,
        ctx: RequestContext,
        request: ServiceRequest<'_, ConnectRequest>,
    ) -> ServiceResult<ServiceStream<ConnectResponse>> {
        let ConnectRequest { process, from_offset, .. } = request.to_owned_message();
        let process = self.find(process.as_option())?;
        let subscription = process.output.subscribe(from_offset);
        let deadline = ctx.deadline().map(Instant::from_std);
        let events =
            follow(process.pid, subscription, keepalive::interval(&ctx), deadline, DeadlineKill::IsAnEnd);
        let responses =
            events.map(|event| Ok(ConnectResponse { event: event?.into(), ..Default::default() }));
        Ok(Response::stream(responses))
    }

    async fn update(
        &self,
        _: RequestContext,
        request: ServiceRequest<'_, UpdateRequest>,
    ) -> ServiceResult<UpdateResponse> {
        let UpdateRequest { process, pty, .. } = request.to_owned_message();
        let process = self.find(process.as_option())?;
        if let Some(pty) = pty.as_option() {
            process.resize(size(pty)?)?;
        }
        Response::ok(UpdateResponse::default())
    }

    async fn stream_input(
        &self,
        _: RequestContext,
        mut requests: InboundStream<StreamInputRequest>,
    ) -> ServiceResult<StreamInputResponse> {
        let mut process: Option<Arc<Process>> = None;
        while let Some(message) = requests.next().await {
            match (message?.to_owned_message().event, &process) {
                (Some(stream_input_request::Event::Start(start)), _) => {
                    process = Some(self.find(start.process.as_option())?);
                }
                (Some(stream_input_request::Event::Data(data)), Some(process)) => {
                    write(process, data.input.into_option()).await?;
                }
                (Some(stream_input_request::Event::Data(_)), None) => {
                    return Err(ConnectError::invalid_argument("input before the process was named"));
                }
                (Some(stream_input_request::Event::Keepalive(_)) | None, _) => {}
            }
        }
        Response::ok(StreamInputResponse::default())
    }

    async fn send_input(
        &self,
        _: RequestContext,
        request: ServiceRequest<'_, SendInputRequest>,
    ) -> ServiceResult<SendInputResponse> {
        let SendInputRequest { process, input, .. } = request.to_owned_message();
        let process = self.find(process.as_option())?;
        write(&process, input.into_option()).await?;
        Response::ok(SendInputResponse::default())
    }

    async fn send_signal(
        &self,
        _: RequestContext,
        request: ServiceRequest<'_, SendSignalRequest>,
    ) -> ServiceResult<SendSignalResponse> {
        let SendSignalRequest { process, signal, .. } = request.to_owned_message();
        let signal = match signal.as_known() {
            Some(Signal::SIGNAL_SIGKILL) => OsSignal::KILL,
            Some(Signal::SIGNAL_SIGTERM) => OsSignal::TERM,
            Some(Signal::SIGNAL_UNSPECIFIED) | None => {
                return Err(ConnectError::invalid_argument(format!("unknown signal {}", signal.to_i32())));
            }
        };
        self.find(process.as_option())?.signal(signal)?;
        Response::ok(SendSignalResponse::default())
    }

    async fn close_stdin(
        &self,
        _: RequestContext,
        request: ServiceRequest<'_, CloseStdinRequest>,
    ) -> ServiceResult<CloseStdinResponse> {
        let CloseStdinRequest { process, .. } = request.to_owned_message();
        self.find(process.as_option())?.close_stdin().await?;
        Response::ok(CloseStdinResponse::default())
    }
}

async fn write(process: &Process, input: Option<ProcessInput>) -> Result<(), ConnectError> {
    match input.and_then(|input| input.input) {
        Some(process_input::Input::Stdin(bytes)) => Ok(process.write(InputKind::Stdin, &bytes).await?),
        Some(process_input::Input::Pty(bytes)) => Ok(process.write(InputKind::Pty, &bytes).await?),
        None => Err(ConnectError::invalid_argument("no input given")),
    }
}

/// What a stream makes of a process that the agent killed at its deadline.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum DeadlineKill {
    /// It was this stream's own deadline.
    IsAnError,
    /// It was somebody else's: to this stream the process was killed.
    IsAnEnd,
}

/// A place in a process's events.
enum Follow {
    Start,
    Output,
    Over,
}

/// The events of a process: one start, its output, keepalives where there is none, one end.
fn follow(
    pid: u32,
    subscription: Subscription,
    keepalive: Duration,
    deadline: Option<Instant>,
    deadline_kill: DeadlineKill,
) -> impl Stream<Item = Result<ProcessEvent, ConnectError>> + Send {
    stream::unfold((Follow::Start, subscription), move |(place, mut subscription)| async move {
        match place {
            Follow::Start => {
                let start = StartEvent { pid, ..Default::default() };
                Some((Ok(event(start)), (Follow::Output, subscription)))
            }
            Follow::Output => {
                let next = timeout(keepalive, subscription.next());
                let next = match deadline {
                    Some(deadline) => timeout_at(deadline, next).await,
                    None => Ok(next.await),
                };
                let (event, place) = match next {
                    Err(_) => {
                        (Err(ConnectError::deadline_exceeded("the stream's time is over")), Follow::Over)
                    }
                    Ok(Err(_)) => (Ok(event(KeepAlive::default())), Follow::Output),
                    Ok(Ok(Item::Data(read))) => (Ok(event(data(read))), Follow::Output),
                    Ok(Ok(Item::End(End { cause: Cause::Deadline, .. })))
                        if deadline_kill == DeadlineKill::IsAnError =>
                    {
                        let error =
                            ConnectError::deadline_exceeded("the process was killed: its time was over");
                        (Err(error), Follow::Over)
                    }
                    Ok(Ok(Item::End(ended))) => (Ok(event(end(&ended.exit))), Follow::Over),
                };
                Some((event, (place, subscription)))
            }
            Follow::Over => None,
        }
    })
}

fn event(event: impl Into<Event>) -> ProcessEvent {
    ProcessEvent { event: Some(event.into()), ..Default::default() }
}

fn data(read: Read) -> DataEvent {
    let Read { chunk, dropped } = read;
    let bytes = chunk.bytes.to_vec();
    let output = match chunk.source {
        Source::Stdout => OutputBytes::Stdout(bytes),
        Source::Stderr => OutputBytes::Stderr(bytes),
        Source::Pty => OutputBytes::Pty(bytes),
    };
    DataEvent { offset: chunk.offset, dropped, output: Some(output), ..Default::default() }
}

fn end(exit: &Exit) -> EndEvent {
    let (exit_code, exited) = match exit {
        Exit::Code(code) => (*code, true),
        Exit::Signal(_) | Exit::Lost(_) => (-1, false),
    };
    let status = exit.to_string();
    let error = (exit_code != 0).then(|| status.clone());
    EndEvent { exit_code, exited, status, error, ..Default::default() }
}

fn info(process: &Process) -> ProcessInfo {
    let Launch { cmd, args, envs, cwd, streams: _ } = process.launch.clone();
    let config = ProcessConfig { cmd, args, envs: envs.into_iter().collect(), cwd, ..Default::default() };
    ProcessInfo { config: config.into(), pid: process.pid, tag: process.tag.clone(), ..Default::default() }
}

fn size(pty: &PTY) -> Result<Size, ConnectError> {
    let size =
        pty.size.as_option().ok_or_else(|| ConnectError::invalid_argument("a terminal needs a size"))?;
    let side = |value: u32| {
        u16::try_from(value).map_err(|_| {
            ConnectError::invalid_argument(format!("a terminal cannot be {value} cells wide or high"))
        })
    };
    Ok(Size { cols: side(size.cols)?, rows: side(size.rows)? })
}

impl From<LaunchError> for ConnectError {
    fn from(error: LaunchError) -> Self {
        let message = error.to_string();
        match error {
            LaunchError::NotFound(_) | LaunchError::NotExecutable(_) | LaunchError::NotAProgram(_) => {
                Self::not_found(message)
            }
            LaunchError::NoCommand
            | LaunchError::Environment(_)
            | LaunchError::NoFolder(_)
            | LaunchError::NotAFolder(_)
            | LaunchError::ClosedFolder { .. }
            | LaunchError::Path(_)
            | LaunchError::Nul(_)
            | LaunchError::Invalid { .. } => Self::invalid_argument(message),
            LaunchError::Exhausted(_) => Self::resource_exhausted(message),
            LaunchError::Failed { .. } => Self::internal(message),
        }
    }
}

impl From<ProcessError> for ConnectError {
    fn from(error: ProcessError) -> Self {
        let message = error.to_string();
        match error {
            ProcessError::Ended(_) => Self::not_found(message),
            ProcessError::StdinClosed(_) | ProcessError::NoTerminal(_) | ProcessError::IsTerminal(_) => {
                Self::failed_precondition(message)
            }
            ProcessError::Failed { .. } => Self::internal(message),
        }
    }
}

impl From<UserError> for ConnectError {
    fn from(error: UserError) -> Self {
        match error {
            UserError::Unknown(_) => Self::unauthenticated(error.to_string()),
            UserError::Read { .. } => Self::internal(error.to_string()),
        }
    }
}
