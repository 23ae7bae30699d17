//! The pages that a machine has written since its start, found and copied from outside its process.
//!
//! A machine maps its memory image privately, be it a snapshot's or the empty one that it booted on: what the guest writes is in pages of the process alone, and the kernel says
//! which those are (`/proc/PID/pagemap`: there, and not the file's). So nothing has to be tracked while the guest runs, and saving a
//! machine costs what it has changed. The guest's memory lies in the file from end to end; the hole below 4 GB that a guest with
//! more than 3 GB sees is none in the file.

use std::{
    ffi::OsStr,
    fs::{self, File},
    io,
    ops::Range,
    os::unix::{
        ffi::OsStrExt,
        fs::{FileExt, MetadataExt},
    },
    path::Path,
};

use rustix::{
    fs::{FallocateFlags, fallocate},
    io::Errno,
};

use crate::ProcessIdentity;

/// Bits of a pagemap entry: the page is in memory, in swap, or a page of the file (or of shared memory).
const PRESENT: u64 = 1 << 63;
const SWAPPED: u64 = 1 << 62;
const FILE_PAGE: u64 = 1 << 61;

/// x86-64's page, which the driver is for.
const PAGE: usize = 4096;
/// Pagemap entries read at once: those of a quarter gigabyte.
const ENTRIES: usize = 64 * 1024;
const ENTRY_BYTES: usize = size_of::<u64>();
/// Bytes copied at once.
const COPY: usize = 1 << 20;
/// Zeroed ranges from this size on become holes. Smaller ones are written: a hole costs the filesystem a transaction.
const HOLE: usize = 64 * 1024;
/// What lies between changed pages is written with them up to this size: each run by itself is one more piece of the image, which costs
/// the filesystem more than these bytes do, now and at every later clone.
const GAP: u64 = 32 * 1024;

/// What a copy of the changed pages wrote.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Copied {
    /// Bytes of pages that the guest changed.
    pub(crate) changed: u64,
    /// How much of what was written is zero by now.
    pub(crate) zeroed: u64,
}

/// A file's private mapping in another process.
pub(crate) struct PrivateMapping {
    parts: Vec<Part>,
    pagemap: File,
    memory: File,
}

/// A piece of the mapping. Advice given to the kernel cuts one mapping into several.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Part {
    addresses: Range<u64>,
    offset: u64,
}

impl PrivateMapping {
    /// Opens the mapping of `file` in a process, where its name is `name`. It must cover all of its `size` bytes.
    pub(crate) fn open(process: ProcessIdentity, file: &Path, name: &str, size: u64) -> io::Result<Self> {
        let proc = |name: &str| format!("/proc/{}/{name}", process.pid);
        let maps = fs::read(proc("maps"))?;
        let (pagemap, memory) = (File::open(proc("pagemap"))?, File::open(proc("mem"))?);
        // Compared after all is opened: what was opened before is then that process's.
        if ProcessIdentity::of(process.pid)? != process {
            return Err(Errno::SRCH.into());
        }
        let parts = parts(&maps, fs::metadata(file)?.ino(), OsStr::new(name));
        let mapped: u64 = parts.iter().map(|part| part.addresses.end - part.addresses.start).sum();
        if mapped != size {
            let reason = format!("{mapped} of {size} bytes of {} are mapped", file.display());
            return Err(io::Error::new(io::ErrorKind::InvalidData, reason));
        }
        Ok(Self { parts, pagemap, memory })
    }

    /// Bytes of the pages that were changed.
    pub(crate) fn changed(&self) -> io::Result<u64> {
        let mut bytes = 0;
        self.for_each_changed(|_, addresses| {
            bytes += addresses.end - addresses.start;
            Ok(())
        })?;
        Ok(bytes)
    }

