//! Reading a log: a page of it, or what comes.

use std::io;
use std::ops::ControlFlow;
use std::path::Path;
use std::sync::Arc;

use sandbar_types::{LogDirection, LogLevel};
use tokio::sync::watch;

use super::segments::{self, SEGMENT_BYTES};
use super::{Entry, Log};
use crate::error::Error;
use crate::resources::blocking;

/// The most entries of a page, and bytes of them.
pub(crate) const PAGE_ENTRIES: usize = 1000;
const PAGE_BYTES: usize = 1 << 20;
/// What a follower reads at a time: more than the longest line.
const READ_BYTES: u64 = 128 << 10;

/// Which entries are wanted: all conditions hold.
#[derive(Debug, Clone)]
pub(crate) struct Filter {
    pub(crate) least: LogLevel,
    /// In lower case; empty: whatever the message is.
    pub(crate) search: String,
    /// A process's id or tag; empty: of whichever, and of none.
    pub(crate) process: String,
    pub(crate) from_unix_ms: Option<i64>,
    pub(crate) until_unix_ms: Option<i64>,
}

impl Default for Filter {
    fn default() -> Self {
        Self {
            least: LogLevel::Debug,
            search: String::new(),
            process: String::new(),
            from_unix_ms: None,
            until_unix_ms: None,
        }
    }
}

impl Filter {
    fn takes(&self, entry: &Entry) -> bool {
        let of_process = |name| entry.fields.get(name).is_some_and(|value| *value == self.process);
        entry.level.is_at_least(self.least)
            && self.from_unix_ms.is_none_or(|from| entry.unix_ms >= from)
            && self.until_unix_ms.is_none_or(|until| entry.unix_ms <= until)
            && (self.process.is_empty() || of_process("pid") || of_process("tag"))
            && (self.search.is_empty() || entry.message.to_lowercase().contains(&self.search))
    }
}

/// What is asked for.
#[derive(Debug, Clone)]
pub(crate) struct PageRequest {
    pub(crate) filter: Filter,
    pub(crate) direction: LogDirection,
    /// Entries beyond this one.
    pub(crate) cursor: Option<u64>,
    pub(crate) limit: usize,
}

impl Default for PageRequest {
    fn default() -> Self {
        Self {
            filter: Filter::default(),
            direction: LogDirection::Forward,
            cursor: None,
            limit: PAGE_ENTRIES,
        }
    }
}

/// Entries in the direction asked for.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Page {
    pub(crate) entries: Vec<Entry>,
    /// There are others beyond the last.
    pub(crate) more: bool,
}

impl Log {
    /// A page.
    pub(crate) async fn page(&self, request: PageRequest) -> Result<Page, Error> {
        let dir = self.dir.clone();
        blocking("read a sandbox's log", move || {
            page(&dir, &request).map_err(Error::internal("read a sandbox's log"))
        })
        .await
    }

    /// What comes after an entry, as it comes.
    pub(crate) fn follow(self: &Arc<Self>, filter: Filter, after: u64) -> Follower {
        let mut news = self.news.subscribe();
        // What is there already is news to this one.
        news.mark_changed();
        Follower { log: Arc::clone(self), news, filter, after, place: None }
    }
}

fn page(dir: &Path, request: &PageRequest) -> io::Result<Page> {
    let mut numbers = segments::numbers(dir)?;
    if request.direction == LogDirection::Backward {
        numbers.reverse();
    }
    let mut page = Page::default();
    let mut bytes = 0;
    for number in numbers {
        let content = segments::read(dir, number, 0, SEGMENT_BYTES)?;
        let lines = whole(&content).split(|byte| *byte == b'\n');
        let mut take = |line: &[u8]| {
            // A line that is none was cut off where the disk was full.
            let Ok(entry) = serde_json::from_slice::<Entry>(line) else { return ControlFlow::Continue(()) };
            let beyond = request.cursor.is_none_or(|cursor| match request.direction {
                LogDirection::Forward => entry.seq > cursor,
                LogDirection::Backward => entry.seq < cursor,
            });
            if !beyond || !request.filter.takes(&entry) {
                return ControlFlow::Continue(());
            }
            if page.entries.len() >= request.limit.min(PAGE_ENTRIES) || bytes > PAGE_BYTES {
                page.more = true;
                return ControlFlow::Break(());
            }
            bytes += line.len();
            page.entries.push(entry);
            ControlFlow::Continue(())
        };
        let read = match request.direction {
            LogDirection::Forward => lines.into_iter().try_for_each(&mut take),
            LogDirection::Backward => lines.rev().try_for_each(&mut take),
        };
        if read.is_break() {
            break;
        }
    }
    Ok(page)
}

