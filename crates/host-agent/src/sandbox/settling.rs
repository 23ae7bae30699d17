//! Work on a sandbox's files that nobody waits for: checksums of what a pause kept, and mending what lies in many pieces.

use std::path::PathBuf;
use std::sync::Arc;

use sandbar_storage::{MOST_PIECES, MemoryCopy, Store};
use sandbar_types::id::{Id, Sandbox};
use tokio::task::JoinHandle;
use tokio_util::sync::{CancellationToken, DropGuard};

use crate::error::{Error, chain};
use crate::resources::{Resources, blocking};

/// Work under way on the files of one pause, or of one run. Dropped, it ends at the next opportunity, and nothing comes of it.
pub(super) struct Settling {
    work: JoinHandle<Option<Settled>>,
    _stop: DropGuard,
}

/// What came of it.
pub(super) enum Settled {
    /// A pause's files are as they should be, and take so much disk.
    Pause(u64),
    /// What the running machine's next pause is to be cloned from.
    Memory(MemoryCopy),
}

impl Settling {
    /// Begins on the files of a pause.
    pub(super) fn of_pause(resources: Arc<Resources>, id: Id<Sandbox>) -> Self {
        Self::begin(resources, id, move |store, go_on| settle_pause(store, id, go_on))
    }

    /// Begins on the memory image of a machine that runs.
    pub(super) fn of_machine(resources: Arc<Resources>, id: Id<Sandbox>, image: PathBuf) -> Self {
        Self::begin(resources, id, move |store, go_on| {
            Ok(store.copy_memory(id, &image, MOST_PIECES, go_on)?.map(Settled::Memory))
        })
    }

    /// One sandbox's files at a time: it has all the time there is, and the disk is everybody's.
    fn begin(
        resources: Arc<Resources>,
        id: Id<Sandbox>,
        settle: impl FnOnce(&Store, GoOn) -> Result<Option<Settled>, Error> + Send + 'static,
    ) -> Self {
        let stop = CancellationToken::new();
        let stopped = stop.clone();
        let work =
            tokio::spawn(async move {
                let turn = tokio::select! {
                    biased;
                    () = stopped.cancelled() => return None,
                    turn = resources.settling.acquire() => turn,
                };
                let store = resources.store.clone();
                let go_on = move || !stopped.is_cancelled();
                let settled = blocking("settle a sandbox's files", move || {
                    if go_on() { settle(&store, &go_on) } else { Ok(None) }
                });
                let settled = settled.await;
                drop(turn);
                settled.unwrap_or_else(|error| {
                    tracing::warn!(sandbox = %id, error = chain(&error), "a sandbox's files are not settled");
                    None
                })
            });
        Self { work, _stop: stop.drop_guard() }
    }

    /// Completes when the work is done. For ever, where there is none.
    pub(super) async fn done(settling: &mut Option<Self>) -> Option<Settled> {
        let Some(under_way) = settling else { return std::future::pending().await };
        let settled = (&mut under_way.work).await.unwrap_or_default();
        *settling = None;
        settled
    }
}

type GoOn<'a> = &'a (dyn Fn() -> bool + Sync);

fn settle_pause(store: &Store, id: Id<Sandbox>, go_on: GoOn) -> Result<Option<Settled>, Error> {
    let Some(settled) = store.settle_paused(id, MOST_PIECES, go_on)? else { return Ok(None) };
    if !settled.rewritten.is_empty() {
        tracing::info!(sandbox = %id, files = ?settled.rewritten, "files in many pieces rewritten");
    }
    Ok(Some(Settled::Pause(store.paused(id)?.own_bytes()?)))
}
