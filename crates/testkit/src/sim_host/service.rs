//! The RPCs of a simulated host.

use std::sync::Arc;

use connectrpc::{
    ConnectError, InboundStream, RequestContext, Response, ServiceRequest, ServiceResult, ServiceStream,
};
use futures::StreamExt as _;
use rpc::exec_stream_request::Request as Input;
use rpc::write_file_request::Request as Upload;
use sandbar_proto::host as rpc;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;

use super::exec::{stream, terminal};
use super::faults::{Reply, refusal};
use super::inventory::Inventory;
use super::{Agent, Reason, Rpc, import, processes, tunnel};

/// Bytes of a chunk of a file that is read.
const CHUNK: usize = 64 * 1024;
/// Replies that wait for a slow reader of a stream.
const STREAM_BUFFER: usize = 16;

pub(super) struct Service {
    agent: Arc<Agent>,
}

impl Service {
    pub(super) fn new(agent: Arc<Agent>) -> Self {
        Self { agent }
    }

    /// One unary call: the fault that is due, the work, the reply.
    async fn answer<T>(
        &self,
        rpc: Rpc,
        work: impl FnOnce(&mut Inventory) -> Result<T, ConnectError>,
    ) -> ServiceResult<T> {
        let reply = self.agent.faults.arrive(rpc).await?;
        let result = work(&mut self.agent.inventory());
        reply.send(result).await.map(Response::new)
    }
}

#[expect(refining_impl_trait, reason = "the plain message types say more than the contract's opaque ones")]
impl rpc::HostService for Service {
    async fn get_health(
        &self,
        _ctx: RequestContext,
        _request: ServiceRequest<'_, rpc::GetHealthRequest>,
    ) -> ServiceResult<rpc::GetHealthResponse> {
        self.answer(Rpc::GetHealth, |inventory| {
            Ok(rpc::GetHealthResponse {
                host_id: inventory.host_id.clone(),
                version: env!("CARGO_PKG_VERSION").to_owned(),
                vmm: "qemu".to_owned(),
                vmm_version: "simulated".to_owned(),
                inventory_generation: inventory.generation,
                ..Default::default()
            })
        })
        .await
    }

    async fn list_sandboxes(
        &self,
        _ctx: RequestContext,
        _request: ServiceRequest<'_, rpc::ListSandboxesRequest>,
    ) -> ServiceResult<rpc::ListSandboxesResponse> {
        self.answer(Rpc::ListSandboxes, |inventory| {
            Ok(rpc::ListSandboxesResponse {
                sandboxes: inventory.list(),
                inventory_generation: inventory.generation,
                warm_pool: rpc::WarmPool::default().into(),
                ..Default::default()
            })
        })
        .await
    }

    async fn create_sandbox(
        &self,
        _ctx: RequestContext,
        request: ServiceRequest<'_, rpc::CreateSandboxRequest>,
    ) -> ServiceResult<rpc::CreateSandboxResponse> {
        let request = request.to_owned_message();
        self.answer(Rpc::CreateSandbox, |inventory| {
            let sandbox = inventory.create(request)?;
            Ok(rpc::CreateSandboxResponse { sandbox: sandbox.into(), ..Default::default() })
        })
        .await
    }

    async fn destroy_sandbox(
        &self,
        _ctx: RequestContext,
        request: ServiceRequest<'_, rpc::DestroySandboxRequest>,
    ) -> ServiceResult<rpc::DestroySandboxResponse> {
        self.answer(Rpc::DestroySandbox, |inventory| {
            Ok(rpc::DestroySandboxResponse { existed: inventory.remove(request.id), ..Default::default() })
        })
        .await
    }

    async fn ping_sandbox(
        &self,
        _ctx: RequestContext,
        request: ServiceRequest<'_, rpc::PingSandboxRequest>,
    ) -> ServiceResult<rpc::PingSandboxResponse> {
        self.answer(Rpc::PingSandbox, |inventory| {
            let sandbox = inventory.active(request.id)?;
            Ok(rpc::PingSandboxResponse { sandbox: sandbox.into(), ..Default::default() })
        })
        .await
    }

