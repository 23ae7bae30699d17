//! `GET /v1/sandboxes/{id}/logs` and `GET /v1/sandboxes/{id}/logs/stream`: what happened in a sandbox and to it.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::num::NonZeroU64;
use std::time::Duration;

use axum::Json;
use axum::extract::State;
use axum::http::{HeaderMap, HeaderValue};
use axum::response::Sse;
use axum::response::sse::{Event, KeepAlive};
use futures::{Stream, StreamExt as _, stream};
use sandbar_control::sandboxes::{self, LogFilter, LogFollower, LogQuery};
use sandbar_types::{LogDirection, LogLevel, id};
use serde::Serialize;
use utoipa::ToSchema;

use crate::AppState;
use crate::auth::Caller;
use crate::error::ApiError;
use crate::extract::{PathId, QueryPairs};
use crate::page::X_NEXT_CURSOR;
use crate::schema::{ActRefusals, Timestamp};
use crate::v1::audit_logs::Moment;

/// Entries of a page.
const DEFAULT_LIMIT: u32 = 200;
const MAX_LIMIT: u32 = 1000;
/// The longest text to search for.
const SEARCH_BYTES: usize = 256;
/// A silent connection is not a dead one: something goes over it this often.
const KEEP_ALIVE: Duration = Duration::from_secs(15);
/// What a browser says of what it has when it comes back.
const LAST_EVENT_ID: &str = "last-event-id";

/// Something that happened in a sandbox, or to it.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct LogEntry {
    /// Its place in the sandbox's log: what `cursor` and `after` take.
    #[schema(example = "42")]
    id: String,
    /// When the sandbox's host heard of it.
    timestamp: Timestamp,
    #[schema(schema_with = crate::schema::log_level)]
    level: LogLevel,
    /// In words, or the line that a process wrote.
    #[schema(example = "ended: exit status 0")]
    message: String,
    /// `source` is `host` or `guest`; what a guest says is its own word. `event` says what it is: `process_start`, `process_end`,
    /// `process_refused`, `output`, `output_lost`, `agent`; of the host `created`, `paused`, `resumed`, `forked`, `snapshot` and others.
    /// Where they apply: `pid`, `cmd`, `tag`, `stream`, `exit_code`, `duration_ms`, `guest_time`.
    fields: BTreeMap<String, String>,
}

impl From<sandboxes::LogEntry> for LogEntry {
    fn from(entry: sandboxes::LogEntry) -> Self {
        let sandboxes::LogEntry { seq, at, level, message, fields } = entry;
        Self { id: seq.to_string(), timestamp: Timestamp(at), level, message, fields }
    }
}

/// What happened in a sandbox and to it, newest first: starts and ends of processes that were started from outside, the lines that they
/// wrote, pauses, resumes and the like. What goes over a terminal is not logged. A sandbox keeps about 8 MB of it, through pauses, and
/// nothing once it has ended. Reading it is no use of the sandbox.
#[utoipa::path(
    get,
    path = "/{id}/logs",
    operation_id = "get_sandbox_logs",
    tag = "sandboxes",
    params(
        ("id" = String, Path, description = "The sandbox's id, `sb-...`"),
        ("limit" = Option<u32>, Query, minimum = 1, maximum = 1000, description = "Most entries of the page; 200 by default"),
        ("cursor" = Option<String>, Query, description = "Entries beyond the one with this id, in the direction asked for"),
        ("direction" = Option<String>, Query, description = "`backward` (newest first, the default) or `forward`"),
        ("level" = Option<String>, Query, description = "Only what matters so much: `debug` (the default), `info`, `warn` or `error`"),
        ("search" = Option<String>, Query, max_length = 256, description = "Only messages with this text, in whatever case"),
        ("process" = Option<String>, Query, max_length = 256, description = "Only of the process with this id or tag"),
        ("from" = Option<String>, Query, description = "Not before this time (RFC 3339)"),
        ("to" = Option<String>, Query, description = "Before this time (RFC 3339)"),
    ),
    responses(
        (status = 200, description = "A page", body = [LogEntry],
            headers(("X-Next-Cursor" = String, description = "Names the next page; absent on the last one"))),
        ActRefusals,
    ),
    security(("api_key" = [])),
)]
pub(crate) async fn get_sandbox_logs(
    State(app): State<AppState>,
    Caller(ctx): Caller,
    PathId(id): PathId<id::Sandbox>,
    query: QueryPairs,
) -> Result<(HeaderMap, Json<Vec<LogEntry>>), ApiError> {
    let limit = query.parse("limit")?.unwrap_or(DEFAULT_LIMIT);
    if !(1..=MAX_LIMIT).contains(&limit) {
        return Err(ApiError::invalid(format!("limit: must be 1 to {MAX_LIMIT}")));
    }
    let wanted = LogQuery {
        filter: filter(&query)?,
        direction: query.parse("direction")?.unwrap_or(LogDirection::Backward),
        cursor: query.parse::<NonZeroU64>("cursor")?.map(NonZeroU64::get),
        limit,
    };
    let sandbox = app.control.sandbox_get(&ctx, id).await?;
    let page = app.control.sandbox_logs(&ctx, &sandbox, &wanted).await?;
    let mut headers = HeaderMap::new();
    if let (true, Some(last)) = (page.more, page.entries.last()) {
        headers.insert(X_NEXT_CURSOR, HeaderValue::from(last.seq));
    }
    Ok((headers, Json(page.entries.into_iter().map(LogEntry::from).collect())))
}

