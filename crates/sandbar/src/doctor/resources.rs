//! Memory, and the means to bound what sandboxes take of it.

use std::fs;

use super::Finding;

const CGROUPS: &str = "cgroups";
const MEMORY: &str = "memory";

/// Controllers that bound a sandbox.
const CONTROLLERS: [&str; 3] = ["cpu", "memory", "pids"];
/// KiB of one sandbox of the default size, and of the platform itself.
const NEEDED_KIB: u64 = 1 << 20;
const COMFORTABLE_KIB: u64 = 3 << 20;

pub(super) fn check_cgroups() -> Finding {
    cgroups(fs::read_to_string("/sys/fs/cgroup/cgroup.controllers").ok().as_deref())
}

fn cgroups(controllers: Option<&str>) -> Finding {
    let advice = "boot with cgroup v2 (systemd.unified_cgroup_hierarchy=1)";
    let Some(controllers) = controllers else {
        return Finding::warn(
            CGROUPS,
            "no cgroup v2 at /sys/fs/cgroup: sandboxes cannot be bounded by the host",
            advice,
        );
    };
    let there: Vec<&str> = controllers.split_whitespace().collect();
    let missing: Vec<&str> = CONTROLLERS.into_iter().filter(|wanted| !there.contains(wanted)).collect();
    if missing.is_empty() {
        Finding::ok(CGROUPS, "cgroup v2 with the controllers cpu, memory and pids")
    } else {
        Finding::warn(CGROUPS, format!("cgroup v2 without the controllers {}", missing.join(", ")), advice)
    }
}

pub(super) fn check_memory() -> Finding {
    memory(&fs::read_to_string("/proc/meminfo").unwrap_or_default())
}

fn memory(meminfo: &str) -> Finding {
    let line = meminfo.lines().find_map(|line| line.strip_prefix("MemAvailable:"));
    let kib = line.and_then(|rest| rest.trim().trim_end_matches("kB").trim().parse().ok()).unwrap_or(0);
    let found = format!("{} MiB available", kib >> 10);
    let advice = "a sandbox of the default size takes up to 512 MiB and what its monitor needs";
    match kib {
        0..NEEDED_KIB => Finding::fail(MEMORY, found, advice),
        NEEDED_KIB..COMFORTABLE_KIB => Finding::warn(MEMORY, found, advice),
        _ => Finding::ok(MEMORY, found),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::doctor::Verdict;

    #[test]
    fn says_which_controller_is_missing() {
        assert_eq!(cgroups(Some("cpuset cpu io memory pids\n")).verdict, Verdict::Ok);
        let finding = cgroups(Some("cpuset cpu pids"));
        assert_eq!(finding.verdict, Verdict::Warn);
        assert!(finding.found.contains("memory"), "{finding:?}");
        assert_eq!(cgroups(None).verdict, Verdict::Warn);
    }

    #[test]
    fn reads_what_the_kernel_says_is_available() {
        let meminfo = |kib: u64| format!("MemTotal:  99999999 kB\nMemAvailable:   {kib} kB\n");
        assert_eq!(memory(&meminfo(8 << 20)).verdict, Verdict::Ok);
        assert_eq!(memory(&meminfo(2 << 20)).verdict, Verdict::Warn);
        assert_eq!(memory(&meminfo(1000)).verdict, Verdict::Fail);
    }
}
