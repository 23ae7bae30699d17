//! Runs a command with a PostgreSQL server of its own: `with-postgres [--] COMMAND [ARGUMENT...]`.
//!
//! The server lives in a temporary folder, flushes nothing, and is gone when the command ends. The command finds its URL in
//! `SANDBAR_TEST_POSTGRES`; this program ends with the command's exit code (128 + n where signal n ended it). SIGINT and
//! SIGTERM go to the command, whose end is then waited for as always. A server whose `with-postgres` was killed is ended by the
//! next one.

use std::ffi::OsString;
use std::fs::{self, File, TryLockError};
use std::os::unix::process::ExitStatusExt as _;
use std::path::Path;
use std::process::ExitCode;

use anyhow::{Context as _, bail};
use rustix::process::{Pid, Signal, kill_process};
use sandbar_postgres::{DATABASE, Durability, Options, Server};
use sandbar_testkit::POSTGRES_VARIABLE;
use sandbar_testkit::server::{FOLDER_LOCK, FOLDER_PREFIX, make_folder};
use tokio::process::{Child, Command};
use tokio::signal::unix::{SignalKind, signal};

#[tokio::main(flavor = "current_thread")]
async fn main() -> anyhow::Result<ExitCode> {
    let mut arguments = std::env::args_os().skip(1).peekable();
    arguments.next_if(|argument| argument == "--");
    let Some(program) = arguments.next() else { bail!("usage: with-postgres [--] COMMAND [ARGUMENT...]") };
    // Handlers first: from here on no signal ends us with the server left behind.
    let mut interrupts = signal(SignalKind::interrupt())?;
    let mut terminations = signal(SignalKind::terminate())?;

    let parent = std::env::temp_dir();
    sweep(&parent).await;
    let (folder, _lock) = make_folder(&parent)?;
    let options = Options::in_folder(folder.path(), Durability::Off);
    let server = Server::start(&options).await.context("cannot start a PostgreSQL server")?;

    let outcome = async {
        let mut child = command(&program, arguments, &server.url(DATABASE))
            .spawn()
            .with_context(|| format!("cannot run {}", program.to_string_lossy()))?;
        loop {
            tokio::select! {
                status = child.wait() => return status.context("cannot wait for the command"),
                _ = interrupts.recv() => pass_on(&child, Signal::INT),
                _ = terminations.recv() => pass_on(&child, Signal::TERM),
            }
        }
    }
    .await;
    server.stop().await.context("cannot stop the PostgreSQL server")?;
    let status = outcome?;
    let code = status.code().or_else(|| status.signal().map(|signal| 128 + signal)).unwrap_or(1);
    Ok(ExitCode::from(u8::try_from(code).unwrap_or(1)))
}

fn command(program: &OsString, arguments: impl Iterator<Item = OsString>, url: &str) -> Command {
    let mut command = Command::new(program);
    command.args(arguments).env(POSTGRES_VARIABLE, url);
    command
}

fn pass_on(child: &Child, signal: Signal) {
    let pid = child.id().and_then(|id| i32::try_from(id).ok()).and_then(Pid::from_raw);
    if let Some(pid) = pid
        && let Err(error) = kill_process(pid, signal)
    {
        eprintln!("with-postgres: cannot pass a signal on to the command: {error}");
    }
}

/// Ends the servers, and removes the folders, of killed runs. What cannot be removed is left for the next run to try.
async fn sweep(parent: &Path) {
    let Ok(entries) = fs::read_dir(parent) else { return };
    for entry in entries.flatten() {
        if !entry.file_name().to_str().is_some_and(|name| name.starts_with(FOLDER_PREFIX)) {
            continue;
        }
        if let Err(error) = sweep_one(&entry.path()).await {
            eprintln!("with-postgres: cannot clear {}: {error:#}", entry.path().display());
        }
    }
}

async fn sweep_one(folder: &Path) -> anyhow::Result<()> {
    // One that has no lock yet is being made this very moment.
    let Ok(lock) = File::open(folder.join(FOLDER_LOCK)) else { return Ok(()) };
    match lock.try_lock() {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) => return Ok(()),
        Err(TryLockError::Error(error)) => return Err(error.into()),
    }
    if let Some(server) = Server::find(&Options::in_folder(folder, Durability::Off)).await? {
        server.stop().await?;
    }
    Ok(fs::remove_dir_all(folder)?)
}
