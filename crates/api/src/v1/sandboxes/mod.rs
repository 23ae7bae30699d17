//! `/v1/sandboxes`, and `/v1/capsules`, which is the same by the dashboard's word.

pub(crate) mod create;
mod delete;
mod exec;
mod exec_stream;
mod farewell;
pub(crate) mod files;
mod fork;
mod get;
mod life;
mod list;
mod liveness;
mod logs;
mod metrics;
mod network;
mod ping;
mod processes;
mod pty;
mod socket;
mod stats;
mod tree;
mod utf8_stream;

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;

use axum::extract::DefaultBodyLimit;
use sandbar_control::{Control, sandboxes};
use sandbar_types::id::{Host, Team};
use sandbar_types::{Id, Ingress, SandboxStatus, id};
use secrecy::ExposeSecret as _;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use utoipa_axum::router::{OpenApiRouter, UtoipaMethodRouterExt as _};
use utoipa_axum::routes;

use crate::AppState;
use crate::schema::Timestamp;

pub(crate) use exec_stream::{ExecStreamClientMessage, ExecStreamServerMessage};
pub(crate) use pty::{PtyClientMessage, PtyServerMessage};

/// The routes, relative to where they are mounted.
pub(crate) fn routes() -> OpenApiRouter<AppState> {
    OpenApiRouter::new()
        .routes(routes!(list::list_sandboxes, create::create_sandbox))
        .routes(routes!(get::get_sandbox, delete::delete_sandbox))
        .routes(routes!(exec::exec_in_sandbox))
        // WebSockets are asked for by GET on HTTP/1.1, and by extended CONNECT on HTTP/2.
        .routes(
            routes!(exec_stream::exec_stream_in_sandbox)
                .map(|get| get.connect(exec_stream::exec_stream_in_sandbox)),
        )
        // Streamed to the guest as it comes: no limit.
        .routes(routes!(files::write_sandbox_file).layer(DefaultBodyLimit::disable()))
        .routes(routes!(files::stream_write_sandbox_file).layer(DefaultBodyLimit::disable()))
        .routes(routes!(files::read_sandbox_file))
        .routes(routes!(files::stream_read_sandbox_file))
        .routes(routes!(tree::list_sandbox_folder))
        .routes(routes!(tree::make_sandbox_folder))
        .routes(routes!(tree::remove_sandbox_file))
        .routes(routes!(pty::sandbox_pty).map(|get| get.connect(pty::sandbox_pty)))
        .routes(routes!(processes::list_sandbox_processes))
        .routes(routes!(processes::kill_sandbox_process))
        .routes(routes!(ping::ping_sandbox))
        .routes(routes!(life::pause_sandbox))
        .routes(routes!(life::resume_sandbox))
        .routes(routes!(life::set_sandbox_timeout))
        .routes(routes!(network::get_sandbox_network, network::set_sandbox_network))
        .routes(routes!(fork::fork_sandbox))
        .routes(routes!(metrics::get_sandbox_metrics))
        .routes(routes!(logs::get_sandbox_logs))
        .routes(routes!(logs::follow_sandbox_logs))
        .routes(routes!(stats::get_sandbox_stats))
}

