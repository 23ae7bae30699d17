//! TAP devices.

use std::{fs::OpenOptions, io, os::fd::AsRawFd};

use crate::NetError;

/// Makes a TAP in the calling thread's namespace that stays when nobody has it open.
pub(crate) fn create(name: &str) -> Result<(), NetError> {
    make(name).map_err(NetError::system(format!("make the TAP {name}")))
}

fn make(name: &str) -> io::Result<()> {
    let device = OpenOptions::new().read(true).write(true).open("/dev/net/tun")?;
    // SAFETY: all-zero bytes are a valid `ifreq`: numbers and a null pointer.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    if name.len() >= request.ifr_name.len() {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    for (place, byte) in request.ifr_name.iter_mut().zip(name.bytes()) {
        *place = libc::c_char::from_ne_bytes([byte]);
    }
    // With the header in front of each packet that carries checksum and segmentation offloads: VMMs ask for it.
    let flags = libc::IFF_TAP | libc::IFF_NO_PI | libc::IFF_VNET_HDR;
    request.ifr_ifru.ifru_flags = libc::c_short::try_from(flags).map_err(|_| io::ErrorKind::InvalidInput)?;
    // SAFETY: the request takes an `ifreq`, which lives through the call and ends its name with a zero.
    check(unsafe { libc::ioctl(device.as_raw_fd(), libc::TUNSETIFF, &raw mut request) })?;
    let stay: libc::c_ulong = 1;
    // SAFETY: the request takes a number, not a pointer.
    check(unsafe { libc::ioctl(device.as_raw_fd(), libc::TUNSETPERSIST, stay) })
}

fn check(result: libc::c_int) -> io::Result<()> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}
