//! The kernel's block devices whose blocks are elsewhere, told over generic netlink which socket to use (`linux/nbd-netlink.h`).
//!
//! While a device has no connection its requests wait, for an hour at most; processes see a disk that is slow. Of the requests that were
//! under way on a connection that broke the kernel knows only when it looks whether they are late, which it is told to do every few seconds.

use std::alloc::{Layout, alloc_zeroed, dealloc};
use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::PathBuf;
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use rustix::io::Errno;
use rustix::net::netlink::{self, SocketAddrNetlink};
use rustix::net::{
    AddressFamily, RecvFlags, SendFlags, Shutdown, SocketFlags, SocketType, bind, recv, send, shutdown,
    socket_with,
};

const BLOCK: usize = 4096;
/// How long requests wait for another connection.
const DEAD_CONNECTION_SECONDS: u64 = 3600;
/// How often the kernel looks after requests that are under way, in milliseconds.
const LATE: &str = "2000";
/// How long a device may take to go on with another connection, and how often that is looked at.
const RECONNECT_LIMIT: Duration = Duration::from_secs(20);
const RECONNECT_LOOK: Duration = Duration::from_millis(20);

/// A device's file.
pub(super) fn path(device: usize) -> PathBuf {
    format!("/dev/nbd{device}").into()
}

/// A device, and what this agent knows of its connection. An agent that was started again knows nothing.
pub(super) struct Device {
    index: u32,
    /// The connection that the kernel has, to end it by.
    socket: Option<OwnedFd>,
    /// Completes once the device answers.
    probe: Option<JoinHandle<io::Result<()>>>,
}

impl Device {
    pub(super) fn new(index: u32) -> Self {
        Self { index, socket: None, probe: None }
    }

    /// Gives the device this connection, its first or another one.
    pub(super) fn take(&mut self, socket: OwnedFd, size: u64) -> io::Result<()> {
        if let Some(former) = self.socket.take() {
            // The host has left it already; the kernel may not have noticed.
            let _ended = shutdown(&former, Shutdown::Both);
        }
        let mut nbd = Netlink::open()?;
        match nbd.reconfigure(self.index, &socket) {
            Ok(()) => self.go_on(&mut nbd, &socket)?,
            // It is not in use.
            Err(Errno::INVAL) => {
                nbd.connect(self.index, &socket, size)?;
                let late = format!("/sys/block/nbd{}/queue/io_timeout", self.index);
                if let Err(error) = fs::write(&late, LATE) {
                    tracing::warn!(%error, late, "what is lost with a connection is asked for again late");
                }
            }
            Err(errno) => return Err(errno.into()),
        }
        self.socket = Some(socket);
        Ok(())
    }

    /// Offers the connection until the device has taken it. The kernel takes one only in the place of one that it knows to be broken, and does
    /// not say whether it did: the device answers then.
    fn go_on(&mut self, nbd: &mut Netlink, socket: &OwnedFd) -> io::Result<()> {
        let index = self.index;
        let probe = self.probe.take().unwrap_or_else(|| thread::spawn(move || read_first_block(index)));
        let until = Instant::now() + RECONNECT_LIMIT;
        while !probe.is_finished() {
            if Instant::now() > until {
                self.probe = Some(probe);
                return Err(io::ErrorKind::TimedOut.into());
            }
            thread::sleep(RECONNECT_LOOK);
            nbd.reconfigure(index, socket)?;
        }
        probe.join().unwrap_or_else(|_| Err(io::Error::other("the look at the device died")))
    }
}

/// Past the page cache: from the host, or not at all.
fn read_first_block(index: u32) -> io::Result<()> {
    let device = OpenOptions::new()
        .read(true)
        .custom_flags(libc::O_DIRECT)
        .open(path(usize::try_from(index).map_err(io::Error::other)?))?;
    read_block(&device)
}

