//! Asking for builds, looking at them, cancelling them; and the platform's templates.

use std::collections::BTreeMap;

use sandbar_store::Position;
use sandbar_store::audit::Outcome as Told;
use sandbar_store::builds::{BuildRow, NewBuildRow};
use sandbar_store::templates::TemplateRow;
use sandbar_types::id::{self, Team};
use sandbar_types::recipe::{
    Action, Base, Defaults, Dialect, FilesName, Origin, Pattern, Recipe, State, Step,
};
use sandbar_types::{BuildStatus, Id, PerResource, TemplateKind, TemplateName, TemplateTag, limits};

use super::course::tx_tell;
use super::{Build, BuildError, BuildLog, FilesError, copy};
use crate::access::{AccessError, Role};
use crate::bootstrap::BASE;
use crate::host_client::RegistryCredentials;
use crate::operation::{self, Operation};
use crate::sandboxes::Command;
use crate::templates::Template;
use crate::{Actor, Control, OpContext, Page, PageRequest};

/// How long a healthcheck may be, and how long it may take to pass.
const HEALTHCHECK_BYTES: usize = 4096;
const HEALTHCHECK_SEC: std::ops::RangeInclusive<u32> = 1..=3600;
const DEFAULT_HEALTHCHECK_SEC: u32 = 120;

/// Whose builds are meant.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BuildScope {
    /// The team's that the caller acts for: its templates are its own.
    Team,
    /// The platform's, whose templates are everybody's; to look at, those of all teams. For its administrators.
    Platform,
}

/// What a caller asks for.
#[derive(Debug, Clone, Default)]
pub struct NewBuild {
    /// The template's name. One of the name is replaced once this one is complete.
    pub name: String,
    /// What it starts from, where the recipe does not say; by default `base`.
    pub base_template: Option<String>,
    /// Its lines.
    pub recipe: Vec<String>,
    /// The name of the archive that the recipe's `COPY` steps take their files from, where they do not say themselves.
    pub files: Option<String>,
    /// The archive of the image that it starts from, by its SHA-256. The recipe may name the author's file by its path, or nothing.
    pub from_archive: Option<String>,
    /// Credentials for the registry of the image that it starts from.
    pub registry: Option<RegistryCredentials>,
    /// Secrets of the team's that `RUN` steps are given: by the name of a variable, the name of a secret.
    pub secrets: BTreeMap<String, String>,
    /// What is kept; by default the sandbox's memory, too.
    pub kind: Option<TemplateKind>,
    /// A shell line that succeeds once the sandbox is as it is to be kept.
    pub healthcheck: Option<String>,
    /// For how long it is tried.
    pub healthcheck_sec: Option<u32>,
    /// The base's, or nothing; where that is an image or a disk alone, any.
    pub vcpus: Option<u32>,
    /// The same.
    pub memory_mb: Option<u32>,
    /// The base's, or nothing; where that is an image, any.
    pub disk_mb: Option<u32>,
}

/// A build whose words were understood.
pub(super) struct Order<'a> {
    pub(super) id: Id<id::Build>,
    /// Whether its id was given out before.
    pub(super) announced: bool,
    pub(super) name: &'a TemplateName,
    pub(super) tags: &'a [TemplateTag],
    pub(super) dialect: Dialect,
    pub(super) base: &'a Base,
    pub(super) base_tag: &'a TemplateTag,
    /// The base, where it is a template.
    pub(super) template: Option<TemplateRow>,
    pub(super) recipe: &'a Recipe,
    /// For its image's registry.
    pub(super) registry: Option<&'a RegistryCredentials>,
    pub(super) secrets: &'a BTreeMap<String, String>,
    pub(super) kind: TemplateKind,
    pub(super) healthcheck: Option<&'a str>,
    pub(super) healthcheck_sec: u32,
    pub(super) vcpus: Option<u32>,
    pub(super) memory_mb: Option<u32>,
    pub(super) disk_mb: Option<u32>,
    pub(super) note: Option<String>,
}

