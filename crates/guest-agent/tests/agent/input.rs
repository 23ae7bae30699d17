//! What callers type: standard input and terminals.

use connectrpc::ErrorCode;
use connectrpc::client::CallOptions;
use sandbar_proto::process::process_selector::Selector;
use sandbar_proto::process::stream_input_request::{DataEvent, StartEvent};
use sandbar_proto::process::{
    CloseStdinRequest, PTY, ProcessInput, ProcessSelector, SendInputRequest, StartRequest,
    StreamInputRequest, UpdateRequest, process_input::Input, pty::Size,
};

use crate::harness::{Agent, Following, start};

fn pid(pid: u32) -> ProcessSelector {
    ProcessSelector { selector: Some(Selector::Pid(pid)), ..Default::default() }
}

fn input(process: u32, input: Input) -> SendInputRequest {
    let input = ProcessInput { input: Some(input), ..Default::default() };
    SendInputRequest { process: pid(process).into(), input: input.into(), ..Default::default() }
}

fn close(process: u32) -> CloseStdinRequest {
    CloseStdinRequest { process: pid(process).into(), ..Default::default() }
}

fn with_stdin(cmd: &str, args: &[&str]) -> StartRequest {
    StartRequest { stdin: None, ..start(cmd, args) }
}

fn terminal(cols: u32, rows: u32) -> PTY {
    PTY { size: Size { cols, rows, ..Default::default() }.into(), ..Default::default() }
}

#[tokio::test]
async fn input_arrives_until_it_is_closed() {
    let agent = Agent::start().await;
    let rpc = agent.processes();
    let mut following = Following::new(rpc.start(with_stdin("cat", &[])).await.unwrap());
    let cat = following.pid().await;
    rpc.send_input(input(cat, Input::Stdin(b"one\n".to_vec()))).await.unwrap();
    following.until("one\n").await;
    rpc.send_input(input(cat, Input::Stdin(b"two\n".to_vec()))).await.unwrap();
    rpc.close_stdin(close(cat)).await.unwrap();
    let error = rpc.send_input(input(cat, Input::Stdin(b"three\n".to_vec()))).await.unwrap_err();
    assert!(matches!(error.code, ErrorCode::FailedPrecondition | ErrorCode::NotFound), "{error:?}");
    let done = following.finish().await.unwrap();
    assert_eq!((done.out(), done.end.exit_code), ("one\ntwo\n", 0));
}

#[tokio::test]
async fn without_stdin_a_reader_reads_its_end_at_once() {
    let agent = Agent::start().await;
    let done = agent.run(start("cat", &[]), CallOptions::default()).await.unwrap();
    assert_eq!((done.out(), done.end.exit_code), ("", 0));

    let mut following = Following::new(agent.processes().start(start("sleep", &["1000"])).await.unwrap());
    let sleeper = following.pid().await;
    let rpc = agent.processes();
    let refused = rpc.send_input(input(sleeper, Input::Stdin(b"x".to_vec()))).await.unwrap_err();
    assert_eq!(refused.code, ErrorCode::FailedPrecondition);
    assert_eq!(rpc.close_stdin(close(sleeper)).await.unwrap_err().code, ErrorCode::FailedPrecondition);
    let refused = rpc.send_input(input(sleeper, Input::Pty(b"x".to_vec()))).await.unwrap_err();
    assert_eq!(refused.code, ErrorCode::FailedPrecondition);
    let refused = rpc
        .send_input(SendInputRequest { process: pid(sleeper).into(), ..Default::default() })
        .await
        .unwrap_err();
    assert_eq!(refused.code, ErrorCode::InvalidArgument);
}

#[tokio::test]
async fn a_stream_of_input_arrives_in_order() {
    let agent = Agent::start().await;
    let rpc = agent.processes();
    let mut following = Following::new(rpc.start(with_stdin("sha256sum", &[])).await.unwrap());
    let reader = following.pid().await;
    let named = StreamInputRequest {
        event: Some(StartEvent { process: pid(reader).into(), ..Default::default() }.into()),
        ..Default::default()
    };
    let chunks = (0..200_u32).map(|n| {
        let input = ProcessInput {
            input: Some(Input::Stdin(vec![u8::try_from(n % 251).unwrap(); 10_000])),
            ..Default::default()
        };
        StreamInputRequest {
            event: Some(DataEvent { input: input.into(), ..Default::default() }.into()),
            ..Default::default()
        }
    });
    let all: Vec<StreamInputRequest> = std::iter::once(named).chain(chunks).collect();
    rpc.stream_input(futures::stream::iter(all)).await.unwrap();
    rpc.close_stdin(close(reader)).await.unwrap();
    let done = following.finish().await.unwrap();

    use sha2::Digest;
    let mut expected = sha2::Sha256::new();
    for n in 0..200_u32 {
        expected.update(vec![u8::try_from(n % 251).unwrap(); 10_000]);
    }
    let expected: String = expected.finalize().iter().map(|byte| format!("{byte:02x}")).collect();
    assert!(done.out().starts_with(&expected), "{}", done.out());
}