    async fn exec(
        &self,
        _ctx: RequestContext,
        request: ServiceRequest<'_, rpc::ExecRequest>,
    ) -> ServiceResult<rpc::ExecResponse> {
        let request = request.to_owned_message();
        let reply = self.agent.faults.arrive(Rpc::Exec).await?;
        let result = self.agent.run(request).await;
        reply.send(result).await.map(Response::new)
    }

    async fn exec_stream(
        &self,
        _ctx: RequestContext,
        mut requests: InboundStream<rpc::ExecStreamRequest>,
    ) -> ServiceResult<ServiceStream<rpc::ExecStreamResponse>> {
        let reply = self.agent.faults.arrive(Rpc::ExecStream).await?;
        let first = requests.next().await.transpose()?.map(|message| message.to_owned_message());
        let start = match first.and_then(|message| message.request) {
            Some(Input::Start(start)) => start,
            Some(Input::Connect(connect)) => {
                self.agent.inventory().active(&connect.id)?;
                processes::named(connect.process.as_option())?;
                let (out, replies) = mpsc::channel(STREAM_BUFFER);
                let from = connect.from_offset.unwrap_or_default();
                tokio::spawn(terminal(from, requests, out, self.agent.processes.start()));
                return Ok(Response::stream(ReceiverStream::new(replies)));
            }
            _ => return Err(refusal(Reason::REASON_BAD_INPUT)),
        };
        self.agent.inventory().active(&start.id)?;
        if start.terminal.is_set() {
            let (out, replies) = mpsc::channel(STREAM_BUFFER);
            tokio::spawn(terminal(0, requests, out, self.agent.processes.start()));
            return Ok(Response::stream(ReceiverStream::new(replies)));
        }
        let command = start.command.as_option().ok_or_else(|| refusal(Reason::REASON_BAD_INPUT))?;
        let in_volume = self.agent.inventory().volume_program(&start.id, command)?;
        let program = match in_volume {
            Some(program) => program,
            None => self.agent.processes.find(command)?,
        };
        let (out, replies) = mpsc::channel(STREAM_BUFFER);
        tokio::spawn(stream(*start, program, requests, out, self.agent.processes.start(), reply));
        Ok(Response::stream(ReceiverStream::new(replies)))
    }

    async fn list_processes(
        &self,
        _ctx: RequestContext,
        request: ServiceRequest<'_, rpc::ListProcessesRequest>,
    ) -> ServiceResult<rpc::ListProcessesResponse> {
        let reply = self.agent.faults.arrive(Rpc::ListProcesses).await?;
        let found = self.agent.inventory().active(request.id).map(|_| vec![processes::only()]);
        let answer = |processes| rpc::ListProcessesResponse { processes, ..Default::default() };
        Response::ok(reply.send(found.map(answer)).await?)
    }

    async fn kill_process(
        &self,
        _ctx: RequestContext,
        request: ServiceRequest<'_, rpc::KillProcessRequest>,
    ) -> ServiceResult<rpc::KillProcessResponse> {
        let reply = self.agent.faults.arrive(Rpc::KillProcess).await?;
        let request = request.to_owned_message();
        let found = self.agent.inventory().active(&request.id);
        let killed = found.and_then(|_| processes::named(request.process.as_option()));
        Response::ok(reply.send(killed.map(|()| rpc::KillProcessResponse::default())).await?)
    }

    async fn list_folder(
        &self,
        _ctx: RequestContext,
        request: ServiceRequest<'_, rpc::ListFolderRequest>,
    ) -> ServiceResult<rpc::ListFolderResponse> {
        let reply = self.agent.faults.arrive(Rpc::ListFolder).await?;
        let entries = self.agent.inventory().list_folder(request.id, &absolute(request.path)?);
        let answer = |entries| rpc::ListFolderResponse { entries, ..Default::default() };
        Response::ok(reply.send(entries.map(answer)).await?)
    }

    async fn make_folder(
        &self,
        _ctx: RequestContext,
        request: ServiceRequest<'_, rpc::MakeFolderRequest>,
    ) -> ServiceResult<rpc::MakeFolderResponse> {
        let reply = self.agent.faults.arrive(Rpc::MakeFolder).await?;
        let entry = self.agent.inventory().make_folder(request.id, &absolute(request.path)?);
        let answer =
            |entry: rpc::Entry| rpc::MakeFolderResponse { entry: entry.into(), ..Default::default() };
        Response::ok(reply.send(entry.map(answer)).await?)
    }

