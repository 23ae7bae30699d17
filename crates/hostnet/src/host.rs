//! The host's part that all slots share: the way out, the rules, leftovers.

use std::{collections::BTreeSet, fs, io};

use crate::{
    NetConfig, NetError, SlotIndex, Uplink,
    netlink::{Netlink, Route},
    netns,
    plan::{NETNS_FOLDER, SlotPlan, device_prefix, index_of, netns_prefix},
    rules, slot,
};

/// Prepares the host for slots: checks the addresses, finds the way out, sets the rules, lets packets be forwarded.
pub(crate) async fn prepare(host: &Netlink, config: &NetConfig) -> Result<(), NetError> {
    let devices = host.devices().await?;
    let routes = host.routes().await?;
    let name = |index: u32| devices.iter().find(|(other, _)| *other == index).map(|(_, name)| name.as_str());
    check_network(config, &routes, name)?;
    let uplink = match &config.uplink {
        Uplink::Device(device) => Some(device.as_str()),
        Uplink::Detect => default_route(&routes).and_then(|route| name(route.device)),
    };
    if uplink.is_none() {
        tracing::warn!("the host has no default route: sandboxes will reach nothing outside");
    }
    let rules = rules::for_host(config, uplink);
    netns::on_own_thread(move || {
        rules::apply(&rules)?;
        slot::set("ipv4/ip_forward", "1")
    })
    .await
}

/// Takes the host's rules back.
pub(crate) async fn restore(config: &NetConfig) -> Result<(), NetError> {
    let rules = rules::without_host(&config.tag);
    netns::on_own_thread(move || rules::apply(&rules)).await
}

/// Removes every slot of the tag but those in use.
pub(crate) async fn reclaim(
    host: &Netlink,
    config: &NetConfig,
    in_use: &BTreeSet<SlotIndex>,
) -> Result<(), NetError> {
    for index in present(host, config).await?.difference(in_use) {
        tracing::info!(slot = %index, "removing a network slot that nobody uses");
        slot::remove(host, &SlotPlan::new(config, *index)).await?;
    }
    Ok(())
}

/// Slots of which there is anything, by name.
pub(crate) async fn present(host: &Netlink, config: &NetConfig) -> Result<BTreeSet<SlotIndex>, NetError> {
    let (devices, namespaces) = (device_prefix(&config.tag), netns_prefix(&config.tag));
    let mut found: BTreeSet<_> =
        host.devices().await?.iter().filter_map(|(_, name)| index_of(name, &devices)).collect();
    let failed = NetError::system("list the namespaces");
    match fs::read_dir(NETNS_FOLDER).and_then(Iterator::collect::<io::Result<Vec<_>>>) {
        Ok(entries) => {
            found.extend(
                entries.iter().filter_map(|entry| index_of(entry.file_name().to_str()?, &namespaces)),
            );
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(failed(error)),
    }
    Ok(found)
}

/// Nobody else may be reached by the slots' addresses, or the slots would hide them.
fn check_network<'a>(
    config: &NetConfig,
    routes: &[Route],
    name: impl Fn(u32) -> Option<&'a str>,
) -> Result<(), NetError> {
    let ours = device_prefix(&config.tag);
    for Route { network: route, device, .. } in routes {
        let overlaps = route.contains(&config.network) || config.network.contains(route);
        let device = name(*device).unwrap_or("a device that is gone");
        if route.prefix_len() > 0 && overlaps && index_of(device, &ours).is_none() {
            let device = device.to_owned();
            return Err(NetError::NetworkTaken { network: config.network, route: *route, device });
        }
    }
    Ok(())
}

fn default_route(routes: &[Route]) -> Option<&Route> {
    routes.iter().filter(|route| route.network.prefix_len() == 0).min_by_key(|route| route.metric)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn route(network: &str, device: u32, metric: u32) -> Route {
        Route { network: network.parse().unwrap(), device, metric }
    }

    fn config() -> NetConfig {
        NetConfig::new("0a1f".parse().unwrap(), "10.213.0.0/16".parse().unwrap())
    }

    #[test]
    fn a_network_that_others_use_is_refused() {
        let name = |index| ["lo", "eth0", "sb0a1f4", "docker0", "sb0b1f4"].get(index as usize).copied();
        let check = |routes: &[Route]| check_network(&config(), routes, name);
        check(&[route("0.0.0.0/0", 1, 0), route("10.212.0.0/16", 3, 0), route("10.213.0.2/31", 2, 0)])
            .unwrap();
        for (network, device, holder) in [
            ("10.0.0.0/8", 1, "eth0"),
            ("10.213.7.0/24", 3, "docker0"),
            ("10.213.0.2/31", 4, "sb0b1f4"),
            ("10.213.0.0/16", 9, "a device that is gone"),
        ] {
            match check(&[route(network, device, 0)]) {
                Err(NetError::NetworkTaken { device, .. }) => assert_eq!(device, holder),
                other => panic!("{network}: {other:?}"),
            }
        }
    }

    #[test]
    fn the_way_out_is_the_default_route_that_the_kernel_prefers() {
        let routes = [route("192.0.2.0/24", 1, 0), route("0.0.0.0/0", 2, 600), route("0.0.0.0/0", 3, 100)];
        assert_eq!(default_route(&routes).unwrap().device, 3);
        assert_eq!(default_route(&routes[..1]), None);
    }
}
