//! Starts a child: everything that it needs is laid out before, in it there are only system calls, and what they said.
//!
//! The kernel hands out a descriptor of the child (a pidfd) with it, which becomes readable when the child ends: no signal
//! handler, and no id that could have gone to somebody else. The child is born in its control group (`confinement`).

use std::ffi::{CStr, CString, c_char};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::ptr;
use std::sync::atomic::{AtomicI32, Ordering};

use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use rustix::process::{Gid, Pid, Uid, WaitId, WaitIdOptions, WaitIdStatus, waitid};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

use super::clone;
use crate::confinement::Confinement;

/// Who the child is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Identity {
    pub(super) uid: u32,
    pub(super) gid: u32,
    pub(super) groups: Vec<u32>,
}

/// Whether the child's standard input is a terminal that it is to control.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Terminal {
    Controlling,
    None,
}

/// A child to be.
pub(super) struct Program<'a> {
    /// The files to try, in this order.
    pub(super) candidates: Vec<CString>,
    /// Arguments, the program's own name first.
    pub(super) arguments: Vec<CString>,
    /// `NAME=value`.
    pub(super) environment: Vec<CString>,
    /// Where it begins.
    pub(super) folder: &'a CStr,
    /// Its standard streams.
    pub(super) streams: [&'a OwnedFd; 3],
    pub(super) terminal: Terminal,
    /// Whom it runs as; none for the agent's own user.
    pub(super) identity: Option<Identity>,
    /// Where it is confined; none for where the agent is.
    pub(super) confinement: Option<&'a Confinement>,
}

/// How far a child came that never was.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Step {
    /// Making the process.
    Clone,
    /// Its session, terminal and streams.
    Setup,
    /// Its user and groups.
    Identity,
    /// Its working folder.
    Folder,
    /// The program itself.
    Exec,
}

/// Why there is no child.
#[derive(Debug)]
pub(super) struct SpawnError {
    pub(super) step: Step,
    pub(super) source: io::Error,
}

/// A running child. It must be waited for, or it stays a zombie until this process ends.
#[derive(Debug)]
pub(super) struct Child {
    pub(super) pid: Pid,
    handle: AsyncFd<OwnedFd>,
}

impl Child {
    /// Waits for the end. Safe to cancel: the status stays until it was returned.
    pub(super) async fn wait(&self) -> io::Result<WaitIdStatus> {
        loop {
            let mut ready = self.handle.readable().await?;
            let options = WaitIdOptions::EXITED | WaitIdOptions::NOHANG;
            if let Some(status) = waitid(WaitId::PidFd(self.handle.get_ref().as_fd()), options)? {
                return Ok(status);
            }
            ready.clear_ready();
        }
    }
}

/// Starts the program. Returns once it runs, or once it is certain that it does not.
pub(super) fn spawn(program: &Program<'_>) -> Result<Child, SpawnError> {
    let arguments = pointers(&program.arguments);
    let environment = pointers(&program.environment);
    let plan = Plan::new(program, &arguments, &environment)?;
    let (pid, handle) = start_confined(&plan).map_err(|source| SpawnError { step: Step::Clone, source })?;
    if let Some(failure) = plan.failure() {
        // It has ended already: it only has to be taken off the list.
        let _ = waitid(WaitId::PidFd(handle.as_fd()), WaitIdOptions::EXITED);
        return Err(failure);
    }
    // SAFETY: an OwnedFd names one open file for as long as it lives, and nothing takes it out of the AsyncFd.
    let handle = unsafe { AsyncFd::register_with_interest(handle, Interest::READABLE) };
    let handle =
        handle.map_err(|refused| SpawnError { step: Step::Clone, source: refused.into_parts().1 })?;
    Ok(Child { pid, handle })
}

/// A list as exec takes it: pointers, and a null at the end. They live as long as the strings.
fn pointers(strings: &[CString]) -> Vec<*const c_char> {
    strings.iter().map(|string| string.as_ptr()).chain([ptr::null()]).collect()
}

/// Everything that the child reads, and where it writes why it failed.
struct Plan<'a> {
    program: &'a Program<'a>,
    arguments: &'a [*const c_char],
    environment: &'a [*const c_char],
    groups: Vec<Gid>,
    /// The streams under numbers above those that they are to get, so that none is overwritten before its turn.
    streams: [OwnedFd; 3],
    failed_step: AtomicI32,
    failed_errno: AtomicI32,
}

