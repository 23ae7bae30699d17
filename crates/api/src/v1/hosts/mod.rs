//! `/v1/hosts`: what host agents ask.

mod heartbeat;
mod register;

use sandbar_control::hosts;
use sandbar_types::id::{self, Team};
use sandbar_types::{Arch, Id, VmmKind};
use serde::Serialize;
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::AppState;
use crate::schema::Timestamp;

/// The routes, relative to where they are mounted.
pub(crate) fn routes() -> OpenApiRouter<AppState> {
    OpenApiRouter::new().routes(routes!(register::register_host)).routes(routes!(heartbeat::host_heartbeat))
}

/// A machine that runs sandboxes.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Host {
    #[schema(value_type = String)]
    id: Id<id::Host>,
    /// `regular` = everybody's; `byoc` = one team's own.
    #[serde(rename = "type")]
    #[schema(value_type = String)]
    kind: hosts::HostKind,
    #[schema(value_type = String)]
    team_id: Id<Team>,
    provider: Option<String>,
    availability_zone: Option<String>,
    #[schema(value_type = Option<String>)]
    arch: Option<Arch>,
    cpu_cores: Option<u32>,
    memory_mb: Option<u32>,
    disk_gb: Option<u32>,
    address: Option<String>,
    #[schema(value_type = Option<String>)]
    vmm: Option<VmmKind>,
    /// `pending`, `online`, `offline`, `draining` or `unreachable`.
    #[schema(value_type = String)]
    status: hosts::HostStatus,
    last_heartbeat_at: Option<Timestamp>,
    created_at: Timestamp,
    updated_at: Timestamp,
}

impl From<hosts::Host> for Host {
    fn from(host: hosts::Host) -> Self {
        // `..` only because the type is open to fields of later versions.
        let hosts::Host {
            id,
            kind,
            team_id,
            provider,
            availability_zone,
            arch,
            cpu_cores,
            memory_mb,
            disk_gb,
            address,
            vmm,
            status,
            last_heartbeat_at,
            created_at,
            updated_at,
            ..
        } = host;
        Self {
            id,
            kind,
            team_id,
            provider,
            availability_zone,
            arch,
            cpu_cores,
            memory_mb,
            disk_gb,
            address,
            vmm,
            status,
            last_heartbeat_at: last_heartbeat_at.map(Timestamp),
            created_at: Timestamp(created_at),
            updated_at: Timestamp(updated_at),
        }
    }
}
