//! Calls about what happened in a sandbox.

use std::time::Duration;

use connectrpc::client::ServerStream;
use sandbar_proto::host;
use sandbar_types::id::Sandbox;
use sandbar_types::{Id, LogDirection, LogLevel};

use super::HostError;
use super::client::{HostClient, ResponseBody, within};
use crate::sandboxes::{LogFilter, LogQuery};

impl HostClient {
    /// A page of a sandbox's log.
    pub async fn sandbox_logs(
        &self,
        id: Id<Sandbox>,
        query: &LogQuery,
        limit: Duration,
    ) -> Result<host::GetSandboxLogsResponse, HostError> {
        let direction = match query.direction {
            LogDirection::Forward => host::LogDirection::LOG_DIRECTION_FORWARD,
            LogDirection::Backward => host::LogDirection::LOG_DIRECTION_BACKWARD,
        };
        let request = host::GetSandboxLogsRequest {
            id: id.to_string(),
            filter: filter(&query.filter).into(),
            direction: direction.into(),
            cursor: query.cursor.unwrap_or_default(),
            limit: query.limit,
            ..Default::default()
        };
        Ok(self.call(self.rpc().get_sandbox_logs_with_options(request, within(limit))).await?.into_owned())
    }

    /// A sandbox's log as it comes. It has no deadline.
    pub async fn follow_sandbox_logs(
        &self,
        id: Id<Sandbox>,
        wanted: &LogFilter,
        after: u64,
    ) -> Result<LogStream, HostError> {
        let request = host::FollowSandboxLogsRequest {
            id: id.to_string(),
            filter: filter(wanted).into(),
            after,
            ..Default::default()
        };
        let opened = async {
            let mut stream = self.rpc().follow_sandbox_logs(request).await?;
            // Empty: a refusal would come in its place.
            stream.message().await?;
            Ok(stream)
        };
        Ok(LogStream(self.call(opened).await?))
    }
}

/// A log that is followed. Dropping it ends the call.
pub struct LogStream(ServerStream<ResponseBody, host::FollowSandboxLogsResponseView<'static>>);

impl LogStream {
    /// What came; none where the sandbox has ended.
    pub async fn next(&mut self) -> Result<Option<Vec<host::LogEntry>>, HostError> {
        let message = self.0.message().await?;
        Ok(message.map(|message| message.to_owned_message().entries))
    }
}

fn filter(filter: &LogFilter) -> host::LogFilter {
    let LogFilter { least, search, process, from, until } = filter;
    host::LogFilter {
        least: match least {
            LogLevel::Debug => host::LogLevel::LOG_LEVEL_DEBUG,
            LogLevel::Info => host::LogLevel::LOG_LEVEL_INFO,
            LogLevel::Warn => host::LogLevel::LOG_LEVEL_WARN,
            LogLevel::Error => host::LogLevel::LOG_LEVEL_ERROR,
        }
        .into(),
        search: search.clone(),
        process: process.clone(),
        from_unix_ms: from.map(|at| at.timestamp_millis()).unwrap_or_default(),
        until_unix_ms: until.map(|at| at.timestamp_millis()).unwrap_or_default(),
        ..Default::default()
    }
}
