//! `sandbar down`: stops the `sandbar up` of a data folder.

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context as _, bail};
use clap::Args;
use rustix::process::Signal;
use tokio::time::timeout;

use crate::data_dir::{self, DataDir};
use crate::process::Process;
use crate::up::lock;

/// How long the platform may take to stop, after which somebody has to look.
const LIMIT: Duration = Duration::from_secs(120);

/// Stop the platform that `sandbar up` runs on this machine
///
/// Requests that are under way end, then the control plane, the host agent and PostgreSQL stop. Sandboxes that run go on running, and the
/// next `sandbar up` takes them up again: destroy them before if they are to go.
#[derive(Debug, Args)]
pub(crate) struct DownArgs {
    /// Data folder of the platform
    #[arg(long, env = "SANDBAR_DATA_DIR", value_name = "FOLDER", default_value = data_dir::DEFAULT)]
    data_dir: PathBuf,
}

impl DownArgs {
    pub(crate) async fn run(self) -> anyhow::Result<ExitCode> {
        let path = DataDir::at(&self.data_dir).lock();
        let Some(holder) = lock::holder(&path)? else {
            println!("No `sandbar up` runs on {}.", self.data_dir.display());
            return Ok(ExitCode::SUCCESS);
        };
        let pid = holder.pid;
        let stopping = || format!("cannot stop process {pid}");
        let process = Process::open(pid).with_context(stopping)?;
        // Now that the process cannot be mistaken for another: is it still the one that holds the lock?
        let still = lock::holder(&path)?.is_some_and(|holder| holder.pid == pid);
        if let Some(process) = process.filter(|_| still) {
            process.signal(Signal::TERM).with_context(stopping)?;
            match timeout(LIMIT, process.ended()).await {
                Ok(ended) => ended.with_context(stopping)?,
                Err(_) => bail!("process {pid} has not stopped after {} s; see its log", LIMIT.as_secs()),
            }
        }
        println!("Stopped.");
        Ok(ExitCode::SUCCESS)
    }
}
