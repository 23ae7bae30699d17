//! Network slots: what a sandbox is plugged into.
//!
//! A slot is one network namespace with a TAP for the guest and a veth pair to the host, and the rules that say what may pass. Slots
//! are prepared ahead and kept in a [`Pool`], so that starting a sandbox takes one and pays nothing. What lives here: names,
//! addresses, devices, rules, and the pool that owns them. What does not: VMMs, sandboxes, journals.
//!
//! ```text
//!   host                                     namespace sb-TAG-N                        guest
//!   uplink   table sandbar_TAG               table sandbar
//!     |                                                                               eth0
//!     +---- sbTAGN ======= veth0 (host_ip) --------- tap0 (172.30.0.1) ============= 172.30.0.2
//!           host end           |  DNAT host_ip -> guest, only from the host end        |
//!                              |  SNAT to 172.30.0.1 towards the guest                 |
//!                              |  SNAT to host_ip outwards; private ranges refused     |
//! ```
//!
//! What a guest may reach is decided by its slot's rules, which [`Egress`] replaces while it runs: see there for the order of decisions.
//!
//! The guest has the same address in every slot, so a snapshot runs in any of them. The host reaches it at the slot's `host_ip`,
//! and appears to it as its gateway.
//!
//! Everything that a pool makes carries its tag in its name, so platforms with different tags and networks share a machine without
//! touching each other, and whatever a dead one left is found by name.

mod config;
mod egress;
mod error;
mod host;
mod netlink;
mod netns;
mod plan;
mod pool;
mod rules;
mod shaping;
mod slot;
mod tap;

pub use config::{NetConfig, SlotIndex, Tag, Uplink};
pub use egress::{Denials, DeniedAddress, DeniedName, Egress, Reason};
pub use error::NetError;
pub use pool::{Counts, Pool};
pub use slot::Slot;
