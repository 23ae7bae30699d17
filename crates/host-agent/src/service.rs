//! The RPC service: parses, calls the registry, answers. No decisions.

use std::num::NonZeroU64;
use std::sync::Arc;

use connectrpc::{InboundStream, RequestContext, Response, ServiceRequest, ServiceResult, ServiceStream};
use futures::StreamExt as _;
use sandbar_proto::host::{
    CommitTemplateRequest, CommitTemplateResponse, CreateSandboxRequest, CreateSandboxResponse,
    CreateTemplateRequest, CreateTemplateResponse, CreateVolumeRequest, CreateVolumeResponse,
    DeleteTemplateRequest, DeleteTemplateResponse, DeleteVolumeRequest, DeleteVolumeResponse,
    DestroySandboxRequest, DestroySandboxResponse, ExecRequest, ExecResponse, ExecStreamRequest,
    ExecStreamResponse, FlattenRootfsRequest, FlattenRootfsResponse, FlushSandboxMetricsRequest,
    FlushSandboxMetricsResponse, FollowSandboxLogsRequest, FollowSandboxLogsResponse, ForkSandboxRequest,
    ForkSandboxResponse, GetHealthRequest, GetHealthResponse, GetNetworkDenialsRequest,
    GetNetworkDenialsResponse, GetSandboxLogsRequest, GetSandboxLogsResponse, GetSandboxMetricsRequest,
    GetSandboxMetricsResponse, HostService, ImportImageRequest, ImportImageResponse, KillProcessRequest,
    KillProcessResponse, ListFolderRequest, ListFolderResponse, ListProcessesRequest, ListProcessesResponse,
    ListSandboxesRequest, ListSandboxesResponse, ListTemplatesRequest, ListTemplatesResponse,
    ListVolumesRequest, ListVolumesResponse, MakeFolderRequest, MakeFolderResponse, OpenTemplateRequest,
    OpenTemplateResponse, PauseAllRequest, PauseAllResponse, PauseSandboxRequest, PauseSandboxResponse,
    PingSandboxRequest, PingSandboxResponse, ReadFileRequest, ReadFileResponse, ReadTemplatePartRequest,
    ReadTemplatePartResponse, ReceiveTemplateRequest, ReceiveTemplateResponse, RefuseResumesRequest,
    RefuseResumesResponse, RemovePathRequest, RemovePathResponse, ResumeSandboxRequest,
    ResumeSandboxResponse, SetDeadlineRequest, SetDeadlineResponse, SetNetworkPolicyRequest,
    SetNetworkPolicyResponse, SnapshotSandboxRequest, SnapshotSandboxResponse, TunnelRequest, TunnelResponse,
    VerifySandboxRequest, VerifySandboxResponse, VerifyTemplateRequest, VerifyTemplateResponse,
    WriteFileRequest, WriteFileResponse, WriteTemplatePartRequest, WriteTemplatePartResponse,
    exec_stream_request, import_image_request, write_file_request,
};
use sandbar_storage::StoreError;
use sandbar_trace::FutureExt as _;
use sandbar_types::id::{Host, Id};
use sandbar_types::{MetricsRange, limits};
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;

use crate::error::Error;
use crate::fork::{self, Forked};
use crate::journal::PauseReason;
use crate::registry::Registry;
use crate::resources::{Resources, blocking};
use crate::sandbox::{
    Awakening, CreateRequest, DeadlineChange, Extent, Order, Resume, Size, State, Target, Visit,
};
use crate::template::{self, TemplateRequest};
use crate::wire::{self, describe, describe_template, parse};
use crate::{
    arrivals, exec, files, import, logs_wire, network_wire, processes, snapshot, tree, tunnel, volumes,
};

/// The host agent's service.
pub(crate) struct Service {
    pub(crate) host_id: Id<Host>,
    pub(crate) registry: Registry,
    pub(crate) resources: Arc<Resources>,
    /// Streams that wait for what may never come end with the agent.
    pub(crate) shutdown: CancellationToken,
}

