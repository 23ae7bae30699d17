//! Stage 2: makes the root disk a running Linux system, then supervises.
//!
//! Only what the agent cannot do without ends the boot; an image in which `/etc` cannot be written still runs.

use std::convert::Infallible;
use std::fmt::Display;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;
use std::{fs, io};

use rustix::process::{Resource, Rlimit, setrlimit};
use sandbar_types::guest;

use crate::mounts::{self, MountError};
use crate::{console, files, network, supervisor};

/// Above the usual 1,024, which servers outgrow, and below what makes programs that close every possible descriptor crawl.
const OPEN_FILES_SOFT: u64 = 65_536;
const OPEN_FILES_HARD: u64 = 1_048_576;

const SETTINGS: [(&str, &str); 4] = [
    ("/proc/sys/fs/inotify/max_user_watches", "524288"),
    ("/proc/sys/fs/inotify/max_user_instances", "8192"),
    ("/proc/sys/net/ipv4/ping_group_range", "0 2147483647"),
    ("/proc/sys/vm/max_map_count", "262144"),
];

const DEV_LINKS: [(&str, &str); 4] = [
    ("/proc/self/fd", "/dev/fd"),
    ("/proc/self/fd/0", "/dev/stdin"),
    ("/proc/self/fd/1", "/dev/stdout"),
    ("/proc/self/fd/2", "/dev/stderr"),
];

/// Runs the stage. It returns only if the guest cannot be brought up; a shutdown never returns.
pub(crate) fn run() -> Result<Infallible, MountError> {
    for late in &mounts::LATE {
        late.mount()?;
    }
    for (target, link) in DEV_LINKS {
        match symlink(target, link) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => warn("link in /dev", &error),
            _ => {}
        }
    }
    attempt("set up /tmp", ensure_tmp());
    attempt("make /run/lock", files::make_dir("/run/lock", 0o1777));
    for (setting, value) in SETTINGS {
        attempt(setting, files::write_setting(setting, value));
    }
    let limit = Rlimit { current: Some(OPEN_FILES_SOFT), maximum: Some(OPEN_FILES_HARD) };
    attempt("raise the limit of open files", setrlimit(Resource::Nofile, limit).map_err(io::Error::from));

    attempt("bring up lo", network::bring_up("lo"));
    attempt("set up eth0", network::configure("eth0", guest::GUEST_IP, guest::PREFIX_LEN, guest::GATEWAY_IP));
    attempt("set the hostname", set_hostname());
    attempt("write /etc/hosts", files::ensure_hosts());
    attempt("write /etc/resolv.conf", files::ensure_resolv_conf());

    supervisor::run()
}

fn ensure_tmp() -> io::Result<()> {
    if !Path::new("/tmp").exists() {
        fs::create_dir("/tmp")?;
        fs::set_permissions("/tmp", fs::Permissions::from_mode(0o1777))?;
    }
    Ok(())
}

fn set_hostname() -> io::Result<()> {
    let name = fs::read_to_string("/etc/hostname").unwrap_or_default();
    let name = match name.trim() {
        "" => "sandbox",
        name => name,
    };
    Ok(rustix::system::sethostname(name.as_bytes())?)
}

fn attempt(what: &str, outcome: io::Result<()>) {
    if let Err(error) = outcome {
        warn(what, &error);
    }
}

fn warn(what: &str, error: &dyn Display) {
    console::log(&format!("cannot {what}: {error}"));
}
