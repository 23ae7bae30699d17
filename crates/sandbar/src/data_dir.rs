//! The data folder of `sandbar up`: where everything in it is.
//!
//! ```text
//! <data-dir>/            0711: the database's user passes through, nobody looks around
//!   up.lock              held by the running `sandbar up`; says who that is
//!   first-run.json       the first admin's sign-in and API key
//!   local-host.json      the id under which this machine is registered
//!   control/builds/       archives that clients brought for builds, where there is no object storage
//!   control/master.key   seals the secrets that the database holds
//!   tls/                 certificates of --domain; ca.pem is for clients
//!   postgres/            the private database
//!   host/                the host agent's: journal, credentials, disks
//!   log/                 up.log, host-agent.log, postgres.log
//! ```

use std::fs;
use std::io::{self, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use anyhow::Context as _;

/// Where everything is, unless `--data-dir` says otherwise.
pub(crate) const DEFAULT: &str = "/var/lib/sandbar";

/// See the module.
#[derive(Debug, Clone)]
pub(crate) struct DataDir(PathBuf);

impl DataDir {
    pub(crate) fn at(path: &Path) -> Self {
        Self(path.to_owned())
    }

    /// Makes the folders; they may exist.
    pub(crate) fn create(path: &Path) -> anyhow::Result<Self> {
        let make = |path: &Path, mode| {
            let made = fs::DirBuilder::new().recursive(true).mode(mode).create(path);
            made.with_context(|| format!("cannot make the folder {}", path.display()))
        };
        make(path, 0o711)?;
        let path =
            path.canonicalize().with_context(|| format!("cannot use the folder {}", path.display()))?;
        let folders = Self(path);
        for passed in [folders.postgres(), folders.tls()] {
            make(&passed, 0o711)?;
        }
        for private in [folders.control(), folders.host(), folders.logs()] {
            make(&private, 0o700)?;
        }
        Ok(folders)
    }

    pub(crate) fn path(&self) -> &Path {
        &self.0
    }

    pub(crate) fn lock(&self) -> PathBuf {
        self.0.join("up.lock")
    }

    pub(crate) fn first_run(&self) -> PathBuf {
        self.0.join("first-run.json")
    }

    pub(crate) fn local_host(&self) -> PathBuf {
        self.0.join("local-host.json")
    }

    fn control(&self) -> PathBuf {
        self.0.join("control")
    }

    pub(crate) fn master_key(&self) -> PathBuf {
        self.control().join("master.key")
    }

    pub(crate) fn build_files(&self) -> PathBuf {
        self.control().join("builds")
    }

    pub(crate) fn tls(&self) -> PathBuf {
        self.0.join("tls")
    }

    pub(crate) fn postgres(&self) -> PathBuf {
        self.0.join("postgres")
    }

    pub(crate) fn host(&self) -> PathBuf {
        self.0.join("host")
    }

    fn logs(&self) -> PathBuf {
        self.0.join("log")
    }

    pub(crate) fn log(&self, of: &str) -> PathBuf {
        self.logs().join(format!("{of}.log"))
    }
}

/// Opens a log for appending; only root reads it.
pub(crate) fn open_log(path: &Path) -> anyhow::Result<fs::File> {
    let opened = fs::File::options().create(true).append(true).mode(0o600).open(path);
    opened.with_context(|| format!("cannot open the log {}", path.display()))
}

/// The last `bytes` of a log, from the start of a line.
pub(crate) fn tail(path: &Path, bytes: usize) -> String {
    let contents = fs::read(path).unwrap_or_default();
    let start = contents.len().saturating_sub(bytes);
    let text = String::from_utf8_lossy(contents.get(start..).unwrap_or_default()).into_owned();
    let text = match text.split_once('\n') {
        Some((_, rest)) if start > 0 => rest,
        _ => &text,
    };
    text.trim_end().to_owned()
}

/// Replaces a file that only its owner may read: all of it or nothing, also when the power goes.
pub(crate) fn replace_private(path: &Path, contents: &[u8]) -> io::Result<()> {
    let mut temporary = path.as_os_str().to_owned();
    temporary.push(format!(".new-{}", std::process::id()));
    let temporary = PathBuf::from(temporary);
    let write = || -> io::Result<()> {
        let mut file =
            fs::File::options().write(true).create(true).truncate(true).mode(0o600).open(&temporary)?;
        file.write_all(contents)?;
        file.sync_all()?;
        fs::rename(&temporary, path)?;
        fs::File::open(path.parent().unwrap_or(Path::new("/")))?.sync_all()
    };
    write().inspect_err(|_| {
        // The error that is told is the first one.
        let _ = fs::remove_file(&temporary);
    })
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    #[test]
    fn a_private_file_is_replaced_whole_and_leaves_nothing_beside_it() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("secret.json");
        replace_private(&path, b"a long first content").unwrap();
        replace_private(&path, b"second").unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"second");
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
        // Where it cannot be replaced, what was there stays, and nothing is left beside it.
        fs::remove_file(&path).unwrap();
        fs::create_dir(&path).unwrap();
        assert!(replace_private(&path, b"third").is_err());
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
    }

    #[test]
    fn the_folder_lets_the_databases_user_through_and_nobody_in() {
        let folder = tempfile::tempdir().unwrap();
        let data = DataDir::create(&folder.path().join("sandbar")).unwrap();
        DataDir::create(data.path()).unwrap();
        let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!(mode(data.path()), 0o711);
        assert_eq!(mode(&data.postgres()), 0o711);
        assert_eq!(mode(&data.host()), 0o700);
        assert_eq!(mode(data.master_key().parent().unwrap()), 0o700);
    }

    #[test]
    fn a_tail_starts_with_a_whole_line() {
        let folder = tempfile::tempdir().unwrap();
        let log = folder.path().join("log");
        fs::write(&log, "one\ntwo\nthree\n").unwrap();
        assert_eq!(tail(&log, 1000), "one\ntwo\nthree");
        assert_eq!(tail(&log, 8), "three");
        assert_eq!(tail(&folder.path().join("none"), 8), "");
    }
}
