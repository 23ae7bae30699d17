//! One prepared network.

use std::{net::Ipv4Addr, path::PathBuf};

use tokio::net::TcpListener;

use crate::{NetError, SlotIndex};

/// A prepared network for one sandbox. A plain description: dropping it changes nothing, [`Pool::release`](crate::Pool::release)
/// gives it back.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Slot {
    /// Its number, to be recorded.
    pub index: SlotIndex,
    /// The namespace's file, to be entered by the VMM (`/run/netns/NAME`).
    pub netns: PathBuf,
    /// Name of the TAP device in the namespace.
    pub tap: String,
    /// The address at which the host reaches the guest, any port.
    pub host_ip: Ipv4Addr,
}

impl Slot {
    /// A listener on the address and port to which the guest pushes its readiness. Bound inside the namespace; it serves whatever
    /// thread polls it.
    pub async fn ready_listener(&self) -> Result<TcpListener, NetError> {
        todo!()
    }
}
