//! The kernel's queue of events.

use std::ffi::{OsStr, OsString};
use std::io;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::Arc;

use rustix::buffer::spare_capacity;
use rustix::fs::inotify::{self, CreateFlags, ReadFlags, WatchFlags};
use rustix::io::{Errno, ioctl_fionread, retry_on_intr};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// What is read at a time. An event takes 16 bytes and its name, at most 272.
const READ_BYTES: usize = 64 * 1024;
const HEADER_BYTES: usize = 16;

/// One watch of one queue. The kernel gives each a number that it does not give again soon.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct Wd(pub(super) i32);

/// An event as it is in the queue.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Raw {
    pub(super) wd: Wd,
    pub(super) flags: ReadFlags,
    /// The entry of the watched folder; empty where it is about the folder itself.
    pub(super) name: OsString,
    /// How many bytes of the queue's whole life came before it.
    pub(super) offset: u64,
}

/// A queue. It and its watches end when nobody holds it any more.
#[derive(Debug)]
pub(super) struct Inotify {
    descriptor: OwnedFd,
}

impl Inotify {
    pub(super) fn new() -> io::Result<Self> {
        Ok(Self { descriptor: inotify::init(CreateFlags::NONBLOCK | CreateFlags::CLOEXEC)? })
    }

    /// Lets a task wait until there is something in the queue.
    pub(super) fn readiness(self: Arc<Self>) -> io::Result<AsyncFd<Arc<Self>>> {
        // SAFETY: the descriptor is this queue's alone, opened and closed with it, and nothing takes it out.
        let ready = unsafe { AsyncFd::register_with_interest(self, Interest::READABLE) };
        ready.map_err(|refused| refused.into_parts().1)
    }

    /// Watches a folder. One that is watched already keeps its watch.
    pub(super) fn watch(&self, folder: &Path, flags: WatchFlags) -> Result<Wd, Errno> {
        inotify::add_watch(&self.descriptor, folder, flags).map(Wd)
    }

    /// Ends a watch. One that ended by itself has ended.
    pub(super) fn unwatch(&self, wd: Wd) {
        let _ = inotify::remove_watch(&self.descriptor, wd.0);
    }

    /// Bytes in the queue that were not read yet.
    pub(super) fn unread(&self) -> io::Result<u64> {
        Ok(ioctl_fionread(&self.descriptor)?)
    }

    /// Reads what is there, up to a buffer. Nothing there is an empty answer.
    pub(super) fn read(&self) -> io::Result<Vec<u8>> {
        let mut buffer = Vec::with_capacity(READ_BYTES);
        match retry_on_intr(|| rustix::io::read(&self.descriptor, spare_capacity(&mut buffer))) {
            Ok(_) | Err(Errno::AGAIN) => Ok(buffer),
            Err(error) => Err(error.into()),
        }
    }
}

impl AsRawFd for Inotify {
    fn as_raw_fd(&self) -> RawFd {
        self.descriptor.as_raw_fd()
    }
}

/// Takes a buffer apart, the first byte of which is at `offset` of the queue's life.
pub(super) fn parse(buffer: &[u8], offset: u64) -> Vec<Raw> {
    let mut events = Vec::new();
    let mut rest = buffer;
    // The kernel writes whole events only.
    while let Some((header, behind)) = rest.split_at_checked(HEADER_BYTES) {
        let field = |index: usize| {
            let mut bytes = [0; 4];
            bytes.copy_from_slice(&header[index * 4..][..4]);
            u32::from_ne_bytes(bytes)
        };
        let Some((name, behind)) = behind.split_at_checked(field(3) as usize) else { break };
        // Padded with NULs.
        let name = name.split(|byte| *byte == 0).next().unwrap_or_default();
        events.push(Raw {
            wd: Wd(field(0).cast_signed()),
            flags: ReadFlags::from_bits_retain(field(1)),
            name: OsStr::from_bytes(name).to_owned(),
            offset: offset + (buffer.len() - rest.len()) as u64,
        });
        rest = behind;
    }
    events
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn encoded(wd: i32, flags: u32, name: &[u8]) -> Vec<u8> {
        let padded = if name.is_empty() { 0 } else { (name.len() + 1).next_multiple_of(16) };
        let mut bytes = Vec::new();
        bytes.extend(wd.to_ne_bytes());
        bytes.extend(flags.to_ne_bytes());
        bytes.extend(0_u32.to_ne_bytes());
        bytes.extend(u32::try_from(padded).unwrap().to_ne_bytes());
        bytes.extend(name);
        bytes.resize(HEADER_BYTES + padded, 0);
        bytes
    }

    proptest! {
        #[test]
        fn what_was_written_is_read(
            events in proptest::collection::vec((-1_i32..9, any::<u32>(), "[^\\x00/]{0,40}"), 0..20),
            cut in 0_usize..16,
            offset in 0_u64..1000,
        ) {
            let mut buffer = Vec::new();
            let mut starts = Vec::new();
            for (wd, flags, name) in &events {
                starts.push(offset + buffer.len() as u64);
                buffer.extend(encoded(*wd, *flags, name.as_bytes()));
            }
            let parsed = parse(&buffer, offset);
            prop_assert_eq!(parsed.len(), events.len());
            for ((raw, (wd, flags, name)), start) in parsed.iter().zip(&events).zip(starts) {
                prop_assert_eq!((raw.wd.0, raw.flags.bits(), raw.offset), (*wd, *flags, start));
                prop_assert_eq!(raw.name.as_bytes(), name.as_bytes());
            }
            // What is cut off is left out.
            let cut = buffer.len().saturating_sub(cut + 1);
            prop_assert_eq!(parse(&buffer[..cut], 0).len(), events.len().saturating_sub(1));
        }
    }
}
