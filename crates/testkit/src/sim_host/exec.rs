//! Commands in a simulated guest: run to their end, or streamed.

use std::time::Duration;

use connectrpc::{ConnectError, InboundStream};
use futures::StreamExt as _;
use rpc::exec_stream_request::{Request as Input, Start};
use rpc::exec_stream_response::{Exit, Response as Output, TerminalOutput};
use sandbar_proto::host as rpc;
use tokio::sync::mpsc;

use super::faults::{Reply, refusal};
use super::guest::{Piece, Program, Running};
use super::{Agent, Reason};

impl Agent {
    /// A command run to its end.
    pub(super) async fn run(&self, request: rpc::ExecRequest) -> Result<rpc::ExecResponse, ConnectError> {
        self.inventory().active(&request.id)?;
        let command = request.command.as_option().ok_or_else(|| refusal(Reason::REASON_BAD_INPUT))?;
        let (pieces, exit_code) = match self.processes.find(command)? {
            Program::Print { pieces, exit_code } => (pieces, exit_code),
            // There is no input, so it ends at once.
            Program::Cat { says } => (vec![Piece::Stdout(says)], 0),
            Program::Sleep => {
                let _running = self.processes.start();
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

/// A terminal that shows what is typed, behind `offset` bytes that it has shown before, and its size whenever that changes. It ends when
/// it is killed.
pub(super) async fn terminal(
    mut offset: u64,
    mut requests: InboundStream<rpc::ExecStreamRequest>,
    out: mpsc::Sender<Result<rpc::ExecStreamResponse, ConnectError>>,
    running: Running,
) {
    let say = |output| {
        let response = rpc::ExecStreamResponse { response: Some(output), ..Default::default() };
        out.send(Ok(response))
    };
    // A reader that has gone is noticed below, by `closed`.
    let _ = say(Output::Started(1_000)).await;
    loop {
        let input = tokio::select! {
            () = out.closed() => return running.detach(),
            input = requests.next() => input,
        };
        let data = match input.and_then(Result::ok).and_then(|message| message.to_owned_message().request) {
            Some(Input::Stdin(data)) => data,
            Some(Input::Resize(size)) => format!("{}x{}\n", size.cols, size.rows).into_bytes(),
            Some(Input::Stop(_)) => {
                let killed =
                    Exit { exit_code: -1, status: "signal: killed".to_owned(), ..Default::default() };
                let _ = say(Output::from(killed)).await;
                return;
            }
            Some(_) => continue,
            // Whoever ends the requests has left.
            None => return running.detach(),
        };
        running.typed(&data);
        let length = data.len() as u64;
        let shown = TerminalOutput { data, offset, ..Default::default() };
        offset += length;
        let _ = say(Output::from(shown)).await;
    }
}

/// Runs a streamed command. It dies with its stream unless it was detached.
pub(super) async fn stream(
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
    if let Program::Cat { says } = &program
        && !says.is_empty()
    {
        let _ = say(Output::Stdout(says.clone())).await;
    }
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
        Program::Cat { .. } | Program::Sleep => loop {
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
                        running.typed(&data);
                        if let Program::Cat { .. } = program {
                            let _ = say(Output::Stdout(data)).await;
                        }
                    }
                    Some(Input::CloseStdin(_)) if matches!(program, Program::Cat { .. }) => break 0,
                    Some(Input::Stop(_)) => break -1,
                    Some(Input::CloseStdin(_) | Input::Start(_) | Input::Connect(_) | Input::Resize(_))
                    | None => {}
                },
                // Whoever ends the requests of a command that outlives them has left; the end of others is not the stream's.
                Some(Err(_)) | None if start.detach => return running.detach(),
                Some(Err(_)) | None => return out.closed().await,
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
