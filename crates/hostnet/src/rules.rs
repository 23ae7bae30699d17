//! The nftables rules: as text from pure functions, applied in one transaction each.

use std::{
    fmt::Write as _,
    io::Write as _,
    net::Ipv4Addr,
    process::{Command, Stdio},
};

use ipnet::Ipv4Net;
use sandbar_types::guest::{GATEWAY_IP, GUEST_IP, READY_PORT};

use crate::{
    NetError, Tag,
    plan::{SlotPlan, TAP, VETH, device_prefix},
};

/// Where no guest may go: what is somebody's private network, the machine itself, the link (cloud metadata services live there),
/// or not a single receiver.
const REFUSED: [Ipv4Net; 11] = [
    net([0, 0, 0, 0], 8),
    net([10, 0, 0, 0], 8),
    net([100, 64, 0, 0], 10),
    net([127, 0, 0, 0], 8),
    net([169, 254, 0, 0], 16),
    net([172, 16, 0, 0], 12),
    net([192, 0, 0, 0], 24),
    net([192, 168, 0, 0], 16),
    net([198, 18, 0, 0], 15),
    net([224, 0, 0, 0], 4),
    net([240, 0, 0, 0], 4),
];

const fn net([a, b, c, d]: [u8; 4], prefix_len: u8) -> Ipv4Net {
    Ipv4Net::new_assert(Ipv4Addr::new(a, b, c, d), prefix_len)
}

/// The rules inside a slot's namespace.
///
/// - Only the guest's own address leaves the TAP; nothing of IPv6 does.
/// - The host, and nobody else, reaches the guest, by the slot's address. An answer to a flow of the slot's last tenant, which the
///   host's connection tracking may still send here, finds no way in.
/// - The guest sees the host as its gateway, so that its agent knows who calls.
/// - Outside is allowed but for [`REFUSED`] and the other slots; a refusal is told, since a guest that waits for a time-out looks
///   broken.
pub(crate) fn for_slot(plan: &SlotPlan, network: Ipv4Net) -> String {
    let SlotPlan { host_end, host_ip, .. } = plan;
    let mut refused = String::new();
    for range in REFUSED {
        let _ = write!(refused, "{range}, ");
    }
    format!(
        r#"table inet sandbar {{
    set refused {{
        type ipv4_addr
        flags interval
        auto-merge
        elements = {{ {refused}{network} }}
    }}
    chain genuine {{
        type filter hook prerouting priority raw; policy accept;
        iifname "{TAP}" meta nfproto != ipv4 drop
        iifname "{TAP}" ip saddr != {GUEST_IP} drop
    }}
    chain towards_guest {{
        type nat hook prerouting priority dstnat; policy accept;
        iifname "{VETH}" ip saddr {host_end} ip daddr {host_ip} dnat ip to {GUEST_IP}
    }}
    chain leaving {{
        type nat hook postrouting priority srcnat; policy accept;
        oifname "{TAP}" snat ip to {GATEWAY_IP}
        oifname "{VETH}" snat ip to {host_ip}
    }}
    chain forwarded {{
        type filter hook forward priority filter; policy drop;
        ct state established,related accept
        iifname "{VETH}" oifname "{TAP}" ct status dnat accept
        iifname "{TAP}" ip daddr @refused reject with icmp type admin-prohibited
        iifname "{TAP}" oifname "{VETH}" accept
    }}
    chain received {{
        type filter hook input priority filter; policy drop;
        ct state established,related accept
        iifname "lo" accept
        iifname "{TAP}" ip daddr {GATEWAY_IP} tcp dport {READY_PORT} accept
        iifname "{TAP}" ip daddr {GATEWAY_IP} icmp type echo-request accept
    }}
}}
"#
    )
}

/// The rules of the host: one table for all slots, which are told by their devices' names.
///
/// It runs ahead of other tables' filters and drops what must not pass. It cannot pass what another table drops later: on a host
/// whose own forwarding policy is to drop (as Docker sets it), sandboxes reach nothing outside until `iifname "sb*"` and the way
/// back are accepted there. `uplink` is `None` on a host without a way out.
pub(crate) fn for_host(tag: &Tag, network: Ipv4Net, uplink: Option<&str>) -> String {
    let slots = format!("\"{}*\"", device_prefix(tag));
    let (allowed, masqueraded) = match uplink {
        Some(uplink) => (
            format!("iifname {slots} oifname \"{uplink}\" accept"),
            format!("ip saddr {network} oifname \"{uplink}\" masquerade"),
        ),
        None => (String::new(), String::new()),
    };
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

/// Applies rules in the network namespace of the calling thread: all of them or none. Blocks for some ten milliseconds.
pub(crate) fn apply(rules: &str) -> Result<(), NetError> {
    let run = || {
        let mut nft = Command::new("nft")
            .args(["-f", "-"])
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()?;
        // A broken pipe: it ended early and says why.
        if let Some(mut input) = nft.stdin.take() {
            let _ = input.write_all(rules.as_bytes());
        }
        nft.wait_with_output()
    };
    let output = run().map_err(NetError::system("run nft"))?;
    if output.status.success() {
        Ok(())
    } else {
        Err(NetError::Rules { complaint: String::from_utf8_lossy(&output.stderr).trim().to_owned() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{NetConfig, SlotIndex, Uplink};

    #[test]
    fn the_slots_rules() {
        let config = NetConfig {
            tag: "0a1f".parse().unwrap(),
            network: "10.213.0.0/16".parse().unwrap(),
            pool_size: 0,
            uplink: Uplink::Detect,
        };
        let rules = for_slot(&SlotPlan::new(&config, SlotIndex(0)), config.network);
        for line in [
            r#"iifname "tap0" ip saddr != 172.30.0.2 drop"#,
            r#"iifname "veth0" ip saddr 10.213.0.2 ip daddr 10.213.0.3 dnat ip to 172.30.0.2"#,
            r#"oifname "tap0" snat ip to 172.30.0.1"#,
            r#"oifname "veth0" snat ip to 10.213.0.3"#,
            r#"iifname "tap0" ip daddr 172.30.0.1 tcp dport 49982 accept"#,
            "169.254.0.0/16",
            "240.0.0.0/4, 10.213.0.0/16 }",
        ] {
            assert!(rules.contains(line), "{line} is not in\n{rules}");
        }
        assert_eq!(rules.matches("policy drop").count(), 2, "forwarding and reception are closed by default");
    }

    #[test]
    fn without_an_uplink_nothing_leaves_the_host() {
        let tag = "0a1f".parse().unwrap();
        let network = "10.213.0.0/16".parse().unwrap();
        let open = for_host(&tag, network, Some("eth0"));
        assert!(open.contains(r#"iifname "sb0a1f*" oifname "eth0" accept"#));
        assert!(open.contains(r#"ip saddr 10.213.0.0/16 oifname "eth0" masquerade"#));
        let closed = for_host(&tag, network, None);
        assert!(!closed.contains("masquerade") && !closed.contains("eth0"));
        assert!(closed.contains("iifname \"sb0a1f*\" drop"));
    }
}
