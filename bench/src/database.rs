//! A database of the benchmark's own, for what no platform has at hand: a year of samples, a fleet of a thousand hosts.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt as _;

use anyhow::{Context as _, Result};
use sandbar_postgres::{DATABASE, Durability, Options, Server};

/// Starts a server, measures with its address, and removes it.
pub(crate) async fn with_scratch<T>(measure: impl AsyncFnOnce(&str) -> Result<T>) -> Result<T> {
    let folder = std::env::temp_dir().join(format!("sandbar-bench-{}", std::process::id()));
    fs::create_dir_all(&folder)?;
    // The server is another user's, and what is in there is closed by itself.
    fs::set_permissions(&folder, Permissions::from_mode(0o755))?;
    let options = Options::in_folder(&folder, Durability::Off);
    let server = Server::start(&options).await.context("cannot start PostgreSQL")?;
    let measured = measure(&server.url(DATABASE)).await;
    server.stop().await.context("cannot stop PostgreSQL")?;
    fs::remove_dir_all(&folder)?;
    measured
}
