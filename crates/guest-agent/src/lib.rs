//! The guest agent: what the host and E2B's SDKs talk to inside a sandbox.
//!
//! - `server` puts the routes together, `auth` guards them all, `cors` lets browsers in, `init` makes the guest one
//!   particular sandbox.
//! - `process` is the service `process.Process`: starting, following and signalling processes.
//! - `files` moves whole files over plain HTTP, `filesystem` is the service `filesystem.Filesystem`: folders, entries and
//!   watches.
//! - `state` survives a restart of the agent; processes do not know the agent and go on.
//! - `ready` tells the host that the guest is up.
//!
//! It runs as root under `sandbar-init` (the other binary of this package), in images of any kind: static, with no name
//! service, no shell and no file of the image needed except `/etc/passwd`.

pub mod auth;
mod caller;
mod cors;
pub mod error;
mod files;
mod filesystem;
pub mod init;
mod keepalive;
pub mod metrics;
pub mod options;
pub mod paths;
pub mod process;
pub mod ready;
pub mod server;
pub mod state;
pub mod system;
pub mod users;
