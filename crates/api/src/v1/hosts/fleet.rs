//! Looking at hosts.

use axum::Json;
use axum::extract::State;
use axum::http::HeaderMap;
use sandbar_control::hosts::{self, Stay};
use sandbar_types::id::{self, Sandbox, Team, Template, Volume};
use sandbar_types::{Id, SandboxStatus};
use serde::Serialize;
use utoipa::ToSchema;

use super::Host;
use crate::AppState;
use crate::auth::PersonCaller;
use crate::error::ApiError;
use crate::extract::{PathId, QueryPairs};
use crate::page;
use crate::schema::FleetRefusals;

/// What would end with a host.
#[derive(Serialize, ToSchema)]
pub(crate) struct HostDeletePreview {
    /// Its living sandboxes, paused ones too, oldest first; without those that survive it.
    sandboxes: Vec<EndingSandbox>,
    /// How many of them are paused.
    paused_count: usize,
    /// How many sandboxes survive it: they are paused, object storage has all of them, and they go on on another host.
    surviving_count: usize,
    /// Snapshots of teams that no other host has the files of.
    snapshots: Vec<EndingSnapshot>,
    /// Volumes of teams, each of which is on one host.
    volumes: Vec<EndingVolume>,
}

#[derive(Serialize, ToSchema)]
struct EndingSandbox {
    #[schema(value_type = String)]
    id: Id<Sandbox>,
    #[schema(value_type = String)]
    team_id: Id<Team>,
    #[schema(schema_with = crate::schema::sandbox_status)]
    status: SandboxStatus,
    /// Why it is there, and stays there when the host drains: `running`; `changing` = it is being made, paused, resumed, copied or ended;
    /// `missing` = its host does not answer; of paused ones `not_copied` = object storage has not all of it yet, it leaves once it has,
    /// `no_object_storage` = there is none, `team_host` = the host is a team's own, whose sandboxes stay there, and `has_volumes` = its
    /// volumes are there.
    #[schema(schema_with = crate::schema::stay)]
    reason: Stay,
}

#[derive(Serialize, ToSchema)]
struct EndingSnapshot {
    #[schema(value_type = String)]
    id: Id<Template>,
    #[schema(value_type = String)]
    team_id: Id<Team>,
    name: String,
}

#[derive(Serialize, ToSchema)]
struct EndingVolume {
    #[schema(value_type = String)]
    id: Id<Volume>,
    #[schema(value_type = String)]
    team_id: Id<Team>,
    name: String,
}

impl From<hosts::DeletePreview> for HostDeletePreview {
    fn from(preview: hosts::DeletePreview) -> Self {
        let paused_count = preview.paused();
        let hosts::DeletePreview { sandboxes, surviving, snapshots, volumes } = preview;
        let sandbox = |(tenant, reason): (hosts::Tenant, Stay)| {
            let hosts::Tenant { id, team_id, status, durable: _, has_volumes: _ } = tenant;
            EndingSandbox { id, team_id, status, reason }
        };
        let snapshot = |lost: hosts::LostSnapshot| {
            let hosts::LostSnapshot { id, team_id, name } = lost;
            EndingSnapshot { id, team_id, name }
        };
        let volume = |volume: hosts::HostVolume| {
            let hosts::HostVolume { id, team_id, name } = volume;
            EndingVolume { id, team_id, name: name.into() }
        };
        Self {
            sandboxes: sandboxes.into_iter().map(sandbox).collect(),
            paused_count,
            surviving_count: surviving,
            snapshots: snapshots.into_iter().map(snapshot).collect(),
            volumes: volumes.into_iter().map(volume).collect(),
        }
    }
}

/// Hosts, newest first: all of them for the platform's administrators, for others their team's own.
#[utoipa::path(
    get,
    path = "",
    operation_id = "list_hosts",
    tag = "hosts",
    params(
        ("limit" = Option<u32>, Query, minimum = 1, maximum = 200, description = "Most items of the page; 50 by default"),
        ("cursor" = Option<String>, Query, description = "The next page, as `X-Next-Cursor` named it"),
    ),
    responses(
        (status = 200, description = "One page", body = Vec<Host>,
            headers(("X-Next-Cursor" = String, description = "Names the next page; absent on the last one"))),
        FleetRefusals,
    ),
    security(("bearer" = [])),
)]
pub(crate) async fn list_hosts(
    State(app): State<AppState>,
    PersonCaller(ctx): PersonCaller,
    query: QueryPairs,
) -> Result<(HeaderMap, Json<Vec<Host>>), ApiError> {
    let page = app.control.host_list(&ctx, &page::request(&query)?).await?;
    Ok(page::answer(page, Host::from))
}

/// One host.
#[utoipa::path(
    get,
    path = "/{id}",
    operation_id = "get_host",
    tag = "hosts",
    params(("id" = String, Path, description = "The host's id, `host-...`")),
    responses((status = 200, description = "The host", body = Host), FleetRefusals),
    security(("bearer" = [])),
)]
pub(crate) async fn get_host(
    State(app): State<AppState>,
    PersonCaller(ctx): PersonCaller,
    PathId(id): PathId<id::Host>,
) -> Result<Json<Host>, ApiError> {
    Ok(Json(app.control.host_get(&ctx, id).await?.into()))
}

/// What would end with a host, were it deleted now.
#[utoipa::path(
    get,
    path = "/{id}/delete-preview",
    operation_id = "preview_host_delete",
    tag = "hosts",
    params(("id" = String, Path, description = "The host's id, `host-...`")),
    responses((status = 200, description = "What would end", body = HostDeletePreview), FleetRefusals),
    security(("bearer" = [])),
)]
pub(crate) async fn preview_host_delete(
    State(app): State<AppState>,
    PersonCaller(ctx): PersonCaller,
    PathId(id): PathId<id::Host>,
) -> Result<Json<HostDeletePreview>, ApiError> {
    Ok(Json(app.control.host_delete_preview(&ctx, id).await?.into()))
}
