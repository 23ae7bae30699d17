//! From chunks of a process's output to lines.

use std::sync::Arc;

use sandbar_types::log::{LINE_BYTES, LoggedProcess, OutputStream};

use super::Log;

/// One stream of a process. Dropped, it logs what was written without an end of the line.
pub(crate) struct Lines {
    log: Arc<Log>,
    process: Arc<LoggedProcess>,
    stream: OutputStream,
    /// A line that is not complete.
    partial: Vec<u8>,
    /// What was written since the log last took a line.
    lost: u64,
}

impl Lines {
    pub(crate) fn new(log: Arc<Log>, process: Arc<LoggedProcess>, stream: OutputStream) -> Self {
        Self { log, process, stream, partial: Vec::new(), lost: 0 }
    }

    /// What the process wrote next.
    pub(crate) fn take(&mut self, mut chunk: &[u8]) {
        // Of a flood not even the lines are looked for.
        if !self.log.takes_output() {
            self.lose(self.partial.len() + chunk.len());
            self.partial.clear();
            return;
        }
        while let Some(end) = chunk.iter().position(|byte| *byte == b'\n') {
            let (line, rest) = chunk.split_at(end);
            self.extend(line);
            self.end_line();
            chunk = rest.get(1..).unwrap_or_default();
        }
        self.extend(chunk);
    }

    /// More of the line; what is longer than an entry may be makes several.
    fn extend(&mut self, mut bytes: &[u8]) {
        while self.partial.len() + bytes.len() > LINE_BYTES {
            let room = LINE_BYTES.saturating_sub(self.partial.len());
            let (fits, rest) = bytes.split_at(room.min(bytes.len()));
            self.partial.extend_from_slice(fits);
            let cut = between_characters(&self.partial);
            let begun = self.partial.split_off(cut);
            self.end_line();
            self.partial = begun;
            bytes = rest;
        }
        self.partial.extend_from_slice(bytes);
    }

    fn end_line(&mut self) {
        let whole = self.partial.len();
        if self.partial.last() == Some(&b'\r') {
            self.partial.pop();
        }
        // An empty line says nothing to who looks for what happened.
        if !self.partial.is_empty() {
            if self.log.line(&self.process, self.stream, &self.partial, self.lost) {
                self.lost = 0;
            } else {
                self.lose(whole + 1);
            }
        }
        self.partial.clear();
    }

    fn lose(&mut self, bytes: usize) {
        self.lost = self.lost.saturating_add(u64::try_from(bytes).unwrap_or(u64::MAX));
    }
}

impl Drop for Lines {
    fn drop(&mut self) {
        self.end_line();
        if self.lost > 0 {
            self.log.lost(&self.process, self.stream, self.lost);
        }
    }
}

/// The end of the last whole character, as far as it is UTF-8.
fn between_characters(bytes: &[u8]) -> usize {
    let tail = bytes.iter().rev().take(4).position(|byte| byte & 0xc0 != 0x80);
    match tail.and_then(|back| bytes.len().checked_sub(back + 1)) {
        // The last character's first byte: whole where it is ASCII or all of it is there.
        Some(first) if std::str::from_utf8(bytes.get(first..).unwrap_or_default()).is_err() && first > 0 => {
            first
        }
        _ => bytes.len(),
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use proptest::prelude::*;
    use sandbar_types::log::{GuestEntry, GuestEvent};

    use super::*;
    use crate::log::logged;

    fn entries(log: &Log) -> Vec<GuestEntry> {
        let mut all = Vec::new();
        let mut after = 0;
        while let Some((chunk, last)) = { log.lock().after(after) } {
            let lines = chunk.split(|byte| *byte == b'\n').filter(|line| !line.is_empty());
            all.extend(lines.map(|line| serde_json::from_slice::<GuestEntry>(line).unwrap()));
            after = last;
        }
        all
    }

    fn messages(log: &Log) -> Vec<String> {
        entries(log).into_iter().map(|entry| entry.message).collect()
    }

    fn lines(log: &Arc<Log>) -> Lines {
        Lines::new(Arc::clone(log), logged(1, "cat", None), OutputStream::Stdout)
    }

    #[test]
    fn lines_are_whole_however_they_come_and_the_last_needs_no_end() {
        let log = Arc::new(Log::default());
        let mut out = lines(&log);
        for chunk in ["on", "e\ntw", "o\r\n\n\nthree\nfo", "ur"] {
            out.take(chunk.as_bytes());
        }
        assert_eq!(messages(&log), ["one", "two", "three"]);
        drop(out);
        assert_eq!(messages(&log), ["one", "two", "three", "four"]);
    }

    #[test]
    fn a_long_line_makes_several_entries_and_no_character_is_cut() {
        let log = Arc::new(Log::default());
        let text = "ä€x🦀".repeat(2_000);
        let mut out = lines(&log);
        out.take(text.as_bytes());
        out.take(b"\n");
        let all = messages(&log);
        assert!(all.len() >= 5 && all.iter().all(|line| line.len() <= LINE_BYTES));
        assert_eq!(all.concat(), text);
    }

    #[tokio::test(start_paused = true)]
    async fn of_a_flood_the_beginning_is_kept_and_the_rest_counted() {
        let log = Arc::new(Log::default());
        let mut out = lines(&log);
        let line = "x".repeat(99) + "\n";
        for _ in 0..100_000 {
            out.take(line.as_bytes());
        }
        assert!(log.lock().held < super::super::RING_BYTES, "nothing of the beginning is thrown out");
        let kept = entries(&log).len();
        assert!((500..2_000).contains(&kept), "{kept}");
        tokio::time::advance(Duration::from_secs(60)).await;
        out.take(b"after\n");
        let all = entries(&log);
        let [.., lost, after] = all.as_slice() else { panic!("{all:?}") };
        assert_eq!(lost.event, GuestEvent::OutputLost);
        let bytes = (100_000 - kept) * 100;
        assert!(lost.message.starts_with(&format!("{bytes} bytes of stdout")), "{}", lost.message);
        assert_eq!(after.message, "after");
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_lost_at_the_end_is_told_at_the_end() {
        let log = Arc::new(Log::default());
        let mut out = lines(&log);
        out.take("y\n".repeat(1_000_000).as_bytes());
        drop(out);
        assert_eq!(entries(&log).last().unwrap().event, GuestEvent::OutputLost);
    }

    proptest! {
        /// Whatever is written, in whatever chunks: the entries are the lines.
        #[test]
        fn chunks_do_not_matter(chunks in prop::collection::vec("[a-c\n]{0,20}", 0..40)) {
            let log = Arc::new(Log::default());
            let mut out = lines(&log);
            for chunk in &chunks {
                out.take(chunk.as_bytes());
            }
            drop(out);
            let text = chunks.concat();
            let expected: Vec<&str> = text.lines().filter(|line| !line.is_empty()).collect();
            prop_assert_eq!(messages(&log), expected);
        }
    }
}
