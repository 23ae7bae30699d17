//! `POST /v1/sandboxes/{id}/files/write` and `.../files/read`: streamed through, whatever the size.

use std::io;

use axum::body::Body;
use axum::extract::multipart::{Field, MultipartError, MultipartRejection};
use axum::extract::rejection::QueryRejection;
use axum::extract::{Multipart, Query, State};
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use axum::response::{AppendHeaders, IntoResponse, Response};
use bytes::Bytes;
use futures::TryStreamExt as _;
use sandbar_control::sandboxes::{FileContents, FileTarget, FileWritten, WriteCondition};
use sandbar_types::{ErrorCode, id, limits};
use serde::Deserialize;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use utoipa::ToSchema;

use crate::AppState;
use crate::auth::Caller;
use crate::error::ApiError;
use crate::extract::{JsonBody, PathId};
use crate::schema::{ActRefusals, WriteRefusals};

/// Chunks of an upload on their way from the client to the host. Their number bounds the memory that an upload takes.
const CHUNKS_IN_FLIGHT: usize = 4;

/// Longest condition of a write: some states.
const CONDITION_BYTES: usize = 1024;

/// A file, and where it goes.
#[derive(ToSchema)]
#[expect(dead_code, reason = "describes the form; the parts are read one by one as they arrive")]
pub(crate) struct WriteFile {
    /// Absolute, or relative to the user's home. Missing folders are made. Must come before `file`.
    path: String,
    /// Whose rights and home apply; by default the template's user. Must come before `file`.
    user: Option<String>,
    /// The contents.
    #[schema(value_type = String, format = Binary)]
    file: Vec<u8>,
}

/// What must be there for a write to take place, in the words of HTTP.
fn condition(headers: &HeaderMap) -> Result<WriteCondition, ApiError> {
    let text = |name: HeaderName| {
        let lines: Result<Vec<&str>, _> = headers.get_all(&name).iter().map(|line| line.to_str()).collect();
        let text = lines.map_err(|_| ApiError::invalid(format!("{name} is no text")))?.join(",");
        if text.len() > CONDITION_BYTES {
            return Err(ApiError::invalid(format!("{name} is too long")));
        }
        Ok(text.trim().to_owned())
    };
    let (states, nothing) = (text(header::IF_MATCH)?, text(header::IF_NONE_MATCH)?);
    match (states.is_empty(), nothing.as_str()) {
        (true, "") => Ok(WriteCondition::Whatever),
        (false, "") => Ok(WriteCondition::States(states)),
        (true, "*") => Ok(WriteCondition::Nothing),
        (true, _) => Err(ApiError::invalid("If-None-Match of a write is *")),
        (false, _) => Err(ApiError::invalid("If-Match and If-None-Match exclude each other")),
    }
}

/// The answer to a write.
type Written = (StatusCode, AppendHeaders<Option<(HeaderName, HeaderValue)>>);

fn written(file: &FileWritten) -> Written {
    (StatusCode::NO_CONTENT, AppendHeaders(etag(file.state.as_deref())))
}

/// What the guest says of itself is a header only if it can be one.
fn etag(state: Option<&str>) -> Option<(HeaderName, HeaderValue)> {
    Some((header::ETAG, HeaderValue::try_from(state?).ok()?))
}

