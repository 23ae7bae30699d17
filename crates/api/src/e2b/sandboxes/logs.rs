//! `GET /sandboxes/{id}/logs` and `GET /v2/sandboxes/{id}/logs`: what happened in a sandbox and to it, as far as its host keeps it.

use std::collections::BTreeMap;

use axum::Json;
use axum::extract::State;
use sandbar_control::OpContext;
use sandbar_control::sandboxes::{self, LogFilter, LogQuery};
use sandbar_types::{Id, LogDirection, LogLevel, id};
use serde::Serialize;

use super::find;
use crate::AppState;
use crate::auth::Caller;
use crate::e2b::names::PathSandbox;
use crate::error::ApiError;
use crate::extract::QueryPairs;
use crate::schema::Timestamp;

/// Most entries of an answer, and where the client does not say.
const MOST: u32 = 1000;
/// The longest text to search for.
const SEARCH_BYTES: usize = 256;

/// The answer of the first version: lines, each of which clients read as JSON, and the same entries apart.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(in crate::e2b) struct FirstLogs {
    logs: Vec<Line>,
    log_entries: Vec<Entry>,
}

#[derive(Debug, Serialize)]
struct Line {
    timestamp: Timestamp,
    line: String,
}

/// The answer of the second version.
#[derive(Debug, Serialize)]
pub(in crate::e2b) struct SecondLogs {
    logs: Vec<Entry>,
}

#[derive(Debug, Serialize)]
struct Entry {
    timestamp: Timestamp,
    level: LogLevel,
    message: String,
    fields: BTreeMap<String, String>,
}

pub(in crate::e2b) async fn first_version(
    State(app): State<AppState>,
    Caller(ctx): Caller,
    PathSandbox(id): PathSandbox,
    query: QueryPairs,
) -> Result<Json<FirstLogs>, ApiError> {
    let filter = LogFilter { from: query.moment("start")?, ..LogFilter::default() };
    let entries = entries(&app, &ctx, id, &query, filter, LogDirection::Forward).await?;
    let logs = entries.iter().map(Line::from).collect();
    Ok(Json(FirstLogs { logs, log_entries: entries }))
}

pub(in crate::e2b) async fn second_version(
    State(app): State<AppState>,
    Caller(ctx): Caller,
    PathSandbox(id): PathSandbox,
    query: QueryPairs,
) -> Result<Json<SecondLogs>, ApiError> {
    let direction = query.parse("direction")?.unwrap_or(LogDirection::Forward);
    let cursor = query.moment("cursor")?;
    let (from, until) = match direction {
        LogDirection::Forward => (cursor, None),
        LogDirection::Backward => (None, cursor),
    };
    let search = query.one("search")?.unwrap_or_default();
    if search.len() > SEARCH_BYTES {
        return Err(ApiError::invalid(format!("search: must not be longer than {SEARCH_BYTES} bytes")));
    }
    let filter = LogFilter {
        least: query.parse("level")?.unwrap_or(LogLevel::Debug),
        search: search.to_owned(),
        process: String::new(),
        from,
        until,
    };
    Ok(Json(SecondLogs { logs: entries(&app, &ctx, id, &query, filter, direction).await? }))
}

async fn entries(
    app: &AppState,
    ctx: &OpContext,
    id: Id<id::Sandbox>,
    query: &QueryPairs,
    filter: LogFilter,
    direction: LogDirection,
) -> Result<Vec<Entry>, ApiError> {
    let limit = query.parse("limit")?.unwrap_or(MOST).min(MOST);
    let sandbox = find(app, ctx, id).await?;
    let wanted = LogQuery { filter, direction, cursor: None, limit };
    let page = app.control.sandbox_logs(ctx, &sandbox, &wanted).await?;
    Ok(page.entries.into_iter().map(Entry::from).collect())
}

impl From<sandboxes::LogEntry> for Entry {
    fn from(entry: sandboxes::LogEntry) -> Self {
        let sandboxes::LogEntry { seq: _, at, level, message, fields } = entry;
        Self { timestamp: Timestamp(at), level, message, fields }
    }
}

impl From<&Entry> for Line {
    /// Clients sort lines by their `logger`: of the sandbox's processes, or of the system around them.
    fn from(entry: &Entry) -> Self {
        let Entry { timestamp, level, message, fields } = entry;
        let logger =
            if fields.get("source").is_some_and(|source| source == "guest") { "process" } else { "system" };
        let mut line: serde_json::Map<String, serde_json::Value> =
            fields.iter().map(|(name, value)| (name.clone(), value.as_str().into())).collect();
        let own = [("level", level.as_str()), ("logger", logger), ("message", message)];
        line.extend(own.map(|(name, value)| (name.to_owned(), value.into())));
        Self { timestamp: *timestamp, line: serde_json::Value::Object(line).to_string() }
    }
}
