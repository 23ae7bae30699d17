//! The store against a real PostgreSQL: one program, so that it is linked once.

#![expect(clippy::unwrap_used, reason = "what is unwrapped here is what the test asserts")]

mod audit;
mod builds;
mod hosts;
mod listen;
mod people;
mod quotas;
mod sandboxes;
mod schema;
mod snapshots;
mod stats;
mod support;
mod tags;
mod usage;
