//! What is mounted where, as the kernel tells it.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use rustix::mount::{UnmountFlags, unmount};

use crate::files::{FileError, OnFile};

/// One line of the mount table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Mount {
    pub(crate) point: PathBuf,
    pub(crate) source: PathBuf,
}

/// The mounts of this process's mount namespace, in the order in which they were made.
pub(crate) fn list() -> Result<Vec<Mount>, FileError> {
    let path = Path::new("/proc/self/mountinfo");
    let text = std::fs::read(path).on("read", path)?;
    Ok(text.split(|&byte| byte == b'\n').filter_map(parse_line).collect())
}

/// The mount whose point is exactly `point`, the topmost if there are several.
pub(crate) fn at(point: &Path) -> Result<Option<Mount>, FileError> {
    Ok(list()?.into_iter().rfind(|mount| mount.point == point))
}

/// Takes away every mount strictly below `dir`, so that a deletion cannot reach through one.
pub(crate) fn detach_below(dir: &Path) -> Result<(), FileError> {
    let below = list()?.into_iter().filter(|mount| mount.point != dir && mount.point.starts_with(dir));
    for mount in below.collect::<Vec<_>>().into_iter().rev() {
        tracing::warn!(mount = %mount.point.display(), "taking away a mount that a dead process left");
        unmount(&mount.point, UnmountFlags::DETACH).on("unmount", &mount.point)?;
    }
    Ok(())
}

/// `36 35 98:0 /root /mnt/point options optional... - xfs /dev/loop0 superoptions` (see proc(5)).
fn parse_line(line: &[u8]) -> Option<Mount> {
    let mut fields = line.split(|&byte| byte == b' ');
    let point = unescape(fields.nth(4)?);
    let mut after_dash = fields.skip_while(|field| *field != b"-").skip(2);
    Some(Mount { point, source: unescape(after_dash.next()?) })
}

/// Blanks and backslashes are written as `\` and three octal digits.
fn unescape(field: &[u8]) -> PathBuf {
    let mut bytes = Vec::with_capacity(field.len());
    let mut rest = field;
    while let Some((&byte, tail)) = rest.split_first() {
        rest = tail;
        match (byte, tail) {
            (b'\\', [a @ b'0'..=b'3', b @ b'0'..=b'7', c @ b'0'..=b'7', more @ ..]) => {
                bytes.push((a - b'0') << 6 | (b - b'0') << 3 | (c - b'0'));
                rest = more;
            }
            _ => bytes.push(byte),
        }
    }
    OsStr::from_bytes(&bytes).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_the_kernels_format() {
        let line =
            br"41 29 7:0 / /data/a\040b\134c rw,noatime shared:7 master:1 - xfs /dev/loop0 rw,attr2,discard";
        let mount = parse_line(line).unwrap();
        assert_eq!(mount, Mount { point: r"/data/a b\c".into(), source: "/dev/loop0".into() });
        assert_eq!(parse_line(b""), None);
        assert!(list().unwrap().iter().any(|mount| mount.point == Path::new("/proc")));
    }
}
