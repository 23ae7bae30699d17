//! The agent as a real process, driven over real HTTP. Run as root: commands switch users, and one test fills a disk.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod access;
mod exec;
mod files;
mod filesystem;
mod harness;
mod input;
mod log;
mod network_mounts;
mod output;
mod protocol;
mod restart;
mod snapshot;
mod soak;
mod tunnel;
mod uploads;
mod watch;
mod watched_trees;
mod web;
