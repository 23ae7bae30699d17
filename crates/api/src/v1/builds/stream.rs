//! A build's progress as it comes: server-sent events.

use std::convert::Infallible;
use std::time::Duration;

use axum::extract::State;
use axum::response::Sse;
use axum::response::sse::{Event, KeepAlive};
use futures::{Stream, StreamExt as _};
use sandbar_control::OpContext;
use sandbar_control::builds::{BuildFollower, BuildScope};
use sandbar_types::{Id, id};

use super::{Build, StepLog};
use crate::AppState;
use crate::auth::{Caller, PersonCaller};
use crate::error::ApiError;
use crate::extract::PathId;
use crate::schema::ReadRefusals;

/// A silent connection is not a dead one: something goes over it this often.
const KEEP_ALIVE: Duration = Duration::from_secs(15);

/// Follows a build of the team until it ends: events `log`, each with what a step wrote since the one before (a `StepLog`), and `build`, each with the
/// build as it now is. The last is a `build` that has ended.
#[utoipa::path(
    get,
    path = "/{id}/logs/stream",
    operation_id = "follow_build",
    tag = "builds",
    params(("id" = String, Path, description = "The build's id, `bld-...`")),
    responses(
        (status = 200, description = "Server-sent events", content_type = "text/event-stream", body = String),
        ReadRefusals,
    ),
    security(("api_key" = [])),
)]
pub(crate) async fn follow_build(
    State(app): State<AppState>,
    Caller(ctx): Caller,
    PathId(id): PathId<id::Build>,
) -> Result<Sse<impl Stream<Item = Result<Event, Infallible>>>, ApiError> {
    follow(&app, &ctx, BuildScope::Team, id).await
}

/// Follows a build of any team or of the platform until it ends.
#[utoipa::path(
    get,
    path = "/{id}/logs/stream",
    operation_id = "admin_follow_build",
    tag = "admin",
    params(("id" = String, Path, description = "The build's id, `bld-...`")),
    responses(
        (status = 200, description = "Server-sent events", content_type = "text/event-stream", body = String),
        ReadRefusals,
    ),
    security(("bearer" = [])),
)]
pub(crate) async fn admin_follow_build(
    State(app): State<AppState>,
    PersonCaller(ctx): PersonCaller,
    PathId(id): PathId<id::Build>,
) -> Result<Sse<impl Stream<Item = Result<Event, Infallible>>>, ApiError> {
    follow(&app, &ctx, BuildScope::Platform, id).await
}

async fn follow(
    app: &AppState,
    ctx: &OpContext,
    scope: BuildScope,
    id: Id<id::Build>,
) -> Result<Sse<impl Stream<Item = Result<Event, Infallible>> + use<>>, ApiError> {
    let follower = app.control.build_follow(ctx, scope, id).await?;
    let events = futures::stream::unfold(follower, |mut follower| async move {
        Some((next(&mut follower).await?, follower))
    });
    let events = events.flat_map(|events| futures::stream::iter(events.into_iter().map(Ok)));
    Ok(Sse::new(events).keep_alive(KeepAlive::new().interval(KEEP_ALIVE)))
}

/// What comes next. A failure ends the stream, so that who reads it knows that the build has not.
async fn next(follower: &mut BuildFollower) -> Option<Vec<Event>> {
    let progress = match follower.next().await {
        Ok(progress) => progress?,
        Err(error) => {
            ApiError::from(error).log();
            return None;
        }
    };
    let logs = progress.logs.into_iter().map(|log| event("log", &StepLog::from(log)));
    let build = event("build", &Build::from(progress.build));
    Some(logs.chain([build]).flatten().collect())
}

fn event(name: &str, data: &impl serde::Serialize) -> Option<Event> {
    // Numbers and strings: it cannot fail.
    Event::default().event(name).json_data(data).ok()
}
