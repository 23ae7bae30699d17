//! `GET /v1/sandboxes/stats`.

use axum::Json;
use axum::extract::State;
use sandbar_control::stats::TeamStats;
use sandbar_types::{Reserved, StatsRange};
use serde::Serialize;
use utoipa::ToSchema;

use crate::AppState;
use crate::auth::Caller;
use crate::error::ApiError;
use crate::extract::QueryPairs;
use crate::schema::{ReadRefusals, Timestamp};

/// What a team has running, and how that was.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct SandboxStats {
    #[schema(schema_with = crate::schema::stats_range)]
    range: StatsRange,
    /// At this moment.
    current: StatsFigures,
    /// The most of each in the range.
    peaks: StatsFigures,
    series: StatsSeries,
}

/// What is reserved. Sandboxes that run or start count.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct StatsFigures {
    /// Sandboxes that run or start.
    running_count: u64,
    /// Their virtual CPUs.
    vcpus_reserved: u64,
    /// Their memory in MiB, and half of that of the paused ones, rounded up.
    memory_mb_reserved: u64,
}

/// Columns of equal length, oldest first.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct StatsSeries {
    /// When the time begins that each point stands for.
    labels: Vec<Timestamp>,
    /// The most in that time: 0 where the team had none, null where the platform was not there to look.
    running: Vec<Option<u64>>,
    vcpus: Vec<Option<u64>>,
    memory_mb: Vec<Option<u64>>,
}

impl From<Reserved> for StatsFigures {
    fn from(reserved: Reserved) -> Self {
        let Reserved { running_count, vcpus, memory_mb } = reserved;
        Self { running_count, vcpus_reserved: vcpus, memory_mb_reserved: memory_mb }
    }
}

impl From<TeamStats> for SandboxStats {
    fn from(stats: TeamStats) -> Self {
        let TeamStats { range, current, peaks, series } = stats;
        let column = |of: fn(Reserved) -> u64| series.iter().map(|(_, most)| most.map(of)).collect();
        let series = StatsSeries {
            labels: series.iter().map(|(at, _)| Timestamp(*at)).collect(),
            running: column(|most| most.running_count),
            vcpus: column(|most| most.vcpus),
            memory_mb: column(|most| most.memory_mb),
        };
        Self { range, current: current.into(), peaks: peaks.into(), series }
    }
}

/// What the team has running, and how that was: sampled every ten seconds, and kept for sixty days. A sandbox in the middle of a pause, a resume or
/// a snapshot is counted again when that is done.
#[utoipa::path(
    get,
    path = "/stats",
    operation_id = "get_sandbox_stats",
    tag = "sandboxes",
    params((
        "range" = Option<String>, Query,
        description = "`5m` (a point every 10 s; the default), `1h` (30 s), `6h` (3 min), `24h` (12 min) or `30d` (6 h)",
    )),
    responses((status = 200, description = "The figures", body = SandboxStats), ReadRefusals),
    security(("api_key" = [])),
)]
pub(crate) async fn get_sandbox_stats(
    State(app): State<AppState>,
    Caller(ctx): Caller,
    query: QueryPairs,
) -> Result<Json<SandboxStats>, ApiError> {
    let range = query.parse("range")?.unwrap_or(StatsRange::FiveMinutes);
    Ok(Json(app.control.team_stats(&ctx, range).await?.into()))
}