/// Writes a file. It appears whole or not at all. With `If-Match` only over a state of it that was seen, as `ETag` told it; with
/// `If-None-Match: *` only where nothing is.
#[utoipa::path(
    post,
    path = "/{id}/files/write",
    operation_id = "write_sandbox_file",
    tag = "files",
    params(
        ("id" = String, Path, description = "The sandbox's id, `sb-...`"),
        ("If-Match" = Option<String>, Header, description = "The states of the file that may be replaced"),
        ("If-None-Match" = Option<String>, Header, description = "`*`: there must be no file"),
    ),
    request_body(content = WriteFile, content_type = "multipart/form-data"),
    responses(
        (status = 204, description = "It is written", headers(("ETag" = String, description = "The file's state now"))),
        WriteRefusals,
    ),
    security(("api_key" = [])),
)]
pub(crate) async fn write_sandbox_file(
    State(app): State<AppState>,
    Caller(ctx): Caller,
    PathId(id): PathId<id::Sandbox>,
    headers: HeaderMap,
    form: Result<Multipart, MultipartRejection>,
) -> Result<Written, ApiError> {
    let condition = condition(&headers)?;
    let mut form =
        form.map_err(|_| ApiError::invalid("send multipart/form-data with the parts path and file"))?;
    let sandbox = app.control.sandbox_get(&ctx, id).await?;
    let (mut path, mut user) = (None, None);
    while let Some(mut part) = form.next_field().await.map_err(|error| broken(&error))? {
        match part.name() {
            Some("path") => path = Some(short_text(&mut part, "path").await?),
            Some("user") => user = Some(short_text(&mut part, "user").await?),
            Some("file") => {
                let path = path.ok_or_else(|| ApiError::invalid("the part path must come before file"))?;
                let target = FileTarget { path, user };
                let (chunks, contents) = mpsc::channel(CHUNKS_IN_FLIGHT);
                let (condition, contents) = (condition, ReceiverStream::new(contents));
                let write = app.control.sandbox_write_file(&ctx, &sandbox, &target, condition, contents);
                let (file, ()) = tokio::join!(write, forward(part, chunks));
                return Ok(written(&file?));
            }
            _ => {}
        }
    }
    Err(ApiError::invalid("the part file is missing"))
}

/// Passes the part on as it arrives. Ends early when the host no longer takes it: why is told by the write itself.
async fn forward(mut part: Field<'_>, chunks: mpsc::Sender<io::Result<Bytes>>) {
    loop {
        let chunk = match part.try_next().await {
            Ok(Some(chunk)) => Ok(chunk),
            Ok(None) => return,
            Err(error) => Err(io::Error::other(error)),
        };
        let last = chunk.is_err();
        if chunks.send(chunk).await.is_err() || last {
            return;
        }
    }
}

/// A part that is a name or path. What is longer than any of them may be is not read.
async fn short_text(part: &mut Field<'_>, name: &str) -> Result<String, ApiError> {
    let mut bytes = Vec::new();
    while let Some(chunk) = part.try_next().await.map_err(|error| broken(&error))? {
        if bytes.len() + chunk.len() > limits::PATH_BYTES {
            return Err(ApiError::invalid(format!("{name} is too long")));
        }
        bytes.extend_from_slice(&chunk);
    }
    String::from_utf8(bytes).map_err(|_| ApiError::invalid(format!("{name} is not valid UTF-8")))
}

fn broken(error: &MultipartError) -> ApiError {
    match error.status() {
        StatusCode::PAYLOAD_TOO_LARGE => ApiError::new(ErrorCode::TooLarge, "the form is too large"),
        _ => ApiError::invalid(format!("the form could not be read: {}", error.body_text())),
    }
}

/// Which file.
#[derive(Debug, Deserialize, ToSchema)]
pub(crate) struct ReadFile {
    /// Absolute, or relative to the user's home.
    #[schema(example = "/home/user/result.json")]
    path: String,
    /// Whose rights and home apply; by default the template's user.
    user: Option<String>,
}

/// A file's contents.
#[utoipa::path(
    post,
    path = "/{id}/files/read",
    operation_id = "read_sandbox_file",
    tag = "files",
    params(("id" = String, Path, description = "The sandbox's id, `sb-...`")),
    request_body = ReadFile,
    responses(
        (
            status = 200, description = "The contents, streamed", content_type = "application/octet-stream", body = Vec<u8>,
            headers(("ETag" = String, description = "The file's state, where the guest tells it")),
        ),
        ActRefusals,
    ),
    security(("api_key" = [])),
)]
pub(crate) async fn read_sandbox_file(
    State(app): State<AppState>,
    Caller(ctx): Caller,
    PathId(id): PathId<id::Sandbox>,
    JsonBody(ReadFile { path, user }): JsonBody<ReadFile>,
) -> Result<Response, ApiError> {
    let sandbox = app.control.sandbox_get(&ctx, id).await?;
    let contents = app.control.sandbox_read_file(&ctx, &sandbox, &FileTarget { path, user }).await?;
    let state = AppendHeaders(etag(contents.state()));
    let headers = [
        (header::CONTENT_TYPE, HeaderValue::from_static("application/octet-stream")),
        // The guest's bytes are never a page of ours.
        (header::CONTENT_DISPOSITION, HeaderValue::from_static("attachment")),
    ];
    Ok((headers, state, body(contents)).into_response())
}

