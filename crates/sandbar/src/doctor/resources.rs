//! Memory, and the means to bound what sandboxes take of it.

use std::fs;

use sandbar_vmm::Cgroups;

use super::Finding;

const CGROUPS: &str = "cgroups";
const MEMORY: &str = "memory";

/// KiB of one sandbox of the default size, and of the platform itself.
const NEEDED_KIB: u64 = 1 << 20;
const COMFORTABLE_KIB: u64 = 3 << 20;

/// Tried by making a group, as each machine gets one.
pub(super) fn check_cgroups() -> Finding {
    let advice = "sandboxes work, but one may take what others need; boot with cgroup v2 (systemd.unified_cgroup_hierarchy=1), or \
                  give this container a cgroup namespace that it may write to";
    match Cgroups::open(&format!("sandbar-doctor-{}", std::process::id())) {
        Ok(cgroups) => match cgroups.shortfall() {
            None => Finding::ok(CGROUPS, format!("each sandbox is bounded by {}", cgroups.describe())),
            Some(shortfall) => Finding::warn(CGROUPS, shortfall, advice),
        },
        Err(error) => Finding::warn(CGROUPS, error.to_string(), advice),
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
    fn control_groups_are_tried_and_left_as_they_were() {
        let finding = check_cgroups();
        assert_eq!(finding.verdict, Verdict::Ok, "{finding:?}");
        let name = format!("/sys/fs/cgroup/pids/sandbar-doctor-{}", std::process::id());
        assert!(!std::path::Path::new(&name).exists());
    }

    #[test]
    fn reads_what_the_kernel_says_is_available() {
        let meminfo = |kib: u64| format!("MemTotal:  99999999 kB\nMemAvailable:   {kib} kB\n");
        assert_eq!(memory(&meminfo(8 << 20)).verdict, Verdict::Ok);
        assert_eq!(memory(&meminfo(2 << 20)).verdict, Verdict::Warn);
        assert_eq!(memory(&meminfo(1000)).verdict, Verdict::Fail);
    }
}