fn read_block(device: &File) -> io::Result<()> {
    let layout = Layout::from_size_align(BLOCK, BLOCK).map_err(io::Error::other)?;
    // SAFETY: the layout's size is not zero.
    let block = unsafe { alloc_zeroed(layout) };
    if block.is_null() {
        return Err(io::ErrorKind::OutOfMemory.into());
    }
    // SAFETY: `block` is BLOCK initialised bytes that nobody else has.
    let read = device.read_exact_at(unsafe { std::slice::from_raw_parts_mut(block, BLOCK) }, 0);
    // SAFETY: allocated above by this layout, and not used any more.
    unsafe { dealloc(block, layout) };
    read
}

// `linux/netlink.h`, `linux/genetlink.h`
const REQUEST_AND_ACKNOWLEDGE: u16 = 1 | 4;
const ERROR: u16 = 2;
const HEADER: usize = 16;
const GENERIC_HEADER: usize = 4;
const CONTROL: u16 = 0x10;
const CONTROL_GET_FAMILY: u8 = 3;
const FAMILY_ID: u16 = 1;
const FAMILY_NAME: u16 = 2;
const NESTED: u16 = 1 << 15;

// `linux/nbd-netlink.h`
const CONNECT: u8 = 1;
const RECONFIGURE: u8 = 3;
const INDEX: u16 = 1;
const SIZE_BYTES: u16 = 2;
const BLOCK_SIZE_BYTES: u16 = 3;
const SERVER_FLAGS: u16 = 5;
const SOCKETS: u16 = 7;
const DEAD_CONN_TIMEOUT: u16 = 8;
const SOCK_ITEM: u16 = 1;
const SOCK_FD: u16 = 1;

// `linux/nbd.h`
const FLAG_HAS_FLAGS: u64 = 1;
const FLAG_SEND_FLUSH: u64 = 1 << 2;
const FLAG_SEND_TRIM: u64 = 1 << 5;

/// Attributes as netlink has them: length, kind, value, each padded to four bytes.
#[derive(Default)]
struct Attributes(Vec<u8>);

impl Attributes {
    fn with(mut self, kind: u16, value: &[u8]) -> Self {
        let length = u16::try_from(value.len() + 4).unwrap_or(u16::MAX);
        self.0.extend_from_slice(&length.to_ne_bytes());
        self.0.extend_from_slice(&kind.to_ne_bytes());
        self.0.extend_from_slice(value);
        self.0.resize(self.0.len().next_multiple_of(4), 0);
        self
    }

    fn find(mut bytes: &[u8], wanted: u16) -> Option<&[u8]> {
        loop {
            let length = usize::from(u16::from_ne_bytes(bytes.get(..2)?.try_into().ok()?));
            let kind = u16::from_ne_bytes(bytes.get(2..4)?.try_into().ok()?);
            let value = bytes.get(4..length)?;
            if kind & !NESTED == wanted {
                return Some(value);
            }
            bytes = bytes.get(length.next_multiple_of(4)..)?;
        }
    }
}

/// A socket to the kernel's side.
struct Netlink {
    socket: OwnedFd,
    /// The number that `nbd` has among the kernel's families.
    family: u16,
    sequence: u32,
}

impl Netlink {
    fn open() -> io::Result<Self> {
        let socket = socket_with(
            AddressFamily::NETLINK,
            SocketType::RAW,
            SocketFlags::CLOEXEC,
            Some(netlink::GENERIC),
        )?;
        bind(&socket, &SocketAddrNetlink::new(0, 0))?;
        let mut this = Self { socket, family: CONTROL, sequence: 0 };
        let name = Attributes::default().with(FAMILY_NAME, b"nbd\0");
        let answer = this.ask(CONTROL_GET_FAMILY, &name)?;
        let family = Attributes::find(&answer, FAMILY_ID).and_then(|id| id.try_into().ok());
        this.family = u16::from_ne_bytes(family.ok_or_else(|| io::Error::from(io::ErrorKind::InvalidData))?);
        Ok(this)
    }

