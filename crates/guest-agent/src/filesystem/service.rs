//! The RPCs of `filesystem.Filesystem`.

use std::collections::VecDeque;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use connectrpc::{ConnectError, RequestContext, Response, ServiceRequest, ServiceResult, ServiceStream};
use futures::{Stream, StreamExt, stream};
use sandbar_proto::filesystem::watch_dir_response::{self, Event as WatchEvent};
use sandbar_proto::filesystem::{
    CreateWatcherRequest, CreateWatcherResponse, Filesystem, FilesystemEvent, GetWatcherEventsRequest,
    GetWatcherEventsResponse, ListDirRequest, ListDirResponse, MakeDirRequest, MakeDirResponse, MoveRequest,
    MoveResponse, RemoveRequest, RemoveResponse, RemoveWatcherRequest, RemoveWatcherResponse, StatRequest,
    StatResponse, WatchDirRequest, WatchDirResponse,
};
use tokio::time::{Instant, timeout_at};

use super::tree::{self, TreeError};
use super::watch::{Depth, Entries, NetworkMounts, News, PolledWatchers, Spec, Watch};
use super::wire::{self, info};
use crate::caller::Caller;
use crate::files;
use crate::keepalive;
use crate::server::Agent;

/// The service.
pub(crate) struct FilesystemService {
    agent: Arc<Agent>,
    watchers: PolledWatchers,
}

impl FilesystemService {
    pub(crate) fn new(agent: Arc<Agent>) -> Self {
        Self { agent, watchers: PolledWatchers::new() }
    }

    fn caller(&self, ctx: &RequestContext) -> Result<Caller, ConnectError> {
        Ok(Caller::of(ctx.headers(), &self.agent.state.current())?)
    }

    /// What both kinds of watch ask for.
    fn spec(
        &self,
        ctx: &RequestContext,
        path: &str,
        recursive: bool,
        include_entry: bool,
        allow_network_mounts: bool,
    ) -> Result<Spec, ConnectError> {
        let caller = self.caller(ctx)?;
        let network_mounts =
            if allow_network_mounts { NetworkMounts::Allowed } else { NetworkMounts::Refused };
        Ok(Spec {
            folder: caller.resolve(path)?,
            user: caller.user,
            depth: if recursive { Depth::WholeTree } else { Depth::OwnEntries },
            entries: if include_entry { Entries::Included } else { Entries::LeftOut },
            network_mounts,
        })
    }
}

#[expect(
    refining_impl_trait,
    reason = "the trait's return types are opaque; naming ours is what implementing it means"
)]
impl Filesystem for FilesystemService {
    async fn stat(
        &self,
        ctx: RequestContext,
        request: ServiceRequest<'_, StatRequest>,
    ) -> ServiceResult<StatResponse> {
        let path = self.caller(&ctx)?.resolve(request.path)?;
        let entry = off_worker(move || tree::stat(&path)).await?;
        Response::ok(StatResponse { entry: info(entry).into(), ..Default::default() })
    }

    async fn list_dir(
        &self,
        ctx: RequestContext,
        request: ServiceRequest<'_, ListDirRequest>,
    ) -> ServiceResult<ListDirResponse> {
        let path = self.caller(&ctx)?.resolve(request.path)?;
        let depth = request.depth;
        let entries = off_worker(move || tree::list(&path, depth)).await?;
        Response::ok(ListDirResponse {
            entries: entries.into_iter().map(info).collect(),
            ..Default::default()
        })
    }

    async fn make_dir(
        &self,
        ctx: RequestContext,
        request: ServiceRequest<'_, MakeDirRequest>,
    ) -> ServiceResult<MakeDirResponse> {
        let caller = self.caller(&ctx)?;
        let path = caller.resolve(request.path)?;
        match tokio::fs::metadata(&path).await {
            Ok(metadata) if metadata.is_dir() => {
                return Err(ConnectError::already_exists(format!(
                    "directory already exists: {}",
                    path.display()
                )));
            }
            Ok(_) => {
                let message = format!("path already exists but it is not a directory: {}", path.display());
                return Err(ConnectError::invalid_argument(message));
            }
            Err(_) => files::make_dirs(&path, &caller.user).await?,
        }
        let entry = off_worker(move || tree::stat(&path)).await?;
        Response::ok(MakeDirResponse { entry: info(entry).into(), ..Default::default() })
    }

