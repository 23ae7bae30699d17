//! Starting a VMM process: which namespace, which files, which session.

use std::{
    ffi::OsString,
    fs::{self, File},
    io,
    os::{
        fd::{AsFd, AsRawFd, OwnedFd},
        unix::{ffi::OsStrExt, fs::FileExt, process::CommandExt},
    },
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use rustix::{
    fs::{MemfdFlags, SealFlags},
    io::FdFlags,
    process::{Resource, Rlimit},
    thread::LinkNameSpaceType,
};
use tokio::net::{UnixListener, UnixStream};

use crate::{
    ProcessIdentity, VmmError,
    process::{MARK, Unclaimed},
};

/// What to start.
#[derive(Debug)]
pub(crate) struct Launch {
    pub(crate) binary: PathBuf,
    pub(crate) arguments: Vec<OsString>,
    pub(crate) work_dir: PathBuf,
    pub(crate) netns: PathBuf,
    /// A descriptor that the process gets under the same number.
    pub(crate) inherited: OwnedFd,
    pub(crate) output: Output,
}

impl Launch {
    /// Starts the process: in the network namespace, in a session of its own, with no descriptors but the named ones and no
    /// environment but its mark. Blocks for a few milliseconds. Must be called on a thread of a tokio runtime.
    pub(crate) fn start(&self) -> Result<Unclaimed, VmmError> {
        let file = |action, path: &Path| {
            let path = path.to_owned();
            move |source| VmmError::File { action, path, source }
        };
        let netns = File::open(&self.netns).map_err(file("open", &self.netns))?;
        let inherited = self.inherited.as_raw_fd();
        let failed = |source| VmmError::Start { binary: self.binary.clone(), source };
        let (console, log) = self.output.stdio().map_err(failed)?;
        let mut command = Command::new(&self.binary);
        command
            .args(&self.arguments)
            .env_clear()
            .env(MARK, &self.work_dir)
            .current_dir("/")
            .stdin(Stdio::null())
            .stdout(console)
            .stderr(log);
        let in_child = move || {
            enter(&netns)?;
            // A terminal's or a supervisor's signals to our group are not for the machines.
            rustix::process::setsid()?;
            // A core file would be the guest's memory.
            rustix::process::setrlimit(Resource::Core, Rlimit { current: Some(0), maximum: Some(0) })?;
            // SAFETY: `self` owns the descriptor and outlives the call to `spawn`, which returns after this has run.
            let inherited = unsafe { rustix::fd::BorrowedFd::borrow_raw(inherited) };
            rustix::io::fcntl_setfd(inherited, FdFlags::empty())?;
            Ok(())
        };
        // SAFETY: the closure makes system calls only, all of which may be made between fork and exec; it does not allocate.
        unsafe { command.pre_exec(in_child) };
        let child = command.spawn().map_err(failed)?;
        let pid = i32::try_from(child.id()).map_err(|error| failed(io::Error::other(error)))?;
        Unclaimed::child(pid)
    }
}

#[expect(
    clippy::disallowed_methods,
    reason = "runs in the forked child, which has one thread and becomes the VMM"
)]
fn enter(netns: &File) -> rustix::io::Result<()> {
    rustix::thread::move_into_link_name_space(netns.as_fd(), Some(LinkNameSpaceType::Network))
}

/// What a VMM and its guest write, each kept up to a bound.
///
/// Both are files in memory that cannot grow: a guest writes to its console what it likes, and may provoke its VMM into complaining
/// for ever; a file on disk would fill the host's. What does not fit is refused by the kernel and dropped by the VMM. They live as
/// long as the process or anybody who looks at them, so a dead machine's last words can still be read, and an adopted machine's
/// are found through its descriptors.
#[derive(Debug)]
pub(crate) struct Output {
    console: File,
    log: File,
}

/// Bytes kept of each.
const OUTPUT_BYTES: usize = 64 * 1024;
/// Bytes quoted in an error.
const QUOTED_BYTES: usize = 4 * 1024;

impl Output {
    pub(crate) fn create() -> io::Result<Self> {
        let bounded = |name| -> io::Result<File> {
            let file =
                File::from(rustix::fs::memfd_create(name, MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING)?);
            file.set_len(OUTPUT_BYTES as u64)?;
            rustix::fs::fcntl_add_seals(&file, SealFlags::GROW | SealFlags::SHRINK)?;
            Ok(file)
        };
        Ok(Self { console: bounded("sandbar-console")?, log: bounded("sandbar-vmm-log")? })
    }

