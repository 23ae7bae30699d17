//! A PostgreSQL server of a test's own, for what nobody may do to the one that all share: kill it.

use std::fs::{self, File};
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::str::FromStr as _;

use rustix::process::{Pid, Signal, kill_process};
use sandbar_postgres::{DATABASE, Durability, Options, Server};
use sqlx::postgres::PgConnectOptions;
use tempfile::TempDir;

use crate::TestDatabase;

/// What the names of servers' temporary folders start with. Those of killed runs are found by it.
pub const FOLDER_PREFIX: &str = "sandbar-test-postgres-";
/// The file whose lock says that a folder is in use.
pub const FOLDER_LOCK: &str = "lock";

/// A folder for a server, in use for as long as the file is open.
///
/// # Errors
/// What the operating system refuses.
pub fn make_folder(parent: &Path) -> std::io::Result<(TempDir, File)> {
    let folder = tempfile::Builder::new().prefix(FOLDER_PREFIX).tempdir_in(parent)?;
    // The server runs as another user, who must get in. What is in there is closed by itself.
    fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o755))?;
    let lock = File::create(folder.path().join(FOLDER_LOCK))?;
    lock.try_lock()?;
    Ok((folder, lock))
}

/// See the module. What is committed is on the disk, as with a server that matters.
#[derive(Debug)]
pub struct OwnServer {
    options: Options,
    server: Option<Server>,
    url: String,
    _folder: TempDir,
    _lock: File,
}

impl OwnServer {
    /// Starts one in a folder that goes with it.
    ///
    /// # Panics
    /// When it cannot be started: a test cannot go on without. So do the others.
    pub async fn start() -> Self {
        let (folder, lock) = make_folder(&std::env::temp_dir()).expect("a folder for a server");
        let options = Options::in_folder(folder.path(), Durability::On);
        let server = Server::start(&options).await.unwrap_or_else(|error| panic!("no server: {error}"));
        let url = server.url(DATABASE);
        Self { options, server: Some(server), url, _folder: folder, _lock: lock }
    }

    /// A fresh, migrated database.
    pub async fn database(&self) -> TestDatabase {
        let server = PgConnectOptions::from_str(&self.url);
        TestDatabase::on(server.unwrap_or_else(|error| panic!("{}: {error}", self.url))).await
    }

    /// SIGKILL. What it was at is cut off anywhere.
    pub async fn kill(&mut self) {
        let mut server = self.server.take().expect("it runs");
        signal(&server);
        server.ended().await.unwrap_or_else(|error| panic!("its end is not seen: {error}"));
    }

    /// Starts it again after that.
    pub async fn start_again(&mut self) {
        let server = Server::start(&self.options).await;
        self.server = Some(server.unwrap_or_else(|error| panic!("it does not start again: {error}")));
    }
}

impl Drop for OwnServer {
    fn drop(&mut self) {
        // Its children end with it.
        if let Some(server) = &self.server {
            signal(server);
        }
    }
}

fn signal(server: &Server) {
    if let Some(pid) = Pid::from_raw(server.pid()) {
        // It may have ended by itself.
        let _gone = kill_process(pid, Signal::KILL);
    }
}
