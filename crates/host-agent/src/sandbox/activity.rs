//! When a sandbox was last used, and whether it is in use: what its idle time-out is counted from.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicUsize, Ordering};

/// The moment of the last use, and the number of uses under way. Shared by all that use the sandbox.
#[derive(Debug)]
pub(crate) struct Activity {
    last_unix_ms: AtomicI64,
    under_way: AtomicUsize,
}

/// A use of the sandbox, from its making to its drop.
#[derive(Debug)]
pub(crate) struct Use(Arc<Activity>);

impl Activity {
    pub(crate) fn starting_now() -> Arc<Self> {
        Arc::new(Self { last_unix_ms: AtomicI64::new(now_unix_ms()), under_way: AtomicUsize::new(0) })
    }

    /// Begins a use.
    pub(crate) fn begin(self: &Arc<Self>) -> Use {
        self.under_way.fetch_add(1, Ordering::SeqCst);
        self.touch();
        Use(Arc::clone(self))
    }

    /// When the sandbox was last in use: now, where it is.
    pub(crate) fn last_unix_ms(&self) -> i64 {
        if self.under_way.load(Ordering::SeqCst) > 0 {
            self.touch();
        }
        self.last_unix_ms.load(Ordering::SeqCst)
    }

    fn touch(&self) {
        self.last_unix_ms.fetch_max(now_unix_ms(), Ordering::SeqCst);
    }
}

impl Drop for Use {
    fn drop(&mut self) {
        // First the moment, then the count: a reader between the two sees the sandbox as in use.
        self.0.touch();
        self.0.under_way.fetch_sub(1, Ordering::SeqCst);
    }
}

/// Milliseconds since the Unix epoch.
pub(crate) fn now_unix_ms() -> i64 {
    chrono::Utc::now().timestamp_millis()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sandbox_in_use_was_last_used_now() {
        let activity = Activity::starting_now();
        activity.last_unix_ms.store(1, Ordering::SeqCst);
        assert_eq!(activity.last_unix_ms(), 1);
        let first = activity.begin();
        let second = activity.begin();
        drop(first);
        let before = now_unix_ms();
        assert!(activity.last_unix_ms() >= before);
        drop(second);
        let after = activity.last_unix_ms();
        assert!(after >= before);
        assert_eq!(activity.last_unix_ms(), after);
    }
}
