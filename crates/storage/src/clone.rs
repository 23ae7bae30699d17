//! Copying a file: by reference where the filesystem can, else by content and with its holes.

use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::Path;

use rustix::fs::{SeekFrom, copy_file_range, ioctl_ficlone, seek};
use rustix::io::Errno;

use crate::files::{FileError, OnFile};

/// How a file was cloned.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CloneMethod {
    /// Both files share their blocks until one is written.
    Reflink,
    /// The content was copied; holes stayed holes.
    Copied,
}

/// Makes `to`, which must not exist, a copy of `from`. Nothing is at `to` after a failure. Not fsynced.
///
/// On a store with reflink this takes microseconds, plus the time to write back what of `from` is still dirty in the page cache.
pub fn clone_file(from: &Path, to: &Path) -> Result<CloneMethod, FileError> {
    let source = File::open(from).on("open", from)?;
    let target = File::create_new(to).on("create", to)?;
    clone_into(&source, &target).on("clone to", to).inspect_err(|_| {
        // The error above is the one to report.
        let _ = std::fs::remove_file(to);
    })
}

fn clone_into(source: &File, target: &File) -> io::Result<CloneMethod> {
    match ioctl_ficlone(target, source) {
        Ok(()) => Ok(CloneMethod::Reflink),
        Err(error) if has_no_reflink(error) => {
            copy_sparse(source, target)?;
            Ok(CloneMethod::Copied)
        }
        Err(error) => Err(error.into()),
    }
}

/// Whether an answer to FICLONE is that of a filesystem without reflink, or of two different ones.
pub(crate) fn has_no_reflink(error: Errno) -> bool {
    matches!(error, Errno::OPNOTSUPP | Errno::NOTTY | Errno::INVAL | Errno::XDEV | Errno::NOSYS)
}

/// Copies the data of `source` by content, even where it could be shared, and holes of up to `small_hole` bytes as the zeros that they
/// are. Each range is announced first, and an error there ends it.
pub(crate) fn copy_while(
    source: &File,
    target: &File,
    small_hole: u64,
    mut announce: impl FnMut(u64, u64) -> io::Result<()>,
) -> io::Result<()> {
    /// Ranges announced at most.
    const STEP: u64 = 16 << 20;
    let length = source.metadata()?.len();
    let mut copy = |Range { start, end }: Range<u64>| {
        let mut at = start;
        while at < end {
            let next = end.min(at + STEP);
            announce(at, next)?;
            copy_range_by_hand(source, target, at, next)?;
            at = next;
        }
        Ok(())
    };
    let mut joined: Option<Range<u64>> = None;
    for_each_data_range(source, length, |start, end| match &mut joined {
        Some(range) if start - range.end <= small_hole => {
            range.end = end;
            Ok(())
        }
        _ => joined.replace(start..end).map_or(Ok(()), &mut copy),
    })?;
    joined.map_or(Ok(()), copy)
}

fn copy_sparse(source: &File, target: &File) -> io::Result<()> {
    let length = source.metadata()?.len();
    for_each_data_range(source, length, |start, end| copy_range(source, target, start, end))?;
    target.set_len(length)
}

/// Calls `f` with each range of `file` that holds data, in order; the rest of its `length` bytes is holes.
pub(crate) fn for_each_data_range(
    file: &File,
    length: u64,
    f: impl FnMut(u64, u64) -> io::Result<()>,
) -> io::Result<()> {
    for_each_data_range_from(file, 0, length, f)
}

/// The same, from a place on.
pub(crate) fn for_each_data_range_from(
    file: &File,
    mut at: u64,
    length: u64,
    mut f: impl FnMut(u64, u64) -> io::Result<()>,
) -> io::Result<()> {
    while at < length {
        let start = match seek(file, SeekFrom::Data(at)) {
            Ok(start) => start,
            // Nothing but a hole up to the end.
            Err(Errno::NXIO) => break,
            Err(error) => return Err(error.into()),
        };
        // The file may be growing: what lies past `length` is not looked at.
        let end = seek(file, SeekFrom::Hole(start))?.min(length);
        if start >= end {
            break;
        }
        f(start, end)?;
        at = end;
    }
    Ok(())
}

