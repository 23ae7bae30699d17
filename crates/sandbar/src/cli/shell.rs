//! `sandbar sandbox shell`: a terminal in a sandbox in this terminal; and `sandbar sandbox ps`.

use std::io::{self, IsTerminal as _};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context as _;
use clap::Args;
use rustix::stdio::{stdin, stdout};
use rustix::termios::{OptionalActions, Termios, tcgetattr, tcgetwinsize, tcsetattr};
use sandbar_types::{Id, id};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::signal::unix::{SignalKind, signal};

use super::sandbox::print_json;
use super::{exit, table};
use crate::client::{Client, ClientError, TerminalEvent, TerminalInput, TerminalOpening, TerminalOutput};

/// Ctrl-], as telnet has it.
const LEAVE: u8 = 0x1d;
/// How long the server may take to say farewell.
const FAREWELL: Duration = Duration::from_secs(2);

/// Open a terminal in a sandbox, or come back to one
///
/// Ctrl-] leaves it as it is, and prints the tag that finds it again. The exit code is that of what ran in it; 255 when a signal ended it
/// in the sandbox, 125 when it could not be opened.
#[derive(Debug, Args)]
pub(super) struct ShellArgs {
    /// The sandbox
    #[arg(value_name = "SANDBOX")]
    id: Id<id::Sandbox>,

    /// Come back to the terminal of this tag, with what it has shown meanwhile
    #[arg(long, value_name = "TAG", conflicts_with_all = ["cwd", "user", "command"])]
    attach: Option<String>,

    /// Folder to run in [default: the user's home]
    #[arg(long, value_name = "FOLDER")]
    cwd: Option<String>,

    /// User to run as [default: the template's]
    #[arg(long, value_name = "NAME")]
    user: Option<String>,

    /// The command and its arguments [default: a login shell]
    #[arg(last = true, value_name = "COMMAND")]
    command: Vec<String>,
}

/// List the processes that were started in a sandbox from outside
#[derive(Debug, Args)]
pub(super) struct PsArgs {
    /// The sandbox
    #[arg(value_name = "SANDBOX")]
    id: Id<id::Sandbox>,

    /// Print a JSON array
    #[arg(long)]
    json: bool,
}

pub(super) async fn ps(client: &Client, args: &PsArgs) -> anyhow::Result<ExitCode> {
    let processes = client.processes(args.id).await?;
    if args.json {
        print_json(&processes)?;
        return Ok(ExitCode::SUCCESS);
    }
    let rows: Vec<_> = processes
        .into_iter()
        .map(|process| {
            let command = std::iter::once(process.cmd).chain(process.args).collect::<Vec<_>>().join(" ");
            [process.pid.to_string(), process.tag.unwrap_or_default(), command]
        })
        .collect();
    print!("{}", table::render(["PID", "TAG", "COMMAND"], &rows));
    Ok(ExitCode::SUCCESS)
}

/// How a session ended.
enum Ended {
    /// What ran in the terminal did.
    Exit(i32),
    /// It runs on.
    Left,
}

pub(super) async fn shell(client: &Client, args: ShellArgs) -> anyhow::Result<ExitCode> {
    anyhow::ensure!(
        io::stdin().is_terminal() && io::stdout().is_terminal(),
        "this needs a terminal: `sandbar sandbox exec` runs commands without one"
    );
    let ShellArgs { id, attach, cwd, user, command } = args;
    let (cols, rows) = size();
    let mut words = command.into_iter();
    let opening = match attach {
        Some(tag) => TerminalOpening::Connect { tag, from: 0 },
        None => {
            let cmd = words.next();
            TerminalOpening::Start { cmd, args: words.collect(), cols, rows, cwd, user }
        }
    };
    let (input, output) = client.terminal(id, &opening).await?;
    let mut session = Session { input, output, tag: None };
    if let TerminalOpening::Connect { tag, .. } = opening {
        session.tag = Some(tag);
        session.input.resize(cols, rows).await?;
    }
    let raw = Raw::enter()?;
    let ended = session.run().await;
    drop(raw);
    match ended? {
        Ended::Exit(code) => Ok(ExitCode::from(u8::try_from(code).unwrap_or(exit::KILLED_INSIDE))),
        Ended::Left => {
            let tag = session.tag.unwrap_or_default();
            eprintln!("\nleft; come back with: sandbar sandbox shell {id} --attach {tag}");
            Ok(ExitCode::SUCCESS)
        }
    }
}

struct Session {
    input: TerminalInput,
    output: TerminalOutput,
    tag: Option<String>,
}

impl Session {
    async fn run(&mut self) -> anyhow::Result<Ended> {
        let (mut typed, mut shown) = (tokio::io::stdin(), tokio::io::stdout());
        let mut resized = signal(SignalKind::window_change()).context("cannot listen for signals")?;
        let mut buffer = [0; 4096];
        loop {
            tokio::select! {
                event = self.output.next() => match event? {
                    Some(TerminalEvent::Started { tag }) => self.tag = tag.or(self.tag.take()),
                    Some(TerminalEvent::Output(bytes)) => {
                        shown.write_all(&bytes).await?;
                        shown.flush().await?;
                    }
                    Some(TerminalEvent::Exit(code)) => return Ok(Ended::Exit(code)),
                    Some(TerminalEvent::Failed { code, message }) => anyhow::bail!("{message} ({code})"),
                    None => anyhow::bail!("the connection ended before the terminal did"),
                },
                read = typed.read(&mut buffer) => {
                    let bytes = buffer.get(..read?).unwrap_or_default();
                    let keys = bytes.split(|byte| *byte == LEAVE).next().unwrap_or_default();
                    self.input.input(keys).await?;
                    if bytes.is_empty() || keys.len() < bytes.len() {
                        self.leave().await;
                        return Ok(Ended::Left);
                    }
                }
                _ = resized.recv() => {
                    let (cols, rows) = size();
                    self.input.resize(cols, rows).await?;
                }
            }
        }
    }

    /// What was typed just before must arrive, too: the server has taken it when it says farewell.
    async fn leave(&mut self) {
        let farewell = async {
            self.input.close().await?;
            while self.output.next().await?.is_some() {}
            Ok::<_, ClientError>(())
        };
        // One that does not is left all the same.
        let _ = tokio::time::timeout(FAREWELL, farewell).await;
    }
}

/// Columns and rows of this terminal.
fn size() -> (u16, u16) {
    match tcgetwinsize(stdout()) {
        Ok(size) if size.ws_col > 0 && size.ws_row > 0 => (size.ws_col, size.ws_row),
        Ok(_) | Err(_) => (80, 24),
    }
}

/// This terminal, passing on every key, until it is dropped.
struct Raw(Termios);

impl Raw {
    fn enter() -> anyhow::Result<Self> {
        let before = tcgetattr(stdin()).context("cannot read the terminal's settings")?;
        let mut raw = before.clone();
        raw.make_raw();
        tcsetattr(stdin(), OptionalActions::Drain, &raw).context("cannot change the terminal's settings")?;
        Ok(Self(before))
    }
}

impl Drop for Raw {
    fn drop(&mut self) {
        // A terminal that is gone needs no settings.
        let _ = tcsetattr(stdin(), OptionalActions::Drain, &self.0);
    }
}
