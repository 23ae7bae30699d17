//! `GET /metrics`: what this machine uses, read from `/proc` when asked.

use std::fs;
use std::io;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

use axum::Json;
use axum::extract::State;
use serde::Serialize;

use crate::error::ApiError;
use crate::server::Agent;

/// One sample. Sizes are bytes where the name does not say otherwise.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Metrics {
    ts: u64,
    cpu_count: usize,
    cpu_used_pct: f64,
    mem_total: u64,
    mem_used: u64,
    mem_cache: u64,
    mem_total_mib: u64,
    mem_used_mib: u64,
    disk_used: u64,
    disk_total: u64,
}

/// CPU time so far, in ticks.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct CpuTime {
    busy: u64,
    total: u64,
}

/// Remembers the last sample, since a share of CPU time is always that of an interval: from one call to the next.
#[derive(Default)]
pub(crate) struct CpuMeter {
    last: Mutex<(CpuTime, f64)>,
}

impl CpuMeter {
    fn used_pct(&self, now: CpuTime) -> f64 {
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        let total = now.total.saturating_sub(last.0.total);
        // Two calls within one tick: the old answer is the best one.
        if total > 0 {
            let busy = now.busy.saturating_sub(last.0.busy);
            let share = f64::from(u32::try_from(busy).unwrap_or(u32::MAX))
                / f64::from(u32::try_from(total).unwrap_or(u32::MAX));
            *last = (now, (share * 10_000.0).round() / 100.0);
        }
        last.1
    }
}

/// Handles the route.
pub(crate) async fn handle(State(agent): State<Arc<Agent>>) -> Result<Json<Metrics>, ApiError> {
    sample(&agent.cpu).map(Json).map_err(|error| ApiError::internal(format!("cannot sample: {error}")))
}

fn sample(cpu: &CpuMeter) -> io::Result<Metrics> {
    let stat = fs::read_to_string("/proc/stat")?;
    let memory = fs::read_to_string("/proc/meminfo")?;
    let disk = rustix::fs::statvfs("/")?;
    let field = |name| meminfo(&memory, name).unwrap_or_default();
    let mem_total = field("MemTotal");
    let mem_used = mem_total.saturating_sub(field("MemAvailable"));
    Ok(Metrics {
        ts: SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs(),
        cpu_count: stat.lines().filter(|line| line.starts_with("cpu") && !line.starts_with("cpu ")).count(),
        cpu_used_pct: cpu.used_pct(cpu_time(&stat).ok_or(io::ErrorKind::InvalidData)?),
        mem_total,
        mem_used,
        mem_cache: field("Cached"),
        mem_total_mib: mem_total >> 20,
        mem_used_mib: mem_used >> 20,
        disk_used: (disk.f_blocks - disk.f_bfree) * disk.f_frsize,
        disk_total: disk.f_blocks * disk.f_frsize,
    })
}

/// The first line: user, nice, system, idle, iowait, irq, softirq, steal (the rest is part of user already).
fn cpu_time(stat: &str) -> Option<CpuTime> {
    let ticks: Vec<u64> = stat
        .lines()
        .next()?
        .strip_prefix("cpu ")?
        .split_whitespace()
        .take(8)
        .map(|field| field.parse().ok())
        .collect::<Option<_>>()?;
    let total = ticks.iter().sum();
    let idle = ticks.get(3)? + ticks.get(4)?;
    Some(CpuTime { busy: total - idle, total })
}

/// A line like `MemTotal:  480980 kB`, in bytes.
pub(crate) fn meminfo(text: &str, name: &str) -> Option<u64> {
    let value = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))?;
    value.split_whitespace().next()?.parse::<u64>().ok()?.checked_mul(1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_what_the_kernel_writes() {
        let time = cpu_time("cpu  10 1 5 80 4 0 0 0 7 7\ncpu0 10 1 5 80 4 0 0 0 7 7\n").unwrap();
        assert_eq!(time, CpuTime { busy: 16, total: 100 });
        assert_eq!(cpu_time("intr 1 2"), None);
        assert_eq!(meminfo("MemTotal:  2 kB\nMemTotalX: 3 kB\n", "MemTotal"), Some(2048));
        assert_eq!(meminfo("", "MemTotal"), None);
    }

    #[test]
    fn the_share_is_that_of_the_interval() {
        let meter = CpuMeter::default();
        assert_eq!(meter.used_pct(CpuTime { busy: 50, total: 100 }), 50.0);
        assert_eq!(meter.used_pct(CpuTime { busy: 75, total: 200 }), 25.0);
        assert_eq!(meter.used_pct(CpuTime { busy: 75, total: 200 }), 25.0);
    }

    #[test]
    fn this_machine_is_plausible() {
        let metrics = sample(&CpuMeter::default()).unwrap();
        assert!(metrics.cpu_count >= 1 && (0.0..=100.0).contains(&metrics.cpu_used_pct));
        assert!(metrics.mem_used > 0 && metrics.mem_used < metrics.mem_total);
        assert!(metrics.disk_used > 0 && metrics.disk_used <= metrics.disk_total);
    }
}
