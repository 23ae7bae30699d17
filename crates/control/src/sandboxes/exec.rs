//! Commands in a sandbox: to their end, or with input and output streamed.

use std::collections::BTreeMap;
use std::time::Duration;

use bytes::Bytes;
use sandbar_proto::host;
use sandbar_types::limits;

use super::error::CallSite;
use super::{InvalidSandbox, Sandbox, SandboxError, TerminalSize};
use crate::host_client::{ExecStreamReceiver, ExecStreamSender};
use crate::{Control, OpContext};

/// How much longer than the command the call may take: the host starts, kills and reports within this.
const MARGIN: Duration = Duration::from_secs(10);

/// A command to run.
#[derive(Debug, Clone, Default)]
#[expect(missing_docs, reason = "the names are the API's own")]
pub struct Command {
    pub cmd: String,
    pub args: Vec<String>,
    pub env: BTreeMap<String, String>,
    pub cwd: Option<String>,
    pub user: Option<String>,
}

/// How a command ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ExecResult {
    /// What it wrote, as bytes: a command may write anything.
    pub stdout: Bytes,
    /// What it wrote to standard error.
    pub stderr: Bytes,
    /// -1 where a signal ended it.
    pub exit_code: i32,
    /// How long it ran, as the guest saw it.
    pub duration: Duration,
    /// Whether output beyond the limit was dropped.
    pub truncated: bool,
}

/// How a streamed command is treated.
#[derive(Debug, Clone, Copy, Default)]
pub struct ExecStreamOptions {
    /// Kill it after this long.
    pub timeout: Option<Duration>,
    /// What becomes of it when the stream ends early.
    pub on_close: OnClose,
    /// What it reads.
    pub stdin: Stdin,
}

/// What becomes of a command whose stream ended early.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum OnClose {
    /// It is killed.
    #[default]
    Kill,
    /// It runs on.
    Detach,
}

/// What a streamed command reads.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Stdin {
    /// Nothing: end of file at once.
    #[default]
    Closed,
    /// What [`ExecInput::stdin`] sends.
    Open,
}

/// A running command.
pub struct ExecStream {
    /// What goes in.
    pub input: ExecInput,
    /// What comes out.
    pub output: ExecOutput,
}

/// The way in. Dropping it does not end the command; of one that runs on without its stream, the output ends once all input has
/// arrived.
pub struct ExecInput {
    sender: ExecStreamSender,
    sandbox: Sandbox,
}

/// The way out. Dropping it ends the stream, and with it the command unless that was detached.
pub struct ExecOutput {
    receiver: ExecStreamReceiver,
    sandbox: Sandbox,
    /// What a time-out of the stream is told as: the caller's limit on the command, where there is one.
    limit: Duration,
    control: Control,
}

/// What happens to a streamed command, in order: `Started`, output, `Exit`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ExecEvent {
    /// It runs.
    Started {
        /// Its process id in the guest.
        pid: u32,
    },
    /// It wrote to standard output.
    Stdout(Bytes),
    /// It wrote to standard error.
    Stderr(Bytes),
    /// Its terminal showed something.
    Terminal(TerminalOutput),
    /// It ended; nothing follows.
    Exit {
        /// -1 where a signal ended it.
        exit_code: i32,
        /// In words.
        status: String,
    },
}

/// What a terminal showed, and where that stands in all that it has shown.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TerminalOutput {
    /// The bytes.
    pub data: Bytes,
    /// How many bytes came before them since the process started.
    pub offset: u64,
    /// How many of those that were asked for are gone: they came before these.
    pub dropped: u64,
}

impl Control {
    /// Runs a command to its end. `timeout` is in whole seconds; by default [`limits::DEFAULT_EXEC_TIMEOUT_SEC`].
    pub async fn sandbox_exec(
        &self,
        _ctx: &OpContext,
        sandbox: &Sandbox,
        command: &Command,
        timeout_sec: Option<u32>,
    ) -> Result<ExecResult, SandboxError> {
        command.validate()?;
        let timeout_sec = timeout_sec.unwrap_or(limits::DEFAULT_EXEC_TIMEOUT_SEC);
        super::validate::within("timeout_sec", timeout_sec, limits::EXEC_TIMEOUT_SEC)?;
        let limit = Duration::from_secs(timeout_sec.into());
        let client = self.client_of_running(sandbox, "exec")?;
        let request = host::ExecRequest {
            id: sandbox.id.to_string(),
            command: command.to_proto().into(),
            timeout_sec,
            max_output_bytes: limits::EXEC_OUTPUT_BYTES,
            ..Default::default()
        };
        let answer = client
            .exec(request, limit.saturating_add(MARGIN))
            .await
            .map_err(|error| self.host_failed(CallSite::of(sandbox, "the command", limit), error))?;
        Ok(ExecResult {
            stdout: answer.stdout.into(),
            stderr: answer.stderr.into(),
            exit_code: answer.exit_code,
            duration: Duration::from_millis(answer.duration_ms),
            truncated: answer.truncated,
        })
    }

