//! The guest agent: what the host and E2B's SDKs talk to inside a sandbox.
//!
//! - `server` puts the routes together, `auth` guards them all, `cors` lets browsers in, `init` makes the guest one
//!   particular sandbox.
//! - `snapshot` seals the guest while it is copied, `connections` ends what a copy remembers of its source's.
//! - `process` is the service `process.Process`: starting, following and signalling processes.
//! - `confinement` keeps those processes from taking the machine away from the agent.
//! - `tunnel` leads to ports that are open inside the sandbox only.
//! - `files` moves whole files over plain HTTP, `filesystem` is the service `filesystem.Filesystem`: folders, entries and
//!   watches.
//! - `unpack` is a program of its own beside the agent: files out of an archive, for builds.
//! - `volume` has the kernel mount disks of the host.
//! - `log` tells the host what happened: processes, what they wrote, and what went wrong.
//! - `state` survives a restart of the agent; processes do not know the agent and go on.
//! - `ready` tells the host that the guest is up, or that its agent had to be started again.
//!
//! It runs as root under `sandbar-init` (the other binary of this package), in images of any kind: static, with no name
//! service, no shell and no file of the image needed except `/etc/passwd`.

pub mod auth;
mod caller;
pub mod confinement;
mod connections;
mod cors;
pub mod error;
mod files;
mod filesystem;
#[cfg(test)]
mod fuzz;
pub mod init;
mod keepalive;
pub mod log;
pub mod metrics;
pub mod options;
pub mod paths;
pub mod process;
pub mod ready;
mod refusal;
pub mod server;
mod snapshot;
pub mod state;
pub mod system;
mod traced;
mod tunnel;
pub mod unpack;
pub mod users;
mod volume;
