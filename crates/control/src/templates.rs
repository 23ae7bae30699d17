//! Templates: what sandboxes start from.

use std::collections::HashMap;

use chrono::{DateTime, Utc};
use sandbar_store::templates::TemplateRow;
use sandbar_store::{Position, StoreError};
use sandbar_types::id::{self, Team};
use sandbar_types::{Arch, ErrorCode, Id, TemplateKind, TemplateName, TemplateTag, VmmKind};

use uuid::Uuid;

use crate::access::store_code;
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
    /// By which of its tags it was found; `default` where it was not asked for by one.
    pub tag: TemplateTag,
    pub kind: TemplateKind,
    pub vcpus: u32,
    pub memory_mb: u32,
    pub disk_mb: u32,
    pub size_bytes: u64,
    pub arch: Arch,
    pub vmm: VmmKind,
    /// Whether a complete copy is in object storage.
    pub durable: bool,
    pub created_at: DateTime<Utc>,
}

impl Template {
    /// Whether it is the platform's, and so everybody's.
    #[must_use]
    pub fn is_platform(&self) -> bool {
        self.team_id == Id::PLATFORM
    }
}

/// How a client names a template: `name`, with `namespace/` before it or not, and `:tag` behind it or not.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Reference<'a> {
    /// Whose it is.
    pub namespace: Option<&'a str>,
    /// Its name, or an id.
    pub name: &'a str,
    /// Which of its builds.
    pub tag: Option<&'a str>,
}

impl<'a> Reference<'a> {
    /// Takes a text apart. What is in it is not looked at.
    #[must_use]
    pub fn read(text: &'a str) -> Self {
        let (namespace, rest) = match text.split_once('/') {
            Some((namespace, rest)) => (Some(namespace), rest),
            None => (None, text),
        };
        match rest.split_once(':') {
            Some((name, tag)) => Self { namespace, name, tag: Some(tag) },
            None => Self { namespace, name: rest, tag: None },
        }
    }
}

/// Why an operation on templates failed.
#[derive(Debug, thiserror::Error)]
pub enum TemplateError {
    /// The caller acts for no team.
    #[error(transparent)]
    NoTeam(#[from] NoTeam),
    /// The team can see no such template.
    #[error("there is no template {reference:?}")]
    NotFound {
        /// What was asked for.
        reference: String,
    },
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
            Self::NotFound { .. } => ErrorCode::NotFound,
            Self::Store(error) => store_code(error),
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

    /// The template that a text means to the caller's team: a name (its own before the platform's) or an id's 32 digits, with the
    /// team's slug before it or not, and behind it a tag, or none for `default`. An id is a template's, or that of its name.
    pub async fn template_resolve(
        &self,
        ctx: &OpContext,
        reference: &str,
    ) -> Result<Template, TemplateError> {
        let team = ctx.team()?;
        let unknown = || TemplateError::NotFound { reference: reference.to_owned() };
        let Reference { namespace, name, tag } = Reference::read(reference);
        let tag = match tag {
            Some(tag) => tag.parse().map_err(|_| unknown())?,
            None => TemplateTag::default_tag(),
        };
        if let Some(namespace) = namespace
            && self.store().team_slug(team).await?.as_deref() != Some(namespace)
        {
            return Err(unknown());
        }
        let by_name = match name.parse() {
            Ok(name) => self.store().template_by_tag(team, &name, &tag).await?,
            Err(_) => None,
        };
        let row = match (by_name, Uuid::try_parse(name)) {
            (Some(row), _) => Some(row),
            (None, Ok(id)) => match self.store().template_name_by_id(team, id).await? {
                Some((owner, name)) => self.store().template_by_tag(owner, &name, &tag).await?,
                None if tag.is_default() => self.store().template_find(team, Id::from_uuid(id)).await?,
                None => None,
            },
            (None, Err(_)) => None,
        };
        let row = row.ok_or_else(unknown)?;
        Ok(Template { tag, ..row.into() })
    }

    /// What the caller's team is called in names.
    pub async fn team_namespace(&self, ctx: &OpContext) -> Result<String, TemplateError> {
        Ok(self.store().team_slug(ctx.team()?).await?.ok_or(NoTeam)?)
    }

    /// The snapshots that the caller's team made of its sandboxes, newest first; of one of them, or one alone, where that is asked.
    pub async fn template_list_made(
        &self,
        ctx: &OpContext,
        source: Option<Id<id::Sandbox>>,
        only: Option<Id<id::Template>>,
        page: &PageRequest,
    ) -> Result<Page<Template>, TemplateError> {
        let rows =
            self.store().template_list_made(ctx.team()?, source, only, page.after(), page.fetch()).await?;
        let position = |row: &TemplateRow| Position { created_at: row.created_at, id: row.id.uuid() };
        Ok(page.page(rows, position, Template::from))
    }

    /// The tags of some templates, `default` first.
    pub async fn template_tags(
        &self,
        ids: &[Id<id::Template>],
    ) -> Result<HashMap<Id<id::Template>, Vec<TemplateTag>>, TemplateError> {
        let mut tags: HashMap<_, Vec<_>> = HashMap::new();
        for (id, tag) in self.store().tags_of(ids).await? {
            tags.entry(id).or_default().push(tag);
        }
        Ok(tags)
    }

    /// How often the caller's team made sandboxes from templates, and when last; of those that it did at all.
    pub async fn template_uses(
        &self,
        ctx: &OpContext,
        ids: &[Id<id::Template>],
    ) -> Result<HashMap<Id<id::Template>, (u64, DateTime<Utc>)>, TemplateError> {
        let uses = self.store().template_uses(ctx.team()?, ids).await?;
        Ok(uses.into_iter().map(|one| (one.id, (one.count, one.last_at))).collect())
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
            defaults: _,
            durable,
            created_at,
        } = row;
        Self {
            id,
            team_id,
            name,
            tag: TemplateTag::default_tag(),
            kind,
            vcpus,
            memory_mb,
            disk_mb,
            size_bytes,
            arch,
            vmm,
            durable,
            created_at,
        }
    }
}