/// As much as one message may bring, to a process that does not read until it is told to.
#[tokio::test]
async fn ten_megabytes_wait_for_a_slow_process() {
    let agent = Agent::start().await;
    let rpc = agent.processes();
    let bytes: Vec<u8> = (0..10_000_000_u32).map(|n| u8::try_from(n % 251).unwrap()).collect();
    let script = "while [ ! -e go ]; do sleep 0.01; done; sha256sum";
    let mut request = with_stdin("/bin/sh", &["-c", script]);
    request.process.get_or_insert_default().cwd = Some(agent.at(""));
    let mut following = Following::new(rpc.start(request).await.unwrap());
    let reader = following.pid().await;
    let sending = tokio::spawn({
        let (rpc, bytes) = (agent.processes(), bytes.clone());
        async move { rpc.send_input(input(reader, Input::Stdin(bytes))).await }
    });
    // The agent answers while it waits, and says nothing before the process has read.
    assert_eq!(agent.sh("echo alive").await.out(), "alive\n");
    assert!(!sending.is_finished());
    std::fs::write(agent.path("go"), "").unwrap();
    sending.await.unwrap().unwrap();
    rpc.close_stdin(close(reader)).await.unwrap();
    let done = following.finish().await.unwrap();
    use sha2::Digest;
    let expected: String = sha2::Sha256::digest(&bytes).iter().map(|byte| format!("{byte:02x}")).collect();
    assert!(done.out().starts_with(&expected), "{}", done.out());
}

#[tokio::test]
async fn a_process_that_closed_its_input_says_so() {
    let agent = Agent::start().await;
    let rpc = agent.processes();
    let request = with_stdin("/bin/sh", &["-c", "exec 0<&-; echo closed; exec sleep 1000"]);
    let mut following = Following::new(rpc.start(request).await.unwrap());
    following.until("closed").await;
    let sleeper = following.so_far.pid;
    let error = rpc.send_input(input(sleeper, Input::Stdin(b"x".to_vec()))).await.unwrap_err();
    assert_eq!(error.code, ErrorCode::FailedPrecondition, "{error:?}");
}

#[tokio::test]
async fn terminals_beside_each_other_are_each_their_own() {
    let agent = Agent::start().await;
    let rpc = agent.processes();
    let mut shells = Vec::new();
    for n in 1..=8_u32 {
        let script = format!("stty size; read line; echo $line; exit {n}");
        let request =
            StartRequest { pty: terminal(80 + n, 24 + n).into(), ..start("/bin/bash", &["-c", &script]) };
        shells.push((n, Following::new(rpc.start(request).await.unwrap())));
    }
    for (n, shell) in &mut shells {
        shell.until(&format!("{} {}", 24 + *n, 80 + *n)).await;
    }
    for (n, shell) in &shells {
        let line = Input::Pty(format!("line {n}\n").into_bytes());
        rpc.send_input(input(shell.so_far.pid, line)).await.unwrap();
    }
    for (n, shell) in shells {
        let done = shell.finish().await.unwrap();
        let screen = String::from_utf8(done.pty).unwrap();
        // Once as it was typed, once as it was printed.
        assert_eq!(screen.matches(&format!("line {n}\r\n")).count(), 2, "{screen}");
        assert_eq!((screen.matches("line").count(), done.end.exit_code), (2, i32::try_from(n).unwrap()));
    }
}

#[tokio::test]
async fn a_terminal_is_one() {
    let agent = Agent::start().await;
    let rpc = agent.processes();
    let script = "test -t 0 && test -t 1 && test -t 2 && echo tty $TERM; stty size; read line; stty size; echo got $line; exit 4";
    let request = StartRequest { pty: terminal(80, 24).into(), ..start("/bin/bash", &["-c", script]) };
    let mut following = Following::new(rpc.start(request).await.unwrap());
    following.until("24 80").await;
    let shell = following.pid().await;
    let resize =
        UpdateRequest { process: pid(shell).into(), pty: terminal(132, 50).into(), ..Default::default() };
    rpc.update(resize).await.unwrap();
    let refused = rpc.send_input(input(shell, Input::Stdin(b"x\n".to_vec()))).await.unwrap_err();
    assert_eq!(refused.code, ErrorCode::FailedPrecondition);
    rpc.send_input(input(shell, Input::Pty(b"hello\n".to_vec()))).await.unwrap();
    let done = following.finish().await.unwrap();
    let screen = String::from_utf8(done.pty).unwrap();
    for expected in ["tty xterm-256color\r\n", "50 132\r\n", "got hello\r\n"] {
        assert!(screen.contains(expected), "{screen}");
    }
    assert_eq!((done.end.exit_code, done.stdout.len()), (4, 0));
}

#[tokio::test]
async fn control_c_interrupts_what_runs_in_a_terminal() {
    let agent = Agent::start().await;
    let rpc = agent.processes();
    let script = "trap 'echo interrupted; exit 7' INT; echo ready; sleep 1000";
    let request = StartRequest { pty: terminal(80, 24).into(), ..start("/bin/bash", &["-c", script]) };
    let mut following = Following::new(rpc.start(request).await.unwrap());
    following.until("ready").await;
    let shell = following.so_far.pid;
    rpc.send_input(input(shell, Input::Pty(vec![3]))).await.unwrap();
    let done = following.finish().await.unwrap();
    assert!(String::from_utf8_lossy(&done.pty).contains("interrupted"));
    assert_eq!(done.end.exit_code, 7);
}

#[tokio::test]
async fn a_terminal_needs_a_size_that_can_be() {
    let agent = Agent::start().await;
    for pty in [PTY::default(), terminal(70_000, 24)] {
        let request = StartRequest { pty: pty.into(), ..start("true", &[]) };
        let error = agent.run(request, CallOptions::default()).await.unwrap_err();
        assert_eq!(error.code, ErrorCode::InvalidArgument);
    }
}
