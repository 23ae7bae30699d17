//! `GET /v1/teams/{id}/quotas`, and the form of quotas.

use axum::Json;
use axum::extract::State;
use sandbar_control::quotas;
use sandbar_types::{Id, PerResource, id};
use serde::Serialize;
use utoipa::ToSchema;

use crate::AppState;
use crate::auth::PersonCaller;
use crate::error::ApiError;
use crate::extract::PathId;
use crate::schema::PeopleRefusals;

/// What a team may have at the same time, and has.
#[derive(Serialize, ToSchema)]
pub(crate) struct TeamQuotas {
    #[schema(value_type = String, example = "team-0192f0c1-5c4e-7a3b-9d2e-3f4a5b6c7d8e")]
    team_id: Id<id::Team>,
    /// Sandboxes that run, are about to, or cannot be reached; those that are paused do not count.
    sandboxes: Quota,
    /// Virtual CPUs of those.
    vcpus: Quota,
    /// Memory of those, in MiB.
    memory_mb: Quota,
    snapshots: Quota,
    /// Builds of templates that wait or run.
    builds: Quota,
    secrets: Quota,
    volumes: Quota,
    /// What these may hold together, in MiB.
    volume_mb: Quota,
}

/// How much of something a team may have, and has.
#[derive(Serialize, ToSchema)]
pub(crate) struct Quota {
    limit: u64,
    used: u64,
    /// Whether the limit is the platform's, and not one that was set for this team.
    is_default: bool,
}

impl TeamQuotas {
    pub(crate) fn new(team_id: Id<id::Team>, quotas: PerResource<quotas::Quota>) -> Self {
        let PerResource { sandboxes, vcpus, memory_mb, snapshots, builds, secrets, volumes, volume_mb } =
            quotas;
        Self {
            team_id,
            sandboxes: sandboxes.into(),
            vcpus: vcpus.into(),
            memory_mb: memory_mb.into(),
            snapshots: snapshots.into(),
            builds: builds.into(),
            secrets: secrets.into(),
            volumes: volumes.into(),
            volume_mb: volume_mb.into(),
        }
    }
}

impl From<quotas::Quota> for Quota {
    fn from(quota: quotas::Quota) -> Self {
        let quotas::Quota { limit, set, used } = quota;
        Self { limit, used, is_default: set.is_none() }
    }
}

/// What a team may have and has, for its members. What would take more is refused with 429.
#[utoipa::path(
    get,
    path = "/{id}/quotas",
    operation_id = "get_team_quotas",
    tag = "teams",
    params(("id" = String, Path, description = "The team's id, `team-...`")),
    responses((status = 200, description = "Limits and use", body = TeamQuotas), PeopleRefusals),
    security(("bearer" = [])),
)]
pub(crate) async fn get_team_quotas(
    State(app): State<AppState>,
    PersonCaller(ctx): PersonCaller,
    PathId(id): PathId<id::Team>,
) -> Result<Json<TeamQuotas>, ApiError> {
    Ok(Json(TeamQuotas::new(id, app.control.team_quotas(&ctx, id).await?)))
}
