//! The rate of the host's time-stamp counter.

use std::arch::x86_64::_rdtsc;

use rustix::time::{ClockId, clock_gettime};

/// Length of the measurement. The error is that of two clock readings (some 50 ns), so far below a hundred parts per million.
const SPAN_NS: u64 = 4_000_000;

/// Tries for a pair of readings that nothing interrupted.
const READINGS: usize = 5;

/// Measures the rate. Takes a few milliseconds of processor time: sleeping would let the thread move while a virtual machine's
/// processors are not promised to agree to the nanosecond, and wake-ups are late by more than the measurement needs.
pub(crate) fn measure_khz() -> u32 {
    let (start_ticks, start_ns) = reading();
    while now_ns() - start_ns < SPAN_NS {
        std::hint::spin_loop();
    }
    let (end_ticks, end_ns) = reading();
    let (ticks, ns) = (end_ticks.wrapping_sub(start_ticks), end_ns - start_ns);
    u32::try_from(u128::from(ticks) * 1_000_000 / u128::from(ns)).unwrap_or(u32::MAX)
}

/// The counter and the clock at one moment: the reading whose two counter values lie closest together.
fn reading() -> (u64, u64) {
    let mut best = (u64::MAX, 0, 0);
    for _ in 0..READINGS {
        let before = ticks();
        let ns = now_ns();
        let width = ticks().wrapping_sub(before);
        if width < best.0 {
            best = (width, before.wrapping_add(width / 2), ns);
        }
    }
    (best.1, best.2)
}

fn ticks() -> u64 {
    // SAFETY: every x86-64 processor has the instruction, and Linux leaves it to user space.
    unsafe { _rdtsc() }
}

fn now_ns() -> u64 {
    let now = clock_gettime(ClockId::Monotonic);
    u64::try_from(now.tv_sec).unwrap_or(0) * 1_000_000_000 + u64::try_from(now.tv_nsec).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn measurements_agree() {
        let rates: Vec<u64> = (0..5).map(|_| u64::from(measure_khz())).collect();
        let (low, high) = (*rates.iter().min().unwrap(), *rates.iter().max().unwrap());
        assert!(low > 100_000, "{rates:?}");
        assert!((high - low) * 1_000 < low, "apart by more than 0.1 %: {rates:?}");
    }
}
