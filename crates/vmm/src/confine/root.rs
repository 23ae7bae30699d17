//! The root that VMMs see: made once for each agent, a mount namespace that each of them gets a copy of.
//!
//! ```text
//!   /<program>        the VMM's binary
//!   /usr/lib/..., /usr/share/qemu, ...   its libraries and firmware
//!   /etc/ld.so.cache  (a copy)
//!   /dev/null, zero, random, urandom [, kvm]
//!   /files/<name>     where each machine's own files are mounted
//! ```
//!
//! The namespace's root is a read-only filesystem in memory; the host's is not in it at all. To copy it for a machine takes as many
//! mounts as there are lines above, whatever the host has mounted.

use std::{
    ffi::CString,
    fs::{self, DirBuilder, File, OpenOptions, Permissions},
    io,
    os::{
        fd::{AsFd, BorrowedFd, OwnedFd},
        unix::{
            ffi::OsStrExt,
            fs::{DirBuilderExt, PermissionsExt},
        },
    },
    path::{Path, PathBuf},
    thread,
};

use rustix::{
    fs::{CWD, FileType, Mode, chmod, makedev, mknodat},
    mount::{
        FsMountFlags, FsOpenFlags, MountAttrFlags, MountPropagationFlags, UnmountFlags, fsconfig_create,
        fsconfig_set_string, fsmount, fsopen, mount_change, unmount,
    },
    process::{chdir, pivot_root},
    thread::UnshareFlags,
};

use super::mounts::{Access, Tree};

/// Where the filesystem is put together: any folder that every host has. It is covered in the new namespace alone.
const WORKSHOP: &str = "/run";
/// Where machines' files are mounted.
const FILES: &str = "files";
/// Names of machines' files.
const NAMES: [&str; 3] = ["memory", "kernel", "initramfs"];
/// More than enough for folders and the linker's cache.
const SIZE: &str = "4m";

/// A VMM's program and what it needs to start.
#[derive(Debug, Clone)]
pub(crate) struct Program {
    /// The binary, by its absolute path.
    pub(crate) binary: PathBuf,
    /// Folders of firmware. Those that are not there are left out.
    pub(crate) data: Vec<PathBuf>,
    /// Whether it may use KVM.
    pub(crate) kvm: bool,
}

/// The root's namespace. It lives for as long as this or a VMM in a copy of it does.
#[derive(Debug)]
pub(crate) struct Root {
    namespace: OwnedFd,
    program: CString,
}

impl Root {
    /// Makes the root for a program. Blocks for some milliseconds; the thread that makes it ends with it.
    pub(crate) fn make(program: &Program) -> io::Result<Self> {
        let name = program.binary.file_name().unwrap_or_default();
        let inside = CString::new([b"/", name.as_bytes()].concat())?;
        let program = program.clone();
        // A thread that changed its namespaces must not run anything else.
        let made = thread::Builder::new().name("sandbar-root".to_owned()).spawn(move || make(&program))?;
        let namespace = made.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))?;
        Ok(Self { namespace, program: inside })
    }

    pub(crate) fn namespace(&self) -> BorrowedFd<'_> {
        self.namespace.as_fd()
    }

    /// The program's path in it.
    pub(crate) fn program(&self) -> &CString {
        &self.program
    }

    /// Where a machine's file of this name is to be mounted.
    pub(crate) fn file(name: &str) -> String {
        debug_assert!(NAMES.contains(&name), "{name} has no place in the root");
        format!("/{FILES}/{name}")
    }
}

/// In the thread that is given up for it.
fn make(program: &Program) -> io::Result<OwnedFd> {
    // SAFETY: unsharing the mount namespace and the working folder changes nothing that Rust's rules are about.
    unsafe { rustix::thread::unshare_unsafe(UnshareFlags::NEWNS | UnshareFlags::FS) }?;
    // Nothing of this reaches the host, nor anything of the host's later mounts us.
    let apart = MountPropagationFlags::PRIVATE | MountPropagationFlags::REC;
    mount_change("/", apart)?;
    let namespace = OwnedFd::from(File::open("/proc/thread-self/ns/mnt")?);
    let mut places = Vec::new();
    for folder in library_folders(&program.binary) {
        places.push((folder.clone(), Tree::take(&folder, Access::Execute)?));
    }
    for folder in program.data.iter().filter(|folder| folder.is_dir()) {
        if !places.iter().any(|(above, _)| folder.starts_with(above)) {
            places.push((folder.clone(), Tree::take(folder, Access::Read)?));
        }
    }
    let binary = Tree::take(&program.binary, Access::Execute)?;
    let links = links();
    let linker_cache = fs::read("/etc/ld.so.cache").ok();

    let at = CString::new(WORKSHOP)?;
    Tree::made(memory_filesystem()?).attach(&at)?;
    chdir(WORKSHOP)?;
    let inside = |path: &Path| PathBuf::from(path.strip_prefix("/").unwrap_or(path));
    for (folder, tree) in &places {
        let folder = inside(folder);
        make_folder(&folder)?;
        tree.attach(&CString::new(folder.as_os_str().as_bytes())?)?;
    }
    for (name, target) in links {
        std::os::unix::fs::symlink(target, name)?;
    }
    let name = PathBuf::from(program.binary.file_name().unwrap_or_default());
    make_file(&name, b"")?;
    binary.attach(&CString::new(name.as_os_str().as_bytes())?)?;
    if let Some(cache) = linker_cache {
        make_folder(Path::new("etc"))?;
        make_file(Path::new("etc/ld.so.cache"), &cache)?;
    }
    make_folder(Path::new(FILES))?;
    for name in NAMES {
        make_file(&Path::new(FILES).join(name), b"")?;
    }
    devices(program.kvm)?;
    Tree::sealed(Path::new("."))?.attach(&at)?;
    chdir(WORKSHOP)?;
    pivot_root(".", ".")?;
    // The host's root is now on top of ours, and with it goes the mount that was written to.
    unmount(".", UnmountFlags::DETACH)?;
    Ok(namespace)
}

