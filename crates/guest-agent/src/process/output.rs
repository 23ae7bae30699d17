//! One process's output as tasks share it: pumps push, subscribers follow, and one end closes it.
//!
//! Memory is bounded by the ring. All rings share [`Memory`]; one takes up its smaller share when it is next written to, so rings that
//! are silent hold what they have. What a reader has not read yet holds the process up (its pipe fills), as a slow terminal would, so a reader that keeps reading misses nothing. A reader that has stood still for the stall limit no longer
//! counts: the process goes on, and that reader is told how many bytes it missed. Without readers nothing waits.

use std::collections::HashMap;
use std::pin::pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::Notify;
use tokio::time::{Instant, timeout_at};

use super::RING_BYTES;
use super::ring::{Read, Ring, Source};

/// Output that is kept of all processes together, and of each at least.
const ALL_RINGS_BYTES: usize = 32 << 20;
const RING_BYTES_MIN: usize = 64 << 10;

/// The memory of all rings, which they share evenly: many processes keep less each.
#[derive(Clone, Default)]
pub(crate) struct Memory(Arc<()>);

impl Memory {
    /// What one ring may hold. One of the owners is the table.
    fn share(&self) -> usize {
        let rings = Arc::strong_count(&self.0).saturating_sub(1).max(1);
        (ALL_RINGS_BYTES / rings).clamp(RING_BYTES_MIN, RING_BYTES)
    }
}

/// How a process ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Exit {
    /// By itself, with this status.
    Code(i32),
    /// By this signal.
    Signal(i32),
    /// The kernel would not say.
    Lost(String),
}

impl std::fmt::Display for Exit {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Code(code) => write!(f, "exit status {code}"),
            Self::Signal(signal) => write!(f, "signal: {}", signal_name(*signal)),
            Self::Lost(reason) => f.write_str(reason),
        }
    }
}

/// As E2B's server words them.
fn signal_name(signal: i32) -> String {
    let name = match signal {
        libc::SIGHUP => "hangup",
        libc::SIGINT => "interrupt",
        libc::SIGQUIT => "quit",
        libc::SIGILL => "illegal instruction",
        libc::SIGTRAP => "trace/breakpoint trap",
        libc::SIGABRT => "aborted",
        libc::SIGBUS => "bus error",
        libc::SIGFPE => "floating point exception",
        libc::SIGKILL => "killed",
        libc::SIGUSR1 => "user defined signal 1",
        libc::SIGSEGV => "segmentation fault",
        libc::SIGUSR2 => "user defined signal 2",
        libc::SIGPIPE => "broken pipe",
        libc::SIGALRM => "alarm clock",
        libc::SIGTERM => "terminated",
        other => return format!("signal {other}"),
    };
    name.to_owned()
}

/// Why a process ended, as far as the agent had a part in it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Cause {
    /// It ended by itself, or by a signal that somebody asked for.
    Own,
    /// The agent killed it at its deadline.
    Deadline,
}

/// The end of a process's output.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct End {
    pub(crate) exit: Exit,
    pub(crate) cause: Cause,
}

/// What a subscriber gets next.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Item {
    Data(Read),
    End(End),
}

/// The shared output of one process.
pub(crate) struct Output {
    shared: Mutex<Shared>,
    /// Data or the end came.
    arrived: Notify,
    /// A subscriber read on or went away.
    advanced: Notify,
    stall_limit: Duration,
    memory: Memory,
}

struct Shared {
    ring: Ring,
    readers: HashMap<u64, Reader>,
    next_reader: u64,
    end: Option<End>,
}

struct Reader {
    /// The next offset it wants.
    at: u64,
    /// When it last read on, or when something came that it could read: since then it has stood still.
    idle_since: Instant,
}

impl Output {
    pub(crate) fn new(stall_limit: Duration, memory: &Memory) -> Arc<Self> {
        Arc::new(Self {
            shared: Mutex::new(Shared {
                ring: Ring::new(RING_BYTES),
                readers: HashMap::new(),
                next_reader: 0,
                end: None,
            }),
            arrived: Notify::new(),
            advanced: Notify::new(),
            stall_limit,
            memory: memory.clone(),
        })
    }

