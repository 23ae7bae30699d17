//! From a request to a running child: who it runs as, where, with which environment, on which streams.

use std::collections::BTreeMap;
use std::io;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::Stdio;

use rustix::process::{Gid, Uid};
use tokio::process::{Child, ChildStderr, ChildStdin, ChildStdout, Command};

use super::pty::{Pty, Size};
use crate::caller::Caller;
use crate::init::is_env;
use crate::paths;
use crate::state::Sandbox;
use crate::users::User;

/// Where commands are looked for unless the environment says otherwise.
const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// What to run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Launch {
    pub(crate) cmd: String,
    pub(crate) args: Vec<String>,
    pub(crate) envs: BTreeMap<String, String>,
    pub(crate) cwd: Option<String>,
    pub(crate) streams: Streams,
}

/// What the child's standard streams are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Streams {
    /// Pipes, and `/dev/null` to read from.
    Output,
    /// Pipes all three.
    InputAndOutput,
    /// A terminal.
    Terminal(Size),
}

/// A child that runs, and the agent's ends of its streams.
pub(crate) struct Launched {
    pub(crate) child: Child,
    pub(crate) pid: u32,
    pub(crate) streams: Attached,
}

/// The agent's ends of a child's streams.
pub(crate) enum Attached {
    Pipes { stdin: Option<ChildStdin>, stdout: ChildStdout, stderr: ChildStderr },
    Terminal(Pty),
}

/// Why a child could not be started.
#[derive(Debug, thiserror::Error)]
pub(crate) enum LaunchError {
    #[error("cmd is empty")]
    NoCommand,
    #[error("invalid environment variable {0:?}")]
    Environment(String),
    #[error("cwd '{}' does not exist", .0.display())]
    NoFolder(PathBuf),
    #[error("cwd '{}' is not a directory", .0.display())]
    NotAFolder(PathBuf),
    #[error("{0}")]
    Path(#[from] paths::PathError),
    #[error("'{0}': command not found")]
    NotFound(String),
    #[error("'{0}': permission denied")]
    NotExecutable(String),
    #[error("'{0}': not a program that this machine can run")]
    NotAProgram(String),
    #[error("'{cmd}': {source}")]
    Invalid { cmd: String, source: io::Error },
    #[error("no more processes can be started: {0}")]
    Exhausted(io::Error),
    #[error("cannot start '{cmd}': {source}")]
    Failed { cmd: String, source: io::Error },
}

impl Launch {
    /// Starts the child as `user`, in a session of its own.
    pub(crate) fn start(&self, caller: &Caller, sandbox: &Sandbox) -> Result<Launched, LaunchError> {
        if self.cmd.is_empty() {
            return Err(LaunchError::NoCommand);
        }
        let user = &caller.user;
        let mut command = Command::new(&self.cmd);
        command.args(&self.args);
        command.current_dir(self.working_folder(caller)?);
        command.env_clear().envs(self.environment(user, sandbox)?);
        become_user(&mut command, user, self.streams);
        match self.streams {
            Streams::Output => self.start_on_pipes(command, Stdio::null()),
            Streams::InputAndOutput => self.start_on_pipes(command, Stdio::piped()),
            Streams::Terminal(size) => self.start_on_terminal(command, size, user.uid),
        }
    }

    fn start_on_pipes(&self, mut command: Command, stdin: Stdio) -> Result<Launched, LaunchError> {
        command.stdin(stdin).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = self.spawn(&mut command)?;
        let stdin = child.stdin.take();
        match (child.id(), child.stdout.take(), child.stderr.take()) {
            (Some(pid), Some(stdout), Some(stderr)) => {
                Ok(Launched { child, pid, streams: Attached::Pipes { stdin, stdout, stderr } })
            }
            _ => Err(self.failed(io::ErrorKind::BrokenPipe.into())),
        }
    }

    fn start_on_terminal(
        &self,
        mut command: Command,
        size: Size,
        owner: u32,
    ) -> Result<Launched, LaunchError> {
        let (master, slave) = Pty::open(size, owner).map_err(|source| self.failed(source))?;
        let copy = || slave.try_clone().map(Stdio::from).map_err(|source| self.failed(source));
        command.stdin(copy()?).stdout(copy()?).stderr(copy()?);
        let child = self.spawn(&mut command)?;
        // `command` and `slave` go with this call: were our copies to stay open, the terminal would never report its end.
        let pid = child.id().ok_or_else(|| self.failed(io::ErrorKind::BrokenPipe.into()))?;
        Ok(Launched { child, pid, streams: Attached::Terminal(master) })
    }

