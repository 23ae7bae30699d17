//! `/v1/hosts`: what people decide about hosts (`add`, `fleet`, `end`, `tags`), and what host agents ask (`register`, `heartbeat`,
//! `refresh`).

mod add;
mod end;
mod fleet;
mod heartbeat;
mod refresh;
mod register;
mod tags;

use sandbar_control::hosts;
use sandbar_types::id::{self, Team, User};
use sandbar_types::{Arch, Id, VmmKind};
use secrecy::ExposeSecret as _;
use serde::Serialize;
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::AppState;
use crate::schema::Timestamp;

/// The routes, relative to where they are mounted.
pub(crate) fn routes() -> OpenApiRouter<AppState> {
    OpenApiRouter::new()
        .routes(routes!(add::add_host, fleet::list_hosts))
        .routes(routes!(fleet::get_host, end::delete_host))
        .routes(routes!(fleet::preview_host_delete))
        .routes(routes!(add::issue_host_token))
        .routes(routes!(end::drain_host, end::end_host_drain))
        .routes(routes!(tags::list_host_tags, tags::add_host_tag))
        .routes(routes!(tags::remove_host_tag))
        .routes(routes!(register::register_host))
        .routes(routes!(refresh::refresh_host))
        .routes(routes!(heartbeat::host_heartbeat))
}

/// A machine that runs sandboxes.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Host {
    #[schema(value_type = String)]
    id: Id<id::Host>,
    /// `regular` = everybody's; `byoc` = one team's own.
    #[serde(rename = "type")]
    #[schema(schema_with = crate::schema::host_kind)]
    kind: hosts::HostKind,
    #[schema(value_type = String)]
    team_id: Id<Team>,
    team_name: String,
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
    /// Who added it; none = the platform itself.
    #[schema(value_type = Option<String>)]
    created_by: Option<Id<User>>,
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
            team_name,
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
            created_by,
            created_at,
            updated_at,
            ..
        } = host;
        Self {
            id,
            kind,
            team_id,
            team_name,
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
            created_by,
            created_at: Timestamp(created_at),
            updated_at: Timestamp(updated_at),
        }
    }
}

/// What a host goes on with until it renews it.
#[derive(Serialize, ToSchema)]
pub(crate) struct HostCredentials {
    /// For the header `X-Host-Token`.
    token: String,
    /// Seconds that the token lasts from now on, whatever the host's clock shows.
    token_expires_in_sec: u64,
    /// With this it gets new credentials.
    refresh_token: String,
    /// Seconds that the refresh token and the certificate last.
    refresh_expires_in_sec: u64,
    /// Its certificate, in PEM.
    cert: String,
    /// The authority that signed it and signs the control plane's client certificates, in PEM.
    ca: String,
}

impl From<hosts::HostCredentials> for HostCredentials {
    fn from(credentials: hosts::HostCredentials) -> Self {
        let hosts::HostCredentials { token, token_life, refresh_token, refresh_life, cert, ca } = credentials;
        Self {
            token: token.expose_secret().to_owned(),
            token_expires_in_sec: token_life.as_secs(),
            refresh_token: refresh_token.expose_secret().to_owned(),
            refresh_expires_in_sec: refresh_life.as_secs(),
            cert,
            ca,
        }
    }
}
