//! A guest's memory: mapped as Firecracker maps it, with the pages that were written since the last snapshot.

use std::{
    collections::BTreeSet,
    fs::File,
    io::{self, Error},
    os::{fd::AsRawFd, unix::fs::FileExt},
    ptr::null_mut,
    slice,
};

use super::PAGE;

pub(super) struct Memory {
    bytes: &'static mut [u8],
    written: BTreeSet<usize>,
}

impl Memory {
    /// A booted machine's: of the process alone.
    pub(super) fn anonymous(size: usize) -> io::Result<Self> {
        Self::map(size, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS, -1)
    }

    /// A restored machine's: a private mapping of the image.
    pub(super) fn of(image: &File, size: usize) -> io::Result<Self> {
        if image.metadata()?.len() != size as u64 {
            return Err(Error::new(io::ErrorKind::InvalidData, "the memory image has another size"));
        }
        Self::map(size, libc::MAP_PRIVATE, image.as_raw_fd())
    }

    fn map(size: usize, flags: libc::c_int, file: libc::c_int) -> io::Result<Self> {
        // SAFETY: a new mapping at an address that the kernel chooses.
        let base =
            unsafe { libc::mmap(null_mut(), size, libc::PROT_READ | libc::PROT_WRITE, flags, file, 0) };
        if base == libc::MAP_FAILED {
            return Err(Error::last_os_error());
        }
        // SAFETY: the mapping is that long, is never unmapped, and nobody else has its address.
        let bytes = unsafe { slice::from_raw_parts_mut(base.cast::<u8>(), size) };
        Ok(Self { bytes, written: BTreeSet::new() })
    }

    /// The guest fills a page.
    pub(super) fn fill(&mut self, page: usize, value: u8) {
        self.bytes[page * PAGE..(page + 1) * PAGE].fill(value);
        self.written.insert(page);
    }

    pub(super) fn first_byte(&self, page: usize) -> u8 {
        self.bytes[page * PAGE]
    }

    pub(super) fn write_all(&mut self, file: &File) -> io::Result<()> {
        file.write_all_at(self.bytes, 0)?;
        self.written.clear();
        Ok(())
    }

    /// Writes the pages that changed, zero or not, each at its place.
    pub(super) fn write_changed(&mut self, file: &File) -> io::Result<()> {
        for page in std::mem::take(&mut self.written) {
            let at = page * PAGE;
            file.write_all_at(&self.bytes[at..at + PAGE], at as u64)?;
        }
        Ok(())
    }

    pub(super) fn size(&self) -> usize {
        self.bytes.len()
    }
}
