//! The two static binaries that run in every guest, embedded at build time (see `build.rs`).

use sandbar_storage::GuestBinaries;

/// Both of them.
pub(crate) const GUEST_BINARIES: GuestBinaries<'static> = GuestBinaries {
    init: include_bytes!(concat!(env!("OUT_DIR"), "/sandbar-init")),
    agent: include_bytes!(concat!(env!("OUT_DIR"), "/sandbar-guest-agent")),
};
