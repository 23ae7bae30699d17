//! Finds processes by pid or tag, and keeps ended ones for a while, so that a late caller still learns how they ended.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use super::output::Memory;
use super::running::Process;
use crate::log::Log;

/// How long an ended process can still be asked for.
const KEPT_FOR: Duration = Duration::from_secs(30);
/// How many ended processes are kept at most, and how much output of them.
const KEPT_COUNT: usize = 64;
const KEPT_BYTES: usize = 4 << 20;

/// What a caller means.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Selector {
    Pid(u32),
    Tag(String),
}

/// The processes that were started through the agent. Cheap to clone: all clones are one table.
#[derive(Clone)]
pub struct ProcessTable {
    shared: Arc<Mutex<Shared>>,
    stall_limit: Duration,
    memory: Arc<Memory>,
    log: Arc<Log>,
}

#[derive(Default)]
struct Shared {
    by_pid: BTreeMap<u32, Arc<Process>>,
    /// In the order in which they ended.
    ended: VecDeque<(Instant, Arc<Process>)>,
}

impl ProcessTable {
    /// An empty table. Readers of its processes may stand still for `stall_limit` before they lose output; what they do is told to
    /// `log`.
    pub fn new(stall_limit: Duration, log: Arc<Log>) -> Self {
        Self { shared: Arc::default(), stall_limit, memory: Arc::default(), log }
    }

    pub(super) fn stall_limit(&self) -> Duration {
        self.stall_limit
    }

    pub(super) fn memory(&self) -> &Memory {
        &self.memory
    }

    pub(crate) fn log(&self) -> &Arc<Log> {
        &self.log
    }

    fn lock(&self) -> MutexGuard<'_, Shared> {
        let mut shared = self.shared.lock().unwrap_or_else(PoisonError::into_inner);
        shared.expire(Instant::now());
        shared
    }

    pub(super) fn insert(&self, process: Arc<Process>) {
        // A pid is only given out again once its last owner was reaped: that one gives way.
        self.lock().by_pid.insert(process.pid, process);
    }

    pub(super) fn retire(&self, process: &Arc<Process>) {
        let mut shared = self.lock();
        shared.ended.push_back((Instant::now(), Arc::clone(process)));
        shared.expire(Instant::now());
    }

    /// The process that is meant: of several with one tag a running one first, then the youngest.
    pub(super) fn find(&self, selector: &Selector) -> Option<Arc<Process>> {
        let shared = self.lock();
        match selector {
            Selector::Pid(pid) => shared.by_pid.get(pid).cloned(),
            Selector::Tag(tag) => shared
                .by_pid
                .values()
                .filter(|process| process.tag.as_ref() == Some(tag))
                .max_by_key(|process| (process.is_running(), process.started))
                .cloned(),
        }
    }

    /// Those that still run.
    pub(super) fn running(&self) -> Vec<Arc<Process>> {
        self.lock().by_pid.values().filter(|process| process.is_running()).cloned().collect()
    }
}

impl Shared {
    fn expire(&mut self, now: Instant) {
        let mut kept: usize = self.ended.iter().map(|(_, process)| process.output.held()).sum();
        while let Some((ended, oldest)) = self.ended.front() {
            let over = self.ended.len() > KEPT_COUNT || kept > KEPT_BYTES;
            if !over && now.saturating_duration_since(*ended) < KEPT_FOR {
                return;
            }
            kept = kept.saturating_sub(oldest.output.held());
            let Some((_, oldest)) = self.ended.pop_front() else { return };
            // Its pid may have a new owner by now.
            if self.by_pid.get(&oldest.pid).is_some_and(|current| Arc::ptr_eq(current, &oldest)) {
                self.by_pid.remove(&oldest.pid);
            }
        }
    }
}
