//! How many folders are watched at once.

use std::sync::Arc;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::WatchError;

/// The kernel gives root 128 queues for the whole machine; the programs in the sandbox want some too.
pub(super) const WATCHERS_MAX: usize = 96;

/// Room for watches, streamed and polled together.
#[derive(Debug)]
pub(super) struct Places(Arc<Semaphore>);

/// Room for one.
#[derive(Debug)]
pub(in crate::filesystem) struct Place {
    _permit: OwnedSemaphorePermit,
}

impl Places {
    pub(super) fn new() -> Self {
        Self(Arc::new(Semaphore::new(WATCHERS_MAX)))
    }

    pub(super) fn take(&self) -> Result<Place, WatchError> {
        let permit = Arc::clone(&self.0).try_acquire_owned().map_err(|_| WatchError::TooMany)?;
        Ok(Place { _permit: permit })
    }
}