    async fn r#move(
        &self,
        ctx: RequestContext,
        request: ServiceRequest<'_, MoveRequest>,
    ) -> ServiceResult<MoveResponse> {
        let caller = self.caller(&ctx)?;
        let source = caller.resolve(request.source)?;
        let destination = caller.resolve(request.destination)?;
        // Looked at first, so that nothing is made for a source that is not there.
        tokio::fs::symlink_metadata(&source).await.map_err(TreeError::at(&source))?;
        files::make_dirs(destination.parent().unwrap_or(Path::new("/")), &caller.user).await?;
        let entry = off_worker(move || {
            tree::rename(&source, &destination)?;
            tree::stat(&destination)
        })
        .await?;
        Response::ok(MoveResponse { entry: info(entry).into(), ..Default::default() })
    }

    async fn remove(
        &self,
        ctx: RequestContext,
        request: ServiceRequest<'_, RemoveRequest>,
    ) -> ServiceResult<RemoveResponse> {
        let path = self.caller(&ctx)?.resolve(request.path)?;
        off_worker(move || tree::remove(&path)).await?;
        Response::ok(RemoveResponse::default())
    }

    async fn watch_dir(
        &self,
        ctx: RequestContext,
        request: ServiceRequest<'_, WatchDirRequest>,
    ) -> ServiceResult<ServiceStream<WatchDirResponse>> {
        let WatchDirRequest { path, recursive, include_entry, allow_network_mounts, .. } =
            request.to_owned_message();
        let spec = self.spec(&ctx, &path, recursive, include_entry, allow_network_mounts)?;
        let watch = Watch::open(spec, self.watchers.place()?).await?;
        let deadline = ctx.deadline().map(Instant::from_std);
        let events = follow(watch, keepalive::interval(&ctx), deadline);
        Ok(Response::stream(
            events.map(|event| Ok(WatchDirResponse { event: Some(event?), ..Default::default() })),
        ))
    }

    async fn create_watcher(
        &self,
        ctx: RequestContext,
        request: ServiceRequest<'_, CreateWatcherRequest>,
    ) -> ServiceResult<CreateWatcherResponse> {
        let CreateWatcherRequest { path, recursive, include_entry, allow_network_mounts, .. } =
            request.to_owned_message();
        let spec = self.spec(&ctx, &path, recursive, include_entry, allow_network_mounts)?;
        let watcher_id = self.watchers.create(spec).await?;
        Response::ok(CreateWatcherResponse { watcher_id, ..Default::default() })
    }

    async fn get_watcher_events(
        &self,
        _: RequestContext,
        request: ServiceRequest<'_, GetWatcherEventsRequest>,
    ) -> ServiceResult<GetWatcherEventsResponse> {
        let events = self.watchers.events(request.watcher_id).await?;
        Response::ok(GetWatcherEventsResponse {
            events: events.into_iter().map(wire::event).collect(),
            ..Default::default()
        })
    }

    async fn remove_watcher(
        &self,
        _: RequestContext,
        request: ServiceRequest<'_, RemoveWatcherRequest>,
    ) -> ServiceResult<RemoveWatcherResponse> {
        self.watchers.remove(request.watcher_id)?;
        Response::ok(RemoveWatcherResponse::default())
    }
}

/// A place in a watch's events.
enum Follow {
    Start,
    Events(VecDeque<FilesystemEvent>),
    Last(VecDeque<FilesystemEvent>),
    Over,
}

/// The events of a folder: one start, what happens, keepalives while nothing does.
fn follow(
    watch: Watch,
    keepalive: Duration,
    deadline: Option<Instant>,
) -> impl Stream<Item = Result<WatchEvent, ConnectError>> + Send {
    stream::unfold((Follow::Start, watch), move |(mut place, mut watch)| async move {
        loop {
            place = match place {
                Follow::Start => {
                    let start = watch_dir_response::StartEvent::default();
                    return Some((Ok(start.into()), (Follow::Events(VecDeque::new()), watch)));
                }
                Follow::Events(mut events) => match events.pop_front() {
                    Some(event) => return Some((Ok(event.into()), (Follow::Events(events), watch))),
                    None => match wait(&watch, keepalive, deadline).await {
                        Wait::Stirred => match watch.news().await {
                            Ok(News::Events(events)) => {
                                Follow::Events(events.into_iter().map(wire::event).collect())
                            }
                            Ok(News::Last(events)) => {
                                Follow::Last(events.into_iter().map(wire::event).collect())
                            }
                            Err(error) => return Some((Err(error.into()), (Follow::Over, watch))),
                        },
                        Wait::Silent => {
                            let alive = watch_dir_response::KeepAlive::default();
                            return Some((Ok(alive.into()), (Follow::Events(events), watch)));
                        }
                        Wait::OutOfTime => {
                            let error = ConnectError::deadline_exceeded("the stream's time is over");
                            return Some((Err(error), (Follow::Over, watch)));
                        }
                    },
                },
                Follow::Last(mut events) => match events.pop_front() {
                    Some(event) => return Some((Ok(event.into()), (Follow::Last(events), watch))),
                    None => return None,
                },
                Follow::Over => return None,
            };
        }
    })
}

/// What ended a wait for events.
enum Wait {
    Stirred,
    Silent,
    OutOfTime,
}

async fn wait(watch: &Watch, keepalive: Duration, deadline: Option<Instant>) -> Wait {
    let now = Instant::now();
    if deadline.is_some_and(|deadline| deadline <= now) {
        // Also where something always happens.
        return Wait::OutOfTime;
    }
    let silence = now + keepalive;
    let until = deadline.map_or(silence, |deadline| deadline.min(silence));
    match timeout_at(until, watch.stirs()).await {
        Ok(()) => Wait::Stirred,
        Err(_) if until == silence => Wait::Silent,
        Err(_) => Wait::OutOfTime,
    }
}

async fn off_worker<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, TreeError> + Send + 'static,
) -> Result<T, ConnectError> {
    match tokio::task::spawn_blocking(work).await {
        Ok(outcome) => Ok(outcome?),
        Err(_) => Err(ConnectError::internal("the operation panicked")),
    }
}
