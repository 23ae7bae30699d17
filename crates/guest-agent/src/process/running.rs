//! The tasks around one child: pumps that read its streams, and a supervisor that reports its one end.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use rustix::process::{Pid, Signal, WaitIdStatus};
use sandbar_types::log::{LoggedProcess, OutputStream};
use tokio::io::AsyncWriteExt;
use tokio::net::unix::pipe::Sender;
use tokio::sync::Mutex;
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout};
use tokio_util::sync::CancellationToken;

use super::launch::{Attached, Launch, Launched};
use super::output::{Cause, End, Exit, Output, Subscription};
use super::pty::{Pty, Size};
use super::reader::Reader;
use super::ring::Source;
use super::session;
use super::spawn::Child;
use super::table::ProcessTable;
use crate::log::{self, Lines};

/// A child that has ended may leave others behind that hold its pipes (`server &`). They get this long without a word
/// (a `tee` that still writes has a word), and this long in all; then the command is over, though they go on.
const LEFTOVER_SILENCE: Duration = Duration::from_millis(250);
const LEFTOVER_TOTAL: Duration = Duration::from_secs(2);

/// A process that was started through the agent.
pub(crate) struct Process {
    pub(crate) pid: u32,
    pub(crate) launch: Launch,
    pub(crate) tag: Option<String>,
    pub(crate) output: Arc<Output>,
    pub(crate) started: Instant,
    input: Input,
    reaped: AtomicBool,
}

enum Input {
    /// `/dev/null`.
    None,
    /// Open until it is closed.
    Pipe(Mutex<Option<Sender>>),
    Terminal(Pty),
}

/// What callers type.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum InputKind {
    Stdin,
    Pty,
}

/// Why a running process did not take what was asked of it.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ProcessError {
    #[error("process with pid {0} not found")]
    Ended(u32),
    #[error("stdin of process {0} is not open")]
    StdinClosed(u32),
    #[error("process {0} has no terminal")]
    NoTerminal(u32),
    #[error("process {0} has a terminal: send pty input")]
    IsTerminal(u32),
    #[error("process {pid}: {source}")]
    Failed { pid: u32, source: io::Error },
}

impl Process {
    /// Takes over a child and starts its tasks. The subscription sees everything from the first byte.
    pub(crate) fn adopt(
        launched: Launched,
        launch: Launch,
        tag: Option<String>,
        deadline: Option<Instant>,
        table: &ProcessTable,
    ) -> (Arc<Self>, Subscription) {
        let Launched { child, streams } = launched;
        let pid = child.pid.as_raw_nonzero().get().unsigned_abs();
        let output = Output::new(table.stall_limit(), table.memory());
        let subscription = output.subscribe(None);
        let logged = log::logged(pid, &launch.cmd, tag.as_deref());
        let terminal = matches!(streams, Attached::Terminal(_));
        table.log().started(&logged, &launch.args, terminal);
        let ended = CancellationToken::new();
        let mut pumps = JoinSet::new();
        let input = match streams {
            Attached::Pipes { stdin, stdout, stderr } => {
                let lines = |stream| Some(Lines::new(Arc::clone(table.log()), Arc::clone(&logged), stream));
                let (out, err) = (lines(OutputStream::Stdout), lines(OutputStream::Stderr));
                let to = (Source::Stdout, Arc::clone(&output), out);
                pumps.spawn(pump(Reader::Pipe(stdout), to, ended.clone()));
                let to = (Source::Stderr, Arc::clone(&output), err);
                pumps.spawn(pump(Reader::Pipe(stderr), to, ended.clone()));
                stdin.map_or(Input::None, |stdin| Input::Pipe(Mutex::new(Some(stdin))))
            }
            Attached::Terminal(pty) => {
                // What goes over a terminal is what somebody types: it is not logged.
                let to = (Source::Pty, Arc::clone(&output), None);
                pumps.spawn(pump(Reader::Terminal(pty.clone()), to, ended.clone()));
                Input::Terminal(pty)
            }
        };
        let reaped = AtomicBool::new(false);
        let process = Arc::new(Self { pid, launch, tag, output, started: Instant::now(), input, reaped });
        table.insert(Arc::clone(&process));
        let tasks = Tasks { logged, pumps, ended };
        tokio::spawn(supervise(Arc::clone(&process), child, deadline, tasks, table.clone()));
        (process, subscription)
    }

    /// Whether the process has not been reaped.
    pub(crate) fn is_running(&self) -> bool {
        !self.reaped.load(Ordering::Acquire)
    }

    /// Signals the process and what it started in its group.
    pub(crate) fn signal(&self, signal: Signal) -> Result<(), ProcessError> {
        let leader = self.leader()?;
        session::signal_group(leader, signal)
            .map_err(|errno| ProcessError::Failed { pid: self.pid, source: errno.into() })
    }

