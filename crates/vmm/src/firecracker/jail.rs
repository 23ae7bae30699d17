//! A machine's jail: a folder in its work folder that is all a Firecracker process sees of the host's files.
//!
//! ```text
//!   WORK/jail/                          ours alone
//!     parent                            the image that the machine's next save goes on from: a hard link
//!     whole                             the next save has to write the whole memory, since nobody knows what of it is as in the parent
//!     EXECUTABLE/machine/root/          the process's root, and its own
//!       disk.ext4 memory state ...      hard links: nothing is copied, and nothing has to be unmounted
//! ```
//!
//! It goes with the work folder that it is in, also when that gets another name. What a process could have put there is hostile: nothing in its root is opened by name
//! without care for what it is.

use std::{
    collections::HashMap,
    fs::{self, DirBuilder, File, OpenOptions},
    io::{self, Read},
    os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt},
    path::{Path, PathBuf},
};

use tokio::task;

use crate::{
    ProcessIdentity, VmmError,
    confine::{Access, Group},
    error::file,
    process::{self, Process},
    spawn::admit,
};

/// Names within a process's root, as the process sees them.
pub(super) const KERNEL: &str = "/vmlinux";
pub(super) const INITRAMFS: &str = "/initramfs";
pub(super) const DISK: &str = "/disk.ext4";
pub(super) const MEMORY: &str = "/memory";
pub(super) const STATE: &str = "/state";
/// What a save writes.
pub(super) const NEW_MEMORY: &str = "/memory.new";
pub(super) const NEW_STATE: &str = "/state.new";

/// What the jailer is told that the machine is called. It is a folder's name in the jail, and a work folder may get another name while
/// its machine runs: so all are called the same.
pub(super) const ID: &str = "machine";

const FOLDER: &str = "jail";
/// Longest file taken from a process's root: device states have some tens of KB.
const TAKEN_BYTES: u64 = 16 << 20;
/// Folders between a store and its work folders.
const DEPTH: usize = 2;

/// The place of one machine's jail.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Jail {
    work_dir: PathBuf,
    base: PathBuf,
    root: PathBuf,
    pid_file: String,
}

/// A folder, told apart from all others of the host: what a process has as its root says which jail it is in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct RootFolder {
    device: u64,
    inode: u64,
}

impl RootFolder {
    fn at(path: &Path) -> io::Result<Self> {
        let metadata = fs::metadata(path)?;
        Ok(Self { device: metadata.dev(), inode: metadata.ino() })
    }

    /// The root of a process.
    pub(crate) fn of_process(pid: i32) -> io::Result<Self> {
        Self::at(Path::new(&format!("/proc/{pid}/root")))
    }
}

impl Jail {
    /// Where the jail of the machine in `work_dir` is, or would be.
    pub(super) fn new(work_dir: &Path, firecracker: &Path) -> Self {
        let executable = firecracker.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let base = work_dir.join(FOLDER);
        let root = base.join(&executable).join(ID).join("root");
        Self { work_dir: work_dir.to_owned(), base, root, pid_file: format!("{executable}.pid") }
    }

    pub(super) fn work_dir(&self) -> &Path {
        &self.work_dir
    }

    /// The jailer's folder.
    pub(super) fn base(&self) -> &Path {
        &self.base
    }

    /// The process's root, as we see it.
    pub(super) fn root(&self) -> PathBuf {
        self.root.clone()
    }

    /// A file in the process's root, as we see it.
    pub(super) fn inside(&self, name: &str) -> PathBuf {
        self.root.join(name.trim_start_matches('/'))
    }

    /// The image that the machine's next save goes on from.
    pub(super) fn parent(&self) -> PathBuf {
        self.base.join("parent")
    }

    /// Makes an empty jail. What an earlier machine left is removed.
    pub(super) fn make(&self) -> Result<(), VmmError> {
        remove_all(&self.base)?;
        let made = DirBuilder::new().recursive(true).mode(0o700).create(&self.root);
        made.map_err(file("make the jail", &self.root))
    }