/// Without a last line that is being written.
fn whole(content: &[u8]) -> &[u8] {
    let end = content.iter().rposition(|byte| *byte == b'\n').unwrap_or_default();
    content.get(..end).unwrap_or_default()
}

/// Somebody who reads as it comes. It holds nobody up: what it did not read in time is gone.
#[derive(Debug)]
pub(crate) struct Follower {
    log: Arc<Log>,
    news: watch::Receiver<bool>,
    filter: Filter,
    after: u64,
    place: Option<Place>,
}

/// Where a follower reads next.
#[derive(Debug, Clone, Copy)]
struct Place {
    number: u64,
    offset: u64,
}

impl Follower {
    /// What came, or nothing when the sandbox has ended. Not to be cancelled and called again.
    pub(crate) async fn next(&mut self) -> Result<Option<Vec<Entry>>, Error> {
        loop {
            // Seen before it is read: what comes in between is news again.
            let over = *self.news.borrow_and_update();
            let entries = self.read().await?;
            if !entries.is_empty() {
                // There may be more than was read at once.
                self.news.mark_changed();
                let wanted: Vec<_> = entries.into_iter().filter(|entry| self.filter.takes(entry)).collect();
                if !wanted.is_empty() {
                    return Ok(Some(wanted));
                }
                continue;
            }
            if over || self.news.changed().await.is_err() {
                return Ok(None);
            }
        }
    }

    /// The entries from the place on, as far as one read goes.
    async fn read(&mut self) -> Result<Vec<Entry>, Error> {
        let (dir, place, after) = (self.log.dir.clone(), self.place, self.after);
        let step = "read a sandbox's log";
        let (entries, place) =
            blocking(step, move || read_on(&dir, place, after).map_err(Error::internal(step))).await?;
        self.place = place;
        self.after = entries.last().map_or(self.after, |entry| entry.seq);
        Ok(entries)
    }
}