impl<'a> Plan<'a> {
    fn new(
        program: &'a Program<'a>,
        arguments: &'a [*const c_char],
        environment: &'a [*const c_char],
    ) -> Result<Self, SpawnError> {
        let raise = |stream: &OwnedFd| {
            rustix::io::fcntl_dupfd_cloexec(stream, 3)
                .map_err(|errno| SpawnError { step: Step::Setup, source: errno.into() })
        };
        let [stdin, stdout, stderr] = program.streams;
        Ok(Self {
            program,
            arguments,
            environment,
            groups: program
                .identity
                .iter()
                .flat_map(|identity| &identity.groups)
                .copied()
                .map(Gid::from_raw)
                .collect(),
            streams: [raise(stdin)?, raise(stdout)?, raise(stderr)?],
            failed_step: AtomicI32::new(0),
            failed_errno: AtomicI32::new(0),
        })
    }

    fn failure(&self) -> Option<SpawnError> {
        let step = match self.failed_step.load(Ordering::Relaxed) {
            0 => return None,
            1 => Step::Setup,
            2 => Step::Identity,
            3 => Step::Folder,
            _ => Step::Exec,
        };
        Some(SpawnError {
            step,
            source: io::Error::from_raw_os_error(self.failed_errno.load(Ordering::Relaxed)),
        })
    }

    fn fail(&self, step: Step, errno: Errno) {
        let step = match step {
            Step::Clone | Step::Setup => 1,
            Step::Identity => 2,
            Step::Folder => 3,
            Step::Exec => 4,
        };
        self.failed_errno.store(errno.raw_os_error(), Ordering::Relaxed);
        self.failed_step.store(step, Ordering::Relaxed);
    }

    /// The child's whole life before exec. Returns only if it failed.
    ///
    /// It shares memory with threads that go on: it must not allocate, lock, or panic.
    fn run_child(&self) {
        if let Err(errno) = self.set_up() {
            return self.fail(Step::Setup, errno);
        }
        if let Err(errno) = self.become_user() {
            return self.fail(Step::Identity, errno);
        }
        if let Err(errno) = rustix::process::chdir(self.program.folder) {
            return self.fail(Step::Folder, errno);
        }
        reset_signals();
        self.fail(Step::Exec, self.exec());
    }

    fn set_up(&self) -> rustix::io::Result<()> {
        rustix::process::setsid()?;
        let [stdin, stdout, stderr] = &self.streams;
        rustix::stdio::dup2_stdin(stdin)?;
        rustix::stdio::dup2_stdout(stdout)?;
        rustix::stdio::dup2_stderr(stderr)?;
        if self.program.terminal == Terminal::Controlling {
            rustix::process::ioctl_tiocsctty(rustix::stdio::stdin())?;
        }
        // The agent is the last that a guest short of memory gives up, and runs before others. Its children are not and
        // do not. Neither is worth failing for.
        if let Ok(file) =
            rustix::fs::open(c"/proc/self/oom_score_adj", OFlags::WRONLY | OFlags::CLOEXEC, Mode::empty())
        {
            let _ = rustix::io::write(&file, b"0");
        }
        let _ = rustix::process::setpriority_process(None, 0);
        Ok(())
    }

    fn become_user(&self) -> rustix::io::Result<()> {
        let Some(identity) = &self.program.identity else { return Ok(()) };
        let (uid, gid) = (Uid::from_raw(identity.uid), Gid::from_raw(identity.gid));
        rustix::thread::set_thread_groups(&self.groups)?;
        rustix::thread::set_thread_res_gid(gid, gid, gid)?;
        rustix::thread::set_thread_res_uid(uid, uid, uid)
    }

