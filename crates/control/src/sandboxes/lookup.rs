//! Finding sandboxes. Another team's sandbox is not found, which is all that its id may tell.

use std::collections::BTreeMap;

use sandbar_types::{Id, SandboxStatus, id};

use super::{Sandbox, SandboxError};
use crate::{Control, OpContext, Page, PageRequest};

/// Which sandboxes to list.
#[derive(Debug, Clone, Default)]
pub struct SandboxFilter {
    /// Of these states. Empty = all that have not ended.
    pub status: Vec<SandboxStatus>,
    /// Made from the template of this name.
    pub template: Option<String>,
    /// With all these metadata entries.
    pub metadata: BTreeMap<String, String>,
}

impl Control {
    /// The caller's team's sandbox. It is found after its end, too.
    pub async fn sandbox_get(&self, ctx: &OpContext, id: Id<id::Sandbox>) -> Result<Sandbox, SandboxError> {
        unimplemented!()
    }

    /// The caller's team's sandboxes, newest first.
    pub async fn sandbox_list(
        &self,
        ctx: &OpContext,
        filter: &SandboxFilter,
        page: &PageRequest,
    ) -> Result<Page<Sandbox>, SandboxError> {
        unimplemented!()
    }
}
