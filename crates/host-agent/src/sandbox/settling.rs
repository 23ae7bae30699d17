//! Work on a paused sandbox's files after the pause: checksums, and mending what lies in many pieces.

use std::sync::Arc;

use sandbar_storage::{MOST_PIECES, Store};
use sandbar_types::id::{Id, Sandbox};
use tokio::task::JoinHandle;
use tokio_util::sync::{CancellationToken, DropGuard};

use crate::error::{Error, chain};
use crate::resources::{Resources, blocking};

/// Work on the files of a pause that nobody waits for. Dropped, it ends at the next opportunity; what it does until then concerns
/// nobody any more, since it works in the folder of that one pause.
pub(super) struct Settling {
    work: JoinHandle<Option<u64>>,
    _stop: DropGuard,
}

impl Settling {
    /// Begins it. One sandbox's files at a time: it has all the time there is, and the disk is everybody's.
    pub(super) fn begin(resources: Arc<Resources>, id: Id<Sandbox>) -> Self {
        let stop = CancellationToken::new();
        let stopped = stop.clone();
        let work = tokio::spawn(async move {
            let turn = tokio::select! {
                biased;
                () = stopped.cancelled() => return None,
                turn = resources.settling.acquire() => turn,
            };
            let store = resources.store.clone();
            let go_on = move || !stopped.is_cancelled();
            let settled = blocking("settle the pause", move || settle(&store, id, &go_on)).await;
            drop(turn);
            settled.unwrap_or_else(|error| {
                tracing::warn!(sandbox = %id, error = chain(&error), "the files of a pause are not settled");
                None
            })
        });
        Self { work, _stop: stop.drop_guard() }
    }

    /// Completes when the work is done, with how much disk the pause then takes. For ever, where there is none.
    pub(super) async fn done(settling: &mut Option<Self>) -> Option<u64> {
        let Some(under_way) = settling else { return std::future::pending().await };
        let bytes = (&mut under_way.work).await.unwrap_or_default();
        *settling = None;
        bytes
    }
}

fn settle(store: &Store, id: Id<Sandbox>, go_on: &(dyn Fn() -> bool + Sync)) -> Result<Option<u64>, Error> {
    if !go_on() {
        return Ok(None);
    }
    let Some(settled) = store.settle_paused(id, MOST_PIECES, go_on)? else { return Ok(None) };
    if !settled.rewritten.is_empty() {
        tracing::info!(sandbox = %id, files = ?settled.rewritten, "files in many pieces rewritten");
    }
    Ok(Some(store.paused(id)?.own_bytes()?))
}
