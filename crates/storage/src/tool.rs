//! Running other programs (mkfs, mmdebstrap, apt-get...): off the hot path only, and never for longer than this process lives.

use std::ffi::OsStr;
use std::io::{self, Write};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, ExitStatus, Stdio};

use rustix::process::{Signal, getpid, getppid, set_parent_process_death_signal};

/// How much of a failed program's complaint is kept.
const STDERR_TAIL: usize = 2_000;

/// A program that could not be run, or that failed.
#[derive(Debug, thiserror::Error)]
pub enum ToolError {
    /// It is not installed.
    #[error("{program} is not installed (Debian package {package})")]
    NotInstalled {
        /// Its name.
        program: String,
        /// Where it comes from.
        package: &'static str,
    },
    /// It could not be started, or not be talked to.
    #[error("cannot run {program}")]
    Io {
        /// Its name.
        program: String,
        /// Why.
        source: io::Error,
    },
    /// It ended with an error.
    #[error("{program} failed ({status}): {stderr}")]
    Failed {
        /// Its name.
        program: String,
        /// How it ended.
        status: ExitStatus,
        /// The end of what it wrote to its standard error.
        stderr: String,
    },
}

/// One run of a program.
pub(crate) struct Tool {
    program: &'static str,
    package: &'static str,
    command: Command,
    stdin: Vec<u8>,
}

impl Tool {
    /// A program, and the Debian package that has it.
    pub(crate) fn new(program: &'static str, package: &'static str) -> Self {
        Self::from_command(program, package, Command::new(program))
    }

    /// A program with many processes, in process and mount namespaces of its own: however it or we end, none of its processes
    /// and none of its mounts stays behind.
    pub(crate) fn contained(program: &'static str, package: &'static str) -> Self {
        let mut command = Command::new("unshare");
        command.args(["--mount", "--pid", "--fork", "--kill-child=KILL", "--mount-proc", "--", program]);
        Self::from_command(program, package, command)
    }

    fn from_command(program: &'static str, package: &'static str, mut command: Command) -> Self {
        let sbin =
            std::env::var("PATH").unwrap_or_default() + ":/usr/local/sbin:/usr/sbin:/sbin:/usr/bin:/bin";
        command.env("PATH", sbin).env("LC_ALL", "C.UTF-8").env("DEBIAN_FRONTEND", "noninteractive");
        let parent = getpid();
        // SAFETY: the closure runs between fork and exec and makes two system calls that allocate nothing and take no lock.
        unsafe {
            command.pre_exec(move || {
                set_parent_process_death_signal(Some(Signal::KILL))?;
                // We may have died before the line above; then the signal never comes.
                if getppid() == Some(parent) { Ok(()) } else { Err(io::ErrorKind::Interrupted.into()) }
            });
        }
        Self { program, package, command, stdin: Vec::new() }
    }

    pub(crate) fn arg(mut self, arg: impl AsRef<OsStr>) -> Self {
        self.command.arg(arg);
        self
    }

    pub(crate) fn args<A: AsRef<OsStr>>(mut self, args: impl IntoIterator<Item = A>) -> Self {
        self.command.args(args);
        self
    }

    pub(crate) fn env(mut self, name: &str, value: impl AsRef<OsStr>) -> Self {
        self.command.env(name, value);
        self
    }

    pub(crate) fn working_dir(mut self, dir: &Path) -> Self {
        self.command.current_dir(dir);
        self
    }

    /// What the program reads.
    pub(crate) fn stdin(mut self, input: Vec<u8>) -> Self {
        self.stdin = input;
        self
    }

    /// Runs it to its end and gives what it wrote to its standard output.
    pub(crate) fn run(mut self) -> Result<Vec<u8>, ToolError> {
        let failed = |program: &str, source| ToolError::Io { program: program.to_owned(), source };
        self.command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = self.command.spawn().map_err(|error| match error.kind() {
            io::ErrorKind::NotFound => {
                ToolError::NotInstalled { program: self.program.to_owned(), package: self.package }
            }
            _ => failed(self.program, error),
        })?;
        let input = child.stdin.take();
        // The death signal follows the thread that spawned, so this thread stays until the program has ended; another feeds it.
        let output = std::thread::scope(|scope| {
            scope.spawn(move || {
                // A program that stops reading says why by its status.
                let _ = input.map(|mut pipe| pipe.write_all(&self.stdin));
            });
            child.wait_with_output()
        })
        .map_err(|error| failed(self.program, error))?;
        if output.status.success() {
            return Ok(output.stdout);
        }
        let text = String::from_utf8_lossy(&output.stderr);
        let start = text.char_indices().map(|(at, _)| at).find(|at| text.len() - at <= STDERR_TAIL);
        Err(ToolError::Failed {
            program: self.program.to_owned(),
            status: output.status,
            stderr: text[start.unwrap_or(0)..].trim().to_owned(),
        })
    }
}
