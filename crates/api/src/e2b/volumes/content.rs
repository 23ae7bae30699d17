//! `/volumecontent/{id}/...`: the files of a volume, for whoever has its token. Bodies are streamed both ways, whatever their size.

use axum::body::Body;
use axum::extract::{DefaultBodyLimit, FromRequestParts, State};
use axum::http::request::Parts;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse as _, Response};
use axum::routing::get;
use axum::{Json, Router};
use sandbar_control::OpContext;
use sandbar_control::volumes::{self, Attributes, EntryKind, NewFolder, VolumeEntry};
use sandbar_types::{ErrorCode, id};
use serde::{Deserialize, Serialize};

use crate::AppState;
use crate::auth::bearer;
use crate::error::ApiError;
use crate::extract::{JsonBody, PathId, QueryPairs};
use crate::request::RequestId;
use crate::schema::Timestamp;
use crate::v1::sandboxes::files;

/// Levels of a listing where the caller does not say.
const DEFAULT_DEPTH: u32 = 1;

/// The routes, relative to the root.
pub(in crate::e2b) fn routes() -> Router<AppState> {
    Router::new()
        .route("/volumecontent/{id}/dir", get(list).post(make_folder))
        .route("/volumecontent/{id}/path", get(stat).patch(change).delete(remove))
        // Streamed to the guest as it comes: no limit.
        .route("/volumecontent/{id}/file", get(read).put(write).layer(DefaultBodyLimit::disable()))
}

/// The volume in the path, opened by the token that came with the request. Whoever has no token is told the same of every volume.
struct Opened(OpContext, volumes::Volume);

impl FromRequestParts<AppState> for Opened {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, app: &AppState) -> Result<Self, ApiError> {
        let needed = || {
            ApiError::new(ErrorCode::Unauthorized, "this needs the volume's token, as Authorization: Bearer")
        };
        let RequestId(request_id) = RequestId::from_request_parts(parts, app).await?;
        let token = bearer(parts).ok_or_else(needed)?.to_owned();
        let PathId(id) = PathId::<id::Volume>::from_request_parts(parts, app).await.map_err(|_| needed())?;
        let (ctx, volume) = app.control.volume_opened(request_id, id, token.as_bytes()).await?;
        sandbar_trace::note("sandbar.team.id", volume.team_id);
        Ok(Self(ctx, volume))
    }
}

/// What is at a path.
#[derive(Serialize)]
struct Entry {
    name: String,
    #[serde(rename = "type")]
    kind: &'static str,
    path: String,
    size: u64,
    mode: u32,
    uid: u32,
    gid: u32,
    atime: Timestamp,
    mtime: Timestamp,
    ctime: Timestamp,
    #[serde(skip_serializing_if = "Option::is_none")]
    target: Option<String>,
}

impl From<VolumeEntry> for Entry {
    fn from(entry: VolumeEntry) -> Self {
        let VolumeEntry { name, kind, path, size, mode, uid, gid, atime, mtime, ctime, target } = entry;
        let kind = match kind {
            EntryKind::File => "file",
            EntryKind::Directory => "directory",
            EntryKind::Symlink => "symlink",
            EntryKind::Other => "unknown",
        };
        let [atime, mtime, ctime] = [atime, mtime, ctime].map(Timestamp);
        Self { name, kind, path, size, mode, uid, gid, atime, mtime, ctime, target }
    }
}

#[derive(Deserialize)]
struct Change {
    uid: Option<u32>,
    gid: Option<u32>,
    mode: Option<u32>,
}

fn path(query: &QueryPairs) -> Result<&str, ApiError> {
    query.one("path")?.ok_or_else(|| ApiError::invalid("name the path in the query: path=..."))
}

fn attributes(query: &QueryPairs) -> Result<Attributes, ApiError> {
    Ok(Attributes { uid: query.parse("uid")?, gid: query.parse("gid")?, mode: query.parse("mode")? })
}

async fn list(
    State(app): State<AppState>,
    Opened(ctx, volume): Opened,
    query: QueryPairs,
) -> Result<Json<Vec<Entry>>, ApiError> {
    let depth = query.parse("depth")?.unwrap_or(DEFAULT_DEPTH);
    let entries = app.control.volume_entries(&ctx, &volume, path(&query)?, depth).await?;
    Ok(Json(entries.into_iter().map(Entry::from).collect()))
}

async fn make_folder(
    State(app): State<AppState>,
    Opened(ctx, volume): Opened,
    query: QueryPairs,
) -> Result<(StatusCode, Json<Entry>), ApiError> {
    let force = query.parse("force")?.unwrap_or_default();
    let new = NewFolder { attributes: attributes(&query)?, force };
    let made = app.control.volume_make_folder(&ctx, &volume, path(&query)?, new).await?;
    Ok((StatusCode::CREATED, Json(made.into())))
}

async fn stat(
    State(app): State<AppState>,
    Opened(ctx, volume): Opened,
    query: QueryPairs,
) -> Result<Json<Entry>, ApiError> {
    Ok(Json(app.control.volume_stat(&ctx, &volume, path(&query)?).await?.into()))
}

async fn change(
    State(app): State<AppState>,
    Opened(ctx, volume): Opened,
    query: QueryPairs,
    JsonBody(Change { uid, gid, mode }): JsonBody<Change>,
) -> Result<Json<Entry>, ApiError> {
    let attributes = Attributes { uid, gid, mode };
    Ok(Json(app.control.volume_change(&ctx, &volume, path(&query)?, attributes).await?.into()))
}

async fn remove(
    State(app): State<AppState>,
    Opened(ctx, volume): Opened,
    query: QueryPairs,
) -> Result<StatusCode, ApiError> {
    app.control.volume_remove_path(&ctx, &volume, path(&query)?).await?;
    Ok(StatusCode::NO_CONTENT)
}

async fn read(
    State(app): State<AppState>,
    Opened(ctx, volume): Opened,
    query: QueryPairs,
) -> Result<Response, ApiError> {
    let contents = app.control.volume_read(&ctx, &volume, path(&query)?).await?;
    let headers = [
        (header::CONTENT_TYPE, HeaderValue::from_static("application/octet-stream")),
        // The guest's bytes are never a page of ours.
        (header::CONTENT_DISPOSITION, HeaderValue::from_static("attachment")),
    ];
    Ok((headers, files::body(contents)).into_response())
}

async fn write(
    State(app): State<AppState>,
    Opened(ctx, volume): Opened,
    query: QueryPairs,
    body: Body,
) -> Result<(StatusCode, Json<Entry>), ApiError> {
    let attributes = attributes(&query)?;
    let contents = body.into_data_stream();
    let written = app.control.volume_write(&ctx, &volume, path(&query)?, attributes, contents).await?;
    Ok((StatusCode::CREATED, Json(written.into())))
}