    /// Puts a file into the jail, under another name and by a hard link.
    pub(super) fn put(&self, from: &Path, name: &str, access: Access, user: u32) -> Result<(), VmmError> {
        admit(from, access, user).map_err(file("give to the machine", from))?;
        fs::hard_link(from, self.inside(name)).map_err(file("put into the jail", from))
    }

    /// Takes a file's name from the jail; none there is fine.
    pub(super) fn take_name(&self, name: &str) -> Result<(), VmmError> {
        let path = self.inside(name);
        match fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(file("remove", &path)(error)),
            _ => Ok(()),
        }
    }

    /// Reads a file that the process made.
    pub(super) fn read(&self, name: &str) -> Result<Vec<u8>, VmmError> {
        let path = self.inside(name);
        self.read_regular(&path).map_err(file("read", &path))
    }

    fn read_regular(&self, path: &Path) -> io::Result<Vec<u8>> {
        let flags = libc::O_NOFOLLOW | libc::O_NONBLOCK;
        let opened = OpenOptions::new().read(true).custom_flags(flags).open(path)?;
        let metadata = opened.metadata()?;
        if !metadata.is_file() || metadata.len() > TAKEN_BYTES {
            let reason = format!("a {:?} of {} bytes", metadata.file_type(), metadata.len());
            return Err(io::Error::new(io::ErrorKind::InvalidData, reason));
        }
        let mut bytes = Vec::new();
        opened.take(TAKEN_BYTES).read_to_end(&mut bytes)?;
        Ok(bytes)
    }

    /// The process that the jailer left, if it is still there.
    pub(super) fn process(&self) -> io::Result<Option<ProcessIdentity>> {
        let text = self.read_regular(&self.root.join(&self.pid_file))?;
        let pid = std::str::from_utf8(&text).ok().and_then(|text| text.trim().parse().ok());
        let pid = pid.ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "not a pid"))?;
        let Ok(found) = ProcessIdentity::of(pid) else { return Ok(None) };
        Ok(self.holds(found).then_some(found))
    }

    /// Whether a process is in this jail.
    pub(super) fn holds(&self, process: ProcessIdentity) -> bool {
        let here = RootFolder::at(&self.root);
        here.is_ok_and(|here| RootFolder::of_process(process.pid).is_ok_and(|root| root == here))
    }

    /// Whom the jail was made for.
    pub(super) fn user(&self) -> io::Result<u32> {
        Ok(fs::symlink_metadata(&self.root)?.uid())
    }

    /// `image` is what the machine's next save goes on from.
    pub(super) fn set_parent(&self, image: &Path) -> Result<(), VmmError> {
        let next = self.base.join("parent.new");
        let linked = fs::remove_file(&next)
            .or_else(|error| if error.kind() == io::ErrorKind::NotFound { Ok(()) } else { Err(error) })
            .and_then(|()| fs::hard_link(image, &next))
            .and_then(|()| fs::rename(&next, self.parent()));
        linked.map_err(file("keep", image))
    }

    /// From now on it is not known what changed since the parent: a save begins, or the machine has none. Who takes the machine
    /// over has to know.
    pub(super) fn begin_save(&self) -> Result<(), VmmError> {
        let mark = self.whole();
        File::create(&mark).map(drop).map_err(file("make", &mark))
    }

    /// The save is complete, or did not take place.
    pub(super) fn end_save(&self) -> Result<(), VmmError> {
        let mark = self.whole();
        fs::remove_file(&mark).map_err(file("remove", &mark))
    }

    /// Whether what changed since the parent is known to the process.
    pub(super) fn knows_changes(&self) -> bool {
        !self.whole().exists()
    }

    fn whole(&self) -> PathBuf {
        self.base.join("whole")
    }

    /// Removes the jail. Its process must be gone.
    pub(super) async fn remove(&self) -> Result<(), VmmError> {
        let base = self.base.clone();
        blocking(&self.base, move || remove_all(&base)).await
    }

    /// Ends whatever runs in the jail, and removes it.
    pub(super) async fn clear(&self) -> Result<(), VmmError> {
        if let Ok(root) = RootFolder::at(&self.root) {
            end_all(&[root]).await?;
        }
        self.remove().await
    }
}

