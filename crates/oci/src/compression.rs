//! What a stream is compressed with is seen from its beginning: media types lie, and archives have none.

use std::io::{self, BufRead, BufReader, Read};

use flate2::bufread::MultiGzDecoder;

const GZIP: &[u8] = &[0x1f, 0x8b];
const ZSTD: &[u8] = &[0x28, 0xb5, 0x2f, 0xfd];
/// The most memory that a zstd stream may want for its window: 2^27 bytes, as zstd itself has it unless it is told otherwise.
const ZSTD_WINDOW_LOG: u32 = 27;
const BUFFER: usize = 128 << 10;

/// The stream's content, whether it is compressed by gzip, by zstd or not at all.
pub(crate) fn content<'a>(stream: impl Read + 'a) -> io::Result<Box<dyn Read + 'a>> {
    let mut stream = BufReader::with_capacity(BUFFER, stream);
    // One read of a file or a file's part: that is more than the first four bytes, or all that there are.
    let beginning = stream.fill_buf()?;
    if beginning.starts_with(GZIP) {
        Ok(Box::new(MultiGzDecoder::new(stream)))
    } else if beginning.starts_with(ZSTD) {
        let mut decoder = zstd::Decoder::with_buffer(stream)?;
        decoder.window_log_max(ZSTD_WINDOW_LOG)?;
        Ok(Box::new(decoder))
    } else {
        Ok(Box::new(stream))
    }
}

/// Whether the stream that begins like this is compressed.
pub(crate) fn is_compressed(beginning: &[u8]) -> bool {
    beginning.starts_with(GZIP) || beginning.starts_with(ZSTD)
}
