//! How a file lies on its filesystem: in how many pieces, and how much of it is shared with other files.
//!
//! Asked of the kernel (FIEMAP), which answers from the filesystem's own lists without reading the file.

use std::fs::File;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use rustix::io::Errno;
use rustix::ioctl::{Opcode, Updater, ioctl, opcode};

use crate::files::{FileError, OnFile};

/// Extents asked for at once.
const BATCH: usize = 256;

/// `FIEMAP_EXTENT_LAST`, `FIEMAP_EXTENT_SHARED`.
const LAST: u32 = 0x1;
const SHARED: u32 = 0x2000;

/// `struct fiemap_extent`.
#[repr(C)]
#[derive(Clone, Copy, Default)]
struct Extent {
    logical: u64,
    physical: u64,
    length: u64,
    reserved64: [u64; 2],
    flags: u32,
    reserved: [u32; 3],
}

/// `struct fiemap`, without the extents.
#[repr(C)]
#[derive(Clone, Copy, Default)]
struct Header {
    start: u64,
    length: u64,
    flags: u32,
    mapped: u32,
    count: u32,
    reserved: u32,
}

#[repr(C)]
struct Request {
    header: Header,
    extents: [Extent; BATCH],
}

/// `FS_IOC_FIEMAP`. Its number names the header alone; the extents follow it.
const FIEMAP: Opcode = opcode::read_write::<Header>(b'f', 11);

/// In how many pieces a file lies. 0 where the filesystem does not say.
pub(crate) fn count(path: &Path) -> Result<u64, FileError> {
    let mut pieces = 0;
    each(path, |_| pieces += 1)?;
    Ok(pieces)
}

/// Bytes of disk that a file shares with no other: what would be free if it were deleted.
pub fn own_bytes(path: &Path) -> Result<u64, FileError> {
    let mut own = 0;
    let known = each(path, |extent| {
        if extent.flags & SHARED == 0 {
            own += extent.length;
        }
    })?;
    match known {
        Known::Yes => Ok(own),
        // Where nothing can be shared, everything is its own.
        Known::No => Ok(path.metadata().on("look at", path)?.blocks() * 512),
    }
}

enum Known {
    Yes,
    No,
}

fn each(path: &Path, mut see: impl FnMut(&Extent)) -> Result<Known, FileError> {
    let file = File::open(path).on("open", path)?;
    let mut request = Box::new(Request { header: Header::default(), extents: [Extent::default(); BATCH] });
    let mut start = 0;
    loop {
        let count = u32::try_from(BATCH).unwrap_or(u32::MAX);
        request.header = Header { start, length: u64::MAX - start, count, ..Header::default() };
        match map(&file, &mut request) {
            Err(Errno::OPNOTSUPP | Errno::NOTTY) => return Ok(Known::No),
            mapped => mapped.map_err(io::Error::from).on("map", path)?,
        }
        let mapped = usize::try_from(request.header.mapped).map_or(BATCH, |mapped| mapped.min(BATCH));
        let found = &request.extents[..mapped];
        found.iter().for_each(&mut see);
        match found.last() {
            Some(last) if last.flags & LAST == 0 => start = last.logical + last.length,
            _ => return Ok(Known::Yes),
        }
    }
}

fn map(file: &File, request: &mut Request) -> rustix::io::Result<()> {
    // SAFETY: the kernel reads a header and writes it and up to `count` extents after it, which is what a `Request` has room for.
    unsafe { ioctl(file, Updater::<FIEMAP, Request>::new(request)) }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::FileExt;

    use super::*;

    #[test]
    fn pieces_are_counted_over_all_batches() {
        // On the build's own disk: a tmpfs has no extents to tell of.
        let file = tempfile::NamedTempFile::new_in(env!("CARGO_MANIFEST_DIR")).unwrap();
        let pieces = 3 * BATCH as u64 + 7;
        for piece in 0..pieces {
            file.as_file().write_all_at(&[1; 4096], piece * 3 * 4096).unwrap();
        }
        file.as_file().sync_all().unwrap();
        assert_eq!(count(file.path()).unwrap(), pieces);
        assert_eq!(own_bytes(file.path()).unwrap(), pieces * 4096);
    }
}