    /// Tries the candidates. One that may not be run is remembered: a later one may be.
    fn exec(&self) -> Errno {
        let mut outcome = Errno::NOENT;
        for candidate in &self.program.candidates {
            // SAFETY: the path ends with a NUL, and both lists end with a null; all of it outlives the call.
            unsafe { libc::execve(candidate.as_ptr(), self.arguments.as_ptr(), self.environment.as_ptr()) };
            match Errno::from_io_error(&io::Error::last_os_error()).unwrap_or(Errno::NOENT) {
                Errno::NOENT | Errno::NOTDIR => {}
                Errno::ACCESS => outcome = Errno::ACCESS,
                other => return other,
            }
        }
        outcome
    }
}

/// Undoes what this process did to its signals: ignored ones stay ignored through exec, and handlers of ours must not run
/// in the child between here and there.
fn reset_signals() {
    // SAFETY: both structures may be all zeroes (a default action, an empty set), and outlive the calls, which only read
    // them. Signals that cannot be changed answer with an error, which is right.
    unsafe {
        let mut default: libc::sigaction = std::mem::zeroed();
        default.sa_sigaction = libc::SIG_DFL;
        for signal in 1..32 {
            libc::sigaction(signal, &raw const default, ptr::null_mut());
        }
        let mut none: libc::sigset_t = std::mem::zeroed();
        libc::sigemptyset(&raw mut none);
        libc::sigprocmask(libc::SIG_SETMASK, &raw const none, ptr::null_mut());
    }
}

