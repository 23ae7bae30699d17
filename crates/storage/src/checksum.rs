//! The checksum of disk and memory images: BLAKE3 over the blocks that are not all zero.
//!
//! Images are large and mostly empty, so holes are skipped without being read, and zeroed blocks without being hashed. Each block that
//! counts goes in with its index before it, and the file's length comes last: the sum depends on content alone, and not on where a
//! filesystem happens to keep a hole, so a reflinked, a copied and a downloaded image have the same one.

use std::fmt;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::clone::for_each_data_range;
use crate::files::{FileError, OnFile};

/// Large enough that hashing runs at full speed, small enough that a lone page does not drag much along.
const BLOCK: usize = 64 * 1024;
/// A multiple of the block.
const READ: usize = 1 << 20;

/// The checksum of one image, written `b3s:` and 64 hexadecimal digits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Checksum(blake3::Hash);

/// Text that is no checksum.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not a checksum: expected b3s: and 64 hexadecimal digits")]
pub struct InvalidChecksum;

impl Checksum {
    /// The checksum of a file as it is now.
    pub fn of_file(path: &Path) -> Result<Self, FileError> {
        Self::of_file_while(path, &|| true)
    }

    /// The same, given up with [`io::ErrorKind::Interrupted`] once `go_on` says no.
    pub(crate) fn of_file_while(path: &Path, go_on: &dyn Fn() -> bool) -> Result<Self, FileError> {
        let file = File::open(path).on("open", path)?;
        Self::of(&file, go_on).on("read", path)
    }

    fn of(file: &File, go_on: &dyn Fn() -> bool) -> io::Result<Self> {
        let length = file.metadata()?.len();
        let block_size = BLOCK as u64;
        let mut hasher = blake3::Hasher::new();
        let mut buffer = vec![0; READ];
        // Ranges may start or end within a block: a block is read whole, once, and never before `next`.
        let mut next = 0;
        for_each_data_range(file, length, |start, end| {
            let mut at = next.max(start - start % block_size);
            let end = end.next_multiple_of(block_size).min(length);
            while at < end {
                if !go_on() {
                    return Err(io::ErrorKind::Interrupted.into());
                }
                let wanted = usize::try_from(end - at).map_or(READ, |left| left.min(READ));
                let read = &mut buffer[..wanted];
                file.read_exact_at(read, at)?;
                for (index, block) in (at / block_size..).zip(read.chunks(BLOCK)) {
                    if !is_zero(block) {
                        hasher.update(&index.to_le_bytes()).update(block);
                    }
                }
                at += wanted as u64;
            }
            next = next.max(end);
            Ok(())
        })?;
        hasher.update(&u64::MAX.to_le_bytes()).update(&length.to_le_bytes());
        Ok(Self(hasher.finalize()))
    }
}

fn is_zero(block: &[u8]) -> bool {
    static ZEROES: [u8; BLOCK] = [0; BLOCK];
    block == &ZEROES[..block.len()]
}

impl fmt::Display for Checksum {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "b3s:{}", self.0)
    }
}

impl FromStr for Checksum {
    type Err = InvalidChecksum;

    fn from_str(text: &str) -> Result<Self, InvalidChecksum> {
        let hash = text
            .strip_prefix("b3s:")
            .and_then(|hex| blake3::Hash::from_hex(hex).ok())
            .ok_or(InvalidChecksum)?;
        Ok(Self(hash))
    }
}

impl TryFrom<String> for Checksum {
    type Error = InvalidChecksum;

    fn try_from(text: String) -> Result<Self, InvalidChecksum> {
        text.parse()
    }
}

impl From<Checksum> for String {
    fn from(checksum: Checksum) -> Self {
        checksum.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn sum(file: &File) -> Checksum {
        Checksum::of(file, &|| true).unwrap()
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(48))]

        #[test]
        fn holes_and_zeroes_are_the_same_and_every_byte_counts(
            writes in prop::collection::vec((0u64..3_000_000, 1u8..), 1..10),
            zeroes in prop::collection::vec(0u64..3_000_000, 0..5),
            flipped in any::<prop::sample::Index>(),
        ) {
            let (sparse, dense) = (tempfile::tempfile().unwrap(), tempfile::tempfile().unwrap());
            dense.write_all_at(&vec![0; 3_000_001], 0).unwrap();
            sparse.set_len(3_000_001).unwrap();
            for &at in &zeroes {
                sparse.write_all_at(&[0; 1], at).unwrap();
            }
            for &(at, byte) in &writes {
                sparse.write_all_at(&[byte], at).unwrap();
                dense.write_all_at(&[byte], at).unwrap();
            }
            prop_assert_eq!(sum(&sparse), sum(&dense));
            prop_assert_eq!(sum(&sparse).to_string().parse(), Ok(sum(&sparse)));

            let before = sum(&dense);
            let (at, byte) = writes[flipped.index(writes.len())];
            dense.write_all_at(&[byte.wrapping_add(1)], at).unwrap();
            let mut now = [0];
            sparse.read_exact_at(&mut now, at).unwrap();
            prop_assert_eq!(sum(&dense) == before, now[0] == byte.wrapping_add(1));
        }
    }

    #[test]
    fn the_length_and_the_place_of_a_block_count() {
        let file = tempfile::tempfile().unwrap();
        let mut seen = vec![sum(&file)];
        let block = BLOCK as u64;
        for length in [1, block, block + 1, 10 * block] {
            file.set_len(length).unwrap();
            assert!(!seen.contains(&sum(&file)), "{length}");
            seen.push(sum(&file));
        }
        let moved = tempfile::tempfile().unwrap();
        moved.set_len(10 * block).unwrap();
        moved.write_all_at(b"x", 2 * block).unwrap();
        file.write_all_at(b"x", 3 * block).unwrap();
        assert_ne!(sum(&file), sum(&moved));
    }
}
