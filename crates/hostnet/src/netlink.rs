//! Devices, addresses and routes of one network namespace, over netlink.

use std::net::{IpAddr, Ipv4Addr};

use futures::{StreamExt, TryStreamExt};
use ipnet::Ipv4Net;
use netlink_packet_route::{
    AddressFamily,
    link::{InfoData, InfoVeth, LinkAttribute},
    neighbour::NeighbourState,
    route::{RouteAddress, RouteAttribute, RouteMessage, RouteType},
};
use rtnetlink::packet_core::{
    NLM_F_ACK, NLM_F_CREATE, NLM_F_REPLACE, NLM_F_REQUEST, NetlinkMessage, NetlinkPayload,
};
use rtnetlink::packet_route::RouteNetlinkMessage;
use rtnetlink::{Handle, LinkMessageBuilder, LinkUnspec, LinkVeth, RouteMessageBuilder};

use crate::{NetError, shaping::Bucket};

/// A netlink socket: of the namespace in which it was opened, wherever it is used.
#[derive(Debug, Clone)]
pub(crate) struct Netlink(Handle);

/// A device and its hardware address.
#[derive(Debug, Clone, Copy)]
pub(crate) struct VethEnd<'a> {
    pub(crate) name: &'a str,
    pub(crate) mac: [u8; 6],
}

/// What became of a bound.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Shaped {
    Bounded,
    /// The kernel was built without it.
    UnknownToKernel,
}

/// Where everything goes that has no route of its own.
#[derive(Debug, Clone, Copy)]
pub(crate) enum DefaultRoute {
    Through {
        device: u32,
        gateway: Ipv4Addr,
    },
    /// It is dropped, and its sender not told.
    Nowhere,
}

/// A route to an IPv4 network. The default route's is 0.0.0.0/0.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Route {
    pub(crate) network: Ipv4Net,
    pub(crate) device: u32,
    pub(crate) metric: u32,
}

impl Netlink {
    /// Opens a socket in the calling thread's namespace, served by a task of the current runtime.
    pub(crate) fn open() -> Result<Self, NetError> {
        let (connection, handle, _) =
            rtnetlink::new_connection().map_err(NetError::system("open a netlink socket"))?;
        tokio::spawn(connection);
        Ok(Self(handle))
    }

    /// Number and name of every device.
    pub(crate) async fn devices(&self) -> Result<Vec<(u32, String)>, NetError> {
        let failed = NetError::netlink("list the devices");
        let links: Vec<_> = self.0.link().get().execute().try_collect().await.map_err(failed)?;
        let name = |attribute| match attribute {
            LinkAttribute::IfName(name) => Some(name),
            _ => None,
        };
        Ok(links
            .into_iter()
            .filter_map(|link| Some((link.header.index, link.attributes.into_iter().find_map(name)?)))
            .collect())
    }

    pub(crate) async fn device(&self, name: &str) -> Result<u32, NetError> {
        let request = self.0.link().get().match_name(name.to_owned());
        let failed = || NetError::netlink(format!("find the device {name}"));
        match request.execute().try_next().await.map_err(failed())? {
            Some(link) => Ok(link.header.index),
            None => Err(failed()(rtnetlink::Error::RequestFailed)),
        }
    }

    /// Makes a veth pair: one end in this namespace, the other in the one that `other_namespace` is a descriptor of.
    pub(crate) async fn add_veth(
        &self,
        here: VethEnd<'_>,
        there: VethEnd<'_>,
        other_namespace: std::os::fd::BorrowedFd<'_>,
    ) -> Result<(), NetError> {
        use std::os::fd::AsRawFd;
        let peer = LinkMessageBuilder::<LinkUnspec>::new()
            .name(there.name)
            .address(there.mac.to_vec())
            .setns_by_fd(other_namespace.as_raw_fd())
            .build();
        let pair = LinkMessageBuilder::<LinkVeth>::new(here.name, there.name)
            .address(here.mac.to_vec())
            .set_info_data(InfoData::Veth(InfoVeth::Peer(peer)))
            .build();
        let failed = NetError::netlink(format!("make the veth pair {} and {}", here.name, there.name));
        self.0.link().add(pair).execute().await.map_err(failed)
    }

    /// Removes a device, and with a veth its other end. Fine if it is not there.
    pub(crate) async fn remove_device(&self, name: &str) -> Result<(), NetError> {
        let message = LinkUnspec::new_with_name(name).build();
        match self.0.link().del_with_message(message).execute().await {
            Err(error) if is(&error, libc::ENODEV) => Ok(()),
            removed => removed.map_err(NetError::netlink(format!("remove the device {name}"))),
        }
    }

