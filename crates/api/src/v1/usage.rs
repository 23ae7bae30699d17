//! `GET /v1/usage`, as JSON and as CSV.

use std::fmt::Write as _;
use std::str::FromStr;

use axum::Json;
use axum::extract::State;
use axum::http::{HeaderMap, HeaderValue, header};
use axum::response::{IntoResponse as _, Response};
use chrono::{Datelike as _, NaiveDate};
use sandbar_control::usage::{self, DayUsage};
use serde::Serialize;
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::AppState;
use crate::auth::Caller;
use crate::error::ApiError;
use crate::extract::QueryPairs;
use crate::schema::ReadRefusals;

/// The routes, relative to where they are mounted.
pub(crate) fn routes() -> OpenApiRouter<AppState> {
    OpenApiRouter::new().routes(routes!(get_usage))
}

/// What a team used.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Usage {
    /// The first day that was asked for.
    #[schema(value_type = String, format = Date, example = "2026-11-01")]
    from: NaiveDate,
    /// The last one.
    #[schema(value_type = String, format = Date, example = "2026-11-30")]
    to: NaiveDate,
    /// All days together.
    total: UsageFigures,
    /// Oldest first. Days before the platform began to count, and those to come, are not among them.
    days: Vec<UsageOfDay>,
}

/// What was used on a day.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct UsageOfDay {
    /// A day of UTC.
    #[schema(value_type = String, format = Date, example = "2026-11-22")]
    date: NaiveDate,
    #[serde(flatten)]
    used: UsageFigures,
}

/// What was used.
#[derive(Debug, Default, Clone, Copy, Serialize, ToSchema)]
pub(crate) struct UsageFigures {
    /// Virtual CPUs times the minutes that they were running for, busy or not.
    cpu_minutes: f64,
    /// MiB of memory times the minutes that they were running for.
    memory_mb_minutes: f64,
}

impl From<usage::Usage> for Usage {
    fn from(usage: usage::Usage) -> Self {
        let usage::Usage { from, to, days } = usage;
        let mut total = UsageFigures::default();
        let days = days.into_iter().map(|day| {
            let DayUsage { day: date, cpu_minutes, memory_mb_minutes } = day;
            total.cpu_minutes += cpu_minutes;
            total.memory_mb_minutes += memory_mb_minutes;
            UsageOfDay { date, used: UsageFigures { cpu_minutes, memory_mb_minutes } }
        });
        let days = days.collect();
        Self { from, to, total, days }
    }
}

impl Usage {
    /// A line for each day.
    fn to_csv(&self) -> String {
        let mut text = "date,cpu_minutes,memory_mb_minutes\r\n".to_owned();
        for UsageOfDay { date, used: UsageFigures { cpu_minutes, memory_mb_minutes } } in &self.days {
            // A string takes all that is written to it.
            let _ = write!(text, "{date},{cpu_minutes},{memory_mb_minutes}\r\n");
        }
        text
    }
}

/// A day as the query names it.
struct Day(NaiveDate);

impl FromStr for Day {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let day = NaiveDate::parse_from_str(text, "%Y-%m-%d").map_err(|_| "not a date like 2026-11-22")?;
        if (1..=9999).contains(&day.year()) { Ok(Self(day)) } else { Err("out of range") }
    }
}

/// What the team used, by days of UTC: of each sandbox, from when it runs until it is paused, ends or cannot be reached, its virtual CPUs and its
/// memory, whatever it did with them. Exact to the microsecond, today up to this moment.
///
/// With `Accept: text/csv` the days come as CSV.
#[utoipa::path(
    get,
    path = "",
    operation_id = "get_usage",
    tag = "usage",
    params(
        ("from" = Option<String>, Query, description = "The first day, `YYYY-MM-DD`; by default 29 days before `to`"),
        ("to" = Option<String>, Query, description = "The last day; by default today. At most 366 days in all"),
    ),
    responses(
        (status = 200, description = "The days", content((Usage = "application/json"), (String = "text/csv"))),
        ReadRefusals,
    ),
    security(("api_key" = [])),
)]
pub(crate) async fn get_usage(
    State(app): State<AppState>,
    Caller(ctx): Caller,
    headers: HeaderMap,
    query: QueryPairs,
) -> Result<Response, ApiError> {
    let day = |name| query.parse::<Day>(name).map(|day| day.map(|day| day.0));
    let usage = Usage::from(app.control.usage(&ctx, day("from")?, day("to")?).await?);
    let vary = (header::VARY, HeaderValue::from_static("Accept"));
    if !wants_csv(&headers) {
        return Ok(([vary], Json(usage)).into_response());
    }
    let name = format!("attachment; filename=\"usage-{}-{}.csv\"", usage.from, usage.to);
    let name = HeaderValue::from_str(&name).map_err(|_| ApiError::invalid("these days have no name"))?;
    let csv = HeaderValue::from_static("text/csv; charset=utf-8");
    let headers = [vary, (header::CONTENT_TYPE, csv), (header::CONTENT_DISPOSITION, name)];
    Ok((headers, usage.to_csv()).into_response())
}

/// Whether CSV is asked for by its name. A wildcard takes JSON, as everywhere.
fn wants_csv(headers: &HeaderMap) -> bool {
    let accepted = headers.get_all(header::ACCEPT).iter().filter_map(|value| value.to_str().ok());
    accepted.flat_map(|value| value.split(',')).any(|range| {
        let mut parts = range.split(';').map(str::trim);
        let named = parts.next().is_some_and(|name| name.eq_ignore_ascii_case("text/csv"));
        let refused = |weight: &str| weight.parse::<f32>().is_ok_and(|weight| weight <= 0.0);
        named && !parts.any(|part| part.to_ascii_lowercase().strip_prefix("q=").is_some_and(refused))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn csv_must_be_asked_for_by_name() {
        for (accept, csv) in [
            ("text/csv", true),
            ("application/json, Text/CSV; charset=utf-8; q=0.1", true),
            ("text/csv;q=0", false),
            ("*/*", false),
            ("text/*, application/json", false),
            ("", false),
        ] {
            let headers = HeaderMap::from_iter([(header::ACCEPT, HeaderValue::from_static(accept))]);
            assert_eq!(wants_csv(&headers), csv, "{accept:?}");
        }
        assert!(!wants_csv(&HeaderMap::new()));
    }
}