/// The same as it comes, oldest first: events `log`, each an entry with its id, and `end` when the sandbox has ended. A stream that ends
/// without it broke off, and may be asked for again after the last entry, as browsers do by `Last-Event-ID`. It goes on while the sandbox
/// is paused.
#[utoipa::path(
    get,
    path = "/{id}/logs/stream",
    operation_id = "follow_sandbox_logs",
    tag = "sandboxes",
    params(
        ("id" = String, Path, description = "The sandbox's id, `sb-...`"),
        ("after" = Option<String>, Query, description = "Only entries after the one with this id; all that are kept by default"),
        ("level" = Option<String>, Query, description = "Only what matters so much: `debug` (the default), `info`, `warn` or `error`"),
        ("search" = Option<String>, Query, max_length = 256, description = "Only messages with this text, in whatever case"),
        ("process" = Option<String>, Query, max_length = 256, description = "Only of the process with this id or tag"),
        ("from" = Option<String>, Query, description = "Not before this time (RFC 3339)"),
        ("to" = Option<String>, Query, description = "Before this time (RFC 3339)"),
    ),
    responses(
        (status = 200, description = "Server-sent events", content_type = "text/event-stream", body = String),
        ActRefusals,
    ),
    security(("api_key" = [])),
)]
pub(crate) async fn follow_sandbox_logs(
    State(app): State<AppState>,
    Caller(ctx): Caller,
    PathId(id): PathId<id::Sandbox>,
    headers: HeaderMap,
    query: QueryPairs,
) -> Result<Sse<impl Stream<Item = Result<Event, Infallible>>>, ApiError> {
    let filter = filter(&query)?;
    let asked: Option<u64> = query.parse("after")?;
    // What the browser has seen since it asked first.
    let seen = headers.get(LAST_EVENT_ID).and_then(|id| id.to_str().ok()?.parse::<u64>().ok());
    let sandbox = app.control.sandbox_get(&ctx, id).await?;
    let after = seen.or(asked).unwrap_or_default();
    let follower = app.control.sandbox_follow_logs(&ctx, &sandbox, &filter, after).await?;
    let events =
        stream::unfold(Some(follower), next).flat_map(|events| stream::iter(events.into_iter().map(Ok)));
    Ok(Sse::new(events).keep_alive(KeepAlive::new().interval(KEEP_ALIVE)))
}

/// What comes next. Where it broke off the stream ends without a word.
async fn next(follower: Option<LogFollower>) -> Option<(Vec<Event>, Option<LogFollower>)> {
    let mut follower = follower?;
    match follower.next().await.ok()? {
        Some(entries) => Some((entries.into_iter().filter_map(event).collect(), Some(follower))),
        None => Some((vec![Event::default().event("end").data("{}")], None)),
    }
}

fn event(entry: sandboxes::LogEntry) -> Option<Event> {
    let id = entry.seq.to_string();
    // Strings alone: it cannot fail.
    Event::default().event("log").id(id).json_data(LogEntry::from(entry)).ok()
}

/// Which entries are wanted.
fn filter(query: &QueryPairs) -> Result<LogFilter, ApiError> {
    let text = |name| {
        let text = query.one(name)?.unwrap_or_default();
        if text.len() > SEARCH_BYTES {
            return Err(ApiError::invalid(format!("{name}: must not be longer than {SEARCH_BYTES} bytes")));
        }
        Ok(text.to_owned())
    };
    Ok(LogFilter {
        least: query.parse("level")?.unwrap_or(LogLevel::Debug),
        search: text("search")?,
        process: text("process")?,
        from: query.parse::<Moment>("from")?.map(|moment| moment.0),
        // The host's log knows milliseconds.
        until: query.parse::<Moment>("to")?.map(|moment| moment.0 - Duration::from_millis(1)),
    })
}
