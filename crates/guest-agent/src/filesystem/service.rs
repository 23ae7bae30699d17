//! The RPCs of `filesystem.Filesystem`.

use std::path::Path;
use std::sync::Arc;

use buffa_types::google::protobuf::Timestamp;
use connectrpc::{ConnectError, RequestContext, Response, ServiceRequest, ServiceResult, ServiceStream};
use sandbar_proto::filesystem::{
    CreateWatcherRequest, CreateWatcherResponse, EntryInfo, FileType, Filesystem, GetWatcherEventsRequest,
    GetWatcherEventsResponse, ListDirRequest, ListDirResponse, MakeDirRequest, MakeDirResponse, MoveRequest,
    MoveResponse, RemoveRequest, RemoveResponse, RemoveWatcherRequest, RemoveWatcherResponse, StatRequest,
    StatResponse, WatchDirRequest, WatchDirResponse,
};

use super::entry::{Entry, Kind};
use super::tree::{self, TreeError};
use crate::caller::Caller;
use crate::files::{self, WriteError};
use crate::paths::PathError;
use crate::server::Agent;

/// The service.
pub(crate) struct FilesystemService {
    agent: Arc<Agent>,
}

impl FilesystemService {
    pub(crate) fn new(agent: Arc<Agent>) -> Self {
        Self { agent }
    }

    fn caller(&self, ctx: &RequestContext) -> Result<Caller, ConnectError> {
        Ok(Caller::of(ctx.headers(), &self.agent.state.current())?)
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
        _: RequestContext,
        _: ServiceRequest<'_, WatchDirRequest>,
    ) -> ServiceResult<ServiceStream<WatchDirResponse>> {
        Err(no_watches())
    }

    async fn create_watcher(
        &self,
        _: RequestContext,
        _: ServiceRequest<'_, CreateWatcherRequest>,
    ) -> ServiceResult<CreateWatcherResponse> {
        Err(no_watches())
    }

    async fn get_watcher_events(
        &self,
        _: RequestContext,
        _: ServiceRequest<'_, GetWatcherEventsRequest>,
    ) -> ServiceResult<GetWatcherEventsResponse> {
        Err(no_watches())
    }

    async fn remove_watcher(
        &self,
        _: RequestContext,
        _: ServiceRequest<'_, RemoveWatcherRequest>,
    ) -> ServiceResult<RemoveWatcherResponse> {
        Err(no_watches())
    }
}

fn no_watches() -> ConnectError {
    ConnectError::unimplemented("this agent does not watch folders")
}

async fn off_worker<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, TreeError> + Send + 'static,
) -> Result<T, ConnectError> {
    match tokio::task::spawn_blocking(work).await {
        Ok(outcome) => Ok(outcome?),
        Err(_) => Err(ConnectError::internal("the operation panicked")),
    }
}

fn info(entry: Entry) -> EntryInfo {
    let name = entry.name().to_string_lossy().into_owned();
    let kind = match entry.kind {
        Kind::File => FileType::FILE_TYPE_FILE,
        Kind::Folder => FileType::FILE_TYPE_DIRECTORY,
        Kind::DanglingLink => FileType::FILE_TYPE_SYMLINK,
        Kind::Other => FileType::FILE_TYPE_UNSPECIFIED,
    };
    let Entry {
        path,
        kind: _,
        size,
        mode,
        permissions,
        owner,
        group,
        modified: (seconds, nanos),
        target,
        metadata,
    } = entry;
    let modified =
        Timestamp { seconds, nanos: i32::try_from(nanos).unwrap_or_default(), ..Default::default() };
    EntryInfo {
        name,
        r#type: kind.into(),
        path: path.to_string_lossy().into_owned(),
        size: i64::try_from(size).unwrap_or(i64::MAX),
        mode,
        permissions,
        owner,
        group,
        modified_time: modified.into(),
        symlink_target: target.map(|target| target.to_string_lossy().into_owned()),
        metadata: metadata.into_iter().collect(),
        ..Default::default()
    }
}

impl From<PathError> for ConnectError {
    fn from(error: PathError) -> Self {
        Self::invalid_argument(error.to_string())
    }
}

impl From<TreeError> for ConnectError {
    fn from(error: TreeError) -> Self {
        let message = error.to_string();
        match error {
            TreeError::NotFound(_) => Self::not_found(message),
            TreeError::Exists(_) => Self::already_exists(message),
            TreeError::NotAFolder(_) | TreeError::IsRoot(_) | TreeError::Invalid { .. } => {
                Self::invalid_argument(message)
            }
            TreeError::TooMany(_) => Self::resource_exhausted(message),
            TreeError::Failed { .. } => Self::internal(message),
        }
    }
}

impl From<WriteError> for ConnectError {
    fn from(error: WriteError) -> Self {
        let message = error.to_string();
        match error {
            WriteError::IsFolder(_)
            | WriteError::NotAFolder(_)
            | WriteError::Invalid { .. }
            | WriteError::Metadata { .. }
            | WriteError::Body(_) => Self::invalid_argument(message),
            WriteError::NoSpace => Self::resource_exhausted(message),
            WriteError::Refused(_) => Self::permission_denied(message),
            WriteError::Failed { .. } => Self::internal(message),
        }
    }
}
