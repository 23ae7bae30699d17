//! Signals to everything that a process started.

use std::fs;

use rustix::process::{Pid, Signal, kill_process, kill_process_group};

/// Sends a signal to the process group that `leader` leads.
pub(crate) fn signal_group(leader: Pid, signal: Signal) -> rustix::io::Result<()> {
    kill_process_group(leader, signal)
}

/// Kills every process of the session that `leader` leads. A shell with job control puts its jobs into groups of their
/// own, so the group alone would miss them. The leader must not have been reaped yet: then its id cannot have been reused.
pub(crate) fn kill(leader: Pid) {
    // A group whose every member is gone is no failure.
    let _ = kill_process_group(leader, Signal::KILL);
    // Members may fork while they are looked for: look until none is left. A killed process cannot fork any more, so
    // each round finds less; the bound is for what is stuck in the kernel.
    for _ in 0..16 {
        let members = members(leader);
        if members.is_empty() {
            return;
        }
        for member in members {
            let _ = kill_process(member, Signal::KILL);
        }
    }
}

fn members(leader: Pid) -> Vec<Pid> {
    let Ok(processes) = fs::read_dir("/proc") else { return Vec::new() };
    processes
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
        .filter_map(Pid::from_raw)
        .filter(|pid| *pid != leader)
        .filter(|pid| {
            let stat = fs::read_to_string(format!("/proc/{}/stat", pid.as_raw_nonzero())).unwrap_or_default();
            parse_stat(&stat) == Some((leader.as_raw_nonzero().get(), true))
        })
        .collect()
}

/// The session of a process, and whether it still lives, from `/proc/PID/stat`. The name may contain anything, so fields
/// are counted from behind its closing parenthesis: state, parent, group, session.
fn parse_stat(stat: &str) -> Option<(i32, bool)> {
    let (_, rest) = stat.rsplit_once(')')?;
    let mut fields = rest.split_whitespace();
    let state = fields.next()?;
    let session = fields.nth(2)?.parse().ok()?;
    Some((session, !matches!(state, "Z" | "X" | "x")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_the_session_whatever_the_name() {
        assert_eq!(parse_stat("12 (a) b) (c)) S 1 12 7 0 -1"), Some((7, true)));
        assert_eq!(parse_stat("12 (sh) Z 1 12 7 0 -1"), Some((7, false)));
        assert_eq!(parse_stat("12 (sh"), None);
        assert_eq!(parse_stat(""), None);
    }
}
