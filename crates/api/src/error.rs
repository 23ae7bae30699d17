//! The one place where a failure becomes an answer.
//!
//! Handlers return [`ApiError`]. It travels to the outermost layer (`request.rs`) inside the response's extensions, since only
//! that layer knows the request's id, which the body must name and under which the log tells the whole story.

use std::error::Error as StdError;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::http::{HeaderValue, Response, StatusCode, header};
use axum::response::IntoResponse;
use sandbar_control::api_keys::ApiKeyError;
use sandbar_control::audit_trail::AuditError;
use sandbar_control::auth::AuthError;
use sandbar_control::builds::BuildError;
use sandbar_control::hosts::HostError;
use sandbar_control::oauth::OAuthError;
use sandbar_control::people::PeopleError;
use sandbar_control::sandboxes::SandboxError;
use sandbar_control::snapshots::SnapshotError;
use sandbar_control::stats::StatsError;
use sandbar_control::tags::TagError;
use sandbar_control::team_secrets::TeamSecretError;
use sandbar_control::teams::TeamError;
use sandbar_control::templates::TemplateError;
use sandbar_control::volumes::VolumeError;
use sandbar_types::id::Sandbox;
use sandbar_types::{ErrorCode, Id};
use serde::Serialize;
use utoipa::ToSchema;
use uuid::Uuid;

/// What the client hears where the fault is ours.
const INTERNAL_MESSAGE: &str = "an internal error occurred; the server's log has it under this request id";

/// What the client hears while the database is away.
const UNAVAILABLE_MESSAGE: &str = "the platform cannot answer at the moment: ask again";
/// A database that is restarted is back after so long.
const UNAVAILABLE_WAIT: Duration = Duration::from_secs(2);

/// A refused or failed request.
#[derive(Debug, Clone)]
pub(crate) struct ApiError {
    code: ErrorCode,
    status: StatusCode,
    message: String,
    /// How long to wait before the next attempt, where that is known.
    retry_after: Option<Duration>,
    /// The sandboxes that are in the way.
    sandbox_ids: Vec<Id<Sandbox>>,
    /// The whole of it, for the log. Never for the client.
    source: Option<Arc<dyn StdError + Send + Sync>>,
}

impl ApiError {
    pub(crate) fn new(code: ErrorCode, message: impl Into<String>) -> Self {
        let status = StatusCode::from_u16(code.http_status()).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        Self {
            code,
            status,
            message: message.into(),
            retry_after: None,
            sandbox_ids: Vec::new(),
            source: None,
        }
    }

    pub(crate) fn invalid(message: impl Into<String>) -> Self {
        Self::new(ErrorCode::InvalidRequest, message)
    }

    /// The same, which says how long to wait before the next attempt.
    pub(crate) fn retry_after(self, wait: Duration) -> Self {
        Self { retry_after: Some(wait), ..self }
    }

    /// The path is ours, the method is not: the one status that has no code of its own.
    pub(crate) fn method_not_allowed(message: impl Into<String>) -> Self {
        Self { status: StatusCode::METHOD_NOT_ALLOWED, ..Self::invalid(message) }
    }

    /// A typed error of `control`, whose `Display` is meant for the caller unless the fault is ours.
    pub(crate) fn from_typed(code: ErrorCode, error: impl StdError + Send + Sync + 'static) -> Self {
        let message = match code {
            ErrorCode::InternalError => INTERNAL_MESSAGE.to_owned(),
            ErrorCode::Unavailable => UNAVAILABLE_MESSAGE.to_owned(),
            _ => error.to_string(),
        };
        let retry_after = (code == ErrorCode::Unavailable).then_some(UNAVAILABLE_WAIT);
        Self { source: Some(Arc::new(error)), retry_after, ..Self::new(code, message) }
    }

    pub(crate) fn code(&self) -> ErrorCode {
        self.code
    }

    pub(crate) fn status(&self) -> StatusCode {
        self.status
    }

    pub(crate) fn message(&self) -> &str {
        &self.message
    }

    /// The body and status, now that the request's id is known.
    pub(crate) fn render(&self, request_id: Uuid) -> Response<Body> {
        let sandbox_ids = (!self.sandbox_ids.is_empty()).then(|| self.sandbox_ids.clone());
        let info = ErrorInfo { code: self.code, message: self.message.clone(), request_id, sandbox_ids };
        self.respond(&ErrorBody { error: info })
    }

