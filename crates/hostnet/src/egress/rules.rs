//! The rules of a slot: one text for whatever was there before, applied in one transaction.
//!
//! ```text
//!   from the guest          entering     only its own address leaves the TAP, and nothing of IPv6
//!   to the outside, both    egress       mark of this policy?           accept: it was judged before
//!   ways of a connection                 @reserved                      refuse: no policy opens it
//!                                        @private and not @opened       refuse: the operator has not opened it
//!                                        @allowed, @names               accept
//!                                        @private                       refuse: private networks must be allowed by name
//!                                        @denied                        refuse
//!                                        else                           accept
//!   from the host           forwarded    the host reaches the guest by the slot's address; nobody else does
//! ```
//!
//! A connection is judged by where it was opened to, at its first packet, and carries the policy's mark from then on. Another policy has
//! another mark, so that all connections are judged anew at their next packet, in either direction; the same policy applied again
//! changes nothing. That is also why an address that a name gave may go out of date without cutting what runs.

use std::{fmt::Write as _, net::Ipv4Addr, time::Duration};

use ipnet::Ipv4Net;
use sandbar_types::{
    NetworkPolicy,
    guest::{AGENT_PORT, GATEWAY_IP, GUEST_IP, PREFIX_LEN, READY_PORT},
};

use crate::{
    NetConfig,
    plan::{SlotPlan, TAP, VETH},
    rules::list,
};

/// The slot's table.
pub(crate) const TABLE: &str = "sandbar";
/// The set of addresses that allowed names were resolved to.
pub(super) const NAMES: &str = "names";

/// What no policy opens: the machine itself, the link (metadata services live there), what is not a single receiver, and metadata and
/// host services that some clouds keep under other addresses.
const RESERVED: [Ipv4Net; 9] = [
    net([0, 0, 0, 0], 8),
    net([100, 100, 100, 200], 32),
    net([127, 0, 0, 0], 8),
    net([168, 63, 129, 16], 32),
    net([169, 254, 0, 0], 16),
    net([192, 0, 0, 0], 24),
    net([224, 0, 0, 0], 4),
    net([240, 0, 0, 0], 4),
    Ipv4Net::new_assert(GATEWAY_IP, PREFIX_LEN),
];

/// What is somebody's private network.
const PRIVATE: [Ipv4Net; 5] = [
    net([10, 0, 0, 0], 8),
    net([100, 64, 0, 0], 10),
    net([172, 16, 0, 0], 12),
    net([192, 168, 0, 0], 16),
    net([198, 18, 0, 0], 15),
];

const fn net([a, b, c, d]: [u8; 4], prefix_len: u8) -> Ipv4Net {
    Ipv4Net::new_assert(Ipv4Addr::new(a, b, c, d), prefix_len)
}

/// An address that a name was resolved to, and for how long that holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct NamedAddress {
    pub(crate) address: Ipv4Addr,
    pub(crate) name: String,
    pub(crate) left: Duration,
}

