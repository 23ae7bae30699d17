//! The RPC contracts, and the code generated from them (large, so it is a crate of its own that rarely rebuilds).
//!
//! - [`process`] and [`filesystem`]: what the guest agent serves. Names and JSON forms are E2B's, so that E2B's SDKs work
//!   against it unmodified; see `proto/process/process.proto`.
//! - [`sandbar::host::v1`]: what the host agent serves to the control plane.
//!
//! Nothing else lives here: no logic, no conversions.

#[expect(missing_docs, reason = "generated: the contracts' comments are in the .proto files")]
#[allow(
    clippy::all,
    clippy::semicolon_if_nothing_returned,
    clippy::allow_attributes,
    clippy::allow_attributes_without_reason,
    unreachable_pub,
    unused_qualifications,
    reason = "generated code, not held to our style"
)]
mod generated {
    connectrpc::include_generated!();
}

pub use generated::*;

/// The host agent's service.
pub use generated::sandbar::host::v1 as host;
