//! A sandbox's time: what happens when it is idle, and how far back its figures go.

use crate::words::words;

words! {
    /// What happens to a sandbox that was idle for its time-out.
    OnTimeout {
        /// It is destroyed.
        Kill = "kill",
        /// Its memory and disk are kept, and it can go on later.
        Pause = "pause",
        /// Its disk alone is kept, and it boots from that later.
        PauseFilesystem = "pause_filesystem",
    }
}

impl OnTimeout {
    /// What is kept of it; none = nothing.
    #[must_use]
    pub const fn keeps(self) -> Option<PauseMode> {
        match self {
            Self::Kill => None,
            Self::Pause => Some(PauseMode::Full),
            Self::PauseFilesystem => Some(PauseMode::Filesystem),
        }
    }
}

words! {
    /// What a pause keeps of a sandbox.
    PauseMode {
        /// Its memory and its disk: it goes on where it was.
        Full = "full",
        /// Its disk alone: it boots.
        Filesystem = "filesystem",
    }
}

words! {
    /// From when a sandbox's time-out counts.
    TimeoutFrom {
        /// From its last use: it ends when it is idle for that long.
        Activity = "activity",
        /// From when it was made, resumed or given this time-out: it ends then, used or not.
        Start = "start",
    }
}

words! {
    /// How far back a sandbox's figures go, and with that how fine they are.
    MetricsRange {
        /// Ten minutes, a point every half second.
        TenMinutes = "10m",
        /// Two hours, a point every half minute.
        TwoHours = "2h",
        /// A day, a point every five minutes.
        Day = "24h",
    }
}

impl MetricsRange {
    /// All ranges.
    pub const ALL: [Self; 3] = [Self::TenMinutes, Self::TwoHours, Self::Day];
}
