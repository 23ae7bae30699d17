//! Which user the server runs as.
//!
//! `/etc/passwd` is read directly: the account is a local one, made by a package, and no name service need answer.

use std::fs;
use std::os::unix::fs::{MetadataExt, chown};
use std::path::{Path, PathBuf};

use rustix::process::geteuid;

use crate::PostgresError;

/// The user that the distributions' server packages make.
const SERVER_USER: &str = "postgres";

/// The server's user.
#[derive(Debug, Clone)]
pub(crate) struct Account {
    pub(crate) name: String,
    uid: u32,
    gid: u32,
    switch: Switch,
}

/// Whether the server's processes must change their user.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Switch {
    Needed,
    AlreadyThat,
}

impl Account {
    pub(crate) fn choose() -> Result<Self, PostgresError> {
        let passwd = Path::new("/etc/passwd");
        let text = fs::read_to_string(passwd).map_err(PostgresError::io("read", passwd))?;
        let mut entries = text.lines().filter_map(parse);
        let uid = geteuid();
        if uid.is_root() {
            let found = entries.find(|entry| entry.name == SERVER_USER && entry.uid != 0);
            let entry = found.ok_or(PostgresError::NoAccount { wanted: SERVER_USER })?;
            return Ok(Self { switch: Switch::Needed, ..entry });
        }
        let entry = entries.find(|entry| entry.uid == uid.as_raw());
        entry.ok_or(PostgresError::NoAccount { wanted: "with this process's uid" })
    }

    /// Makes `command` run as this user. (`Command::uid` as root also drops the supplementary groups.)
    pub(crate) fn apply(&self, command: &mut tokio::process::Command) {
        if self.switch == Switch::Needed {
            command.uid(self.uid).gid(self.gid);
        }
    }

    /// Gives `path` to this user.
    pub(crate) fn own(&self, path: &Path) -> Result<(), PostgresError> {
        match self.switch {
            Switch::Needed => chown(path, Some(self.uid), Some(self.gid))
                .map_err(PostgresError::io("change the owner of", path)),
            Switch::AlreadyThat => Ok(()),
        }
    }

    /// Checks that this user may pass through every folder above `path`.
    ///
    /// PostgreSQL's own words for a closed folder far up ("could not access directory") name the wrong one.
    pub(crate) fn check_way_to(&self, path: &Path) -> Result<(), PostgresError> {
        let closed =
            path.ancestors().skip(1).filter(|folder| !folder.as_os_str().is_empty()).find(|folder| {
                fs::metadata(folder).is_ok_and(|metadata| {
                    let bit = if metadata.uid() == self.uid {
                        0o100
                    } else if metadata.gid() == self.gid {
                        0o010
                    } else {
                        0o001
                    };
                    metadata.mode() & bit == 0
                })
            });
        match closed {
            Some(folder) => {
                Err(PostgresError::Unreachable { folder: PathBuf::from(folder), account: self.name.clone() })
            }
            None => Ok(()),
        }
    }
}

fn parse(line: &str) -> Option<Account> {
    let mut fields = line.split(':');
    let name = fields.next().filter(|name| !name.is_empty())?.to_owned();
    let uid = fields.nth(1)?.parse().ok()?;
    let gid = fields.next()?.parse().ok()?;
    Some(Account { name, uid, gid, switch: Switch::AlreadyThat })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_a_passwd_line_and_skips_what_is_none() {
        let entry =
            parse("postgres:x:101:104:PostgreSQL administrator,,,:/var/lib/postgresql:/bin/bash").unwrap();
        assert_eq!((entry.name.as_str(), entry.uid, entry.gid), ("postgres", 101, 104));
        for line in ["", "#", "+::::::", "a:x:one:2::/:", "a:x:1"] {
            assert!(parse(line).is_none(), "{line:?}");
        }
    }

    #[test]
    fn names_the_folder_that_is_closed() {
        use std::os::unix::fs::PermissionsExt;
        let root = tempfile::tempdir().unwrap();
        let inner = root.path().join("closed/inner");
        fs::create_dir_all(&inner).unwrap();
        fs::set_permissions(root.path(), fs::Permissions::from_mode(0o755)).unwrap();
        fs::set_permissions(root.path().join("closed"), fs::Permissions::from_mode(0o700)).unwrap();
        let account =
            Account { name: "somebody".into(), uid: 54_321, gid: 54_321, switch: Switch::AlreadyThat };
        assert!(account.check_way_to(&root.path().join("closed")).is_ok());
        match account.check_way_to(&inner) {
            Err(PostgresError::Unreachable { folder, .. }) => assert_eq!(folder, root.path().join("closed")),
            other => panic!("{other:?}"),
        }
    }
}
