//! A Redis server for one test: the distribution's own, on a socket in a folder of its own, keeping nothing on disk.

use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::Context as _;

/// How long a server may take to listen on a machine that is busy.
const START_LIMIT: Duration = Duration::from_secs(30);
/// Time between two looks whether it does.
const LOOK: Duration = Duration::from_millis(10);

/// See the module. Dropping it ends the server.
#[derive(Debug)]
pub struct RedisServer {
    folder: tempfile::TempDir,
    child: Child,
}

impl RedisServer {
    /// Starts one.
    ///
    /// # Panics
    /// When it cannot be started: a test cannot go on without.
    #[must_use]
    pub fn start() -> Self {
        let folder = tempfile::tempdir().expect("a folder for Redis");
        let child = run(&folder).unwrap_or_else(|error| panic!("no Redis: {error:#}"));
        Self { folder, child }
    }

    /// Where it is.
    #[must_use]
    pub fn url(&self) -> String {
        format!("redis+unix://{}", socket(&self.folder).display())
    }

    /// Kills it, and starts one at the same place that knows nothing.
    ///
    /// # Panics
    /// As [`Self::start`].
    pub fn lose_everything(&mut self) {
        self.end();
        self.child = run(&self.folder).unwrap_or_else(|error| panic!("no Redis: {error:#}"));
    }

    fn end(&mut self) {
        // It may have ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Drop for RedisServer {
    fn drop(&mut self) {
        self.end();
    }
}

fn socket(folder: &tempfile::TempDir) -> PathBuf {
    folder.path().join("redis.sock")
}

fn run(folder: &tempfile::TempDir) -> anyhow::Result<Child> {
    let socket = socket(folder);
    // Of a server that was killed.
    let _ = std::fs::remove_file(&socket);
    let mut child = Command::new("redis-server")
        .args(["--port", "0", "--save", "", "--appendonly", "no", "--unixsocket"])
        .arg(&socket)
        .arg("--dir")
        .arg(folder.path())
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .spawn()
        .context("start redis-server: `scripts/install-deps.sh test` installs it")?;
    let until = Instant::now() + START_LIMIT;
    while std::os::unix::net::UnixStream::connect(&socket).is_err() {
        if let Some(status) = child.try_wait()? {
            anyhow::bail!("redis-server ended: {status}");
        }
        anyhow::ensure!(Instant::now() < until, "redis-server does not listen");
        std::thread::sleep(LOOK);
    }
    Ok(child)
}
