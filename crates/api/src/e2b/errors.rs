//! Refusals in E2B's form: `{"code": 404, "message": "..."}`, where the code is the status.

use axum::body::Body;
use axum::extract::Request;
use axum::http::{HeaderName, HeaderValue, Response, StatusCode, header};
use axum::middleware::Next;
use axum::response::IntoResponse;
use sandbar_types::ErrorCode;
use serde::Serialize;

use crate::error::ApiError;

/// Tells E2B's clients whether to ask again.
const SHOULD_RETRY: HeaderName = HeaderName::from_static("should-retry");

/// Why a request is refused.
#[derive(Debug)]
pub(super) enum Refusal {
    Error(ApiError),
    /// It would keep the disk alone.
    FilesystemOnly,
}

impl<E> From<E> for Refusal
where
    ApiError: From<E>,
{
    fn from(error: E) -> Self {
        Self::Error(error.into())
    }
}

/// What E2B calls a refusal, where it has a word for it.
#[derive(Debug, Clone, Copy)]
struct Word(&'static str);

impl IntoResponse for Refusal {
    fn into_response(self) -> Response<Body> {
        match self {
            Self::Error(error) => error.into_response(),
            Self::FilesystemOnly => {
                let message =
                    "pauses and snapshots keep a sandbox's memory here: memory=false is not supported";
                let mut response = ApiError::invalid(message).into_response();
                response.extensions_mut().insert(Word("snapshot_filesystem_only_disabled"));
                response
            }
        }
    }
}

/// Refuses what would keep or use the disk alone.
pub(super) fn with_memory(memory: Option<bool>) -> Result<(), Refusal> {
    if memory == Some(false) { Err(Refusal::FilesystemOnly) } else { Ok(()) }
}

/// The body of a refusal.
#[derive(Debug, Serialize)]
pub(super) struct ErrorBody {
    code: u16,
    message: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    error_code: Option<&'static str>,
}

impl ErrorBody {
    pub(super) fn of(error: &ApiError) -> Self {
        Self { code: error.status().as_u16(), message: error.message().to_owned(), error_code: None }
    }
}

/// A layer around E2B's routes: their refusals are told here, before the outermost layer tells them in our form.
pub(super) async fn in_their_form(request: Request, next: Next) -> Response<Body> {
    let mut response = next.run(request).await;
    let Some(error) = response.extensions_mut().remove::<ApiError>() else { return response };
    error.log();
    let word = response.extensions().get::<Word>().copied();
    let mut rendered = render(&error, word.map(|Word(word)| word));
    if let Some(allow) = response.headers_mut().remove(header::ALLOW) {
        rendered.headers_mut().insert(header::ALLOW, allow);
    }
    rendered
}

/// A refusal as E2B's clients read it.
pub(super) fn render(error: &ApiError, word: Option<&'static str>) -> Response<Body> {
    let mut response = error.respond(&ErrorBody { error_code: word, ..ErrorBody::of(error) });
    // They ask three times more wherever nothing says not to. Another host may take what this one cannot; what failed half way, or took too
    // long, is not better for being done again.
    let definitive = error.status() == StatusCode::INTERNAL_SERVER_ERROR
        || matches!(error.code(), ErrorCode::AgentError | ErrorCode::Timeout);
    if definitive {
        response.headers_mut().insert(SHOULD_RETRY, HeaderValue::from_static("false"));
    }
    response
}