impl Control {
    /// Asks for a build. It waits for a worker when this returns.
    pub async fn build_create(
        &self,
        ctx: &OpContext,
        scope: BuildScope,
        new: &NewBuild,
    ) -> Result<Build, BuildError> {
        let team = self.builder(ctx, scope).await?;
        let name: TemplateName = new.name.parse()?;
        self.name_is_free(team, &name).await?;
        let recipe: Recipe = new.recipe.join("\n").parse()?;
        let recipe = recipe.with_files(new.files.as_deref().map(str::parse).transpose()?);
        let named = (new.base_template.as_deref(), new.from_archive.as_deref());
        let (base, template) = self.base_of(team, &recipe, named).await?;
        if let Some(template) = &template {
            check_size(template, new)?;
        }
        let default = TemplateTag::default_tag();
        let order = Order {
            id: Id::new(),
            announced: false,
            name: &name,
            tags: std::slice::from_ref(&default),
            dialect: Dialect::Recipe,
            base: &base,
            base_tag: &default,
            template,
            recipe: &recipe,
            registry: new.registry.as_ref(),
            secrets: &new.secrets,
            kind: new.kind.unwrap_or(TemplateKind::Snapshot),
            healthcheck: new.healthcheck.as_deref(),
            healthcheck_sec: new.healthcheck_sec.unwrap_or(DEFAULT_HEALTHCHECK_SEC),
            vcpus: new.vcpus,
            memory_mb: new.memory_mb,
            disk_mb: new.disk_mb,
            note: None,
        };
        self.build_queue_up(ctx, team, order).await
    }

    /// A name under which the team may build.
    pub(super) async fn name_is_free(&self, team: Id<Team>, name: &TemplateName) -> Result<(), BuildError> {
        if name.as_str() == BASE
            || (team != Id::PLATFORM && self.store().snapshot_name_taken(Id::PLATFORM, name).await?)
        {
            return Err(BuildError::Reserved { name: name.clone() });
        }
        Ok(())
    }