/// Makes the child where it is to be confined.
fn start_confined(plan: &Plan<'_>) -> io::Result<(Pid, OwnedFd)> {
    // SAFETY: `run_child` keeps to what a child may do that shares memory.
    let start = |group: Option<BorrowedFd<'_>>| unsafe { clone::call_in_child(&|| plan.run_child(), group) };
    let Some(confinement) = plan.program.confinement else { return start(None) };
    let [first, second] = confinement.groups();
    match start(Some(first)).map_err(|error| (error.raw_os_error(), error)) {
        Ok(started) => Ok(started),
        Err((Some(libc::EAGAIN), _)) => start(Some(second)),
        // Root in the sandbox may take the groups apart; it then does without them.
        Err((Some(libc::ENOENT | libc::ENODEV | libc::EBUSY | libc::EOPNOTSUPP), error)) => {
            tracing::warn!(%error, "a process is not confined: its control group was taken apart");
            start(None)
        }
        Err((_, error)) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::File;
    use std::io::Read;

    fn strings(all: &[&str]) -> Vec<CString> {
        all.iter().map(|one| CString::new(*one).unwrap()).collect()
    }

    fn run(
        candidates: &[&str],
        arguments: &[&str],
        folder: &CStr,
        identity: Option<Identity>,
    ) -> Result<(Child, String), SpawnError> {
        run_confined(candidates, arguments, folder, identity, None)
    }

    fn run_confined(
        candidates: &[&str],
        arguments: &[&str],
        folder: &CStr,
        identity: Option<Identity>,
        confinement: Option<&Confinement>,
    ) -> Result<(Child, String), SpawnError> {
        let null = OwnedFd::from(File::open("/dev/null").unwrap());
        let (reader, writer) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC).unwrap();
        let program = Program {
            candidates: strings(candidates),
            arguments: strings(arguments),
            environment: strings(&["A=1"]),
            folder,
            streams: [&null, &writer, &writer],
            terminal: Terminal::None,
            identity,
            confinement,
        };
        let child = spawn(&program)?;
        drop(writer);
        let mut output = String::new();
        File::from(reader).read_to_string(&mut output).unwrap();
        Ok((child, output))
    }

    #[tokio::test]
    async fn the_child_is_what_it_was_told_to_be() {
        let script = "echo $A; pwd; test $$ = $(ps -o sid= -p $$) && echo leads; sed -n 's/^Sig\\(Blk\\|Ign\\):\\s*//p' /proc/self/status; exit 7";
        let (child, output) = run(&["/no/such", "/bin/sh"], &["sh", "-c", script], c"/usr", None).unwrap();
        let (told, signals) = output.split_at("1\n/usr\nleads\n".len());
        assert_eq!(told, "1\n/usr\nleads\n");
        for mask in signals.lines() {
            // From the 32nd on they are libc's own, which cannot be reset by anybody.
            assert_eq!(u64::from_str_radix(mask, 16).unwrap() & 0x7fff_ffff, 0, "{signals}");
        }
        assert_eq!(signals.lines().count(), 2);
        assert_eq!(child.wait().await.unwrap().exit_status(), Some(7));
    }

    #[tokio::test]
    async fn the_end_by_a_signal_is_told() {
        let (child, _) = run(&["/bin/sh"], &["sh", "-c", "kill -9 $$"], c"/", None).unwrap();
        assert_eq!(child.wait().await.unwrap().terminating_signal(), Some(9));
    }

    #[tokio::test]
    async fn a_failure_says_which_step_and_why_and_leaves_nothing_behind() {
        let nobody = Identity { uid: 65534, gid: 65534, groups: vec![] };
        let hidden = tempfile::tempdir().unwrap();
        std::fs::set_permissions(hidden.path(), std::os::unix::fs::PermissionsExt::from_mode(0o700)).unwrap();
        let hidden = CString::new(hidden.path().to_str().unwrap()).unwrap();
        for (candidates, folder, identity, step, errno) in [
            (&["/no/such"][..], c"/", None, Step::Exec, libc::ENOENT),
            (&["/etc/passwd", "/no/such"], c"/", None, Step::Exec, libc::EACCES),
            (&[], c"/", None, Step::Exec, libc::ENOENT),
            (&["/bin/true"], c"/no/such", None, Step::Folder, libc::ENOENT),
            (&["/bin/true"], &hidden, Some(nobody), Step::Folder, libc::EACCES),
        ] {
            let error = run(candidates, &["x"], folder, identity).unwrap_err();
            assert_eq!((error.step, error.source.raw_os_error()), (step, Some(errno)));
        }
    }

    /// The hierarchy, mounted where no other test sees it. There is one a machine, whatever is mounted where.
    struct Groups(tempfile::TempDir);

    impl Groups {
        fn mount() -> Self {
            let dir = tempfile::tempdir().unwrap();
            let flags = rustix::mount::MountFlags::empty();
            rustix::mount::mount("none", dir.path(), "cgroup2", flags, None).unwrap();
            Self(dir)
        }

        fn make(&self, name: &str) -> std::path::PathBuf {
            let path = self.0.path().join(format!("sandbar-test-{}-{name}", std::process::id()));
            std::fs::create_dir(&path).unwrap();
            path
        }
    }

    impl Drop for Groups {
        fn drop(&mut self) {
            rustix::mount::unmount(self.0.path(), rustix::mount::UnmountFlags::DETACH).unwrap();
        }
    }

    #[tokio::test]
    async fn the_child_is_born_in_its_group_and_runs_without_one_that_is_gone() {
        let groups = Groups::mount();
        let (main, spare) = (groups.make("main"), groups.make("spare"));
        let confinement = Confinement::of_groups(&main, &spare).unwrap();
        let arguments = ["grep", "^0::", "/proc/self/cgroup"];
        let run = async || {
            let (child, output) =
                run_confined(&["/bin/grep"], &arguments, c"/", None, Some(&confinement)).unwrap();
            child.wait().await.unwrap();
            output.trim().to_owned()
        };
        let name = main.file_name().unwrap().to_str().unwrap();
        assert!(run().await.ends_with(name));
        std::fs::remove_dir(&main).unwrap();
        let own = std::fs::read_to_string("/proc/self/cgroup").unwrap();
        let unconfined = run().await;
        assert!(own.lines().any(|line| line == unconfined), "{unconfined}");
        std::fs::remove_dir(&spare).unwrap();
    }

    /// Many threads at once, each with a child that fails and one that runs: memory is shared, and must not suffer.
    #[tokio::test(flavor = "multi_thread", worker_threads = 4)]
    async fn children_at_once_do_not_get_in_each_others_way() {
        let mut all = tokio::task::JoinSet::new();
        for n in 0..64 {
            all.spawn(async move {
                let text = format!("child {n}");
                assert!(run(&["/no/such"], &["x"], c"/", None).is_err());
                let (child, output) = run(&["/bin/echo"], &["echo", &text], c"/", None).unwrap();
                assert_eq!(output, format!("{text}\n"));
                assert_eq!(child.wait().await.unwrap().exit_status(), Some(0));
            });
        }
        while let Some(outcome) = all.join_next().await {
            outcome.unwrap();
        }
    }
}