/// One microVM and its disk.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Sandbox {
    #[schema(value_type = String, example = "sb-0192f0c1-5c4e-7a3b-9d2e-3f4a5b6c7d8e")]
    id: Id<id::Sandbox>,
    #[schema(value_type = String, example = "team-0192f0c1-5c4e-7a3b-9d2e-3f4a5b6c7d8e")]
    team_id: Id<Team>,
    #[schema(schema_with = crate::schema::sandbox_status)]
    status: SandboxStatus,
    /// Why it ended or paused, where that was not asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    status_reason: Option<String>,
    /// The name of the template that it started from.
    #[schema(example = "base")]
    template: String,
    vcpus: u32,
    memory_mb: u32,
    disk_mb: u32,
    /// Seconds after which it ends or pauses; 0 = never.
    timeout_sec: u32,
    on_timeout: OnTimeout,
    timeout_from: TimeoutFrom,
    /// What is kept of it. There while it is paused.
    #[serde(skip_serializing_if = "Option::is_none")]
    pause_mode: Option<PauseMode>,
    /// When it ends or pauses; where its time-out counts from its activity, unless something happens in it before. Not there while it
    /// is paused.
    #[serde(skip_serializing_if = "Option::is_none")]
    expires_at: Option<Timestamp>,
    metadata: BTreeMap<String, String>,
    /// Null until a host was chosen, and for a paused one that needs none.
    #[schema(value_type = Option<String>)]
    host_id: Option<Id<Host>>,
    /// Its own address, as it sees it. The same in every sandbox.
    #[schema(value_type = Option<String>, format = Ipv4)]
    guest_ip: Option<Ipv4Addr>,
    /// The address at which its host reaches it. Null while it is paused.
    #[schema(value_type = Option<String>, format = Ipv4)]
    host_ip: Option<Ipv4Addr>,
    created_at: Timestamp,
    #[serde(skip_serializing_if = "Option::is_none")]
    started_at: Option<Timestamp>,
    #[serde(skip_serializing_if = "Option::is_none")]
    last_active_at: Option<Timestamp>,
    updated_at: Timestamp,
    /// Whether anybody may reach its ports by their names.
    public_traffic: bool,
    /// The ports that anybody may reach where not all are public.
    public_ports: BTreeSet<u16>,
    /// What its servers see as `Host`, in place of the name that the client asked for; `${PORT}` stands for the port.
    #[serde(skip_serializing_if = "Option::is_none")]
    mask_request_host: Option<String>,
    /// Whether a request to one of its ports resumes it where it is paused.
    auto_resume: bool,
    /// Whether object storage has all of the pause that it is in: if its host is away, is emptied or is lost, it goes on on another.
    durable: bool,
    /// What it was made with.
    volumes: Vec<VolumeMount>,
}

/// A volume that a sandbox has.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct VolumeMount {
    #[schema(value_type = String, example = "vol-0192f0c1-5c4e-7a3b-9d2e-3f4a5b6c7d8e")]
    id: Id<id::Volume>,
    name: String,
    /// Where in the guest.
    #[schema(example = "/data")]
    path: String,
}

/// A sandbox, and what gives access to it.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct SandboxWithAccess {
    #[serde(flatten)]
    sandbox: Sandbox,
    /// Its ports have the names `PORT-ID.DOMAIN`, ID being the sandbox's or its 32 hexadecimal digits alone. Null where the platform has
    /// no domain: the headers `E2b-Sandbox-Id` and `E2b-Sandbox-Port` name a port everywhere.
    #[schema(example = "sandboxes.example.com")]
    domain: Option<String>,
    /// What its guest agent takes, as `X-Access-Token`, on port 49983.
    access_token: String,
    /// What lets requests through to its other ports, as `E2b-Traffic-Access-Token`.
    traffic_access_token: String,
}

impl SandboxWithAccess {
    fn of(control: &Control, sandbox: sandboxes::Sandbox) -> Self {
        let access = control.sandbox_access(&sandbox);
        Self {
            sandbox: sandbox.into(),
            domain: control.domain().map(str::to_owned),
            access_token: access.access_token.expose_secret().to_owned(),
            traffic_access_token: access.traffic_token.expose_secret().to_owned(),
        }
    }
}

/// What happens to a sandbox that was idle for its time-out.
#[derive(Debug, Clone, Copy, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub(crate) enum OnTimeout {
    /// It is destroyed.
    Kill,
    /// Its memory and disk are kept, and it can go on later.
    Pause,
    /// Its disk alone is kept, and it boots from that later.
    PauseFilesystem,
}

