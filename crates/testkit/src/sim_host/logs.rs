//! What happened in simulated sandboxes: what a test says.

use std::collections::BTreeMap;
use std::time::SystemTime;

use futures::{Stream, stream};
use sandbar_proto::host as rpc;
use tokio::sync::watch;

use super::inventory::unix_ms;

/// The logs by sandbox.
#[derive(Default)]
pub(super) struct Logs(watch::Sender<BTreeMap<String, Log>>);

#[derive(Default, Clone)]
struct Log {
    entries: Vec<rpc::LogEntry>,
    over: bool,
}

impl Logs {
    pub(super) fn add(&self, id: &str, level: rpc::LogLevel, message: &str, fields: &[(&str, &str)]) {
        self.0.send_modify(|logs| {
            let entries = &mut logs.entry(id.to_owned()).or_default().entries;
            entries.push(rpc::LogEntry {
                seq: entries.len() as u64 + 1,
                unix_ms: unix_ms(SystemTime::now()),
                level: level.into(),
                message: message.to_owned(),
                fields: fields
                    .iter()
                    .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
                    .collect(),
                ..Default::default()
            });
        });
    }

    pub(super) fn end(&self, id: &str) {
        self.0.send_modify(|logs| logs.entry(id.to_owned()).or_default().over = true);
    }

    pub(super) fn page(&self, request: &rpc::GetSandboxLogsRequest) -> rpc::GetSandboxLogsResponse {
        let mut entries = self.0.borrow().get(&request.id).cloned().unwrap_or_default().entries;
        let filter = request.filter.as_option().cloned().unwrap_or_default();
        entries.retain(|entry| wanted(&filter, entry));
        let backward = request.direction == rpc::LogDirection::LOG_DIRECTION_BACKWARD;
        if backward {
            entries.reverse();
        }
        entries.retain(|entry| match request.cursor {
            0 => true,
            cursor if backward => entry.seq < cursor,
            cursor => entry.seq > cursor,
        });
        let limit = request.limit as usize;
        let more = entries.len() > limit;
        entries.truncate(limit);
        rpc::GetSandboxLogsResponse { entries, more, ..Default::default() }
    }

    /// The replies of a stream, an empty one first.
    pub(super) fn follow(
        &self,
        request: rpc::FollowSandboxLogsRequest,
    ) -> impl Stream<Item = rpc::FollowSandboxLogsResponse> + Send + use<> {
        let mut logs = self.0.subscribe();
        logs.mark_changed();
        let begun = rpc::FollowSandboxLogsResponse::default();
        let filter = request.filter.into_option().unwrap_or_default();
        let come = stream::unfold((logs, request.after), move |(mut logs, mut after)| {
            let (id, filter) = (request.id.clone(), filter.clone());
            async move {
                loop {
                    let Log { mut entries, over } =
                        logs.borrow_and_update().get(&id).cloned().unwrap_or_default();
                    entries.retain(|entry| entry.seq > after && wanted(&filter, entry));
                    if let Some(last) = entries.last() {
                        after = last.seq;
                        logs.mark_changed();
                        let reply = rpc::FollowSandboxLogsResponse { entries, ..Default::default() };
                        return Some((reply, (logs, after)));
                    }
                    if over || logs.changed().await.is_err() {
                        return None;
                    }
                }
            }
        });
        futures::StreamExt::chain(stream::iter([begun]), come)
    }
}

fn wanted(filter: &rpc::LogFilter, entry: &rpc::LogEntry) -> bool {
    let of = |name| entry.fields.get(name) == Some(&filter.process);
    entry.level.to_i32() >= filter.least.to_i32()
        && entry.message.to_lowercase().contains(&filter.search.to_lowercase())
        && (filter.process.is_empty() || of("pid") || of("tag"))
        && entry.unix_ms >= filter.from_unix_ms
        && (filter.until_unix_ms == 0 || entry.unix_ms <= filter.until_unix_ms)
}
