//! A build's log as one list of entries, to which is only ever added: for clients that ask for what comes after the entries that they have.
//!
//! A step is an entry for what it does, then one for each line of its output as it comes, and once it has ended one for each line of its errors.
//! Attempts follow one another. How many entries a step is the database counts (`lines_of`), so that a page costs the steps that are on it.

use chrono::{DateTime, Utc};
use sandbar_store::builds::BuildLogRow;

use super::{Build, BuildError};
use crate::Control;

/// A page ends after this many bytes.
const PAGE_BYTES: usize = 256 * 1024;

/// How much an entry matters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum EntryLevel {
    /// It is told.
    Info,
    /// It came from standard error.
    Warn,
}

/// One entry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// When its step began.
    pub at: DateTime<Utc>,
    /// How much it matters.
    pub level: EntryLevel,
    /// Of which step; none = of the build.
    pub step: Option<u32>,
    /// One line, or all of a step's command.
    pub message: String,
}

impl Control {
    /// At most `limit` entries of a build's log from the one with this number on. None are left where there are none.
    pub async fn build_entries(
        &self,
        build: &Build,
        offset: u64,
        limit: usize,
    ) -> Result<Vec<Entry>, BuildError> {
        let (mut skip, mut page, mut bytes) = (offset, Vec::new(), 0);
        if let Some(note) = &build.note {
            match skip.checked_sub(1) {
                Some(less) => skip = less,
                None if limit > 0 => page.push(Entry {
                    at: build.created_at,
                    level: EntryLevel::Warn,
                    step: None,
                    message: note.clone(),
                }),
                None => return Ok(page),
            }
        }
        for extent in self.store().build_log_extents(build.id).await? {
            if let Some(less) = skip.checked_sub(extent.entries.into()) {
                skip = less;
                continue;
            }
            let Some(row) = self.store().build_log(build.id, extent.attempt, extent.step).await? else {
                break;
            };
            // It may have grown since, and is then the last.
            for entry in of_step(build, &row).skip(usize::try_from(skip).unwrap_or(usize::MAX)) {
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

/// What one step wrote.
fn of_step<'a>(build: &Build, row: &'a BuildLogRow) -> impl Iterator<Item = Entry> + use<'a> {
    let (at, step) = (row.started_at, row.step);
    let entry =
        move |level, message: &str| Entry { at, level, step: Some(step), message: message.to_owned() };
    let head = match row.step {
        step if (1..=build.recipe_steps).contains(&step) => {
            format!("[{step}/{}] {}", build.recipe_steps, row.cmd)
        }
        _ => row.cmd.clone(),
    };
    let ended = row.duration_ms.is_some();
    let errors = if ended { row.stderr.as_str() } else { "" };
    std::iter::once(entry(EntryLevel::Info, &head))
        .chain(lines(&row.stdout, ended).map(move |line| entry(EntryLevel::Info, line)))
        .chain(lines(errors, ended).map(move |line| entry(EntryLevel::Warn, line)))
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
