//! Waits for a device to appear: the kernel pushes an event per device, so nothing is polled.

use std::io;
use std::path::Path;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fd::OwnedFd;
use rustix::net::netlink::{self, SocketAddrNetlink};
use rustix::net::{AddressFamily, RecvFlags, SocketFlags, SocketType, bind, recv, socket_with};

/// The kernel's own broadcast group (udev's is 2).
const KERNEL_GROUP: u32 = 1;

/// A subscription to the kernel's device events. Make it before whatever causes the device, or its event can be missed.
pub(crate) struct Uevents {
    socket: OwnedFd,
}

impl Uevents {
    /// Subscribes.
    pub(crate) fn subscribe() -> io::Result<Self> {
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let socket =
            socket_with(AddressFamily::NETLINK, SocketType::DGRAM, flags, Some(netlink::KOBJECT_UEVENT))?;
        bind(&socket, &SocketAddrNetlink::new(0, KERNEL_GROUP))?;
        Ok(Self { socket })
    }

    /// Returns as soon as `path` exists; fails with `TimedOut` after `limit`.
    pub(crate) fn wait_for(&self, path: &Path, limit: Duration) -> io::Result<()> {
        let deadline = Instant::now() + limit;
        // devtmpfs makes the node before the event is sent, so looking after each event suffices.
        while !path.exists() {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(io::ErrorKind::TimedOut.into());
            }
            let timeout = Timespec::try_from(left).map_err(|_| io::ErrorKind::InvalidInput)?;
            poll(&mut [PollFd::new(&self.socket, PollFlags::IN)], Some(&timeout))?;
            self.drain();
        }
        Ok(())
    }

    fn drain(&self) {
        let mut event = [0_u8; 4096];
        // An overrun (ENOBUFS) is an error here too, and harmless: the caller looks at the path in any case.
        while recv(&self.socket, &mut event[..], RecvFlags::DONTWAIT).is_ok() {}
    }
}