    async fn remove_path(
        &self,
        _ctx: RequestContext,
        request: ServiceRequest<'_, rpc::RemovePathRequest>,
    ) -> ServiceResult<rpc::RemovePathResponse> {
        let reply = self.agent.faults.arrive(Rpc::RemovePath).await?;
        let removed = self.agent.inventory().remove_path(request.id, &absolute(request.path)?);
        Response::ok(reply.send(removed.map(|()| rpc::RemovePathResponse::default())).await?)
    }

    async fn write_file(
        &self,
        _ctx: RequestContext,
        mut requests: InboundStream<rpc::WriteFileRequest>,
    ) -> ServiceResult<rpc::WriteFileResponse> {
        let reply = self.agent.faults.arrive(Rpc::WriteFile).await?;
        let first = requests.next().await.transpose()?.map(|message| message.to_owned_message());
        let Some(Upload::Open(open)) = first.and_then(|message| message.request) else {
            return Err(refusal(Reason::REASON_BAD_INPUT));
        };
        let path = absolute(&open.path)?;
        let mut content = Vec::new();
        while let Some(message) = requests.next().await {
            match message?.to_owned_message().request {
                Some(Upload::Chunk(chunk)) => content.extend_from_slice(&chunk),
                Some(Upload::Open(_)) | None => return Err(refusal(Reason::REASON_BAD_INPUT)),
            }
        }
        let bytes_written = content.len() as u64;
        let result = self.agent.inventory().write_file(&open, path.clone(), content);
        let answer = |etag| rpc::WriteFileResponse { bytes_written, path, etag, ..Default::default() };
        reply.send(result.map(answer)).await.map(Response::new)
    }

    async fn read_file(
        &self,
        _ctx: RequestContext,
        request: ServiceRequest<'_, rpc::ReadFileRequest>,
    ) -> ServiceResult<ServiceStream<rpc::ReadFileResponse>> {
        let reply = self.agent.faults.arrive(Rpc::ReadFile).await?;
        let path = absolute(request.path)?;
        let (content, etag) = self.agent.inventory().read_file(request.id, &path)?;
        // The first tells the state, though there be nothing else.
        let first = rpc::ReadFileResponse { etag, ..Default::default() };
        let rest = content
            .chunks(CHUNK)
            .map(|chunk| rpc::ReadFileResponse { chunk: chunk.to_vec(), ..Default::default() });
        let mut chunks: Vec<_> = std::iter::once(first).chain(rest).map(Ok).collect();
        if let Reply::Lose = reply {
            // The connection breaks half way.
            chunks.truncate(chunks.len() / 2);
            chunks.push(Err(ConnectError::unavailable("the connection broke")));
        }
        Ok(Response::stream(futures::stream::iter(chunks)))
    }

    async fn tunnel(
        &self,
        _ctx: RequestContext,
        mut requests: InboundStream<rpc::TunnelRequest>,
    ) -> ServiceResult<ServiceStream<rpc::TunnelResponse>> {
        let reply = self.agent.faults.arrive(Rpc::Tunnel).await?;
        let first = requests.next().await.transpose()?.map(|request| request.to_owned_message());
        let open = first.and_then(|request| request.open.into_option());
        let open = open.ok_or_else(|| refusal(Reason::REASON_BAD_INPUT))?;
        let active = self.agent.inventory().active(&open.id).map(|_| ());
        reply.send(active).await?;
        let stream = tunnel::open(&self.agent, open.port, requests).await?;
        Ok(Response::stream(stream))
    }

    async fn create_template(
        &self,
        _ctx: RequestContext,
        request: ServiceRequest<'_, rpc::CreateTemplateRequest>,
    ) -> ServiceResult<rpc::CreateTemplateResponse> {
        let request = request.to_owned_message();
        self.answer(Rpc::CreateTemplate, |inventory| {
            let template = inventory.create_template(request)?;
            Ok(rpc::CreateTemplateResponse { template: template.into(), ..Default::default() })
        })
        .await
    }

    async fn import_image(
        &self,
        _ctx: RequestContext,
        requests: InboundStream<rpc::ImportImageRequest>,
    ) -> ServiceResult<ServiceStream<rpc::ImportImageResponse>> {
        let reply = self.agent.faults.arrive(Rpc::ImportImage).await?;
        Ok(Response::stream(import::answer(&self.agent, requests, reply).await?))
    }