fn memory_filesystem() -> io::Result<OwnedFd> {
    let context = fsopen("tmpfs", FsOpenFlags::FSOPEN_CLOEXEC)?;
    for (key, value) in [("source", "sandbar"), ("size", SIZE), ("mode", "0755")] {
        fsconfig_set_string(context.as_fd(), key, value)?;
    }
    fsconfig_create(context.as_fd())?;
    Ok(fsmount(context.as_fd(), FsMountFlags::FSMOUNT_CLOEXEC, MountAttrFlags::empty())?)
}

/// The folders that the binary's libraries are in, and no more of the host than that.
fn library_folders(binary: &Path) -> Vec<PathBuf> {
    let architecture = format!("{}-linux-gnu", std::env::consts::ARCH);
    let beside = binary.parent().and_then(Path::parent).map(|prefix| prefix.join("lib"));
    let shared = Path::new("/usr/lib").join(architecture);
    // Where libraries are not sorted by architecture, there is the one folder.
    let shared = if shared.is_dir() { shared } else { PathBuf::from("/usr/lib") };
    let mut folders = vec![shared, PathBuf::from("/usr/lib64")];
    folders.extend(beside.filter(|folder| folder != Path::new("/usr/lib")));
    let own = |folder: &PathBuf| fs::symlink_metadata(folder).is_ok_and(|found| found.is_dir());
    folders.retain(own);
    folders
}

/// The host's links to those folders: programs name their loader by `/lib64`.
fn links() -> Vec<(&'static str, PathBuf)> {
    ["lib", "lib64"]
        .into_iter()
        .filter_map(|name| Some((name, fs::read_link(format!("/{name}")).ok()?)))
        .collect()
}

/// Modes are given again by name: the process's file mode mask is not ours to change.
fn make_folder(path: &Path) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(0o755).create(path)?;
    for folder in path.ancestors().filter(|folder| !folder.as_os_str().is_empty()) {
        // One that is a mount already is the host's.
        match fs::set_permissions(folder, Permissions::from_mode(0o755)) {
            Err(error) if error.kind() == io::ErrorKind::ReadOnlyFilesystem => {}
            set => set?,
        }
    }
    Ok(())
}

fn make_file(path: &Path, content: &[u8]) -> io::Result<()> {
    use std::io::Write as _;
    OpenOptions::new().write(true).create_new(true).open(path)?.write_all(content)?;
    fs::set_permissions(path, Permissions::from_mode(0o644))
}

/// Devices of the memory driver, and KVM's.
fn devices(kvm: bool) -> io::Result<()> {
    make_folder(Path::new("dev"))?;
    let memory = [("null", 3), ("zero", 5), ("random", 8), ("urandom", 9)];
    let all = memory.into_iter().map(|(name, minor)| (name, makedev(1, minor)));
    for (name, device) in all.chain(kvm.then(|| ("kvm", makedev(10, 232)))) {
        let path = Path::new("dev").join(name);
        mknodat(CWD, &path, FileType::CharacterDevice, Mode::from_raw_mode(0o666), device)?;
        chmod(&path, Mode::from_raw_mode(0o666))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicBool, Ordering};

    use super::*;

    /// A process that is forked inherits what is open for writing, until it runs its program.
    #[test]
    fn it_is_made_while_processes_are_started() {
        let program = Program { binary: PathBuf::from("/usr/bin/sleep"), data: Vec::new(), kvm: false };
        let done = AtomicBool::new(false);
        thread::scope(|scope| {
            for _ in 0..3 {
                scope.spawn(|| {
                    while !done.load(Ordering::Relaxed) {
                        assert!(std::process::Command::new("/usr/bin/true").status().unwrap().success());
                    }
                });
            }
            let made: io::Result<Vec<_>> = (0..100).map(|_| Root::make(&program)).collect();
            done.store(true, Ordering::Relaxed);
            made.unwrap();
        });
    }
}