    fn connect(&mut self, index: u32, socket: &OwnedFd, size: u64) -> Result<(), Errno> {
        let block = BLOCK as u64;
        let flags = FLAG_HAS_FLAGS | FLAG_SEND_FLUSH | FLAG_SEND_TRIM;
        let attributes = Self::of_device(index, socket)
            .with(SIZE_BYTES, &size.to_ne_bytes())
            .with(BLOCK_SIZE_BYTES, &block.to_ne_bytes())
            .with(SERVER_FLAGS, &flags.to_ne_bytes())
            .with(DEAD_CONN_TIMEOUT, &DEAD_CONNECTION_SECONDS.to_ne_bytes());
        self.ask(CONNECT, &attributes).map(drop)
    }

    fn reconfigure(&mut self, index: u32, socket: &OwnedFd) -> Result<(), Errno> {
        self.ask(RECONFIGURE, &Self::of_device(index, socket)).map(drop)
    }

    fn of_device(index: u32, socket: &OwnedFd) -> Attributes {
        let fd = socket.as_fd().as_raw_fd().cast_unsigned();
        let item = Attributes::default().with(SOCK_FD, &fd.to_ne_bytes());
        let sockets = Attributes::default().with(SOCK_ITEM | NESTED, &item.0);
        Attributes::default().with(INDEX, &index.to_ne_bytes()).with(SOCKETS | NESTED, &sockets.0)
    }

    /// Sends a command and waits until the kernel has carried it out; the attributes of what it answered before, if anything.
    fn ask(&mut self, command: u8, attributes: &Attributes) -> Result<Vec<u8>, Errno> {
        self.sequence += 1;
        let length = u32::try_from(HEADER + GENERIC_HEADER + attributes.0.len()).unwrap_or(u32::MAX);
        let mut message = Vec::new();
        message.extend_from_slice(&length.to_ne_bytes());
        message.extend_from_slice(&self.family.to_ne_bytes());
        message.extend_from_slice(&REQUEST_AND_ACKNOWLEDGE.to_ne_bytes());
        message.extend_from_slice(&self.sequence.to_ne_bytes());
        message.extend_from_slice(&0u32.to_ne_bytes());
        message.extend_from_slice(&[command, 1, 0, 0]);
        message.extend_from_slice(&attributes.0);
        send(&self.socket, &message, SendFlags::empty())?;
        let mut answer = Vec::new();
        loop {
            let mut buffer = vec![0; 16 * 1024];
            let (length, _) = recv(&self.socket, &mut buffer[..], RecvFlags::empty())?;
            let mut rest = &buffer[..length];
            while let Some((kind, payload, others)) = next_message(rest) {
                if kind != ERROR {
                    answer = payload.get(GENERIC_HEADER..).unwrap_or_default().to_vec();
                } else {
                    let code = payload.get(..4).and_then(|code| code.try_into().ok()).map(i32::from_ne_bytes);
                    return match code {
                        Some(0) => Ok(answer),
                        Some(code) => Err(Errno::from_raw_os_error(-code)),
                        None => Err(Errno::BADMSG),
                    };
                }
                rest = others;
            }
        }
    }
}

/// The first message's kind and payload, and what comes after it.
fn next_message(bytes: &[u8]) -> Option<(u16, &[u8], &[u8])> {
    let length = usize::try_from(u32::from_ne_bytes(bytes.get(..4)?.try_into().ok()?)).ok()?;
    let kind = u16::from_ne_bytes(bytes.get(4..6)?.try_into().ok()?);
    let payload = bytes.get(HEADER..length)?;
    Some((kind, payload, bytes.get(length.next_multiple_of(4)..).unwrap_or_default()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn attributes_are_found_behind_others_of_any_length() {
        let attributes = Attributes::default().with(1, b"a").with(2 | NESTED, b"bcdef").with(3, b"");
        assert_eq!(Attributes::find(&attributes.0, 1), Some(&b"a"[..]));
        assert_eq!(Attributes::find(&attributes.0, 2), Some(&b"bcdef"[..]));
        assert_eq!(Attributes::find(&attributes.0, 3), Some(&b""[..]));
        assert_eq!(Attributes::find(&attributes.0, 4), None);
    }

    proptest! {
        #[test]
        fn garbage_is_read_without_panic_or_end(bytes in prop::collection::vec(any::<u8>(), 0..100)) {
            let _ = Attributes::find(&bytes, 9);
            let _ = next_message(&bytes);
        }
    }
}
