//! Sandboxes: the row. Reading is in `read` and `by_start`, writing in `write`, what concerns whole teams in `of_team`, whole hosts in
//! `of_host`, what is kept in object storage in `kept`.

mod by_start;
mod kept;
mod of_host;
mod of_team;
mod read;
mod write;

use std::collections::BTreeMap;

use chrono::{DateTime, Utc};
use sandbar_types::id::{Host, Sandbox, Team, Template};
use sandbar_types::{
    Id, Ingress, NetworkPolicy, OnTimeout, PauseMode, SandboxStatus, TimeoutFrom, VolumeMount,
};
use serde_json::Value;
use sqlx::types::Json;
use uuid::Uuid;

use crate::StoreError;
use crate::convert::{unsigned, word};

pub use by_start::{StartOrder, StartedFilter};
pub use kept::{KeptPause, PauseClaim};
pub use read::{Activity, Deadline, ListFilter};
pub use write::{NewSandboxRow, RunningOn, Transition};

/// One sandbox, with the name of its template and the address of its host.
#[derive(Debug, Clone, PartialEq, Eq)]
#[expect(missing_docs, reason = "the schema says what each column is")]
pub struct SandboxRow {
    pub id: Id<Sandbox>,
    pub team_id: Id<Team>,
    pub template_id: Id<Template>,
    pub template_name: String,
    pub host_id: Option<Id<Host>>,
    pub host_address: Option<String>,
    pub status: SandboxStatus,
    pub status_reason: Option<String>,
    pub generation: i64,
    pub vcpus: u32,
    pub memory_mb: u32,
    pub disk_mb: u32,
    pub timeout_sec: u32,
    pub on_timeout: OnTimeout,
    pub timeout_from: TimeoutFrom,
    pub pause_mode: Option<PauseMode>,
    pub metadata: BTreeMap<String, String>,
    pub network: NetworkPolicy,
    pub ingress: Ingress,
    pub guest_ip: Option<String>,
    pub host_ip: Option<String>,
    pub created_at: DateTime<Utc>,
    pub started_at: Option<DateTime<Utc>>,
    pub last_active_at: Option<DateTime<Utc>>,
    pub expires_at: Option<DateTime<Utc>>,
    pub transition_started_at: DateTime<Utc>,
    pub updated_at: DateTime<Utc>,
    /// Who began the change that is under way. An object, in the audit trail's words.
    pub operation: Option<Value>,
    pub kept_as: Option<Id<Template>>,
    pub durable: bool,
    pub volumes: Vec<VolumeMount>,
}

struct Raw {
    id: Uuid,
    team_id: Uuid,
    template_id: Uuid,
    template_name: String,
    host_id: Option<Uuid>,
    host_address: Option<String>,
    status: String,
    status_reason: Option<String>,
    generation: i64,
    vcpus: i32,
    memory_mb: i32,
    disk_mb: i32,
    timeout_sec: i32,
    on_timeout: String,
    timeout_from: String,
    pause_mode: Option<String>,
    metadata: Json<BTreeMap<String, String>>,
    network: Option<Json<NetworkPolicy>>,
    ingress: Option<Json<Ingress>>,
    guest_ip: Option<String>,
    host_ip: Option<String>,
    created_at: DateTime<Utc>,
    started_at: Option<DateTime<Utc>>,
    last_active_at: Option<DateTime<Utc>>,
    expires_at: Option<DateTime<Utc>>,
    transition_started_at: DateTime<Utc>,
    updated_at: DateTime<Utc>,
    operation: Option<Value>,
    kept_as: Option<Uuid>,
    durable: bool,
    volumes: Json<Vec<VolumeMount>>,
}

impl TryFrom<Raw> for SandboxRow {
    type Error = StoreError;

    fn try_from(raw: Raw) -> Result<Self, StoreError> {
        Ok(Self {
            id: Id::from_uuid(raw.id),
            team_id: Id::from_uuid(raw.team_id),
            template_id: Id::from_uuid(raw.template_id),
            template_name: raw.template_name,
            host_id: raw.host_id.map(Id::from_uuid),
            host_address: raw.host_address,
            status: word("sandboxes.status", &raw.status)?,
            status_reason: raw.status_reason,
            generation: raw.generation,
            vcpus: unsigned("sandboxes.vcpus", raw.vcpus)?,
            memory_mb: unsigned("sandboxes.memory_mb", raw.memory_mb)?,
            disk_mb: unsigned("sandboxes.disk_mb", raw.disk_mb)?,
            timeout_sec: unsigned("sandboxes.timeout_sec", raw.timeout_sec)?,
            on_timeout: word("sandboxes.on_timeout", &raw.on_timeout)?,
            timeout_from: word("sandboxes.timeout_from", &raw.timeout_from)?,
            pause_mode: raw.pause_mode.map(|mode| word("sandboxes.pause_mode", &mode)).transpose()?,
            metadata: raw.metadata.0,
            network: raw.network.map(|network| network.0).unwrap_or_default(),
            ingress: raw.ingress.map(|ingress| ingress.0).unwrap_or_default(),
            guest_ip: raw.guest_ip,
            host_ip: raw.host_ip,
            created_at: raw.created_at,
            started_at: raw.started_at,
            last_active_at: raw.last_active_at,
            expires_at: raw.expires_at,
            transition_started_at: raw.transition_started_at,
            updated_at: raw.updated_at,
            operation: raw.operation,
            kept_as: raw.kept_as.map(Id::from_uuid),
            durable: raw.durable,
            volumes: raw.volumes.0,
        })
    }
}

/// A statement that yields sandboxes: `s` must be bound to rows of `sandboxes` by what stands before or after.
macro_rules! sandboxes {
    ($with:literal, $from:literal $(, $arg:expr)* $(,)?) => {
        sqlx::query_as!(
            Raw,
            $with
                + r#"
                SELECT s.id AS "id!", s.team_id AS "team_id!", s.template_id AS "template_id!",
                       t.name AS "template_name!", s.host_id AS "host_id?", h.address AS "host_address?",
                       s.status AS "status!", s.status_reason AS "status_reason?", s.generation AS "generation!",
                       s.vcpus AS "vcpus!", s.memory_mb AS "memory_mb!", s.disk_mb AS "disk_mb!",
                       s.timeout_sec AS "timeout_sec!", s.on_timeout AS "on_timeout!",
                       s.timeout_from AS "timeout_from!", s.pause_mode AS "pause_mode?",
                       s.metadata AS "metadata!: Json<BTreeMap<String, String>>",
                       s.network AS "network?: Json<NetworkPolicy>", s.ingress AS "ingress?: Json<Ingress>",
                       s.guest_ip AS "guest_ip?", s.host_ip AS "host_ip?", s.created_at AS "created_at!",
                       s.started_at AS "started_at?", s.last_active_at AS "last_active_at?",
                       s.expires_at AS "expires_at?", s.transition_started_at AS "transition_started_at!",
                       s.updated_at AS "updated_at!", s.operation AS "operation?",
                       s.kept_as AS "kept_as?", s.durable AS "durable!",
                       s.volumes AS "volumes!: Json<Vec<VolumeMount>>" "#
                + $from
            $(, $arg)*
        )
    };
}

use sandboxes;

fn words(statuses: &[SandboxStatus]) -> Vec<String> {
    statuses.iter().map(|status| status.as_str().to_owned()).collect()
}
