//! Addresses and routes by rtnetlink, since an image need not contain `ip`.
//!
//! Messages are put together as bytes: a header of 16, the body that the type asks for, then attributes, each padded to 4.

use std::io;
use std::net::Ipv4Addr;

use rustix::fd::OwnedFd;
use rustix::net::netlink::SocketAddrNetlink;
use rustix::net::{
    AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, bind, recv, send, socket_with,
};

const RTM_NEWLINK: u16 = 16;
const RTM_NEWADDR: u16 = 20;
const RTM_NEWROUTE: u16 = 24;
const NLMSG_ERROR: u16 = 2;
const NLM_F_REQUEST: u16 = 0x1;
const NLM_F_ACK: u16 = 0x4;
const NLM_F_REPLACE: u16 = 0x100;
const NLM_F_CREATE: u16 = 0x400;

const AF_INET: u8 = 2;
const IFF_UP: u32 = 1;
const IFA_ADDRESS: u16 = 1;
const IFA_LOCAL: u16 = 2;
const RTA_OIF: u16 = 4;
const RTA_GATEWAY: u16 = 5;
const RT_TABLE_MAIN: u8 = 254;
const RTPROT_BOOT: u8 = 3;
const RT_SCOPE_UNIVERSE: u8 = 0;
const RTN_UNICAST: u8 = 1;

/// Brings a link up.
pub(crate) fn bring_up(link: &str) -> io::Result<()> {
    Rtnetlink::open()?.request(&link_up(index_of(link)?))
}

/// Gives a link its address, brings it up and makes `gateway` the default route.
pub(crate) fn configure(link: &str, address: Ipv4Addr, prefix_len: u8, gateway: Ipv4Addr) -> io::Result<()> {
    let index = index_of(link)?;
    let netlink = Rtnetlink::open()?;
    netlink.request(&link_address(index, address, prefix_len))?;
    netlink.request(&link_up(index))?;
    netlink.request(&default_route(index, gateway))
}

fn index_of(link: &str) -> io::Result<u32> {
    std::fs::read_to_string(format!("/sys/class/net/{link}/ifindex"))?
        .trim()
        .parse()
        .map_err(|_| io::ErrorKind::InvalidData.into())
}

fn link_up(index: u32) -> Vec<u8> {
    // struct ifinfomsg: family, padding, type, index, flags, mask of the flags to change.
    let mut message = Message::new(RTM_NEWLINK, 0);
    message.bytes(&[0; 4]).u32(index).u32(IFF_UP).u32(IFF_UP);
    message.finish()
}

fn link_address(index: u32, address: Ipv4Addr, prefix_len: u8) -> Vec<u8> {
    // struct ifaddrmsg: family, prefix length, flags, scope, index.
    let mut message = Message::new(RTM_NEWADDR, NLM_F_CREATE | NLM_F_REPLACE);
    message.bytes(&[AF_INET, prefix_len, 0, RT_SCOPE_UNIVERSE]).u32(index);
    message.attribute(IFA_LOCAL, &address.octets()).attribute(IFA_ADDRESS, &address.octets());
    message.finish()
}

fn default_route(index: u32, gateway: Ipv4Addr) -> Vec<u8> {
    // struct rtmsg: family, lengths of destination and source, tos, table, protocol, scope, type, then flags.
    let mut message = Message::new(RTM_NEWROUTE, NLM_F_CREATE | NLM_F_REPLACE);
    message.bytes(&[AF_INET, 0, 0, 0, RT_TABLE_MAIN, RTPROT_BOOT, RT_SCOPE_UNIVERSE, RTN_UNICAST]).u32(0);
    message.attribute(RTA_GATEWAY, &gateway.octets()).attribute(RTA_OIF, &index.to_ne_bytes());
    message.finish()
}

/// A request under construction.
struct Message(Vec<u8>);

impl Message {
    fn new(kind: u16, flags: u16) -> Self {
        let mut message = Self(vec![0; 4]);
        message.bytes(&kind.to_ne_bytes()).bytes(&(NLM_F_REQUEST | NLM_F_ACK | flags).to_ne_bytes());
        // Sequence and sender: one request at a time, and the kernel fills the sender in.
        message.u32(1).u32(0);
        message
    }

