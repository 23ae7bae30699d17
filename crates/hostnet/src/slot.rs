//! One prepared network: made, listened in, removed.

use std::{
    fs::{self, File},
    io,
    net::Ipv4Addr,
    os::fd::AsFd,
    path::{Path, PathBuf},
};

use sandbar_types::{
    NetworkPolicy,
    guest::{GATEWAY_IP, GUEST_IP, GUEST_MAC, PREFIX_LEN, READY_PORT, TAP_MAC},
};
use tokio::net::TcpListener;

use crate::{
    NetConfig, NetError, SlotIndex, egress,
    netlink::{DefaultRoute, Netlink, Shaped, VethEnd},
    netns,
    plan::{LINK_PREFIX_LEN, SlotPlan, TAP, VETH},
    rules,
    shaping::Bucket,
    tap,
};

/// A prepared network for one sandbox. A plain description: dropping it changes nothing, [`Pool::release`](crate::Pool::release)
/// gives it back.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Slot {
    /// Its number, to be recorded.
    pub index: SlotIndex,
    /// The namespace's file, to be entered by the VMM (`/run/netns/NAME`).
    pub netns: PathBuf,
    /// Name of the TAP device in the namespace.
    pub tap: String,
    /// The address at which the host reaches the guest, any port.
    pub host_ip: Ipv4Addr,
}

impl Slot {
    /// A listener on the address and port to which the guest pushes its readiness. Bound inside the namespace; it serves whatever
    /// thread polls it.
    pub async fn ready_listener(&self) -> Result<TcpListener, NetError> {
        let netns = self.netns.clone();
        let failed = || NetError::system(format!("listen for the guest of slot {}", self.index));
        let bound = netns::on_own_thread(move || {
            netns::enter(&netns)?;
            // A socket belongs to the namespace that it was made in, for good.
            let bind = || {
                let listener = std::net::TcpListener::bind((GATEWAY_IP, READY_PORT))?;
                listener.set_nonblocking(true)?;
                Ok::<_, io::Error>(listener)
            };
            bind().map_err(NetError::system("bind the guest's ready port"))
        });
        TcpListener::from_std(bound.await?).map_err(failed())
    }
}

/// Makes a slot. The name comes first, so that whatever a dead process leaves can be found by it.
pub(crate) async fn make(plan: SlotPlan, config: &NetConfig) -> Result<(), NetError> {
    let rules = egress::rules(&plan, config, &NetworkPolicy::default(), &[]);
    let bucket = config.bytes_per_second.map(Bucket::new);
    netns::on_own_thread(move || {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(NetError::system("make a runtime"))?;
        let host_namespace =
            File::open("/proc/thread-self/ns/net").map_err(NetError::system("open the host's namespace"))?;
        // Opened before the thread changes its namespace, so it speaks to the host's.
        let host = runtime.block_on(async { Netlink::open() })?;
        netns::create(&plan.netns_path())?;
        settings_of_namespace()?;
        tap::create(TAP)?;
        runtime.block_on(async {
            let slot = Netlink::open()?;
            let here = VethEnd { name: VETH, mac: plan.slot_mac };
            let there = VethEnd { name: &plan.host_device, mac: plan.host_mac };
            slot.add_veth(here, there, host_namespace.as_fd()).await?;
            inside(&slot, &plan).await?;
            if let Some(bucket) = bucket {
                bound(&slot, bucket).await?;
            }
            outside(&host, &plan).await
        })?;
        rules::apply(&rules)
    })
    .await
}

/// The namespace's own devices.
async fn inside(netlink: &Netlink, plan: &SlotPlan) -> Result<(), NetError> {
    netlink.set_up(netlink.device("lo").await?).await?;
    let tap = netlink.device(TAP).await?;
    netlink.set_mac(tap, TAP_MAC).await?;
    netlink.add_address(tap, GATEWAY_IP, PREFIX_LEN).await?;
    netlink.set_up(tap).await?;
    netlink.add_neighbour(tap, GUEST_IP, GUEST_MAC).await?;
    let veth = netlink.device(VETH).await?;
    netlink.add_address(veth, plan.host_ip, LINK_PREFIX_LEN).await?;
    netlink.set_up(veth).await?;
    netlink.add_neighbour(veth, plan.host_end, plan.host_mac).await?;
    netlink.add_default_route(veth, plan.host_end).await
}

/// What the guest is sent goes out by the TAP, what it sends by the link to the host.
async fn bound(netlink: &Netlink, bucket: Bucket) -> Result<(), NetError> {
    for name in [TAP, VETH] {
        let device = netlink.device(name).await?;
        match netlink.set_bucket(device, bucket).await? {
            Shaped::Bounded => {}
            Shaped::UnknownToKernel => {
                tracing::warn!(
                    "the kernel has no token bucket (sch_tbf): sandboxes' networks are not bounded"
                );
                return Ok(());
            }
        }
    }
    Ok(())
}

/// The host's end of the pair.
async fn outside(netlink: &Netlink, plan: &SlotPlan) -> Result<(), NetError> {
    let device = netlink.device(&plan.host_device).await?;
    netlink.add_address(device, plan.host_end, LINK_PREFIX_LEN).await?;
    netlink.set_up(device).await?;
    netlink.add_neighbour(device, plan.host_ip, plan.slot_mac).await
}

/// Whether a slot's guest has a way out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum WayOut {
    /// The slot's rules decide.
    Open,
    /// Whatever it sends is lost, as if the network were slow to answer. The host still reaches it.
    Lost,
}

/// Gives a slot's guest its way out, or takes it.
pub(crate) async fn set_way_out(plan: SlotPlan, way_out: WayOut) -> Result<(), NetError> {
    netns::on_own_thread(move || {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(NetError::system("make a runtime"))?;
        netns::enter(&plan.netns_path())?;
        runtime.block_on(async {
            let slot = Netlink::open()?;
            let route = match way_out {
                WayOut::Open => {
                    DefaultRoute::Through { device: slot.device(VETH).await?, gateway: plan.host_end }
                }
                WayOut::Lost => DefaultRoute::Nowhere,
            };
            slot.replace_default_route(route).await
        })
    })
    .await
}

/// Kernel settings of the calling thread's namespace.
fn settings_of_namespace() -> Result<(), NetError> {
    set("ipv4/ip_forward", "1")?;
    // A refusal is always told: the one who hears it is the guest alone.
    set("ipv4/icmp_ratelimit", "0")?;
    // Before there is a device, so that none ever gets an address of it.
    set("ipv6/conf/all/disable_ipv6", "1")?;
    set("ipv6/conf/default/disable_ipv6", "1")
}

/// Writes a setting under `/proc/sys/net`, which is the calling thread's namespace's.
pub(crate) fn set(name: &str, value: &str) -> Result<(), NetError> {
    let path = Path::new("/proc/sys/net").join(name);
    match fs::write(&path, value) {
        // A kernel without IPv6 has no settings of it.
        Err(error) if error.kind() == io::ErrorKind::NotFound && name.starts_with("ipv6/") => Ok(()),
        written => written.map_err(|source| NetError::Setting { path, source }),
    }
}

/// Removes a slot, or what there is of it.
pub(crate) async fn remove(host: &Netlink, plan: &SlotPlan) -> Result<(), NetError> {
    // By name and at once. Left to the namespace's end, which the kernel puts off, it would be in the way of the next one.
    host.remove_device(&plan.host_device).await?;
    let path = plan.netns_path();
    netns::on_own_thread(move || netns::remove(&path)).await
}
