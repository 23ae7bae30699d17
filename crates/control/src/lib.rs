//! What the control plane can do, one file per resource. HTTP lives in `crates/api`, SQL in `crates/store`; this crate decides.
//!
//! - [`Control`] is the one handle; its methods are written in the file of the resource that they act on.
//! - Every operation takes an [`OpContext`] first: who asks, under which request id.
//! - Authorization happens at lookup: [`Control::sandbox_get`] hands back a [`Sandbox`], which nothing outside this crate can
//!   make, and every operation on a sandbox asks for one.
//! - People act on teams by [`access`], which reads what they are in them from the database.
//! - Work of several steps ([`sandboxes`]) undoes what it did when a step fails; what a killed control plane leaves behind is
//!   finished by [`reconcile`].

pub mod access;
pub mod api_keys;
mod audit;
pub mod audit_trail;
pub mod auth;
pub mod bootstrap;
pub mod builds;
pub mod certificates;
pub mod config;
pub mod context;
mod control;
mod figures;
pub mod host_client;
pub mod hosts;
mod housekeeping;
mod last_use;
mod news;
pub mod oauth;
mod operation;
pub mod page;
pub mod people;
pub mod pki;
pub mod quotas;
pub mod reconcile;
mod reported;
pub mod sandboxes;
mod scheduler;
pub mod secrets;
pub mod snapshots;
pub mod stats;
pub mod tags;
pub mod team_secrets;
pub mod teams;
pub mod templates;
pub mod traffic;
mod transfer;
pub mod usage;
pub mod volumes;

pub use config::Config;
pub use context::{Actor, OpContext};
pub use control::{Control, ShuttingDown, StartError};
pub use page::{Cursor, Page, PageRequest};
pub use people::Client;
pub use sandboxes::Sandbox;
pub use transfer::Kept;
