//! Starting a VMM process: which files, which descriptors, what of its output is kept.

use std::{
    ffi::{CString, OsString},
    fs::{self, File},
    io,
    os::{
        fd::{AsRawFd, OwnedFd, RawFd},
        unix::{
            ffi::{OsStrExt, OsStringExt},
            fs::{FileExt, MetadataExt, PermissionsExt},
        },
    },
    path::{Path, PathBuf},
    process::Stdio,
    sync::Arc,
};

use rustix::fs::{MemfdFlags, SealFlags};
use tokio::net::{UnixListener, UnixStream};

use crate::{
    MachineSpec, ProcessIdentity, VmmError,
    confine::{Access, Bounds, Cgroups, Child, Handed, LaunchError, Root, Tree},
    process::{MARK, Unclaimed},
};

/// The least that a VMM may write into a file: its state and what it complains of.
pub(crate) const FILE_BYTES: u64 = 16 << 20;

/// What to start.
#[derive(Debug)]
pub(crate) struct Launch {
    pub(crate) root: Arc<Root>,
    pub(crate) cgroups: Cgroups,
    pub(crate) bounds: Bounds,
    pub(crate) spec: MachineSpec,
    pub(crate) arguments: Vec<OsString>,
    /// The machine's folder, by its canonical path.
    pub(crate) work_dir: PathBuf,
    /// Files that the VMM opens by itself, under these names in its root.
    pub(crate) files: Vec<(&'static str, PathBuf, Access)>,
    /// Descriptors beside the standard ones.
    pub(crate) handed: Vec<Handed>,
    /// The number under which the VMM gets its TAP.
    pub(crate) tap: RawFd,
    pub(crate) output: Output,
}

impl Launch {
    /// Starts the process, confined, with no descriptors but the named ones and no environment but its mark. Blocks for a few
    /// milliseconds. Must be called on a thread of a tokio runtime.
    pub(crate) fn start(self) -> Result<(Unclaimed, Output), VmmError> {
        let Self { root, cgroups, bounds, spec, arguments, work_dir, files, mut handed, tap, output } = self;
        let failed = LaunchError::at("hand descriptors over");
        let standard = (|| {
            let null = File::open("/dev/null")?;
            Ok([null, output.console.try_clone()?, output.log.try_clone()?])
        })();
        let standard = standard.map_err(failed)?;
        handed.extend((0..).zip(standard).map(|(number, file)| Handed { number, descriptor: file.into() }));
        let user = spec.confinement.user;
        let files = files.into_iter().map(|(name, path, access)| {
            let tree = admit(&path, access, user).and_then(|()| Tree::take(&path, access));
            let tree = tree.map_err(|source| VmmError::File { action: "give the VMM", path, source })?;
            Ok((text(Root::file(name))?, tree))
        });
        let files = files.collect::<Result<_, VmmError>>()?;
        let mark = [MARK.as_bytes(), b"=", work_dir.as_os_str().as_bytes()].concat();
        let disk = spec.disk.metadata().map_err(|source| VmmError::File {
            action: "look at",
            path: spec.disk.clone(),
            source,
        })?;
        let group = cgroups.create(&spec.confinement.group, &bounds)?;
        let child = Child {
            root: &root,
            arguments: arguments.into_iter().map(text).collect::<Result<_, _>>()?,
            environment: vec![text(OsString::from_vec(mark))?],
            user,
            group: &group,
            netns: &spec.netns,
            tap: (&spec.tap, tap),
            files,
            handed,
            // More than its disk would be room that nobody gave it.
            file_bytes: disk.len().max(FILE_BYTES),
            tasks: bounds.tasks,
        };
        let pid = child.start().inspect_err(|_| group.remove())?;
        drop(child);
        Ok((Unclaimed::child(pid, &group)?, output))
    }
}

fn text(text: impl Into<OsString>) -> Result<CString, VmmError> {
    let text: OsString = text.into();
    CString::new(text.as_bytes()).map_err(|_| VmmError::UnusablePath(text.into()))
}

/// Lets the VMM's user open a file. What leads to the file is the VMM's own root and, on the host, folders that are open to root
/// alone; so what is only read may be readable by everyone, and is by all that were restored from it.
pub(crate) fn admit(path: &Path, access: Access, user: u32) -> io::Result<()> {
    let file = File::open(path)?;
    let found = file.metadata()?;
    let (owner, mode) = match access {
        Access::Read | Access::Execute => (0, 0o444),
        Access::Write => (user, 0o600),
    };
    if found.uid() != owner || found.gid() != owner {
        std::os::unix::fs::fchown(&file, Some(owner), Some(owner))?;
    }
    if found.mode() & 0o7777 != mode {
        file.set_permissions(fs::Permissions::from_mode(mode))?;
    }
    Ok(())
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
}
