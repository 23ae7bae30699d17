//! The store and what is in it, against real filesystems and real packages: run as root.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking, also outside of its test function")]

#[path = "../fixture/mod.rs"]
mod fixture;
mod full;
mod guest_system;
mod paused;
mod store;
mod transfer;
mod volumes;
