//! Templates on their way between hosts, and to and from object storage.
//!
//! ```text
//!   host A ────────read a part──► control plane ──write the part──► host B            a few parts at a time
//!   object storage ─────────────►               ──────────────────► object storage
//! ```
//!
//! The control plane carries the parts, so that no host may ask another for anything: what one has is not in danger from the others, a
//! team's own hosts among them. A fetch is a claim in the database ([`sandbar_store::transfers`]), which one control plane holds and moves on;
//! all who wait for it in this process share it. It goes on when nobody waits any more.
//!
//! - `fetch`: who fetches, who waits, what it comes to.
//! - `carry`: one template from one place to one host, as much of it as is lacking.
//! - `bucket`: object storage. Only the control plane has credentials for it.
//! - `keep`: what is copied there in the background, and deleted; `pauses`: paused sandboxes among it.

mod bucket;
mod carry;
mod fetch;
mod keep;
mod pauses;

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

use sandbar_types::Id;
use sandbar_types::id::{Host, Template};
use tokio::sync::watch;

pub(crate) use bucket::{Bucket, BucketError};
pub use bucket::{InvalidSnapshotStore, SnapshotStore};
pub(crate) use fetch::{Awaited, FetchFault};
pub use keep::Kept;

type Key = (Id<Template>, Id<Host>);
type Outcome = Option<Result<(), FetchFault>>;

/// The fetches that this control plane is at, or waits for.
#[derive(Default)]
pub(crate) struct Fetches {
    running: Mutex<HashMap<Key, watch::Receiver<Outcome>>>,
}

impl Fetches {
    /// Joins a fetch, or begins it: then whoever asks carries it out and tells what came of it.
    fn join(&self, key: Key) -> (watch::Receiver<Outcome>, Option<watch::Sender<Outcome>>) {
        let mut running = self.running.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(fetch) = running.get(&key) {
            return (fetch.clone(), None);
        }
        let (sender, receiver) = watch::channel(None);
        running.insert(key, receiver.clone());
        (receiver, Some(sender))
    }

    fn end(&self, key: Key) {
        self.running.lock().unwrap_or_else(PoisonError::into_inner).remove(&key);
    }
}
