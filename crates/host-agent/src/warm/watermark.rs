//! How many spares of which template there should be: decisions without I/O.
//!
//! A template that nobody asks for has none, so an idle host holds no memory for a guess. What was asked for lately gets few: a spare
//! saves the machine's start, which a burst pays for in any case once it has claimed what there was.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use sandbar_types::id::{Id, Template};
use tokio::time::Instant;

/// How long a create counts.
const REMEMBERED: Duration = Duration::from_secs(600);
/// Creates in that time that are worth one spare.
const CREATES_PER_SPARE: usize = 4;
/// Spares of one template at most, where nobody says otherwise.
const MOST: usize = 4;
/// Spares of one template that an operator may ask for.
pub(crate) const MOST_FIXED: u32 = 64;

/// How many spares of a template there should be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum WarmPool {
    /// None.
    Off,
    /// As many, of each template that is in use.
    Fixed(u32),
    /// By recent demand, a few at most.
    #[default]
    Auto,
}

/// The text is not `off`, `auto` or a number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("off, auto, or a number up to {MOST_FIXED}")]
pub struct NoWarmPool;

impl std::str::FromStr for WarmPool {
    type Err = NoWarmPool;

    fn from_str(text: &str) -> Result<Self, NoWarmPool> {
        match text {
            "off" => Ok(Self::Off),
            "auto" => Ok(Self::Auto),
            number => match number.parse() {
                Ok(0) => Ok(Self::Off),
                Ok(spares) if spares <= MOST_FIXED => Ok(Self::Fixed(spares)),
                _ => Err(NoWarmPool),
            },
        }
    }
}

impl WarmPool {
    fn wants(self, recent_creates: usize) -> usize {
        match self {
            Self::Fixed(spares) if recent_creates > 0 => spares as usize,
            Self::Auto => recent_creates.div_ceil(CREATES_PER_SPARE).min(MOST),
            Self::Off | Self::Fixed(_) => 0,
        }
    }
}

/// The creates of one template, as far as they still count.
#[derive(Debug, Default)]
pub(super) struct Demand {
    /// The latest last. No more than make a difference.
    creates: VecDeque<Instant>,
}

impl Demand {
    pub(super) fn note(&mut self, now: Instant) {
        if self.creates.len() == CREATES_PER_SPARE * MOST {
            self.creates.pop_front();
        }
        self.creates.push_back(now);
    }

    /// How many spares it asks for.
    pub(super) fn wants(&self, pool: WarmPool, now: Instant) -> usize {
        let counts = |create: &&Instant| now.saturating_duration_since(**create) < REMEMBERED;
        pool.wants(self.creates.iter().rev().take_while(counts).count())
    }

    /// When it asks for less.
    pub(super) fn falls_at(&self, now: Instant) -> Option<Instant> {
        self.creates.iter().map(|create| *create + REMEMBERED).find(|end| *end > now)
    }

    pub(super) fn last(&self) -> Option<Instant> {
        self.creates.back().copied()
    }
}

/// One template's spares.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Level {
    pub(super) wanted: usize,
    pub(super) ready: usize,
    /// What one of them may come to take, in MiB.
    pub(super) memory_mb: u64,
    /// When somebody last wanted the template.
    pub(super) asked: Option<Instant>,
}

/// The host's memory, in MiB.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Memory {
    pub(super) available_mb: u64,
    /// What spares leave to others.
    pub(super) floor_mb: u64,
}

/// What to do next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Step {
    Make(Id<Template>),
    End(Id<Template>),
    Rest,
}