    /// Writes the changed pages to `image`, which holds what the file holds. The process must not change them meanwhile.
    pub(crate) fn copy_changed(&self, image: &File) -> io::Result<Copied> {
        let mut copied = Copied::default();
        let mut buffer = vec![0; COPY];
        let mut copy = |run: Part| {
            let (mut address, mut offset) = (run.addresses.start, run.offset);
            while address < run.addresses.end {
                let wanted = usize::try_from(run.addresses.end - address).map_or(COPY, |left| left.min(COPY));
                let pages = &mut buffer[..wanted];
                self.memory.read_exact_at(pages, address)?;
                copied.zeroed += write_pages(image, offset, pages)?;
                address += wanted as u64;
                offset += wanted as u64;
            }
            io::Result::Ok(())
        };
        let mut joined: Option<Part> = None;
        self.for_each_changed(|offset, addresses| {
            copied.changed += addresses.end - addresses.start;
            match &mut joined {
                Some(run) if run.is_closely_before(offset, addresses.start) => {
                    run.addresses.end = addresses.end;
                    Ok(())
                }
                _ => joined.replace(Part { addresses, offset }).map_or(Ok(()), &mut copy),
            }
        })?;
        joined.map_or(Ok(()), copy)?;
        Ok(copied)
    }

    /// Calls `take` with the place in the file and the addresses of each run of changed pages.
    fn for_each_changed(&self, mut take: impl FnMut(u64, Range<u64>) -> io::Result<()>) -> io::Result<()> {
        let page = PAGE as u64;
        let mut buffer = vec![0; ENTRIES * ENTRY_BYTES];
        for Part { addresses, offset } in &self.parts {
            let mut run: Option<u64> = None;
            let mut at = addresses.start;
            while at < addresses.end {
                let pages =
                    usize::try_from((addresses.end - at) / page).map_or(ENTRIES, |left| left.min(ENTRIES));
                let entries = &mut buffer[..pages * ENTRY_BYTES];
                self.pagemap.read_exact_at(entries, at / page * ENTRY_BYTES as u64)?;
                for entry in entries.as_chunks::<ENTRY_BYTES>().0 {
                    let entry = u64::from_ne_bytes(*entry);
                    let changed = entry & (PRESENT | SWAPPED) != 0 && entry & FILE_PAGE == 0;
                    match (changed, run) {
                        (true, None) => run = Some(at),
                        (false, Some(start)) => {
                            take(offset + (start - addresses.start), start..at)?;
                            run = None;
                        }
                        (true, Some(_)) | (false, None) => {}
                    }
                    at += page;
                }
            }
            if let Some(start) = run {
                take(offset + (start - addresses.start), start..at)?;
            }
        }
        Ok(())
    }
}

impl Part {
    /// Whether so little of the file lies between this and what begins there that it is copied with it.
    fn is_closely_before(&self, offset: u64, address: u64) -> bool {
        let Some(gap) = address.checked_sub(self.addresses.end) else { return false };
        gap <= GAP && offset.checked_sub(self.offset) == Some(address - self.addresses.start)
    }
}

/// The pieces of a file's mapping, from `/proc/PID/maps`. The device is not compared: some filesystems show another one there.
fn parts(maps: &[u8], inode: u64, name: &OsStr) -> Vec<Part> {
    let hex = |text: &str| u64::from_str_radix(text, 16).ok();
    let part = |line: &[u8]| {
        let path_at = line.iter().position(|&byte| byte == b'/')?;
        let (fields, path) = line.split_at(path_at);
        let path = path.strip_suffix(b" (deleted)").unwrap_or(path);
        let fields: Vec<&str> = std::str::from_utf8(fields).ok()?.split_ascii_whitespace().collect();
        let [addresses, _permissions, offset, _device, found] = fields[..] else { return None };
        let (start, end) = addresses.split_once('-')?;
        let ours = found.parse() == Ok(inode) && Path::new(OsStr::from_bytes(path)).file_name() == Some(name);
        ours.then_some(Part { addresses: hex(start)?..hex(end)?, offset: hex(offset)? })
    };
    maps.split(|&byte| byte == b'\n').filter_map(part).collect()
}

