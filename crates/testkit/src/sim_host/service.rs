//! The RPCs of a simulated host.

use std::sync::Arc;
use std::time::Duration;

use connectrpc::{
    ConnectError, InboundStream, RequestContext, Response, ServiceRequest, ServiceResult, ServiceStream,
};
use futures::StreamExt as _;
use rpc::exec_stream_request::{Request as Input, Start};
use rpc::exec_stream_response::{Exit, Response as Output};
use rpc::write_file_request::Request as Upload;
use sandbar_proto::host as rpc;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;

use super::faults::{Reply, refusal};
use super::guest::{Piece, Program, Running};
use super::inventory::Inventory;
use super::{Agent, Reason, Rpc};

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
        let result = self.run(request).await;
        reply.send(result).await.map(Response::new)
    }

    async fn exec_stream(
        &self,
        _ctx: RequestContext,
        mut requests: InboundStream<rpc::ExecStreamRequest>,
    ) -> ServiceResult<ServiceStream<rpc::ExecStreamResponse>> {
        let reply = self.agent.faults.arrive(Rpc::ExecStream).await?;
        let first = requests.next().await.transpose()?.map(|message| message.to_owned_message());
        let Some(Input::Start(start)) = first.and_then(|message| message.request) else {
            return Err(refusal(Reason::REASON_BAD_INPUT));
        };
        self.agent.inventory().active(&start.id)?;
        let program =
            Program::find(start.command.as_option().ok_or_else(|| refusal(Reason::REASON_BAD_INPUT))?)?;
        let (out, replies) = mpsc::channel(STREAM_BUFFER);
        tokio::spawn(stream(*start, program, requests, out, self.agent.processes.start(), reply));
        Ok(Response::stream(ReceiverStream::new(replies)))
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
        let result = self.agent.inventory().write_file(&open.id, path.clone(), content);
        let answer = || rpc::WriteFileResponse { bytes_written, path, ..Default::default() };
        reply.send(result.map(|()| answer())).await.map(Response::new)
    }

    async fn read_file(
        &self,
        _ctx: RequestContext,
        request: ServiceRequest<'_, rpc::ReadFileRequest>,
    ) -> ServiceResult<ServiceStream<rpc::ReadFileResponse>> {
        let reply = self.agent.faults.arrive(Rpc::ReadFile).await?;
        let path = absolute(request.path)?;
        let content = self.agent.inventory().read_file(request.id, &path)?;
        let mut chunks: Vec<_> = content
            .chunks(CHUNK)
            .map(|chunk| Ok(rpc::ReadFileResponse { chunk: chunk.to_vec(), ..Default::default() }))
            .collect();
        if let Reply::Lose = reply {
            // The connection breaks half way.
            chunks.truncate(chunks.len() / 2);
            chunks.push(Err(ConnectError::unavailable("the connection broke")));
        }
        Ok(Response::stream(futures::stream::iter(chunks)))
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
}

impl Service {
    /// A command run to its end.
    async fn run(&self, request: rpc::ExecRequest) -> Result<rpc::ExecResponse, ConnectError> {
        self.agent.inventory().active(&request.id)?;
        let command = request.command.as_option().ok_or_else(|| refusal(Reason::REASON_BAD_INPUT))?;
        let (pieces, exit_code) = match Program::find(command)? {
            Program::Print { pieces, exit_code } => (pieces, exit_code),
            // There is no input, so it ends at once.
            Program::Cat => (Vec::new(), 0),
            Program::Sleep => {
                let _running = self.agent.processes.start();
                tokio::time::sleep(Duration::from_secs(u64::from(request.timeout_sec))).await;
                return Err(refusal(Reason::REASON_TIMEOUT));
            }
        };
        let limit = usize::try_from(request.max_output_bytes).unwrap_or(usize::MAX);
        let mut response = rpc::ExecResponse { exit_code, duration_ms: 1, ..Default::default() };
        for piece in pieces {
            let (kept, more) = match &piece {
                Piece::Stdout(data) => (&mut response.stdout, data),
                Piece::Stderr(data) => (&mut response.stderr, data),
            };
            kept.extend_from_slice(more);
            response.truncated |= kept.len() > limit;
            kept.truncate(limit);
        }
        Ok(response)
    }
}

/// Runs a streamed command. It dies with its stream unless it was detached.
async fn stream(
    start: Start,
    program: Program,
    mut requests: InboundStream<rpc::ExecStreamRequest>,
    out: mpsc::Sender<Result<rpc::ExecStreamResponse, ConnectError>>,
    running: Running,
    reply: Reply,
) {
    let say = |output| {
        let response = rpc::ExecStreamResponse { response: Some(output), ..Default::default() };
        out.send(Ok(response))
    };
    let exited = |exit_code| {
        Output::from(Exit { exit_code, status: format!("exit status {exit_code}"), ..Default::default() })
    };
    // A reader that has gone is noticed below, by `closed`.
    let _ = say(Output::Started(1_000)).await;
    let exit_code = match program {
        Program::Print { pieces, exit_code } => {
            for piece in pieces {
                let output = match piece {
                    Piece::Stdout(data) => Output::Stdout(data),
                    Piece::Stderr(data) => Output::Stderr(data),
                };
                let _ = say(output).await;
            }
            exit_code
        }
        Program::Cat | Program::Sleep => loop {
            let input = tokio::select! {
                () = out.closed() => {
                    if start.detach {
                        running.detach();
                    }
                    return;
                }
                input = requests.next() => input,
            };
            match input {
                Some(Ok(message)) => match message.to_owned_message().request {
                    Some(Input::Stdin(data)) => {
                        if let Program::Cat = program {
                            let _ = say(Output::Stdout(data)).await;
                        }
                    }
                    Some(Input::CloseStdin(_)) if matches!(program, Program::Cat) => break 0,
                    Some(Input::Stop(_)) => break -1,
                    Some(Input::CloseStdin(_) | Input::Start(_)) | None => {}
                },
                // The input's end is not the stream's: the command goes on for as long as somebody listens.
                Some(Err(_)) | None => {
                    out.closed().await;
                    if start.detach {
                        running.detach();
                    }
                    return;
                }
            }
        },
    };
    match reply {
        Reply::Deliver => {
            let _ = say(exited(exit_code)).await;
        }
        Reply::Lose => {
            let _ = out.send(Err(ConnectError::unavailable("the connection broke"))).await;
        }
        Reply::Never => out.closed().await,
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
