//! Whom a request acts as, and the words for what is wrong with a path.

use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

use http::HeaderMap;

use super::FilesQuery;
use super::signature::{self, Operation};
use crate::auth::Credential;
use crate::caller::Caller;
use crate::error::ApiError;
use crate::paths::PathError;
use crate::state::Sandbox;
use crate::users::UserError;

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