    /// Standard output and standard error for a process.
    pub(crate) fn stdio(&self) -> io::Result<(Stdio, Stdio)> {
        Ok((self.console.try_clone()?.into(), self.log.try_clone()?.into()))
    }

    /// The output of a process that an earlier agent started.
    pub(crate) fn of(process: ProcessIdentity) -> io::Result<Self> {
        let open = |fd: i32| File::open(format!("/proc/{}/fd/{fd}", process.pid));
        Ok(Self { console: open(1)?, log: open(2)? })
    }

    /// The end of both, for people.
    pub(crate) fn tail(&self) -> String {
        format!("vmm: {}\nconsole: {}", tail(&self.log), tail(&self.console))
    }
}

fn tail(file: &File) -> String {
    let mut bytes = vec![0; OUTPUT_BYTES];
    // The position belongs to the writer, so it is read by offset. Unwritten bytes are zero.
    let read = file.read_at(&mut bytes, 0).unwrap_or(0);
    let written = bytes[..read].iter().rposition(|byte| *byte != 0).map_or(0, |last| last + 1);
    let quoted = &bytes[written.saturating_sub(QUOTED_BYTES)..written];
    String::from_utf8_lossy(quoted).trim().to_owned()
}

/// Name of the control socket in a machine's work folder.
const CONTROL_SOCKET: &str = "control.sock";

/// Opens the control socket for a VMM that inherits it. One can connect from now on, so nobody has to wait for the VMM to be up:
/// connections queue until it accepts them.
pub(crate) fn listen(work_dir: &Path) -> io::Result<OwnedFd> {
    match fs::remove_file(work_dir.join(CONTROL_SOCKET)) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let folder = File::open(work_dir)?;
    Ok(OwnedFd::from(UnixListener::bind(address(&folder))?.into_std()?))
}

/// Connects to a machine's control socket.
pub(crate) async fn connect(work_dir: &Path) -> io::Result<UnixStream> {
    let folder = File::open(work_dir)?;
    UnixStream::connect(address(&folder)).await
}

/// Addresses of unix sockets end at 107 bytes, paths do not: named through an open folder, any work folder will do.
fn address(folder: &File) -> PathBuf {
    PathBuf::from(format!("/proc/self/fd/{}", folder.as_raw_fd())).join(CONTROL_SOCKET)
}

/// A path as it is written in a comma-separated option of QEMU.
pub(crate) fn option_value(path: &Path) -> Result<String, VmmError> {
    let text = std::str::from_utf8(path.as_os_str().as_bytes())
        .map_err(|_| VmmError::UnusablePath(path.to_owned()))?;
    Ok(text.replace(',', ",,"))
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    #[test]
    fn output_is_bounded_and_its_end_is_quoted() {
        let output = Output::create().unwrap();
        assert_eq!(output.tail(), "vmm: \nconsole: ");
        let mut log = output.log.try_clone().unwrap();
        log.write_all(b"cannot open\n").unwrap();
        let mut console = output.console.try_clone().unwrap();
        let line = [b'x'; 1023].into_iter().chain(*b"\n").collect::<Vec<u8>>();
        let accepted = (0..1000).take_while(|_| console.write_all(&line).is_ok()).count();
        assert_eq!(accepted, 64);
        let tail = output.tail();
        assert!(tail.starts_with("vmm: cannot open\nconsole: xxx"), "{}", &tail[..40]);
        assert!(tail.len() < 2 * QUOTED_BYTES);
    }

    #[tokio::test]
    async fn the_control_socket_may_lie_deep_and_takes_the_place_of_a_dead_ones() {
        let root = tempfile::tempdir().unwrap();
        let work_dir = root.path().join("x".repeat(200));
        fs::create_dir(&work_dir).unwrap();
        drop(listen(&work_dir).unwrap());
        assert_eq!(connect(&work_dir).await.unwrap_err().kind(), io::ErrorKind::ConnectionRefused);
        let _listening = listen(&work_dir).unwrap();
        connect(&work_dir).await.unwrap();
    }

    #[test]
    fn commas_in_paths_are_doubled() {
        assert_eq!(option_value(Path::new("/a,b/c")).unwrap(), "/a,,b/c");
        let odd = Path::new(std::ffi::OsStr::from_bytes(b"/a\xff"));
        assert!(matches!(option_value(odd), Err(VmmError::UnusablePath(_))));
    }
}
