//! What each sandbox uses of its host: processor time, memory, disk.
//!
//! One task samples all running sandboxes ([`sampler`]); each has its [`Figures`], in three rings of a fixed size ([`rings`]), from
//! the finest to the coarsest. They live as long as the agent knows the sandbox; a pause keeps them among its files, for the agent
//! that finds it there. The agent's own figures ([`figures`]) are another thing: those are for whoever runs the platform.

mod figures;
mod rings;
mod sampler;

use std::sync::{Mutex, MutexGuard, PoisonError};

use sandbar_types::MetricsRange;

pub(crate) use figures::Calls;
pub(crate) use rings::Point;
use rings::Rings;
pub(crate) use sampler::run;

/// One sandbox's figures.
#[derive(Debug, Default)]
pub(crate) struct Figures(Mutex<Rings>);

impl Figures {
    /// Adds a sample.
    fn push(&self, point: Point) {
        self.lock().push(point);
    }

    /// The points of a ring, oldest first.
    pub(crate) fn points(&self, range: MetricsRange) -> Vec<Point> {
        self.lock().points(range)
    }

    /// The same, with the average that is under way: for whoever keeps them, since a sandbox that pauses or ends does not complete it.
    pub(crate) fn points_to_keep(&self, range: MetricsRange) -> Vec<Point> {
        self.lock().to_kept().of(range)
    }

    /// All rings as they are kept in a file.
    pub(crate) fn to_json(&self) -> Vec<u8> {
        serde_json::to_vec(&self.lock().to_kept()).unwrap_or_default()
    }

    /// Takes up what a file has. What cannot be read is as good as nothing.
    pub(crate) fn load_json(&self, json: &[u8]) {
        match serde_json::from_slice(json) {
            Ok(kept) => *self.lock() = Rings::from_kept(kept),
            Err(error) => tracing::warn!(%error, "kept figures are not readable"),
        }
    }

    fn lock(&self) -> MutexGuard<'_, Rings> {
        // A panic in between leaves at worst one sample that is not counted.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_a_short_life_something_is_kept_in_every_range() {
        let figures = Figures::default();
        for half_seconds in 0..20 {
            figures.push(Point { unix_ms: half_seconds * 500, cpu_pct: 50.0, mem_bytes: 7, disk_bytes: 9 });
        }
        for range in MetricsRange::ALL {
            let kept = figures.points_to_keep(range);
            assert!(kept.len() > figures.points(range).len() || range == MetricsRange::TenMinutes, "{range}");
            assert!(
                kept.iter().all(|point| point.mem_bytes == 7 && (point.cpu_pct - 50.0).abs() < 1e-9),
                "{range}"
            );
        }
        assert_eq!(figures.points_to_keep(MetricsRange::TenMinutes).len(), 20);
    }
}
