//! Tags: which build of a template `name:tag` means. A name alone means the tag `default`, which each build of the name takes unless it is
//! given others. A tag is moved in one transaction, and what was made from its former build goes on.

use chrono::{DateTime, Utc};
use sandbar_store::audit::Outcome;
use sandbar_store::tags::TagRow;
use sandbar_types::id::{Host, Team};
use sandbar_types::{ErrorCode, Id, TemplateName, TemplateTag};
use serde_json::json;
use uuid::Uuid;

use crate::access::{AccessError, Role};
use crate::context::NoTeam;
use crate::operation::{Action, Operation};
use crate::snapshots::SnapshotError;
use crate::templates::{Reference, TemplateError};
use crate::{Actor, Control, OpContext};

/// The most tags that one request may name.
pub const MAX_TAGS: usize = 100;

/// One tag of a name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tag {
    /// Which.
    pub tag: TemplateTag,
    /// What it means: the build, or the template's own id where no build made it.
    pub build_id: Uuid,
    /// Since when.
    pub created_at: DateTime<Utc>,
}

impl From<TagRow> for Tag {
    fn from(row: TagRow) -> Self {
        let TagRow { tag, template_id: _, build_id, created_at } = row;
        Self { tag, build_id, created_at }
    }
}

/// Why an operation on tags failed.
#[derive(Debug, thiserror::Error)]
pub enum TagError {
    /// The caller acts for no team.
    #[error(transparent)]
    NoTeam(#[from] NoTeam),
    /// The caller may not.
    #[error(transparent)]
    Access(#[from] AccessError),
    /// A text that names nothing, or nothing of the team's.
    #[error("{text:?} is not valid: {why}")]
    Invalid {
        /// What was said.
        text: String,
        /// What is wrong with it.
        why: String,
    },
    /// Too many, or none.
    #[error("name 1 to {MAX_TAGS} tags")]
    Count,
    /// There is no such tag.
    #[error("template {name} has no such tag")]
    NoTag {
        /// Of which name.
        name: TemplateName,
    },
    /// It is everybody's.
    #[error("{name} is the platform's: its tags are not the team's to change")]
    Platform {
        /// Its name.
        name: TemplateName,
    },
    /// There is no such template.
    #[error(transparent)]
    Template(#[from] TemplateError),
    /// It cannot be deleted.
    #[error(transparent)]
    Snapshot(#[from] SnapshotError),
    /// The database failed.
    #[error("the database failed")]
    Store(#[from] sandbar_store::StoreError),
}

impl TagError {
    /// The code that the API answers with.
    #[must_use]
    pub const fn code(&self) -> ErrorCode {
        match self {
            Self::NoTeam(_) => ErrorCode::NoTeam,
            Self::Access(error) => error.code(),
            Self::Invalid { .. } | Self::Count => ErrorCode::InvalidRequest,
            Self::NoTag { .. } => ErrorCode::NotFound,
            Self::Platform { .. } => ErrorCode::Forbidden,
            Self::Template(error) => error.code(),
            Self::Snapshot(error) => error.code(),
            Self::Store(error) => crate::access::store_code(error),
        }
    }
}

impl Control {
    /// The tags of a template that the caller's team may use, newest first.
    pub async fn tag_list(&self, ctx: &OpContext, reference: &str) -> Result<Vec<Tag>, TagError> {
        let (owner, name) = self.template_named(ctx, reference).await?;
        Ok(self.store().tags(owner, &name).await?.into_iter().map(Tag::from).collect())
    }

    /// The name that a text without a tag means to the caller's team, and whose it is. It may hold any tags.
    pub async fn template_named(
        &self,
        ctx: &OpContext,
        reference: &str,
    ) -> Result<(Id<Team>, TemplateName), TagError> {
        let team = ctx.team()?;
        let named = Reference::read(reference);
        if named.tag.is_some() {
            return Err(TemplateError::NotFound { reference: reference.to_owned() }.into());
        }
        if let Ok(id) = Uuid::try_parse(named.name)
            && let Some(owned) = self.store().template_name_by_id(team, id).await?
        {
            return Ok(owned);
        }
        if let Ok((name, _)) = self.own_name(team, reference).await
            && !self.store().tags(team, &name).await?.is_empty()
        {
            return Ok((team, name));
        }
        let template = self.template_resolve(ctx, reference).await?;
        Ok((template.team_id, template.name))
    }

    /// Gives tags to what `name:tag` means now. The build that they mean from then on, and they themselves.
    pub async fn tag_assign(
        &self,
        ctx: &OpContext,
        target: &str,
        tags: &[String],
    ) -> Result<(Uuid, Vec<TemplateTag>), TagError> {
        let team = self.tagger(ctx).await?;
        let (name, _) = self.own_name(team, target).await?;
        let tags = some_tags(tags)?;
        let template = self.template_resolve(ctx, target).await?;
        if template.team_id != team {
            return Err(TagError::Platform { name: template.name });
        }
        let mut tx = self.store().begin().await?;
        let owing = tx.tags_assign(team, template.id, &tags).await?;
        let owing = owing.ok_or_else(|| TemplateError::NotFound { reference: target.to_owned() })?;
        let told = json!({ "template": template.id, "tags": texts(&tags) });
        let event = Operation::begun(ctx, Action::Tag);
        tx.audit(&event.template_event(team, &name, Outcome::Success, told)).await?;
        tx.commit().await?;
        self.files_are_owed(&owing);
        let held = self.store().tags(team, &template.name).await?;
        let build = held.into_iter().find(|held| held.template_id == template.id).map(|held| held.build_id);
        Ok((build.unwrap_or_else(|| template.id.uuid()), tags))
    }

    /// Takes tags from a template. What no tag means any more is deleted.
    pub async fn tag_remove(&self, ctx: &OpContext, name: &str, tags: &[String]) -> Result<(), TagError> {
        let team = self.tagger(ctx).await?;
        let (name, tag) = self.own_name(team, name).await?;
        if tag.is_some() {
            let why = "tags are named beside it".to_owned();
            return Err(TagError::Invalid { text: name.to_string(), why });
        }
        let tags = some_tags(tags)?;
        let mut tx = self.store().begin().await?;
        let (removed, owing) = tx.tags_remove(team, &name, &tags).await?;
        if removed == 0 {
            return Err(TagError::NoTag { name });
        }
        let event = Operation::begun(ctx, Action::Untag);
        let told = json!({ "tags": texts(&tags) });
        tx.audit(&event.template_event(team, &name, Outcome::Success, told)).await?;
        tx.commit().await?;
        self.files_are_owed(&owing);
        Ok(())
    }

    /// Deletes a template of the caller's team: by a name all that is under it, by a name with a tag what that means, where nothing else
    /// does. Sandboxes that were made from it go on.
    pub async fn template_remove(&self, ctx: &OpContext, reference: &str) -> Result<(), TagError> {
        let team = self.tagger(ctx).await?;
        let said = Reference::read(reference).tag.is_some();
        let (name, tag) = match self.template_resolve(ctx, reference).await {
            Ok(template) if template.team_id != team => {
                return Err(SnapshotError::Platform { name: template.name }.into());
            }
            Ok(template) => (template.name, template.tag),
            // It may hold tags alone.
            Err(error @ TemplateError::NotFound { .. }) if !said => {
                let (owner, name) = self.template_named(ctx, reference).await?;
                if owner != team {
                    return Err(error.into());
                }
                return self.tags_forget(ctx, team, &name).await;
            }
            Err(error) => return Err(error.into()),
        };
        if said && !tag.is_default() {
            return self.tag_remove(ctx, name.as_str(), &[tag.to_string()]).await;
        }
        let alone = |held: &[TagRow]| held.iter().all(|held| held.tag.is_default());
        if said && !alone(&self.store().tags(team, &name).await?) {
            return self.tag_remove(ctx, name.as_str(), &[tag.to_string()]).await;
        }
        self.snapshot_delete(ctx, &name).await?;
        self.tags_forget(ctx, team, &name).await
    }

    /// Takes all tags from a name but `default`.
    async fn tags_forget(
        &self,
        ctx: &OpContext,
        team: Id<Team>,
        name: &TemplateName,
    ) -> Result<(), TagError> {
        let mut tx = self.store().begin().await?;
        let (removed, owing) = tx.tags_forget(team, name).await?;
        if removed > 0 {
            let event = Operation::begun(ctx, Action::Untag);
            tx.audit(&event.template_event(team, name, Outcome::Success, json!({ "tags": "all" }))).await?;
        }
        tx.commit().await?;
        self.files_are_owed(&owing);
        Ok(())
    }

    /// Name and tag of what is to be the team's own: the namespace, if there is one, is the team's.
    pub(crate) async fn own_name(
        &self,
        team: Id<Team>,
        text: &str,
    ) -> Result<(TemplateName, Option<TemplateTag>), TagError> {
        let invalid = |why: String| TagError::Invalid { text: text.to_owned(), why };
        let Reference { namespace, name, tag } = Reference::read(text);
        if let Some(given) = namespace {
            let own = self.store().team_slug(team).await?.ok_or(NoTeam)?;
            if given != own {
                return Err(invalid(format!("{given} is not this team's namespace: it is {own}")));
            }
        }
        let name =
            name.parse().map_err(|error: sandbar_types::name::InvalidName| invalid(error.to_string()))?;
        let tag = tag.map(|tag| tag.parse::<TemplateTag>().map_err(|error| invalid(error.to_string())));
        Ok((name, tag.transpose()?))
    }

    /// The team whose tags the caller may change: its keys may, and its admins.
    async fn tagger(&self, ctx: &OpContext) -> Result<Id<Team>, TagError> {
        let team = ctx.team()?;
        if let Actor::User { .. } = ctx.actor {
            self.team_seen(ctx, team).await?.at_least(Role::Admin)?;
        }
        Ok(team)
    }

    /// Hosts owe files of what was deleted, and object storage may.
    fn files_are_owed(&self, hosts: &[Id<Host>]) {
        for host in hosts {
            self.wants_reconcile(*host);
        }
        self.copies_wanted().notify_one();
    }
}

/// Tags as a client names them, each once.
pub(crate) fn some_tags(texts: &[String]) -> Result<Vec<TemplateTag>, TagError> {
    if texts.is_empty() || texts.len() > MAX_TAGS {
        return Err(TagError::Count);
    }
    let mut tags = Vec::new();
    for text in texts {
        let tag: TemplateTag = text.parse().map_err(|error: sandbar_types::name::InvalidTag| {
            TagError::Invalid { text: text.clone(), why: error.to_string() }
        })?;
        if !tags.contains(&tag) {
            tags.push(tag);
        }
    }
    Ok(tags)
}

fn texts(tags: &[TemplateTag]) -> Vec<&str> {
    tags.iter().map(TemplateTag::as_str).collect()
}