#[expect(refining_impl_trait, reason = "the trait's opaque types are spelled out as what they are")]
impl HostService for Service {
    async fn get_health(
        &self,
        _context: RequestContext,
        _request: ServiceRequest<'_, GetHealthRequest>,
    ) -> ServiceResult<GetHealthResponse> {
        let vmm = self.resources.vmm.compatibility();
        Response::ok(GetHealthResponse {
            host_id: self.host_id.to_string(),
            version: env!("CARGO_PKG_VERSION").into(),
            vmm: vmm.vmm.to_string(),
            vmm_version: vmm.build.clone(),
            inventory_generation: self.resources.inventory.generation(),
            warm_pool: wire::warm_pool(self.resources.spares.counts()).into(),
            ..Default::default()
        })
    }

    async fn list_sandboxes(
        &self,
        _context: RequestContext,
        _request: ServiceRequest<'_, ListSandboxesRequest>,
    ) -> ServiceResult<ListSandboxesResponse> {
        // The generation first: a change between the two is then seen as one that has not been listed yet.
        let inventory_generation = self.resources.inventory.generation();
        let sandboxes = self.registry.all().iter().map(describe).collect();
        let warm_pool = wire::warm_pool(self.resources.spares.counts()).into();
        Response::ok(ListSandboxesResponse {
            sandboxes,
            inventory_generation,
            warm_pool,
            ..Default::default()
        })
    }

    async fn create_sandbox(
        &self,
        _context: RequestContext,
        request: ServiceRequest<'_, CreateSandboxRequest>,
    ) -> ServiceResult<CreateSandboxResponse> {
        let request = request.to_owned_message();
        if request.access_token.is_empty() {
            return Err(Error::BadInput("access_token is missing".into()).into());
        }
        let deadline = wire::new_deadline(request.timeout_sec, request.on_timeout, request.timeout_from)?;
        let request = CreateRequest {
            id: parse(&request.id)?,
            template_id: parse(&request.template_id)?,
            size: Size { vcpus: wire::some(request.vcpus), memory_mb: wire::some(request.memory_mb) },
            access_token: request.access_token,
            env: (!request.keep_environment).then(|| request.env.into_iter().collect()),
            secrets: (!request.keep_environment).then(|| request.secrets.into_iter().collect()),
            user: Some(request.default_user).filter(|user| !user.is_empty()),
            workdir: Some(request.default_workdir).filter(|workdir| !workdir.is_empty()),
            deadline,
            hostname: request.hostname,
            network: network_wire::policy(request.network.into_option())?,
            volumes: volumes::mounts(request.volumes)?,
            row_generation: request.row_generation,
        };
        let handle = self.registry.create(request).await?;
        Response::ok(CreateSandboxResponse { sandbox: describe(&handle).into(), ..Default::default() })
    }

    async fn destroy_sandbox(
        &self,
        _context: RequestContext,
        request: ServiceRequest<'_, DestroySandboxRequest>,
    ) -> ServiceResult<DestroySandboxResponse> {
        let existed = self.registry.destroy(parse(request.id)?).await?;
        Response::ok(DestroySandboxResponse { existed, ..Default::default() })
    }

    async fn ping_sandbox(
        &self,
        _context: RequestContext,
        request: ServiceRequest<'_, PingSandboxRequest>,
    ) -> ServiceResult<PingSandboxResponse> {
        let handle = self.registry.get(parse(request.id)?)?;
        let visit = handle.enter().await?;
        visit.guest.health().await?;
        drop(visit);
        Response::ok(PingSandboxResponse { sandbox: describe(&handle).into(), ..Default::default() })
    }

    async fn exec(
        &self,
        _context: RequestContext,
        request: ServiceRequest<'_, ExecRequest>,
    ) -> ServiceResult<ExecResponse> {
        let request = request.to_owned_message();
        let mut visit = self.registry.get(parse(&request.id)?)?.enter().await?;
        let guest = visit.guest.clone();
        tokio::select! {
            output = exec::run(&guest, &request) => Response::ok(output?),
            ended = visit.ended() => Err(ended.into()),
        }
    }

    async fn exec_stream(
        &self,
        _context: RequestContext,
        mut requests: InboundStream<ExecStreamRequest>,
    ) -> ServiceResult<ServiceStream<ExecStreamResponse>> {
        let first = requests.next().await.transpose()?.and_then(|r| r.to_owned_message().request);
        let events = match first {
            Some(exec_stream_request::Request::Start(start)) => {
                let visit = self.registry.get(parse(&start.id)?)?.enter().await?;
                exec::stream(visit, *start, requests).await?
            }
            Some(exec_stream_request::Request::Connect(connect)) => {
                let visit = self.registry.get(parse(&connect.id)?)?.enter().await?;
                exec::connect(visit, *connect, requests).await?
            }
            _ => {
                let needed = "the first request must start a command or connect to one";
                return Err(Error::BadInput(needed.into()).into());
            }
        };
        Ok(Response::stream(ReceiverStream::new(events)))
    }

