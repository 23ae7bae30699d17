//! Refusals in E2B's form: `{"code": 404, "message": "..."}`, where the code is the status.

use axum::body::Body;
use axum::extract::Request;
use axum::http::{HeaderName, HeaderValue, Response, StatusCode, header};
use axum::middleware::Next;
use sandbar_types::ErrorCode;
use serde::Serialize;

use crate::error::ApiError;

/// Tells E2B's clients whether to ask again.
const SHOULD_RETRY: HeaderName = HeaderName::from_static("should-retry");

/// The body of a refusal.
#[derive(Debug, Serialize)]
pub(super) struct ErrorBody {
    code: u16,
    message: String,
}

impl ErrorBody {
    pub(super) fn of(error: &ApiError) -> Self {
        Self { code: error.status().as_u16(), message: error.message().to_owned() }
    }
}

/// A layer around E2B's routes: their refusals are told here, before the outermost layer tells them in our form.
pub(super) async fn in_their_form(request: Request, next: Next) -> Response<Body> {
    let mut response = next.run(request).await;
    let Some(error) = response.extensions_mut().remove::<ApiError>() else { return response };
    error.log();
    let mut rendered = render(&error);
    if let Some(allow) = response.headers_mut().remove(header::ALLOW) {
        rendered.headers_mut().insert(header::ALLOW, allow);
    }
    rendered
}

/// A refusal as E2B's clients read it.
pub(super) fn render(error: &ApiError) -> Response<Body> {
    let mut response = error.respond(&ErrorBody::of(error));
    // They ask three times more wherever nothing says not to. Another host may take what this one cannot; what failed half way, or took too
    // long, is not better for being done again.
    let definitive = error.status() == StatusCode::INTERNAL_SERVER_ERROR
        || matches!(error.code(), ErrorCode::AgentError | ErrorCode::Timeout);
    if definitive {
        response.headers_mut().insert(SHOULD_RETRY, HeaderValue::from_static("false"));
    }
    response
}
