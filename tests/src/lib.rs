//! What the end-to-end tests stand on: a platform to start, stop and break, the ways to talk to it, and a census of what it has
//! on this machine.
//!
//! - [`platform`]: one `sandbar up` with its own folder, ports and network.
//! - [`census`]: processes, mounts, namespaces and folders that belong to it; and their removal.
//! - [`client`], [`stream`]: its REST API and its WebSocket, as a user sees them.
//! - [`cli`]: its command line.
//! - [`sandbox`]: a sandbox that goes when its test does.
//! - [`wait`]: waiting for a condition, with a deadline.
//!
//! The tests are in `e2e/`. Nothing here knows the platform's insides beyond what an operator can see: files, processes, HTTP.

pub mod census;
pub mod cli;
pub mod client;
pub mod platform;
pub mod sandbox;
pub mod stream;
pub mod wait;

pub use cli::Cli;
pub use client::{Client, Reply};
pub use platform::Platform;
pub use sandbox::Sandbox;
pub use stream::ExecSocket;
