//! `GET /files`: a file's bytes.

use std::fs::Metadata;
use std::io::{self, SeekFrom};
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::Path;
use std::sync::Arc;

use axum::body::Body;
use axum::extract::{Extension, Query, State};
use axum::response::{IntoResponse, Response};
use http::header::{ACCEPT_RANGES, CONTENT_LENGTH, CONTENT_RANGE, CONTENT_TYPE, RANGE};
use http::{HeaderMap, HeaderValue, StatusCode};
use tokio::fs::{File, OpenOptions};
use tokio::io::{AsyncReadExt, AsyncSeekExt};
use tokio_util::io::ReaderStream;

use super::FilesQuery;
use super::place::{self, about};
use super::range::{self, Wanted};
use super::signature::Operation;
use crate::auth::Credential;
use crate::error::ApiError;
use crate::server::Agent;

/// Every read is a hop to a thread that may block: large enough that hops do not count.
const READ_BYTES: usize = 128 * 1024;

/// Handles the route.
pub(super) async fn handle(
    State(agent): State<Arc<Agent>>,
    Extension(credential): Extension<Credential>,
    Query(query): Query<FilesQuery>,
    headers: HeaderMap,
) -> Result<Response, ApiError> {
    let caller = place::admit(&query, Operation::Read, credential, &headers, &agent.state.current())?;
    let path = caller.resolve(query.path.as_deref().unwrap_or_default())?;
    let (file, metadata) = open(&path).await?;
    let range = headers.get(RANGE).and_then(|value| value.to_str().ok());
    answer(file, &metadata, range).await.map_err(|error| failed(&path, &error))
}

async fn open(path: &Path) -> Result<(File, Metadata), ApiError> {
    // Looked at before it is opened: to open a FIFO would wait for somebody to write to it.
    let metadata = tokio::fs::metadata(path).await.map_err(|error| failed(path, &error))?;
    if metadata.is_dir() {
        return Err(ApiError::bad_request(about(path, "is a directory")));
    }
    if metadata.file_type().is_fifo() || metadata.file_type().is_socket() {
        return Err(ApiError::bad_request(about(path, "is not a file")));
    }
    let file = OpenOptions::new()
        .read(true)
        .custom_flags(libc::O_NONBLOCK | libc::O_NOCTTY)
        .open(path)
        .await
        .map_err(|error| failed(path, &error))?;
    let metadata = file.metadata().await.map_err(|error| failed(path, &error))?;
    Ok((file, metadata))
}

async fn answer(mut file: File, metadata: &Metadata, range: Option<&str>) -> io::Result<Response> {
    let content_type = (CONTENT_TYPE, HeaderValue::from_static("application/octet-stream"));
    let Some(size) = size_to_trust(metadata) else {
        let body = Body::from_stream(ReaderStream::with_capacity(file, READ_BYTES));
        return Ok(([content_type], body).into_response());
    };
    let (status, first, length) = match range::parse(range, size) {
        Wanted::Whole => (StatusCode::OK, 0, size),
        Wanted::Part { first, last } => (StatusCode::PARTIAL_CONTENT, first, last - first + 1),
        Wanted::Unsatisfiable => {
            let error = ApiError::new(StatusCode::RANGE_NOT_SATISFIABLE, "the file has no such range");
            return Ok(([(CONTENT_RANGE, format!("bytes */{size}"))], error).into_response());
        }
    };
    if first > 0 {
        file.seek(SeekFrom::Start(first)).await?;
    }
    // A file that grows meanwhile ends where the header said it would; one that shrinks breaks the connection off.
    let body = Body::from_stream(ReaderStream::with_capacity(file.take(length), READ_BYTES));
    let mut response = (status, [content_type], body).into_response();
    let headers = response.headers_mut();
    headers.insert(CONTENT_LENGTH, HeaderValue::from(length));
    headers.insert(ACCEPT_RANGES, HeaderValue::from_static("bytes"));
    if status == StatusCode::PARTIAL_CONTENT {
        let range = format!("bytes {first}-{}/{size}", first + length - 1);
        headers.insert(CONTENT_RANGE, HeaderValue::try_from(range).map_err(io::Error::other)?);
    }
    Ok(response)
}

/// The size, where it means something. Files that the kernel makes up (`/proc`, `/sys`) say 0 or 4096 and have no blocks;
/// they, devices, and files that are all hole are read until they end.
fn size_to_trust(metadata: &Metadata) -> Option<u64> {
    (metadata.is_file() && metadata.blocks() > 0).then_some(metadata.len())
}

fn failed(path: &Path, error: &io::Error) -> ApiError {
    match error.raw_os_error() {
        Some(libc::ENOENT | libc::ENOTDIR) => ApiError::not_found(about(path, "does not exist")),
        Some(libc::ENAMETOOLONG | libc::ELOOP) => ApiError::bad_request(about(path, &error.to_string())),
        Some(libc::EACCES | libc::EPERM) => {
            ApiError::new(StatusCode::FORBIDDEN, about(path, "cannot be read"))
        }
        _ => ApiError::internal(about(path, &error.to_string())),
    }
}
