//! `/templates/tags`, and a template's tags.

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use sandbar_control::tags::Tag;
use serde::{Deserialize, Serialize};

use crate::AppState;
use crate::auth::Caller;
use crate::error::ApiError;
use crate::extract::{JsonBody, PathName};
use crate::schema::Timestamp;

#[derive(Debug, Deserialize)]
pub(super) struct Assign {
    /// What is to have them: `name:tag`.
    target: String,
    tags: Vec<String>,
}

/// What was assigned.
#[derive(Debug, Serialize)]
pub(super) struct Assigned {
    tags: Vec<String>,
    #[serde(rename = "buildID")]
    build_id: String,
}

pub(super) async fn assign(
    State(app): State<AppState>,
    Caller(ctx): Caller,
    JsonBody(Assign { target, tags }): JsonBody<Assign>,
) -> Result<(StatusCode, Json<Assigned>), ApiError> {
    let (build, tags) = app.control.tag_assign(&ctx, &target, &tags).await?;
    let tags = tags.iter().map(ToString::to_string).collect();
    Ok((StatusCode::CREATED, Json(Assigned { tags, build_id: build.to_string() })))
}

#[derive(Debug, Deserialize)]
pub(super) struct Remove {
    name: String,
    tags: Vec<String>,
}

pub(super) async fn remove(
    State(app): State<AppState>,
    Caller(ctx): Caller,
    JsonBody(Remove { name, tags }): JsonBody<Remove>,
) -> Result<StatusCode, ApiError> {
    app.control.tag_remove(&ctx, &name, &tags).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// One tag.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct TemplateTag {
    tag: String,
    #[serde(rename = "buildID")]
    build_id: String,
    created_at: Timestamp,
}

impl From<Tag> for TemplateTag {
    fn from(tag: Tag) -> Self {
        let Tag { tag, build_id, created_at } = tag;
        Self { tag: tag.to_string(), build_id: build_id.to_string(), created_at: Timestamp(created_at) }
    }
}

pub(super) async fn list(
    State(app): State<AppState>,
    Caller(ctx): Caller,
    PathName(name): PathName,
) -> Result<Json<Vec<TemplateTag>>, ApiError> {
    let tags = app.control.tag_list(&ctx, &name).await?;
    Ok(Json(tags.into_iter().map(TemplateTag::from).collect()))
}
