//! What each sandbox uses of its host: processor time, memory, disk.
//!
//! One task samples all running sandboxes ([`sampler`]); each has its [`Figures`], in three rings of a fixed size ([`rings`]), from
//! the finest to the coarsest. They live as long as the agent knows the sandbox; a pause keeps them among its files, for the agent
//! that finds it there.

mod rings;
mod sampler;

use std::sync::{Mutex, MutexGuard, PoisonError};

use sandbar_types::MetricsRange;

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