    async fn list_templates(
        &self,
        _ctx: RequestContext,
        _request: ServiceRequest<'_, rpc::ListTemplatesRequest>,
    ) -> ServiceResult<rpc::ListTemplatesResponse> {
        self.answer(Rpc::ListTemplates, |inventory| {
            Ok(rpc::ListTemplatesResponse { templates: inventory.list_templates(), ..Default::default() })
        })
        .await
    }

    async fn pause_sandbox(
        &self,
        _ctx: RequestContext,
        request: ServiceRequest<'_, rpc::PauseSandboxRequest>,
    ) -> ServiceResult<rpc::PauseSandboxResponse> {
        let request = request.to_owned_message();
        let mode = match request.mode.as_known() {
            Some(rpc::PauseMode::PAUSE_MODE_FILESYSTEM) => rpc::PauseMode::PAUSE_MODE_FILESYSTEM,
            _ => rpc::PauseMode::PAUSE_MODE_FULL,
        };
        self.answer(Rpc::PauseSandbox, |inventory| {
            let sandbox = inventory.pause(&request.id, "requested", mode)?;
            Ok(rpc::PauseSandboxResponse { sandbox: sandbox.into(), ..Default::default() })
        })
        .await
    }

    async fn resume_sandbox(
        &self,
        _ctx: RequestContext,
        request: ServiceRequest<'_, rpc::ResumeSandboxRequest>,
    ) -> ServiceResult<rpc::ResumeSandboxResponse> {
        let request = request.to_owned_message();
        self.answer(Rpc::ResumeSandbox, |inventory| {
            let sandbox = inventory.resume(&request)?;
            Ok(rpc::ResumeSandboxResponse { sandbox: sandbox.into(), ..Default::default() })
        })
        .await
    }

    async fn refuse_resumes(
        &self,
        _ctx: RequestContext,
        request: ServiceRequest<'_, rpc::RefuseResumesRequest>,
    ) -> ServiceResult<rpc::RefuseResumesResponse> {
        self.answer(Rpc::RefuseResumes, |inventory| {
            let sandbox = inventory.refuse_resumes(request.id, request.row_generation)?;
            Ok(rpc::RefuseResumesResponse { sandbox: sandbox.into(), ..Default::default() })
        })
        .await
    }

    async fn snapshot_sandbox(
        &self,
        _ctx: RequestContext,
        request: ServiceRequest<'_, rpc::SnapshotSandboxRequest>,
    ) -> ServiceResult<rpc::SnapshotSandboxResponse> {
        self.answer(Rpc::SnapshotSandbox, |inventory| {
            let kind = rpc::TemplateKind::TEMPLATE_KIND_SNAPSHOT;
            let (id, template, own) = (request.id, request.template_id, request.own_pause);
            let (template, stall_ms) = inventory.snapshot(id, template, kind, own)?;
            Ok(rpc::SnapshotSandboxResponse { template: template.into(), stall_ms, ..Default::default() })
        })
        .await
    }

    async fn fork_sandbox(
        &self,
        _ctx: RequestContext,
        request: ServiceRequest<'_, rpc::ForkSandboxRequest>,
    ) -> ServiceResult<rpc::ForkSandboxResponse> {
        let request = request.to_owned_message();
        self.answer(Rpc::ForkSandbox, |inventory| inventory.fork(request)).await
    }

    async fn flatten_rootfs(
        &self,
        _ctx: RequestContext,
        request: ServiceRequest<'_, rpc::FlattenRootfsRequest>,
    ) -> ServiceResult<rpc::FlattenRootfsResponse> {
        self.answer(Rpc::FlattenRootfs, |inventory| {
            let kind = rpc::TemplateKind::TEMPLATE_KIND_BASE;
            let (template, _) = inventory.snapshot(request.id, request.template_id, kind, false)?;
            Ok(rpc::FlattenRootfsResponse { template: template.into(), ..Default::default() })
        })
        .await
    }

    async fn delete_template(
        &self,
        _ctx: RequestContext,
        request: ServiceRequest<'_, rpc::DeleteTemplateRequest>,
    ) -> ServiceResult<rpc::DeleteTemplateResponse> {
        self.answer(Rpc::DeleteTemplate, |inventory| {
            let existed = inventory.delete_template(request.id);
            Ok(rpc::DeleteTemplateResponse { existed, ..Default::default() })
        })
        .await
    }

