//! One entry: as it is kept, and what of a guest's words goes into it.

use std::collections::BTreeMap;

use chrono::{DateTime, SecondsFormat};
use sandbar_types::LogLevel;
use sandbar_types::log::{
    COMMAND_BYTES, GuestEntry, GuestEvent, LINE_BYTES, LoggedProcess, NAME_BYTES, bounded,
};
use serde::{Deserialize, Serialize};

use super::Heard;
use crate::journal::PauseReason;
use crate::sandbox::Target;

/// The most of a guest's message: a line, of which each byte may have become the three of U+FFFD, or a command and some words.
const MESSAGE_BYTES: usize =
    if LINE_BYTES * 3 > COMMAND_BYTES * 2 { LINE_BYTES * 3 } else { COMMAND_BYTES * 2 };

/// An entry as it is kept: one line of JSON.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Entry {
    #[serde(rename = "s")]
    pub(crate) seq: u64,
    /// When it came here.
    #[serde(rename = "t")]
    pub(crate) unix_ms: i64,
    #[serde(rename = "l")]
    pub(crate) level: LogLevel,
    #[serde(rename = "m")]
    pub(crate) message: String,
    #[serde(rename = "f")]
    pub(crate) fields: BTreeMap<String, String>,
    /// Where it stood in the guest's own log.
    #[serde(rename = "g", default, skip_serializing_if = "Option::is_none")]
    pub(super) guest: Option<Heard>,
}

/// An entry that has no place in the log yet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Draft {
    pub(super) level: LogLevel,
    pub(super) message: String,
    pub(super) fields: BTreeMap<String, String>,
    pub(super) guest: Option<Heard>,
}

impl Draft {
    pub(super) fn at(self, seq: u64, unix_ms: i64) -> Entry {
        let Self { level, message, fields, guest } = self;
        Entry { seq, unix_ms, level, message, fields, guest }
    }

    /// What a guest's agent said. It may be anything: nothing of it is longer than what is taken of it.
    pub(super) fn of_guest(said: GuestEntry, instance: &str) -> Self {
        let GuestEntry { seq, unix_ms, level, event, message, process, stream, exit_code, duration_ms } =
            said;
        let guest_time = DateTime::from_timestamp_millis(unix_ms);
        let guest_time = guest_time.map(|time| time.to_rfc3339_opts(SecondsFormat::Millis, true));
        let (pid, cmd, tag) = match process {
            Some(LoggedProcess { pid, cmd, tag }) => (Some(pid), Some(cmd), tag),
            None => (None, None, None),
        };
        let name = |text: String| bounded(&text, NAME_BYTES).to_owned();
        let fields = [
            ("source", Some("guest".to_owned())),
            ("event", Some(event.to_string())),
            ("pid", pid.map(|pid| pid.to_string())),
            ("cmd", cmd.map(name)),
            ("tag", tag.map(name)),
            ("stream", stream.map(|stream| stream.to_string())),
            ("exit_code", exit_code.map(|code| code.to_string())),
            ("duration_ms", duration_ms.map(|ms| ms.to_string())),
            ("guest_time", guest_time),
        ];
        Self {
            level,
            message: bounded(&message, MESSAGE_BYTES).to_owned(),
            fields: present(fields),
            guest: Some(Heard { instance: instance.to_owned(), seq }),
        }
    }

    /// Entries that the guest's agent threw out before they could be read.
    pub(super) fn missed(count: u64) -> Self {
        let fields = [
            ("source", Some("host".to_owned())),
            ("event", Some(GuestEvent::OutputLost.to_string())),
            ("entries", Some(count.to_string())),
        ];
        let message = format!("{count} entries of the guest are not in the log: they came too fast");
        Self { level: LogLevel::Warn, message, fields: present(fields), guest: None }
    }
}

fn present<const N: usize>(fields: [(&str, Option<String>); N]) -> BTreeMap<String, String> {
    fields.into_iter().filter_map(|(name, value)| Some((name.to_owned(), value?))).collect()
}

