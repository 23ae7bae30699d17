//! Holds what should exist (rows) against what does (hosts' inventories). Runs in every replica; an advisory lock per host keeps
//! two from doing it at once.
//!
//! - [`judge`]: the verdict, pure. All rules are there.
//! - `host`: one round for one host: rows first, then the inventory, then the verdict is carried out.
//! - `settle`: how a row becomes what its machine is, and who is told.
//! - `templates`: what hosts owe of the templates that are no more.
//! - `volumes`: the same of volumes.
//! - `provision`: what new hosts lack of the platform's own template.
//! - `monitor`: when rounds run (by signal and by timer), hosts that fell silent, rows that no host has.
//!
//! The order matters: rows are read before the host is asked. A sandbox that is created in between is in the inventory and not in
//! the rows, and is looked up a second time; the other way round it would be taken for an orphan. Writes are guarded by the
//! generation that was read, so a row that changed meanwhile is left alone.

mod host;
mod judge;
mod monitor;
mod provision;
mod settle;
mod templates;
mod volumes;

use std::collections::BTreeSet;
use std::sync::{Mutex, PoisonError};

use sandbar_types::Id;
use sandbar_types::id::Host;
use tokio::sync::Notify;

pub use host::{ReconcileError, ReconcileReport};

/// Hosts whose rows should be held against their inventory soon. Asking twice before it is done is asking once.
#[derive(Default)]
pub(crate) struct Wanted {
    hosts: Mutex<BTreeSet<Id<Host>>>,
    added: Notify,
}

impl Wanted {
    pub(crate) fn add(&self, host: Id<Host>) {
        self.hosts.lock().unwrap_or_else(PoisonError::into_inner).insert(host);
        self.added.notify_one();
    }

    /// Waits until there are some, and takes them.
    async fn take(&self) -> BTreeSet<Id<Host>> {
        loop {
            let added = self.added.notified();
            let hosts = std::mem::take(&mut *self.hosts.lock().unwrap_or_else(PoisonError::into_inner));
            if !hosts.is_empty() {
                return hosts;
            }
            added.await;
        }
    }
}
