//! `POST /v1/sandboxes/{id}/files/list`, `/files/mkdir`, `/files/remove`.

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use sandbar_control::sandboxes::{self, FileTarget};
use sandbar_types::id;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::AppState;
use crate::auth::Caller;
use crate::error::ApiError;
use crate::extract::{JsonBody, PathId};
use crate::schema::{ActRefusals, Timestamp};

/// Which folder.
#[derive(Debug, Deserialize, ToSchema)]
pub(crate) struct ListFolder {
    /// Absolute, or relative to the user's home.
    #[schema(example = "/home/user")]
    path: String,
    /// How deep: 1 = the folder's own entries.
    #[schema(minimum = 1, default = 1)]
    depth: Option<u32>,
    /// Whose rights and home apply; by default the template's user.
    user: Option<String>,
}

/// What is in a folder.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Folder {
    entries: Vec<Entry>,
}

/// A folder that is there.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct MadeFolder {
    entry: Entry,
}

/// A file or folder.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Entry {
    name: String,
    path: String,
    #[serde(rename = "type")]
    kind: EntryKind,
    size: u64,
    /// Permission bits.
    #[schema(example = 420)]
    mode: u32,
    #[schema(example = "-rw-r--r--")]
    permissions: String,
    owner: String,
    group: String,
    modified_at: Timestamp,
    /// Where it leads, if it is a link; all else is told of that place.
    #[serde(skip_serializing_if = "Option::is_none")]
    symlink_target: Option<String>,
}

/// What an entry is.
#[derive(Debug, Clone, Copy, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub(crate) enum EntryKind {
    File,
    Directory,
    /// A link that leads nowhere.
    Symlink,
    /// A device, a socket, a pipe.
    Other,
}

/// Which file or folder.
#[derive(Debug, Deserialize, ToSchema)]
pub(crate) struct PathInGuest {
    /// Absolute, or relative to the user's home.
    #[schema(example = "/home/user/work")]
    path: String,
    /// Whose rights and home apply; by default the template's user.
    user: Option<String>,
}

/// What is in a folder.
#[utoipa::path(
    post,
    path = "/{id}/files/list",
    operation_id = "list_sandbox_folder",
    tag = "files",
    params(("id" = String, Path, description = "The sandbox's id, `sb-...`")),
    request_body = ListFolder,
    responses((status = 200, description = "Its entries, by name", body = Folder), ActRefusals),
    security(("api_key" = [])),
)]
pub(crate) async fn list_sandbox_folder(
    State(app): State<AppState>,
    Caller(ctx): Caller,
    PathId(id): PathId<id::Sandbox>,
    JsonBody(ListFolder { path, depth, user }): JsonBody<ListFolder>,
) -> Result<Json<Folder>, ApiError> {
    let depth = depth.unwrap_or(1);
    if depth == 0 {
        return Err(ApiError::invalid("depth must be at least 1"));
    }
    let sandbox = app.control.sandbox_get(&ctx, id).await?;
    let target = FileTarget { path, user };
    let entries = app.control.sandbox_list_folder(&ctx, &sandbox, &target, depth).await?;
    Ok(Json(Folder { entries: entries.into_iter().map(Entry::from).collect() }))
}

/// Makes a folder and those above it. One that is there is as good.
#[utoipa::path(
    post,
    path = "/{id}/files/mkdir",
    operation_id = "make_sandbox_folder",
    tag = "files",
    params(("id" = String, Path, description = "The sandbox's id, `sb-...`")),
    request_body = PathInGuest,
    responses((status = 200, description = "It is there", body = MadeFolder), ActRefusals),
    security(("api_key" = [])),
)]
pub(crate) async fn make_sandbox_folder(
    State(app): State<AppState>,
    Caller(ctx): Caller,
    PathId(id): PathId<id::Sandbox>,
    JsonBody(PathInGuest { path, user }): JsonBody<PathInGuest>,
) -> Result<Json<MadeFolder>, ApiError> {
    let sandbox = app.control.sandbox_get(&ctx, id).await?;
    let made = app.control.sandbox_make_folder(&ctx, &sandbox, &FileTarget { path, user }).await?;
    Ok(Json(MadeFolder { entry: made.into() }))
}

/// Removes a file, or a folder with all that is in it. Nothing there is as good.
#[utoipa::path(
    post,
    path = "/{id}/files/remove",
    operation_id = "remove_sandbox_file",
    tag = "files",
    params(("id" = String, Path, description = "The sandbox's id, `sb-...`")),
    request_body = PathInGuest,
    responses((status = 204, description = "It is gone"), ActRefusals),
    security(("api_key" = [])),
)]
pub(crate) async fn remove_sandbox_file(
    State(app): State<AppState>,
    Caller(ctx): Caller,
    PathId(id): PathId<id::Sandbox>,
    JsonBody(PathInGuest { path, user }): JsonBody<PathInGuest>,
) -> Result<StatusCode, ApiError> {
    let sandbox = app.control.sandbox_get(&ctx, id).await?;
    app.control.sandbox_remove(&ctx, &sandbox, &FileTarget { path, user }).await?;
    Ok(StatusCode::NO_CONTENT)
}

impl From<sandboxes::Entry> for Entry {
    fn from(entry: sandboxes::Entry) -> Self {
        let sandboxes::Entry {
            name,
            path,
            kind,
            size,
            mode,
            permissions,
            owner,
            group,
            modified_at,
            symlink_target,
        } = entry;
        Self {
            name,
            path,
            kind: match kind {
                sandboxes::EntryKind::File => EntryKind::File,
                sandboxes::EntryKind::Directory => EntryKind::Directory,
                sandboxes::EntryKind::Symlink => EntryKind::Symlink,
                sandboxes::EntryKind::Other => EntryKind::Other,
            },
            size,
            mode,
            permissions,
            owner,
            group,
            modified_at: Timestamp(modified_at),
            symlink_target,
        }
    }
}
