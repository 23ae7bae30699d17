//! The `firecracker` driver: KVM alone, every machine in a jail of its own.
//!
//! `version` says which releases will do, `jail` which files a machine has, `jailer` how it is started.
//! `requests` is the published API as far as it is used, `api` speaks it, `configuration` says what a machine is, `driver` starts and
//! adopts processes, `machine` speaks to one.
//!
//! In its jail every machine has the same names: `/disk.ext4`, `/memory`, `/state`, and its TAP's name is of its network namespace.
//! So a saved state, which holds the names, is good for any number of machines at once.

mod api;
mod configuration;
mod driver;
mod jail;
mod jailer;
mod machine;
mod requests;
mod version;

pub use api::ApiError;
pub use driver::{FirecrackerOptions, FirecrackerVmm};
pub use jail::remove_abandoned;
pub use version::Version;

pub(crate) use configuration::probe_file;
pub(crate) use jail::{RootFolder, machines_in};