    async fn open_template(
        &self,
        _ctx: RequestContext,
        request: ServiceRequest<'_, rpc::OpenTemplateRequest>,
    ) -> ServiceResult<rpc::OpenTemplateResponse> {
        let request = request.to_owned_message();
        self.answer(Rpc::OpenTemplate, |inventory| inventory.open_template(&request.id)).await
    }

    async fn read_template_part(
        &self,
        _ctx: RequestContext,
        request: ServiceRequest<'_, rpc::ReadTemplatePartRequest>,
    ) -> ServiceResult<rpc::ReadTemplatePartResponse> {
        let request = request.to_owned_message();
        self.answer(Rpc::ReadTemplatePart, |inventory| inventory.read_part(&request)).await
    }

    async fn receive_template(
        &self,
        _ctx: RequestContext,
        request: ServiceRequest<'_, rpc::ReceiveTemplateRequest>,
    ) -> ServiceResult<rpc::ReceiveTemplateResponse> {
        let request = request.to_owned_message();
        self.answer(Rpc::ReceiveTemplate, |inventory| inventory.receive_template(request)).await
    }

    async fn write_template_part(
        &self,
        _ctx: RequestContext,
        request: ServiceRequest<'_, rpc::WriteTemplatePartRequest>,
    ) -> ServiceResult<rpc::WriteTemplatePartResponse> {
        let request = request.to_owned_message();
        self.answer(Rpc::WriteTemplatePart, |inventory| inventory.write_part(request)).await
    }

    async fn commit_template(
        &self,
        _ctx: RequestContext,
        request: ServiceRequest<'_, rpc::CommitTemplateRequest>,
    ) -> ServiceResult<rpc::CommitTemplateResponse> {
        let request = request.to_owned_message();
        self.answer(Rpc::CommitTemplate, |inventory| inventory.commit_template(&request.id)).await
    }

    async fn verify_template(
        &self,
        _ctx: RequestContext,
        request: ServiceRequest<'_, rpc::VerifyTemplateRequest>,
    ) -> ServiceResult<rpc::VerifyTemplateResponse> {
        self.answer(Rpc::VerifyTemplate, |inventory| {
            let bytes = inventory.verify_template(request.id)?;
            Ok(rpc::VerifyTemplateResponse { bytes, ..Default::default() })
        })
        .await
    }

    async fn verify_sandbox(
        &self,
        _ctx: RequestContext,
        request: ServiceRequest<'_, rpc::VerifySandboxRequest>,
    ) -> ServiceResult<rpc::VerifySandboxResponse> {
        self.answer(Rpc::VerifySandbox, |inventory| {
            let bytes = inventory.verify_sandbox(request.id)?;
            Ok(rpc::VerifySandboxResponse { bytes, ..Default::default() })
        })
        .await
    }

    async fn set_deadline(
        &self,
        _ctx: RequestContext,
        request: ServiceRequest<'_, rpc::SetDeadlineRequest>,
    ) -> ServiceResult<rpc::SetDeadlineResponse> {
        let request = request.to_owned_message();
        self.answer(Rpc::SetDeadline, |inventory| {
            let sandbox = inventory.set_deadline(&request)?;
            Ok(rpc::SetDeadlineResponse { sandbox: sandbox.into(), ..Default::default() })
        })
        .await
    }

    async fn set_network_policy(
        &self,
        _ctx: RequestContext,
        request: ServiceRequest<'_, rpc::SetNetworkPolicyRequest>,
    ) -> ServiceResult<rpc::SetNetworkPolicyResponse> {
        let request = request.to_owned_message();
        self.answer(Rpc::SetNetworkPolicy, |inventory| {
            let sandbox = inventory.set_network(request)?;
            Ok(rpc::SetNetworkPolicyResponse { sandbox: sandbox.into(), ..Default::default() })
        })
        .await
    }

    async fn get_network_denials(
        &self,
        _ctx: RequestContext,
        request: ServiceRequest<'_, rpc::GetNetworkDenialsRequest>,
    ) -> ServiceResult<rpc::GetNetworkDenialsResponse> {
        self.answer(Rpc::GetNetworkDenials, |inventory| inventory.denials(request.id)).await
    }

