//! `GET /snapshots`: what the team made of its sandboxes.

use axum::Json;
use axum::extract::State;
use axum::http::HeaderMap;
use sandbar_control::templates::TemplateError;
use sandbar_types::{TemplateName, TemplateTag};
use serde::Serialize;

use super::{names, page};
use crate::AppState;
use crate::auth::Caller;
use crate::error::ApiError;
use crate::extract::QueryPairs;

/// A snapshot, by all that `POST /v2/sandboxes` takes for it.
#[derive(Debug, Serialize)]
pub(super) struct SnapshotInfo {
    #[serde(rename = "snapshotID")]
    snapshot_id: String,
    names: Vec<String>,
}

impl SnapshotInfo {
    /// By the first of its tags, of which it has one at least.
    pub(super) fn new(namespace: &str, name: &TemplateName, tags: &[TemplateTag]) -> Self {
        let names: Vec<String> = tags.iter().map(|tag| names::full_name(namespace, name, tag)).collect();
        Self { snapshot_id: names.first().cloned().unwrap_or_default(), names }
    }
}

pub(super) async fn list(
    State(app): State<AppState>,
    Caller(ctx): Caller,
    query: QueryPairs,
) -> Result<(HeaderMap, Json<Vec<SnapshotInfo>>), ApiError> {
    let page = page::request(&query)?;
    let nothing = || (HeaderMap::new(), Json(Vec::new()));
    let source = match query.one("sandboxID")? {
        None => None,
        Some(text) => match names::sandbox_id(text) {
            Some(id) => Some(id),
            None => return Ok(nothing()),
        },
    };
    let only = match query.one("name")? {
        None => None,
        Some(name) => match app.control.template_resolve(&ctx, name).await {
            Ok(template) => Some(template.id),
            Err(TemplateError::NotFound { .. }) => return Ok(nothing()),
            Err(error) => return Err(error.into()),
        },
    };
    let namespace = app.control.team_namespace(&ctx).await?;
    let made = app.control.template_list_made(&ctx, source, only, &page).await?;
    let ids: Vec<_> = made.items.iter().map(|template| template.id).collect();
    let tags = app.control.template_tags(&ids).await?;
    Ok(page::answer(made, |template| {
        let tags = tags.get(&template.id).map(Vec::as_slice).unwrap_or_default();
        SnapshotInfo::new(&namespace, &template.name, tags)
    }))
}
