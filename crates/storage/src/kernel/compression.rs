//! Compressed kernels and modules, told by their first bytes.
//!
//! The usual programs unpack what they can; the form of LZ4 that kernels come in is unpacked here, since hardly any machine has `lz4`.

use super::KernelError;
use crate::tool::Tool;

/// Every block of that form unpacks to this many bytes, the last one to fewer.
const LZ4_BLOCK: usize = 8 << 20;

/// The content of `data`, which may be compressed in any way that Debian and Ubuntu compress kernels and modules in.
pub(super) fn decompress(data: Vec<u8>) -> Result<Vec<u8>, KernelError> {
    let tool = match data.as_slice() {
        [0x02, 0x21, 0x4c, 0x18, blocks @ ..] => {
            return unpack_lz4(blocks).ok_or(KernelError::BadCompression);
        }
        [0xfd, b'7', b'z', b'X', b'Z', 0, ..] => Tool::new("xz", "xz-utils"),
        [0x28, 0xb5, 0x2f, 0xfd, ..] => Tool::new("zstd", "zstd"),
        [0x1f, 0x8b, ..] => Tool::new("gzip", "gzip"),
        _ => return Ok(data),
    };
    Ok(tool.args(["-d", "-c"]).stdin(data).run()?)
}

/// LZ4's "legacy frame": blocks, each after its length in four bytes, up to the end.
fn unpack_lz4(mut blocks: &[u8]) -> Option<Vec<u8>> {
    let mut content = Vec::new();
    while !blocks.is_empty() {
        let (length, rest) = blocks.split_first_chunk()?;
        let (block, rest) = rest.split_at_checked(usize::try_from(u32::from_le_bytes(*length)).ok()?)?;
        content.extend(lz4_flex::block::decompress(block, LZ4_BLOCK).ok()?);
        blocks = rest;
    }
    Some(content)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn reads_what_the_programs_write() {
        let content: Vec<u8> = (0..300_000u32).flat_map(|n| (n / 7).to_le_bytes()).collect();
        for program in ["xz", "gzip", "zstd"] {
            let packed = Tool::new(program, "of that name").arg("-c").stdin(content.clone()).run().unwrap();
            assert!(packed.len() < content.len() / 2);
            assert_eq!(decompress(packed.clone()).unwrap(), content, "{program}");
            assert!(decompress(packed[..packed.len() - 20].to_vec()).is_err(), "{program}");
        }
        assert_eq!(decompress(content.clone()).unwrap(), content);
    }

    #[test]
    fn reads_lz4_of_several_blocks() {
        // One literal run and one match that repeats its last byte, as the format's description has it: "abc", then 20 times "c".
        let block = [0x3f, b'a', b'b', b'c', 1, 0, 1, 0x50, b'v', b'w', b'x', b'y', b'z'];
        let mut frame = vec![0x02, 0x21, 0x4c, 0x18];
        for _ in 0..2 {
            frame.extend(u32::try_from(block.len()).unwrap().to_le_bytes());
            frame.extend(block);
        }
        let once = format!("abc{}vwxyz", "c".repeat(20));
        assert_eq!(decompress(frame.clone()).unwrap(), once.repeat(2).as_bytes());
        frame.pop();
        assert!(matches!(decompress(frame), Err(KernelError::BadCompression)));
    }

    proptest! {
        #[test]
        fn garbage_ends_in_an_error(garbage in prop::collection::vec(any::<u8>(), 1..400)) {
            let mut frame = vec![0x02, 0x21, 0x4c, 0x18];
            frame.extend(garbage);
            let _ = decompress(frame);
        }
    }
}