/// Where the body goes.
#[derive(Debug, Deserialize)]
pub(crate) struct StreamTo {
    path: String,
    user: Option<String>,
}

/// Writes the request's body to a file, as it comes. The file appears whole or not at all. With `If-Match` only over a state of it that
/// was seen, as `ETag` told it; with `If-None-Match: *` only where nothing is.
#[utoipa::path(
    post,
    path = "/{id}/files/stream/write",
    operation_id = "stream_write_sandbox_file",
    tag = "files",
    params(
        ("id" = String, Path, description = "The sandbox's id, `sb-...`"),
        ("path" = String, Query, description = "Absolute, or relative to the user's home. Missing folders are made"),
        ("user" = Option<String>, Query, description = "Whose rights and home apply; by default the template's user"),
        ("If-Match" = Option<String>, Header, description = "The states of the file that may be replaced"),
        ("If-None-Match" = Option<String>, Header, description = "`*`: there must be no file"),
    ),
    request_body(content = Vec<u8>, content_type = "application/octet-stream"),
    responses(
        (status = 204, description = "It is written", headers(("ETag" = String, description = "The file's state now"))),
        WriteRefusals,
    ),
    security(("api_key" = [])),
)]
pub(crate) async fn stream_write_sandbox_file(
    State(app): State<AppState>,
    Caller(ctx): Caller,
    PathId(id): PathId<id::Sandbox>,
    target: Result<Query<StreamTo>, QueryRejection>,
    headers: HeaderMap,
    body: Body,
) -> Result<Written, ApiError> {
    let condition = condition(&headers)?;
    let Query(StreamTo { path, user }) =
        target.map_err(|_| ApiError::invalid("name the file in the query: path=..."))?;
    let sandbox = app.control.sandbox_get(&ctx, id).await?;
    let target = FileTarget { path, user };
    let contents = body.into_data_stream();
    Ok(written(&app.control.sandbox_write_file(&ctx, &sandbox, &target, condition, contents).await?))
}

/// A file's contents as they come, whatever their size; the same as `files/read`.
#[utoipa::path(
    post,
    path = "/{id}/files/stream/read",
    operation_id = "stream_read_sandbox_file",
    tag = "files",
    params(("id" = String, Path, description = "The sandbox's id, `sb-...`")),
    request_body = ReadFile,
    responses(
        (
            status = 200, description = "The contents, streamed", content_type = "application/octet-stream", body = Vec<u8>,
            headers(("ETag" = String, description = "The file's state, where the guest tells it")),
        ),
        ActRefusals,
    ),
    security(("api_key" = [])),
)]
pub(crate) async fn stream_read_sandbox_file(
    app: State<AppState>,
    caller: Caller,
    id: PathId<id::Sandbox>,
    body: JsonBody<ReadFile>,
) -> Result<Response, ApiError> {
    read_sandbox_file(app, caller, id, body).await
}

/// A failure half way breaks the connection off, so that a part is never taken for the whole.
pub(crate) fn body(contents: FileContents) -> Body {
    Body::from_stream(futures::stream::try_unfold(contents, |mut contents| async move {
        match contents.next().await {
            Ok(chunk) => Ok(chunk.map(|chunk| (chunk, contents))),
            Err(error) => {
                let error = ApiError::from(error);
                error.log();
                Err(io::Error::other(error.to_string()))
            }
        }
    }))
}
