//! Hosts: how they come in ([`register`](self)), how they stay known (`heartbeat`, `refresh`), what is decided about them
//! (`create`, `drain`, `tags`), and their end (`delete`).
//!
//! Somebody who may adds a host and gets a one-time token; its agent registers with that token and gets a certificate and tokens of
//! its own; from then on it sends heartbeats, and renews its credentials before they end. The first heartbeat makes it `online`. A
//! host that falls silent becomes `unreachable` ([`crate::reconcile`]) and comes back with its next heartbeat: nothing that it has is
//! given up because it is silent.
//!
//! The platform's hosts take everybody's sandboxes but those of teams that bring hosts; a team's own hosts take that team's alone, are
//! its admins' to manage, and are hidden from all others.

mod create;
mod delete;
mod drain;
mod heartbeat;
mod refresh;
mod register;
mod tags;
mod token;

use std::time::Duration;

use chrono::{DateTime, Utc};
use sandbar_store::StoreError;
use sandbar_store::hosts::HostRow;
use sandbar_types::id::{self, Sandbox, Team, User};
use sandbar_types::{Arch, ErrorCode, Id, VmmKind};
use secrecy::SecretString;
use serde::{Deserialize, Serialize};

use crate::ShuttingDown;
use crate::access::{AccessError, store_code};
use crate::pki::PkiError;

pub use delete::{DeletePreview, Existing};
pub use drain::{Draining, Running, Stay};
pub use refresh::{Refresh, Refreshed};
pub use sandbar_store::hosts::{LostSnapshot, Tenant};
pub use sandbar_store::volumes::HostVolume;
pub(crate) use token::{HostTokens, TokenHost};

/// A host, as the caller may see it.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
#[expect(missing_docs, reason = "the names are the API's own")]
pub struct Host {
    pub id: Id<id::Host>,
    pub kind: HostKind,
    pub team_id: Id<Team>,
    pub team_name: String,
    pub provider: Option<String>,
    pub availability_zone: Option<String>,
    pub arch: Option<Arch>,
    pub cpu_cores: Option<u32>,
    pub memory_mb: Option<u32>,
    pub disk_gb: Option<u32>,
    pub address: Option<String>,
    pub vmm: Option<VmmKind>,
    pub status: HostStatus,
    pub last_heartbeat_at: Option<DateTime<Utc>>,
    pub created_by: Option<Id<User>>,
    pub created_at: DateTime<Utc>,
    pub updated_at: DateTime<Utc>,
}

/// Whose sandboxes a host takes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum HostKind {
    /// Everybody's.
    #[default]
    Regular,
    /// One team's, which brought it.
    Byoc,
}

/// What is known of a host.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum HostStatus {
    /// It has not registered yet.
    Pending,
    /// It sends heartbeats.
    Online,
    /// It said that it stops, or registered and was not heard of yet.
    Offline,
    /// It takes no new sandboxes.
    Draining,
    /// It was not heard of for too long.
    Unreachable,
}

/// What a new host is to be.
#[derive(Debug, Clone, Default)]
#[expect(missing_docs, reason = "the names are the API's own")]
pub struct NewHost {
    pub kind: HostKind,
    pub provider: Option<String>,
    pub availability_zone: Option<String>,
}

/// A host that waits for its agent.
#[derive(Debug)]
pub struct CreatedHost {
    /// The host.
    pub host: Host,
    /// What its agent registers with: one use, one hour. Shown once.
    pub registration_token: SecretString,
}

/// What an agent says of its host when it registers.
#[derive(Debug)]
pub struct Registration {
    /// The one-time token.
    pub token: SecretString,
    /// The host's architecture.
    pub arch: Arch,
    /// Its processors.
    pub cpu_cores: u32,
    /// Its memory in MiB.
    pub memory_mb: u32,
    /// The disk space of its store in GiB.
    pub disk_gb: u32,
    /// Where its agent listens: `ip:port` or `name:port`.
    pub address: String,
    /// What runs its virtual machines.
    pub vmm: VmmKind,
    /// A certificate signing request in PEM, of the key that the agent will serve with.
    pub csr: String,
}

/// What an agent gets when it registers.
#[derive(Debug)]
pub struct Registered {
    /// The host.
    pub host: Host,
    /// What it goes on with.
    pub credentials: HostCredentials,
}

/// What a host goes on with until it renews it.
#[derive(Debug)]
pub struct HostCredentials {
    /// Its token for heartbeats (a JWT).
    pub token: SecretString,
    /// How long the token lasts: to be counted by the host's own clock, whatever that shows.
    pub token_life: Duration,
    /// With this it gets new credentials.
    pub refresh_token: SecretString,
    /// How long the refresh token and the certificate last.
    pub refresh_life: Duration,
    /// Its certificate, in PEM.
    pub cert: String,
    /// The authority that signed it and that signs the control plane's client certificates, in PEM.
    pub ca: String,
}

/// What an agent says of itself every 30 s, and at once when something changed by itself.
#[derive(Debug, Clone, Default)]
pub struct Heartbeat {
    /// The generation of its inventory.
    pub inventory_generation: u64,
    /// How busy it is; absent figures are unknown.
    pub load: HostLoad,
}

/// How busy a host is.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(default)]
#[expect(missing_docs, reason = "the names are the API's own")]
pub struct HostLoad {
    pub sandboxes: Option<u32>,
    pub memory_used_mb: Option<u64>,
    pub disk_free_mb: Option<u64>,
    pub load1: Option<f64>,
}

