//! What happens in the sandbox, for its host to keep: processes that are started from outside and end, the lines that they write, and
//! what the agent itself has to complain of. What goes over a terminal is not in it: that is what somebody types.
//!
//! ```text
//!   processes ──lines──▶ budget ──▶ ring of the last entries ──GET /logs, as they come──▶ host agent ──▶ its disk
//! ```
//!
//! - `lines`: from chunks of output to lines. `budget`: how many of them may be logged. `route`: how the host reads the ring.
//!   `warnings`: the agent's own.
//!
//! The host asks once and is then told. It is away for moments (another agent of it, a pause): the ring holds what it missed, and goes with
//! the guest's memory into a pause and back. A guest that becomes another sandbox forgets it: it is the story of the one that it was.

mod budget;
mod lines;
mod route;
mod warnings;

use std::collections::VecDeque;
use std::hash::{BuildHasher as _, Hasher as _, RandomState};
use std::pin::pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use sandbar_types::LogLevel;
use sandbar_types::log::{COMMAND_BYTES, GuestEntry, GuestEvent, LoggedProcess, OutputStream, bounded};
use tokio::sync::Notify;

use budget::Budget;
pub(crate) use lines::Lines;
pub(crate) use route::handle;
pub use warnings::Warnings;

/// What the ring holds, overhead included.
const RING_BYTES: usize = 512 << 10;
/// What an entry costs beyond its bytes.
const ENTRY_OVERHEAD: usize = 64;
/// What a reader is given at a time.
const CHUNK_BYTES: usize = 32 << 10;

/// The log of this sandbox as far as its host may not have it yet.
pub struct Log {
    shared: Mutex<Shared>,
    arrived: Notify,
    /// Who tells: another start of the agent counts anew.
    instance: String,
}

struct Shared {
    /// In order, with their numbers: lines of JSON.
    ring: VecDeque<(u64, Bytes)>,
    held: usize,
    last: u64,
    budget: Budget,
}

impl Default for Log {
    fn default() -> Self {
        let shared = Shared { ring: VecDeque::new(), held: 0, last: 0, budget: Budget::full() };
        // Random numbers enough to tell two agents of one sandbox apart.
        let instance = format!("{:016x}", RandomState::new().build_hasher().finish());
        Self { shared: Mutex::new(shared), arrived: Notify::new(), instance }
    }
}

impl Log {
    /// A process runs.
    pub(crate) fn started(&self, process: &LoggedProcess, args: &[String], terminal: bool) {
        let mut line = process.cmd.clone();
        for arg in args {
            if line.len() > COMMAND_BYTES {
                break;
            }
            line.push(' ');
            line.push_str(arg);
        }
        let what = if terminal { "terminal started" } else { "started" };
        let message = format!("{what}: {}", bounded(&line, COMMAND_BYTES));
        self.push(GuestEntry {
            process: Some(process.clone()),
            ..entry(LogLevel::Info, GuestEvent::ProcessStart, message)
        });
    }

    /// A process has ended: by itself, with this code, or otherwise.
    pub(crate) fn ended(
        &self,
        process: &LoggedProcess,
        exit_code: Option<i32>,
        how: &str,
        ran_for: Duration,
    ) {
        let level = if exit_code == Some(0) { LogLevel::Info } else { LogLevel::Warn };
        self.push(GuestEntry {
            process: Some(process.clone()),
            exit_code,
            duration_ms: u64::try_from(ran_for.as_millis()).ok(),
            ..entry(level, GuestEvent::ProcessEnd, format!("ended: {how}"))
        });
    }

    /// A process could not be started.
    pub(crate) fn refused(&self, why: &str) {
        let message = format!("not started: {}", bounded(why, COMMAND_BYTES));
        self.push(entry(LogLevel::Error, GuestEvent::ProcessRefused, message));
    }

    /// The agent complains.
    fn complain(&self, level: LogLevel, what: &str) {
        self.push(entry(level, GuestEvent::Agent, bounded(what, COMMAND_BYTES).to_owned()));
    }

    /// A line of output, after `lost` bytes that are not in the log. False where there has been too much of late: then this one is not
    /// either.
    fn line(&self, process: &LoggedProcess, stream: OutputStream, line: &[u8], lost: u64) -> bool {
        if !self.lock().budget.take(line.len()) {
            return false;
        }
        if lost > 0 {
            self.lost(process, stream, lost);
        }
        let level = match stream {
            OutputStream::Stdout => LogLevel::Info,
            OutputStream::Stderr => LogLevel::Warn,
        };
        self.push(GuestEntry {
            process: Some(process.clone()),
            stream: Some(stream),
            ..entry(level, GuestEvent::Output, String::from_utf8_lossy(line).into_owned())
        });
        true
    }

    fn lost(&self, process: &LoggedProcess, stream: OutputStream, bytes: u64) {
        let message = format!("{bytes} bytes of {stream} are not in the log: it came too fast");
        self.push(GuestEntry {
            process: Some(process.clone()),
            stream: Some(stream),
            ..entry(LogLevel::Warn, GuestEvent::OutputLost, message)
        });
    }

    /// Whether output may be logged at all now.
    fn takes_output(&self) -> bool {
        !self.lock().budget.is_dry()
    }

    /// This guest is another sandbox from now on. Numbers go on: whoever reads must not take a new entry for an old one.
    pub(crate) fn forget(&self) {
        let mut shared = self.lock();
        shared.ring.clear();
        shared.held = 0;
        shared.budget = Budget::full();
    }

