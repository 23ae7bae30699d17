//! Compressed kernels and modules: told by their first bytes, unpacked by the usual programs.

use crate::tool::{Tool, ToolError};

/// The content of `data`, which may be compressed in any way that Debian or Ubuntu compress kernels and modules.
pub(super) fn decompress(data: Vec<u8>) -> Result<Vec<u8>, ToolError> {
    let tool = match data.as_slice() {
        [0xfd, b'7', b'z', b'X', b'Z', 0, ..] => Tool::new("xz", "xz-utils"),
        [0x28, 0xb5, 0x2f, 0xfd, ..] => Tool::new("zstd", "zstd"),
        [0x1f, 0x8b, ..] => Tool::new("gzip", "gzip"),
        _ => return Ok(data),
    };
    tool.args(["-d", "-c"]).stdin(data).run()
}
