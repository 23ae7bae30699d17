//! The jailer, by its document: arguments, folders, devices, namespaces, rights, pid file.

use std::{
    ffi::{CString, OsString},
    fs::{self, File, OpenOptions},
    io::{Error, Write},
    os::{
        fd::AsRawFd,
        unix::{
            ffi::OsStrExt,
            fs::{PermissionsExt, chown},
        },
    },
    path::{Path, PathBuf},
    process::exit,
};

use super::{Plan, Step, server};

struct Arguments {
    id: String,
    exec_file: PathBuf,
    uid: u32,
    gid: u32,
    base: PathBuf,
    netns: PathBuf,
    socket: PathBuf,
    limits: Vec<(String, libc::rlim_t)>,
}

/// Refuses what the real one would, and what the driver has no reason to say.
fn parse(arguments: &[OsString]) -> Arguments {
    let mut values = std::collections::BTreeMap::new();
    let (mut new_pid_ns, mut limits) = (false, Vec::new());
    let mut words = arguments.iter().map(|word| word.to_str().unwrap());
    let mut rest = Vec::new();
    while let Some(word) = words.next() {
        match word {
            "--" => rest = words.by_ref().collect(),
            "--new-pid-ns" => new_pid_ns = true,
            "--resource-limit" => {
                let (resource, most) = words.next().and_then(|limit| limit.split_once('=')).unwrap();
                limits.push((resource.to_owned(), most.parse().unwrap()));
            }
            "--id" | "--exec-file" | "--uid" | "--gid" | "--chroot-base-dir" | "--netns" => {
                let value = words.next().unwrap_or_else(|| panic!("{word} needs a value"));
                assert!(values.insert(word, value).is_none(), "{word} twice");
            }
            _ => panic!("Found argument '{word}' which wasn't expected, or isn't valid in this context."),
        }
    }
    assert!(new_pid_ns, "no --new-pid-ns");
    let value =
        |name| *values.get(name).unwrap_or_else(|| panic!("Argument '{name}' required, but not found."));
    let id = value("--id").to_owned();
    assert!((1..=64).contains(&id.len()), "Invalid instance ID length: {id}");
    assert!(id.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-'), "Invalid char: {id}");
    let exec_file = fs::canonicalize(value("--exec-file")).unwrap();
    assert!(exec_file.is_file() && exec_file.file_name().unwrap().to_str().unwrap().contains("firecracker"));
    let ["--api-sock", socket, "--level", "Warning"] = rest[..] else { panic!("for Firecracker: {rest:?}") };
    Arguments {
        id,
        exec_file,
        uid: value("--uid").parse().unwrap(),
        gid: value("--gid").parse().unwrap(),
        base: fs::canonicalize(value("--chroot-base-dir")).unwrap(),
        netns: value("--netns").into(),
        socket: socket.into(),
        limits,
    }
}

fn limit(resource: &str, most: libc::rlim_t) {
    let resource = match resource {
        "fsize" => libc::RLIMIT_FSIZE,
        "no-file" => libc::RLIMIT_NOFILE,
        _ => panic!("Invalid resource name: {resource}"),
    };
    let most = libc::rlimit { rlim_cur: most, rlim_max: most };
    // SAFETY: a system call with a valid pointer.
    done(unsafe { libc::setrlimit(resource, &raw const most) });
}

pub(super) fn run(arguments: &[OsString]) {
    scrub_environment();
    let Arguments { id, exec_file, uid, gid, base, netns, socket, limits } = parse(arguments);
    let plan = Plan::beside(&exec_file);
    plan.jailer.pass();
    if let Step::Fault(words) = &plan.jailer {
        eprintln!("{words}");
        exit(1);
    }
    let name = exec_file.file_name().unwrap();
    let root = base.join(name).join(&id).join("root");
    fs::create_dir_all(&root).unwrap();
    // The real one copies the binary; what is in the file is of no use to us.
    File::create_new(root.join(name)).unwrap();

    for (resource, most) in limits {
        limit(&resource, most);
    }
    let netns = File::open(&netns).unwrap();
    // SAFETY: system calls with valid arguments, in a process of one thread.
    unsafe {
        done(libc::setns(netns.as_raw_fd(), libc::CLONE_NEWNET));
        done(libc::unshare(libc::CLONE_NEWNS));
    }
    drop(netns);
    enter(&root);
    for folder in ["/", "/dev", "/dev/net", "/run"] {
        fs::create_dir_all(folder).unwrap();
        fs::set_permissions(folder, fs::Permissions::from_mode(0o700)).unwrap();
        chown(folder, Some(uid), Some(gid)).unwrap();
    }
    device("/dev/net/tun", 10, 200, uid, gid);
    device("/dev/kvm", 10, 232, uid, gid);

    // SAFETY: as above; the child has one thread as well.
    let child = unsafe {
        done(libc::unshare(libc::CLONE_NEWPID));
        libc::fork()
    };
    assert!(child >= 0, "{}", Error::last_os_error());
    if child > 0 {
        let mut pid_file = OpenOptions::new().write(true).create_new(true).open("/firecracker.pid").unwrap();
        write!(pid_file, "{child}").unwrap();
        exit(0);
    }
    // SAFETY: as above.
    unsafe {
        done(libc::setgroups(0, std::ptr::null()));
        done(libc::setresgid(gid, gid, gid));
        done(libc::setresuid(uid, uid, uid));
    }
    server::run(&socket, &plan);
}

/// Makes `root` the process's root, in its mount namespace alone.
fn enter(root: &Path) {
    let root = CString::new(root.as_os_str().as_bytes()).unwrap();
    let none = std::ptr::null();
    // SAFETY: system calls with valid strings.
    unsafe {
        done(libc::mount(none, c"/".as_ptr(), none, libc::MS_PRIVATE | libc::MS_REC, none.cast()));
        done(libc::mount(root.as_ptr(), root.as_ptr(), none, libc::MS_BIND | libc::MS_REC, none.cast()));
        done(libc::chdir(root.as_ptr()));
    }
    fs::create_dir("old_root").unwrap();
    // SAFETY: as above.
    unsafe {
        let pivoted = libc::syscall(libc::SYS_pivot_root, c".".as_ptr(), c"old_root".as_ptr());
        done(i32::try_from(pivoted).unwrap());
        done(libc::chdir(c"/".as_ptr()));
        done(libc::umount2(c"old_root".as_ptr(), libc::MNT_DETACH));
    }
    fs::remove_dir("/old_root").unwrap();
    std::os::unix::fs::chroot(".").unwrap();
}

fn device(path: &str, major: u32, minor: u32, uid: u32, gid: u32) {
    let name = CString::new(path).unwrap();
    let mode = libc::S_IFCHR | libc::S_IRUSR | libc::S_IWUSR;
    // SAFETY: a system call with a valid string.
    done(unsafe { libc::mknod(name.as_ptr(), mode, libc::makedev(major, minor)) });
    chown(path, Some(uid), Some(gid)).unwrap();
}

fn done(result: libc::c_int) {
    assert!(result >= 0, "{}", Error::last_os_error());
}

/// The real one executes a binary with an empty environment; here the same memory goes on, so the old one is overwritten.
fn scrub_environment() {
    unsafe extern "C" {
        static environ: *mut *mut libc::c_char;
    }
    // SAFETY: the process's own strings, ended by a null pointer; it has one thread, and reads none of them later.
    unsafe {
        let mut variable = environ;
        while !(*variable).is_null() {
            std::ptr::write_bytes(*variable, 0, libc::strlen(*variable));
            variable = variable.add(1);
        }
    }
}