    /// Checks a build that was understood, and has it wait for a worker.
    pub(super) async fn build_queue_up(
        &self,
        ctx: &OpContext,
        team: Id<Team>,
        order: Order<'_>,
    ) -> Result<Build, BuildError> {
        let (vcpus, memory_mb, defaults) = match order.template {
            Some(TemplateRow { kind: TemplateKind::Snapshot, vcpus, memory_mb, defaults, .. }) => {
                (vcpus, memory_mb, defaults)
            }
            // A machine that boots is as large as is asked for.
            boots => {
                check_machine(order.vcpus, order.memory_mb, order.disk_mb)?;
                let (vcpus, memory_mb, defaults) = match boots {
                    Some(template) => (template.vcpus, template.memory_mb, template.defaults),
                    None => (limits::DEFAULT_VCPUS, limits::DEFAULT_MEMORY_MB, Defaults::default()),
                };
                (order.vcpus.unwrap_or(vcpus), order.memory_mb.unwrap_or(memory_mb), defaults)
            }
        };
        let registry = match (order.registry, order.base) {
            (Some(_), Base::Template(_) | Base::Archive(_)) => {
                return Err(BuildError::NoRegistry { name: order.base.clone() });
            }
            (Some(credentials), Base::Image(_)) => Some(self.registry_seal(order.id, credentials)?),
            (None, _) => None,
        };
        let (mut files, all_are_named) = order.recipe.files();
        if !all_are_named {
            return Err(FilesError::Unnamed.into());
        }
        if let Base::Archive(hash) = order.base {
            files.insert(FilesName::Content(*hash));
        }
        if !files.is_empty() && self.build_files_place().is_none() {
            return Err(FilesError::NoPlace.into());
        }
        check_steps(order.recipe, State::new(order.dialect, defaults))?;
        check_kind(order.recipe, order.kind)?;
        self.check_secrets(team, order.recipe, order.secrets).await?;
        if !HEALTHCHECK_SEC.contains(&order.healthcheck_sec)
            || order.healthcheck.is_some_and(|line| {
                line.trim().is_empty() || line.len() > HEALTHCHECK_BYTES || line.contains('\0')
            })
        {
            return Err(BuildError::Healthcheck);
        }
        // Each step, the healthcheck, and the keeping of it all.
        let total = order.recipe.steps.len() + usize::from(order.healthcheck.is_some()) + 1;
        let steps = serde_json::to_value(&order.recipe.steps).map_err(|_| BuildError::TooManySteps)?;

        let mut tx = self.store().begin().await?;
        let mut room = self.headroom(&mut tx, team).await?;
        if order.announced && !tx.build_announced_take(order.id).await? {
            return Err(BuildError::Begun { id: order.id });
        }
        if team != Id::PLATFORM {
            room.take(&PerResource { builds: 1, ..PerResource::default() })?;
        }
        for name in &files {
            tx.build_files_use(team, name).await?.ok_or(FilesError::Missing { name: *name })?;
        }
        let files: Vec<String> = files.iter().map(ToString::to_string).collect();
        let row = tx
            .build_insert(&NewBuildRow {
                id: order.id,
                team_id: team,
                name: order.name,
                base: order.base,
                base_tag: order.base_tag,
                dialect: order.dialect,
                tags: order.tags,
                note: order.note.as_deref(),
                recipe: &steps,
                healthcheck: order.healthcheck,
                healthcheck_sec: order.healthcheck_sec,
                vcpus,
                memory_mb,
                disk_mb: order.disk_mb,
                files: &files,
                registry: registry.as_deref(),
                total_steps: u32::try_from(total).unwrap_or(u32::MAX),
                created_by: ctx.person().ok().map(|person| person.id),
                operation: &Operation::begun(ctx, operation::Action::Build).to_value(),
                kind: order.kind,
                secrets: order.secrets,
                trace: sandbar_trace::current().map(|asked_by| asked_by.to_string()).as_deref(),
            })
            .await?;
        tx.commit().await?;
        if let Err(error) = self.build_queue().enqueue(row.id).await {
            tracing::warn!(build = %row.id, error = &error as &dyn std::error::Error,
                "a build cannot be queued now; the sweep will");
        }
        Ok(row.into())
    }

    /// A build.
    pub async fn build_get(
        &self,
        ctx: &OpContext,
        scope: BuildScope,
        id: Id<id::Build>,
    ) -> Result<Build, BuildError> {
        Ok(self.build_row(ctx, scope, id).await?.into())
    }

    /// What the steps of a build's last attempt wrote.
    pub async fn build_logs(&self, build: &Build) -> Result<Vec<BuildLog>, BuildError> {
        Ok(self.store().build_logs(build.id, build.attempts, 0).await?)
    }

    /// Builds, newest first.
    pub async fn build_list(
        &self,
        ctx: &OpContext,
        scope: BuildScope,
        page: &PageRequest,
    ) -> Result<Page<Build>, BuildError> {
        let rows = self.store().build_list(seen_by(ctx, scope)?, page.after(), page.fetch()).await?;
        let position = |row: &BuildRow| Position { created_at: row.created_at, id: row.id.uuid() };
        Ok(page.page(rows, position, Build::from))
    }

    /// Cancels a build. One that a worker has ends soon after.
    pub async fn build_cancel(
        &self,
        ctx: &OpContext,
        scope: BuildScope,
        id: Id<id::Build>,
    ) -> Result<Build, BuildError> {
        let team = match scope {
            BuildScope::Team => Some(self.builder(ctx, scope).await?),
            BuildScope::Platform => seen_by(ctx, scope)?,
        };
        let mut tx = self.store().begin().await?;
        let Some(row) = tx.build_ask_cancel(team, id).await? else {
            drop(tx);
            let row = self.build_row(ctx, scope, id).await?;
            return Err(BuildError::Ended { id, status: row.status });
        };
        if row.status == BuildStatus::Cancelled {
            tx_tell(&mut tx, &row, Told::Warning).await?;
        }
        tx.commit().await?;
        Ok(row.into())
    }