/// The jails in work folders under `root`, by the root of their process, and the work folder of each.
pub(crate) fn machines_in(root: &Path) -> io::Result<HashMap<RootFolder, PathBuf>> {
    let mut machines = HashMap::new();
    for work_dir in work_dirs(root)? {
        machines.extend(roots(&work_dir)?.into_iter().map(|root| (root, work_dir.clone())));
    }
    Ok(machines)
}

/// Removes the jails under `root` whose machine is none of `keep`, and ends what may still run there.
pub async fn remove_abandoned(root: &Path, keep: &[ProcessIdentity]) -> Result<(), VmmError> {
    let kept: Vec<_> = keep.iter().filter_map(|process| RootFolder::of_process(process.pid).ok()).collect();
    let folder = root.to_owned();
    let found = blocking(root, move || {
        let with_roots = |work_dir: PathBuf| Ok::<_, io::Error>((roots(&work_dir)?, work_dir));
        let found: io::Result<Vec<_>> =
            work_dirs(&folder).and_then(|work_dirs| work_dirs.into_iter().map(with_roots).collect());
        found.map_err(file("look for jails in", &folder))
    });
    for (roots, work_dir) in found.await? {
        if roots.iter().any(|root| kept.contains(root)) {
            continue;
        }
        end_all(&roots).await?;
        let base = work_dir.join(FOLDER);
        tracing::warn!(jail = %base.display(), "jail without a machine removed");
        blocking(&work_dir, move || remove_all(&base)).await?;
    }
    Ok(())
}

/// Ends all processes that have one of these roots.
async fn end_all(roots: &[RootFolder]) -> Result<(), VmmError> {
    let listed = process::all().map_err(file("list", Path::new("/proc")))?;
    for process in listed {
        if RootFolder::of_process(process.pid).is_ok_and(|root| roots.contains(&root)) {
            match Process::open(process, Group::none()) {
                Ok(found) => found.kill().await?,
                Err(VmmError::Gone { .. }) => {}
                Err(error) => return Err(error),
            }
        }
    }
    Ok(())
}

/// Work folders under `root` that have a jail.
fn work_dirs(root: &Path) -> io::Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    let mut level = vec![root.to_owned()];
    for _ in 0..=DEPTH {
        let mut below = Vec::new();
        for folder in level {
            let (jails, others): (Vec<_>, Vec<_>) =
                folders(&folder)?.into_iter().partition(|child| child.ends_with(FOLDER));
            found.extend(jails.iter().map(|_| folder.clone()));
            below.extend(others);
        }
        level = below;
    }
    Ok(found)
}

/// The roots of the processes that a work folder's jail is or was for.
fn roots(work_dir: &Path) -> io::Result<Vec<RootFolder>> {
    let mut roots = Vec::new();
    for executable in folders(&work_dir.join(FOLDER))? {
        for id in folders(&executable)? {
            roots.extend(RootFolder::at(&id.join("root")).ok());
        }
    }
    Ok(roots)
}

/// Folders in a folder; one that is gone by now has none.
fn folders(folder: &Path) -> io::Result<Vec<PathBuf>> {
    let entries = match fs::read_dir(folder) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries?,
    };
    let mut found = Vec::new();
    for entry in entries {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            found.push(entry.path());
        }
    }
    Ok(found)
}

fn remove_all(base: &Path) -> Result<(), VmmError> {
    match fs::remove_dir_all(base) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(file("remove", base)(error)),
        _ => Ok(()),
    }
}

/// File operations, off the runtime's threads.
pub(super) async fn blocking<T: Send + 'static>(
    subject: &Path,
    work: impl FnOnce() -> Result<T, VmmError> + Send + 'static,
) -> Result<T, VmmError> {
    task::spawn_blocking(work).await.map_err(|panic| file("work on", subject)(panic.into()))?
}
