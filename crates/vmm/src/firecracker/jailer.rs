//! Starting a process in its jail, by Firecracker's own jailer.
//!
//! The jailer makes the devices, enters the network namespace, a mount namespace with the jail as its root and a new pid namespace,
//! gives up its rights and becomes Firecracker. The process it leaves is not our child, and has none of our environment.

use std::{
    ffi::OsString,
    fs::{File, OpenOptions},
    io::{self, Write},
    path::{Path, PathBuf},
    process::Stdio,
    sync::Arc,
    time::Duration,
};

use rustix::process::{Resource, Rlimit, setrlimit};
use tokio::{process::Command, time::timeout};

use super::{
    api::{Api, Listening, SOCKET},
    jail::{self, Jail},
};
use crate::{
    VmmError,
    confine::{DESCRIPTORS, Group},
    error::file,
    process::{MARK, Process, Unclaimed},
    spawn::Output,
};

/// For the jailer's work and Firecracker's start: some milliseconds, on a host under load.
const START_DEADLINE: Duration = Duration::from_secs(60);

/// What to start.
#[derive(Debug)]
pub(super) struct Launch {
    pub(super) firecracker: PathBuf,
    pub(super) jailer: PathBuf,
    /// Number of the machine's user and group.
    pub(super) user: u32,
    /// Largest file that it may write.
    pub(super) file_bytes: u64,
    pub(super) group: Group,
    pub(super) netns: PathBuf,
    pub(super) jail: Jail,
}

/// A process that takes requests. It is killed when this is dropped.
#[derive(Debug)]
pub(super) struct Jailed {
    pub(super) process: Unclaimed,
    pub(super) output: Output,
    pub(super) jail: Jail,
}

impl Launch {
    /// The jailer's arguments.
    fn arguments(&self) -> Vec<OsString> {
        let Self { firecracker, jailer: _, user, file_bytes, group: _, netns, jail } = self;
        vec![
            "--id".into(),
            jail::ID.into(),
            "--exec-file".into(),
            firecracker.into(),
            "--uid".into(),
            user.to_string().into(),
            "--gid".into(),
            user.to_string().into(),
            "--chroot-base-dir".into(),
            jail.base().into(),
            "--netns".into(),
            netns.into(),
            "--new-pid-ns".into(),
            "--resource-limit".into(),
            format!("fsize={file_bytes}").into(),
            "--resource-limit".into(),
            format!("no-file={DESCRIPTORS}").into(),
            "--".into(),
            "--api-sock".into(),
            format!("/{SOCKET}").into(),
            // Its log has the console's bounded file, which every request would fill otherwise.
            "--level".into(),
            "Warning".into(),
        ]
    }

    /// Starts the process. Goes on to its end whoever waits, so that a process that comes of it is never lost sight of: what nobody
    /// waits for any more is killed.
    pub(super) async fn start(self) -> Result<Jailed, VmmError> {
        let jailer = self.jailer.clone();
        tokio::spawn(self.run())
            .await
            .map_err(|panic| VmmError::Start { binary: jailer, source: panic.into() })?
    }

    async fn run(self) -> Result<Jailed, VmmError> {
        let root = self.jail.root();
        let listening = Listening::watch(&root).map_err(file("watch", &root))?;
        let output = Output::create().map_err(file("make the logs of", self.jail.base()))?;
        let process = self.enter(&output).await?;
        let api = Api::new(&root);
        let ended = |log| VmmError::Ended { step: "starting", log };
        tokio::select! {
            () = process.process().gone() => Err(ended(output.tail())),
            listens = timeout(START_DEADLINE, listening.listens(&api)) => match listens {
                Ok(Ok(())) => Ok(Jailed { process, output, jail: self.jail }),
                Ok(Err(error)) => {
                    Err(VmmError::Control { step: "starting", log: output.tail(), source: error.into() })
                }
                Err(_) => Err(ended(format!("no socket within {START_DEADLINE:?}\n{}", output.tail()))),
            },
        }
    }

    /// Runs the jailer to its end, and finds the process that it left.
    async fn enter(&self, output: &Output) -> Result<Unclaimed, VmmError> {
        let failed = |source| VmmError::Start { binary: self.jailer.clone(), source };
        let (console, log) = output.stdio().map_err(failed)?;
        let mut command = Command::new(&self.jailer);
        command
            .args(self.arguments())
            .env_clear()
            .env(MARK, self.jail.work_dir())
            .current_dir("/")
            .stdin(Stdio::null())
            .stdout(console)
            .stderr(log)
            .kill_on_drop(true);
        let joined = |path: &Path| OpenOptions::new().write(true).open(path).map_err(file("join", path));
        let groups: Vec<File> =
            self.group.process_files().map(|path| joined(&path)).collect::<Result<_, _>>()?;
        // SAFETY: the closure makes system calls only, which may be made between fork and exec; it does not allocate.
        unsafe { command.pre_exec(move || bounded(&groups)) };
        let mut child = command.spawn().map_err(failed)?;
        let ended = match timeout(START_DEADLINE, child.wait()).await {
            Ok(ended) => ended.map_err(failed)?,
            Err(_) => {
                child.kill().await.map_err(failed)?;
                let log = format!("the jailer did not end within {START_DEADLINE:?}\n{}", output.tail());
                return Err(VmmError::Ended { step: "being jailed", log });
            }
        };
        let lost = || VmmError::Ended { step: "being jailed", log: format!("{ended}\n{}", output.tail()) };
        if !ended.success() {
            return Err(lost());
        }
        // The process can have ended already, and nobody else has its pid who is in this jail.
        let process = self.jail.process().map_err(file("read the pid in", &self.jail.root()))?;
        let process =
            Process::open(process.ok_or_else(lost)?, self.group.clone()).map_err(|error| match error {
                VmmError::Gone { .. } => lost(),
                error => error,
            })?;
        Ok(Unclaimed::found(Arc::new(process)))
    }
}

/// The jailer's own groups would have to be cleaned up after; what it starts stays in those that it is in.
fn bounded(groups: &[File]) -> io::Result<()> {
    for mut group in groups {
        // Whoever writes it joins.
        group.write_all(b"0")?;
    }
    // A terminal's or a supervisor's signals to our group are not for the machines.
    rustix::process::setsid()?;
    // A core file would be the guest's memory.
    Ok(setrlimit(Resource::Core, Rlimit { current: Some(0), maximum: Some(0) })?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_jailer_is_told_all_of_it() {
        let launch = Launch {
            firecracker: "/opt/fc/firecracker".into(),
            jailer: "/opt/fc/jailer".into(),
            user: 900_007,
            file_bytes: 1 << 30,
            group: Group::none(),
            netns: "/run/netns/sb-0001-7".into(),
            jail: Jail::new(Path::new("/s/sandboxes/0198-a_b"), Path::new("/opt/fc/firecracker")),
        };
        let line = launch.arguments().join(" ".as_ref());
        assert_eq!(
            line.to_str().unwrap(),
            "--id machine --exec-file /opt/fc/firecracker --uid 900007 --gid 900007 \
             --chroot-base-dir /s/sandboxes/0198-a_b/jail --netns /run/netns/sb-0001-7 --new-pid-ns \
             --resource-limit fsize=1073741824 --resource-limit no-file=512 -- --api-sock /api.socket --level Warning"
        );
    }
}