    fn lock(&self) -> MutexGuard<'_, Shared> {
        // Every change under the lock is complete before anything can panic.
        self.shared.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Appends output, once every reader that still reads has room for it. After the end it is dropped.
    pub(crate) async fn push(&self, source: Source, bytes: Bytes) {
        if bytes.is_empty() {
            return;
        }
        loop {
            let mut advanced = pin!(self.advanced.notified());
            advanced.as_mut().enable();
            let retry_at = {
                let mut shared = self.lock();
                if shared.end.is_some() {
                    return;
                }
                shared.ring.limit_to(self.memory.share());
                match shared.held_up_until(bytes.len(), self.stall_limit) {
                    None => {
                        shared.push(source, bytes);
                        break;
                    }
                    Some(retry_at) => retry_at,
                }
            };
            // Either a reader moved, or the slowest one has now stood still for too long: look again in both cases.
            let _ = timeout_at(retry_at, advanced).await;
        }
        self.arrived.notify_waiters();
    }

    /// Closes the output. Only the first end counts.
    pub(crate) fn finish(&self, end: End) {
        self.lock().end.get_or_insert(end);
        self.arrived.notify_waiters();
        self.advanced.notify_waiters();
    }

    /// Follows the output from `offset`, or from what comes next.
    pub(crate) fn subscribe(self: &Arc<Self>, offset: Option<u64>) -> Subscription {
        let mut shared = self.lock();
        let id = shared.next_reader;
        shared.next_reader += 1;
        let at = offset.unwrap_or_else(|| shared.ring.end());
        shared.readers.insert(id, Reader { at, idle_since: Instant::now() });
        Subscription { output: Arc::clone(self), id }
    }

    /// Bytes kept, overhead included.
    pub(crate) fn held(&self) -> usize {
        self.lock().ring.held()
    }
}

impl Shared {
    /// Until when a push of `length` bytes has to wait at most; not at all if it drops nothing that anybody still reads.
    fn held_up_until(&self, length: usize, stall_limit: Duration) -> Option<Instant> {
        let start = self.ring.start_after(length);
        let now = Instant::now();
        self.readers
            .values()
            .filter(|reader| reader.at < start)
            .map(|reader| reader.idle_since + stall_limit)
            .filter(|stalled_at| *stalled_at > now)
            .min()
    }

    fn push(&mut self, source: Source, bytes: Bytes) {
        let now = Instant::now();
        let end = self.ring.end();
        for reader in self.readers.values_mut().filter(|reader| reader.at >= end) {
            reader.idle_since = now;
        }
        self.ring.push(source, bytes);
    }

    fn next(&mut self, id: u64) -> Option<Item> {
        let reader = self.readers.get_mut(&id)?;
        if let Some(read) = self.ring.read(reader.at) {
            reader.at = read.chunk.end();
            reader.idle_since = Instant::now();
            return Some(Item::Data(read));
        }
        self.end.clone().map(Item::End)
    }
}

/// One reader's place in the output.
pub(crate) struct Subscription {
    output: Arc<Output>,
    id: u64,
}

impl Subscription {
    /// The next piece of output, or the end once all of it was read. Safe to cancel.
    pub(crate) async fn next(&mut self) -> Item {
        loop {
            let mut arrived = pin!(self.output.arrived.notified());
            arrived.as_mut().enable();
            let next = self.output.lock().next(self.id);
            if let Some(item) = next {
                self.output.advanced.notify_waiters();
                return item;
            }
            arrived.await;
        }
    }
}