    async fn list_processes(
        &self,
        _context: RequestContext,
        request: ServiceRequest<'_, ListProcessesRequest>,
    ) -> ServiceResult<ListProcessesResponse> {
        let mut visit = self.registry.get(parse(request.id)?)?.enter().await?;
        let guest = visit.guest.clone();
        let processes = or_ended(&mut visit, processes::list(&guest)).await?;
        Response::ok(ListProcessesResponse { processes, ..Default::default() })
    }

    async fn kill_process(
        &self,
        _context: RequestContext,
        request: ServiceRequest<'_, KillProcessRequest>,
    ) -> ServiceResult<KillProcessResponse> {
        let KillProcessRequest { id, process, .. } = request.to_owned_message();
        let mut visit = self.registry.get(parse(&id)?)?.enter().await?;
        let guest = visit.guest.clone();
        let wanted = process.into_option().and_then(|process| process.selector);
        or_ended(&mut visit, processes::kill(&guest, wanted)).await?;
        Response::ok(KillProcessResponse::default())
    }

    async fn list_folder(
        &self,
        _context: RequestContext,
        request: ServiceRequest<'_, ListFolderRequest>,
    ) -> ServiceResult<ListFolderResponse> {
        let ListFolderRequest { id, path, user, depth, .. } = request.to_owned_message();
        let mut visit = self.registry.get(parse(&id)?)?.enter().await?;
        let guest = visit.guest.clone();
        let entries = or_ended(&mut visit, tree::list(&guest, path, &user, depth)).await?;
        Response::ok(ListFolderResponse { entries, ..Default::default() })
    }

    async fn make_folder(
        &self,
        _context: RequestContext,
        request: ServiceRequest<'_, MakeFolderRequest>,
    ) -> ServiceResult<MakeFolderResponse> {
        let MakeFolderRequest { id, path, user, .. } = request.to_owned_message();
        let mut visit = self.registry.get(parse(&id)?)?.enter().await?;
        let guest = visit.guest.clone();
        let entry = or_ended(&mut visit, tree::make(&guest, path, &user)).await?;
        Response::ok(MakeFolderResponse { entry: entry.into(), ..Default::default() })
    }

    async fn remove_path(
        &self,
        _context: RequestContext,
        request: ServiceRequest<'_, RemovePathRequest>,
    ) -> ServiceResult<RemovePathResponse> {
        let RemovePathRequest { id, path, user, .. } = request.to_owned_message();
        let mut visit = self.registry.get(parse(&id)?)?.enter().await?;
        let guest = visit.guest.clone();
        or_ended(&mut visit, tree::remove(&guest, path, &user)).await?;
        Response::ok(RemovePathResponse::default())
    }

    async fn write_file(
        &self,
        _context: RequestContext,
        mut requests: InboundStream<WriteFileRequest>,
    ) -> ServiceResult<WriteFileResponse> {
        let first = requests.next().await.transpose()?.and_then(|r| r.to_owned_message().request);
        let Some(write_file_request::Request::Open(open)) = first else {
            return Err(Error::BadInput("the first request must open a file".into()).into());
        };
        let mut visit = self.registry.get(parse(&open.id)?)?.enter().await?;
        let guest = visit.guest.clone();
        tokio::select! {
            written = files::write(&guest, &open, requests) => Response::ok(written?),
            ended = visit.ended() => Err(ended.into()),
        }
    }

    async fn read_file(
        &self,
        _context: RequestContext,
        request: ServiceRequest<'_, ReadFileRequest>,
    ) -> ServiceResult<ServiceStream<ReadFileResponse>> {
        let request = request.to_owned_message();
        let visit = self.registry.get(parse(&request.id)?)?.enter().await?;
        Ok(Response::stream(files::read(visit, &request.path, &request.user).await?))
    }