    /// Writes to the process's input; waits while the process does not read.
    pub(crate) async fn write(&self, kind: InputKind, bytes: &[u8]) -> Result<(), ProcessError> {
        self.leader()?;
        let written = match (&self.input, kind) {
            (Input::Terminal(pty), InputKind::Pty) => pty.write_all(bytes).await,
            (Input::Terminal(_), InputKind::Stdin) => return Err(ProcessError::IsTerminal(self.pid)),
            (_, InputKind::Pty) => return Err(ProcessError::NoTerminal(self.pid)),
            (Input::None, InputKind::Stdin) => return Err(ProcessError::StdinClosed(self.pid)),
            (Input::Pipe(stdin), InputKind::Stdin) => match stdin.lock().await.as_mut() {
                None => return Err(ProcessError::StdinClosed(self.pid)),
                Some(stdin) => stdin.write_all(bytes).await,
            },
        };
        written.map_err(|source| match source.kind() {
            // The process has closed it.
            io::ErrorKind::BrokenPipe => ProcessError::StdinClosed(self.pid),
            _ => ProcessError::Failed { pid: self.pid, source },
        })
    }

    /// Closes the process's input, so that it reads its end.
    pub(crate) async fn close_stdin(&self) -> Result<(), ProcessError> {
        self.leader()?;
        match &self.input {
            Input::None => Err(ProcessError::StdinClosed(self.pid)),
            Input::Terminal(_) => Err(ProcessError::IsTerminal(self.pid)),
            Input::Pipe(stdin) => match stdin.lock().await.take() {
                Some(_) => Ok(()),
                None => Err(ProcessError::StdinClosed(self.pid)),
            },
        }
    }

    /// Resizes the process's terminal.
    pub(crate) fn resize(&self, size: Size) -> Result<(), ProcessError> {
        self.leader()?;
        match &self.input {
            Input::Terminal(pty) => {
                pty.resize(size).map_err(|source| ProcessError::Failed { pid: self.pid, source })
            }
            Input::None | Input::Pipe(_) => Err(ProcessError::NoTerminal(self.pid)),
        }
    }

    /// The process's id, as long as it is still the process's.
    fn leader(&self) -> Result<Pid, ProcessError> {
        i32::try_from(self.pid)
            .ok()
            .and_then(Pid::from_raw)
            .filter(|_| self.is_running())
            .ok_or(ProcessError::Ended(self.pid))
    }
}

/// What goes on around a child while it runs.
struct Tasks {
    logged: Arc<LoggedProcess>,
    pumps: JoinSet<()>,
    ended: CancellationToken,
}

/// Waits for the end of the child, or brings it about at the deadline, and closes the output.
async fn supervise(
    process: Arc<Process>,
    child: Child,
    deadline: Option<Instant>,
    tasks: Tasks,
    table: ProcessTable,
) {
    let Tasks { logged, mut pumps, ended } = tasks;
    let at_deadline = async {
        match deadline {
            Some(deadline) => tokio::time::sleep_until(deadline).await,
            None => std::future::pending().await,
        }
    };
    let (status, cause) = tokio::select! {
        status = child.wait() => (status, Cause::Own),
        () = at_deadline => {
            if let Ok(leader) = process.leader() {
                session::kill(leader);
            }
            (child.wait().await, Cause::Deadline)
        }
    };
    process.reaped.store(true, Ordering::Release);
    ended.cancel();
    while pumps.join_next().await.is_some() {}
    let exit = exit(status);
    let exit_code = match exit {
        Exit::Code(code) => Some(code),
        Exit::Signal(_) | Exit::Lost(_) => None,
    };
    let how = match cause {
        Cause::Own => exit.to_string(),
        Cause::Deadline => "killed: its time was over".to_owned(),
    };
    table.log().ended(&logged, exit_code, &how, process.started.elapsed());
    process.output.finish(End { exit, cause });
    table.retire(&process);
}

fn exit(status: io::Result<WaitIdStatus>) -> Exit {
    match status {
        Ok(status) => match (status.exit_status(), status.terminating_signal()) {
            (Some(code), _) => Exit::Code(code),
            (None, Some(signal)) => Exit::Signal(signal),
            (None, None) => Exit::Lost("the kernel does not say how it ended".to_owned()),
        },
        Err(error) => Exit::Lost(error.to_string()),
    }
}

/// Where a stream goes: into the output that callers follow, and line by line into the log.
type Destination = (Source, Arc<Output>, Option<Lines>);

/// Reads a stream into the output until its end, or until `ended` and silence. A stream that is then still open is read on
/// by a task of its own: whoever holds it must neither block nor be killed for writing to it.
async fn pump(reader: Reader, to: Destination, ended: CancellationToken) {
    let (source, output, mut lines) = to;
    let mut left = LEFTOVER_TOTAL;
    loop {
        let read = if ended.is_cancelled() {
            let started = Instant::now();
            let Ok(read) = timeout(LEFTOVER_SILENCE.min(left), reader.read()).await else {
                tokio::spawn(discard(reader));
                return;
            };
            left = left.saturating_sub(started.elapsed());
            read
        } else {
            tokio::select! {
                biased;
                read = reader.read() => read,
                () = ended.cancelled() => continue,
            }
        };
        match read {
            Ok(bytes) if !bytes.is_empty() => {
                if let Some(lines) = &mut lines {
                    lines.take(&bytes);
                }
                output.push(source, bytes).await;
            }
            Ok(_) | Err(_) => return,
        }
    }
}

async fn discard(reader: Reader) {
    while reader.read().await.is_ok_and(|bytes| !bytes.is_empty()) {}
}
