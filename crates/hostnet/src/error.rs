//! What can go wrong with networks.

use crate::SlotIndex;

/// A failure of the host's network.
#[derive(Debug, thiserror::Error)]
pub enum NetError {
    /// A tag is not four hexadecimal digits.
    #[error("{text:?} is no network tag: four of 0-9a-f are expected")]
    BadTag {
        /// What was given.
        text: String,
    },
    /// The slot was not taken, or was given back before.
    #[error("slot {0} is not in use")]
    NotInUse(SlotIndex),
}