    async fn pause_all(
        &self,
        _ctx: RequestContext,
        _request: ServiceRequest<'_, rpc::PauseAllRequest>,
    ) -> ServiceResult<rpc::PauseAllResponse> {
        self.answer(Rpc::PauseAll, |inventory| Ok(inventory.pause_all())).await
    }

    async fn get_sandbox_metrics(
        &self,
        _ctx: RequestContext,
        request: ServiceRequest<'_, rpc::GetSandboxMetricsRequest>,
    ) -> ServiceResult<rpc::GetSandboxMetricsResponse> {
        let request = request.to_owned_message();
        self.answer(Rpc::GetSandboxMetrics, |inventory| {
            let range = request.range.as_known().unwrap_or_default();
            let points = inventory.metrics(&request.id, range)?;
            Ok(rpc::GetSandboxMetricsResponse { points, ..Default::default() })
        })
        .await
    }

    async fn flush_sandbox_metrics(
        &self,
        _ctx: RequestContext,
        request: ServiceRequest<'_, rpc::FlushSandboxMetricsRequest>,
    ) -> ServiceResult<rpc::FlushSandboxMetricsResponse> {
        self.answer(Rpc::FlushSandboxMetrics, |inventory| {
            let tiers = inventory.all_metrics(request.id)?;
            Ok(rpc::FlushSandboxMetricsResponse { tiers, ..Default::default() })
        })
        .await
    }

    async fn get_sandbox_logs(
        &self,
        _ctx: RequestContext,
        request: ServiceRequest<'_, rpc::GetSandboxLogsRequest>,
    ) -> ServiceResult<rpc::GetSandboxLogsResponse> {
        let request = request.to_owned_message();
        self.answer(Rpc::GetSandboxLogs, |inventory| {
            inventory.known(&request.id)?;
            Ok(self.agent.logs.page(&request))
        })
        .await
    }

    async fn follow_sandbox_logs(
        &self,
        _ctx: RequestContext,
        request: ServiceRequest<'_, rpc::FollowSandboxLogsRequest>,
    ) -> ServiceResult<ServiceStream<rpc::FollowSandboxLogsResponse>> {
        let reply = self.agent.faults.arrive(Rpc::FollowSandboxLogs).await?;
        let request = request.to_owned_message();
        let known = self.agent.inventory().known(&request.id);
        reply.send(known).await?;
        Ok(Response::stream(self.agent.logs.follow(request).map(Ok)))
    }

    async fn create_volume(
        &self,
        _ctx: RequestContext,
        request: ServiceRequest<'_, rpc::CreateVolumeRequest>,
    ) -> ServiceResult<rpc::CreateVolumeResponse> {
        self.answer(Rpc::CreateVolume, |inventory| {
            let volume = inventory.create_volume(request.id, request.size_bytes)?;
            Ok(rpc::CreateVolumeResponse { volume: volume.into(), ..Default::default() })
        })
        .await
    }

    async fn delete_volume(
        &self,
        _ctx: RequestContext,
        request: ServiceRequest<'_, rpc::DeleteVolumeRequest>,
    ) -> ServiceResult<rpc::DeleteVolumeResponse> {
        self.answer(Rpc::DeleteVolume, |inventory| {
            let existed = inventory.delete_volume(request.id)?;
            Ok(rpc::DeleteVolumeResponse { existed, ..Default::default() })
        })
        .await
    }

    async fn list_volumes(
        &self,
        _ctx: RequestContext,
        _request: ServiceRequest<'_, rpc::ListVolumesRequest>,
    ) -> ServiceResult<rpc::ListVolumesResponse> {
        self.answer(Rpc::ListVolumes, |inventory| {
            Ok(rpc::ListVolumesResponse { volumes: inventory.list_volumes(), ..Default::default() })
        })
        .await
    }
}

/// The guest's view of a path: relative ones start at the default user's home.
fn absolute(path: &str) -> Result<String, ConnectError> {
    if path.is_empty() {
        Err(refusal(Reason::REASON_BAD_INPUT))
    } else if path.starts_with('/') {
        Ok(path.to_owned())
    } else {
        Ok(format!("/home/{}/{path}", sandbar_types::guest::DEFAULT_USER))
    }
}
