//! `/templates`: what there is to start from, and its end. Building them is in `builds.rs`, their tags in `tags.rs`.

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use sandbar_control::builds::Build;
use sandbar_control::page::MAX_LIMIT;
use sandbar_control::templates::{Reference, Template};
use sandbar_control::{OpContext, PageRequest};
use sandbar_types::guest::ENVD_VERSION;
use sandbar_types::{ErrorCode, Id, TemplateName, id};
use serde::{Deserialize, Serialize};

use super::builds::Status;
use super::names;
use crate::AppState;
use crate::auth::Caller;
use crate::error::ApiError;
use crate::extract::{JsonBody, PathName};
use crate::schema::Timestamp;

/// A template that sandboxes can start from.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct ListedTemplate {
    #[serde(rename = "templateID")]
    template_id: String,
    /// That of the tag `default`.
    #[serde(rename = "buildID")]
    build_id: String,
    build_count: u64,
    build_status: &'static str,
    cpu_count: u32,
    #[serde(rename = "memoryMB")]
    memory_mb: u32,
    #[serde(rename = "diskSizeMB")]
    disk_size_mb: u32,
    public: bool,
    aliases: Vec<String>,
    names: Vec<String>,
    created_at: Timestamp,
    updated_at: Timestamp,
    created_by: Option<()>,
    last_spawned_at: Option<Timestamp>,
    spawn_count: u64,
    envd_version: &'static str,
}

pub(super) async fn list(
    State(app): State<AppState>,
    Caller(ctx): Caller,
) -> Result<Json<Vec<ListedTemplate>>, ApiError> {
    // The contract knows no pages here.
    let mut templates = Vec::new();
    let mut after = None;
    loop {
        let page =
            PageRequest::new(Some(MAX_LIMIT), after).map_err(|error| ApiError::invalid(error.to_string()))?;
        let page = app.control.template_list(&ctx, None, &page).await?;
        templates.extend(page.items);
        after = page.next;
        if after.is_none() {
            break;
        }
    }
    Ok(Json(listed(&app, &ctx, templates).await?))
}

async fn listed(
    app: &AppState,
    ctx: &OpContext,
    templates: Vec<Template>,
) -> Result<Vec<ListedTemplate>, ApiError> {
    let namespace = app.control.team_namespace(ctx).await?;
    let ids: Vec<_> = templates.iter().map(|template| template.id).collect();
    let uses = app.control.template_uses(ctx, &ids).await?;
    let builds = app.control.template_builds(ctx, &ids).await?;
    let listed = |template: Template| {
        let used = uses.get(&template.id);
        let (build, count) = builds.get(&template.id).copied().unwrap_or_else(|| (made_by(template.id), 1));
        ListedTemplate {
            template_id: names::template_id(template.team_id, &template.name),
            build_id: build.uuid().to_string(),
            build_count: count,
            build_status: "ready",
            cpu_count: template.vcpus,
            memory_mb: template.memory_mb,
            disk_size_mb: template.disk_mb,
            public: template.is_platform(),
            names: vec![if template.is_platform() {
                template.name.to_string()
            } else {
                format!("{namespace}/{}", template.name)
            }],
            aliases: vec![template.name.into()],
            created_at: Timestamp(template.created_at),
            updated_at: Timestamp(template.created_at),
            created_by: None,
            last_spawned_at: used.map(|(_, last)| Timestamp(*last)),
            spawn_count: used.map_or(0, |(count, _)| *count),
            envd_version: ENVD_VERSION,
        }
    };
    Ok(templates.into_iter().map(listed).collect())
}

/// What stands for the build of a template that no build made.
fn made_by(id: Id<id::Template>) -> Id<id::Build> {
    Id::from_uuid(id.uuid())
}

/// A template, with the builds of its name.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct TemplateWithBuilds {
    #[serde(flatten)]
    template: ListedTemplate,
    builds: Vec<ListedBuild>,
}