/// The rules of a slot under a policy. What the table has counted stays.
pub(crate) fn rules(
    plan: &SlotPlan,
    config: &NetConfig,
    policy: &NetworkPolicy,
    names: &[NamedAddress],
) -> String {
    let SlotPlan { host_end, host_ip, .. } = plan;
    let sets = sets(config, policy);
    let mark = mark(&sets, policy);
    let (to_resolver, past_resolver, from_guest) = resolver(policy);
    // A refusal is told, since a guest that waits for a time-out looks broken. What is already under way is reset.
    // A restored guest goes on sending on connections from before its snapshot, of which this namespace knows nothing: answers of its
    // agent to the gateway that open nothing. They are dropped, and are no denials.
    format!(
        r#"table inet {TABLE} {{
    set reserved {{ type ipv4_addr; flags interval; }}
    set private {{ type ipv4_addr; flags interval; }}
    set opened {{ type ipv4_addr; flags interval; }}
    set allowed {{ type ipv4_addr; flags interval; }}
    set denied {{ type ipv4_addr; flags interval; }}
    set {NAMES} {{ type ipv4_addr; flags timeout; size 4096; }}
    set denials {{ type ipv4_addr . inet_proto . inet_service; flags dynamic,timeout; size 512; timeout 1h; }}
    set portless {{ type ipv4_addr . inet_proto; flags dynamic,timeout; size 128; timeout 1h; }}
    counter refused_policy {{ }}
    counter refused_private {{ }}
    counter refused_reserved {{ }}
    counter refused_forged {{ }}
    counter refused_ipv6 {{ }}
}}
flush table inet {TABLE}
{sets}{names}table inet {TABLE} {{
    chain entering {{
        type filter hook ingress device "{TAP}" priority filter; policy accept;
        meta protocol ip6 counter name refused_ipv6 drop
        meta protocol != {{ ip, arp }} drop
        ip saddr != {GUEST_IP} counter name refused_forged drop
    }}
    chain arriving {{
        type nat hook prerouting priority dstnat; policy accept;
        iifname "{VETH}" ip saddr {host_end} ip daddr {host_ip} dnat ip to {GUEST_IP}
        {to_resolver}
    }}
    chain leaving {{
        type nat hook postrouting priority srcnat; policy accept;
        oifname "{TAP}" snat ip to {GATEWAY_IP}
        oifname "{VETH}" snat ip to {host_ip}
    }}
    chain cut {{
        meta l4proto tcp reject with tcp reset
        drop
    }}
    chain refuse {{
        meta l4proto {{ tcp, udp }} update @denials {{ ip daddr . meta l4proto . th dport counter }}
        meta l4proto != {{ tcp, udp }} update @portless {{ ip daddr . meta l4proto counter }}
        meta l4proto tcp ct state established reject with tcp reset
        reject with icmp type admin-prohibited
    }}
    chain refuse_reserved {{
        iifname "{VETH}" goto cut
        counter name refused_reserved goto refuse
    }}
    chain refuse_private {{
        iifname "{VETH}" goto cut
        counter name refused_private goto refuse
    }}
    chain refuse_denied {{
        iifname "{VETH}" goto cut
        counter name refused_policy goto refuse
    }}
    chain egress {{
        ct mark {mark:#010x} accept
        ct original ip daddr @reserved goto refuse_reserved
        ct original ip daddr @private ct original ip daddr != @opened goto refuse_private
        ct original ip daddr @allowed ct mark set {mark:#010x} accept
        ct original ip daddr @{NAMES} ct mark set {mark:#010x} accept
        ct original ip daddr @private goto refuse_private
        ct original ip daddr @denied goto refuse_denied
        ct mark set {mark:#010x} accept
    }}
    chain forwarded {{
        type filter hook forward priority filter; policy drop;
        ct state invalid,untracked drop
        iifname "{VETH}" oifname "{TAP}" ct direction original ct status dnat accept
        iifname "{TAP}" oifname "{VETH}" ct direction reply ct status dnat accept
        iifname "{TAP}" ct state related drop
        iifname "{VETH}" oifname "{TAP}" ct state related accept
        {past_resolver}
        iifname "{VETH}" oifname "{TAP}" ct state established goto egress
        iifname "{TAP}" oifname "{VETH}" goto egress
    }}
    chain received {{
        type filter hook input priority filter; policy drop;
        ct state established,related accept
        iifname "lo" accept
        iifname "{TAP}" ip daddr {GATEWAY_IP} tcp dport {READY_PORT} accept
        iifname "{TAP}" ip daddr {GATEWAY_IP} icmp type echo-request accept
        {from_guest}
        iifname "{TAP}" ip daddr {GATEWAY_IP} tcp sport {AGENT_PORT} tcp flags & (syn | ack) != syn drop
        iifname "{TAP}" goto refuse_reserved
    }}
}}
"#,
        sets = fill(&sets),
        names = fill_names(names),
    )
}

/// The sets that configuration and policy decide, with their elements.
fn sets(config: &NetConfig, policy: &NetworkPolicy) -> [(&'static str, String); 5] {
    let reserved: Vec<_> = RESERVED.iter().copied().chain([config.network]).collect();
    let (allowed, denied): (Vec<_>, Vec<_>) =
        (policy.allowed_nets().collect(), policy.denied_nets().collect());
    [
        ("reserved", list(&reserved)),
        ("private", list(&PRIVATE)),
        ("opened", list(&config.private_egress)),
        ("allowed", list(&allowed)),
        ("denied", list(&denied)),
    ]
}

fn fill(sets: &[(&str, String)]) -> String {
    let mut text = String::new();
    for (name, elements) in sets {
        let _ = writeln!(text, "flush set inet {TABLE} {name}");
        if !elements.is_empty() {
            let _ = writeln!(text, "add element inet {TABLE} {name} {{ {elements} }}");
        }
    }
    text
}

fn fill_names(names: &[NamedAddress]) -> String {
    let mut text = format!("flush set inet {TABLE} {NAMES}\n");
    for NamedAddress { address, name, left } in names {
        let seconds = left.as_secs().max(1);
        let _ = writeln!(
            text,
            "add element inet {TABLE} {NAMES} {{ {address} timeout {seconds}s comment \"{name}\" }}"
        );
    }
    text
}

/// Where names matter, whatever the guest takes for its resolver is the slot's own, and no other is reached past it: what is forwarded
/// to that port was opened before this policy.
fn resolver(policy: &NetworkPolicy) -> (String, String, String) {
    if !policy.has_domains() {
        return Default::default();
    }
    let port = "meta l4proto { tcp, udp } th dport 53";
    (
        format!("iifname \"{TAP}\" {port} dnat ip to {GATEWAY_IP}"),
        format!("iifname \"{TAP}\" {port} goto refuse_denied"),
        format!("iifname \"{TAP}\" ip daddr {GATEWAY_IP} {port} accept"),
    )
}

/// What connections that were judged by these rules carry: another policy has another mark, the same one the same, also from another
/// build of the agent. FNV-1a, since nothing depends on two policies never meeting but a connection that the first allowed.
fn mark(sets: &[(&str, String)], policy: &NetworkPolicy) -> u32 {
    let entries = policy.allow_out.iter().chain(&policy.deny_out).map(ToString::to_string);
    let judged = format!("{sets:?} {} {}", policy.allow_out.len(), entries.collect::<Vec<_>>().join(" "));
    let hash =
        judged.bytes().fold(0x811c_9dc5_u32, |hash, byte| (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193));
    // Zero is the mark of connections that have none.
    hash.max(1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::SlotIndex;

    fn text(policy: &NetworkPolicy, names: &[NamedAddress]) -> String {
        let config = NetConfig::new("0a1f".parse().unwrap(), "10.213.0.0/16".parse().unwrap());
        rules(&SlotPlan::new(&config, SlotIndex(0)), &config, policy, names)
    }

    fn policy(allow: &[&str], deny: &[&str]) -> NetworkPolicy {
        let list = |entries: &[&str]| entries.iter().map(|&entry| entry.to_owned()).collect::<Vec<_>>();
        NetworkPolicy::parse(&list(allow), &list(deny), true).unwrap()
    }

    #[test]
    fn a_slot_without_a_policy() {
        let rules = text(&NetworkPolicy::default(), &[]);
        for line in [
            r#"ip saddr != 172.30.0.2 counter name refused_forged drop"#,
            r#"iifname "veth0" ip saddr 10.213.0.2 ip daddr 10.213.0.3 dnat ip to 172.30.0.2"#,
            r#"oifname "tap0" snat ip to 172.30.0.1"#,
            r#"oifname "veth0" snat ip to 10.213.0.3"#,
            r#"iifname "tap0" ip daddr 172.30.0.1 tcp dport 49982 accept"#,
            r#"iifname "tap0" ip daddr 172.30.0.1 tcp sport 49983 tcp flags & (syn | ack) != syn drop"#,
            "169.254.0.0/16",
            "10.213.0.0/16",
        ] {
            assert!(rules.contains(line), "{line} is not in\n{rules}");
        }
        assert!(!rules.contains("dport 53"), "nobody listens to what it resolves");
        assert!(!rules.contains("add element inet sandbar denied"));
        assert_eq!(rules.matches("policy drop").count(), 2, "forwarding and reception are closed by default");
    }

    #[test]
    fn a_policy_fills_the_sets_and_has_a_mark_of_its_own() {
        let closed = text(&policy(&["1.1.1.1", "1.1.1.0/24"], &["0.0.0.0/0"]), &[]);
        assert!(closed.contains("add element inet sandbar allowed { 1.1.1.0/24 }"), "{closed}");
        assert!(closed.contains("add element inet sandbar denied { 0.0.0.0/0 }"), "{closed}");
        let mark = |rules: &str| rules.split("ct mark ").nth(1).unwrap()[..10].to_owned();
        assert_eq!(mark(&closed), mark(&text(&policy(&["1.1.1.1", "1.1.1.0/24"], &["0.0.0.0/0"]), &[])));
        assert_ne!(mark(&closed), mark(&text(&NetworkPolicy::default(), &[])));
        let named = |name: &str| mark(&text(&policy(&[name], &["0.0.0.0/0"]), &[]));
        assert_ne!(named("a.com"), named("b.com"), "the sets are the same, and their meaning is not");
    }

    #[test]
    fn names_bring_the_resolver_in_and_their_addresses_stay() {
        let known = NamedAddress {
            address: Ipv4Addr::new(93, 184, 0, 9),
            name: "a.com".into(),
            left: Duration::from_millis(300),
        };
        let rules = text(&policy(&["a.com"], &["0.0.0.0/0"]), &[known]);
        assert!(rules.contains(r#"names { 93.184.0.9 timeout 1s comment "a.com" }"#), "{rules}");
        assert_eq!(rules.matches("th dport 53").count(), 3, "{rules}");
    }
}
