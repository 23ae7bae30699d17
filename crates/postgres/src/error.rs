//! What can go wrong with a private server, in words for the person at the terminal.

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Why there is no server.
#[derive(Debug, thiserror::Error)]
pub enum PostgresError {
    /// No folder holds both `postgres` and `initdb`.
    #[error(
        "no PostgreSQL server binaries found (looked in {}): install the package `postgresql`, or set {} to the folder \
         that holds `postgres` and `initdb`, or set DATABASE_URL to use a server of your own",
        list(.looked_in), crate::BIN_VARIABLE
    )]
    NoBinaries {
        /// The folders that were tried.
        looked_in: Vec<PathBuf>,
    },

    /// The data folder belongs to a major version that is not installed.
    #[error(
        "{} was made by PostgreSQL {data}, but only {} is installed: install PostgreSQL {data}'s server package, or \
         upgrade the folder with pg_upgrade",
        .data_dir.display(), list_numbers(.installed)
    )]
    VersionMismatch {
        /// The data folder.
        data_dir: PathBuf,
        /// Its major version.
        data: u32,
        /// The major versions found.
        installed: Vec<u32>,
    },

    /// Root may not run the server, and there is no user to run it as.
    #[error(
        "PostgreSQL does not run as root, and this machine has no user `{wanted}`: install the package `postgresql`, or make the user"
    )]
    NoAccount {
        /// The user that was looked for.
        wanted: &'static str,
    },

    /// The server's user cannot get to a folder that it needs.
    #[error("user `{account}` cannot enter {}: run `chmod o+x` on it, or choose another data folder", .folder.display())]
    Unreachable {
        /// The first folder on the way that is closed.
        folder: PathBuf,
        /// The server's user.
        account: String,
    },

    /// The data folder holds something else.
    #[error("{} is not empty and is no PostgreSQL data folder: move it away, or choose another data folder", .data_dir.display())]
    NotADataFolder {
        /// The folder.
        data_dir: PathBuf,
    },

    /// A unix socket's path has an upper bound, set by the kernel.
    #[error("the socket's path {} is longer than the {limit} bytes that the system allows: choose a shorter data folder", .path.display())]
    SocketPathTooLong {
        /// The socket.
        path: PathBuf,
        /// The bound.
        limit: usize,
    },

    /// A program of PostgreSQL's ended with an error.
    #[error("{program} failed ({status}): {output}")]
    Program {
        /// Which one.
        program: &'static str,
        /// How it ended.
        status: std::process::ExitStatus,
        /// What it said.
        output: String,
    },

    /// The server ended while it was starting.
    #[error("the PostgreSQL server ended while starting; its log {} ends with:\n{tail}", .log_file.display())]
    Ended {
        /// Its log.
        log_file: PathBuf,
        /// The log's last lines.
        tail: String,
    },

    /// The server runs, but did not become ready.
    #[error("the PostgreSQL server of {} was not ready after {} s; see {}", .data_dir.display(), .waited.as_secs(), .log_file.display())]
    NotReady {
        /// The data folder.
        data_dir: PathBuf,
        /// How long it was waited for.
        waited: Duration,
        /// Its log.
        log_file: PathBuf,
    },

    /// The operating system refused something.
    #[error("cannot {what} {}", .path.display())]
    Io {
        /// What was tried.
        what: &'static str,
        /// On what.
        path: PathBuf,
        /// The refusal.
        source: io::Error,
    },
}

impl PostgresError {
    /// For `map_err`: the operating system refused `what` on `path`.
    pub(crate) fn io<E: Into<io::Error>>(what: &'static str, path: &Path) -> impl FnOnce(E) -> Self {
        let path = path.to_owned();
        move |source| Self::Io { what, path, source: source.into() }
    }
}

fn list(folders: &[PathBuf]) -> String {
    folders.iter().map(|folder| folder.display().to_string()).collect::<Vec<_>>().join(", ")
}

fn list_numbers(versions: &[u32]) -> String {
    versions.iter().map(u32::to_string).collect::<Vec<_>>().join(", ")
}