/// One of them.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct ListedBuild {
    #[serde(rename = "buildID")]
    build_id: String,
    status: Status,
    created_at: Timestamp,
    updated_at: Timestamp,
    cpu_count: u32,
    #[serde(rename = "memoryMB")]
    memory_mb: u32,
    #[serde(skip_serializing_if = "Option::is_none")]
    finished_at: Option<Timestamp>,
    envd_version: &'static str,
}

impl From<Build> for ListedBuild {
    fn from(build: Build) -> Self {
        let updated = build.finished_at.or(build.started_at).unwrap_or(build.created_at);
        Self {
            build_id: build.id.uuid().to_string(),
            status: Status::of(build.status),
            created_at: Timestamp(build.created_at),
            updated_at: Timestamp(updated),
            cpu_count: build.vcpus,
            memory_mb: build.memory_mb,
            finished_at: build.finished_at.map(Timestamp),
            envd_version: ENVD_VERSION,
        }
    }
}

pub(super) async fn one(
    State(app): State<AppState>,
    Caller(ctx): Caller,
    PathName(name): PathName,
) -> Result<Json<TemplateWithBuilds>, ApiError> {
    let template = app.control.template_resolve(&ctx, &name).await?;
    let builds = app.control.builds_of_name(&ctx, &template.name).await?;
    let mut listed = listed(&app, &ctx, vec![template]).await?;
    let template =
        listed.pop().ok_or_else(|| ApiError::new(ErrorCode::NotFound, "there is no such template"))?;
    Ok(Json(TemplateWithBuilds { template, builds: builds.into_iter().map(ListedBuild::from).collect() }))
}

/// What a name stands for. Names are a team's own: that another team has one of the name, and what is behind it, nobody is told.
#[derive(Debug, Serialize)]
pub(super) struct Alias {
    #[serde(rename = "templateID")]
    template_id: String,
    public: bool,
}

/// The name that a text means, with a tag or without, and whose it is.
async fn named(
    app: &AppState,
    ctx: &OpContext,
    reference: &str,
) -> Result<(Id<id::Team>, TemplateName), ApiError> {
    Ok(match Reference::read(reference).tag {
        None => app.control.template_named(ctx, reference).await?,
        Some(_) => {
            let template = app.control.template_resolve(ctx, reference).await?;
            (template.team_id, template.name)
        }
    })
}

pub(super) async fn alias(
    State(app): State<AppState>,
    Caller(ctx): Caller,
    PathName(name): PathName,
) -> Result<Json<Alias>, ApiError> {
    let (owner, name) = named(&app, &ctx, &name).await?;
    Ok(Json(Alias { template_id: names::template_id(owner, &name), public: owner == Id::PLATFORM }))
}

/// What of a template is to change: in the contract, whether it is everybody's alone.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Update {
    public: Option<bool>,
}

/// The names of what was asked about.
#[derive(Debug, Serialize)]
pub(super) struct Updated {
    names: Vec<String>,
}

/// Says of a team's template that it is the team's alone, which it is. None can be made everybody's: those are the platform's.
pub(super) async fn update(
    State(app): State<AppState>,
    Caller(ctx): Caller,
    PathName(name): PathName,
    JsonBody(Update { public }): JsonBody<Update>,
) -> Result<Json<Updated>, ApiError> {
    let (owner, name) = named(&app, &ctx, &name).await?;
    if owner == Id::PLATFORM {
        let why = format!("{name} is the platform's: it is not the team's to change");
        return Err(ApiError::new(ErrorCode::Forbidden, why));
    }
    if public == Some(true) {
        return Err(ApiError::invalid(
            "public: a team's templates are its own; those that everybody may use are built by the platform's administrators",
        ));
    }
    let namespace = app.control.team_namespace(&ctx).await?;
    Ok(Json(Updated { names: vec![format!("{namespace}/{name}")] }))
}

/// Deletes a template of the team's: by a name all that is under it, by a name with a tag that one.
pub(super) async fn remove(
    State(app): State<AppState>,
    Caller(ctx): Caller,
    PathName(name): PathName,
) -> Result<StatusCode, ApiError> {
    app.control.template_remove(&ctx, &name).await?;
    Ok(StatusCode::NO_CONTENT)
}