/// Writes whole pages; says how many bytes of them are zero. What the guest zeroed has to be zero in the image, whatever is there.
fn write_pages(image: &File, offset: u64, pages: &[u8]) -> io::Result<u64> {
    let mut zeroed = 0;
    // What is written by one call, and how far it was looked at.
    let (mut unwritten, mut at) = (0, 0);
    for run in zero_runs(pages) {
        let next = at + run.len();
        if is_zero(&run[..PAGE]) {
            zeroed += run.len() as u64;
            if run.len() >= HOLE && punch(image, offset + at as u64, run.len() as u64)? {
                image.write_all_at(&pages[unwritten..at], offset + unwritten as u64)?;
                unwritten = next;
            }
        }
        at = next;
    }
    image.write_all_at(&pages[unwritten..], offset + unwritten as u64)?;
    Ok(zeroed)
}

/// Makes holes of what is zero in an image; says how many bytes are zero.
pub(crate) fn punch_zeroed(image: &File) -> io::Result<u64> {
    let size = image.metadata()?.len();
    let mut buffer = vec![0; COPY];
    let (mut at, mut zeroed) = (0, 0);
    while at < size {
        let length = usize::try_from(size - at).map_or(COPY, |left| left.min(COPY));
        let pages = &mut buffer[..length];
        image.read_exact_at(pages, at)?;
        let mut place = at;
        for run in zero_runs(pages) {
            if is_zero(&run[..PAGE]) {
                zeroed += run.len() as u64;
                if run.len() >= HOLE {
                    punch(image, place, run.len() as u64)?;
                }
            }
            place += run.len() as u64;
        }
        at += length as u64;
    }
    Ok(zeroed)
}

/// Makes a range a hole; whether the filesystem can.
fn punch(image: &File, offset: u64, length: u64) -> io::Result<bool> {
    match fallocate(image, FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE, offset, length) {
        Ok(()) => Ok(true),
        Err(Errno::OPNOTSUPP) => Ok(false),
        Err(error) => Err(error.into()),
    }
}

fn is_zero(bytes: &[u8]) -> bool {
    bytes.iter().fold(0, |any, byte| any | byte) == 0
}

