//! What sandboxes' networks are made of, tried in a namespace that goes with the program that made it.

use std::io::{Seek as _, Write as _};
use std::process::Stdio;

use tokio::process::Command;

use super::{Finding, try_program};

const TAP: &str = "networks";
const NFTABLES: &str = "nftables";

/// What a slot's rules use, in small: a set, connection tracking, address translation.
const RULES: &str = "table ip sandbar_doctor {
    set private { type ipv4_addr; flags interval; elements = { 10.0.0.0/8, 192.168.0.0/16 } }
    chain forward { type filter hook forward priority -10; policy drop; ct state established accept; ip daddr @private drop; }
    chain prerouting { type nat hook prerouting priority -100; iifname \"veth0\" dnat to 172.30.0.2; }
    chain postrouting { type nat hook postrouting priority 100; oifname \"veth0\" masquerade; }
}
";

pub(super) async fn check_tap() -> Finding {
    let mut command = in_namespace();
    command.args(["ip", "tuntap", "add", "dev", "tap0", "mode", "tap"]);
    match try_program(command).await {
        Ok(()) => Finding::ok(TAP, "network namespaces and TAP devices can be made"),
        Err(error) => Finding::fail(
            TAP,
            format!("a TAP device in a network namespace cannot be made: {error}"),
            "install iproute2 and load the module tun (/dev/net/tun); in a container, allow both",
        ),
    }
}

pub(super) async fn check_nftables() -> Finding {
    match load_rules().await {
        Ok(()) => {
            Finding::ok(NFTABLES, "rules with connection tracking and address translation can be loaded")
        }
        Err(error) => Finding::fail(
            NFTABLES,
            format!("rules cannot be loaded: {error}"),
            "install nftables; the kernel needs nf_tables, nf_conntrack and nf_nat",
        ),
    }
}

async fn load_rules() -> Result<(), String> {
    let rules = || -> std::io::Result<std::fs::File> {
        let mut file =
            rustix::fs::memfd_create("rules", rustix::fs::MemfdFlags::CLOEXEC).map(std::fs::File::from)?;
        file.write_all(RULES.as_bytes())?;
        file.rewind()?;
        Ok(file)
    };
    let mut command = in_namespace();
    command.args(["nft", "-f", "-"]).stdin(Stdio::from(rules().map_err(|error| error.to_string())?));
    try_program(command).await
}

fn in_namespace() -> Command {
    let mut command = Command::new("unshare");
    let path = std::env::var("PATH").unwrap_or_default() + ":/usr/sbin:/sbin";
    command.args(["--net", "--"]).env("PATH", path);
    command
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::doctor::Verdict;

    #[tokio::test]
    async fn networks_work_on_the_machine_that_tests_run_on() {
        for finding in [check_tap().await, check_nftables().await] {
            assert_eq!(finding.verdict, Verdict::Ok, "{finding:?}");
        }
    }
}