    async fn tunnel(
        &self,
        _context: RequestContext,
        mut requests: InboundStream<TunnelRequest>,
    ) -> ServiceResult<ServiceStream<TunnelResponse>> {
        let first = requests.next().await.transpose()?.map(|request| request.to_owned_message());
        let open = first.and_then(|request| request.open.into_option());
        let open = open.ok_or_else(|| Error::BadInput("the first request must open a port".into()))?;
        let port = u16::try_from(open.port).ok().filter(|port| *port != 0);
        let port = port.ok_or_else(|| Error::BadInput("the port makes no sense".into()))?;
        let visit = self.registry.get(parse(&open.id)?)?.enter_soon().await?;
        Ok(Response::stream(tunnel::open(visit, port, requests).await?))
    }

    async fn create_template(
        &self,
        _context: RequestContext,
        request: ServiceRequest<'_, CreateTemplateRequest>,
    ) -> ServiceResult<CreateTemplateResponse> {
        let request = TemplateRequest {
            id: parse(request.id)?,
            image: request.image.to_owned(),
            vcpus: request.vcpus,
            memory_mb: request.memory_mb,
        };
        let resources = Arc::clone(&self.resources);
        let work = async move { template::create(&resources, &request).await };
        let template = to_the_end("make the template", work).await?;
        Response::ok(CreateTemplateResponse {
            template: describe_template(&template).into(),
            ..Default::default()
        })
    }

    async fn import_image(
        &self,
        _context: RequestContext,
        mut requests: InboundStream<ImportImageRequest>,
    ) -> ServiceResult<ServiceStream<ImportImageResponse>> {
        let first = requests.next().await.transpose()?.and_then(|r| r.to_owned_message().request);
        let Some(import_image_request::Request::Start(start)) = first else {
            return Err(Error::BadInput("the first request must start an import".into()).into());
        };
        let replies = import::start(Arc::clone(&self.resources), *start, requests)?;
        Ok(Response::stream(ReceiverStream::new(replies)))
    }

    async fn list_templates(
        &self,
        _context: RequestContext,
        _request: ServiceRequest<'_, ListTemplatesRequest>,
    ) -> ServiceResult<ListTemplatesResponse> {
        let store = self.resources.store.clone();
        let templates =
            blocking("list the templates", move || store.templates().map_err(Error::from)).await?;
        let templates = templates.iter().map(describe_template).collect();
        Response::ok(ListTemplatesResponse { templates, ..Default::default() })
    }

    async fn pause_sandbox(
        &self,
        _context: RequestContext,
        request: ServiceRequest<'_, PauseSandboxRequest>,
    ) -> ServiceResult<PauseSandboxResponse> {
        let PauseSandboxRequest { id, mode, .. } = request.to_owned_message();
        let (handle, mode) = (self.registry.get(parse(&id)?)?, wire::pause_mode(mode));
        handle.ask(|reply| Order::Pause(PauseReason::Requested, mode, reply)).await?;
        Response::ok(PauseSandboxResponse { sandbox: describe(&handle).into(), ..Default::default() })
    }

    async fn resume_sandbox(
        &self,
        _context: RequestContext,
        request: ServiceRequest<'_, ResumeSandboxRequest>,
    ) -> ServiceResult<ResumeSandboxResponse> {
        let request = request.to_owned_message();
        let handle = self.registry.get(parse(&request.id)?)?;
        request.timeout_sec.map_or(Ok(()), wire::check_timeout)?;
        let change = DeadlineChange {
            timeout_sec: request.timeout_sec,
            on_timeout: wire::on_timeout(request.on_timeout),
            from: wire::timeout_from(request.timeout_from),
            extent: Extent::Any,
        };
        let awakening = if request.reboot { Awakening::Reboot } else { Awakening::AsKept };
        let row_generation = NonZeroU64::new(request.row_generation);
        let resume = Resume { deadline: change, awakening, row_generation };
        handle.ask(|reply| Order::Resume(resume, reply)).await?;
        Response::ok(ResumeSandboxResponse { sandbox: describe(&handle).into(), ..Default::default() })
    }

    async fn refuse_resumes(
        &self,
        _context: RequestContext,
        request: ServiceRequest<'_, RefuseResumesRequest>,
    ) -> ServiceResult<RefuseResumesResponse> {
        let (handle, row_generation) = (self.registry.get(parse(request.id)?)?, request.row_generation);
        handle.ask(|reply| Order::RefuseResumes(row_generation, reply)).await?;
        Response::ok(RefuseResumesResponse { sandbox: describe(&handle).into(), ..Default::default() })
    }

