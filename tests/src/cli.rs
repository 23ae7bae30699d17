//! The command line, run as a user runs it.

use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context as _, Result};
use tokio::io::AsyncWriteExt as _;
use tokio::process::{Child, Command};

/// A command that takes longer hangs.
const TIMEOUT: Duration = Duration::from_secs(180);

/// Variables of the caller's that would change what the platform does. `with-postgres` and a developer's shell set them.
const FOREIGN_ENV: &[&str] = &[
    "DATABASE_URL",
    "REDIS_URL",
    "RUST_LOG",
    "SANDBAR_API_KEY",
    "SANDBAR_DATA_DIR",
    "SANDBAR_MASTER_KEY",
    "SANDBAR_NO_HOST",
    "SANDBAR_URL",
    "SANDBAR_REGISTER_TOKEN",
];

/// One call of the binary.
#[derive(Debug)]
pub struct Cli {
    command: Command,
    stdin: Vec<u8>,
}

/// How it ended.
#[derive(Debug)]
pub struct Output {
    /// Its exit code; none where a signal ended it.
    pub code: Option<i32>,
    /// What it wrote to standard output.
    pub stdout: Vec<u8>,
    /// What it wrote to standard error.
    pub stderr: String,
}

impl Cli {
    /// The binary with these arguments.
    pub fn new<I: IntoIterator<Item: AsRef<std::ffi::OsStr>>>(binary: &Path, args: I) -> Self {
        let mut command = Command::new(binary);
        command.args(args);
        for name in FOREIGN_ENV {
            command.env_remove(name);
        }
        Self { command, stdin: Vec::new() }
    }

    /// With a variable of the environment.
    #[must_use]
    pub fn env(mut self, name: &str, value: &str) -> Self {
        self.command.env(name, value);
        self
    }

    /// With this on its standard input, which then ends.
    #[must_use]
    pub fn stdin(mut self, bytes: impl Into<Vec<u8>>) -> Self {
        self.stdin = bytes.into();
        self
    }

    /// The call as it is, to be started otherwise.
    #[must_use]
    pub fn into_command(self) -> Command {
        self.command
    }

    /// Starts it with its three streams piped, in a process group of its own as a shell would.
    pub fn spawn(mut self) -> Result<Child> {
        self.command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .process_group(0)
            .kill_on_drop(true)
            .spawn()
            .context("the binary does not start")
    }

    /// Runs it to its end.
    pub async fn run(mut self) -> Result<Output> {
        let input = std::mem::take(&mut self.stdin);
        let mut child = self.spawn()?;
        let mut pipe = child.stdin.take().context("no pipe")?;
        let feed = tokio::spawn(async move {
            // A command that does not read its input may end before it was written.
            let _closed = pipe.write_all(&input).await;
        });
        let ended =
            tokio::time::timeout(TIMEOUT, child.wait_with_output()).await.context("the command hangs")??;
        feed.abort();
        Ok(Output {
            code: ended.status.code(),
            stdout: ended.stdout,
            stderr: String::from_utf8_lossy(&ended.stderr).into_owned(),
        })
    }
}

impl Output {
    /// Standard output as text.
    #[must_use]
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.stdout).into_owned()
    }

    /// Fails unless it ended with this code.
    pub fn expect(self, code: i32) -> Result<Self> {
        anyhow::ensure!(
            self.code == Some(code),
            "exit code {:?} in place of {code}\nstdout: {}\nstderr: {}",
            self.code,
            self.text(),
            self.stderr
        );
        Ok(self)
    }
}
