//! The guest kernel's command line, in one place.

/// What the kernel is told, whoever boots it.
///
/// - `console=ttyS0`: messages and the init's last words go where the driver keeps them; `quiet loglevel=1` since every byte there
///   is an exit to the VMM.
/// - `reboot=t panic=-1`: a panic or a reboot is a triple fault at once, which ends the VMM (`-no-reboot`).
/// - `tsc=reliable tsc_early_khz=`: the machine has no timer to calibrate against; without the rate the kernel hangs, and on a busy
///   host calibration fails and leaves 10 ms ticks. `no_timer_check`: for the same reason.
/// - `nokaslr mitigations=off`: the guest is one tenant's, so it needs no protection from itself; the VMM is what isolates.
/// - `root=/dev/vda rw`: the machine's one disk. Our init mounts it by itself; another one would go by this.
pub(crate) fn for_sandbox(tsc_khz: u32) -> String {
    format!("console=ttyS0 quiet loglevel=1 {} root=/dev/vda rw", machine(tsc_khz))
}

/// As for a sandbox, but the kernel tells how far it gets, and an init that knows the word may stop right there.
pub(crate) fn for_probe(tsc_khz: u32) -> String {
    format!("console=ttyS0 loglevel=7 {} sandbar.probe", machine(tsc_khz))
}

fn machine(tsc_khz: u32) -> String {
    format!("reboot=t panic=-1 mitigations=off nokaslr tsc=reliable tsc_early_khz={tsc_khz} no_timer_check")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_lines() {
        assert_eq!(
            for_sandbox(2_600_000),
            "console=ttyS0 quiet loglevel=1 reboot=t panic=-1 mitigations=off nokaslr tsc=reliable \
             tsc_early_khz=2600000 no_timer_check root=/dev/vda rw"
        );
        assert!(for_probe(1).contains("loglevel=7") && for_probe(1).ends_with(" sandbar.probe"));
    }
}