    /// The platform's templates, newest first.
    pub async fn admin_template_list(
        &self,
        ctx: &OpContext,
        page: &PageRequest,
    ) -> Result<Page<Template>, BuildError> {
        ctx.platform_admin()?;
        let rows = self.store().template_list(Id::PLATFORM, None, page.after(), page.fetch()).await?;
        let position = |row: &TemplateRow| Position { created_at: row.created_at, id: row.id.uuid() };
        Ok(page.page(rows, position, Template::from))
    }

    /// Deletes a template of the platform's. Sandboxes that were made from it go on.
    pub async fn admin_template_delete(
        &self,
        ctx: &OpContext,
        name: &TemplateName,
    ) -> Result<(), BuildError> {
        ctx.platform_admin()?;
        if name.as_str() == BASE {
            return Err(BuildError::Needed { name: name.clone() });
        }
        Ok(self.platform_template_delete(ctx, name).await?)
    }

    pub(super) async fn build_row(
        &self,
        ctx: &OpContext,
        scope: BuildScope,
        id: Id<id::Build>,
    ) -> Result<BuildRow, BuildError> {
        let row = self.store().build_find(seen_by(ctx, scope)?, id).await?;
        row.ok_or(BuildError::NotFound { id })
    }

    /// What a build starts from, and the template if it is one: what there is decides about a name that could be either's.
    async fn base_of(
        &self,
        team: Id<Team>,
        recipe: &Recipe,
        (asked, archive): (Option<&str>, Option<&str>),
    ) -> Result<(Base, Option<TemplateRow>), BuildError> {
        let asked: Option<TemplateName> = asked.map(str::parse).transpose()?;
        if let Some(archive) = archive {
            return Ok((archive_of(recipe, asked.as_ref(), archive)?, None));
        }
        let (name, image) = match (&recipe.from, asked) {
            (Some(Origin::Template(from) | Origin::Named(from)), Some(asked)) if *from == asked => {
                (asked, None)
            }
            (Some(from), Some(asked)) => {
                let asked = asked.into();
                return Err(BuildError::TwoBases { field: "base_template", asked, from: from.clone() });
            }
            (Some(Origin::Archive(path)), None) => return Err(BuildError::NoArchive { path: path.clone() }),
            (Some(Origin::Image(reference)), None) => return Ok((Base::Image(reference.clone()), None)),
            (Some(Origin::Template(name)), None) => (name.clone(), None),
            (Some(Origin::Named(name)), None) => (name.clone(), Base::image_named(name)),
            (None, Some(asked)) => (asked, None),
            (None, None) => (BASE.parse()?, None),
        };
        match (self.store().template_by_name(team, &name).await?, image) {
            (Some(template), _) => Ok((Base::Template(name), Some(template))),
            (None, Some(image)) => Ok((image, None)),
            (None, None) => Err(BuildError::NoBase { name }),
        }
    }

    /// The team that the caller may build for: its keys may, and its admins.
    pub(super) async fn builder(&self, ctx: &OpContext, scope: BuildScope) -> Result<Id<Team>, BuildError> {
        if scope == BuildScope::Platform {
            ctx.platform_admin()?;
            return Ok(Id::PLATFORM);
        }
        let team = ctx.team()?;
        if let Actor::User { .. } = ctx.actor {
            self.team_seen(ctx, team).await?.at_least(Role::Admin)?;
        }
        Ok(team)
    }
}

