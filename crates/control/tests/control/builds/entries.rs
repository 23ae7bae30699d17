//! A build's log as one list of entries: by number and by time, forward and backward, of each level, the same.

use chrono::{DateTime, TimeDelta, Utc};
use sandbar_control::builds::{Entry, EntryQuery, EntryStart};
use sandbar_types::{LogDirection, LogLevel};

use super::*;

impl Building {
    async fn page(&self, build: &Build, least: LogLevel, from: EntryStart, limit: usize) -> Vec<Entry> {
        self.world.control.build_entries(build, &EntryQuery { least, from, limit }).await.unwrap()
    }

    /// A log of two attempts whose steps all began at once, the last of which writes still.
    async fn logged(&self) -> Build {
        let id = self.submit("work", &["echo one", "echo two", "echo three"]).await.id;
        self.world.execute("UPDATE template_builds SET note = 'told first', attempts = 2").await;
        self.world
            .execute(
                r"INSERT INTO template_build_logs (build_id, attempt, step, cmd, stdout, stderr, started_at, duration_ms)
                  SELECT id, attempt, step, 'cmd',
                         CASE step WHEN 1 THEN E'a\nb\nc\n' WHEN 2 THEN '' ELSE E'x\ny' END,
                         CASE step WHEN 1 THEN '' WHEN 2 THEN E'w1\n\nw2' ELSE E'late\n' END,
                         created_at, CASE WHEN attempt = 2 AND step = 3 THEN NULL ELSE 1 END
                  FROM template_builds, generate_series(1, 2) attempt, generate_series(1, 3) step",
            )
            .await;
        self.world.control.build_get(&self.world.ctx, BuildScope::Team, id).await.unwrap()
    }
}

fn messages(entries: &[Entry]) -> Vec<&str> {
    entries.iter().map(|entry| entry.message.as_str()).collect()
}

#[tokio::test]
async fn pages_neither_skip_nor_repeat_however_they_are_asked_for() {
    let building = Building::new(Queue::Postgres).await;
    let build = building.logged().await;
    let whole = building.page(&build, LogLevel::Debug, EntryStart::After(0), 100).await;
    let first = ["[1/3] cmd", "a", "b", "c", "[2/3] cmd", "w1", "", "w2", "[3/3] cmd"];
    let expected = [&["told first"][..], &first, &["x", "y", "late"], &first, &["x"]].concat();
    assert_eq!(messages(&whole), expected, "what has not ended has whole lines and no errors");
    assert!(whole.is_sorted_by(|one, next| one.at < next.at), "each has a time of its own");
    assert!(whole.iter().all(|entry| entry.at.timestamp_subsec_nanos() % 1_000_000 == 0));

    let mut warnings = whole.clone();
    warnings.retain(|entry| entry.level == LogLevel::Warn);
    assert_eq!(messages(&warnings), ["told first", "w1", "", "w2", "late", "w1", "", "w2"]);
    for (least, expected) in [
        (LogLevel::Debug, &whole),
        (LogLevel::Info, &whole),
        (LogLevel::Warn, &warnings),
        (LogLevel::Error, &Vec::new()),
    ] {
        for limit in [1, 2, 3, 100] {
            let mut seen = Vec::new();
            loop {
                let page = building.page(&build, least, EntryStart::After(seen.len() as u64), limit).await;
                if page.is_empty() {
                    break;
                }
                assert!(page.len() <= limit);
                seen.extend(page);
            }
            assert_eq!(&seen, expected, "by number, {least}, {limit}");

            let (mut seen, mut cursor) = (Vec::new(), None::<DateTime<Utc>>);
            loop {
                let from = EntryStart::At(cursor, LogDirection::Forward);
                let page = building.page(&build, least, from, limit).await;
                let Some(last) = page.last() else { break };
                cursor = Some(last.at + TimeDelta::milliseconds(1));
                seen.extend(page);
            }
            assert_eq!(&seen, expected, "forward, {least}, {limit}");

            let (mut seen, mut cursor) = (Vec::new(), None::<DateTime<Utc>>);
            loop {
                let from = EntryStart::At(cursor, LogDirection::Backward);
                let page = building.page(&build, least, from, limit).await;
                let Some(last) = page.last() else { break };
                cursor = Some(last.at);
                seen.extend(page);
            }
            seen.reverse();
            assert_eq!(&seen, expected, "backward, {least}, {limit}");
        }
    }
}