    async fn set_deadline(
        &self,
        _context: RequestContext,
        request: ServiceRequest<'_, SetDeadlineRequest>,
    ) -> ServiceResult<SetDeadlineResponse> {
        let request = request.to_owned_message();
        let handle = self.registry.get(parse(&request.id)?)?;
        wire::check_timeout(request.timeout_sec)?;
        let change = DeadlineChange {
            timeout_sec: Some(request.timeout_sec),
            on_timeout: wire::on_timeout(request.on_timeout),
            from: wire::timeout_from(request.timeout_from),
            extent: if request.longer_only { Extent::LongerOnly } else { Extent::Any },
        };
        handle.ask(|reply| Order::SetDeadline(change, reply)).await?;
        Response::ok(SetDeadlineResponse { sandbox: describe(&handle).into(), ..Default::default() })
    }

    async fn set_network_policy(
        &self,
        _context: RequestContext,
        request: ServiceRequest<'_, SetNetworkPolicyRequest>,
    ) -> ServiceResult<SetNetworkPolicyResponse> {
        let request = request.to_owned_message();
        let handle = self.registry.get(parse(&request.id)?)?;
        let policy =
            request.policy.into_option().ok_or_else(|| Error::BadInput("policy is missing".into()))?;
        let policy = network_wire::policy(Some(policy))?;
        handle.ask(|reply| Order::SetNetwork(policy, reply)).await?;
        Response::ok(SetNetworkPolicyResponse { sandbox: describe(&handle).into(), ..Default::default() })
    }

    async fn get_network_denials(
        &self,
        _context: RequestContext,
        request: ServiceRequest<'_, GetNetworkDenialsRequest>,
    ) -> ServiceResult<GetNetworkDenialsResponse> {
        let handle = self.registry.get(parse(request.id)?)?;
        let denials = handle.ask(Order::NetworkDenials).await?;
        Response::ok(network_wire::denials(&handle.view().network, denials))
    }

    async fn snapshot_sandbox(
        &self,
        _context: RequestContext,
        request: ServiceRequest<'_, SnapshotSandboxRequest>,
    ) -> ServiceResult<SnapshotSandboxResponse> {
        let (sandbox, template) = (parse(request.id)?, parse(request.template_id)?);
        let target = if request.own_pause { Target::OwnPause(template) } else { Target::Snapshot(template) };
        let registry = self.registry.clone();
        let work = async move { snapshot::snapshot(&registry, sandbox, target, template).await };
        let (template, stall) = to_the_end("keep the snapshot", work).await?;
        Response::ok(SnapshotSandboxResponse {
            template: describe_template(&template).into(),
            stall_ms: wire::milliseconds(stall),
            ..Default::default()
        })
    }

    async fn flatten_rootfs(
        &self,
        _context: RequestContext,
        request: ServiceRequest<'_, FlattenRootfsRequest>,
    ) -> ServiceResult<FlattenRootfsResponse> {
        let (sandbox, template) = (parse(request.id)?, parse(request.template_id)?);
        let registry = self.registry.clone();
        let work = async move { snapshot::flatten(&registry, sandbox, template).await };
        let template = to_the_end("keep the disk", work).await?;
        Response::ok(FlattenRootfsResponse {
            template: describe_template(&template).into(),
            ..Default::default()
        })
    }

    async fn fork_sandbox(
        &self,
        _context: RequestContext,
        request: ServiceRequest<'_, ForkSandboxRequest>,
    ) -> ServiceResult<ForkSandboxResponse> {
        let request = request.to_owned_message();
        let source = parse(&request.id)?;
        let handle = self.registry.get(source)?;
        let (template_id, network) = (handle.template_id, handle.view().network);
        let children = request.children.into_iter().map(|child| wire::child(child, template_id, &network));
        let children: Vec<_> = children.collect::<Result<_, Error>>()?;
        if !limits::FORK_COUNT.contains(&u32::try_from(children.len()).unwrap_or(u32::MAX)) {
            return Err(Error::BadInput("the number of children is out of bounds".into()).into());
        }
        let registry = self.registry.clone();
        let work = async move { fork::fork(&registry, source, children).await };
        let Forked { children, stall } = to_the_end("make the children", work).await?;
        Response::ok(ForkSandboxResponse {
            children: children.into_iter().map(|(id, made)| wire::child_result(id, made)).collect(),
            stall_ms: wire::milliseconds(stall),
            ..Default::default()
        })
    }