/// Runs of pages that are all zero, or of which none is.
fn zero_runs(mut rest: &[u8]) -> impl Iterator<Item = &[u8]> {
    std::iter::from_fn(move || {
        let zero = is_zero(rest.get(..PAGE)?);
        let pages = rest.chunks(PAGE).take_while(|next| is_zero(next) == zero).count();
        let (run, after) = rest.split_at(pages * PAGE);
        rest = after;
        Some(run)
    })
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsRawFd;

    use super::*;

    #[test]
    fn a_mapping_is_found_by_inode_and_name_in_all_its_pieces() {
        let maps = b"7f0000000000-7f0000200000 rw-p 00000000 07:01 131     /s/sb-1/memory\n\
            7f0000200000-7f0000300000 rw-p 00200000 07:01 131     /s/a b/memory (deleted)\n\
            7f0000300000-7f0000400000 rw-p 00000000 00:00 0 \n\
            7f0000400000-7f0000500000 r--p 00000000 08:01 131     /usr/lib/libc.so.6\n\
            7f0000500000-7f0000600000 r--p 00000000 08:01 132     /s/sb-1/memory\n";
        let found = parts(maps, 131, OsStr::new("memory"));
        assert_eq!(
            found,
            [
                Part { addresses: 0x7f00_0000_0000..0x7f00_0020_0000, offset: 0 },
                Part { addresses: 0x7f00_0020_0000..0x7f00_0030_0000, offset: 0x20_0000 },
            ]
        );
    }

    #[test]
    fn pages_are_split_where_zero_begins_and_ends() {
        let page = PAGE;
        let mut pages = vec![0; 6 * page];
        pages[0] = 1;
        pages[3 * page + 17] = 1;
        pages[4 * page] = 1;
        let lengths: Vec<_> = zero_runs(&pages).map(|run| run.len() / page).collect();
        assert_eq!(lengths, [1, 2, 2, 1]);
        assert_eq!(zero_runs(&[]).count(), 0);
    }

    #[test]
    fn what_was_zeroed_is_zero_in_the_image_whatever_was_there() {
        let page = PAGE;
        for pages in [1, 3, HOLE / page, 2 * HOLE / page, COPY / page - 1] {
            let image = tempfile::tempfile().unwrap();
            image.write_all_at(&vec![7; (pages + 2) * page], 0).unwrap();
            let mut changed = vec![0; (pages + 1) * page];
            changed[pages * page] = 9;
            assert_eq!(write_pages(&image, page as u64, &changed).unwrap(), (pages * page) as u64);
            let mut found = vec![1; (pages + 2) * page];
            image.read_exact_at(&mut found, 0).unwrap();
            assert!(found[..page].iter().all(|&byte| byte == 7));
            assert_eq!(found[page..], changed);
        }
    }

    #[test]
    fn an_images_zeroes_become_holes_and_stay_zero() {
        let folder = tempfile::tempdir().unwrap();
        let image = File::options()
            .read(true)
            .write(true)
            .create_new(true)
            .open(folder.path().join("image"))
            .unwrap();
        let mut content = vec![0; 2 * COPY];
        content[..PAGE].fill(1);
        content[COPY + HOLE..COPY + HOLE + PAGE].fill(2);
        image.write_all_at(&content, 0).unwrap();
        image.sync_all().unwrap();
        assert_eq!(punch_zeroed(&image).unwrap(), (2 * COPY - 2 * PAGE) as u64);
        let mut found = vec![9; 2 * COPY];
        image.read_exact_at(&mut found, 0).unwrap();
        assert!(found == content);
        assert!(image.metadata().unwrap().blocks() * 512 < COPY as u64, "nothing was given back");
    }

    /// In this very process: pages that were only read are the file's, those that were written are ours, zeroed ones too.
    #[test]
    fn exactly_the_written_pages_of_a_private_mapping_are_found() {
        let page = PAGE;
        let pages = 64;
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("memory");
        fs::write(&path, vec![5; pages * page]).unwrap();
        let file = File::open(&path).unwrap();
        let (protection, length) = (libc::PROT_READ | libc::PROT_WRITE, pages * page);
        // SAFETY: a new mapping, of a file that stays as it is, at an address that the kernel chooses.
        let base = unsafe {
            libc::mmap(std::ptr::null_mut(), length, protection, libc::MAP_PRIVATE, file.as_raw_fd(), 0)
        };
        assert_ne!(base, libc::MAP_FAILED);
        // SAFETY: the mapping is that long, nobody else uses it, and it is unmapped after the last use of the slice.
        let memory = unsafe { std::slice::from_raw_parts_mut(base.cast::<u8>(), pages * page) };
        assert_eq!(memory.iter().map(|&byte| u64::from(byte)).sum::<u64>(), 5 * (pages * page) as u64);
        memory[3 * page] = 1;
        memory[4 * page] = 1;
        // Close by: what is between goes with it. Not close to it: the others.
        memory[8 * page] = 1;
        memory[40 * page..60 * page].fill(0);

        let us = ProcessIdentity::of(i32::try_from(std::process::id()).unwrap()).unwrap();
        let mapping = PrivateMapping::open(us, &path, "memory", (pages * page) as u64).unwrap();
        assert_eq!(mapping.changed().unwrap(), 23 * page as u64);
        let copy = folder.path().join("copy");
        fs::copy(&path, &copy).unwrap();
        let image = File::options().write(true).open(&copy).unwrap();
        let copied = mapping.copy_changed(&image).unwrap();
        assert_eq!(copied, Copied { changed: 23 * page as u64, zeroed: 20 * page as u64 });
        assert!(fs::read(&copy).unwrap() == *memory);

        let other = ProcessIdentity { start_time: us.start_time + 1, ..us };
        assert!(PrivateMapping::open(other, &path, "memory", (pages * page) as u64).is_err());
        assert!(PrivateMapping::open(us, &path, "memory", (pages * page) as u64 + 1).is_err());
        // SAFETY: `memory` is not used any more.
        assert_eq!(unsafe { libc::munmap(base, pages * page) }, 0);
    }
}
