//! `POST /v1/sandboxes/{id}/fork`.

use axum::Json;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};
use sandbar_control::sandboxes::{self, NewFork, SandboxError};
use sandbar_types::id;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::create::idempotency_key;
use super::{OnTimeout, Sandbox};
use crate::AppState;
use crate::auth::Caller;
use crate::error::{ApiError, ChildError};
use crate::extract::{JsonBody, PathId};
use crate::schema::CreateRefusals;

/// What to make of it.
#[derive(Debug, Deserialize, ToSchema)]
pub(crate) struct ForkSandbox {
    /// How many children.
    #[schema(minimum = 1, maximum = 20, default = 1)]
    count: Option<u32>,
    /// Seconds without activity after which a child ends; 0 = never. The sandbox's own, where it is left out.
    #[schema(minimum = 0, maximum = 2_592_000)]
    timeout_sec: Option<u32>,
    /// The sandbox's own, where it is left out.
    on_timeout: Option<OnTimeout>,
}

/// One child: a sandbox that runs, or why there is none.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub(crate) enum ForkedChild {
    /// It runs.
    Sandbox(Box<Sandbox>),
    /// It could not be made.
    Error(ChildError),
}

/// Makes children that go on from the same instant, each with its own disk, token, hostname, entropy and address.
///
/// The sandbox runs on; it stands still only while its memory is copied, and is `snapshotting` until the children run. Children keep its
/// metadata and environment. Each succeeds or fails by itself; a refusal of the whole means that there is none.
#[utoipa::path(
    post,
    path = "/{id}/fork",
    operation_id = "fork_sandbox",
    tag = "sandboxes",
    params(
        ("id" = String, Path, description = "The sandbox's id, `sb-...`"),
        ("Idempotency-Key" = Option<String>, Header, min_length = 1, max_length = 255,
            description = "The same key with the same body answers the same children again, and makes anew only those that \
                failed; with another body it is a `conflict`."),
    ),
    request_body(content = ForkSandbox, description = "May be left out: one child"),
    responses((status = 201, description = "One result for each child", body = Vec<ForkedChild>), CreateRefusals),
    security(("api_key" = [])),
)]
pub(crate) async fn fork_sandbox(
    State(app): State<AppState>,
    Caller(ctx): Caller,
    PathId(id): PathId<id::Sandbox>,
    headers: HeaderMap,
    JsonBody(body): JsonBody<ForkSandbox>,
) -> Result<(StatusCode, Json<Vec<ForkedChild>>), ApiError> {
    let key = idempotency_key(&headers)?;
    let ForkSandbox { count, timeout_sec, on_timeout } = body;
    let fork = NewFork {
        count: count.unwrap_or(1),
        timeout_sec,
        on_timeout: on_timeout.map(Into::into),
        timeout_from: None,
    };
    let sandbox = app.control.sandbox_get(&ctx, id).await?;
    let children = app.control.sandbox_fork(&ctx, &sandbox, fork, key.as_ref()).await?;
    Ok((StatusCode::CREATED, Json(children.into_iter().map(ForkedChild::from).collect())))
}

impl From<Result<sandboxes::Sandbox, SandboxError>> for ForkedChild {
    fn from(child: Result<sandboxes::Sandbox, SandboxError>) -> Self {
        match child {
            Ok(sandbox) => Self::Sandbox(Box::new(sandbox.into())),
            Err(error) => Self::Error(ApiError::from(error).into()),
        }
    }
}
