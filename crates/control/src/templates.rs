//! Templates: what sandboxes start from.

use chrono::{DateTime, Utc};
use sandbar_store::templates::TemplateRow;
use sandbar_store::{Position, StoreError};
use sandbar_types::id::{self, Team};
use sandbar_types::{Arch, ErrorCode, Id, TemplateKind, TemplateName, VmmKind};

use crate::context::NoTeam;
use crate::{Control, OpContext, Page, PageRequest};

/// A template that the caller may use.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
#[expect(missing_docs, reason = "the names are the API's own")]
pub struct Template {
    pub id: Id<id::Template>,
    pub team_id: Id<Team>,
    pub name: TemplateName,
    pub kind: TemplateKind,
    pub vcpus: u32,
    pub memory_mb: u32,
    pub disk_mb: u32,
    pub size_bytes: u64,
    pub arch: Arch,
    pub vmm: VmmKind,
    pub created_at: DateTime<Utc>,
}

impl Template {
    /// Whether it is the platform's, and so everybody's.
    #[must_use]
    pub fn is_platform(&self) -> bool {
        self.team_id == Id::PLATFORM
    }
}

/// Why an operation on templates failed.
#[derive(Debug, thiserror::Error)]
pub enum TemplateError {
    /// The caller acts for no team.
    #[error(transparent)]
    NoTeam(#[from] NoTeam),
    /// The database failed.
    #[error("the database failed")]
    Store(#[from] StoreError),
}

impl TemplateError {
    /// The code that the API answers with.
    #[must_use]
    pub const fn code(&self) -> ErrorCode {
        match self {
            Self::NoTeam(_) => ErrorCode::NoTeam,
            Self::Store(_) => ErrorCode::InternalError,
        }
    }
}

impl Control {
    /// The team's and the platform's templates, newest first.
    pub async fn template_list(
        &self,
        ctx: &OpContext,
        kind: Option<TemplateKind>,
        page: &PageRequest,
    ) -> Result<Page<Template>, TemplateError> {
        let rows = self.store().template_list(ctx.team()?, kind, page.after(), page.fetch()).await?;
        let position = |row: &TemplateRow| Position { created_at: row.created_at, id: row.id.uuid() };
        Ok(page.page(rows, position, Template::from))
    }
}

impl From<TemplateRow> for Template {
    fn from(row: TemplateRow) -> Self {
        let TemplateRow {
            id,
            team_id,
            name,
            kind,
            vcpus,
            memory_mb,
            disk_mb,
            size_bytes,
            arch,
            vmm,
            created_at,
        } = row;
        Self { id, team_id, name, kind, vcpus, memory_mb, disk_mb, size_bytes, arch, vmm, created_at }
    }
}