    pub(crate) async fn set_mac(&self, device: u32, mac: [u8; 6]) -> Result<(), NetError> {
        let message = LinkUnspec::new_with_index(device).address(mac.to_vec()).build();
        self.0.link().set(message).execute().await.map_err(NetError::netlink("set a hardware address"))
    }

    pub(crate) async fn set_up(&self, device: u32) -> Result<(), NetError> {
        let message = LinkUnspec::new_with_index(device).up().build();
        self.0.link().set(message).execute().await.map_err(NetError::netlink("switch a device on"))
    }

    pub(crate) async fn add_address(
        &self,
        device: u32,
        address: Ipv4Addr,
        prefix_len: u8,
    ) -> Result<(), NetError> {
        let request = self.0.address().add(device, IpAddr::V4(address), prefix_len);
        request.execute().await.map_err(NetError::netlink(format!("add the address {address}/{prefix_len}")))
    }

    /// Says for good who has an address, so that nobody has to ask.
    pub(crate) async fn add_neighbour(
        &self,
        device: u32,
        address: Ipv4Addr,
        mac: [u8; 6],
    ) -> Result<(), NetError> {
        let request = self
            .0
            .neighbours()
            .add(device, IpAddr::V4(address))
            .link_layer_address(&mac)
            .state(NeighbourState::Permanent);
        request.execute().await.map_err(NetError::netlink(format!("add the neighbour {address}")))
    }

    pub(crate) async fn add_default_route(&self, device: u32, gateway: Ipv4Addr) -> Result<(), NetError> {
        let route = RouteMessageBuilder::<Ipv4Addr>::new().output_interface(device).gateway(gateway).build();
        self.0.route().add(route).execute().await.map_err(NetError::netlink("add the default route"))
    }

    /// Bounds what a device sends.
    pub(crate) async fn set_bucket(&self, device: u32, bucket: Bucket) -> Result<Shaped, NetError> {
        let failed = || NetError::netlink("bound what a device sends");
        let message = bucket.on(device).map_err(|_| failed()(rtnetlink::Error::RequestFailed))?;
        let mut request = NetlinkMessage::from(RouteNetlinkMessage::NewQueueDiscipline(message));
        request.header.flags = NLM_F_REQUEST | NLM_F_ACK | NLM_F_CREATE | NLM_F_REPLACE;
        let mut answers = self.0.clone().request(request).map_err(failed())?;
        while let Some(answer) = answers.next().await {
            if let NetlinkPayload::Error(error) = answer.payload {
                match rtnetlink::Error::NetlinkError(error) {
                    error if is(&error, 0) => {}
                    error if is(&error, libc::ENOENT) => return Ok(Shaped::UnknownToKernel),
                    error => return Err(failed()(error)),
                }
            }
        }
        Ok(Shaped::Bounded)
    }

    /// Puts a default route in the place of the one that there is.
    pub(crate) async fn replace_default_route(&self, by: DefaultRoute) -> Result<(), NetError> {
        let route = RouteMessageBuilder::<Ipv4Addr>::new();
        let route = match by {
            DefaultRoute::Through { device, gateway } => route.output_interface(device).gateway(gateway),
            DefaultRoute::Nowhere => route.kind(RouteType::BlackHole),
        };
        let request = self.0.route().add(route.build()).replace();
        request.execute().await.map_err(NetError::netlink("replace the default route"))
    }

    /// The routes to other machines.
    pub(crate) async fn routes(&self) -> Result<Vec<Route>, NetError> {
        let all = RouteMessageBuilder::<Ipv4Addr>::new().build();
        let failed = NetError::netlink("list the routes");
        let routes: Vec<_> = self.0.route().get(all).execute().try_collect().await.map_err(failed)?;
        Ok(routes.iter().filter_map(route).collect())
    }
}

fn route(message: &RouteMessage) -> Option<Route> {
    if message.header.address_family != AddressFamily::Inet || message.header.kind != RouteType::Unicast {
        return None;
    }
    let (mut destination, mut device, mut metric) = (Ipv4Addr::UNSPECIFIED, None, 0);
    for attribute in &message.attributes {
        match attribute {
            RouteAttribute::Destination(RouteAddress::Inet(address)) => destination = *address,
            RouteAttribute::Oif(index) => device = Some(*index),
            RouteAttribute::Priority(priority) => metric = *priority,
            _ => {}
        }
    }
    let network = Ipv4Net::new(destination, message.header.destination_prefix_length).ok()?;
    Some(Route { network, device: device?, metric })
}

fn is(error: &rtnetlink::Error, errno: i32) -> bool {
    matches!(error, rtnetlink::Error::NetlinkError(message) if message.raw_code() == -errno)
}
