//! `GET /sandboxes/{id}/metrics` and `GET /sandboxes/metrics`.

use std::collections::BTreeMap;

use axum::Json;
use axum::extract::State;
use chrono::{DateTime, Duration, Utc};
use futures::future::try_join_all;
use sandbar_control::OpContext;
use sandbar_control::sandboxes::{Sandbox, SandboxMetrics};
use sandbar_types::{MetricsRange, SandboxStatus};
use serde::Serialize;

use super::find;
use crate::AppState;
use crate::auth::Caller;
use crate::e2b::names::{PathSandbox, sandbox_id};
use crate::error::ApiError;
use crate::extract::QueryPairs;
use crate::schema::Timestamp;

/// Most sandboxes of one question.
const MOST: usize = 100;
/// What clients see as one moment, where figures are finer.
const BUCKET_SEC: i64 = 5;

/// When, and percent of one processor, bytes of memory, bytes of disk.
type Point = (DateTime<Utc>, f64, u64, u64);

/// What a sandbox used at one moment.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(in crate::e2b) struct SandboxMetric {
    timestamp: Timestamp,
    timestamp_unix: i64,
    cpu_count: u32,
    /// Of all its processors together.
    cpu_used_pct: f64,
    mem_used: u64,
    mem_total: u64,
    /// Figures are taken on the host, which cannot tell a guest's cache from the rest: it counts as used.
    mem_cache: u64,
    disk_used: u64,
    disk_total: u64,
}

/// The last figures of several sandboxes.
#[derive(Debug, Serialize)]
pub(in crate::e2b) struct Latest {
    sandboxes: BTreeMap<String, SandboxMetric>,
}

pub(in crate::e2b) async fn of_one(
    State(app): State<AppState>,
    Caller(ctx): Caller,
    PathSandbox(id): PathSandbox,
    query: QueryPairs,
) -> Result<Json<Vec<SandboxMetric>>, ApiError> {
    let (start, end) = (moment(&query, "start")?, moment(&query, "end")?);
    let sandbox = find(&app, &ctx, id).await?;
    let metrics = figures(&app, &ctx, &sandbox, range_since(start)).await?;
    let within = |at: i64| {
        start.is_none_or(|start| start.timestamp() <= at) && end.is_none_or(|end| at <= end.timestamp())
    };
    Ok(Json(buckets(&sandbox, &metrics).into_iter().filter(|metric| within(metric.timestamp_unix)).collect()))
}

pub(in crate::e2b) async fn of_many(
    State(app): State<AppState>,
    Caller(ctx): Caller,
    query: QueryPairs,
) -> Result<Json<Latest>, ApiError> {
    let ids: Vec<String> = query.list("sandbox_ids")?;
    if ids.len() > MOST {
        return Err(ApiError::invalid(format!("sandbox_ids: at most {MOST}")));
    }
    let (app, ctx) = (&app, &ctx);
    let asked =
        ids.into_iter().filter_map(|text| Some((sandbox_id(&text)?, text))).map(|(id, text)| async move {
            // What has ended, or is another team's, has none.
            let Ok(sandbox) = find(app, ctx, id).await else { return Ok::<_, ApiError>(None) };
            let metrics = figures(app, ctx, &sandbox, MetricsRange::TenMinutes).await?;
            Ok(buckets(&sandbox, &metrics).pop().map(|metric| (text, metric)))
        });
    let sandboxes = try_join_all(asked).await?.into_iter().flatten().collect();
    Ok(Json(Latest { sandboxes }))
}

/// Seconds since the Unix epoch.
fn moment(query: &QueryPairs, name: &'static str) -> Result<Option<DateTime<Utc>>, ApiError> {
    let Some(seconds) = query.parse::<i64>(name)? else { return Ok(None) };
    let at = DateTime::from_timestamp(seconds, 0);
    at.map(Some).ok_or_else(|| ApiError::invalid(format!("{name}: seconds since the Unix epoch")))
}

/// The finest figures that go back so far.
fn range_since(start: Option<DateTime<Utc>>) -> MetricsRange {
    match start.map(|start| Utc::now() - start) {
        Some(back) if back > Duration::hours(2) => MetricsRange::Day,
        Some(back) if back > Duration::minutes(10) => MetricsRange::TwoHours,
        Some(_) | None => MetricsRange::TenMinutes,
    }
}

async fn figures(
    app: &AppState,
    ctx: &OpContext,
    sandbox: &Sandbox,
    range: MetricsRange,
) -> Result<SandboxMetrics, ApiError> {
    if sandbox.status == SandboxStatus::Missing {
        return Ok(SandboxMetrics { range, points: Vec::new() });
    }
    Ok(app.control.sandbox_metrics(ctx, sandbox, range).await?)
}

/// The average of each five seconds, oldest first.
fn buckets(sandbox: &Sandbox, SandboxMetrics { points, .. }: &SandboxMetrics) -> Vec<SandboxMetric> {
    points
        .chunk_by(|(a, ..), (b, ..)| a.timestamp() / BUCKET_SEC == b.timestamp() / BUCKET_SEC)
        .filter_map(|bucket| {
            let (at, ..) = bucket.last()?;
            let count = u32::try_from(bucket.len()).ok()?;
            let cpu_pct = bucket.iter().map(|(_, cpu, ..)| cpu).sum::<f64>() / f64::from(count);
            let mean = |of: fn(&Point) -> u64| bucket.iter().map(of).sum::<u64>() / u64::from(count);
            let mem_total = u64::from(sandbox.memory_mb) << 20;
            Some(SandboxMetric {
                timestamp: Timestamp(*at),
                timestamp_unix: at.timestamp(),
                cpu_count: sandbox.vcpus,
                cpu_used_pct: cpu_pct / f64::from(sandbox.vcpus.max(1)),
                // The machine's own share comes on top of the guest's memory.
                mem_used: mean(|(_, _, mem, _)| *mem).min(mem_total),
                mem_total,
                mem_cache: 0,
                disk_used: mean(|(.., disk)| *disk),
                disk_total: u64::from(sandbox.disk_mb) << 20,
            })
        })
        .collect()
}
