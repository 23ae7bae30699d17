//! A folder into an ext4 image.

use std::path::Path;

use crate::tool::{Tool, ToolError};

/// Makes the filesystem of `size` bytes at `image`, a new file, with what `root` holds.
pub(crate) fn make(root: &Path, size: u64, image: &Path) -> Result<(), ToolError> {
    Tool::new("mke2fs", "e2fsprogs")
        // No blocks reserved for root, who is the user's servant here; inode tables zeroed now, when a hole does it, and not by
        // each guest's kernel after its first mount.
        .args(["-q", "-t", "ext4", "-b", "4096", "-m", "0", "-L", "sandbar"])
        .args(["-E", "lazy_itable_init=0,lazy_journal_init=0,nodiscard", "-d"])
        .arg(root)
        .arg(image)
        .arg((size >> 12).to_string())
        .run()?;
    // Never seen to find anything: it is what stands between a broken tool and every sandbox.
    Tool::new("e2fsck", "e2fsprogs").args(["-f", "-n"]).arg(image).run()?;
    Ok(())
}