/// The next step towards the watermarks. Taken again and again it comes to rest: below the floor only ever ends anything, and
/// nothing is made that would lead there.
pub(super) fn next_step(levels: &BTreeMap<Id<Template>, Level>, memory: Memory) -> Step {
    let Memory { available_mb, floor_mb } = memory;
    let surplus = levels.iter().find(|(_, level)| level.ready > level.wanted);
    let short = || {
        let ready = levels.iter().filter(|(_, level)| level.ready > 0);
        ready.min_by_key(|(_, level)| level.asked).filter(|_| available_mb < floor_mb)
    };
    if let Some((template, _)) = surplus.or_else(short) {
        return Step::End(*template);
    }
    let affordable = |level: &Level| available_mb >= floor_mb.saturating_add(level.memory_mb);
    let missing = levels.iter().filter(|(_, level)| level.ready < level.wanted && affordable(level));
    missing.max_by_key(|(_, level)| level.asked).map_or(Step::Rest, |(template, _)| Step::Make(*template))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn asked(times: usize, at: Instant) -> Demand {
        let mut demand = Demand::default();
        (0..times).for_each(|_| demand.note(at));
        demand
    }

    #[test]
    fn a_template_gets_few_spares_and_none_once_nobody_asks() {
        let now = Instant::now();
        let wants = |times, pool| asked(times, now).wants(pool, now + Duration::from_secs(1));
        assert_eq!([0, 1, 4, 5, 1000].map(|times| wants(times, WarmPool::Auto)), [0, 1, 1, 2, MOST]);
        assert_eq!([0, 1, 1000].map(|times| wants(times, WarmPool::Fixed(3))), [0, 3, 3]);
        assert_eq!(wants(1000, WarmPool::Off), 0);

        let mut demand = asked(8, now);
        let later = now + REMEMBERED / 2;
        demand.note(later);
        assert_eq!(demand.wants(WarmPool::Auto, later), 3);
        assert_eq!(demand.falls_at(later), Some(now + REMEMBERED));
        assert_eq!(demand.wants(WarmPool::Auto, now + REMEMBERED), 1);
        assert_eq!(demand.falls_at(now + REMEMBERED), Some(later + REMEMBERED));
        assert_eq!(demand.wants(WarmPool::Fixed(3), later + REMEMBERED), 0);
        assert_eq!(demand.falls_at(later + REMEMBERED), None);
    }

    #[test]
    fn settings_are_read_as_they_are_written() {
        let read = |text: &str| text.parse::<WarmPool>();
        assert_eq!(read("off"), Ok(WarmPool::Off));
        assert_eq!(read("0"), Ok(WarmPool::Off));
        assert_eq!(read("auto"), Ok(WarmPool::Auto));
        assert_eq!(read("2"), Ok(WarmPool::Fixed(2)));
        for wrong in ["", "on", "-1", "1000", "2 "] {
            assert_eq!(read(wrong), Err(NoWarmPool), "{wrong:?}");
        }
    }

    #[test]
    fn who_was_asked_for_last_is_served_first_and_gives_back_last() {
        let now = Instant::now();
        let (old, young) = (Id::new(), Id::new());
        let level = |ready, seconds| Level {
            wanted: 2,
            ready,
            memory_mb: 512,
            asked: Some(now + Duration::from_secs(seconds)),
        };
        let plenty = Memory { available_mb: 10_000, floor_mb: 1000 };
        let scarce = Memory { available_mb: 999, floor_mb: 1000 };
        let both = BTreeMap::from([(old, level(1, 0)), (young, level(1, 9))]);
        assert_eq!(next_step(&both, plenty), Step::Make(young));
        assert_eq!(next_step(&both, scarce), Step::End(old));
        assert_eq!(next_step(&both, Memory { available_mb: 1511, ..scarce }), Step::Rest);
        let gone = BTreeMap::from([(old, Level { wanted: 0, ..level(1, 0) }), (young, level(0, 9))]);
        assert_eq!(next_step(&gone, plenty), Step::End(old));
        assert_eq!(next_step(&BTreeMap::new(), scarce), Step::Rest);
    }

    proptest! {
        /// Whatever is wanted, ready and available: the steps come to rest, with no more than is wanted, and never take the
        /// host below the floor; below it they end all that there is.
        #[test]
        fn steps_come_to_rest_above_the_floor(
            shelves in prop::collection::vec((0..6_usize, 0..6_usize, 1..4096_u64, 0..100_u64), 0..5),
            available in 0..40_000_u64,
            floor_mb in 0..20_000_u64,
        ) {
            let now = Instant::now();
            let mut levels: BTreeMap<_, _> = shelves
                .into_iter()
                .map(|(wanted, ready, memory_mb, asked)| {
                    (Id::new(), Level { wanted, ready, memory_mb, asked: Some(now + Duration::from_secs(asked)) })
                })
                .collect();
            let mut available_mb = available;
            let mut made = false;
            for _ in 0..100 {
                match next_step(&levels, Memory { available_mb, floor_mb }) {
                    Step::Make(template) => {
                        let level = levels.get_mut(&template).unwrap();
                        level.ready += 1;
                        available_mb -= level.memory_mb;
                        made = true;
                        prop_assert!(available_mb >= floor_mb);
                    }
                    Step::End(template) => {
                        let level = levels.get_mut(&template).unwrap();
                        level.ready -= 1;
                        available_mb += level.memory_mb;
                        prop_assert!(!made, "what was just made is ended");
                    }
                    Step::Rest => break,
                }
            }
            prop_assert_eq!(next_step(&levels, Memory { available_mb, floor_mb }), Step::Rest);
            prop_assert!(levels.values().all(|level| level.ready <= level.wanted));
            prop_assert!(available_mb >= floor_mb || levels.values().all(|level| level.ready == 0));
        }
    }
}
