//! A sandbox's states and the transitions between them.
//!
//! ```text
//!   pending ──► starting ──► running ◄──► (pausing, resuming) ◄──► paused
//!                  │          │   ▲                                   │
//!                  │          │   └── snapshotting (back to either) ──┤
//!                  └─► missing ◄┘                                     │
//!                        │  └──► running | paused | stopped           │
//!        any but the two ends ──► stopping ──► stopped                │
//!        any but the two ends ──► error                               ▼
//! ```
//!
//! - `pending`: the row exists, no host has been asked yet.
//! - `starting`: a host has been asked for it.
//! - `running`, `paused`: at rest. One becomes the other without a step between where the host did it by itself: a sandbox that was
//!   idle, or a request that was given up here and carried out there.
//! - `pausing`, `resuming`, `snapshotting`, `stopping`: work in progress, never for longer than a minute.
//! - `missing`: its host cannot be reached. Unknown is not dead: nothing is lost.
//! - `stopped`, `error`: the ends. Nothing leaves them.
//!
//! Every write of a status is a compare-and-set against [`SandboxStatus::sources_of`]: a race has one winner.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// The state of a sandbox. See the module's drawing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[expect(missing_docs, reason = "the module's documentation says what each is")]
pub enum SandboxStatus {
    Pending,
    Starting,
    Running,
    Pausing,
    Paused,
    Resuming,
    Snapshotting,
    Missing,
    Stopping,
    Stopped,
    Error,
}

use SandboxStatus::{
    Error, Missing, Paused, Pausing, Pending, Resuming, Running, Snapshotting, Starting, Stopped, Stopping,
};

impl SandboxStatus {
    /// All states.
    pub const ALL: [Self; 11] = [
        Pending,
        Starting,
        Running,
        Pausing,
        Paused,
        Resuming,
        Snapshotting,
        Missing,
        Stopping,
        Stopped,
        Error,
    ];

    /// The states that this one may become.
    #[must_use]
    pub const fn targets(self) -> &'static [Self] {
        match self {
            Pending => &[Starting, Stopping, Error],
            Starting => &[Running, Missing, Stopping, Error],
            Running => &[Pausing, Paused, Snapshotting, Missing, Stopping, Stopped, Error],
            // A pause that fails leaves the sandbox running.
            Pausing => &[Paused, Running, Missing, Stopping, Stopped, Error],
            Paused => &[Resuming, Running, Snapshotting, Stopping, Stopped, Error],
            Resuming => &[Running, Paused, Missing, Stopping, Stopped, Error],
            Snapshotting => &[Running, Paused, Missing, Stopping, Stopped, Error],
            Missing => &[Running, Paused, Stopping, Stopped, Error],
            Stopping => &[Stopped, Error],
            Stopped | Error => &[],
        }
    }

    /// The states that may become `target`: what a compare-and-set checks against.
    #[must_use]
    pub fn sources_of(target: Self) -> Vec<Self> {
        Self::ALL.into_iter().filter(|from| from.targets().contains(&target)).collect()
    }

    /// Whether nothing leaves this state.
    #[must_use]
    pub const fn is_end(self) -> bool {
        self.targets().is_empty()
    }

    /// Whether the state marks work in progress, which may not last.
    #[must_use]
    pub const fn is_transitional(self) -> bool {
        matches!(self, Pending | Starting | Pausing | Resuming | Snapshotting | Stopping)
    }

    /// Whether the sandbox occupies its host's processors and memory, or is about to, and so counts against its team's quotas. One
    /// that cannot be reached does; one that is being ended is given up already, whether its host answers or not. The index
    /// `sandboxes_occupying` says the same.
    #[must_use]
    pub const fn occupies(self) -> bool {
        match self {
            Pending | Starting | Running | Pausing | Resuming | Snapshotting | Missing => true,
            Paused | Stopping | Stopped | Error => false,
        }
    }

    /// The word used in the database and the API.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Pending => "pending",
            Starting => "starting",
            Running => "running",
            Pausing => "pausing",
            Paused => "paused",
            Resuming => "resuming",
            Snapshotting => "snapshotting",
            Missing => "missing",
            Stopping => "stopping",
            Stopped => "stopped",
            Error => "error",
        }
    }
}

impl fmt::Display for SandboxStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Text that names no state.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("unknown sandbox status {0:?}")]
pub struct UnknownStatus(String);

impl FromStr for SandboxStatus {
    type Err = UnknownStatus;

    fn from_str(text: &str) -> Result<Self, UnknownStatus> {
        Self::ALL.into_iter().find(|s| s.as_str() == text).ok_or_else(|| UnknownStatus(text.to_owned()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_round_trip() {
        for status in SandboxStatus::ALL {
            assert_eq!(status.as_str().parse(), Ok(status));
            assert_eq!(serde_json::to_string(&status).unwrap(), format!("\"{status}\""));
        }
    }

    #[test]
    fn every_living_state_can_be_stopped_or_fail() {
        for status in SandboxStatus::ALL {
            if status.is_end() {
                continue;
            }
            assert!(status.targets().contains(&Error), "{status}");
            assert!(status == Stopping || status.targets().contains(&Stopping), "{status}");
        }
    }

    #[test]
    fn every_state_is_reachable_and_every_living_one_ends() {
        fn reaches(from: SandboxStatus) -> Vec<SandboxStatus> {
            let mut seen = vec![from];
            let mut next = 0;
            while let Some(status) = seen.get(next).copied() {
                next += 1;
                seen.extend(
                    status.targets().iter().filter(|t| !seen.contains(t)).copied().collect::<Vec<_>>(),
                );
            }
            seen
        }
        assert_eq!(reaches(Pending).len(), SandboxStatus::ALL.len());
        for status in SandboxStatus::ALL {
            assert!(reaches(status).iter().any(|s| s.is_end()), "{status}");
        }
    }

    #[test]
    fn nothing_leaves_an_end_and_a_lost_host_ends_nothing() {
        assert!(Stopped.is_end() && Error.is_end());
        assert_eq!(SandboxStatus::ALL.into_iter().filter(|s| s.is_end()).count(), 2);
        // A host that comes back finds its sandboxes where they were.
        assert!(Missing.targets().contains(&Running) && Missing.targets().contains(&Paused));
        // Paused sandboxes need no host to be alive: they never go missing.
        assert!(!Paused.targets().contains(&Missing));
    }
}