/// What a pause keeps of a sandbox.
#[derive(Debug, Clone, Copy, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub(crate) enum PauseMode {
    /// Its memory and disk: it goes on where it was.
    Full,
    /// Its disk alone: it boots.
    Filesystem,
}

impl From<sandboxes::PauseMode> for PauseMode {
    fn from(mode: sandboxes::PauseMode) -> Self {
        match mode {
            sandboxes::PauseMode::Full => Self::Full,
            sandboxes::PauseMode::Filesystem => Self::Filesystem,
        }
    }
}

/// From when a sandbox's time-out counts.
#[derive(Debug, Clone, Copy, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub(crate) enum TimeoutFrom {
    /// From its last use: it ends when it is idle for that long.
    Activity,
    /// From when it was made, resumed or given this time-out: it ends then, used or not.
    Start,
}

impl From<TimeoutFrom> for sandbar_types::TimeoutFrom {
    fn from(word: TimeoutFrom) -> Self {
        match word {
            TimeoutFrom::Activity => Self::Activity,
            TimeoutFrom::Start => Self::Start,
        }
    }
}

impl From<sandbar_types::TimeoutFrom> for TimeoutFrom {
    fn from(word: sandbar_types::TimeoutFrom) -> Self {
        match word {
            sandbar_types::TimeoutFrom::Activity => Self::Activity,
            sandbar_types::TimeoutFrom::Start => Self::Start,
        }
    }
}

impl From<OnTimeout> for sandboxes::OnTimeout {
    fn from(word: OnTimeout) -> Self {
        match word {
            OnTimeout::Kill => Self::Kill,
            OnTimeout::Pause => Self::Pause,
            OnTimeout::PauseFilesystem => Self::PauseFilesystem,
        }
    }
}

impl From<sandboxes::OnTimeout> for OnTimeout {
    fn from(word: sandboxes::OnTimeout) -> Self {
        match word {
            sandboxes::OnTimeout::Kill => Self::Kill,
            sandboxes::OnTimeout::Pause => Self::Pause,
            sandboxes::OnTimeout::PauseFilesystem => Self::PauseFilesystem,
        }
    }
}

impl From<sandboxes::Sandbox> for Sandbox {
    fn from(sandbox: sandboxes::Sandbox) -> Self {
        // `..` only because the type is open to fields of later versions.
        let sandboxes::Sandbox {
            id,
            team_id,
            status,
            template,
            vcpus,
            memory_mb,
            disk_mb,
            timeout_sec,
            on_timeout,
            timeout_from,
            pause_mode,
            metadata,
            host_id,
            guest_ip,
            host_ip,
            created_at,
            started_at,
            last_active_at,
            expires_at,
            updated_at,
            status_reason,
            ingress,
            durable,
            volumes,
            ..
        } = sandbox;
        let Ingress { public, public_ports, mask_request_host, auto_resume } = ingress;
        Self {
            id,
            team_id,
            status,
            status_reason,
            template: template.into(),
            vcpus,
            memory_mb,
            disk_mb,
            timeout_sec,
            on_timeout: on_timeout.into(),
            timeout_from: timeout_from.into(),
            pause_mode: (status == SandboxStatus::Paused)
                .then(|| pause_mode.unwrap_or(sandboxes::PauseMode::Full).into()),
            expires_at: expires_at.map(Timestamp),
            metadata,
            host_id,
            guest_ip,
            host_ip,
            created_at: Timestamp(created_at),
            started_at: started_at.map(Timestamp),
            last_active_at: last_active_at.map(Timestamp),
            updated_at: Timestamp(updated_at),
            public_traffic: public,
            public_ports,
            mask_request_host,
            auto_resume,
            durable,
            volumes: volumes.into_iter().map(VolumeMount::from).collect(),
        }
    }
}

impl From<sandbar_types::VolumeMount> for VolumeMount {
    fn from(mount: sandbar_types::VolumeMount) -> Self {
        let sandbar_types::VolumeMount { id, name, path } = mount;
        Self { id, name: name.into(), path: path.into() }
    }
}
