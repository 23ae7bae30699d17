//! The pool of slots.

use crate::{NetConfig, NetError, Slot, SlotIndex};

/// How many slots there are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Counts {
    /// Prepared and free.
    pub free: usize,
    /// Taken.
    pub in_use: usize,
}

/// Prepared slots. Cheap to clone; all clones are one pool.
#[derive(Debug, Clone)]
pub struct Pool {}

impl Pool {
    /// Opens the pool: adopts the slots `in_use` (making anew what is missing of them), removes every other leftover of the tag, and
    /// prepares free slots in the background.
    pub async fn open(config: NetConfig, in_use: &[SlotIndex]) -> Result<Self, NetError> {
        todo!("{config:?} {in_use:?}")
    }

    /// A slot: a prepared one at once if there is one, else one that is made now.
    pub async fn take(&self) -> Result<Slot, NetError> {
        todo!()
    }

    /// The description of a slot in use, for a sandbox that was found in the journal.
    #[must_use]
    pub fn slot(&self, index: SlotIndex) -> Option<Slot> {
        todo!("{index}")
    }

    /// Gives a slot back. Only once its VMM is gone, since the next one to take the index is somebody else.
    pub async fn release(&self, index: SlotIndex) -> Result<(), NetError> {
        todo!("{index}")
    }

    /// How many slots there are.
    #[must_use]
    pub fn counts(&self) -> Counts {
        todo!()
    }

    /// Stops preparing and removes the free slots. Slots in use stay as they are.
    pub async fn shutdown(&self) -> Result<(), NetError> {
        todo!()
    }
}
