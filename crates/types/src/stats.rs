//! What a team has running at a moment, and how far back charts of it go.

use crate::words::words;

/// What a team has reserved at a moment: sandboxes that run or start count, and of those that are paused half the memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Reserved {
    /// Sandboxes.
    pub running_count: u64,
    /// Their virtual CPUs.
    pub vcpus: u64,
    /// Their memory in MiB, and half of that of the paused ones, rounded up.
    pub memory_mb: u64,
}

impl Reserved {
    /// The larger of each.
    #[must_use]
    pub fn max(self, other: Self) -> Self {
        Self {
            running_count: self.running_count.max(other.running_count),
            vcpus: self.vcpus.max(other.vcpus),
            memory_mb: self.memory_mb.max(other.memory_mb),
        }
    }
}

words! {
    /// How far back a team's figures go, and with that how fine they are.
    StatsRange {
        /// Five minutes, a point every ten seconds.
        FiveMinutes = "5m",
        /// An hour, a point every half minute.
        Hour = "1h",
        /// Six hours, a point every three minutes.
        SixHours = "6h",
        /// A day, a point every twelve minutes.
        Day = "24h",
        /// Thirty days, a point every six hours.
        Month = "30d",
    }
}

impl StatsRange {
    /// All ranges.
    pub const ALL: [Self; 5] = [Self::FiveMinutes, Self::Hour, Self::SixHours, Self::Day, Self::Month];

    /// Seconds from one point to the next. Whatever the spans of the samples that are as old as the range reaches, they divide it:
    /// [`Self::coarsest_sample_sec`].
    #[must_use]
    pub const fn step_sec(self) -> u32 {
        match self {
            Self::FiveMinutes => 10,
            Self::Hour => 30,
            Self::SixHours => 180,
            Self::Day => 720,
            Self::Month => 21_600,
        }
    }

    /// How many points: no range has many, however much there is to tell.
    #[must_use]
    pub const fn points(self) -> u32 {
        match self {
            Self::FiveMinutes => 30,
            Self::Hour | Self::SixHours | Self::Day | Self::Month => 120,
        }
    }

    /// The largest span of a sample that the range may meet.
    #[must_use]
    pub fn coarsest_sample_sec(self) -> u32 {
        let reaches = self.step_sec() * self.points();
        MERGES
            .iter()
            .filter(|merge| reaches > merge.after_sec)
            .map(|merge| merge.into_sec)
            .max()
            .unwrap_or(SAMPLE_SEC)
    }
}

/// Seconds that a sample stands for when it is taken.
pub const SAMPLE_SEC: u32 = 10;

/// How samples become fewer with age.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Merge {
    /// The span of those that are merged.
    pub from_sec: u32,
    /// The span of what they become.
    pub into_sec: u32,
    /// At this age.
    pub after_sec: u32,
}

/// A sample a minute after two hours, one an hour after two days.
pub const MERGES: [Merge; 2] = [
    Merge { from_sec: SAMPLE_SEC, into_sec: 60, after_sec: 2 * 3600 },
    Merge { from_sec: 60, into_sec: 3600, after_sec: 2 * 86_400 },
];

/// Seconds after which samples are forgotten: sixty days.
pub const SAMPLES_KEPT_SEC: u32 = 60 * 86_400;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_sample_lies_across_the_border_of_two_points() {
        for range in StatsRange::ALL {
            assert_eq!(range.step_sec() % range.coarsest_sample_sec(), 0, "{range}");
            assert!(range.step_sec() * range.points() <= SAMPLES_KEPT_SEC, "{range}");
        }
        for merge in MERGES {
            assert_eq!(merge.into_sec % merge.from_sec, 0);
        }
    }

    #[test]
    fn a_range_is_as_long_as_its_name_says() {
        for (range, seconds) in
            [("5m", 300), ("1h", 3600), ("6h", 21_600), ("24h", 86_400), ("30d", 30 * 86_400)]
        {
            let range: StatsRange = range.parse().unwrap();
            assert_eq!(range.step_sec() * range.points(), seconds, "{range}");
        }
        assert!("7d".parse::<StatsRange>().is_err());
    }

    #[test]
    fn the_larger_of_each() {
        let a = Reserved { running_count: 1, vcpus: 9, memory_mb: 5 };
        let b = Reserved { running_count: 2, vcpus: 3, memory_mb: 7 };
        assert_eq!(a.max(b), Reserved { running_count: 2, vcpus: 9, memory_mb: 7 });
    }
}
