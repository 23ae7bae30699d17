//! What is said of a sandbox after the fact, and the lines in which a guest's agent tells it to its host.

use serde::{Deserialize, Serialize};

use crate::words::words;

words! {
    /// How much an entry matters.
    LogLevel {
        /// To whoever looks for a fault of the platform.
        Debug = "debug",
        /// In the ordinary course.
        Info = "info",
        /// Perhaps not as it should be.
        Warn = "warn",
        /// Something was asked for and did not come about.
        Error = "error",
    }
}

impl LogLevel {
    /// All levels, the least first.
    pub const ALL: [Self; 4] = [Self::Debug, Self::Info, Self::Warn, Self::Error];

    /// Whether it matters as much as `least`.
    #[must_use]
    pub const fn is_at_least(self, least: Self) -> bool {
        self as u8 >= least as u8
    }
}

words! {
    /// From which end a log is read.
    LogDirection {
        /// The oldest entry first.
        Forward = "forward",
        /// The newest entry first.
        Backward = "backward",
    }
}

words! {
    /// What a guest's agent may speak of.
    GuestEvent {
        /// A process was started from outside.
        ProcessStart = "process_start",
        /// It ended.
        ProcessEnd = "process_end",
        /// It could not be started.
        ProcessRefused = "process_refused",
        /// It wrote a line.
        Output = "output",
        /// It wrote more than is kept.
        OutputLost = "output_lost",
        /// Something about the agent itself.
        Agent = "agent",
    }
}

words! {
    /// Where a process wrote a line.
    OutputStream {
        /// Standard output.
        Stdout = "stdout",
        /// Standard error.
        Stderr = "stderr",
    }
}

/// The bytes of a line of output that make one entry; what is longer makes several.
pub const LINE_BYTES: usize = 4096;
/// The most bytes of a command line in an entry.
pub const COMMAND_BYTES: usize = 1024;
/// The most bytes of a program's name or of a tag.
pub const NAME_BYTES: usize = 256;

/// The first line of what a guest's agent tells: who tells. Another agent than before counts its entries anew.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct GuestLogHead {
    /// Different for each start of an agent.
    pub instance: String,
}

/// One entry as a guest's agent tells it: the guest's words, to be bounded by whoever reads them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct GuestEntry {
    /// One more than that of the entry before.
    pub seq: u64,
    /// By the guest's clock.
    pub unix_ms: i64,
    /// How much it matters.
    pub level: LogLevel,
    /// What it is.
    pub event: GuestEvent,
    /// In words, or the line that was written.
    pub message: String,
    /// The process that it is about.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub process: Option<LoggedProcess>,
    /// Where the process wrote.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stream: Option<OutputStream>,
    /// How the process ended, where it did by itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub exit_code: Option<i32>,
    /// How long it ran.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub duration_ms: Option<u64>,
}

/// A process that was started from outside.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LoggedProcess {
    /// Its id in the guest.
    pub pid: u32,
    /// The program, without its arguments.
    pub cmd: String,
    /// What whoever started it calls it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tag: Option<String>,
}

/// The beginning of `text`, up to so many bytes.
#[must_use]
pub fn bounded(text: &str, bytes: usize) -> &str {
    text.get(..text.floor_char_boundary(bytes)).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn levels_are_in_their_order() {
        for (rank, level) in LogLevel::ALL.into_iter().enumerate() {
            for (other, least) in LogLevel::ALL.into_iter().enumerate() {
                assert_eq!(level.is_at_least(least), rank >= other, "{level} {least}");
            }
        }
    }

    #[test]
    fn texts_are_cut_between_characters() {
        assert_eq!(bounded("aäb", 2), "a");
        assert_eq!(bounded("aäb", 3), "aä");
        assert_eq!(bounded("aäb", 9), "aäb");
    }
}
