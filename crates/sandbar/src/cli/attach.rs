//! Joins this process's standard streams to a command in a sandbox.

use std::io;

use clap::Args;
use sandbar_types::{Id, id};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};

use super::exit;
use super::pairs::pair;
use crate::client::{Client, ClientError, ExecEvent, ExecInput, ExecOutput, ExecStart};

/// Bytes of standard input that travel in one message.
const CHUNK_BYTES: usize = 64 * 1024;

/// A command to run in a sandbox.
#[derive(Debug, Args)]
pub(super) struct CommandArgs {
    /// Variable for the command's environment; may be repeated
    #[arg(long = "env", short = 'e', value_name = "KEY=VALUE", value_parser = pair)]
    env: Vec<(String, String)>,

    /// Folder to run in [default: the user's home]
    #[arg(long, value_name = "FOLDER")]
    cwd: Option<String>,

    /// User to run as [default: the template's]
    #[arg(long, value_name = "NAME")]
    user: Option<String>,

    /// Kill the command after this many seconds
    #[arg(long, value_name = "SECONDS", value_parser = clap::value_parser!(u32).range(1..))]
    timeout: Option<u32>,

    /// The command and its arguments. No shell is involved: for pipes and the like, run `sh -c '...'`
    #[arg(last = true, required = true, value_name = "COMMAND")]
    command: Vec<String>,
}

impl CommandArgs {
    pub(super) fn start(self) -> ExecStart {
        let mut words = self.command.into_iter();
        ExecStart {
            // clap refuses an empty one.
            cmd: words.next().unwrap_or_default(),
            args: words.collect(),
            env: self.env.into_iter().collect(),
            cwd: self.cwd,
            user: self.user,
            timeout_sec: self.timeout,
        }
    }
}

/// How a command ended, as this process's exit code.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Ended(pub(super) u8);

/// Why it is not known how a command ended.
#[derive(Debug, thiserror::Error)]
pub(super) enum AttachError {
    #[error(transparent)]
    Client(#[from] ClientError),
    #[error("{message} ({code})")]
    Failed { code: String, message: String },
    #[error("the connection ended before the command did")]
    CutOff,
    #[error("cannot write the command's output")]
    Output(#[source] io::Error),
}

impl AttachError {
    /// The exit code that says so.
    pub(super) fn exit_code(&self) -> u8 {
        match self {
            Self::Failed { code, .. } if code == "timeout" => exit::TIMED_OUT,
            _ => exit::FAILED,
        }
    }
}

/// Runs a command in a sandbox with this process's standard streams, until it ends.
pub(super) async fn attach(
    client: &Client,
    id: Id<id::Sandbox>,
    start: &ExecStart,
) -> Result<Ended, AttachError> {
    let (input, output) = client.exec_stream(id, start).await?;
    pump(input, output, tokio::io::stdin(), tokio::io::stdout(), tokio::io::stderr()).await
}

async fn pump(
    input: ExecInput,
    output: ExecOutput,
    stdin: impl AsyncRead + Unpin,
    stdout: impl AsyncWrite + Unpin,
    stderr: impl AsyncWrite + Unpin,
) -> Result<Ended, AttachError> {
    let sending = pump_input(input, stdin);
    let receiving = pump_output(output, stdout, stderr);
    tokio::pin!(sending, receiving);
    // The command's end is what counts, whatever becomes of its input.
    tokio::select! {
        ended = &mut receiving => ended,
        // Held, not dropped: the connection lives as long as both halves.
        _input = &mut sending => receiving.await,
    }
}

/// Gives the input back, so that the connection stays open.
async fn pump_input(mut input: ExecInput, mut stdin: impl AsyncRead + Unpin) -> ExecInput {
    let mut buffer = vec![0; CHUNK_BYTES];
    loop {
        // Input that cannot be read has ended.
        let read = stdin.read(&mut buffer).await.unwrap_or(0);
        let sent = match buffer.get(..read) {
            Some(bytes) if read > 0 => input.stdin(bytes).await,
            _ => {
                // A command that ended meanwhile has no use for it; how it ended is told by the other half.
                let _ = input.close_stdin().await;
                return input;
            }
        };
        if sent.is_err() {
            return input;
        }
    }
}

async fn pump_output(
    mut output: ExecOutput,
    mut stdout: impl AsyncWrite + Unpin,
    mut stderr: impl AsyncWrite + Unpin,
) -> Result<Ended, AttachError> {
    loop {
        let written = match output.next().await? {
            Some(ExecEvent::Started) => Ok(()),
            Some(ExecEvent::Stdout(bytes)) => write(&mut stdout, &bytes).await,
            Some(ExecEvent::Stderr(bytes)) => write(&mut stderr, &bytes).await,
            Some(ExecEvent::Exit(code)) => {
                return Ok(Ended(u8::try_from(code).unwrap_or(exit::KILLED_INSIDE)));
            }
            Some(ExecEvent::Failed { code, message }) => return Err(AttachError::Failed { code, message }),
            None => return Err(AttachError::CutOff),
        };
        match written {
            Ok(()) => {}
            // `sandbar run -- yes | head`: not an error. Leaving closes the connection, which ends the command.
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => return Ok(Ended(exit::OUTPUT_CLOSED)),
            Err(error) => return Err(AttachError::Output(error)),
        }
    }
}

async fn write(to: &mut (impl AsyncWrite + Unpin), bytes: &[u8]) -> io::Result<()> {
    to.write_all(bytes).await?;
    to.flush().await
}
