//! What a request names, whom it acts as, and the words for what is wrong with a path.

use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

use axum::extract::{FromRequestParts, Query};
use http::HeaderMap;
use http::request::Parts;
use serde::Deserialize;

use super::signature::{self, Operation};
use crate::auth::Credential;
use crate::caller::Caller;
use crate::error::ApiError;
use crate::paths::PathError;
use crate::state::Sandbox;
use crate::users::UserError;

/// What both methods take from the URL.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct FilesQuery {
    pub(super) path: Option<String>,
    pub(super) username: Option<String>,
    pub(super) signature: Option<String>,
    pub(super) signature_expiration: Option<i64>,
}

impl<S: Send + Sync> FromRequestParts<S> for FilesQuery {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, ApiError> {
        let Query(query) = Query::from_request_parts(parts, state)
            .await
            .map_err(|error| ApiError::bad_request(error.body_text()))?;
        Ok(query)
    }
}

/// Lets the request in, and finds out whom it acts as.
pub(super) fn admit(
    query: &FilesQuery,
    operation: Operation,
    credential: Credential,
    headers: &HeaderMap,
    sandbox: &Sandbox,
) -> Result<Caller, ApiError> {
    if credential == Credential::SignatureDue {
        // Without a token the gate lets nobody through to here.
        let token = sandbox.access_token.as_ref().ok_or_else(|| ApiError::unauthorized("not initialised"))?;
        signature::verify(query, operation, token, now_unix())
            .map_err(|error| ApiError::unauthorized(error.to_string()))?;
    }
    Ok(match query.username.as_deref() {
        Some(name) if !name.is_empty() => Caller::named(name, sandbox),
        _ => Caller::of(headers, sandbox),
    }?)
}

/// "path '...' ..." as the clients know it.
pub(super) fn about(path: &Path, what: &str) -> String {
    format!("path '{}' {what}", path.display())
}

fn now_unix() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_secs()).unwrap_or(i64::MAX)
}

impl From<UserError> for ApiError {
    fn from(error: UserError) -> Self {
        match error {
            UserError::Unknown(_) => Self::unauthorized(error.to_string()),
            UserError::Read { .. } => Self::internal(error.to_string()),
        }
    }
}

impl From<PathError> for ApiError {
    fn from(error: PathError) -> Self {
        Self::bad_request(error.to_string())
    }
}
