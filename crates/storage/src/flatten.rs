//! Making a template's disk small: checked, and what its filesystem does not use given back. Its size stays, so that a machine that boots
//! from it has the room that it had.

use crate::store::StoreError;
use crate::template::{TemplateDraft, TemplateFile};
use crate::tool::{Tool, ToolError};

/// e2fsck's status where it has corrected what it found: after a machine was stopped, the journal at least.
const CORRECTED: i32 = 1;

impl TemplateDraft {
    /// Checks the draft's disk, a clone of one that was in use, and makes holes of its free blocks.
    pub fn pack_disk(&self) -> Result<(), StoreError> {
        let disk = self.path(TemplateFile::Disk);
        match Tool::new("e2fsck", "e2fsprogs").args(["-f", "-y", "-E", "discard"]).arg(&disk).run() {
            Err(ToolError::Failed { status, .. }) if status.code() == Some(CORRECTED) => Ok(()),
            packed => packed.map(drop).map_err(|source| StoreError::Pack { source }),
        }
    }
}
