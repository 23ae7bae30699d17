//! What guests need on this machine's disk: the store, the kernel, the base image. All of it is kept from start to start.
//!
//! This is blocking work that runs other programs for minutes at a first start. It is done on a thread of its own, and can be
//! given up: its programs are killed, and what they left half-made is removed by the code that ran them.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context as _;
use rustix::process::{Pid, Signal, kill_process};
use sandbar_host_agent::Config;
use sandbar_storage::{
    BaseImageOptions, DebianSource, Progress as _, Store, StoreKind, StoreOptions, build_base_image,
    prepare_kernel,
};
use tokio::task::JoinHandle;
use tokio::time::timeout;
use tracing::warn;

use super::progress::{Detail, Progress};
use crate::guest_binaries::GUEST_BINARIES;

/// Between two looks whether the work has ended, once it is being given up.
const GIVING_UP_TICK: Duration = Duration::from_millis(100);
/// How long giving up may take. What is left then is swept by the next start.
const GIVING_UP_LIMIT: Duration = Duration::from_secs(20);

/// The work, on its thread.
#[derive(Debug)]
pub(super) struct Preparation(JoinHandle<anyhow::Result<()>>);

impl Preparation {
    pub(super) fn begin(host_dir: &Path, options: StoreOptions, detail: Detail) -> Self {
        let dir = Config::store_dir(host_dir);
        Self(tokio::task::spawn_blocking(move || prepare(&dir, &options, &detail)))
    }

    /// Waits for its end. May be given up and waited for again.
    pub(super) async fn ended(&mut self) -> anyhow::Result<()> {
        (&mut self.0).await.context("the preparation broke")?
    }

    /// Ends it, if it has not ended by itself.
    pub(super) async fn give_up(mut self) {
        let giving_up = async {
            while !self.0.is_finished() {
                kill_children();
                // It may be between two programs, or removing what it made.
                let _ = timeout(GIVING_UP_TICK, &mut self.0).await;
            }
        };
        if timeout(GIVING_UP_LIMIT, giving_up).await.is_err() {
            warn!("the preparation does not end; what it leaves is swept by the next start");
        }
    }
}

/// Shows the progress of a preparation, and keeps it in `slot` for as long as it goes on.
pub(super) async fn run(
    slot: &mut Option<Preparation>,
    progress: Progress,
    host_dir: PathBuf,
    options: StoreOptions,
) -> anyhow::Result<()> {
    progress
        .detailed_step("preparing the guest's kernel and base image", |detail| async move {
            slot.insert(Preparation::begin(&host_dir, options, detail)).ended().await?;
            *slot = None;
            Ok(())
        })
        .await
}

fn prepare(dir: &Path, options: &StoreOptions, detail: &Detail) -> anyhow::Result<()> {
    detail.step("opening the store");
    let store =
        Store::open(dir, options).with_context(|| format!("cannot use the store {}", dir.display()))?;
    if let StoreKind::FullCopy { .. } = store.kind() {
        warn!(
            "the store cannot clone files by reference: every sandbox starts with a full copy of its disk (see `sandbar doctor`)"
        );
    }
    let source = DebianSource::detect()?;
    prepare_kernel(&store, GUEST_BINARIES, &source, detail).context("cannot make the guest's kernel")?;
    build_base_image(&store, &BaseImageOptions::new(source), detail).context("cannot make the base image")?;
    Ok(())
}

/// Kills the programs that this process runs. Called once nothing else of this process's is left to be a child.
fn kill_children() {
    let Ok(threads) = fs::read_dir("/proc/self/task") else { return };
    for thread in threads.flatten() {
        let children = fs::read_to_string(thread.path().join("children")).unwrap_or_default();
        for pid in children.split_whitespace().filter_map(|pid| pid.parse().ok()).filter_map(Pid::from_raw) {
            // It may have ended by itself: until it is reaped its pid is not reused, and it is reaped by the thread that waits for
            // it, which then has nothing more to run.
            let _ = kill_process(pid, Signal::KILL);
        }
    }
}