    fn bytes(&mut self, bytes: &[u8]) -> &mut Self {
        self.0.extend_from_slice(bytes);
        self
    }

    fn u32(&mut self, value: u32) -> &mut Self {
        self.bytes(&value.to_ne_bytes())
    }

    /// Four-byte values only, so that no padding is ever needed.
    fn attribute(&mut self, kind: u16, value: &[u8; 4]) -> &mut Self {
        const LENGTH: u16 = 8;
        self.bytes(&LENGTH.to_ne_bytes()).bytes(&kind.to_ne_bytes()).bytes(value)
    }

    fn finish(mut self) -> Vec<u8> {
        let length = u32::try_from(self.0.len()).unwrap_or(u32::MAX);
        self.0[..4].copy_from_slice(&length.to_ne_bytes());
        self.0
    }
}

struct Rtnetlink(OwnedFd);

impl Rtnetlink {
    fn open() -> io::Result<Self> {
        // Protocol 0, the default of this family, is NETLINK_ROUTE.
        let socket = socket_with(AddressFamily::NETLINK, SocketType::RAW, SocketFlags::CLOEXEC, None)?;
        bind(&socket, &SocketAddrNetlink::new(0, 0))?;
        Ok(Self(socket))
    }

    /// Sends a request and waits for the kernel's acknowledgement.
    fn request(&self, message: &[u8]) -> io::Result<()> {
        send(&self.0, message, SendFlags::empty())?;
        let mut reply = [0_u8; 4096];
        let (length, _) = recv(&self.0, &mut reply[..], RecvFlags::empty())?;
        acknowledged(&reply[..length])
    }
}

/// Reads an acknowledgement: a message of type "error" whose code is zero or a negative errno.
fn acknowledged(reply: &[u8]) -> io::Result<()> {
    let kind = reply.get(4..6).and_then(|bytes| bytes.try_into().ok()).map(u16::from_ne_bytes);
    let code = reply.get(16..20).and_then(|bytes| bytes.try_into().ok()).map(i32::from_ne_bytes);
    match (kind, code) {
        (Some(NLMSG_ERROR), Some(0)) => Ok(()),
        (Some(NLMSG_ERROR), Some(code)) => Err(io::Error::from_raw_os_error(-code)),
        _ => Err(io::ErrorKind::InvalidData.into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Against the kernel itself, in a network namespace of the test's own (a thread's, so nothing else is touched).
    #[test]
    fn configures_links_as_the_kernel_sees_them() {
        let seen = std::thread::spawn(|| {
            // SAFETY: only the network namespace of this thread changes, and the thread ends with the test.
            unsafe { rustix::thread::unshare_unsafe(rustix::thread::UnshareFlags::NEWNET) }.unwrap();
            bring_up_by_index(1);
            Rtnetlink::open().unwrap().request(&link_address(1, Ipv4Addr::new(172, 30, 0, 2), 30)).unwrap();
            Rtnetlink::open().unwrap().request(&default_route(1, Ipv4Addr::new(172, 30, 0, 1))).unwrap();
            let refused = Rtnetlink::open().unwrap().request(&link_up(4242)).unwrap_err();
            assert_eq!(refused.raw_os_error(), Some(libc::ENODEV));
            (
                std::fs::read_to_string("/proc/thread-self/net/route").unwrap(),
                std::fs::read_to_string("/proc/thread-self/net/fib_trie").unwrap(),
            )
        })
        .join()
        .unwrap();
        // Destination 0, gateway 172.30.0.1 in the host's byte order.
        assert!(seen.0.contains("lo\t00000000\t01001EAC"), "{}", seen.0);
        assert!(seen.1.contains("172.30.0.2"), "{}", seen.1);
    }

    fn bring_up_by_index(index: u32) {
        Rtnetlink::open().unwrap().request(&link_up(index)).unwrap();
    }
}