    async fn pause_all(
        &self,
        _context: RequestContext,
        request: ServiceRequest<'_, PauseAllRequest>,
    ) -> ServiceResult<PauseAllResponse> {
        tracing::warn!(reason = request.reason, "all sandboxes are paused");
        let registry = self.registry.clone();
        let (paused, failed) =
            to_the_end("pause all sandboxes", async move { Ok(registry.pause_all().await) }).await?;
        Response::ok(PauseAllResponse { paused, failed, ..Default::default() })
    }

    async fn delete_template(
        &self,
        _context: RequestContext,
        request: ServiceRequest<'_, DeleteTemplateRequest>,
    ) -> ServiceResult<DeleteTemplateResponse> {
        let (store, id) = (self.resources.store.clone(), parse(request.id)?);
        let resources = Arc::clone(&self.resources);
        let existed = blocking("delete the template", move || {
            let existed = !matches!(store.template(id), Err(StoreError::UnknownTemplate { .. }));
            resources.arrivals.forget(id);
            store.delete_template(id)?;
            Ok(existed)
        });
        let existed = existed.await?;
        // They end by themselves; nobody waits for that.
        self.resources.spares.forget(id);
        Response::ok(DeleteTemplateResponse { existed, ..Default::default() })
    }

    async fn open_template(
        &self,
        _context: RequestContext,
        request: ServiceRequest<'_, OpenTemplateRequest>,
    ) -> ServiceResult<OpenTemplateResponse> {
        let (store, id) = (self.resources.store.clone(), parse(request.id)?);
        Response::ok(blocking("look at the template", move || arrivals::open(&store, id)).await?)
    }

    async fn read_template_part(
        &self,
        _context: RequestContext,
        request: ServiceRequest<'_, ReadTemplatePartRequest>,
    ) -> ServiceResult<ReadTemplatePartResponse> {
        let (store, id) = (self.resources.store.clone(), parse(request.id)?);
        let (file, index) = (request.file.to_owned(), request.index);
        let read = move || arrivals::read_part(&store, id, &file, index);
        Response::ok(blocking("read a part of a template", read).await?)
    }

    async fn receive_template(
        &self,
        _context: RequestContext,
        request: ServiceRequest<'_, ReceiveTemplateRequest>,
    ) -> ServiceResult<ReceiveTemplateResponse> {
        Response::ok(arrivals::receive(&self.resources, request.to_owned_message()).await?)
    }

    async fn write_template_part(
        &self,
        _context: RequestContext,
        request: ServiceRequest<'_, WriteTemplatePartRequest>,
    ) -> ServiceResult<WriteTemplatePartResponse> {
        arrivals::write_part(&self.resources, request.to_owned_message()).await?;
        Response::ok(WriteTemplatePartResponse::default())
    }

    async fn commit_template(
        &self,
        _context: RequestContext,
        request: ServiceRequest<'_, CommitTemplateRequest>,
    ) -> ServiceResult<CommitTemplateResponse> {
        let (resources, id) = (Arc::clone(&self.resources), parse(request.id)?);
        let work = async move { arrivals::commit(&resources, id).await };
        let template = to_the_end("publish the template", work).await?;
        Response::ok(CommitTemplateResponse {
            template: describe_template(&template).into(),
            ..Default::default()
        })
    }

    async fn verify_template(
        &self,
        _context: RequestContext,
        request: ServiceRequest<'_, VerifyTemplateRequest>,
    ) -> ServiceResult<VerifyTemplateResponse> {
        let (store, id) = (self.resources.store.clone(), parse(request.id)?);
        let bytes = blocking("verify the template", move || Ok(store.template(id)?.verify()?)).await?;
        Response::ok(VerifyTemplateResponse { bytes, ..Default::default() })
    }

    async fn verify_sandbox(
        &self,
        _context: RequestContext,
        request: ServiceRequest<'_, VerifySandboxRequest>,
    ) -> ServiceResult<VerifySandboxResponse> {
        let handle = self.registry.get(parse(request.id)?)?;
        let state = handle.view().state;
        if state != State::Paused {
            let refusal = "only a paused sandbox's files can be verified";
            return Err(Error::InvalidState { id: handle.id, state, refusal }.into());
        }
        let (store, id) = (self.resources.store.clone(), handle.id);
        let bytes = blocking("verify the pause", move || Ok(store.verify_paused(id)?)).await?;
        Response::ok(VerifySandboxResponse { bytes, ..Default::default() })
    }

