//! The nftables rules: as text from pure functions, applied in one transaction each. Those of a slot are in [`egress`](crate::egress).

use std::{
    io::Write as _,
    process::{Command, Output, Stdio},
};

use ipnet::Ipv4Net;

use crate::{NetConfig, NetError, Tag, plan::device_prefix};

/// The rules of the host: one table for all slots, which are told by their devices' names.
///
/// It runs ahead of other tables' filters and drops what must not pass. It cannot pass what another table drops later: on a host
/// whose own forwarding policy is to drop (as Docker sets it), sandboxes reach nothing outside until `iifname "sb*"` and the way
/// back are accepted there. `uplink` is `None` on a host without a way out. Private networks that are opened are reached through
/// whatever device leads there; which sandbox reaches them is its slot's to decide.
pub(crate) fn for_host(config: &NetConfig, uplink: Option<&str>) -> String {
    let NetConfig { tag, network, .. } = config;
    let slots = format!("\"{}*\"", device_prefix(tag));
    let mut ways: Vec<_> = uplink.iter().map(|uplink| format!("oifname \"{uplink}\"")).collect();
    if !config.private_egress.is_empty() {
        ways.push(format!("ip daddr {{ {} }}", list(&config.private_egress)));
    }
    let allowed = lines(ways.iter().map(|way| format!("iifname {slots} {way} accept")));
    let masqueraded =
        lines(ways.iter().map(|way| format!("ip saddr {network} oifname != {slots} {way} masquerade")));
    // Added and deleted first, so that it is replaced whatever was there, without a moment in between.
    format!(
        r#"{remove}table inet sandbar_{tag} {{
    chain forwarded {{
        type filter hook forward priority filter - 10; policy accept;
        iifname {slots} oifname {slots} drop
        iifname {slots} meta nfproto != ipv4 drop
        iifname {slots} ip saddr != {network} drop
        {allowed}
        iifname {slots} drop
        oifname {slots} ct state established,related accept
        oifname {slots} drop
    }}
    chain received {{
        type filter hook input priority filter - 10; policy accept;
        iifname {slots} ct state established,related accept
        iifname {slots} drop
    }}
    chain leaving {{
        type nat hook postrouting priority srcnat; policy accept;
        {masqueraded}
    }}
}}
"#,
        remove = without_host(tag)
    )
}

/// The removal of the host's rules. It works whether or not they are there.
pub(crate) fn without_host(tag: &Tag) -> String {
    format!("table inet sandbar_{tag} {{}}\ndelete table inet sandbar_{tag}\n")
}

/// Networks as a set's elements, none of which overlap.
pub(crate) fn list(nets: &[Ipv4Net]) -> String {
    let nets = Ipv4Net::aggregate(&nets.to_vec());
    nets.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}

fn lines(rules: impl Iterator<Item = String>) -> String {
    rules.collect::<Vec<_>>().join("\n        ")
}

/// Applies rules in the network namespace of the calling thread: all of them or none. Blocks for some ten milliseconds.
pub(crate) fn apply(rules: &str) -> Result<(), NetError> {
    run(&["-f", "-"], rules).map(|_| ())
}

/// What is in a table of the network namespace of the calling thread, as JSON. Blocks for some ten milliseconds.
pub(crate) fn read_table(name: &str) -> Result<Vec<u8>, NetError> {
    // Without names of protocols and services, which are the machine's own.
    run(&["-j", "-n", "list", "table", "inet", name], "").map(|output| output.stdout)
}

fn run(arguments: &[&str], input: &str) -> Result<Output, NetError> {
    let run = || {
        let mut nft = Command::new("nft")
            .args(arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()?;
        // A broken pipe: it ended early and says why. It reads all before it writes anything.
        if let Some(mut pipe) = nft.stdin.take() {
            let _ = pipe.write_all(input.as_bytes());
        }
        nft.wait_with_output()
    };
    let output = run().map_err(NetError::system("run nft"))?;
    if output.status.success() {
        Ok(output)
    } else {
        Err(NetError::Rules { complaint: String::from_utf8_lossy(&output.stderr).trim().to_owned() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(private_egress: &[&str]) -> NetConfig {
        NetConfig {
            private_egress: private_egress.iter().map(|net| net.parse().unwrap()).collect(),
            ..NetConfig::new("0a1f".parse().unwrap(), "10.213.0.0/16".parse().unwrap())
        }
    }

    #[test]
    fn without_an_uplink_nothing_leaves_the_host() {
        let open = for_host(&config(&[]), Some("eth0"));
        assert!(open.contains(r#"iifname "sb0a1f*" oifname "eth0" accept"#));
        assert!(open.contains(r#"ip saddr 10.213.0.0/16 oifname != "sb0a1f*" oifname "eth0" masquerade"#));
        let closed = for_host(&config(&[]), None);
        assert!(!closed.contains("masquerade") && !closed.contains("eth0"));
        assert!(closed.contains("iifname \"sb0a1f*\" drop"));
    }

    #[test]
    fn private_networks_are_reached_where_they_are_opened_after_slots_are_kept_apart() {
        let rules = for_host(&config(&["10.8.0.0/24", "10.8.0.128/25"]), None);
        let opened = rules.find(r#"iifname "sb0a1f*" ip daddr { 10.8.0.0/24 } accept"#).unwrap();
        assert!(rules.find(r#"iifname "sb0a1f*" oifname "sb0a1f*" drop"#).unwrap() < opened);
    }
}