impl Drop for Subscription {
    fn drop(&mut self) {
        self.output.lock().readers.remove(&self.id);
        self.output.advanced.notify_waiters();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMIT: Duration = Duration::from_secs(10);
    const END: End = End { exit: Exit::Code(0), cause: Cause::Own };

    fn chunk(length: usize) -> Bytes {
        Bytes::from(vec![7; length])
    }

    fn data(item: Item) -> Read {
        match item {
            Item::Data(read) => read,
            Item::End(end) => panic!("{end:?} instead of data"),
        }
    }

    #[tokio::test(start_paused = true)]
    async fn without_readers_nothing_waits() {
        let output = Output::new(LIMIT, &Memory::default());
        let started = Instant::now();
        for _ in 0..100 {
            output.push(Source::Stdout, chunk(100_000)).await;
        }
        assert_eq!(Instant::now(), started);
        assert!(output.held() <= RING_BYTES);
        assert_eq!(data(output.subscribe(Some(0)).next().await).dropped, 10_000_000 - 10 * 100_000);
    }

    #[tokio::test]
    async fn many_processes_keep_less_each() {
        let memory = Memory::default();
        let flood = async |output: &Output| {
            for _ in 0..40 {
                output.push(Source::Stdout, chunk(30_000)).await;
            }
        };
        let alone = Output::new(LIMIT, &memory);
        flood(&alone).await;
        assert!((RING_BYTES - 32_000..=RING_BYTES).contains(&alone.held()), "{}", alone.held());
        let mut others = Vec::new();
        for _ in 0..200 {
            let output = Output::new(LIMIT, &memory);
            flood(&output).await;
            others.push(output);
        }
        flood(&alone).await;
        assert!(alone.held() <= ALL_RINGS_BYTES / 201);
        let all: usize = others.iter().map(|output| output.held()).sum();
        // Each one had its share as of when it last said something.
        assert!(all < ALL_RINGS_BYTES * 6, "{all}");
        drop(others);
        flood(&alone).await;
        assert!(alone.held() > RING_BYTES - 32_000);
    }

    #[tokio::test(start_paused = true)]
    async fn a_slow_reader_misses_nothing() {
        let output = Output::new(LIMIT, &Memory::default());
        let mut reader = output.subscribe(None);
        let writer = tokio::spawn({
            let output = Arc::clone(&output);
            async move {
                for _ in 0..100 {
                    output.push(Source::Stdout, chunk(100_000)).await;
                }
                output.finish(END);
            }
        });
        let mut total = 0;
        loop {
            // Slower than the writer, faster than the limit.
            tokio::time::sleep(LIMIT / 2).await;
            assert!(output.held() <= RING_BYTES);
            match reader.next().await {
                Item::Data(read) => {
                    assert_eq!((read.dropped, read.chunk.offset), (0, total));
                    total = read.chunk.end();
                }
                Item::End(end) => break assert_eq!(end, END),
            }
        }
        assert_eq!(total, 10_000_000);
        writer.await.unwrap();
    }

    #[tokio::test(start_paused = true)]
    async fn a_reader_that_stands_still_holds_the_process_up_once() {
        let output = Output::new(LIMIT, &Memory::default());
        let mut reader = output.subscribe(None);
        let started = Instant::now();
        for _ in 0..100 {
            output.push(Source::Stdout, chunk(100_000)).await;
        }
        output.finish(END);
        assert_eq!(started.elapsed(), LIMIT);

        let read = data(reader.next().await);
        assert_eq!(read.dropped + 10 * 100_000, 10_000_000);
        for _ in 0..9 {
            assert_eq!(data(reader.next().await).dropped, 0);
        }
        assert_eq!(reader.next().await, Item::End(END));
    }

    #[tokio::test(start_paused = true)]
    async fn a_reader_that_leaves_lets_the_process_go_on_at_once() {
        let output = Output::new(LIMIT, &Memory::default());
        let reader = output.subscribe(None);
        let started = Instant::now();
        let writer = tokio::spawn({
            let output = Arc::clone(&output);
            async move {
                for _ in 0..100 {
                    output.push(Source::Stdout, chunk(100_000)).await;
                }
            }
        });
        tokio::time::sleep(LIMIT / 4).await;
        assert!(!writer.is_finished());
        drop(reader);
        writer.await.unwrap();
        assert_eq!(started.elapsed(), LIMIT / 4);
    }

    #[tokio::test(start_paused = true)]
    async fn a_reader_that_had_nothing_to_read_has_not_stood_still() {
        let output = Output::new(LIMIT, &Memory::default());
        let mut reader = output.subscribe(None);
        tokio::time::sleep(LIMIT * 3).await;
        let writer = tokio::spawn({
            let output = Arc::clone(&output);
            async move {
                for _ in 0..20 {
                    output.push(Source::Stdout, chunk(100_000)).await;
                }
            }
        });
        tokio::time::sleep(LIMIT / 2).await;
        assert_eq!(data(reader.next().await).dropped, 0);
        drop(reader);
        writer.await.unwrap();
    }

    #[tokio::test(start_paused = true)]
    async fn only_the_first_end_counts_and_late_output_is_dropped() {
        let output = Output::new(LIMIT, &Memory::default());
        let mut reader = output.subscribe(None);
        output.finish(END);
        output.finish(End { exit: Exit::Signal(9), cause: Cause::Deadline });
        output.push(Source::Stdout, chunk(1)).await;
        assert_eq!(reader.next().await, Item::End(END));
    }
}