    async fn get_sandbox_metrics(
        &self,
        _context: RequestContext,
        request: ServiceRequest<'_, GetSandboxMetricsRequest>,
    ) -> ServiceResult<GetSandboxMetricsResponse> {
        let request = request.to_owned_message();
        let figures = &self.registry.get(parse(&request.id)?)?.figures;
        let points = figures.points(wire::metrics_range(request.range));
        let points = points.into_iter().map(wire::point).collect();
        Response::ok(GetSandboxMetricsResponse { points, ..Default::default() })
    }

    async fn flush_sandbox_metrics(
        &self,
        _context: RequestContext,
        request: ServiceRequest<'_, FlushSandboxMetricsRequest>,
    ) -> ServiceResult<FlushSandboxMetricsResponse> {
        let figures = &self.registry.get(parse(request.id)?)?.figures;
        let tiers = MetricsRange::ALL.map(|range| wire::tier(range, figures.points_to_keep(range)));
        Response::ok(FlushSandboxMetricsResponse { tiers: tiers.into(), ..Default::default() })
    }

    async fn get_sandbox_logs(
        &self,
        _context: RequestContext,
        request: ServiceRequest<'_, GetSandboxLogsRequest>,
    ) -> ServiceResult<GetSandboxLogsResponse> {
        let request = request.to_owned_message();
        let log = self.registry.get(parse(&request.id)?)?.log;
        // A page reads the whole log, and the disk is everybody's.
        let turn = self.resources.log_reads.acquire().await.map_err(Error::internal("wait for a turn"))?;
        let page = log.page(logs_wire::page_request(request)).await?;
        drop(turn);
        Response::ok(logs_wire::page(page))
    }

    async fn follow_sandbox_logs(
        &self,
        _context: RequestContext,
        request: ServiceRequest<'_, FollowSandboxLogsRequest>,
    ) -> ServiceResult<ServiceStream<FollowSandboxLogsResponse>> {
        let FollowSandboxLogsRequest { id, filter, after, .. } = request.to_owned_message();
        let log = self.registry.get(parse(&id)?)?.log;
        let follower = log.follow(logs_wire::filter(filter.into_option()), after);
        Ok(Response::stream(logs_wire::stream(follower, self.shutdown.clone())))
    }

    async fn create_volume(
        &self,
        _context: RequestContext,
        request: ServiceRequest<'_, CreateVolumeRequest>,
    ) -> ServiceResult<CreateVolumeResponse> {
        let (resources, id, size) = (Arc::clone(&self.resources), parse(request.id)?, request.size_bytes);
        let work = async move { volumes::create(&resources, id, size).await };
        let volume = to_the_end("make the volume", work).await?;
        Response::ok(CreateVolumeResponse { volume: volume.into(), ..Default::default() })
    }

    async fn delete_volume(
        &self,
        _context: RequestContext,
        request: ServiceRequest<'_, DeleteVolumeRequest>,
    ) -> ServiceResult<DeleteVolumeResponse> {
        let (resources, id) = (Arc::clone(&self.resources), parse(request.id)?);
        let work = async move { volumes::delete(&resources, id).await };
        let existed = to_the_end("remove the volume", work).await?;
        Response::ok(DeleteVolumeResponse { existed, ..Default::default() })
    }

    async fn list_volumes(
        &self,
        _context: RequestContext,
        _request: ServiceRequest<'_, ListVolumesRequest>,
    ) -> ServiceResult<ListVolumesResponse> {
        let volumes = volumes::list(&self.resources).await?;
        Response::ok(ListVolumesResponse { volumes, ..Default::default() })
    }
}

/// What a guest answers, unless its sandbox ends first: a connection into a network that is gone says nothing.
async fn or_ended<T>(visit: &mut Visit, answer: impl Future<Output = Result<T, Error>>) -> Result<T, Error> {
    tokio::select! {
        answer = answer => answer,
        ended = visit.ended() => Err(ended),
    }
}

/// Does work that is finished, or taken back, whether or not the caller waits.
async fn to_the_end<T: Send + 'static>(
    step: &'static str,
    work: impl Future<Output = Result<T, Error>> + Send + 'static,
) -> Result<T, Error> {
    tokio::spawn(work.with_current_context()).await.map_err(Error::internal(step))?
}
