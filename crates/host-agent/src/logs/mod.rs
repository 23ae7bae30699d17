//! What happened in each sandbox and to it, kept beside its disk for whoever asks later.
//!
//! ```text
//!   guest agent ──entries, as they come──▶ pull ──bounded──▶┐
//!                                                           Log ──▶ segments in the sandbox's folder ──▶ pages, followers
//!   the sandbox's task ──created, paused, resumed ...──────▶┘
//! ```
//!
//! - [`entry`]: one entry, and what of a guest's words goes into it. [`segments`]: files of a bounded size, the oldest of which goes.
//!   [`pull`]: the connection to the guest. [`reader`]: pages and followers.
//!
//! A log lives as long as the sandbox's folder: through pauses and restarts of this agent, to the sandbox's end. Nothing of it is
//! fsynced: after a power cut the last entries may be lacking. The guest is its sandbox's: how much it says in a second, in an entry and
//! in all is bounded here, and its clock is told beside ours, never instead.

mod entry;
mod pull;
mod reader;
mod segments;

use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use sandbar_types::id::{Id, Sandbox};
use tokio::sync::watch;

use crate::error::{Error, chain};
use crate::resources::blocking;
use crate::sandbox::activity::now_unix_ms;
use entry::Draft;
pub(crate) use entry::{Entry, HostEvent};
pub(crate) use pull::Pull;
pub(crate) use reader::{Filter, Follower, Page, PageRequest};
use segments::Segments;

/// One sandbox's log.
#[derive(Debug)]
pub(crate) struct Log {
    id: Id<Sandbox>,
    dir: PathBuf,
    writer: Mutex<Writer>,
    /// What followers wait for: each change says that there is more, and `true` that nothing comes any more.
    news: watch::Sender<bool>,
}

#[derive(Debug, Default)]
struct Writer {
    /// None until the log is first written to or asked where it is.
    segments: Option<Segments>,
    last: u64,
    heard: Option<Heard>,
    health: Health,
}

/// How far a guest's agent was heard.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub(crate) struct Heard {
    pub(crate) instance: String,
    pub(crate) seq: u64,
}

/// Whether entries can be written. A change is logged, not each failure.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
enum Health {
    #[default]
    Well,
    Failing,
}

impl Log {
    /// The log in `dir`, which need not exist: it comes with the first entry.
    pub(crate) fn new(id: Id<Sandbox>, dir: PathBuf) -> Arc<Self> {
        Arc::new(Self { id, dir, writer: Mutex::default(), news: watch::Sender::default() })
    }

    /// Adds something that the host has to say. A log that cannot be written keeps nobody from anything.
    pub(crate) async fn note(self: &Arc<Self>, event: HostEvent) {
        self.append(vec![event.draft()]).await;
    }

    /// Adds entries in their order.
    pub(crate) async fn append(self: &Arc<Self>, drafts: Vec<Draft>) {
        let log = Arc::clone(self);
        let written = blocking("write a sandbox's log", move || {
            log.write(drafts);
            Ok(())
        });
        if let Err(error) = written.await {
            tracing::error!(sandbox = %self.id, error = chain(&error), "its log was not written");
        }
    }

    fn write(&self, drafts: Vec<Draft>) {
        let mut writer = self.writer.lock().unwrap_or_else(PoisonError::into_inner);
        let now = now_unix_ms();
        let mut lines = Vec::new();
        let written = writer.open(&self.dir).and_then(|()| {
            for (number, draft) in (writer.last + 1..).zip(drafts) {
                let entry = draft.at(number, now);
                writer.last = number;
                writer.heard = entry.guest.clone().or_else(|| writer.heard.take());
                serde_json::to_writer(&mut lines, &entry)?;
                lines.push(b'\n');
            }
            writer.segments.as_mut().map_or(Ok(()), |segments| segments.append(&lines))
        });
        let health = match &written {
            Ok(()) => Health::Well,
            Err(_) => Health::Failing,
        };
        if let (Err(error), Health::Well) = (&written, writer.health) {
            tracing::warn!(sandbox = %self.id, %error, "its log cannot be written; entries are lost");
        }
        writer.health = health;
        drop(writer);
        self.news.send_modify(|_| {});
    }

    /// How far its guest's agent was heard.
    pub(crate) async fn heard(self: &Arc<Self>) -> Result<Option<Heard>, Error> {
        let log = Arc::clone(self);
        blocking("read a sandbox's log", move || {
            let mut writer = log.writer.lock().unwrap_or_else(PoisonError::into_inner);
            writer.open(&log.dir).map_err(Error::internal("read a sandbox's log"))?;
            Ok(writer.heard.clone())
        })
        .await
    }

    /// Nothing comes any more: followers read what there is and go.
    pub(crate) fn close(&self) {
        self.news.send_replace(true);
    }
}

impl Writer {
    /// Takes up what an agent before this one wrote.
    fn open(&mut self, dir: &std::path::Path) -> std::io::Result<()> {
        if self.segments.is_none() {
            let (segments, tail) = Segments::open(dir)?;
            for line in tail.split(|byte| *byte == b'\n') {
                let Ok(entry) = serde_json::from_slice::<Entry>(line) else { continue };
                self.last = self.last.max(entry.seq);
                self.heard = entry.guest.or_else(|| self.heard.take());
            }
            self.segments = Some(segments);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use sandbar_types::LogLevel;

    use super::*;

    fn draft(message: &str, seq: u64) -> Draft {
        Draft {
            level: LogLevel::Info,
            message: message.to_owned(),
            fields: [("source".to_owned(), "guest".to_owned())].into(),
            guest: Some(Heard { instance: "i".into(), seq }),
        }
    }

    #[tokio::test]
    async fn the_next_agent_goes_on_where_this_one_was() {
        let folder = tempfile::tempdir().unwrap();
        let dir = folder.path().join("logs");
        let id = Id::new();
        let log = Log::new(id, dir.clone());
        assert_eq!(log.heard().await.unwrap(), None);
        log.append(vec![draft("a", 1), draft("b", 2)]).await;
        log.note(HostEvent::Resumed).await;
        let next = Log::new(id, dir);
        assert_eq!(next.heard().await.unwrap(), Some(Heard { instance: "i".into(), seq: 2 }));
        next.append(vec![draft("c", 3)]).await;
        let page = next.page(PageRequest::default()).await.unwrap();
        assert_eq!(page.entries.iter().map(|entry| entry.seq).collect::<Vec<_>>(), [1, 2, 3, 4]);
        assert_eq!(page.entries[2].fields.get("event").map(String::as_str), Some("resumed"));
    }

    #[tokio::test]
    async fn a_log_whose_sandbox_has_no_folder_is_empty_and_stays_so() {
        let folder = tempfile::tempdir().unwrap();
        let log = Log::new(Id::new(), folder.path().join("gone").join("logs"));
        log.note(HostEvent::Created).await;
        assert_eq!(log.page(PageRequest::default()).await.unwrap().entries, []);
        assert!(!folder.path().join("gone").exists());
    }
}
