//! What can go wrong with networks.

use std::{io, path::PathBuf, sync::Arc};

use ipnet::Ipv4Net;

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
    /// Something else on the host uses the addresses.
    #[error(
        "the sandboxes' network {network} overlaps {route}, which the host reaches through {device}: configure another one"
    )]
    NetworkTaken {
        /// The configured network.
        network: Ipv4Net,
        /// What it overlaps.
        route: Ipv4Net,
        /// Through which device that is reached.
        device: String,
    },
    /// The network has no addresses for another slot.
    #[error("the sandboxes' network {network} has no addresses left: all of its {slots} slots are taken")]
    Exhausted {
        /// The configured network.
        network: Ipv4Net,
        /// How many slots fit in.
        slots: usize,
    },
    /// The slot was not taken, or was given back before.
    #[error("slot {0} is not in use")]
    NotInUse(SlotIndex),
    /// The pool was shut down.
    #[error("the pool of network slots is closed")]
    Closed,
    /// A slot was needed and could not be made.
    #[error("no network slot can be made")]
    Unavailable(#[source] Arc<NetError>),
    /// The kernel refused a change of devices, addresses or routes.
    #[error("cannot {action}")]
    Netlink {
        /// What was tried.
        action: String,
        /// The kernel's reason.
        source: rtnetlink::Error,
    },
    /// A system call failed.
    #[error("cannot {action}")]
    System {
        /// What was tried.
        action: String,
        /// The system's reason.
        source: io::Error,
    },
    /// A kernel setting could not be written.
    #[error("cannot set {path}")]
    Setting {
        /// The setting.
        path: PathBuf,
        /// The system's reason.
        source: io::Error,
    },
    /// `nft` refused the rules.
    #[error("nft refused the rules: {complaint}")]
    Rules {
        /// What it said.
        complaint: String,
    },
    /// What `nft` says of a table cannot be understood.
    #[error("nft's account of a table cannot be read")]
    Account(#[source] serde_json::Error),
    /// The thread that works in a namespace ended without an answer.
    #[error("the work in a network namespace was not finished")]
    ThreadLost,
}

impl NetError {
    pub(crate) fn netlink(action: impl Into<String>) -> impl FnOnce(rtnetlink::Error) -> Self {
        move |source| Self::Netlink { action: action.into(), source }
    }

    pub(crate) fn system(action: impl Into<String>) -> impl FnOnce(io::Error) -> Self {
        move |source| Self::System { action: action.into(), source }
    }
}
