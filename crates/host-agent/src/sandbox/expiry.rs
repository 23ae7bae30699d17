//! When a sandbox ends by itself: its time-out has passed since it was last used, or since it was set; and, where its pause failed, not
//! before the next try is due.

use std::time::Duration;

use tokio::time::Instant;

use super::activity::{Activity, now_unix_ms};
use crate::journal::Deadline;

/// Until the second try of a pause that failed, and the longest time between two. It is never given up, and never a reason to end the
/// sandbox.
const FIRST_RETRY: Duration = Duration::from_secs(5);
const LAST_RETRY: Duration = Duration::from_secs(300);

/// The tries that failed since the last success or use.
#[derive(Debug, Default)]
pub(super) struct Retry(Option<Failed>);

#[derive(Debug)]
struct Failed {
    next: Instant,
    wait: Duration,
}

impl Retry {
    /// A try failed: when is the next one due?
    pub(super) fn failed(&mut self, now: Instant) -> Duration {
        let wait = self.0.as_ref().map_or(FIRST_RETRY, |failed| (failed.wait * 2).min(LAST_RETRY));
        self.0 = Some(Failed { next: now + wait, wait });
        wait
    }

    /// Whatever failed is over.
    pub(super) fn clear(&mut self) {
        self.0 = None;
    }

    fn wait(&self, now: Instant) -> Duration {
        self.0.as_ref().map_or(Duration::ZERO, |failed| failed.next.saturating_duration_since(now))
    }
}

/// How long until a running sandbox's time is up; `None`: never.
pub(super) fn until_expiry(deadline: Deadline, activity: &Activity, retry: &Retry) -> Option<Duration> {
    let left = deadline.ends_at_unix_ms(activity.last_unix_ms())? - now_unix_ms();
    let left = Duration::from_millis(u64::try_from(left).unwrap_or_default());
    Some(left.max(retry.wait(Instant::now())))
}

#[cfg(test)]
mod tests {
    use sandbar_types::{OnTimeout, TimeoutFrom};

    use super::*;

    fn after(timeout_sec: u32) -> Deadline {
        let from = TimeoutFrom::Activity;
        Deadline { timeout_sec, on_timeout: OnTimeout::Pause, from, since_unix_ms: 0 }
    }

    #[test]
    fn a_time_out_from_the_start_passes_however_much_the_sandbox_is_used() {
        let activity = Activity::starting_now();
        let _in_use = activity.begin();
        let retry = Retry::default();
        let set = |seconds_ago: i64| Deadline {
            from: TimeoutFrom::Start,
            since_unix_ms: now_unix_ms() - seconds_ago * 1000,
            ..after(60)
        };
        assert_eq!(until_expiry(set(61), &activity, &retry), Some(Duration::ZERO));
        assert!(until_expiry(set(0), &activity, &retry).unwrap() > Duration::from_secs(30));
        assert_eq!(until_expiry(Deadline { timeout_sec: 0, ..set(61) }, &activity, &retry), None);
        assert!(until_expiry(after(60), &activity, &retry).unwrap() > Duration::from_secs(30));
    }

    #[test]
    fn tries_that_fail_come_ever_more_seldom_and_never_end() {
        let mut retry = Retry::default();
        let now = Instant::now();
        let waits: Vec<_> = (0..9).map(|_| retry.failed(now).as_secs()).collect();
        assert_eq!(waits, [5, 10, 20, 40, 80, 160, 300, 300, 300]);
        retry.clear();
        assert_eq!(retry.failed(now), FIRST_RETRY);
    }

    #[test]
    fn time_is_up_when_both_idleness_and_the_last_failure_are_long_enough_ago() {
        let activity = Activity::starting_now();
        let mut retry = Retry::default();
        assert_eq!(until_expiry(after(0), &activity, &retry), None);
        let left = until_expiry(after(3600), &activity, &retry).unwrap();
        assert!(left <= Duration::from_secs(3600) && left > Duration::from_secs(3000), "{left:?}");
        retry.failed(Instant::now() + Duration::from_secs(7200));
        assert!(until_expiry(after(3600), &activity, &retry).unwrap() > Duration::from_secs(7000));
    }
}
