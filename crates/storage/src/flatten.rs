//! Making a template's disk small: checked, shrunk to what it holds, cut to that size.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;

use crate::files::{FileError, OnFile};
use crate::store::StoreError;
use crate::template::{TemplateDraft, TemplateFile};
use crate::tool::{Tool, ToolError};

/// Where ext4's superblock begins, and where in it are what is needed here.
const SUPERBLOCK: u64 = 1024;
const BLOCKS_LOW: usize = 0x04;
const BLOCK_SIZE: usize = 0x18;
const MAGIC: usize = 0x38;
const INCOMPATIBLE: usize = 0x60;
const BLOCKS_HIGH: usize = 0x150;
/// ext4's magic number, and the feature that gives the number of blocks a high half.
const EXT4: u16 = 0xef53;
const WIDE: u32 = 0x80;

/// e2fsck's status where it has corrected what it found: after a machine was stopped, the journal at least.
const CORRECTED: i32 = 1;

impl TemplateDraft {
    /// Checks the draft's disk, a clone of one that was in use, and shrinks it to what it holds. Returns its size in bytes.
    pub fn shrink_disk(&self) -> Result<u64, StoreError> {
        let disk = self.path(TemplateFile::Disk);
        let failed = |source| StoreError::Shrink { source };
        match Tool::new("e2fsck", "e2fsprogs").args(["-f", "-y"]).arg(&disk).run() {
            Err(ToolError::Failed { status, .. }) if status.code() == Some(CORRECTED) => {}
            checked => drop(checked.map_err(failed)?),
        }
        Tool::new("resize2fs", "e2fsprogs").arg("-M").arg(&disk).run().map_err(failed)?;
        let size = filesystem_size(&disk)?;
        let file = OpenOptions::new().write(true).open(&disk).on("open", &disk)?;
        file.set_len(size).on("cut", &disk)?;
        Ok(size)
    }
}

/// The size of an ext4 filesystem, as it says itself.
fn filesystem_size(path: &Path) -> Result<u64, FileError> {
    let mut block = [0; 1024];
    File::open(path).and_then(|file| file.read_exact_at(&mut block, SUPERBLOCK)).on("read", path)?;
    let word = |at: usize| {
        let bytes = block.get(at..at + 4).and_then(|bytes| bytes.try_into().ok());
        bytes.map_or(0, u32::from_le_bytes)
    };
    if word(MAGIC) & 0xffff != u32::from(EXT4) {
        return Err(FileError::new("find an ext4 filesystem in", path, io::ErrorKind::InvalidData));
    }
    let high = if word(INCOMPATIBLE) & WIDE == 0 { 0 } else { u64::from(word(BLOCKS_HIGH)) };
    let blocks = high << 32 | u64::from(word(BLOCKS_LOW));
    Ok(blocks << (10 + word(BLOCK_SIZE).min(6)))
}
