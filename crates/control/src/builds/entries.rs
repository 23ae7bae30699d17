//! A build's log as one list of entries, to which is only ever added: for clients that ask for what comes after the entries that they have.
//!
//! A step is an entry for what it does, then one for each line of its output as it comes, and once it has ended one for each line of its errors.
//! Attempts follow one another. How many entries a step is the database counts (`lines_of`), so that a page costs the steps that are on it.
//!
//! Clients that ask by time do so in milliseconds: each entry has one of its own, that in which its step began or the next that is free.

use chrono::{DateTime, TimeDelta, TimeZone as _, Utc};
use sandbar_store::builds::{BuildLogRow, LogExtent};
use sandbar_types::{LogDirection, LogLevel};

use super::{Build, BuildError};
use crate::Control;

/// A page ends after this many bytes.
const PAGE_BYTES: usize = 256 * 1024;

/// One entry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// When its step began, or a little later: no other entry of the build has the same time.
    pub at: DateTime<Utc>,
    /// A warning, where it came from standard error.
    pub level: LogLevel,
    /// Of which step; none = of the build.
    pub step: Option<u32>,
    /// One line, or all of a step's command.
    pub message: String,
}

/// Which entries are wanted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct EntryQuery {
    /// Those that matter as much; others are as if they were not there.
    pub least: LogLevel,
    /// Where the page begins, and in which direction it goes.
    pub from: EntryStart,
    /// The most that it has.
    pub limit: usize,
}

/// Where a page of entries begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EntryStart {
    /// After so many entries, and forward.
    After(u64),
    /// Forward: at a point in time, or with the first entry. Backward: before it, or with the last entry.
    At(Option<DateTime<Utc>>, LogDirection),
}

/// Entries that lie together.
struct Span {
    /// Of which attempt and step; none = the build's note.
    of: Option<(u32, u32)>,
    /// The first entry's time; each further one has the next millisecond.
    begins: DateTime<Utc>,
    /// Entries of all levels.
    entries: u32,
    /// Those that are wanted.
    wanted: u32,
}

impl Span {
    fn ends(&self) -> DateTime<Utc> {
        self.begins + millis(self.entries)
    }
}

impl Control {
    /// A page of a build's log. An empty one has nothing after it, yet.
    pub async fn build_entries(&self, build: &Build, query: &EntryQuery) -> Result<Vec<Entry>, BuildError> {
        let EntryQuery { least, from, limit } = *query;
        let by_level = LogLevel::Warn.is_at_least(least) && !LogLevel::Info.is_at_least(least);
        let extents = self.store().build_log_extents(build.id, by_level).await?;
        let mut spans = spans(build, &extents, least);
        let (mut skip, direction) = match from {
            EntryStart::After(count) => (count, LogDirection::Forward),
            EntryStart::At(at, LogDirection::Forward) => {
                spans.retain(|span| at.is_none_or(|at| span.ends() > at));
                (0, LogDirection::Forward)
            }
            EntryStart::At(at, LogDirection::Backward) => {
                spans.retain(|span| at.is_none_or(|at| span.begins < at));
                spans.reverse();
                (0, LogDirection::Backward)
            }
        };
        let is_wanted = |entry: &Entry| {
            entry.level.is_at_least(least)
                && match from {
                    EntryStart::After(_) | EntryStart::At(None, _) => true,
                    EntryStart::At(Some(at), LogDirection::Forward) => entry.at >= at,
                    EntryStart::At(Some(at), LogDirection::Backward) => entry.at < at,
                }
        };
        let (mut page, mut bytes) = (Vec::new(), 0);
        for span in spans {
            if let Some(less) = skip.checked_sub(span.wanted.into()) {
                skip = less;
                continue;
            }
            let mut entries = match span.of {
                None => note(build, span.begins),
                Some((attempt, step)) => {
                    let Some(row) = self.store().build_log(build.id, attempt, step).await? else { break };
                    // It may have grown since, and is then the last.
                    of_step(build, &row, span.begins)
                }
            };
            if direction == LogDirection::Backward {
                entries.reverse();
            }
            let skipped = usize::try_from(skip).unwrap_or(usize::MAX);
            for entry in entries.into_iter().filter(is_wanted).skip(skipped) {
                if page.len() >= limit || bytes >= PAGE_BYTES {
                    return Ok(page);
                }
                bytes += entry.message.len();
                page.push(entry);
            }
            skip = 0;
        }
        Ok(page)
    }
}

/// Where the entries of a build lie.
fn spans(build: &Build, extents: &[LogExtent], least: LogLevel) -> Vec<Span> {
    let wanted = |infos: u32, warnings: u32| {
        let of = |level: LogLevel, count| if level.is_at_least(least) { count } else { 0 };
        of(LogLevel::Info, infos) + of(LogLevel::Warn, warnings)
    };
    let mut spans = Vec::with_capacity(extents.len() + 1);
    let mut free = whole_millis(build.created_at);
    if build.note.is_some() {
        spans.push(Span { of: None, begins: free, entries: 1, wanted: wanted(0, 1) });
        free += millis(1);
    }
    for &LogExtent { attempt, step, started_at, entries, errors } in extents {
        let begins = whole_millis(started_at).max(free);
        let wanted = wanted(entries - errors, errors);
        let span = Span { of: Some((attempt, step)), begins, entries, wanted };
        free = span.ends();
        spans.push(span);
    }
    spans
}

fn whole_millis(at: DateTime<Utc>) -> DateTime<Utc> {
    Utc.timestamp_millis_opt(at.timestamp_millis()).single().unwrap_or(at)
}

fn millis(count: u32) -> TimeDelta {
    TimeDelta::milliseconds(count.into())
}

/// What the build's owner is told before the first step.
fn note(build: &Build, at: DateTime<Utc>) -> Vec<Entry> {
    let note = build.note.iter().cloned();
    note.map(|message| Entry { at, level: LogLevel::Warn, step: None, message }).collect()
}

/// What one step wrote.
fn of_step(build: &Build, row: &BuildLogRow, begins: DateTime<Utc>) -> Vec<Entry> {
    let head = match row.step {
        step if (1..=build.recipe_steps).contains(&step) => {
            format!("[{step}/{}] {}", build.recipe_steps, row.cmd)
        }
        _ => row.cmd.clone(),
    };
    let ended = row.duration_ms.is_some();
    let errors = if ended { row.stderr.as_str() } else { "" };
    let output = std::iter::once(head.as_str()).chain(lines(&row.stdout, ended));
    let all = output
        .map(|line| (LogLevel::Info, line))
        .chain(lines(errors, ended).map(|line| (LogLevel::Warn, line)));
    (0..)
        .zip(all)
        .map(|(number, (level, message))| Entry {
            at: begins + millis(number),
            level,
            step: Some(row.step),
            message: message.to_owned(),
        })
        .collect()
}

/// The whole lines of a text, and of one that has ended what is behind them.
fn lines(text: &str, ended: bool) -> impl Iterator<Item = &str> {
    text.split_inclusive('\n').filter_map(move |line| match line.strip_suffix('\n') {
        Some(line) => Some(line),
        None => ended.then_some(line),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_whole_until_the_end() {
        let all = |text, ended| lines(text, ended).collect::<Vec<_>>();
        assert_eq!(all("a\n\nb", false), ["a", ""]);
        assert_eq!(all("a\n\nb", true), ["a", "", "b"]);
        assert_eq!(all("a\n", true), ["a"]);
        assert_eq!(all("", true), Vec::<&str>::new());
    }
}
