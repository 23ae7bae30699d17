//! Slots in real namespaces with real packets. Needs root, iproute2 and nftables.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]
#![expect(clippy::cast_possible_truncation, reason = "a tag has room for a part of the process's number")]

mod egress;
mod names;
mod slots;
mod world;
