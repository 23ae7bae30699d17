//! Volumes: their states, and where a sandbox has them.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::id::Volume;
use crate::words::words;
use crate::{Id, VolumeName, limits};

words! {
    /// The state of a volume: `creating -> ready -> deleting`. One that is not made after all goes to `deleting` at once.
    VolumeStatus {
        /// Its host is asked for it.
        Creating = "creating",
        /// It can be mounted.
        Ready = "ready",
        /// It is gone to everybody but its host, which owes the deletion.
        Deleting = "deleting",
    }
}

/// Where a sandbox has a volume. As the row keeps it, and as the API tells it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct VolumeMount {
    /// Which.
    pub id: Id<Volume>,
    /// What its team calls it.
    pub name: VolumeName,
    /// Where in the guest.
    pub path: MountPath,
}

/// An absolute path in the guest where something can be mounted: in its one spelling, and nothing that the guest cannot do without.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct MountPath(String);

/// Text that is no such path.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "{0:?} cannot be mounted at: use an absolute path without `.`, `..` and `//`, of at most {max} bytes, which is none of the guest's own folders",
    max = limits::PATH_BYTES
)]
pub struct InvalidMountPath(String);

/// Folders that a guest cannot do without as they are.
const OWN: [&str; 12] =
    ["/bin", "/boot", "/etc", "/lib", "/lib64", "/sbin", "/tmp", "/usr", "/var", "/dev", "/proc", "/sys"];
/// Those of them in which nothing can be mounted either, and one that the guest fills by itself.
const KERNEL: [&str; 4] = ["/dev", "/proc", "/sys", "/run"];

impl MountPath {
    /// The path as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether one of two paths is the other or lies in it.
    #[must_use]
    pub fn meets(&self, other: &Self) -> bool {
        is_within(&self.0, &other.0) || is_within(&other.0, &self.0)
    }
}

fn is_within(path: &str, folder: &str) -> bool {
    path.strip_prefix(folder).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

impl TryFrom<String> for MountPath {
    type Error = InvalidMountPath;

    fn try_from(text: String) -> Result<Self, InvalidMountPath> {
        // A slash at the end means the same.
        let path = text.strip_suffix('/').unwrap_or(&text);
        let is_plain = path.strip_prefix('/').is_some_and(|rest| {
            rest.split('/').all(|part| !matches!(part, "" | "." | "..")) && !rest.contains(char::is_control)
        });
        let is_own = OWN.contains(&path) || KERNEL.iter().any(|folder| is_within(path, folder));
        if is_plain && !is_own && path.len() <= limits::PATH_BYTES {
            Ok(Self(path.to_owned()))
        } else {
            Err(InvalidMountPath(text))
        }
    }
}

impl From<MountPath> for String {
    fn from(path: MountPath) -> Self {
        path.0
    }
}

impl fmt::Display for MountPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn path(text: &str) -> Result<MountPath, InvalidMountPath> {
        text.to_owned().try_into()
    }

    #[test]
    fn a_path_has_one_spelling_and_leaves_the_guest_whole() {
        for (good, spelt) in
            [("/data", "/data"), ("/data/", "/data"), ("/var/lib/x", "/var/lib/x"), ("/a b", "/a b")]
        {
            assert_eq!(path(good).unwrap().as_str(), spelt);
        }
        for bad in [
            "", "/", "//", "data", "./data", "/a/../b", "/a//b", "/a/.", "/a\0", "/proc", "/proc/x",
            "/sys/fs", "/dev/shm", "/run/x", "/etc", "/usr/", "/tmp",
        ] {
            assert!(path(bad).is_err(), "{bad:?}");
        }
        assert!(path(&format!("/{}", "x".repeat(limits::PATH_BYTES))).is_err());
    }

    #[test]
    fn paths_meet_where_one_holds_the_other() {
        let [a, ab, abc] = ["/a", "/a/b", "/ab"].map(|text| path(text).unwrap());
        assert!(a.meets(&a) && a.meets(&ab) && ab.meets(&a));
        assert!(!a.meets(&abc) && !ab.meets(&abc));
    }
}
