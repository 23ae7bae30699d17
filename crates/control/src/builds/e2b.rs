//! Builds as E2B's clients ask for them: a name first, which is answered with the ids of build and template; then, once the client has sent its
//! files, the steps. From then on they are builds like all others.
//!
//! What differs from a recipe is the dialect ([`Dialect::E2b`]): who runs the steps, where, and in which shell.

use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

use sandbar_store::builds::AnnouncedRow;
use sandbar_types::id::{self, Team};
use sandbar_types::recipe::{Base, Dialect, FilesName, MAX_STEPS, Recipe, Step};
use sandbar_types::{Id, TemplateKind, TemplateName, TemplateTag};
use secrecy::SecretString;
use uuid::Uuid;

use super::submit::{BuildScope, Order};
use super::{Build, BuildError};
use crate::bootstrap::BASE;
use crate::host_client::RegistryCredentials;
use crate::tags::some_tags;
use crate::{Control, OpContext};

/// How long an announced build waits for its steps.
pub(super) const STEPS_WITHIN: Duration = Duration::from_secs(3600);
/// The most that a team may have announced.
const MOST_ANNOUNCED: u32 = 1000;
/// Builds that are told of one name.
const LAST_BUILDS: i64 = 100;
/// For how long a sandbox is asked whether it is ready.
const READY_SEC: u32 = 600;
/// What is waited for where something is started and nobody says how it is known to be ready.
const READY_UNSAID: &str = "sleep 20";
/// E2B's own images, which no registry needs to be asked for: the platform has templates of the kind.
const OWN_IMAGES: [(&str, &str); 2] =
    [("e2bdev/base", BASE), ("e2bdev/code-interpreter", "code-interpreter-v1")];

/// A build that is to come.
#[derive(Debug, Clone, Default)]
pub struct NewAnnouncement {
    /// The template's name, with the team's slug before it or not, and a tag behind it or not.
    pub name: String,
    /// More tags. Without any it is `default`.
    pub tags: Vec<String>,
    /// As large, where it starts from an image or a template that is a disk alone.
    pub vcpus: Option<u32>,
    /// The same.
    pub memory_mb: Option<u32>,
}

/// A build whose steps have not come.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Announced {
    /// Its id.
    pub id: Id<id::Build>,
    /// Whose it is.
    pub team_id: Id<Team>,
    /// The template's name.
    pub name: TemplateName,
    /// What it will be tagged with.
    pub tags: Vec<TemplateTag>,
}

/// What one starts from, in E2B's words.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum E2bBase {
    /// A registry's image.
    Image(String),
    /// A template, as `POST /v2/sandboxes` takes one.
    Template(String),
}

/// A step, in E2B's words.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct E2bStep {
    /// `RUN`, `ENV`, ...
    pub word: String,
    /// What it takes.
    pub args: Vec<String>,
    /// The archive that it copies from, by the client's own name.
    pub files: Option<String>,
}

/// What an announced build is to do.
#[derive(Debug, Clone)]
pub struct E2bBuild {
    /// What it starts from.
    pub base: E2bBase,
    /// In order.
    pub steps: Vec<E2bStep>,
    /// A shell line that goes on in the template.
    pub start: Option<String>,
    /// A shell line that succeeds once it is as it is to be kept.
    pub ready: Option<String>,
    /// For its image's registry.
    pub registry: Option<RegistryCredentials>,
}

impl From<AnnouncedRow> for Announced {
    fn from(row: AnnouncedRow) -> Self {
        let AnnouncedRow { id, team_id, name, tags, vcpus: _, memory_mb: _ } = row;
        Self { id, team_id, name, tags }
    }
}

impl Control {
    /// Gives a build an id and a name. Nothing is done until its steps come, and it is forgotten when they do not within an hour.
    pub async fn build_announce(
        &self,
        ctx: &OpContext,
        new: &NewAnnouncement,
    ) -> Result<Announced, BuildError> {
        let team = self.builder(ctx, BuildScope::Team).await?;
        let (name, tag) = self.own_name(team, &new.name).await?;
        self.name_is_free(team, &name).await?;
        let mut tags = if new.tags.is_empty() { Vec::new() } else { some_tags(&new.tags)? };
        if let Some(tag) = tag
            && !tags.contains(&tag)
        {
            tags.insert(0, tag);
        }
        if tags.is_empty() {
            tags.push(TemplateTag::default_tag());
        }
        let NewAnnouncement { vcpus, memory_mb, .. } = *new;
        super::submit::check_machine(vcpus, memory_mb, None)?;
        let row = AnnouncedRow { id: Id::new(), team_id: team, name, tags, vcpus, memory_mb };
        if !self.store().build_announce(&row, MOST_ANNOUNCED).await? {
            return Err(BuildError::TooManyAnnounced);
        }
        Ok(row.into())
    }

    /// One that waits for its steps.
    pub async fn build_announced(
        &self,
        ctx: &OpContext,
        id: Id<id::Build>,
    ) -> Result<Option<Announced>, BuildError> {
        Ok(self.store().build_announced(ctx.team()?, id).await?.map(Announced::from))
    }

