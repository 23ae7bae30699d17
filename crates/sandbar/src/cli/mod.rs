//! The commands for users of a platform: they speak to its REST API and nothing else.

mod archive;
mod attach;
mod context;
mod cp;
mod endpoint;
mod host;
mod life;
mod logs;
mod network;
mod pairs;
mod run;
mod sandbox;
mod secret;
mod shell;
mod snapshot;
mod table;
mod template;
mod volume;

pub(crate) use cp::CpArgs;
pub(crate) use endpoint::EndpointArgs;
pub(crate) use host::HostArgs;
pub(crate) use run::RunArgs;
pub(crate) use sandbox::SandboxArgs;
pub(crate) use secret::SecretArgs;
pub(crate) use snapshot::SnapshotArgs;
pub(crate) use template::TemplateArgs;
pub(crate) use volume::VolumeArgs;

/// How `run`, `exec` end where it is not the command's own code that counts. As `timeout` and container tools have it.
pub(crate) mod exit {
    /// The command ran longer than `--timeout`.
    pub(crate) const TIMED_OUT: u8 = 124;
    /// Sandbar could not run it.
    pub(crate) const FAILED: u8 = 125;
    /// Another program that the output went to has ended (128 + SIGPIPE).
    pub(crate) const OUTPUT_CLOSED: u8 = 141;
    /// A signal ended the command in the sandbox.
    pub(crate) const KILLED_INSIDE: u8 = 255;
}
