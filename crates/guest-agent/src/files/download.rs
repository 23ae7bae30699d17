//! `GET /files`: a file's bytes.

use std::fs::{File, Metadata, OpenOptions};
use std::io::{self, Seek, SeekFrom};
use std::os::unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt};
use std::path::Path;
use std::sync::Arc;

use async_compression::Level;
use async_compression::tokio::bufread::GzipEncoder;
use axum::body::Body;
use axum::extract::{Extension, State};
use axum::response::{IntoResponse, Response};
use http::header::{
    ACCEPT_ENCODING, ACCEPT_RANGES, CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_RANGE, CONTENT_TYPE, ETAG,
    RANGE, VARY,
};
use http::{HeaderMap, HeaderValue, StatusCode};
use tokio::task::spawn_blocking;
use tokio_util::io::{ReaderStream, StreamReader};

use super::condition;
use super::encoding::{self, Encoding, Offer};
use super::place::{self, FilesQuery, about};
use super::range::{self, Wanted};
use super::signature::Operation;
use super::transfer;
use crate::auth::Credential;
use crate::error::ApiError;
use crate::server::Agent;

/// What is sent at a time of what is compressed on the way.
const COMPRESSED_BYTES: usize = 64 * 1024;

/// Handles the route.
pub(super) async fn handle(
    State(agent): State<Arc<Agent>>,
    Extension(credential): Extension<Credential>,
    query: FilesQuery,
    headers: HeaderMap,
) -> Result<Response, ApiError> {
    let caller = place::admit(&query, Operation::Read, credential, &headers, &agent.state.current())?;
    let path = caller.resolve(query.path.as_deref().unwrap_or_default())?;
    let range = headers.get(RANGE).and_then(|value| value.to_str().ok());
    let offer = if range.is_some() { Offer::IdentityAlone } else { Offer::All };
    let accepted = headers.get(ACCEPT_ENCODING).map(|value| value.to_str().unwrap_or("?"));
    let encoding = encoding::choose(accepted, offer).ok_or_else(|| not_acceptable(offer))?;
    let asked = path.clone();
    let opened = spawn_blocking(move || open(&asked)).await;
    let (file, metadata) = opened.map_err(|_| ApiError::internal("the file could not be opened"))??;
    let tag = metadata.is_file().then(|| HeaderValue::try_from(condition::tag(&metadata)));
    let mut response = match encoding {
        Encoding::Gzip => compressed(file, &metadata),
        Encoding::Identity => plain(file, &metadata, range).map_err(|error| failed(&path, &error))?,
    };
    let headers = response.headers_mut();
    // Another encoding of it is not the same bytes.
    if let (Encoding::Identity, Some(Ok(tag))) = (encoding, tag) {
        headers.insert(ETAG, tag);
    }
    headers.insert(VARY, HeaderValue::from_name(ACCEPT_ENCODING));
    headers.entry(CONTENT_TYPE).or_insert(HeaderValue::from_static("application/octet-stream"));
    Ok(response)
}

fn not_acceptable(offer: Offer) -> ApiError {
    let message = match offer {
        Offer::All => "no acceptable encoding: a file can be had as it is, or as gzip",
        Offer::IdentityAlone => "no acceptable encoding: a range of a file can be had only as it is",
    };
    ApiError::new(StatusCode::NOT_ACCEPTABLE, message)
}

fn open(path: &Path) -> Result<(File, Metadata), ApiError> {
    // Looked at before it is opened: to open a FIFO would wait for somebody to write to it.
    let metadata = std::fs::metadata(path).map_err(|error| failed(path, &error))?;
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
        .map_err(|error| failed(path, &error))?;
    let metadata = file.metadata().map_err(|error| failed(path, &error))?;
    Ok((file, metadata))
}

/// The whole file, compressed as it is read. How long that will be nobody knows before the end.
fn compressed(file: File, metadata: &Metadata) -> Response {
    let content = transfer::chunks(file, size_to_trust(metadata).unwrap_or(u64::MAX));
    // One hop away, time is dearer than the last tenth of the bytes.
    let encoder = GzipEncoder::with_quality(StreamReader::new(Box::pin(content)), Level::Fastest);
    let body = Body::from_stream(ReaderStream::with_capacity(encoder, COMPRESSED_BYTES));
    ([(CONTENT_ENCODING, HeaderValue::from_static("gzip"))], body).into_response()
}

fn plain(mut file: File, metadata: &Metadata, range: Option<&str>) -> io::Result<Response> {
    let Some(size) = size_to_trust(metadata) else {
        return Ok(Body::from_stream(transfer::chunks(file, u64::MAX)).into_response());
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
        file.seek(SeekFrom::Start(first))?;
    }
    // A file that grows meanwhile ends where the header said it would; one that shrinks breaks the connection off.
    let mut response = (status, Body::from_stream(transfer::chunks(file, length))).into_response();
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