    /// Status and headers around a body, which is another contract's where it is not ours.
    pub(crate) fn respond(&self, body: &impl Serialize) -> Response<Body> {
        let mut response = (self.status, axum::Json(body)).into_response();
        if self.status == StatusCode::UNAUTHORIZED {
            for scheme in ["X-API-Key", "Bearer"] {
                response.headers_mut().append(header::WWW_AUTHENTICATE, HeaderValue::from_static(scheme));
            }
        }
        if let Some(wait) = self.retry_after {
            // Whole seconds, rounded up: who waits as told is not refused again.
            let seconds = wait.as_secs() + u64::from(wait.subsec_nanos() > 0);
            response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from(seconds));
        }
        response
    }

    /// Tells the log, once: what is ours as an error, what is a host's as a warning, what is the client's in passing.
    pub(crate) fn log(&self) {
        let cause = self.source.as_deref().map(|source| Chain(source).to_string());
        let (code, cause) = (self.code.as_str(), cause.as_deref().unwrap_or(&self.message));
        match self.code {
            ErrorCode::InternalError => tracing::error!(code, cause, "request failed"),
            ErrorCode::AgentError
            | ErrorCode::Unavailable
            | ErrorCode::HostUnavailable
            | ErrorCode::NoHostsAvailable
            | ErrorCode::Timeout => tracing::warn!(code, cause, "request failed"),
            _ => tracing::debug!(code, cause, "request refused"),
        }
    }
}

impl fmt::Display for ApiError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.code, self.message)
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response<Body> {
        let mut response = self.status.into_response();
        response.extensions_mut().insert(self);
        response
    }
}

macro_rules! from_typed {
    ($($error:ty),* $(,)?) => {$(
        impl From<$error> for ApiError {
            fn from(error: $error) -> Self {
                Self::from_typed(error.code(), error)
            }
        }
    )*};
}

from_typed!(AuthError, SnapshotError, TagError, TemplateError);
from_typed!(ApiKeyError, AuditError, BuildError, StatsError, TeamError, TeamSecretError);

impl From<VolumeError> for ApiError {
    fn from(error: VolumeError) -> Self {
        match error {
            VolumeError::Sandbox(error) => error.into(),
            error => {
                let sandbox_ids = match &error {
                    VolumeError::InUse { sandbox, .. } | VolumeError::FilesInUse { sandbox, .. } => {
                        vec![*sandbox]
                    }
                    _ => Vec::new(),
                };
                Self { sandbox_ids, ..Self::from_typed(error.code(), error) }
            }
        }
    }
}

impl From<SandboxError> for ApiError {
    fn from(error: SandboxError) -> Self {
        let retry_after = error.retry_after();
        let sandbox_ids = match &error {
            SandboxError::VolumeInUse { sandbox, .. } => vec![*sandbox],
            _ => Vec::new(),
        };
        Self { retry_after, sandbox_ids, ..Self::from_typed(error.code(), error) }
    }
}

impl From<HostError> for ApiError {
    fn from(error: HostError) -> Self {
        let sandbox_ids = match &error {
            HostError::HasSandboxes { sandboxes } => sandboxes.clone(),
            _ => Vec::new(),
        };
        Self { sandbox_ids, ..Self::from_typed(error.code(), error) }
    }
}

impl From<PeopleError> for ApiError {
    fn from(error: PeopleError) -> Self {
        let retry_after = error.retry_after();
        Self { retry_after, ..Self::from_typed(error.code(), error) }
    }
}

impl From<OAuthError> for ApiError {
    fn from(error: OAuthError) -> Self {
        match error {
            OAuthError::People(error) => error.into(),
            error => Self::from_typed(error.code(), error),
        }
    }
}

/// An error and all that it came from, in one line.
struct Chain<'a>(&'a (dyn StdError + 'static));

impl fmt::Display for Chain<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)?;
        let mut next = self.0.source();
        while let Some(cause) = next {
            write!(f, ": {cause}")?;
            next = cause.source();
        }
        Ok(())
    }
}

/// Why one of several things that were asked for could not be done.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct ChildError {
    /// For programs.
    #[schema(schema_with = crate::schema::error_code)]
    code: ErrorCode,
    /// For people; may change at any time.
    message: String,
}

impl From<ApiError> for ChildError {
    fn from(error: ApiError) -> Self {
        // It is in no answer's extensions, so nobody else tells the log.
        error.log();
        Self { code: error.code, message: error.message }
    }
}

/// The body of every answer that is not a success.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Error)]
pub(crate) struct ErrorBody {
    error: ErrorInfo,
}

#[derive(Debug, Serialize, ToSchema)]
#[schema(as = ErrorInfo)]
struct ErrorInfo {
    /// For programs.
    #[schema(schema_with = crate::schema::error_code)]
    code: ErrorCode,
    /// For people; may change at any time.
    #[schema(example = "there is no sandbox sb-0192f0c1-5c4e-7a3b-9d2e-3f4a5b6c7d8e")]
    message: String,
    /// The request's id, as in the header `X-Request-Id` and in the server's log.
    request_id: Uuid,
    /// With `host_has_sandboxes`: which. With the `conflict` of a volume: who has it.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Vec<String>>)]
    sandbox_ids: Option<Vec<Id<Sandbox>>>,
}
