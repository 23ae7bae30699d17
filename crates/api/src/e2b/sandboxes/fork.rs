//! `POST /sandboxes/{id}/fork`.

use axum::Json;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};
use sandbar_control::sandboxes::NewFork;
use sandbar_types::TimeoutFrom;
use serde::{Deserialize, Serialize};

use super::create::some_time;
use super::find_settled;
use super::view::Sandbox;
use crate::AppState;
use crate::auth::Caller;
use crate::e2b::errors::ErrorBody;
use crate::e2b::names::PathSandbox;
use crate::error::ApiError;
use crate::extract::JsonBody;
use crate::v1::sandboxes::create::idempotency_key;

/// Seconds that a child lives where the caller does not say.
const DEFAULT_TIMEOUT_SEC: u32 = 15;

#[derive(Debug, Deserialize)]
pub(in crate::e2b) struct Fork {
    timeout: Option<u32>,
    count: Option<u32>,
}

/// One child, or why there is none.
#[derive(Debug, Serialize)]
#[serde(rename_all = "lowercase")]
pub(in crate::e2b) enum Forked {
    Sandbox(Sandbox),
    Error(ErrorBody),
}

/// Makes children of a running sandbox; it runs on, and its end stays where it is.
pub(in crate::e2b) async fn fork(
    State(app): State<AppState>,
    Caller(ctx): Caller,
    PathSandbox(id): PathSandbox,
    headers: HeaderMap,
    JsonBody(Fork { timeout, count }): JsonBody<Fork>,
) -> Result<(StatusCode, Json<Vec<Forked>>), ApiError> {
    let key = idempotency_key(&headers)?;
    let fork = NewFork {
        count: count.unwrap_or(1),
        timeout_sec: Some(some_time(timeout.unwrap_or(DEFAULT_TIMEOUT_SEC))?),
        on_timeout: None,
        timeout_from: Some(TimeoutFrom::Start),
    };
    let sandbox = find_settled(&app, &ctx, id).await?;
    let children = app.control.sandbox_fork(&ctx, &sandbox, fork, key.as_ref()).await?;
    let forked = children.into_iter().map(|child| match child {
        Ok(sandbox) => Forked::Sandbox(Sandbox::new(&app.control, &sandbox)),
        Err(error) => {
            let error = ApiError::from(error);
            // It is in no answer's extensions, so nobody else tells the log.
            error.log();
            Forked::Error(ErrorBody::of(&error))
        }
    });
    Ok((StatusCode::CREATED, Json(forked.collect())))
}