    /// Starts a command and streams its input and output. A command that cannot be started is told by the first
    /// [`ExecOutput::next`].
    pub async fn sandbox_exec_stream(
        &self,
        _ctx: &OpContext,
        sandbox: &Sandbox,
        command: &Command,
        options: ExecStreamOptions,
    ) -> Result<ExecStream, SandboxError> {
        command.validate()?;
        let timeout_sec =
            options.timeout.map_or(0, |limit| u32::try_from(limit.as_secs()).unwrap_or(u32::MAX));
        let client = self.client_of_running(sandbox, "exec")?;
        let start = host::exec_stream_request::Start {
            id: sandbox.id.to_string(),
            command: command.to_proto().into(),
            timeout_sec,
            detach: options.on_close == OnClose::Detach,
            stdin: options.stdin == Stdin::Open,
            ..Default::default()
        };
        let halves = client.exec_stream(start.into()).await.map_err(|error| {
            self.host_failed(CallSite::of(sandbox, "the command", self.config().call_deadline), error)
        })?;
        let limit = options.timeout.unwrap_or(self.config().call_deadline);
        Ok(ExecStream::new(self, sandbox, halves, limit))
    }
}

impl ExecStream {
    /// `limit` is what a time-out of the stream is told as.
    pub(super) fn new(
        control: &Control,
        sandbox: &Sandbox,
        (sender, receiver): (ExecStreamSender, ExecStreamReceiver),
        limit: Duration,
    ) -> Self {
        let sandbox = sandbox.clone();
        Self {
            input: ExecInput { sender, sandbox: sandbox.clone() },
            output: ExecOutput { receiver, sandbox, limit, control: control.clone() },
        }
    }
}

impl ExecInput {
    /// Sends bytes to the command's standard input. Fails once the command's stream ended; [`ExecOutput::next`] says how.
    pub async fn stdin(&mut self, data: Bytes) -> Result<(), SandboxError> {
        self.sender.stdin(data).await.map_err(|_| SandboxError::Gone { id: self.sandbox.id })
    }

    /// Closes the command's standard input.
    pub async fn close_stdin(&mut self) -> Result<(), SandboxError> {
        self.sender.close_stdin().await.map_err(|_| SandboxError::Gone { id: self.sandbox.id })
    }

    /// Gives the command's terminal another size.
    pub async fn resize(&mut self, size: TerminalSize) -> Result<(), SandboxError> {
        self.sender.resize(size.to_proto()).await.map_err(|_| SandboxError::Gone { id: self.sandbox.id })
    }

    /// Kills the command; its end still arrives as [`ExecEvent::Exit`].
    pub async fn stop(&mut self) -> Result<(), SandboxError> {
        self.sender.stop().await.map_err(|_| SandboxError::Gone { id: self.sandbox.id })
    }
}

impl ExecOutput {
    /// The next event; none after [`ExecEvent::Exit`]. May be dropped and called again without a loss.
    pub async fn next(&mut self) -> Result<Option<ExecEvent>, SandboxError> {
        self.receiver.next().await.map_err(|error| {
            self.control.host_failed(CallSite::of(&self.sandbox, "the command", self.limit), error)
        })
    }
}

impl Command {
    pub(crate) fn validate(&self) -> Result<(), InvalidSandbox> {
        super::validate::command(self)
    }

    pub(super) fn to_proto(&self) -> host::Command {
        host::Command {
            cmd: self.cmd.clone(),
            args: self.args.clone(),
            env: self.env.iter().map(|(key, value)| (key.clone(), value.clone())).collect(),
            cwd: self.cwd.clone().unwrap_or_default(),
            user: self.user.clone().unwrap_or_default(),
            ..Default::default()
        }
    }
}
