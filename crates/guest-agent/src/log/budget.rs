//! How much output may be logged: a bucket of bytes that fills up again by and by. What a flood begins with is kept; once the bucket is
//! empty nothing is, until there is enough in it again for more than a line between two gaps.

use tokio::time::Instant;

/// What may come at once, and each second after that.
const BURST: u64 = 256 << 10;
const PER_SECOND: u64 = 32 << 10;
/// What has to be in an empty bucket before anything is taken out again.
const AGAIN: u64 = BURST / 8;
/// What a line costs beyond its bytes: an entry has more than them.
const LINE: u64 = 128;

/// The bucket.
#[derive(Debug)]
pub(super) struct Budget {
    left: u64,
    dry: bool,
    /// Up to when it was filled.
    filled: Instant,
}

impl Budget {
    pub(super) fn full() -> Self {
        Self { left: BURST, dry: false, filled: Instant::now() }
    }

    /// Takes a line out, if there is enough left.
    pub(super) fn take(&mut self, bytes: usize) -> bool {
        let cost = LINE + u64::try_from(bytes).unwrap_or(u64::MAX / 2);
        self.dry = self.is_dry() || self.left < cost;
        if !self.dry {
            self.left -= cost;
        }
        !self.dry
    }

    /// Whether nothing can be taken out for now.
    pub(super) fn is_dry(&mut self) -> bool {
        self.fill();
        self.dry && self.left < AGAIN
    }

    fn fill(&mut self) {
        let now = Instant::now();
        let millis = u64::try_from(now.duration_since(self.filled).as_millis()).unwrap_or(u64::MAX);
        let more = millis.saturating_mul(PER_SECOND) / 1000;
        // Less than a byte's time is left for the next look.
        if more > 0 {
            self.left = self.left.saturating_add(more).min(BURST);
            self.filled = now;
        }
    }
}
