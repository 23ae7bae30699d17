//! One entry of a folder.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs::{self, Metadata};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use crate::files;
use crate::users::Names;

/// What an entry is. A link is what it points to, unless it points to nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    File,
    Folder,
    DanglingLink,
    /// Device, FIFO, socket.
    Other,
}

/// An entry, as E2B's protocol wants to know it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Entry {
    pub(super) path: PathBuf,
    pub(super) kind: Kind,
    pub(super) size: u64,
    /// Permission bits, the special ones included.
    pub(super) mode: u32,
    pub(super) permissions: String,
    pub(super) owner: String,
    pub(super) group: String,
    /// Seconds and nanoseconds since 1970.
    pub(super) modified: (i64, i64),
    /// Where a link leads in the end.
    pub(super) target: Option<PathBuf>,
    pub(super) metadata: BTreeMap<String, String>,
}

impl Entry {
    /// Looks at `path`.
    pub(super) fn read(path: &Path, names: &Names) -> io::Result<Self> {
        let own = fs::symlink_metadata(path)?;
        if !own.is_symlink() {
            return Ok(Self::new(path, &own, kind(&own), None, names));
        }
        match (fs::metadata(path), fs::canonicalize(path)) {
            (Ok(behind), Ok(target)) => Ok(Self::new(path, &behind, kind(&behind), Some(target), names)),
            _ => Ok(Self::new(path, &own, Kind::DanglingLink, fs::read_link(path).ok(), names)),
        }
    }

    fn new(path: &Path, metadata: &Metadata, kind: Kind, target: Option<PathBuf>, names: &Names) -> Self {
        Self {
            path: path.to_path_buf(),
            kind,
            size: metadata.size(),
            mode: metadata.mode() & 0o7777,
            permissions: permissions(metadata.mode()),
            owner: names.user(metadata.uid()),
            group: names.group(metadata.gid()),
            modified: (metadata.mtime(), metadata.mtime_nsec()),
            target,
            // Of what a link points to. A link itself can have none.
            metadata: if kind == Kind::DanglingLink {
                BTreeMap::new()
            } else {
                files::Metadata::read(path).into_map()
            },
        }
    }

    /// The last part of the path.
    pub(super) fn name(&self) -> &OsStr {
        self.path.file_name().unwrap_or(OsStr::new("/"))
    }
}

fn kind(metadata: &Metadata) -> Kind {
    if metadata.is_dir() {
        Kind::Folder
    } else if metadata.is_file() {
        Kind::File
    } else {
        Kind::Other
    }
}

/// As `ls -l` prints them.
fn permissions(mode: u32) -> String {
    let kind = match mode & libc::S_IFMT {
        libc::S_IFDIR => 'd',
        libc::S_IFLNK => 'l',
        libc::S_IFCHR => 'c',
        libc::S_IFBLK => 'b',
        libc::S_IFIFO => 'p',
        libc::S_IFSOCK => 's',
        _ => '-',
    };
    let mut text = String::from(kind);
    for (shift, special_bit, special) in [(6, 0o4000, 's'), (3, 0o2000, 's'), (0, 0o1000, 't')] {
        let bits = mode >> shift;
        text.push(if bits & 4 == 0 { '-' } else { 'r' });
        text.push(if bits & 2 == 0 { '-' } else { 'w' });
        text.push(match (mode & special_bit != 0, bits & 1 != 0) {
            (false, false) => '-',
            (false, true) => 'x',
            (true, true) => special,
            (true, false) => special.to_ascii_uppercase(),
        });
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    #[test]
    fn permissions_read_like_ls() {
        for (mode, expected) in [
            (0o100_644, "-rw-r--r--"),
            (0o040_755, "drwxr-xr-x"),
            (0o041_777, "drwxrwxrwt"),
            (0o104_755, "-rwsr-xr-x"),
            (0o102_644, "-rw-r-Sr--"),
            (0o120_777, "lrwxrwxrwx"),
            (0o010_000, "p---------"),
        ] {
            assert_eq!(permissions(mode), expected);
        }
    }

    #[test]
    fn a_link_is_what_it_points_to() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        fs::write(at("file"), "12345").unwrap();
        symlink("file", at("link")).unwrap();
        symlink("link", at("link-to-link")).unwrap();
        symlink("nothing", at("dangling")).unwrap();
        symlink(".", at("here")).unwrap();
        let names = Names::read();

        let file = Entry::read(&at("file"), &names).unwrap();
        assert_eq!((file.kind, file.size, file.target.clone()), (Kind::File, 5, None));
        let link = Entry::read(&at("link-to-link"), &names).unwrap();
        assert_eq!((link.kind, link.size, &link.permissions), (Kind::File, 5, &file.permissions));
        assert_eq!(link.target, Some(fs::canonicalize(at("file")).unwrap()));
        assert_eq!(Entry::read(&at("here"), &names).unwrap().kind, Kind::Folder);
        let dangling = Entry::read(&at("dangling"), &names).unwrap();
        assert_eq!((dangling.kind, dangling.target), (Kind::DanglingLink, Some("nothing".into())));
        assert!(Entry::read(&at("missing"), &names).is_err());
    }
}
