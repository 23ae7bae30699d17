//! What happened in a sandbox and to it, from its host, which keeps it as long as the sandbox is there.

use std::collections::BTreeMap;

use chrono::{DateTime, Utc};
use sandbar_proto::host;
use sandbar_types::{LogDirection, LogLevel, SandboxStatus};
use tokio::sync::mpsc;
use tokio::task::AbortHandle;

use super::{CallSite, Sandbox, SandboxError};
use crate::host_client::{HostClient, HostError, LogStream};
use crate::{Control, OpContext};

/// What may wait for somebody who follows a log. One who reads more slowly is cut off and may come again: the connection to the host is
/// everybody's.
const WAITING: usize = 32;

/// Which entries are wanted: all conditions hold.
#[derive(Debug, Clone)]
pub struct LogFilter {
    /// Those that matter so much.
    pub least: LogLevel,
    /// Part of the message, in whatever case; empty: any.
    pub search: String,
    /// A process's id or tag; empty: any.
    pub process: String,
    /// Not before.
    pub from: Option<DateTime<Utc>>,
    /// Not after.
    pub until: Option<DateTime<Utc>>,
}

impl Default for LogFilter {
    fn default() -> Self {
        Self {
            least: LogLevel::Debug,
            search: String::new(),
            process: String::new(),
            from: None,
            until: None,
        }
    }
}

/// A page of a log.
#[derive(Debug, Clone)]
pub struct LogQuery {
    /// Which entries.
    pub filter: LogFilter,
    /// From which end.
    pub direction: LogDirection,
    /// Those beyond this entry.
    pub cursor: Option<u64>,
    /// How many at most.
    pub limit: u32,
}

/// One entry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogEntry {
    /// Its place in the log.
    pub seq: u64,
    /// When the host heard of it.
    pub at: DateTime<Utc>,
    /// How much it matters.
    pub level: LogLevel,
    /// In words, or what a process wrote.
    pub message: String,
    /// What it is about.
    pub fields: BTreeMap<String, String>,
}

/// Entries in the direction asked for.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct LogPage {
    /// The entries.
    pub entries: Vec<LogEntry>,
    /// Whether there are others beyond the last.
    pub more: bool,
}

impl Control {
    /// A page of a sandbox's log. It is no use of the sandbox.
    pub async fn sandbox_logs(
        &self,
        _ctx: &OpContext,
        sandbox: &Sandbox,
        query: &LogQuery,
    ) -> Result<LogPage, SandboxError> {
        let limit = self.config().call_deadline;
        let Some(client) = self.client_of_log(sandbox)? else { return Ok(LogPage::default()) };
        let page = client
            .sandbox_logs(sandbox.id, query, limit)
            .await
            .map_err(|error| self.host_failed(CallSite::of(sandbox, "the question", limit), error))?;
        Ok(LogPage { entries: page.entries.into_iter().map(entry).collect(), more: page.more })
    }

    /// A sandbox's log after an entry, as it comes.
    pub async fn sandbox_follow_logs(
        &self,
        _ctx: &OpContext,
        sandbox: &Sandbox,
        filter: &LogFilter,
        after: u64,
    ) -> Result<LogFollower, SandboxError> {
        let needed = "running or paused";
        let not_yet = || SandboxError::InvalidState {
            id: sandbox.id,
            status: sandbox.status,
            operation: "following its log",
            needed,
        };
        let client = self.client_of_log(sandbox)?.ok_or_else(not_yet)?;
        let limit = self.config().call_deadline;
        let site = || CallSite::of(sandbox, "the question", limit);
        let opened = tokio::time::timeout(limit, client.follow_sandbox_logs(sandbox.id, filter, after)).await;
        let stream = opened
            .map_err(|_| SandboxError::Timeout { what: "the question", limit })?
            .map_err(|error| self.host_failed(site(), error))?;
        Ok(LogFollower::of(stream))
    }

    /// The client of the host that has the log. None where there is no host yet, and so no log.
    fn client_of_log(&self, sandbox: &Sandbox) -> Result<Option<HostClient>, SandboxError> {
        use SandboxStatus::{
            Error, Missing, Paused, Pausing, Pending, Resuming, Running, Snapshotting, Starting, Stopped,
            Stopping,
        };
        match sandbox.status {
            Running | Snapshotting | Pausing | Paused | Resuming => {
                let host = sandbox.host_id.zip(sandbox.host_address.as_deref());
                Ok(host.map(|(host, address)| self.host_clients().get(host, address)))
            }
            Pending | Starting => Ok(None),
            Missing => Err(SandboxError::Missing { id: sandbox.id }),
            // It went with the sandbox.
            Stopping | Stopped | Error => Err(SandboxError::NotFound { id: sandbox.id }),
        }
    }
}

/// Somebody who follows a log. Dropped, it ends.
#[derive(Debug)]
pub struct LogFollower {
    came: mpsc::Receiver<Came>,
    reading: AbortHandle,
}

#[derive(Debug)]
enum Came {
    Entries(Vec<host::LogEntry>),
    Ended,
}

impl LogFollower {
    /// Reads on whether or not anybody takes it: what is not taken would lie in the connection's window.
    fn of(mut stream: LogStream) -> Self {
        let (sender, came) = mpsc::channel(WAITING);
        let reading = tokio::spawn(async move {
            loop {
                let next = match stream.next().await {
                    Ok(Some(entries)) => Came::Entries(entries),
                    Ok(None) => Came::Ended,
                    Err(error) => return broke(&error),
                };
                let over = matches!(next, Came::Ended);
                if sender.try_send(next).is_err() || over {
                    return;
                }
            }
        });
        Self { came, reading: reading.abort_handle() }
    }

    /// What came. None where the sandbox has ended.
    ///
    /// # Errors
    /// If it broke off: whoever wants more may follow again, after the last entry.
    pub async fn next(&mut self) -> Result<Option<Vec<LogEntry>>, LogBrokeOff> {
        match self.came.recv().await {
            Some(Came::Entries(entries)) => Ok(Some(entries.into_iter().map(entry).collect())),
            Some(Came::Ended) => Ok(None),
            None => Err(LogBrokeOff),
        }
    }
}

impl Drop for LogFollower {
    fn drop(&mut self) {
        self.reading.abort();
    }
}

/// A log that is followed broke off: its host is away, or it came faster than it was read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the log broke off")]
pub struct LogBrokeOff;

fn broke(error: &HostError) {
    tracing::info!(error = error as &dyn std::error::Error, "a log that is followed broke off");
}

fn entry(wire: host::LogEntry) -> LogEntry {
    let host::LogEntry { seq, unix_ms, level, message, fields, .. } = wire;
    LogEntry {
        seq,
        at: DateTime::from_timestamp_millis(unix_ms).unwrap_or_default(),
        level: match level.as_known() {
            Some(host::LogLevel::LOG_LEVEL_ERROR) => LogLevel::Error,
            Some(host::LogLevel::LOG_LEVEL_WARN) => LogLevel::Warn,
            Some(host::LogLevel::LOG_LEVEL_DEBUG) => LogLevel::Debug,
            Some(host::LogLevel::LOG_LEVEL_INFO | host::LogLevel::LOG_LEVEL_UNSPECIFIED) | None => {
                LogLevel::Info
            }
        },
        message,
        fields: fields.into_iter().collect(),
    }
}
