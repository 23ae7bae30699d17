//! Which server binaries to run: those of the data folder's major version, else the newest.

use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::PostgresError;

/// The variable that names the folder of the server binaries, where they are in none of the usual places.
pub const BIN_VARIABLE: &str = "SANDBAR_POSTGRES_BIN";

/// A folder with `postgres` and `initdb`, of one major version.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Binaries {
    /// The folder.
    pub folder: PathBuf,
    /// The major version.
    pub major: u32,
}

impl Binaries {
    /// The newest installed.
    ///
    /// # Errors
    /// [`PostgresError::NoBinaries`] when none is.
    pub fn newest() -> Result<Self, PostgresError> {
        let mut all = Self::installed()?;
        // `installed` gives at least one.
        Ok(all.swap_remove(0))
    }

    /// Those that can serve a data folder of major version `data`; the newest when there is no folder yet.
    pub(crate) fn serving(data_dir: &Path, data: Option<u32>) -> Result<Self, PostgresError> {
        let Some(data) = data else { return Self::newest() };
        let all = Self::installed()?;
        all.iter().find(|binaries| binaries.major == data).cloned().ok_or_else(|| {
            PostgresError::VersionMismatch {
                data_dir: data_dir.to_owned(),
                data,
                installed: all.iter().map(|binaries| binaries.major).collect(),
            }
        })
    }

    pub(crate) fn program(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }

    /// All that are installed, newest first, at least one.
    fn installed() -> Result<Vec<Self>, PostgresError> {
        let looked_in = match env::var_os(BIN_VARIABLE) {
            Some(folder) => vec![PathBuf::from(folder)],
            None => usual_folders(),
        };
        let mut found: Vec<Self> = looked_in.iter().filter_map(|folder| Self::look_in(folder)).collect();
        found.sort_by_key(|binaries| std::cmp::Reverse(binaries.major));
        found.dedup_by_key(|binaries| binaries.major);
        if found.is_empty() { Err(PostgresError::NoBinaries { looked_in }) } else { Ok(found) }
    }

    fn look_in(folder: &Path) -> Option<Self> {
        if !folder.join("initdb").is_file() {
            return None;
        }
        let output =
            Command::new(folder.join("postgres")).arg("--version").stdin(Stdio::null()).output().ok()?;
        let major = major_version(std::str::from_utf8(&output.stdout).ok()?)?;
        Some(Self { folder: folder.to_owned(), major })
    }
}

/// Debian's and Red Hat's folders of parallel versions, then the search path.
fn usual_folders() -> Vec<PathBuf> {
    let mut folders = Vec::new();
    for (parent, prefix, suffix) in [("/usr/lib/postgresql", "", "bin"), ("/usr", "pgsql-", "bin")] {
        let Ok(entries) = fs::read_dir(parent) else { continue };
        for entry in entries.flatten() {
            let name = entry.file_name();
            let version = name.to_str().and_then(|name| name.strip_prefix(prefix));
            if version.is_some_and(|version| version.parse::<u32>().is_ok()) {
                folders.push(entry.path().join(suffix));
            }
        }
    }
    if let Some(path) = env::var_os("PATH") {
        folders.extend(env::split_paths(&path));
    }
    folders
}

/// Reads `postgres (PostgreSQL) 15.14 (Debian 15.14-0+deb12u1)`, `... 18beta1`, `... 17devel`.
fn major_version(text: &str) -> Option<u32> {
    let version = text.strip_prefix("postgres (PostgreSQL) ")?;
    let digits = version.find(|c: char| !c.is_ascii_digit()).unwrap_or(version.len());
    version.get(..digits)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_the_version_that_postgres_prints() {
        for (text, major) in [
            ("postgres (PostgreSQL) 15.14 (Debian 15.14-0+deb12u1)\n", Some(15)),
            ("postgres (PostgreSQL) 18beta1\n", Some(18)),
            ("postgres (PostgreSQL) 17devel\n", Some(17)),
            ("postgres (PostgreSQL) \n", None),
            ("mysqld 9\n", None),
        ] {
            assert_eq!(major_version(text), major, "{text}");
        }
    }
}