    /// Gives an announced build its steps. It waits for a worker when this returns.
    pub async fn build_begin(
        &self,
        ctx: &OpContext,
        id: Id<id::Build>,
        build: &E2bBuild,
    ) -> Result<Build, BuildError> {
        let team = self.builder(ctx, BuildScope::Team).await?;
        let Some(announced) = self.store().build_announced(team, id).await? else {
            self.build_row(ctx, BuildScope::Team, id).await?;
            return Err(BuildError::Begun { id });
        };
        if build.steps.len() > MAX_STEPS {
            return Err(BuildError::TooManySteps);
        }
        let mut steps = Vec::new();
        for (index, E2bStep { word, args, files }) in build.steps.iter().enumerate() {
            let step = Step::of_e2b(word, args, files.as_deref());
            steps.push(step.map_err(|fault| BuildError::E2bStep { step: index + 1, fault })?);
        }
        if let Some(start) = &build.start {
            let step = Step::e2b_start(start);
            steps.push(step.map_err(|fault| BuildError::E2bStep { step: steps.len() + 1, fault })?);
        }
        let default = TemplateTag::default_tag();
        let (base, base_tag, template) = match &build.base {
            E2bBase::Template(reference) => {
                let template = self.template_resolve(ctx, reference).await?;
                let row = self.store().template_by_tag(team, &template.name, &template.tag).await?;
                (Base::Template(template.name), template.tag, row)
            }
            E2bBase::Image(reference) => match own_template(reference) {
                Some(name) => {
                    let name: TemplateName = name.parse()?;
                    let row = self.store().template_by_name(team, &name).await?;
                    (Base::Template(name), default, row)
                }
                None => {
                    let wrong = || BuildError::ImageName { reference: reference.clone() };
                    (Base::image(reference).ok_or_else(wrong)?, default, None)
                }
            },
        };
        let note = match (&base, &template) {
            (Base::Template(name), None) => return Err(BuildError::NoBase { name: name.clone() }),
            (Base::Template(name), Some(row)) if row.kind == TemplateKind::Snapshot => {
                let fits = |asked: Option<u32>, has| asked.is_none_or(|asked| asked == has);
                let same = fits(announced.vcpus, row.vcpus) && fits(announced.memory_mb, row.memory_mb);
                (!same).then(|| {
                    format!(
                        "A template has the size of the one that it is built on: as {name}, {} vCPUs and {} MiB of memory, not what was asked for",
                        row.vcpus, row.memory_mb
                    )
                })
            }
            // As large as was asked for.
            (Base::Template(_) | Base::Image(_) | Base::Archive(_), _) => None,
        };
        let ready = build.ready.as_deref().filter(|line| !line.trim().is_empty());
        let order = Order {
            id,
            announced: true,
            name: &announced.name,
            tags: &announced.tags,
            dialect: Dialect::E2b,
            base: &base,
            base_tag: &base_tag,
            template,
            recipe: &Recipe { from: None, steps },
            registry: build.registry.as_ref(),
            secrets: &BTreeMap::new(),
            kind: TemplateKind::Snapshot,
            healthcheck: ready.or_else(|| build.start.as_ref().map(|_| READY_UNSAID)),
            healthcheck_sec: READY_SEC,
            vcpus: announced.vcpus,
            memory_mb: announced.memory_mb,
            disk_mb: None,
            note,
        };
        self.build_queue_up(ctx, team, order).await
    }

    /// The builds of the caller's team under one name, newest first: of the last ones.
    pub async fn builds_of_name(
        &self,
        ctx: &OpContext,
        name: &TemplateName,
    ) -> Result<Vec<Build>, BuildError> {
        let rows = self.store().builds_of_name(ctx.team()?, name, LAST_BUILDS).await?;
        Ok(rows.into_iter().map(Build::from).collect())
    }

    /// Which of the caller's team's builds made each of some templates, of those that one did, and how many there were under its name.
    pub async fn template_builds(
        &self,
        ctx: &OpContext,
        ids: &[Id<id::Template>],
    ) -> Result<HashMap<Id<id::Template>, (Id<id::Build>, u64)>, BuildError> {
        let rows = self.store().builds_of_templates(ctx.team()?, ids).await?;
        Ok(rows.into_iter().map(|(template, build, count)| (template, (build, count))).collect())
    }

    /// What a client is to do with the files of a step, which it calls by `hash`: whether they are there, and what lets it upload them. Only
    /// under a template that the team builds.
    pub async fn build_files_wanted(
        &self,
        ctx: &OpContext,
        template: Uuid,
        hash: &str,
    ) -> Result<Option<(bool, SecretString)>, BuildError> {
        let name = FilesName::client(hash)?;
        if !self.store().builds_of_name_id(ctx.team()?, template).await? {
            return Ok(None);
        }
        let is_present = self.build_files_has(ctx, BuildScope::Team, &name).await?.is_some();
        Ok(Some((is_present, self.build_files_ticket(ctx, BuildScope::Team, &name).await?)))
    }
}

/// The template that stands for one of E2B's own images.
fn own_template(reference: &str) -> Option<&'static str> {
    let reference = reference.strip_prefix("docker.io/").unwrap_or(reference);
    OWN_IMAGES.into_iter().find_map(|(image, template)| {
        let rest = reference.strip_prefix(image)?;
        (rest.is_empty() || rest.starts_with([':', '@'])).then_some(template)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn e2bs_own_images_are_templates_here() {
        for reference in ["e2bdev/base", "e2bdev/base:latest", "docker.io/e2bdev/base@sha256:00"] {
            assert_eq!(own_template(reference), Some("base"), "{reference}");
        }
        assert_eq!(own_template("e2bdev/code-interpreter:latest"), Some("code-interpreter-v1"));
        for reference in ["e2bdev/basement", "ghcr.io/e2bdev/base", "base", "e2bdev/base/x"] {
            assert_eq!(own_template(reference), None, "{reference}");
        }
    }
}
