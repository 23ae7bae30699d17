//! The RPC service: parses, calls the registry, answers. No decisions.

use std::str::FromStr;
use std::sync::Arc;

use connectrpc::{
    ConnectError, InboundStream, RequestContext, Response, ServiceRequest, ServiceResult, ServiceStream,
};
use futures::StreamExt as _;
use sandbar_proto::host::{
    self, CreateSandboxRequest, CreateSandboxResponse, CreateTemplateRequest, CreateTemplateResponse,
    DestroySandboxRequest, DestroySandboxResponse, ExecRequest, ExecResponse, ExecStreamRequest,
    ExecStreamResponse, GetHealthRequest, GetHealthResponse, HostService, ListSandboxesRequest,
    ListSandboxesResponse, ListTemplatesRequest, ListTemplatesResponse, PingSandboxRequest,
    PingSandboxResponse, ReadFileRequest, ReadFileResponse, SandboxState, WriteFileRequest,
    WriteFileResponse, exec_stream_request, write_file_request,
};
use sandbar_types::guest::GUEST_IP;
use sandbar_types::id::{Host, Id, Kind};
use sandbar_types::limits;
use tokio_stream::wrappers::ReceiverStream;

use crate::error::Error;
use crate::registry::Registry;
use crate::resources::{Resources, blocking};
use crate::sandbox::{CreateRequest, Handle, State};
use crate::template::{self, TemplateRequest};
use crate::{exec, files};

/// The host agent's service.
pub(crate) struct Service {
    pub(crate) host_id: Id<Host>,
    pub(crate) registry: Registry,
    pub(crate) resources: Arc<Resources>,
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
        Response::ok(ListSandboxesResponse { sandboxes, inventory_generation, ..Default::default() })
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
        if !limits::TIMEOUT_SEC.contains(&request.timeout_sec) {
            return Err(Error::BadInput("timeout_sec is out of bounds".into()).into());
        }
        let request = CreateRequest {
            id: parse(&request.id)?,
            template_id: parse(&request.template_id)?,
            access_token: request.access_token,
            env: request.env.into_iter().collect(),
            timeout_sec: request.timeout_sec,
            hostname: request.hostname,
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
        let visit = handle.enter()?;
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
        let mut visit = self.registry.get(parse(&request.id)?)?.enter()?;
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
        let Some(exec_stream_request::Request::Start(start)) = first else {
            return Err(Error::BadInput("the first request must start a command".into()).into());
        };
        let visit = self.registry.get(parse(&start.id)?)?.enter()?;
        let events = exec::stream(visit, *start, requests).await?;
        Ok(Response::stream(ReceiverStream::new(events)))
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
        let mut visit = self.registry.get(parse(&open.id)?)?.enter()?;
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
        let visit = self.registry.get(parse(&request.id)?)?.enter()?;
        Ok(Response::stream(files::read(visit, &request.path, &request.user).await?))
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
        // A template that was begun is finished, or taken back, whether or not the caller waits.
        let resources = Arc::clone(&self.resources);
        let work = tokio::spawn(async move { template::create(&resources, &request).await });
        let template = work.await.map_err(Error::internal("make the template"))??;
        Response::ok(CreateTemplateResponse {
            template: describe_template(&template).into(),
            ..Default::default()
        })
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
}

fn parse<K: Kind>(text: &str) -> Result<Id<K>, ConnectError> {
    Id::from_str(text).map_err(|e| Error::BadInput(e.to_string()).into())
}

fn describe(handle: &Handle) -> host::Sandbox {
    let view = handle.view();
    let last_active = handle.activity.last_unix_ms();
    host::Sandbox {
        id: handle.id.to_string(),
        state: match view.state {
            State::Starting => SandboxState::SANDBOX_STATE_STARTING,
            State::Running => SandboxState::SANDBOX_STATE_RUNNING,
            State::Stopping => SandboxState::SANDBOX_STATE_STOPPING,
            State::Stopped => SandboxState::SANDBOX_STATE_STOPPED,
        }
        .into(),
        template_id: handle.template_id.to_string(),
        vcpus: view.vcpus,
        memory_mb: view.memory_mb,
        disk_mb: view.disk_mb,
        guest_ip: GUEST_IP.to_string(),
        host_ip: view.host_ip.map(|ip| ip.to_string()).unwrap_or_default(),
        created_at_unix_ms: handle.created_at_unix_ms,
        last_active_at_unix_ms: last_active,
        expires_at_unix_ms: match handle.timeout_sec {
            0 => 0,
            seconds => last_active + i64::from(seconds) * 1000,
        },
        generation: view.generation,
        stop_reason: view.stop_reason,
        ..Default::default()
    }
}

fn describe_template(template: &sandbar_storage::Template) -> host::Template {
    let spec = &template.manifest.spec;
    host::Template {
        id: template.id().to_string(),
        vcpus: spec.vcpus,
        memory_mb: spec.memory_mb,
        disk_mb: spec.disk_mb,
        size_bytes: template.size_on_disk(),
        arch: spec.arch.to_string(),
        vmm: spec.vmm.to_string(),
        compatibility: spec.compatibility.to_string(),
        ..Default::default()
    }
}
