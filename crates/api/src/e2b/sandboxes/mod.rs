//! `/sandboxes` and `/v2/sandboxes`.

pub(super) mod connect;
pub(super) mod create;
pub(super) mod fork;
pub(super) mod list;
pub(super) mod logs;
mod metadata;
pub(super) mod metrics;
pub(super) mod network;
pub(super) mod one;
pub(super) mod pause;
pub(super) mod snapshot;
pub(super) mod timeout;
mod view;

use sandbar_control::OpContext;
use sandbar_control::sandboxes::Sandbox;
use sandbar_types::{Id, id};

use super::names::no_sandbox;
use crate::AppState;
use crate::error::ApiError;

/// The team's sandbox, if it is one to E2B's clients: it has run, and has not ended.
async fn find(app: &AppState, ctx: &OpContext, id: Id<id::Sandbox>) -> Result<Sandbox, ApiError> {
    let sandbox = app.control.sandbox_get(ctx, id).await?;
    living(sandbox)
}

/// The same, once no change of it is under way.
async fn find_settled(app: &AppState, ctx: &OpContext, id: Id<id::Sandbox>) -> Result<Sandbox, ApiError> {
    let sandbox = find(app, ctx, id).await?;
    living(app.control.sandbox_settled(ctx, sandbox.id).await?)
}

fn living(sandbox: Sandbox) -> Result<Sandbox, ApiError> {
    match view::State::of(sandbox.status) {
        Some(_) => Ok(sandbox),
        None => Err(no_sandbox(&sandbox.id.e2b())),
    }
}
