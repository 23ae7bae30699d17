//! The store and what is in it, against real filesystems and real packages: run as root.

#[path = "../fixture/mod.rs"]
mod fixture;
mod guest_system;
mod store;
