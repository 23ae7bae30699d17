//! Terminals in a sandbox: opened, left, and found again with what they have shown meanwhile.

use sandbar_proto::host::exec_stream_request::{Connect, Request, Start};
use sandbar_proto::host::{self, ProcessSelector, process_selector};

use super::{CallSite, Command, ExecStream, Sandbox, SandboxError, validate};
use crate::{Control, OpContext};

/// Columns and rows of a terminal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[expect(missing_docs, reason = "the names say it")]
pub struct TerminalSize {
    pub cols: u16,
    pub rows: u16,
}

/// Which process of a sandbox.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ProcessRef {
    /// By its id in the guest.
    Pid(u32),
    /// By the name that it was given.
    Tag(String),
}

impl Control {
    /// Runs a command in a terminal of its own. It runs on when the stream ends; its tag finds it again.
    pub async fn sandbox_open_terminal(
        &self,
        _ctx: &OpContext,
        sandbox: &Sandbox,
        command: &Command,
        size: TerminalSize,
        tag: &str,
    ) -> Result<ExecStream, SandboxError> {
        command.validate()?;
        validate::tag(tag)?;
        let start = Start {
            id: sandbox.id.to_string(),
            command: command.to_proto().into(),
            detach: true,
            stdin: true,
            terminal: size.to_proto().into(),
            tag: tag.to_owned(),
            ..Default::default()
        };
        self.stream_of(sandbox, Request::from(start)).await
    }

    /// Comes back to a process: what it writes from now on, or from an offset on, as far as that is kept.
    pub async fn sandbox_connect_terminal(
        &self,
        _ctx: &OpContext,
        sandbox: &Sandbox,
        process: &ProcessRef,
        from_offset: Option<u64>,
    ) -> Result<ExecStream, SandboxError> {
        let connect = Connect {
            id: sandbox.id.to_string(),
            process: process.to_proto()?.into(),
            from_offset,
            ..Default::default()
        };
        self.stream_of(sandbox, Request::from(connect)).await
    }

    async fn stream_of(&self, sandbox: &Sandbox, first: Request) -> Result<ExecStream, SandboxError> {
        let client = self.client_of_running(sandbox, "a terminal")?;
        let limit = self.config().call_deadline;
        let halves = client
            .exec_stream(first)
            .await
            .map_err(|error| self.host_failed(CallSite::of(sandbox, "the terminal", limit), error))?;
        Ok(ExecStream::new(self, sandbox, halves, limit))
    }
}

impl TerminalSize {
    pub(super) fn to_proto(self) -> host::TerminalSize {
        let Self { cols, rows } = self;
        host::TerminalSize { cols: cols.into(), rows: rows.into(), ..Default::default() }
    }
}

impl ProcessRef {
    pub(super) fn to_proto(&self) -> Result<ProcessSelector, SandboxError> {
        let selector = match self {
            Self::Pid(pid) => process_selector::Selector::Pid(*pid),
            Self::Tag(tag) => {
                validate::tag(tag)?;
                process_selector::Selector::Tag(tag.clone())
            }
        };
        Ok(ProcessSelector { selector: Some(selector), ..Default::default() })
    }
}

impl From<String> for ProcessRef {
    /// A number is a process id, anything else a tag.
    fn from(text: String) -> Self {
        text.parse().map_or_else(|_| Self::Tag(text), Self::Pid)
    }
}
