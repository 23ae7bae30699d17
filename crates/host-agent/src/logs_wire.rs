//! Logs as the contract has them.

use buffa::EnumValue;
use connectrpc::ConnectError;
use futures::{Stream, stream};
use sandbar_proto::host::{
    self, FollowSandboxLogsResponse, GetSandboxLogsRequest, GetSandboxLogsResponse, LogEntry,
};
use sandbar_types::{LogDirection, LogLevel};
use tokio_util::sync::CancellationToken;

use crate::error::Error;
use crate::logs::{Entry, Filter, Follower, Page, PageRequest};

/// Which entries are wanted.
pub(crate) fn filter(wire: Option<host::LogFilter>) -> Filter {
    let host::LogFilter { least, search, process, from_unix_ms, until_unix_ms, .. } =
        wire.unwrap_or_default();
    Filter {
        least: level(least),
        search: search.to_lowercase(),
        process,
        from_unix_ms: (from_unix_ms != 0).then_some(from_unix_ms),
        until_unix_ms: (until_unix_ms != 0).then_some(until_unix_ms),
    }
}

/// Which page is wanted.
pub(crate) fn page_request(wire: GetSandboxLogsRequest) -> PageRequest {
    let GetSandboxLogsRequest { id: _, filter: wanted, direction, cursor, limit, .. } = wire;
    PageRequest {
        filter: filter(wanted.into_option()),
        direction: match direction.as_known() {
            Some(host::LogDirection::LOG_DIRECTION_BACKWARD) => LogDirection::Backward,
            _ => LogDirection::Forward,
        },
        cursor: (cursor != 0).then_some(cursor),
        limit: usize::try_from(limit).unwrap_or(usize::MAX),
    }
}

/// A page.
pub(crate) fn page(page: Page) -> GetSandboxLogsResponse {
    let Page { entries, more } = page;
    GetSandboxLogsResponse { entries: entries.into_iter().map(entry).collect(), more, ..Default::default() }
}

/// What comes, after a first reply that is empty. The agent's end is an error: the sandbox goes on.
pub(crate) fn stream(
    follower: Follower,
    shutdown: CancellationToken,
) -> impl Stream<Item = Result<FollowSandboxLogsResponse, ConnectError>> + Send {
    enum Place {
        Begin(Follower),
        On(Follower),
        Over,
    }
    stream::unfold((Place::Begin(follower), shutdown), |(place, shutdown)| async move {
        let mut follower = match place {
            Place::Begin(follower) => {
                return Some((Ok(FollowSandboxLogsResponse::default()), (Place::On(follower), shutdown)));
            }
            Place::On(follower) => follower,
            Place::Over => return None,
        };
        let next = shutdown.run_until_cancelled(follower.next()).await;
        match next {
            Some(Ok(Some(entries))) => {
                let entries = entries.into_iter().map(entry).collect();
                let reply = FollowSandboxLogsResponse { entries, ..Default::default() };
                Some((Ok(reply), (Place::On(follower), shutdown)))
            }
            Some(Ok(None)) => None,
            Some(Err(error)) => Some((Err(error.into()), (Place::Over, shutdown))),
            None => {
                let error = Error::Busy("the host agent shuts down".into());
                Some((Err(error.into()), (Place::Over, shutdown)))
            }
        }
    })
}

fn entry(entry: Entry) -> LogEntry {
    LogEntry {
        seq: entry.seq,
        unix_ms: entry.unix_ms,
        level: match entry.level {
            LogLevel::Debug => host::LogLevel::LOG_LEVEL_DEBUG,
            LogLevel::Info => host::LogLevel::LOG_LEVEL_INFO,
            LogLevel::Warn => host::LogLevel::LOG_LEVEL_WARN,
            LogLevel::Error => host::LogLevel::LOG_LEVEL_ERROR,
        }
        .into(),
        message: entry.message,
        fields: entry.fields.into_iter().collect(),
        ..Default::default()
    }
}

fn level(wire: EnumValue<host::LogLevel>) -> LogLevel {
    match wire.as_known() {
        Some(host::LogLevel::LOG_LEVEL_ERROR) => LogLevel::Error,
        Some(host::LogLevel::LOG_LEVEL_WARN) => LogLevel::Warn,
        Some(host::LogLevel::LOG_LEVEL_INFO) => LogLevel::Info,
        Some(host::LogLevel::LOG_LEVEL_DEBUG | host::LogLevel::LOG_LEVEL_UNSPECIFIED) | None => {
            LogLevel::Debug
        }
    }
}