fn read_on(dir: &Path, place: Option<Place>, after: u64) -> io::Result<(Vec<Entry>, Option<Place>)> {
    let numbers = segments::numbers(dir)?;
    let Some(&oldest) = numbers.first() else { return Ok((Vec::new(), place)) };
    // A file that is gone was the oldest.
    let mut place =
        place.filter(|place| place.number >= oldest).unwrap_or(Place { number: oldest, offset: 0 });
    loop {
        let content = segments::read(dir, place.number, place.offset, READ_BYTES)?;
        let lines = match content.iter().rposition(|byte| *byte == b'\n') {
            Some(end) => content.get(..=end).unwrap_or_default(),
            None => &[],
        };
        place.offset += u64::try_from(lines.len()).unwrap_or_default();
        let read =
            lines.split(|byte| *byte == b'\n').filter_map(|line| serde_json::from_slice::<Entry>(line).ok());
        let entries: Vec<_> = read.filter(|entry| entry.seq > after).collect();
        let next = numbers.iter().find(|number| **number > place.number);
        match next {
            _ if !entries.is_empty() => return Ok((entries, Some(place))),
            // Nothing that is wanted in this part of it.
            _ if !lines.is_empty() => {}
            Some(&number) => place = Place { number, offset: 0 },
            None => return Ok((Vec::new(), Some(place))),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use sandbar_types::Id;

    use super::super::Draft;
    use super::*;

    fn draft(level: LogLevel, message: &str, pid: u32) -> Draft {
        let fields =
            BTreeMap::from([("pid".to_owned(), pid.to_string()), ("tag".to_owned(), "job".to_owned())]);
        Draft { level, message: message.to_owned(), fields, guest: None }
    }

    async fn filled(dir: &Path) -> Arc<Log> {
        let log = Log::new(Id::new(), dir.join("logs"));
        let drafts = (1..=100).map(|number| {
            let level = if number % 10 == 0 { LogLevel::Error } else { LogLevel::Info };
            draft(level, &format!("Line {number}"), number % 3)
        });
        log.append(drafts.collect()).await;
        log
    }

    fn numbers(page: &Page) -> Vec<u64> {
        page.entries.iter().map(|entry| entry.seq).collect()
    }

    #[tokio::test]
    async fn pages_go_either_way_and_meet() {
        let folder = tempfile::tempdir().unwrap();
        let log = filled(folder.path()).await;
        for direction in [LogDirection::Forward, LogDirection::Backward] {
            let (mut all, mut cursor) = (Vec::new(), None);
            loop {
                let request = PageRequest { direction, cursor, limit: 7, ..PageRequest::default() };
                let page = log.page(request).await.unwrap();
                all.extend(numbers(&page));
                cursor = all.last().copied();
                if !page.more {
                    break;
                }
            }
            if direction == LogDirection::Backward {
                all.reverse();
            }
            assert_eq!(all, (1..=100).collect::<Vec<u64>>(), "{direction}");
        }
    }

    #[tokio::test]
    async fn filters_hold_together() {
        let folder = tempfile::tempdir().unwrap();
        let log = filled(folder.path()).await;
        let page = async |filter: Filter| {
            numbers(&log.page(PageRequest { filter, ..PageRequest::default() }).await.unwrap())
        };
        let errors = Filter { least: LogLevel::Warn, ..Filter::default() };
        assert_eq!(page(errors.clone()).await.len(), 10);
        assert_eq!(page(Filter { process: "1".into(), ..errors.clone() }).await, [10, 40, 70, 100]);
        assert_eq!(
            page(Filter { process: "job".into(), search: "line 1".into(), ..errors.clone() }).await,
            [10, 100]
        );
        assert!(page(Filter { process: "other".into(), ..Filter::default() }).await.is_empty());
        assert!(page(Filter { from_unix_ms: Some(i64::MAX), ..Filter::default() }).await.is_empty());
        assert!(page(Filter { until_unix_ms: Some(0), ..Filter::default() }).await.is_empty());
    }

    #[tokio::test]
    async fn a_follower_reads_what_is_there_then_what_comes_then_the_end() {
        let folder = tempfile::tempdir().unwrap();
        let log = filled(folder.path()).await;
        let mut follower = log.follow(Filter { least: LogLevel::Error, ..Filter::default() }, 95);
        let read = follower.next().await.unwrap().unwrap();
        assert_eq!(read.iter().map(|entry| entry.seq).collect::<Vec<_>>(), [100]);
        let waiting = tokio::spawn(async move {
            let came = follower.next().await.unwrap().unwrap();
            (follower, came)
        });
        log.append(vec![draft(LogLevel::Info, "no", 1)]).await;
        log.append(vec![draft(LogLevel::Error, "yes", 1)]).await;
        let (mut follower, came) = waiting.await.unwrap();
        assert_eq!(came.iter().map(|entry| entry.seq).collect::<Vec<_>>(), [102]);
        log.close();
        assert_eq!(follower.next().await.unwrap(), None);
    }

    #[tokio::test]
    async fn a_follower_that_was_left_behind_goes_on_with_what_is_there() {
        let folder = tempfile::tempdir().unwrap();
        let log = filled(folder.path()).await;
        let mut follower = log.follow(Filter::default(), 0);
        assert_eq!(follower.next().await.unwrap().unwrap().len(), 100);
        // Four files' worth: what it was to read next is gone.
        for _ in 0..170 {
            log.append((0..10).map(|_| draft(LogLevel::Info, &"x".repeat(10_000), 1)).collect()).await;
        }
        log.append(vec![draft(LogLevel::Info, "last", 1)]).await;
        let mut seen = Vec::new();
        while seen.last() != Some(&1801) {
            seen.extend(follower.next().await.unwrap().unwrap().iter().map(|entry| entry.seq));
        }
        assert!(seen[0] > 101, "{}", seen[0]);
        assert!(seen.windows(2).all(|pair| pair[1] == pair[0] + 1));
        let page = log
            .page(PageRequest { direction: LogDirection::Backward, ..PageRequest::default() })
            .await
            .unwrap();
        assert!(page.more && page.entries.len() < PAGE_ENTRIES, "bounded by its bytes");
    }
}
