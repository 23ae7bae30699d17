//! Small files that the guest expects, written so that a crash leaves either the old or the new one.

use std::fs::{self, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::Path;

/// Makes a folder and its parents; an existing one is left as it is.
pub(crate) fn make_dir(path: &str, mode: u32) -> io::Result<()> {
    match fs::DirBuilder::new().recursive(true).mode(mode).create(path) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        other => other,
    }
}

/// Writes a kernel setting under `/proc/sys` or `/sys`.
pub(crate) fn write_setting(path: &str, value: &str) -> io::Result<()> {
    OpenOptions::new().write(true).open(path)?.write_all(value.as_bytes())
}

/// Replaces a file's content. A symbolic link at `path` is replaced, not followed: in images it often dangles.
pub(crate) fn replace(path: &str, content: &str) -> io::Result<()> {
    let temporary = format!("{path}.sandbar");
    let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o644).open(&temporary)?;
    file.write_all(content.as_bytes())?;
    file.sync_all()?;
    fs::rename(&temporary, path)
}

/// Writes the name servers, unless the image brings its own. The gateway answers no DNS: these are public resolvers.
pub(crate) fn ensure_resolv_conf() -> io::Result<()> {
    const PATH: &str = "/etc/resolv.conf";
    match fs::read_to_string(PATH) {
        Ok(content) if !content.trim().is_empty() => Ok(()),
        _ => {
            make_dir("/etc", 0o755)?;
            replace(PATH, "nameserver 1.1.1.1\nnameserver 8.8.8.8\n")
        }
    }
}

/// Makes `localhost` resolve.
pub(crate) fn ensure_hosts() -> io::Result<()> {
    const PATH: &str = "/etc/hosts";
    let old = fs::read_to_string(PATH).unwrap_or_default();
    let named = |line: &str| {
        let line = line.split('#').next().unwrap_or_default();
        line.split_whitespace().skip(1).any(|name| name == "localhost")
    };
    if old.lines().any(named) {
        return Ok(());
    }
    make_dir("/etc", 0o755)?;
    replace(PATH, &format!("127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\n{old}"))
}

/// Copies a file, executable by all.
pub(crate) fn copy_executable(from: &Path, to: &Path) -> io::Result<()> {
    let mut target = OpenOptions::new().write(true).create(true).truncate(true).mode(0o755).open(to)?;
    io::copy(&mut fs::File::open(from)?, &mut target)?;
    Ok(())
}
