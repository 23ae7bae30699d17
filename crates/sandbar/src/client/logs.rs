//! What happened in a sandbox.

use std::collections::BTreeMap;

use chrono::{DateTime, SecondsFormat, Utc};
use reqwest::Method;
use sandbar_types::{Id, LogDirection, LogLevel, id};
use serde::{Deserialize, Serialize};

use super::events::Events;
use super::{Client, ClientError, encode_query};

/// Entries of a page, at most.
pub(crate) const PAGE: usize = 1000;

/// Something that happened.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct LogEntry {
    pub(crate) id: String,
    pub(crate) timestamp: DateTime<Utc>,
    pub(crate) level: String,
    pub(crate) message: String,
    pub(crate) fields: BTreeMap<String, String>,
}

/// Which entries are wanted.
#[derive(Debug, Clone, Default)]
pub(crate) struct LogFilter {
    pub(crate) level: Option<LogLevel>,
    pub(crate) search: Option<String>,
    pub(crate) process: Option<String>,
    pub(crate) from: Option<DateTime<Utc>>,
}

impl LogFilter {
    fn pairs(&self) -> impl Iterator<Item = (&'static str, String)> {
        let from = self.from.map(|from| from.to_rfc3339_opts(SecondsFormat::Millis, true));
        [
            ("level", self.level.map(|level| level.to_string())),
            ("search", self.search.clone()),
            ("process", self.process.clone()),
            ("from", from),
        ]
        .into_iter()
        .filter_map(|(name, value)| Some((name, value?)))
    }
}

/// What comes of a log that is followed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum LogEvent {
    Entry(LogEntry),
    /// The sandbox has ended.
    End,
}

/// A log as it comes.
pub(crate) struct LogEvents(Events);

impl Client {
    /// A page of a log, and whether there are others beyond it.
    pub(crate) async fn logs(
        &self,
        id: Id<id::Sandbox>,
        filter: &LogFilter,
        direction: LogDirection,
        cursor: Option<&str>,
        limit: usize,
    ) -> Result<(Vec<LogEntry>, bool), ClientError> {
        let own = [("direction", direction.to_string()), ("limit", limit.to_string())];
        let cursor = cursor.map(|cursor| ("cursor", cursor.to_owned()));
        let query = encode_query(filter.pairs().chain(own).chain(cursor));
        let response =
            self.call(self.request(Method::GET, &format!("/v1/sandboxes/{id}/logs?{query}"))).await?;
        let more = response.headers().contains_key("x-next-cursor");
        Ok((response.json().await.map_err(self.broken())?, more))
    }

    /// A log after an entry, as it comes.
    pub(crate) async fn follow_logs(
        &self,
        id: Id<id::Sandbox>,
        filter: &LogFilter,
        after: Option<&str>,
    ) -> Result<LogEvents, ClientError> {
        let after = after.map(|after| ("after", after.to_owned()));
        let query = encode_query(filter.pairs().chain(after));
        let request = self.request(Method::GET, &format!("/v1/sandboxes/{id}/logs/stream?{query}"));
        Ok(LogEvents(Events::of(&self.url, self.open(request).await?)))
    }
}

impl LogEvents {
    /// The next event; none where the stream broke off.
    pub(crate) async fn next(&mut self) -> Result<Option<LogEvent>, ClientError> {
        while let Some((name, data)) = self.0.next().await? {
            match name.as_str() {
                "log" => {
                    let entry = serde_json::from_str(&data).map_err(|error| self.0.broken(error))?;
                    return Ok(Some(LogEvent::Entry(entry)));
                }
                "end" => return Ok(Some(LogEvent::End)),
                // Of a later version.
                _ => {}
            }
        }
        Ok(None)
    }
}