/// What a host has to say of a sandbox.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum HostEvent {
    Created,
    Paused(PauseReason),
    PauseFailed(&'static str),
    Resumed,
    ResumeFailed(&'static str),
    /// It was copied, and how long it stood still for that.
    Copied(Target, std::time::Duration),
    CopyFailed(Target, &'static str),
    /// When it ends by itself was changed: seconds, 0 = never.
    DeadlineSet(u32),
    NetworkSet,
    /// Another agent serves in the guest than before; how that one ended, in the guest's words.
    GuestAgentRestarted(Option<String>),
    /// Another agent of the host has taken it over.
    TakenOver,
}

impl HostEvent {
    pub(super) fn draft(self) -> Draft {
        use LogLevel::{Debug, Error, Info, Warn};
        let (level, event, message) = match self {
            Self::Created => (Info, "created", "the sandbox was created".to_owned()),
            Self::Paused(reason) => {
                let why = match reason {
                    PauseReason::Requested => "",
                    PauseReason::Idle => ": its time-out has passed",
                    PauseReason::HostRefused => ": its host is given up or shuts down",
                };
                (Info, "paused", format!("the sandbox was paused{why}"))
            }
            Self::PauseFailed(error) => (Error, "pause_failed", format!("it could not be paused: {error}")),
            Self::Resumed => (Info, "resumed", "the sandbox was resumed".to_owned()),
            Self::ResumeFailed(error) => {
                (Error, "resume_failed", format!("it could not be resumed: {error}"))
            }
            Self::Copied(target, stall) => (
                Info,
                copy_event(target),
                format!("it was copied and stood still for {} ms", stall.as_millis()),
            ),
            Self::CopyFailed(target, error) => {
                (Error, copy_event(target), format!("it could not be copied: {error}"))
            }
            Self::DeadlineSet(0) => (Info, "deadline", "it does not end by itself any more".to_owned()),
            Self::DeadlineSet(seconds) => {
                (Info, "deadline", format!("its time-out is {seconds} s from now on"))
            }
            Self::NetworkSet => (Info, "network", "where it may connect to was changed".to_owned()),
            Self::GuestAgentRestarted(reason) => {
                let why = reason.map(|reason| format!(": the one before {reason}")).unwrap_or_default();
                (Warn, "guest_agent_restarted", format!("the agent in the sandbox was started again{why}"))
            }
            Self::TakenOver => (Debug, "taken_over", "the host's agent was started again".to_owned()),
        };
        let fields = [("source", Some("host".to_owned())), ("event", Some(event.to_owned()))];
        Draft {
            level,
            message: bounded(&message, MESSAGE_BYTES).to_owned(),
            fields: present(fields),
            guest: None,
        }
    }
}

const fn copy_event(target: Target) -> &'static str {
    match target {
        Target::Snapshot(_) | Target::OwnPause(_) => "snapshot",
        Target::Disk(_) => "flattened",
        Target::Children => "forked",
    }
}

#[cfg(test)]
mod tests {
    use sandbar_types::log::OutputStream;

    use super::*;

    #[test]
    fn of_a_guests_words_no_more_is_taken_than_is_allowed() {
        let long = "\u{1}".repeat(1 << 20);
        let said = GuestEntry {
            seq: 9,
            unix_ms: i64::MAX,
            level: LogLevel::Error,
            event: GuestEvent::Output,
            message: long.clone(),
            process: Some(LoggedProcess { pid: 1, cmd: long.clone(), tag: Some(long) }),
            stream: Some(OutputStream::Stdout),
            exit_code: Some(-1),
            duration_ms: Some(u64::MAX),
        };
        let draft = Draft::of_guest(said, "i");
        assert_eq!(draft.message.len(), MESSAGE_BYTES);
        assert_eq!((draft.fields["cmd"].len(), draft.fields["tag"].len()), (NAME_BYTES, NAME_BYTES));
        assert!(!draft.fields.contains_key("guest_time"), "a time that is none");
        assert_eq!(draft.fields["source"], "guest");
        let line = serde_json::to_string(&draft.at(1, 2)).unwrap();
        assert!(line.bytes().all(|byte| (0x20..0x7f).contains(&byte)), "control characters are escaped");
    }
}
