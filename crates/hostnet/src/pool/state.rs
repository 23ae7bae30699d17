//! Which slots are free, taken or under work, and when another one should be made: decisions without I/O.

use std::{
    collections::{BTreeSet, VecDeque},
    sync::Arc,
    time::Duration,
};

use tokio::time::Instant;

use crate::{NetError, SlotIndex};

/// After a slot was taken from a pool that is at least half full: until it is replaced. Its taker is starting a machine, which
/// needs the processor for some hundred milliseconds where it is emulated, and whose TAP comes to life only when the kernel's lock on
/// all networks is free.
const QUIET: Duration = Duration::from_secs(1);

/// What a pool knows.
#[derive(Debug, Default)]
pub(super) struct State {
    pub(super) free: VecDeque<SlotIndex>,
    pub(super) in_use: BTreeSet<SlotIndex>,
    /// Being made or removed, or impossible to remove.
    pub(super) busy: BTreeSet<SlotIndex>,
    pub(super) building: usize,
    /// Callers that found no free slot.
    pub(super) waiting: usize,
    next: u16,
    /// When a slot was last taken from the free ones.
    pub(super) taken: Option<Instant>,
    pub(super) failures: u64,
    pub(super) last_failure: Option<Arc<NetError>>,
    pub(super) closed: bool,
}

impl State {
    /// A pool that starts with these slots in use.
    pub(super) fn adopting(in_use: BTreeSet<SlotIndex>) -> Self {
        Self { in_use, ..Self::default() }
    }

    /// Whether another slot should be made now.
    pub(super) fn wants_more(&self, pool_size: usize) -> bool {
        !self.closed && self.free.len() + self.building < pool_size + self.waiting
    }

    /// Until when making slots ahead would only disturb.
    pub(super) fn quiet_until(&self, pool_size: usize) -> Option<Instant> {
        let stocked = self.free.len() + self.building >= pool_size.div_ceil(2);
        self.taken.filter(|_| stocked).map(|taken| taken + QUIET)
    }

    /// A number that nothing has, going round.
    pub(super) fn unused(&mut self, capacity: usize) -> Option<SlotIndex> {
        (0..capacity).find_map(|_| {
            let index = SlotIndex(self.next);
            let following = usize::from(self.next) + 1;
            self.next = u16::try_from(following % capacity).unwrap_or(0);
            let taken =
                self.busy.contains(&index) || self.in_use.contains(&index) || self.free.contains(&index);
            (!taken).then_some(index)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_go_round_and_skip_what_is_taken() {
        let mut state = State::default();
        state.in_use.insert(SlotIndex(1));
        state.busy.insert(SlotIndex(2));
        state.free.push_back(SlotIndex(4));
        let mut seen = Vec::new();
        for _ in 0..4 {
            seen.push(state.unused(5).unwrap().0);
        }
        assert_eq!(seen, [0, 3, 0, 3]);
        state.busy.extend([SlotIndex(0), SlotIndex(3)]);
        assert_eq!(state.unused(5), None);
        assert_eq!(State::default().unused(0), None);
    }

    #[test]
    fn more_is_wanted_for_the_pool_and_for_each_who_waits() {
        let mut state = State::default();
        assert!(!state.wants_more(0));
        assert!(state.wants_more(2));
        state.free.push_back(SlotIndex(0));
        state.building = 1;
        assert!(!state.wants_more(2));
        state.waiting = 1;
        assert!(state.wants_more(2));
        state.closed = true;
        assert!(!state.wants_more(2));
    }

    #[tokio::test]
    async fn a_slot_that_was_taken_is_replaced_at_once_only_if_few_are_left() {
        let taken = Instant::now();
        let mut state = State { taken: Some(taken), ..State::default() };
        state.free.extend([SlotIndex(0), SlotIndex(1)]);
        assert_eq!(state.quiet_until(4), Some(taken + QUIET));
        assert_eq!(state.quiet_until(5), None);
        state.taken = None;
        assert_eq!(state.quiet_until(4), None);
    }
}