/// The image in an archive that a request names.
fn archive_of(recipe: &Recipe, asked: Option<&TemplateName>, archive: &str) -> Result<Base, BuildError> {
    match (FilesName::content(archive)?, &recipe.from) {
        (_, Some(from @ (Origin::Template(_) | Origin::Named(_) | Origin::Image(_)))) => {
            let (field, asked) = ("from_archive", archive.to_owned());
            Err(BuildError::TwoBases { field, asked, from: from.clone() })
        }
        (FilesName::Content(hash), _) if asked.is_none() => Ok(Base::Archive(hash)),
        _ => Err(BuildError::ArchiveAndTemplate),
    }
}

/// Refuses what could not live in a template of the kind.
fn check_kind(recipe: &Recipe, kind: TemplateKind) -> Result<(), BuildError> {
    let start = recipe.steps.iter().position(|step| matches!(step, Step::Start { .. }));
    match (kind, start) {
        (TemplateKind::Base, Some(index)) => Err(BuildError::StartWithoutMemory { step: index + 1 }),
        (TemplateKind::Base | TemplateKind::Snapshot, _) => Ok(()),
    }
}

/// Whose builds the caller may look at; none = everybody's.
fn seen_by(ctx: &OpContext, scope: BuildScope) -> Result<Option<Id<Team>>, BuildError> {
    match scope {
        BuildScope::Team => Ok(Some(ctx.team()?)),
        BuildScope::Platform => {
            let allowed: Result<(), AccessError> = ctx.platform_admin();
            allowed?;
            Ok(None)
        }
    }
}

/// Refuses another size than that of the template that a build starts from. One that is a disk alone says only how large that is.
fn check_size(template: &TemplateRow, new: &NewBuild) -> Result<(), BuildError> {
    let &TemplateRow { kind, vcpus, memory_mb, disk_mb, .. } = template;
    let fits = |asked: Option<u32>, has| asked.is_none_or(|asked| asked == has);
    match kind {
        TemplateKind::Base if fits(new.disk_mb, disk_mb) => Ok(()),
        TemplateKind::Base => Err(BuildError::Disk { disk_mb }),
        TemplateKind::Snapshot
            if fits(new.vcpus, vcpus) && fits(new.memory_mb, memory_mb) && fits(new.disk_mb, disk_mb) =>
        {
            Ok(())
        }
        TemplateKind::Snapshot => Err(BuildError::Size { vcpus, memory_mb, disk_mb }),
    }
}

/// Refuses a size that no machine has.
pub(super) fn check_machine(
    vcpus: Option<u32>,
    memory_mb: Option<u32>,
    disk_mb: Option<u32>,
) -> Result<(), BuildError> {
    let fits = vcpus.is_none_or(|asked| limits::VCPUS.contains(&asked))
        && memory_mb.is_none_or(|asked| limits::MEMORY_MB.contains(&asked))
        && disk_mb.is_none_or(|asked| limits::DISK_MB.contains(&asked));
    if fits { Ok(()) } else { Err(BuildError::NoSize) }
}

/// Refuses what would be refused when it is that step's turn.
pub(super) fn check_steps(recipe: &Recipe, mut state: State) -> Result<(), BuildError> {
    for (index, step) in recipe.steps.iter().enumerate() {
        let action = state.take(step);
        let step = index + 1;
        let invalid = |fault| BuildError::Step { step, fault };
        if let Action::Copy { sources, dest, owner, mode, .. } = &action {
            let outside = sources.iter().find_map(|source| source.parse::<Pattern>().err());
            outside.map_or(Ok(()), |fault| Err(BuildError::Source { step, fault }))?;
            copy::command(sources, dest, owner, *mode).validate().map_err(invalid)?;
        }
        let user = match action {
            Action::Run { user: Some(user), .. } => user,
            _ => state.user().to_owned(),
        };
        let command = Command {
            cmd: "/bin/sh".to_owned(),
            args: Vec::new(),
            env: state.env().clone(),
            cwd: state.workdir().map(str::to_owned),
            user: Some(user),
        };
        command.validate().map_err(invalid)?;
    }
    Ok(())
}
