//! Sandboxes: what a caller may ask of one, and why it is refused.
//!
//! Each operation is a file: `create`, `destroy` (and ping), `elsewhere` (a resume on another host), `exec`, `files`, `lookup`, `pause`, `resume`, `fork`, `deadline`,
//! `logs`, `metrics`, `network`, `processes`, `settled`, `started`,
//! `terminal`, `tree`, `volumes` (which a sandbox is made with); `change` is what those have in common that take time and may fail half way. A [`Sandbox`] is an authorized one: only
//! lookups in this crate make it.

mod change;
mod create;
mod deadline;
mod destroy;
mod elsewhere;
mod error;
mod exec;
mod files;
mod fork;
mod logs;
mod lookup;
mod metrics;
mod network;
mod pause;
mod processes;
mod resume;
mod settled;
mod started;
mod terminal;
mod tree;
mod validate;
mod volumes;

use std::collections::BTreeMap;
use std::net::Ipv4Addr;

use chrono::{DateTime, Utc};
use sandbar_store::hosts::Demand;
use sandbar_types::id::{Host, Team, Template};
use sandbar_types::{Id, Ingress, NetworkPolicy, SandboxStatus, TemplateName, TimeoutFrom, VolumeMount, id};
use serde::Serialize;

pub(crate) use change::{Change, return_to};
pub use deadline::{Extent, NewDeadline};
pub(crate) use error::CallSite;
pub use error::{NoHostReason, SandboxError, VolumeHostReason};
pub use exec::{
    Command, ExecEvent, ExecInput, ExecOutput, ExecResult, ExecStream, ExecStreamOptions, OnClose, Stdin,
    TerminalOutput,
};
pub use files::{FileContents, FileTarget, FileWritten, WriteCondition};
pub use fork::NewFork;
pub use logs::{LogBrokeOff, LogEntry, LogFilter, LogFollower, LogPage, LogQuery};
pub use lookup::SandboxFilter;
pub use metrics::SandboxMetrics;
pub(crate) use metrics::keep_last;
pub use network::{DenialReason, DeniedAddress, DeniedName, SandboxNetwork};
pub use processes::Process;
pub use resume::{Awakening, Resume};
pub use sandbar_types::{OnTimeout, PauseMode};
pub use settled::Entered;
pub use started::{StartOrder, StartedFilter};
pub use terminal::{ProcessRef, TerminalSize};
pub use tree::{Entry, EntryKind};
pub use validate::InvalidSandbox;
pub(crate) use validate::secret_names as check_secret_names;

/// A sandbox that the caller may act on, as it was when it was looked up.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
#[expect(missing_docs, reason = "the names are the API's own")]
pub struct Sandbox {
    pub id: Id<id::Sandbox>,
    pub team_id: Id<Team>,
    pub template_id: Id<Template>,
    pub status: SandboxStatus,
    pub template: TemplateName,
    pub vcpus: u32,
    pub memory_mb: u32,
    pub disk_mb: u32,
    pub timeout_sec: u32,
    pub on_timeout: OnTimeout,
    pub timeout_from: TimeoutFrom,
    /// What is kept of it, where it is paused.
    pub pause_mode: Option<PauseMode>,
    pub network: NetworkPolicy,
    pub metadata: BTreeMap<String, String>,
    pub host_id: Option<Id<Host>>,
    pub(crate) host_address: Option<String>,
    pub guest_ip: Option<Ipv4Addr>,
    pub host_ip: Option<Ipv4Addr>,
    pub created_at: DateTime<Utc>,
    pub started_at: Option<DateTime<Utc>>,
    pub last_active_at: Option<DateTime<Utc>>,
    pub expires_at: Option<DateTime<Utc>>,
    pub updated_at: DateTime<Utc>,
    /// Why it ended, where it did not end by request.
    pub status_reason: Option<String>,
    pub ingress: Ingress,
    /// Whether object storage has all of the pause that it is in: its host may be lost.
    pub durable: bool,
    pub volumes: Vec<VolumeMount>,
}

impl Sandbox {
    /// What it takes of its host.
    pub(crate) const fn demand(&self) -> Demand {
        Demand { memory_mb: self.memory_mb, vcpus: self.vcpus, disk_mb: self.disk_mb }
    }
}

/// What a caller asks for. `None` = the default.
#[derive(Debug, Clone, Default, Serialize)]
#[expect(missing_docs, reason = "the names are the API's own")]
pub struct NewSandbox {
    pub template: Option<String>,
    /// Which of the template's builds; none = `default`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tag: Option<String>,
    pub vcpus: Option<u32>,
    pub memory_mb: Option<u32>,
    pub disk_mb: Option<u32>,
    pub timeout_sec: Option<u32>,
    pub on_timeout: Option<OnTimeout>,
    pub timeout_from: Option<TimeoutFrom>,
    pub metadata: BTreeMap<String, String>,
    pub env: BTreeMap<String, String>,
    /// Names of secrets, by the variable that each is the value of.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub secrets: BTreeMap<String, String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub volumes: Vec<NewMount>,
    pub network: Option<NetworkRules>,
    pub ingress: Ingress,
}

/// A volume that a sandbox is to have.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct NewMount {
    /// Its name, or its id.
    pub volume: String,
    /// Where in the guest: an absolute path.
    pub path: String,
}

/// Egress rules of a sandbox.
#[derive(Debug, Clone, Default, Serialize)]
pub struct NetworkRules {
    /// Addresses, ranges and domains that may be reached.
    pub allow_out: Vec<String>,
    /// Addresses, ranges and domains that may not.
    pub deny_out: Vec<String>,
    /// Whether the internet may be reached at all.
    pub allow_internet: Option<bool>,
}

/// Names one attempt to create, so that a client whose answer was lost may ask again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IdempotencyKey(String);

impl IdempotencyKey {
    /// Most characters of a key.
    pub const MAX_LEN: usize = 255;
}

impl std::str::FromStr for IdempotencyKey {
    type Err = InvalidSandbox;

    fn from_str(text: &str) -> Result<Self, InvalidSandbox> {
        let fits = (1..=Self::MAX_LEN).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_graphic());
        if fits { Ok(Self(text.to_owned())) } else { Err(InvalidSandbox::IdempotencyKey) }
    }
}
