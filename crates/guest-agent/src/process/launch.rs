//! From a request to a running child: who it runs as, where, with which environment, on which streams.

use std::collections::BTreeMap;
use std::ffi::{CString, NulError};
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use rustix::fs::{Mode, OFlags};
use rustix::pipe::{PipeFlags, pipe_with};
use tokio::net::unix::pipe::{Receiver, Sender};

use super::pty::{Pty, Size};
use super::spawn::{self, Child, Identity, Program, SpawnError, Step, Terminal};
use crate::caller::Caller;
use crate::confinement::Confinement;
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

/// Where and as whom a child starts.
#[derive(Clone, Copy)]
pub(crate) struct Place<'a> {
    pub(crate) caller: &'a Caller,
    pub(crate) sandbox: &'a Sandbox,
    pub(crate) confinement: Option<&'a Confinement>,
}

/// A child that runs, and the agent's ends of its streams.
pub(crate) struct Launched {
    pub(super) child: Child,
    pub(crate) streams: Attached,
}

/// The agent's ends of a child's streams.
pub(crate) enum Attached {
    Pipes { stdin: Option<Sender>, stdout: Receiver, stderr: Receiver },
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
    #[error("cwd '{}' cannot be entered: {source}", folder.display())]
    ClosedFolder { folder: PathBuf, source: io::Error },
    #[error("{0}")]
    Path(#[from] paths::PathError),
    #[error("cmd, an argument or cwd contains a NUL byte")]
    Nul(#[from] NulError),
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
    /// Starts the child as `caller`, in a session of its own.
    pub(crate) fn start(&self, place: &Place<'_>) -> Result<Launched, LaunchError> {
        let caller = place.caller;
        if self.cmd.is_empty() {
            return Err(LaunchError::NoCommand);
        }
        match self.streams {
            Streams::Output => {
                let stdin = rustix::fs::open(c"/dev/null", OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty());
                let stdin = stdin.map_err(|errno| self.failed(errno.into()))?;
                self.start_on_pipes(place, &stdin, None)
            }
            Streams::InputAndOutput => {
                let (theirs, ours) =
                    pipe_with(PipeFlags::CLOEXEC).map_err(|errno| self.failed(errno.into()))?;
                self.start_on_pipes(place, &theirs, Some(ours))
            }
            Streams::Terminal(size) => {
                let (master, slave) =
                    Pty::open(size, caller.user.uid).map_err(|source| self.failed(source))?;
                let child = self.spawn(place, [&slave; 3], Terminal::Controlling)?;
                // `slave` goes with this call: were our copy to stay open, the terminal would never report its end.
                Ok(Launched { child, streams: Attached::Terminal(master) })
            }
        }
    }

    fn start_on_pipes(
        &self,
        place: &Place<'_>,
        stdin: &OwnedFd,
        input: Option<OwnedFd>,
    ) -> Result<Launched, LaunchError> {
        let failed = |source| self.failed(source);
        let pipe = || pipe_with(PipeFlags::CLOEXEC).map_err(|errno| failed(errno.into()));
        let ((our_out, out), (our_err, err)) = (pipe()?, pipe()?);
        // What can fail of the agent's ends fails before there is a child.
        let stdout = Receiver::from_owned_fd(our_out).map_err(failed)?;
        let stderr = Receiver::from_owned_fd(our_err).map_err(failed)?;
        let input = input.map(Sender::from_owned_fd).transpose().map_err(failed)?;
        let child = self.spawn(place, [stdin, &out, &err], Terminal::None)?;
        Ok(Launched { child, streams: Attached::Pipes { stdin: input, stdout, stderr } })
    }

    fn spawn(
        &self,
        place: &Place<'_>,
        streams: [&OwnedFd; 3],
        terminal: Terminal,
    ) -> Result<Child, LaunchError> {
        let Place { caller, sandbox, confinement } = *place;
        let user = &caller.user;
        let folder = self.working_folder(caller)?;
        let environment = self.environment(user, sandbox)?;
        let mut arguments = vec![CString::new(self.cmd.as_str())?];
        for argument in &self.args {
            arguments.push(CString::new(argument.as_str())?);
        }
        let program = Program {
            candidates: candidates(&self.cmd, environment.get("PATH").map_or("", String::as_str))?,
            arguments,
            environment: environment
                .iter()
                .map(|(name, value)| CString::new(format!("{name}={value}")))
                .collect::<Result<_, _>>()?,
            folder: &CString::new(folder.as_os_str().as_bytes())?,
            streams,
            terminal,
            // An agent that is not root (on a workstation) can only run things as itself.
            identity: rustix::process::geteuid().is_root().then(|| Identity {
                uid: user.uid,
                gid: user.gid,
                groups: user.groups.clone(),
            }),
            confinement,
        };
        spawn::spawn(&program).map_err(|error| self.explain(folder, error))
    }

    fn explain(&self, folder: PathBuf, SpawnError { step, source }: SpawnError) -> LaunchError {
        let cmd = self.cmd.clone();
        match (step, source.raw_os_error()) {
            (_, Some(libc::EAGAIN | libc::ENOMEM | libc::EMFILE | libc::ENFILE)) => {
                LaunchError::Exhausted(source)
            }
            (Step::Folder, _) => LaunchError::ClosedFolder { folder, source },
            (Step::Exec, Some(libc::ENOENT | libc::ENOTDIR)) => LaunchError::NotFound(cmd),
            (Step::Exec, Some(libc::EACCES | libc::EPERM | libc::EISDIR)) => LaunchError::NotExecutable(cmd),
            (Step::Exec, Some(libc::ENOEXEC)) => LaunchError::NotAProgram(cmd),
            (Step::Exec, Some(libc::E2BIG | libc::ENAMETOOLONG | libc::ELOOP)) => {
                LaunchError::Invalid { cmd, source }
            }
            _ => LaunchError::Failed { cmd, source },
        }
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

/// The files that a command may mean: itself if it is a path, else one in each folder of `PATH`.
fn candidates(cmd: &str, path: &str) -> Result<Vec<CString>, NulError> {
    if cmd.contains('/') {
        return Ok(vec![CString::new(cmd)?]);
    }
    path.split(':')
        // An empty entry has always meant the working folder.
        .map(|folder| if folder.is_empty() { "." } else { folder })
        .map(|folder| CString::new(Path::new(folder).join(cmd).as_os_str().as_bytes()))
        .collect()
}
