//! What an operator can set about the control plane's behaviour. The defaults are what production wants; tests shorten them.

use std::time::Duration;

use sandbar_store::hosts::Limits;
pub use sandbar_store::sign_in::Allowance;
use sandbar_types::PerResource;

pub use crate::builds::BuildConfig;
use crate::oauth::OAuthConfig;
pub use crate::scheduler::{Scheduling, UnknownPolicy};
pub use crate::transfer::{InvalidSnapshotStore, SnapshotStore};

/// See the module.
#[derive(Debug, Clone)]
pub struct Config {
    /// How long one host may take to make a sandbox. Shorter than `operation_deadline`, so that a create ends by itself.
    pub create_deadline: Duration,
    /// How long one host may take to end a sandbox. Shorter than `operation_deadline`.
    pub destroy_deadline: Duration,
    /// How long one host may take to pause a sandbox. A guest that wrote much takes seconds; a pause that takes longer still goes on
    /// there and is found out of the host's inventory. Shorter than `operation_deadline`, as are the next three.
    pub pause_deadline: Duration,
    /// How long one host may take to resume a sandbox.
    pub resume_deadline: Duration,
    /// How long one host may take to make or resume a sandbox that has to boot. Shorter than `operation_deadline`.
    pub boot_deadline: Duration,
    /// How long one host may take to keep a sandbox as a template.
    pub snapshot_deadline: Duration,
    /// How long one host may take to fork a sandbox, all children together.
    pub fork_deadline: Duration,
    /// How long a host may take to read and check all files of a template.
    pub verify_deadline: Duration,
    /// How long one host may take for a short question (ping, inventory).
    pub call_deadline: Duration,
    /// How long a host that is suspected not to answer may take to tell its health.
    pub probe_deadline: Duration,
    /// How long a host may take to boot an image and keep it as a template. Software emulation takes minutes.
    pub template_deadline: Duration,
    /// How long a create waits for the template's files where its host has to get them first. They arrive although it does not wait.
    pub fetch_wait: Duration,
    /// After this long in a transitional state, a sandbox is taken over by the reconciler, so that no row is in one for over a minute.
    pub operation_deadline: Duration,
    /// How much of a host's memory may be promised to sandboxes, in percent. Above 100, since clones of one snapshot share
    /// the pages that they have not written; the host itself refuses what does not fit.
    pub memory_promise_percent: u32,
    /// The same of its processors: most sandboxes wait for something most of the time.
    pub vcpus_promise_percent: u32,
    /// The same of its disk: clones of one template share all that they have not written.
    pub disk_promise_percent: u32,
    /// How hosts are chosen for new sandboxes.
    pub scheduling: Scheduling,
    /// How templates are built.
    pub builds: BuildConfig,
    /// How the reconciler and the monitor behave.
    pub monitor: MonitorConfig,
    /// How long a sign-in lasts.
    pub session_life: Duration,
    /// How often one account may be signed in to, or one person's password be asked for.
    pub sign_ins_by_account: Allowance,
    /// How often one address may sign in or up.
    pub sign_ins_by_address: Allowance,
    /// Time between two writings of when keys and sign-ins were last used.
    pub last_use_interval: Duration,
    /// How long the audit trail is kept; none = for ever.
    pub audit_retention: Option<Duration>,
    /// What a team may have for which nothing else was set.
    pub default_quotas: PerResource<u64>,
    /// The largest volume that may be made, in MiB.
    pub largest_volume_mb: u32,
    /// Where copies of snapshots and pauses are kept.
    pub snapshot_store: Option<SnapshotStore>,
    /// The name below which sandboxes have names of their own.
    pub domain: Option<String>,
    /// Where else people may sign in.
    pub oauth: Option<OAuthConfig>,
}

impl Config {
    /// How much of a host may be promised.
    pub(crate) const fn limits(&self) -> Limits {
        Limits {
            memory: self.memory_promise_percent,
            vcpus: self.vcpus_promise_percent,
            disk: self.disk_promise_percent,
        }
    }
}

/// How rows and hosts are held together.
#[derive(Debug, Clone)]
pub struct MonitorConfig {
    /// Time between two rounds.
    pub interval: Duration,
    /// A host that was silent for this long is unreachable.
    pub unreachable_after: Duration,
    /// A virtual machine that the database does not know is destroyed at this age.
    pub orphan_grace: Duration,
    /// At most so many sandboxes of one host are given up, and at most so many unknown machines destroyed, in one round,
    /// unless a second listing in a row says the same of the sandboxes. A host whose journal was mounted late must not
    /// cost a fleet.
    pub mass_limit: usize,
}

/// Enough for a team's daily work, and little enough that one that runs away leaves room for others.
const DEFAULT_QUOTAS: PerResource<u64> = PerResource {
    sandboxes: 100,
    vcpus: 200,
    memory_mb: 204_800,
    snapshots: 500,
    builds: 10,
    secrets: 200,
    volumes: 100,
    volume_mb: 1_048_576,
};

impl Default for Config {
    fn default() -> Self {
        Self {
            create_deadline: Duration::from_secs(40),
            destroy_deadline: Duration::from_secs(30),
            pause_deadline: Duration::from_secs(50),
            resume_deadline: Duration::from_secs(40),
            boot_deadline: Duration::from_secs(50),
            snapshot_deadline: Duration::from_secs(50),
            fork_deadline: Duration::from_secs(50),
            verify_deadline: Duration::from_secs(900),
            call_deadline: Duration::from_secs(10),
            probe_deadline: Duration::from_secs(5),
            template_deadline: Duration::from_secs(900),
            fetch_wait: Duration::from_secs(30),
            operation_deadline: Duration::from_secs(55),
            memory_promise_percent: 200,
            vcpus_promise_percent: 3200,
            disk_promise_percent: 1000,
            scheduling: Scheduling::default(),
            builds: BuildConfig::default(),
            monitor: MonitorConfig::default(),
            session_life: Duration::from_secs(6 * 3600),
            sign_ins_by_account: Allowance { burst: 10, refill: Duration::from_secs(30) },
            sign_ins_by_address: Allowance { burst: 50, refill: Duration::from_secs(5) },
            last_use_interval: Duration::from_secs(30),
            audit_retention: None,
            default_quotas: DEFAULT_QUOTAS,
            largest_volume_mb: 102_400,
            snapshot_store: None,
            domain: None,
            oauth: None,
        }
    }
}

impl Default for MonitorConfig {
    fn default() -> Self {
        Self {
            interval: Duration::from_secs(30),
            unreachable_after: Duration::from_secs(90),
            orphan_grace: Duration::from_secs(60),
            mass_limit: 10,
        }
    }
}
