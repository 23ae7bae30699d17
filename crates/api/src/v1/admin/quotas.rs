//! `/v1/admin/teams/{id}/quotas`.

use axum::Json;
use axum::extract::State;
use sandbar_control::quotas::NewLimit;
use sandbar_types::{PerResource, id};
use serde::{Deserialize, Deserializer};
use utoipa::ToSchema;

use crate::AppState;
use crate::auth::PersonCaller;
use crate::error::ApiError;
use crate::extract::{JsonBody, PathId};
use crate::schema::PeopleRefusals;
use crate::v1::teams::TeamQuotas;

/// What a team may have from now on. What is left out stays; null is the platform's default.
#[derive(Deserialize, ToSchema)]
pub(crate) struct SetQuotas {
    #[serde(default, deserialize_with = "limit")]
    #[schema(value_type = Option<u32>, minimum = 0, maximum = 2_147_483_647)]
    sandboxes: NewLimit,
    #[serde(default, deserialize_with = "limit")]
    #[schema(value_type = Option<u32>, minimum = 0, maximum = 2_147_483_647)]
    vcpus: NewLimit,
    #[serde(default, deserialize_with = "limit")]
    #[schema(value_type = Option<u32>, minimum = 0, maximum = 2_147_483_647)]
    memory_mb: NewLimit,
    #[serde(default, deserialize_with = "limit")]
    #[schema(value_type = Option<u32>, minimum = 0, maximum = 2_147_483_647)]
    snapshots: NewLimit,
    #[serde(default, deserialize_with = "limit")]
    #[schema(value_type = Option<u32>, minimum = 0, maximum = 2_147_483_647)]
    builds: NewLimit,
    #[serde(default, deserialize_with = "limit")]
    #[schema(value_type = Option<u32>, minimum = 0, maximum = 2_147_483_647)]
    secrets: NewLimit,
    #[serde(default, deserialize_with = "limit")]
    #[schema(value_type = Option<u32>, minimum = 0, maximum = 2_147_483_647)]
    volumes: NewLimit,
    #[serde(default, deserialize_with = "limit")]
    #[schema(value_type = Option<u32>, minimum = 0, maximum = 2_147_483_647)]
    volume_mb: NewLimit,
}

/// A limit that was given.
fn limit<'de, D: Deserializer<'de>>(deserializer: D) -> Result<NewLimit, D::Error> {
    let given = Option::<u64>::deserialize(deserializer)?;
    Ok(given.map_or(NewLimit::Default, NewLimit::At))
}

/// What a team may have and has.
#[utoipa::path(
    get,
    path = "/teams/{id}/quotas",
    operation_id = "admin_get_quotas",
    tag = "admin",
    params(("id" = String, Path, description = "The team's id, `team-...`")),
    responses((status = 200, description = "Limits and use", body = TeamQuotas), PeopleRefusals),
    security(("bearer" = [])),
)]
pub(crate) async fn admin_get_quotas(
    State(app): State<AppState>,
    PersonCaller(ctx): PersonCaller,
    PathId(id): PathId<id::Team>,
) -> Result<Json<TeamQuotas>, ApiError> {
    Ok(Json(TeamQuotas::new(id, app.control.admin_team_quotas(&ctx, id).await?)))
}

/// Sets what a team may have. A limit below what there is ends nothing: only what would take more is refused.
#[utoipa::path(
    put,
    path = "/teams/{id}/quotas",
    operation_id = "admin_set_quotas",
    tag = "admin",
    params(("id" = String, Path, description = "The team's id, `team-...`")),
    request_body = SetQuotas,
    responses((status = 200, description = "Limits and use", body = TeamQuotas), PeopleRefusals),
    security(("bearer" = [])),
)]
pub(crate) async fn admin_set_quotas(
    State(app): State<AppState>,
    PersonCaller(ctx): PersonCaller,
    PathId(id): PathId<id::Team>,
    JsonBody(body): JsonBody<SetQuotas>,
) -> Result<Json<TeamQuotas>, ApiError> {
    let SetQuotas { sandboxes, vcpus, memory_mb, snapshots, builds, secrets, volumes, volume_mb } = body;
    let new = PerResource { sandboxes, vcpus, memory_mb, snapshots, builds, secrets, volumes, volume_mb };
    Ok(Json(TeamQuotas::new(id, app.control.admin_set_team_quotas(&ctx, id, &new).await?)))
}
