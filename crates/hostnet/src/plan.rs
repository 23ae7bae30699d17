//! Names and addresses of a slot: pure functions of the configuration and the slot's number.

use std::{
    net::Ipv4Addr,
    path::{Path, PathBuf},
};

use ipnet::Ipv4Net;

use crate::{NetConfig, Slot, SlotIndex, Tag};

/// Where `ip netns` and everybody else looks for namespaces.
pub(crate) const NETNS_FOLDER: &str = "/run/netns";
/// The guest's device, in the namespace.
pub(crate) const TAP: &str = "tap0";
/// The way out, in the namespace.
pub(crate) const VETH: &str = "veth0";

/// Everything about a slot that follows from its number.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct SlotPlan {
    pub(crate) index: SlotIndex,
    /// Name of the namespace.
    pub(crate) netns: String,
    /// The host's end of the veth pair. At most 15 bytes: `sb`, four digits of the tag, up to five of the number.
    pub(crate) host_device: String,
    pub(crate) host_end: Ipv4Addr,
    pub(crate) host_ip: Ipv4Addr,
    pub(crate) host_mac: [u8; 6],
    pub(crate) slot_mac: [u8; 6],
}

/// Prefix length of the link between host and slot: two addresses and no more (RFC 3021).
pub(crate) const LINK_PREFIX_LEN: u8 = 31;

impl SlotPlan {
    pub(crate) fn new(config: &NetConfig, index: SlotIndex) -> Self {
        let [a, b, c] = config.tag.hardware_prefix();
        let [high, low] = index.0.to_be_bytes();
        // The first pair is left out: some software takes the network's own address for a broadcast.
        let base = u32::from(config.network.network()) + 2 * (u32::from(index.0) + 1);
        Self {
            index,
            netns: format!("{}{index}", netns_prefix(&config.tag)),
            host_device: format!("{}{index}", device_prefix(&config.tag)),
            host_end: base.into(),
            host_ip: (base + 1).into(),
            host_mac: [a, b, c, high, low, 1],
            slot_mac: [a, b, c, high, low, 2],
        }
    }

    pub(crate) fn netns_path(&self) -> PathBuf {
        Path::new(NETNS_FOLDER).join(&self.netns)
    }

    pub(crate) fn describe(&self) -> Slot {
        Slot { index: self.index, netns: self.netns_path(), tap: TAP.to_owned(), host_ip: self.host_ip }
    }
}

pub(crate) fn netns_prefix(tag: &Tag) -> String {
    format!("sb-{tag}-")
}

pub(crate) fn device_prefix(tag: &Tag) -> String {
    format!("sb{tag}")
}

/// The slot that a name with `prefix` belongs to.
pub(crate) fn index_of(name: &str, prefix: &str) -> Option<SlotIndex> {
    let number = name.strip_prefix(prefix)?;
    let index = number.parse().ok()?;
    // "07" and "+7" are not how we write seven.
    (number == format!("{index}")).then_some(SlotIndex(index))
}

/// How many slots a network has addresses for.
pub(crate) fn capacity(network: Ipv4Net) -> usize {
    let addresses = 1_usize << (32 - network.prefix_len());
    // Without the first pair, and without the last, which has the broadcast address.
    (addresses / 2).saturating_sub(2).min(usize::from(u16::MAX) + 1)
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    fn config(network: &str) -> NetConfig {
        NetConfig::new("0a1f".parse().unwrap(), network.parse().unwrap())
    }

    #[test]
    fn a_slot_is_what_its_number_says() {
        let plan = SlotPlan::new(&config("10.213.0.0/16"), SlotIndex(300));
        assert_eq!(plan.netns, "sb-0a1f-300");
        assert_eq!(plan.host_device, "sb0a1f300");
        assert_eq!(plan.host_end, Ipv4Addr::new(10, 213, 2, 90));
        assert_eq!(plan.host_ip, Ipv4Addr::new(10, 213, 2, 91));
        assert_eq!(plan.host_mac, [2, 0x0a, 0x1f, 1, 44, 1]);
        let last = SlotPlan::new(&config("10.0.0.0/8"), SlotIndex(u16::MAX));
        assert!(last.host_device.len() <= 15, "{}", last.host_device);
    }

    #[test]
    fn slots_share_no_address_and_stay_inside_the_network() {
        for network in ["10.250.0.0/24", "10.250.0.0/28", "10.0.0.0/8"] {
            let config = config(network);
            let mut seen = HashSet::new();
            for index in 0..capacity(config.network) {
                let plan = SlotPlan::new(&config, SlotIndex(u16::try_from(index).unwrap()));
                for address in [plan.host_end, plan.host_ip] {
                    assert!(config.network.contains(&address) && seen.insert(address), "{address}");
                    assert!(address != config.network.network() && address != config.network.broadcast());
                }
                let link = Ipv4Net::new(plan.host_end, LINK_PREFIX_LEN).unwrap();
                assert!(link.contains(&plan.host_ip), "{plan:?}: not one link");
            }
        }
        assert_eq!(capacity("10.250.0.0/24".parse().unwrap()), 126);
        assert_eq!(capacity("10.250.0.0/31".parse().unwrap()), 0);
        assert_eq!(capacity("10.250.0.0/30".parse().unwrap()), 0);
    }

    #[test]
    fn only_our_own_names_are_ours() {
        let tag: Tag = "0a1f".parse().unwrap();
        assert_eq!(index_of("sb-0a1f-12", &netns_prefix(&tag)), Some(SlotIndex(12)));
        assert_eq!(index_of("sb0a1f0", &device_prefix(&tag)), Some(SlotIndex(0)));
        for stranger in
            ["sb-0a1f-", "sb-0a1f-07", "sb-0a1f-+7", "sb-0a1f-x", "sb-0a1e-1", "sb-0a1f-70000", "eth0"]
        {
            assert_eq!(index_of(stranger, &netns_prefix(&tag)), None, "{stranger}");
        }
    }
}
