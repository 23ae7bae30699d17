//! `GET /v1/sandboxes/{id}/metrics`.

use axum::Json;
use axum::extract::State;
use sandbar_control::sandboxes::SandboxMetrics;
use sandbar_types::{Id, MetricsRange, id};
use serde::Serialize;
use utoipa::ToSchema;

use crate::AppState;
use crate::auth::Caller;
use crate::error::ApiError;
use crate::extract::{PathId, QueryPairs};
use crate::schema::{ActRefusals, Timestamp};

/// What a sandbox used.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Metrics {
    #[schema(value_type = String, example = "sb-0192f0c1-5c4e-7a3b-9d2e-3f4a5b6c7d8e")]
    sandbox_id: Id<id::Sandbox>,
    #[schema(schema_with = crate::schema::metrics_range)]
    range: MetricsRange,
    /// Oldest first.
    points: Vec<MetricsPoint>,
}

/// At one moment, or on average up to it.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct MetricsPoint {
    timestamp: Timestamp,
    /// Percent of one processor: two busy ones are 200.
    cpu_pct: f64,
    /// Memory of the virtual machine that is in use.
    mem_bytes: u64,
    /// Disk that the sandbox shares with nothing.
    disk_bytes: u64,
}

/// What a sandbox used: live while it runs, as it was at its pause while it is paused. Of one that has ended there is none.
#[utoipa::path(
    get,
    path = "/{id}/metrics",
    operation_id = "get_sandbox_metrics",
    tag = "sandboxes",
    params(
        ("id" = String, Path, description = "The sandbox's id, `sb-...`"),
        ("range" = Option<String>, Query,
            description = "`10m` (every half second; the default), `2h` (every half minute) or `24h` (every five minutes)"),
    ),
    responses((status = 200, description = "Its figures", body = Metrics), ActRefusals),
    security(("api_key" = [])),
)]
pub(crate) async fn get_sandbox_metrics(
    State(app): State<AppState>,
    Caller(ctx): Caller,
    PathId(id): PathId<id::Sandbox>,
    query: QueryPairs,
) -> Result<Json<Metrics>, ApiError> {
    let range = query.parse("range")?.unwrap_or(MetricsRange::TenMinutes);
    let sandbox = app.control.sandbox_get(&ctx, id).await?;
    let SandboxMetrics { range, points } = app.control.sandbox_metrics(&ctx, &sandbox, range).await?;
    let points = points
        .into_iter()
        .map(|(at, cpu_pct, mem_bytes, disk_bytes)| MetricsPoint {
            timestamp: Timestamp(at),
            cpu_pct,
            mem_bytes,
            disk_bytes,
        })
        .collect();
    Ok(Json(Metrics { sandbox_id: id, range, points }))
}
