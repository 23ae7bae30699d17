//! `/templates`: what there is to start from, and its end. Building them is not here.

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use sandbar_control::PageRequest;
use sandbar_control::page::MAX_LIMIT;
use sandbar_control::templates::Template;
use sandbar_types::guest::ENVD_VERSION;
use serde::Serialize;

use super::names;
use crate::AppState;
use crate::auth::Caller;
use crate::error::ApiError;
use crate::extract::PathName;
use crate::schema::Timestamp;

/// A template that sandboxes can start from.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct ListedTemplate {
    #[serde(rename = "templateID")]
    template_id: String,
    /// Each is made once.
    #[serde(rename = "buildID")]
    build_id: String,
    build_count: u32,
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
    let namespace = app.control.team_namespace(&ctx).await?;
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
    let ids: Vec<_> = templates.iter().map(|template| template.id).collect();
    let uses = app.control.template_uses(&ctx, &ids).await?;
    let listed = |template: Template| {
        let used = uses.get(&template.id);
        ListedTemplate {
            template_id: names::template_id(template.id),
            build_id: template.id.uuid().to_string(),
            build_count: 1,
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
    Ok(Json(templates.into_iter().map(listed).collect()))
}

/// What a name stands for.
#[derive(Debug, Serialize)]
pub(super) struct Alias {
    #[serde(rename = "templateID")]
    template_id: String,
    public: bool,
}

pub(super) async fn alias(
    State(app): State<AppState>,
    Caller(ctx): Caller,
    PathName(name): PathName,
) -> Result<Json<Alias>, ApiError> {
    let template = app.control.template_resolve(&ctx, &name).await?;
    Ok(Json(Alias { template_id: names::template_id(template.id), public: template.is_platform() }))
}

/// Deletes a snapshot of the team's.
pub(super) async fn remove(
    State(app): State<AppState>,
    Caller(ctx): Caller,
    PathName(name): PathName,
) -> Result<StatusCode, ApiError> {
    let template = app.control.template_resolve(&ctx, &name).await?;
    app.control.snapshot_delete(&ctx, &template.name).await?;
    Ok(StatusCode::NO_CONTENT)
}