    fn push(&self, mut entry: GuestEntry) {
        let mut shared = self.lock();
        entry.seq = shared.last + 1;
        // Strings and numbers: it cannot fail.
        let Ok(mut line) = serde_json::to_vec(&entry) else { return };
        line.push(b'\n');
        shared.last = entry.seq;
        shared.held += line.len() + ENTRY_OVERHEAD;
        shared.ring.push_back((entry.seq, line.into()));
        while shared.held > RING_BYTES {
            let Some((_, oldest)) = shared.ring.pop_front() else { break };
            shared.held -= oldest.len() + ENTRY_OVERHEAD;
        }
        drop(shared);
        self.arrived.notify_waiters();
    }

    /// The entries after `after`, so many as go into a chunk, and the number of the last of them. Waits where there are none. Safe to
    /// cancel.
    async fn next(&self, after: u64) -> (Bytes, u64) {
        loop {
            let mut arrived = pin!(self.arrived.notified());
            arrived.as_mut().enable();
            if let Some(chunk) = self.lock().after(after) {
                return chunk;
            }
            arrived.await;
        }
    }

    fn lock(&self) -> MutexGuard<'_, Shared> {
        // Every change under the lock is complete before anything can panic.
        self.shared.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Shared {
    fn after(&self, after: u64) -> Option<(Bytes, u64)> {
        let next = self.ring.partition_point(|(seq, _)| *seq <= after);
        let mut chunk = Vec::new();
        let mut last = after;
        for (seq, line) in self.ring.range(next..) {
            if !chunk.is_empty() && chunk.len() + line.len() > CHUNK_BYTES {
                break;
            }
            chunk.extend_from_slice(line);
            last = *seq;
        }
        (!chunk.is_empty()).then(|| (chunk.into(), last))
    }
}

fn entry(level: LogLevel, event: GuestEvent, message: String) -> GuestEntry {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    GuestEntry {
        seq: 0,
        unix_ms: i64::try_from(now.as_millis()).unwrap_or(i64::MAX),
        level,
        event,
        message,
        process: None,
        stream: None,
        exit_code: None,
        duration_ms: None,
    }
}

/// What entries say of a process.
pub(crate) fn logged(pid: u32, cmd: &str, tag: Option<&str>) -> Arc<LoggedProcess> {
    let name = |text: &str| bounded(text, sandbar_types::log::NAME_BYTES).to_owned();
    Arc::new(LoggedProcess { pid, cmd: name(cmd), tag: tag.map(name) })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entries(log: &Log, after: u64) -> Vec<GuestEntry> {
        let mut all = Vec::new();
        let mut after = after;
        while let Some((chunk, last)) = { log.lock().after(after) } {
            let lines = chunk.split(|byte| *byte == b'\n').filter(|line| !line.is_empty());
            all.extend(lines.map(|line| serde_json::from_slice::<GuestEntry>(line).unwrap()));
            after = last;
        }
        all
    }

    #[test]
    fn a_process_is_told_from_its_start_to_its_end() {
        let log = Log::default();
        let process = logged(7, "/bin/sh", Some("job"));
        log.started(&process, &["-c".into(), "x".repeat(9000)], false);
        assert!(log.line(&process, OutputStream::Stderr, b"\x1b[1m\xffhm", 0));
        log.ended(&process, Some(3), "exit status 3", Duration::from_millis(1234));
        let all = entries(&log, 0);
        assert_eq!(all.iter().map(|entry| entry.seq).collect::<Vec<_>>(), [1, 2, 3]);
        assert!(all[0].message.starts_with("started: /bin/sh -c xxx"), "{:?}", all[0]);
        assert!(all[0].message.len() < COMMAND_BYTES + 20);
        assert_eq!(all[1].message, "\x1b[1m\u{fffd}hm");
        assert_eq!((all[1].level, all[1].stream), (LogLevel::Warn, Some(OutputStream::Stderr)));
        assert_eq!((all[2].exit_code, all[2].duration_ms), (Some(3), Some(1234)));
        assert!(all.iter().all(|entry| entry.process.as_ref() == Some(&*process)));
        assert_eq!(entries(&log, 2).len(), 1);
    }

    #[test]
    fn the_ring_is_bounded_and_says_by_its_numbers_what_is_gone() {
        let log = Log::default();
        for number in 0..5_000 {
            log.refused(&format!("{number} {}", "x".repeat(500)));
        }
        assert!(log.lock().held <= RING_BYTES);
        let all = entries(&log, 0);
        assert_eq!(all.last().unwrap().seq, 5_000);
        assert!(all[0].seq > 1_000 && all.windows(2).all(|pair| pair[1].seq == pair[0].seq + 1));
    }

    #[test]
    fn another_sandbox_does_not_hear_of_the_one_before() {
        let log = Log::default();
        log.refused("the one before");
        log.forget();
        assert_eq!(entries(&log, 0), []);
        log.refused("this one");
        assert_eq!(entries(&log, 0)[0].seq, 2);
    }

    #[tokio::test]
    async fn a_reader_waits_for_what_comes() {
        let log = Arc::new(Log::default());
        let reader = tokio::spawn({
            let log = Arc::clone(&log);
            async move { log.next(0).await }
        });
        tokio::task::yield_now().await;
        assert!(!reader.is_finished());
        log.refused("now");
        assert_eq!(reader.await.unwrap().1, 1);
    }
}
