//! `POST /files`: files as parts of a form, or one file as the whole body.

use std::collections::BTreeMap;
use std::io;
use std::path::Path;
use std::sync::Arc;

use async_compression::tokio::bufread::GzipDecoder;
use axum::body::Body;
use axum::extract::{Extension, FromRequest, Multipart, Request, State};
use axum::response::AppendHeaders;
use axum::{BoxError, Json};
use bytes::Bytes;
use futures::stream::BoxStream;
use futures::{Stream, StreamExt, TryStreamExt};
use http::header::{CONTENT_ENCODING, CONTENT_TYPE, ETAG};
use http::{HeaderMap, HeaderName};
use serde::Serialize;
use tokio_util::io::{ReaderStream, StreamReader};

use super::condition::Condition;
use super::metadata::{Metadata, MetadataError};
use super::place::{self, FilesQuery};
use super::signature::Operation;
use super::write::{self, Terms, WriteError};
use crate::auth::Credential;
use crate::caller::Caller;
use crate::error::ApiError;
use crate::server::Agent;

/// What is decoded at a time.
const DECODED_BYTES: usize = 256 * 1024;
/// The name of the parts that are files.
const FILE_PART: &str = "file";

/// A file that was written. E2B's clients compare the whole object: no other keys.
#[derive(Serialize)]
pub(super) struct Written {
    name: String,
    path: String,
    r#type: &'static str,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    metadata: BTreeMap<String, String>,
    #[serde(skip)]
    tag: Option<String>,
}

/// Handles the route.
pub(super) async fn handle(
    State(agent): State<Arc<Agent>>,
    Extension(credential): Extension<Credential>,
    query: FilesQuery,
    headers: HeaderMap,
    request: Request,
) -> Result<Answer, ApiError> {
    let caller = place::admit(&query, Operation::Write, credential, &headers, &agent.state.current())?;
    let terms = Terms { metadata: Metadata::of(&headers)?, condition: Condition::of(&headers)? };
    let path = query.path.as_deref().filter(|path| !path.is_empty());
    let content_type = headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let written = match content_type.split(';').next().unwrap_or_default().trim() {
        "multipart/form-data" => form(&caller, path, &terms, request).await?,
        "application/octet-stream" => {
            let path = path.ok_or_else(|| ApiError::bad_request("path is required"))?;
            vec![store(&caller, path, &terms, decoded(&headers, request.into_body())?).await?]
        }
        other => return Err(ApiError::bad_request(format!("content type '{other}' is not supported"))),
    };
    // Of several files it would be nobody's.
    let tag = if let [one] = written.as_slice() { one.tag.clone() } else { None };
    Ok((AppendHeaders(tag.map(|tag| (ETAG, tag))), Json(written)))
}

/// What was written; and the state of a file that was written alone.
type Answer = (AppendHeaders<Option<(HeaderName, String)>>, Json<Vec<Written>>);

/// The body as it was before the caller compressed it. An encoding that is not known here must not end up in a file.
fn decoded(headers: &HeaderMap, body: Body) -> Result<BoxStream<'static, Result<Bytes, BoxError>>, ApiError> {
    let encoding =
        headers.get(CONTENT_ENCODING).map(|value| value.to_str().unwrap_or("?")).unwrap_or("identity");
    let content = body.into_data_stream();
    match encoding {
        "identity" => Ok(content.map_err(Into::into).boxed()),
        "gzip" => {
            let compressed = StreamReader::new(content.map_err(io::Error::other));
            Ok(ReaderStream::with_capacity(GzipDecoder::new(compressed), DECODED_BYTES)
                .map_err(Into::into)
                .boxed())
        }
        other => Err(ApiError::bad_request(format!("content encoding '{other}' is not supported"))),
    }
}

async fn form(
    caller: &Caller,
    path: Option<&str>,
    terms: &Terms,
    request: Request,
) -> Result<Vec<Written>, ApiError> {
    let bad = |error: String| ApiError::bad_request(format!("invalid form: {error}"));
    let mut form = Multipart::from_request(request, &()).await.map_err(|error| bad(error.body_text()))?;
    let mut written = Vec::new();
    while let Some(part) = form.next_field().await.map_err(|error| bad(error.body_text()))? {
        if part.name() != Some(FILE_PART) {
            continue;
        }
        let named = part.file_name().filter(|name| !name.is_empty()).map(str::to_owned);
        let path = path.map(str::to_owned).or(named);
        let path =
            path.ok_or_else(|| ApiError::bad_request("a part has no file name, and there is no path"))?;
        written.push(store(caller, &path, terms, part).await?);
    }
    if written.is_empty() {
        return Err(ApiError::bad_request("no part is named 'file'"));
    }
    Ok(written)
}

async fn store<S, E>(caller: &Caller, path: &str, terms: &Terms, content: S) -> Result<Written, ApiError>
where
    S: Stream<Item = Result<Bytes, E>> + Send,
    E: Into<BoxError>,
{
    let target = caller.resolve(path)?;
    let tag = write::file(&target, &caller.user, terms, content.map_err(Into::into)).await?;
    Ok(Written {
        name: name(&target),
        path: target.to_string_lossy().into_owned(),
        r#type: "file",
        metadata: terms.metadata.clone().into_map(),
        tag,
    })
}

fn name(path: &Path) -> String {
    path.file_name().unwrap_or_default().to_string_lossy().into_owned()
}

impl From<WriteError> for ApiError {
    fn from(error: WriteError) -> Self {
        let message = error.to_string();
        match error {
            WriteError::IsFolder(_)
            | WriteError::NotAFolder(_)
            | WriteError::Invalid { .. }
            | WriteError::Metadata { .. }
            | WriteError::Body(_) => Self::bad_request(message),
            WriteError::NoSpace => Self::new(http::StatusCode::INSUFFICIENT_STORAGE, message),
            WriteError::Refused(_) => Self::new(http::StatusCode::FORBIDDEN, message),
            WriteError::Changed(_) => Self::new(http::StatusCode::PRECONDITION_FAILED, message),
            WriteError::Failed { .. } => {
                tracing::warn!(error = message, "cannot write a file");
                Self::internal(message)
            }
        }
    }
}

impl From<MetadataError> for ApiError {
    fn from(error: MetadataError) -> Self {
        Self::bad_request(error.to_string())
    }
}