fn copy_range(source: &File, target: &File, start: u64, end: u64) -> io::Result<()> {
    let (mut from, mut to) = (start, start);
    while from < end {
        let wanted = usize::try_from(end - from).unwrap_or(usize::MAX);
        match copy_file_range(source, Some(&mut from), target, Some(&mut to), wanted) {
            Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(_) => {}
            // Some kernels refuse it between filesystems, some filesystems altogether.
            Err(Errno::XDEV | Errno::OPNOTSUPP | Errno::NOSYS | Errno::INVAL) => {
                return copy_range_by_hand(source, target, from, end);
            }
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}

fn copy_range_by_hand(source: &File, target: &File, start: u64, end: u64) -> io::Result<()> {
    let mut buffer = vec![0; 1 << 20];
    let mut at = start;
    while at < end {
        let wanted = usize::try_from(end - at).map_or(buffer.len(), |left| left.min(buffer.len()));
        source.read_exact_at(&mut buffer[..wanted], at)?;
        target.write_all_at(&buffer[..wanted], at)?;
        at += wanted as u64;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::os::unix::fs::MetadataExt;

    const BLOCK: usize = 4096;

    fn sparse_file(path: &Path, blocks: &[(u64, u8)], length: u64) {
        let file = File::create_new(path).unwrap();
        for &(block, byte) in blocks {
            file.write_all_at(&[byte; BLOCK], block * BLOCK as u64).unwrap();
        }
        file.set_len(length).unwrap();
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(32))]

        #[test]
        fn a_copy_has_the_same_content_and_no_fewer_holes(
            blocks in prop::collection::vec((0u64..2_000, any::<u8>()), 0..12),
            tail in 0u64..9_000,
        ) {
            let dir = tempfile::tempdir().unwrap();
            let (from, to) = (dir.path().join("from"), dir.path().join("to"));
            let end = blocks.iter().map(|(block, _)| (block + 1) * BLOCK as u64).max().unwrap_or(0);
            sparse_file(&from, &blocks, end + tail);
            copy_sparse(&File::open(&from).unwrap(), &File::create_new(&to).unwrap()).unwrap();
            prop_assert_eq!(std::fs::read(&from).unwrap(), std::fs::read(&to).unwrap());
            prop_assert!(to.metadata().unwrap().blocks() <= from.metadata().unwrap().blocks());
        }

        #[test]
        fn small_holes_are_filled_and_others_stay(
            blocks in prop::collection::btree_set(0u64..200, 0..40),
            small in 0u64..12,
        ) {
            // On the build's own disk, which has holes.
            let dir = tempfile::tempdir_in(env!("CARGO_MANIFEST_DIR")).unwrap();
            let (from, to) = (dir.path().join("from"), dir.path().join("to"));
            let written: Vec<_> = blocks.iter().map(|block| (*block, 7)).collect();
            sparse_file(&from, &written, 200 * BLOCK as u64);
            let (source, target) = (File::open(&from).unwrap(), File::create_new(&to).unwrap());
            target.set_len(200 * BLOCK as u64).unwrap();
            let mut announced = Vec::new();
            copy_while(&source, &target, small * BLOCK as u64, |start, end| {
                announced.push(start / BLOCK as u64..end / BLOCK as u64);
                Ok(())
            })
            .unwrap();
            prop_assert_eq!(std::fs::read(&from).unwrap(), std::fs::read(&to).unwrap());
            prop_assert!(announced.windows(2).all(|two| two[1].start - two[0].end > small), "{:?}", announced);
            let copied: u64 = announced.iter().map(|range| range.end - range.start).sum();
            prop_assert!(copied <= blocks.len() as u64 * (small + 1), "{:?}", announced);
            prop_assert!(announced.iter().all(|range| blocks.contains(&range.start) && blocks.contains(&(range.end - 1))));
        }

        #[test]
        fn the_copy_by_hand_agrees(content in prop::collection::vec(any::<u8>(), 1..5_000), cut in any::<prop::sample::Index>()) {
            let dir = tempfile::tempdir().unwrap();
            let (from, to) = (dir.path().join("from"), dir.path().join("to"));
            std::fs::write(&from, &content).unwrap();
            let start = cut.index(content.len());
            let target = File::create_new(&to).unwrap();
            copy_range_by_hand(&File::open(&from).unwrap(), &target, start as u64, content.len() as u64).unwrap();
            prop_assert_eq!(&std::fs::read(&to).unwrap()[start..], &content[start..]);
        }
    }

    #[test]
    fn an_existing_file_is_not_overwritten_and_a_missing_one_leaves_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let (from, to) = (dir.path().join("from"), dir.path().join("to"));
        assert_eq!(clone_file(&from, &to).unwrap_err().kind(), io::ErrorKind::NotFound);
        assert!(!to.exists());
        std::fs::write(&from, "new").unwrap();
        std::fs::write(&to, "old").unwrap();
        assert_eq!(clone_file(&from, &to).unwrap_err().kind(), io::ErrorKind::AlreadyExists);
        assert_eq!(std::fs::read(&to).unwrap(), b"old");
    }
}
