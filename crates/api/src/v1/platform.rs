//! `GET /v1/platform`: what clients need to know of the installation.

use axum::Json;
use axum::extract::State;
use serde::Serialize;
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::AppState;
use crate::auth::PersonCaller;
use crate::error::ApiError;
use crate::schema::PeopleRefusals;

/// The routes, relative to where they are mounted.
pub(crate) fn routes() -> OpenApiRouter<AppState> {
    OpenApiRouter::new().routes(routes!(get_platform))
}

/// The installation.
#[derive(Serialize, ToSchema)]
pub(crate) struct Platform {
    /// Below it are names: `PORT-ID.DOMAIN` for ports of sandboxes, `api.DOMAIN` for this API, as E2B's SDKs look for them. With a port where it is
    /// another than 443; null where the platform has none.
    #[schema(example = "sandboxes.example.com")]
    domain: Option<String>,
}

/// How the platform is reached.
#[utoipa::path(
    get,
    path = "",
    operation_id = "get_platform",
    tag = "platform",
    responses((status = 200, description = "The platform", body = Platform), PeopleRefusals),
    security(("bearer" = [])),
)]
pub(crate) async fn get_platform(
    State(app): State<AppState>,
    _person: PersonCaller,
) -> Result<Json<Platform>, ApiError> {
    Ok(Json(Platform { domain: app.control.domain().map(str::to_owned) }))
}