/// Why an operation on a host failed.
#[derive(Debug, thiserror::Error)]
pub enum HostError {
    /// What the agent says of its host makes no sense.
    #[error("{0}")]
    Invalid(#[from] InvalidHost),
    /// The token is unknown, used, revoked or expired: the caller is not told which.
    #[error("the token is not valid")]
    InvalidToken,
    /// The caller may not.
    #[error(transparent)]
    Access(#[from] AccessError),
    /// The team may not bring hosts.
    #[error("the team may not bring hosts of its own: the platform's administrators decide that")]
    NotByoc,
    /// It is in use.
    #[error("the host still has {} sandboxes, paused ones counted: end them first, or force it", .sandboxes.len())]
    HasSandboxes {
        /// Which.
        sandboxes: Vec<Id<Sandbox>>,
    },
    /// Snapshots would end with it.
    #[error("no other host has the files of {} snapshots: {}. Delete them first, or force it", .names.len(), .names.join(", "))]
    HasSnapshots {
        /// Which.
        names: Vec<String>,
    },
    /// Volumes would end with it.
    #[error("the host has {} volumes: {}. Delete them first, or force it", .names.len(), .names.join(", "))]
    HasVolumes {
        /// Which.
        names: Vec<String>,
    },
    /// It has no such tag.
    #[error("the host has no tag {tag:?}")]
    NoSuchTag {
        /// What was asked for.
        tag: String,
    },
    /// The work was cut off.
    #[error(transparent)]
    ShuttingDown(#[from] ShuttingDown),
    /// Its sandboxes could not be paused.
    #[error("the host could not be asked to pause its sandboxes: {}", .0.agent_message())]
    Pause(#[source] crate::host_client::HostError),
    /// A host spoke for another host.
    #[error("this token is another host's")]
    OtherHost,
    /// There is no such host.
    #[error("there is no host {id}")]
    NotFound {
        /// What was asked for.
        id: Id<id::Host>,
    },
    /// A certificate could not be made.
    #[error("the certificate could not be made")]
    Pki(#[source] PkiError),
    /// A token could not be made.
    #[error("the token could not be made")]
    Token(#[source] jsonwebtoken::errors::Error),
    /// The database failed.
    #[error("the database failed")]
    Store(#[from] StoreError),
}

/// What is wrong with a registration.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidHost {
    /// An address that cannot be called.
    #[error("address must be HOST:PORT")]
    Address,
    /// A size that cannot be one.
    #[error("{0} must be between 1 and 2147483647")]
    Size(&'static str),
    /// A request for a certificate that is not one.
    #[error("csr is not a valid certificate signing request in PEM")]
    Csr,
    /// A text that is too long.
    #[error("{0} must be at most 128 characters long")]
    TooLong(&'static str),
    /// Not a tag.
    #[error("a tag is 1 to 64 of the characters A-Z a-z 0-9 . _ : = / -")]
    Tag,
    /// More tags than a host may have.
    #[error("a host may have {0} tags at most")]
    TooManyTags(i64),
}

impl HostError {
    /// The code that the API answers with.
    #[must_use]
    pub const fn code(&self) -> ErrorCode {
        match self {
            Self::Invalid(_) => ErrorCode::InvalidRequest,
            Self::InvalidToken => ErrorCode::Unauthorized,
            Self::NotByoc | Self::OtherHost => ErrorCode::Forbidden,
            Self::Access(error) => error.code(),
            Self::NotFound { .. } | Self::NoSuchTag { .. } => ErrorCode::NotFound,
            Self::HasSandboxes { .. } => ErrorCode::HostHasSandboxes,
            Self::HasSnapshots { .. } | Self::HasVolumes { .. } => ErrorCode::Conflict,
            Self::Pause(_) | Self::ShuttingDown(_) => ErrorCode::HostUnavailable,
            Self::Store(error) => store_code(error),
            Self::Pki(_) | Self::Token(_) => ErrorCode::InternalError,
        }
    }
}

impl HostKind {
    const fn as_str(self) -> &'static str {
        match self {
            Self::Regular => "regular",
            Self::Byoc => "byoc",
        }
    }
}

impl TryFrom<HostRow> for Host {
    type Error = StoreError;

    fn try_from(row: HostRow) -> Result<Self, StoreError> {
        let unknown = |column, value: &str| StoreError::Unknown { column, value: value.to_owned() };
        Ok(Self {
            id: row.id,
            kind: match row.kind.as_str() {
                "regular" => HostKind::Regular,
                "byoc" => HostKind::Byoc,
                other => return Err(unknown("hosts.kind", other)),
            },
            team_id: row.team_id,
            team_name: row.team_name,
            provider: row.provider,
            availability_zone: row.availability_zone,
            arch: row.arch,
            cpu_cores: row.cpu_cores,
            memory_mb: row.memory_mb,
            disk_gb: row.disk_gb,
            address: row.address,
            vmm: row.vmm,
            status: match row.status.as_str() {
                "pending" => HostStatus::Pending,
                "online" => HostStatus::Online,
                "offline" => HostStatus::Offline,
                "draining" => HostStatus::Draining,
                "unreachable" => HostStatus::Unreachable,
                other => return Err(unknown("hosts.status", other)),
            },
            last_heartbeat_at: row.last_heartbeat_at,
            created_by: row.created_by,
            created_at: row.created_at,
            updated_at: row.updated_at,
        })
    }
}
