//! `/healthz` (the process serves) and `/readyz` (the platform can take requests).

use axum::Json;
use axum::extract::State;
use sandbar_types::ErrorCode;
use serde::Serialize;
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::AppState;
use crate::error::ApiError;
use crate::schema::ReadinessRefusals;

/// The routes.
pub(crate) fn routes() -> OpenApiRouter<AppState> {
    OpenApiRouter::new().routes(routes!(healthz)).routes(routes!(readyz))
}

/// The process serves.
#[derive(Serialize, ToSchema)]
pub(crate) struct Health {
    #[schema(example = "ok")]
    status: &'static str,
    version: &'static str,
}

/// The platform can take requests.
#[derive(Serialize, ToSchema)]
pub(crate) struct Ready {
    #[schema(example = "ready")]
    status: &'static str,
    hosts_online: u32,
}

/// Whether this process serves, whatever the state of what it depends on.
#[utoipa::path(
    get,
    path = "/healthz",
    operation_id = "healthz",
    tag = "health",
    responses((status = 200, description = "It does", body = Health)),
    security(()),
)]
async fn healthz() -> Json<Health> {
    Json(Health { status: "ok", version: env!("CARGO_PKG_VERSION") })
}

/// Whether the database answers and at least one host is online.
#[utoipa::path(
    get,
    path = "/readyz",
    operation_id = "readyz",
    tag = "health",
    responses((status = 200, description = "Both", body = Ready), ReadinessRefusals),
    security(()),
)]
async fn readyz(State(app): State<AppState>) -> Result<Json<Ready>, ApiError> {
    let readiness =
        app.control.readiness().await.map_err(|error| ApiError::from_typed(ErrorCode::Unavailable, error))?;
    match readiness.hosts_online {
        0 => Err(ApiError::new(ErrorCode::NoHostsAvailable, "no host is online")),
        hosts_online => Ok(Json(Ready { status: "ready", hosts_online })),
    }
}
