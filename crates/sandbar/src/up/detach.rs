//! `up --detach`: the platform in the background, its start in the foreground.
//!
//! ```text
//!   parent                                   child, in a session of its own
//!     starts it, copies its standard output    up, as in the foreground
//!     to its own until that ends               ready: points its standard output at the log
//!     ready? exit 0. else the child's code     runs on
//! ```

use std::fs::File;
use std::process::{ExitCode, Stdio};

use anyhow::Context as _;
use rustix::process::{Pid, Signal, kill_process};
use tokio::io::AsyncReadExt as _;
use tokio::process::{Child, Command};

use super::agent::own_session;
use super::lock::{self, Stage};
use super::progress::say;
use crate::data_dir::{DataDir, open_log, tail};
use crate::shutdown::{EndSignal, Signals};

/// The argument by which the child knows what it is.
pub(super) const CHILD_FLAG: &str = "--detached-child";

/// Bytes of the log that are shown when the start has failed.
const LOG_TAIL_BYTES: usize = 2000;

/// Starts the platform in the background and returns once it is ready, or has failed.
pub(super) async fn detach(data: &DataDir) -> anyhow::Result<ExitCode> {
    let mut signals = Signals::listen()?;
    let log_path = data.log("up");
    let mut command = Command::new("/proc/self/exe");
    command.args(std::env::args_os().skip(1)).arg(CHILD_FLAG);
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(open_log(&log_path)?);
    own_session(&mut command);
    let mut child = command.spawn().context("cannot start in the background")?;
    let pid = child.id();

    let mut output = child.stdout.take().context("the child has no standard output")?;
    let mut buffer = vec![0; 4096];
    loop {
        tokio::select! {
            read = output.read(&mut buffer) => match read {
                Ok(0) | Err(_) => break,
                Ok(length) => copy(buffer.get(..length).unwrap_or_default()),
            },
            signal = signals.next() => pass_on(&child, signal),
        }
    }
    // It says that it is ready before it lets go of its output.
    let holder = lock::holder(&data.lock())?;
    if holder.is_some_and(|holder| Some(holder.pid.cast_unsigned()) == pid && holder.stage == Stage::Ready) {
        return Ok(ExitCode::SUCCESS);
    }
    let status = loop {
        tokio::select! {
            status = child.wait() => break status.context("cannot wait for the background process")?,
            signal = signals.next() => pass_on(&child, signal),
        }
    };
    if !status.success() {
        eprintln!("{}", tail(&log_path, LOG_TAIL_BYTES));
    }
    Ok(ExitCode::from(status.code().and_then(|code| u8::try_from(code).ok()).unwrap_or(1)))
}

/// The child's side: from here on its output goes to the log, and the parent goes.
pub(super) fn let_go_of_output(data: &DataDir) -> anyhow::Result<()> {
    let log: File = open_log(&data.log("up"))?;
    rustix::stdio::dup2_stdout(log).context("cannot point standard output at the log")
}

fn pass_on(child: &Child, signal: EndSignal) {
    let signal = match signal {
        EndSignal::Interrupt => Signal::INT,
        EndSignal::Terminate | EndSignal::Hangup => Signal::TERM,
    };
    let pid = child.id().and_then(|pid| Pid::from_raw(pid.cast_signed()));
    if let Some(Err(error)) = pid.map(|pid| kill_process(pid, signal)) {
        eprintln!("sandbar: the background process cannot be told to stop: {error}");
    }
}

fn copy(bytes: &[u8]) {
    let text = String::from_utf8_lossy(bytes);
    say(text.strip_suffix('\n').unwrap_or(&text));
}
