//! The programs of a simulated guest: small, and each shows one thing that a caller must carry rightly.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

use connectrpc::ConnectError;
use sandbar_proto::host as rpc;
use sandbar_types::guest;
use tokio::sync::watch;

use super::Reason;
use super::faults::refusal;

/// What a command does.
pub(super) enum Program {
    /// Writes its output, piece by piece, and exits.
    Print { pieces: Vec<Piece>, exit_code: i32 },
    /// Says something, and copies standard input to standard output until that is closed.
    Cat { says: Vec<u8> },
    /// Runs until it is killed.
    Sleep,
}

/// One write of a program.
pub(super) enum Piece {
    Stdout(Vec<u8>),
    Stderr(Vec<u8>),
}

impl Program {
    /// The program that `command` names.
    ///
    /// - `echo WORDS`: the words and a line feed.
    /// - `warn WORDS`: the same, on standard error.
    /// - `exit CODE`: nothing but the exit code.
    /// - `bytes HEX...`: each argument's bytes in a write of its own.
    /// - `flood COUNT`: that many bytes of `x`.
    /// - `context`: the user, working directory and environment, one a line.
    /// - `cat`, `sleep`.
    /// - the guest agent's `unpack`: its user and arguments, and what it reads.
    /// - `/bin/sh -c LINE`: the program that the line's first word names, or exit code 127.
    /// - `/bin/bash -l -c LINE`: the same.
    /// - `/bin/mkdir`, `[`: nothing.
    pub(super) fn find(command: &rpc::Command) -> Result<Self, ConnectError> {
        let words = || format!("{}\n", command.args.join(" ")).into_bytes();
        let print = |pieces| Ok(Self::Print { pieces, exit_code: 0 });
        match command.cmd.as_str() {
            "echo" => print(vec![Piece::Stdout(words())]),
            "warn" => print(vec![Piece::Stderr(words())]),
            "exit" => Ok(Self::Print { pieces: Vec::new(), exit_code: number(command)? }),
            "bytes" => print(command.args.iter().map(|arg| bytes(arg)).collect::<Result<_, _>>()?),
            "flood" => print(vec![Piece::Stdout(vec![b'x'; number(command)?])]),
            "context" => print(vec![Piece::Stdout(context(command).into_bytes())]),
            "/bin/sh" => Self::of_line(command, 1),
            "/bin/bash" => Self::of_line(command, 2),
            "/bin/mkdir" | "[" => print(Vec::new()),
            guest::AGENT_PATH => {
                let says = format!("{}: {}\n", command.user, command.args.join(" "));
                Ok(Self::Cat { says: says.into_bytes() })
            }
            "cat" => Ok(Self::Cat { says: Vec::new() }),
            "sleep" => Ok(Self::Sleep),
            _ => Err(refusal(Reason::REASON_COMMAND_NOT_FOUND)),
        }
    }
}

impl Program {
    /// What a shell does with the line that is its argument of this number: it splits it at its spaces, and knows nothing else.
    fn of_line(shell: &rpc::Command, at: usize) -> Result<Self, ConnectError> {
        let line = shell.args.get(at).ok_or_else(|| refusal(Reason::REASON_BAD_INPUT))?;
        let mut words = line.split_whitespace().map(str::to_owned);
        let command =
            rpc::Command { cmd: words.next().unwrap_or_default(), args: words.collect(), ..shell.clone() };
        // A shell that is to run itself would not end.
        if command.cmd == "/bin/sh" || command.cmd == "/bin/bash" {
            return Err(refusal(Reason::REASON_BAD_INPUT));
        }
        Self::find(&command).or_else(|_| {
            let words = format!("sh: {}: not found\n", command.cmd).into_bytes();
            Ok(Self::Print { pieces: vec![Piece::Stderr(words)], exit_code: 127 })
        })
    }
}

fn number<N: std::str::FromStr>(command: &rpc::Command) -> Result<N, ConnectError> {
    let text = command.args.first().ok_or_else(|| refusal(Reason::REASON_BAD_INPUT))?;
    text.parse().map_err(|_| refusal(Reason::REASON_BAD_INPUT))
}

fn bytes(hex: &str) -> Result<Piece, ConnectError> {
    (0..hex.len())
        .step_by(2)
        .map(|at| hex.get(at..at + 2).and_then(|pair| u8::from_str_radix(pair, 16).ok()))
        .collect::<Option<Vec<u8>>>()
        .map(Piece::Stdout)
        .ok_or_else(|| refusal(Reason::REASON_BAD_INPUT))
}

fn context(command: &rpc::Command) -> String {
    let env: BTreeMap<_, _> = command.env.iter().collect();
    let mut lines = format!("user={}\ncwd={}\n", command.user, command.cwd);
    for (name, value) in env {
        lines.push_str(&format!("{name}={value}\n"));
    }
    lines
}

/// What commands there were, how many run, and what they were sent.
#[derive(Default)]
pub(super) struct Processes {
    all: Mutex<Vec<rpc::Command>>,
    count: watch::Sender<usize>,
    input: watch::Sender<Vec<u8>>,
}

impl Processes {
    /// The program that a command names; from now on that was asked for.
    pub(super) fn find(&self, command: &rpc::Command) -> Result<Program, ConnectError> {
        self.all.lock().unwrap_or_else(PoisonError::into_inner).push(command.clone());
        Program::find(command)
    }

    pub(super) fn all(&self) -> Vec<rpc::Command> {
        self.all.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// A command that runs until the guard is dropped.
    pub(super) fn start(&self) -> Running {
        self.count.send_modify(|count| *count += 1);
        Running { count: self.count.clone(), input: self.input.clone() }
    }

    pub(super) async fn reach(&self, count: usize) {
        // The sender lives as long as `self`.
        let _ = self.count.subscribe().wait_for(|now| *now == count).await;
    }

    /// Waits until all of them together were sent these bytes, and no others.
    pub(super) async fn were_sent(&self, bytes: &[u8]) {
        // As above.
        let _ = self.input.subscribe().wait_for(|now| now == bytes).await;
    }
}

/// A command that runs.
pub(super) struct Running {
    count: watch::Sender<usize>,
    input: watch::Sender<Vec<u8>>,
}

impl Running {
    /// Input has come.
    pub(super) fn typed(&self, bytes: &[u8]) {
        self.input.send_modify(|all| all.extend_from_slice(bytes));
    }

    /// The command goes on without anybody to watch it.
    pub(super) fn detach(self) {
        std::mem::forget(self);
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.count.send_modify(|count| *count -= 1);
    }
}
