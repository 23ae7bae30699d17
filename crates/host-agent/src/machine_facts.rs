//! What this machine is, read from the kernel.

use std::path::Path;

/// Logical processors that this process may use.
pub(crate) fn cpu_cores() -> u32 {
    std::thread::available_parallelism().map_or(1, |n| u32::try_from(n.get()).unwrap_or(u32::MAX))
}

/// The machine's memory, in MiB.
pub(crate) fn memory_mb() -> u64 {
    meminfo_mb("MemTotal:")
}

/// What of it can be had without swapping, in MiB.
pub(crate) fn memory_available_mb() -> u64 {
    meminfo_mb("MemAvailable:")
}

/// The system's load average over one minute.
pub(crate) fn load_1m() -> f64 {
    std::fs::read_to_string("/proc/loadavg")
        .ok()
        .and_then(|text| text.split_whitespace().next()?.parse().ok())
        .unwrap_or_default()
}

/// Size of the filesystem that holds `path`, in GiB.
pub(crate) fn disk_gb(path: &Path) -> u64 {
    rustix::fs::statvfs(path).map_or(0, |s| s.f_blocks.saturating_mul(s.f_frsize) >> 30)
}

fn meminfo_mb(field: &str) -> u64 {
    std::fs::read_to_string("/proc/meminfo").map_or(0, |text| parse_meminfo_kb(&text, field) >> 10)
}

fn parse_meminfo_kb(text: &str, field: &str) -> u64 {
    text.lines()
        .find_map(|line| line.strip_prefix(field))
        .and_then(|rest| rest.split_whitespace().next()?.parse().ok())
        .unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_of_meminfo_are_told_apart() {
        let text = "MemTotal:       24000000 kB\nMemFree:          100 kB\nMemAvailable:   20480000 kB\n";
        assert_eq!(parse_meminfo_kb(text, "MemTotal:"), 24_000_000);
        assert_eq!(parse_meminfo_kb(text, "MemAvailable:"), 20_480_000);
        assert_eq!(parse_meminfo_kb(text, "SwapTotal:"), 0);
    }

    #[test]
    fn this_machine_has_processors_memory_and_disk() {
        assert!(cpu_cores() >= 1 && memory_mb() > 0 && disk_gb(Path::new("/")) > 0);
        assert!(memory_available_mb() <= memory_mb());
    }
}