    fn spawn(&self, command: &mut Command) -> Result<Child, LaunchError> {
        let cmd = || self.cmd.clone();
        command.spawn().map_err(|source| match source.raw_os_error() {
            Some(libc::ENOENT | libc::ENOTDIR) => LaunchError::NotFound(cmd()),
            Some(libc::EACCES | libc::EPERM | libc::EISDIR) => LaunchError::NotExecutable(cmd()),
            Some(libc::ENOEXEC) => LaunchError::NotAProgram(cmd()),
            Some(libc::EAGAIN | libc::ENOMEM | libc::EMFILE | libc::ENFILE) => LaunchError::Exhausted(source),
            Some(libc::E2BIG | libc::ENAMETOOLONG | libc::ELOOP) => {
                LaunchError::Invalid { cmd: cmd(), source }
            }
            // A NUL byte in the command or an argument.
            None if source.kind() == io::ErrorKind::InvalidInput => {
                LaunchError::Invalid { cmd: cmd(), source }
            }
            _ => self.failed(source),
        })
    }

    fn failed(&self, source: io::Error) -> LaunchError {
        LaunchError::Failed { cmd: self.cmd.clone(), source }
    }

    /// The folder asked for, else the sandbox's, else the user's home. Only a home may be missing: then it is `/`.
    fn working_folder(&self, caller: &Caller) -> Result<PathBuf, LaunchError> {
        let folder = caller.resolve(self.cwd.as_deref().unwrap_or_default())?;
        match folder.metadata() {
            Ok(metadata) if metadata.is_dir() => Ok(folder),
            Ok(_) => Err(LaunchError::NotAFolder(folder)),
            Err(_) if folder == caller.user.home => Ok(PathBuf::from("/")),
            Err(_) => Err(LaunchError::NoFolder(folder)),
        }
    }

    /// Nothing of the agent's own environment but where commands lie.
    fn environment(&self, user: &User, sandbox: &Sandbox) -> Result<BTreeMap<String, String>, LaunchError> {
        let home = user.home.to_string_lossy().into_owned();
        let path = std::env::var("PATH").unwrap_or_else(|_| PATH.to_owned());
        let mut environment = BTreeMap::from([
            ("PATH".to_owned(), path),
            ("HOME".to_owned(), home),
            ("USER".to_owned(), user.name.clone()),
            ("LOGNAME".to_owned(), user.name.clone()),
            ("SHELL".to_owned(), user.shell.clone()),
        ]);
        if matches!(self.streams, Streams::Terminal(_)) {
            environment.insert("TERM".to_owned(), "xterm-256color".to_owned());
        }
        for (name, value) in sandbox.env_vars.iter().chain(&self.envs) {
            if !is_env(name, value) {
                return Err(LaunchError::Environment(name.clone()));
            }
            environment.insert(name.clone(), value.clone());
        }
        Ok(environment)
    }
}

/// Makes the child lead a session, take its user's rights and give up the agent's priority.
fn become_user(command: &mut Command, user: &User, streams: Streams) {
    let uid = Uid::from_raw(user.uid);
    let gid = Gid::from_raw(user.gid);
    let groups: Vec<Gid> = user.groups.iter().copied().map(Gid::from_raw).collect();
    // An agent that is not root (on a workstation) can only run things as itself.
    let switch = rustix::process::geteuid().is_root();
    let terminal = matches!(streams, Streams::Terminal(_));
    let setup = move || -> io::Result<()> {
        rustix::process::setsid()?;
        if terminal {
            rustix::process::ioctl_tiocsctty(rustix::stdio::stdin())?;
        }
        // The agent is the last thing that a guest short of memory may lose; its children are not.
        if let Ok(file) = rustix::fs::open(
            c"/proc/self/oom_score_adj",
            rustix::fs::OFlags::WRONLY,
            rustix::fs::Mode::empty(),
        ) {
            let _ = rustix::io::write(&file, b"0");
        }
        let _ = rustix::process::setpriority_process(None, 0);
        if switch {
            rustix::thread::set_thread_groups(&groups)?;
            rustix::thread::set_thread_res_gid(gid, gid, gid)?;
            rustix::thread::set_thread_res_uid(uid, uid, uid)?;
        }
        Ok(())
    };
    // SAFETY: between fork and exec the closure makes system calls only (rustix issues them directly, without libc) and
    // allocates nothing; what it captured was allocated before the fork.
    unsafe { command.as_std_mut().pre_exec(setup) };
}
