//! The warm pool: machines that are restored before anybody asks for them.
//!
//! ```text
//!             keeper                         claim (one winner)
//!   (nothing) ─────► made ───► ready on its ─────────────────────► a sandbox, from its identity on like any other
//!                      │ failed    shelf
//!                      ▼             │ surplus, memory short, template gone, agent ends
//!                  (nothing) ◄───────┘
//! ```
//!
//! - A spare belongs to no team, has no record, is in no inventory, and stands still ([`spare`]).
//! - How many there are follows recent demand and the host's memory ([`watermark`]); the first create of a template is cold.
//! - One task makes and ends them ([`keeper`]), when no create is under way and none was for a moment: a burst's own machines need
//!   the processor more.
//! - A claim takes a spare off its shelf under one lock. If that spare turns out broken it is ended, and the create starts cold.

mod keeper;
mod spare;
mod watermark;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use chrono::{DateTime, Utc};
use sandbar_types::id::{Id, Template};
use tokio::sync::Notify;
use tokio::time::Instant;

pub(crate) use keeper::keep;
pub(crate) use spare::Spare;
use watermark::Demand;
pub use watermark::{NoWarmPool, WarmPool};

/// The shelves of spares, one for each template.
pub(crate) struct Spares {
    pool: WarmPool,
    /// What of the host's memory spares leave to others, in MiB.
    floor_mb: u64,
    // Held for moves and sums only, never across an await.
    state: Mutex<State>,
    /// Tells the keeper that there may be work.
    changed: Notify,
}

struct State {
    shelves: BTreeMap<Id<Template>, Shelf>,
    /// Off their shelves, to be ended.
    discarded: Vec<Spare>,
    /// Creates under way.
    creates: usize,
    /// Since when there is none.
    quiet_since: Instant,
    hits: u64,
    misses: u64,
}

/// One template's spares, all of one make of it.
struct Shelf {
    edition: DateTime<Utc>,
    memory_mb: u32,
    demand: Demand,
    ready: Vec<Spare>,
}

/// How the pool does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Counts {
    /// Spares that are ready.
    pub(crate) spares: usize,
    /// Creates that found one.
    pub(crate) hits: u64,
    /// Creates that did not.
    pub(crate) misses: u64,
}

/// A create that is under way.
pub(crate) struct Busy<'a>(&'a Spares);

impl Spares {
    pub(crate) fn new(pool: WarmPool, floor_mb: u64) -> Arc<Self> {
        let state = State {
            shelves: BTreeMap::new(),
            discarded: Vec::new(),
            creates: 0,
            quiet_since: Instant::now(),
            hits: 0,
            misses: 0,
        };
        Arc::new(Self { pool, floor_mb, state: Mutex::new(state), changed: Notify::new() })
    }

    /// A create begins; nothing is made ahead until it has ended.
    pub(crate) fn busy(&self) -> Busy<'_> {
        self.state().creates += 1;
        Busy(self)
    }

    /// A spare of this make of a template of this size, if there is one: it is the caller's. Counts as demand either way.
    pub(crate) fn claim(
        &self,
        template: Id<Template>,
        edition: DateTime<Utc>,
        memory_mb: u32,
    ) -> Option<Spare> {
        if self.pool == WarmPool::Off {
            return None;
        }
        let mut guard = self.state();
        let State { shelves, discarded, hits, misses, .. } = &mut *guard;
        let shelf = shelves.entry(template).or_insert_with(|| Shelf::new(edition, memory_mb));
        if shelf.edition != edition {
            let stale = std::mem::replace(shelf, Shelf::new(edition, memory_mb));
            discarded.extend(stale.ready);
        }
        shelf.demand.note(Instant::now());
        let spare = shelf.ready.pop();
        *(if spare.is_some() { hits } else { misses }) += 1;
        drop(guard);
        // A machine that starts cold may need the memory that spares take.
        self.changed.notify_one();
        spare
    }

    /// A template is there no more, or not as it was. Its spares end soon; nobody gets one from now on.
    pub(crate) fn forget(&self, template: Id<Template>) {
        let mut state = self.state();
        if let Some(shelf) = state.shelves.remove(&template) {
            state.discarded.extend(shelf.ready);
            drop(state);
            self.changed.notify_one();
        }
    }

    pub(crate) fn counts(&self) -> Counts {
        let state = self.state();
        let spares = state.shelves.values().map(|shelf| shelf.ready.len()).sum();
        Counts { spares, hits: state.hits, misses: state.misses }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // Every change is complete before anything can panic.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Shelf {
    fn new(edition: DateTime<Utc>, memory_mb: u32) -> Self {
        Self { edition, memory_mb, demand: Demand::default(), ready: Vec::new() }
    }
}

impl Drop for Busy<'_> {
    fn drop(&mut self) {
        let mut state = self.0.state();
        state.creates -= 1;
        if state.creates == 0 {
            state.quiet_since = Instant::now();
            drop(state);
            self.0.changed.notify_one();
        }
    }
}
