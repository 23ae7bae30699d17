//! A sandbox's time: what happens when it is idle, and how far back its figures go.

use crate::words::words;

words! {
    /// What happens to a sandbox that was idle for its time-out.
    OnTimeout {
        /// It is destroyed.
        Kill = "kill",
        /// Its memory and disk are kept, and it can go on later.
        Pause = "pause",
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
