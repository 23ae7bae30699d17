//! A volume's filesystem, mounted once.

use std::fs;
use std::io;
use std::path::Path;

use rustix::mount::MountFlags;

/// Mounts the device's filesystem there, unless it is mounted somewhere.
pub(super) fn mount(device: &Path, path: &Path) -> io::Result<()> {
    if is_mounted(&fs::read_to_string("/proc/self/mountinfo")?, device) {
        return Ok(());
    }
    fs::create_dir_all(path)?;
    // Its files may have been another guest's, which may have been anybody's.
    let flags = MountFlags::NODEV | MountFlags::NOSUID;
    rustix::mount::mount(device, path, c"ext4", flags, None)?;
    // What a new filesystem has for its repair, which makes it where it needs it.
    match fs::remove_dir(path.join("lost+found")) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            tracing::debug!(%error, "lost+found stays");
        }
        _ => {}
    }
    Ok(())
}

fn is_mounted(mountinfo: &str, device: &Path) -> bool {
    // `... - TYPE SOURCE OPTIONS`
    let sources = mountinfo.lines().filter_map(|line| line.split_once(" - ")?.1.split(' ').nth(1));
    sources.map(Path::new).any(|source| source == device)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mounted_device_is_found_by_its_source() {
        let mounts = "24 1 254:0 / / rw,relatime - ext4 /dev/root rw\n\
            31 24 43:1 / /data rw,nosuid,nodev shared:3 - ext4 /dev/nbd1 rw\n";
        assert!(is_mounted(mounts, Path::new("/dev/nbd1")));
        assert!(!is_mounted(mounts, Path::new("/dev/nbd")));
        assert!(!is_mounted(mounts, Path::new("/dev/nbd0")));
        assert!(!is_mounted("", Path::new("/dev/nbd1")));
    }
}
