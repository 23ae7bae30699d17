//! Starting processes: as whom, where, with what, and how they end.

use std::os::fd::OwnedFd;
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use connectrpc::ErrorCode;
use connectrpc::client::{CallOptions, HttpClient};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, pidfd_open};
use sandbar_proto::process::{
    ConnectRequest, ListRequest, ProcessClient, ProcessSelector, SendSignalRequest, Signal, StartRequest,
    process_selector::Selector,
};
use serde_json::json;

use crate::harness::{Agent, Following, start};

fn user(name: &str) -> CallOptions {
    CallOptions::default()
        .with_header("authorization", format!("Basic {}", STANDARD.encode(format!("{name}:"))))
}

fn pid(pid: u32) -> ProcessSelector {
    ProcessSelector { selector: Some(Selector::Pid(pid)), ..Default::default() }
}

fn signal(process: ProcessSelector, signal: Signal) -> SendSignalRequest {
    SendSignalRequest { process: process.into(), signal: signal.into(), ..Default::default() }
}

/// A handle that becomes readable when the process ends, whoever its parent is.
fn handle(pid: &str) -> OwnedFd {
    pidfd_open(Pid::from_raw(pid.trim().parse().unwrap()).unwrap(), PidfdFlags::empty()).unwrap()
}

fn has_ended(process: &OwnedFd) -> bool {
    let limit = Timespec { tv_sec: 10, tv_nsec: 0 };
    poll(&mut [PollFd::new(process, PollFlags::IN)], Some(&limit)).unwrap() == 1
}

#[tokio::test]
async fn output_and_status_arrive() {
    let agent = Agent::start().await;
    let done = agent.sh("echo out; echo err >&2; exit 3").await;
    assert_eq!((done.out(), done.stderr.as_slice()), ("out\n", &b"err\n"[..]));
    assert_eq!((done.end.exit_code, done.end.exited, done.end.status.as_str()), (3, true, "exit status 3"));
    assert_eq!(done.end.error.as_deref(), Some("exit status 3"));
    let done = agent.sh("true").await;
    assert_eq!((done.end.exit_code, done.end.exited, done.end.error), (0, true, None));
}

#[tokio::test]
async fn output_is_bytes() {
    let agent = Agent::start().await;
    let bytes: Vec<u8> = (0..=255).cycle().take(100_000).collect();
    std::fs::write(agent.path("bytes"), &bytes).unwrap();
    let done = agent.run(start("cat", &[&agent.at("bytes")]), CallOptions::default()).await.unwrap();
    assert!(done.stdout == bytes);
}

#[tokio::test]
async fn both_codecs_and_both_versions_of_http_work() {
    let agent = Agent::start().await;
    for http2 in [false, true] {
        for config in [agent.config().json(), agent.config().proto()] {
            let http = if http2 { HttpClient::plaintext_http2_only() } else { HttpClient::plaintext() };
            let client = ProcessClient::new(http, config);
            let stream = client.start(start("/bin/echo", &["hi"])).await.unwrap();
            assert_eq!(Following::new(stream).finish().await.unwrap().out(), "hi\n");
        }
    }
}

#[tokio::test]
async fn what_cannot_be_started_is_said_before_any_event() {
    let agent = Agent::start().await;
    std::fs::write(agent.path("plain"), "not a program").unwrap();
    let with_cwd = |cwd: &str| {
        let mut request = start("true", &[]);
        request.process.get_or_insert_default().cwd = Some(cwd.to_owned());
        request
    };
    let mut bad_env = start("true", &[]);
    bad_env.process.get_or_insert_default().envs.insert("A=B".into(), "1".into());
    let plain = agent.at("plain");
    let missing = agent.at("missing");
    for (request, code, message) in [
        (
            start("no-such-command", &[]),
            ErrorCode::NotFound,
            "'no-such-command': command not found".to_owned(),
        ),
        (start("/no/such/file", &[]), ErrorCode::NotFound, "'/no/such/file': command not found".into()),
        (start(&plain, &[]), ErrorCode::NotFound, format!("'{plain}': permission denied")),
        (start("/etc", &[]), ErrorCode::NotFound, "'/etc': permission denied".into()),
        (start("", &[]), ErrorCode::InvalidArgument, "cmd is empty".into()),
        (StartRequest::default(), ErrorCode::InvalidArgument, "cmd is empty".into()),
        (with_cwd(&missing), ErrorCode::InvalidArgument, format!("cwd '{missing}' does not exist")),
        (with_cwd(&plain), ErrorCode::InvalidArgument, format!("cwd '{plain}' is not a directory")),
        (
            with_cwd("~nobody"),
            ErrorCode::InvalidArgument,
            "cannot expand another user's home: '~nobody'".into(),
        ),
        (bad_env, ErrorCode::InvalidArgument, "invalid environment variable \"A=B\"".into()),
    ] {
        let error = agent.run(request, CallOptions::default()).await.unwrap_err();
        assert_eq!((error.code, error.message.as_deref()), (code, Some(message.as_str())));
    }
    let error = agent.run(start("echo", &["a\0b"]), CallOptions::default()).await.unwrap_err();
    assert_eq!(error.code, ErrorCode::InvalidArgument);
    // Not by the size of a message: by what the kernel takes.
    let error = agent.run(start("echo", &[&"x".repeat(200_000)]), CallOptions::default()).await.unwrap_err();
    assert_eq!(error.code, ErrorCode::InvalidArgument);
    assert!(agent.processes().list(ListRequest::default()).await.unwrap().into_owned().processes.is_empty());
}

#[tokio::test]
async fn commands_run_as_the_user_that_is_named() {
    let agent = Agent::start().await;
    let ids = start("/bin/sh", &["-c", "id -u; id -g; id -G; echo $HOME $USER $LOGNAME; pwd"]);
    let done = agent.run(ids.clone(), user("nobody")).await.unwrap();
    // Its home does not exist, so it begins at the root.
    assert_eq!(done.out(), "65534\n65534\n65534\n/nonexistent nobody nobody\n/\n");
    let done = agent.run(ids, user("root")).await.unwrap();
    assert_eq!(done.out(), "0\n0\n0\n/root root root\n/root\n");

    let done = agent.run(start("cat", &[&agent.at("state.json")]), user("nobody")).await.unwrap();
    assert_eq!(done.end.exit_code, 1, "the token is root's alone");
    let error = agent.run(start("true", &[]), user("no-such-user")).await.unwrap_err();
    assert_eq!(
        (error.code, error.message.as_deref()),
        (ErrorCode::Unauthenticated, Some("invalid username: 'no-such-user'"))
    );
}

#[tokio::test]
async fn the_environment_is_the_sandboxes_and_the_requests() {
    let init = json!({ "envVars": { "FROM_SANDBOX": "1", "BOTH": "sandbox" }, "defaultWorkdir": "/usr" });
    let agent = Agent::start_with(&[], init).await;
    let mut request = start("/usr/bin/env", &[]);
    request
        .process
        .get_or_insert_default()
        .envs
        .extend([("BOTH".into(), "request".into()), ("EMPTY".into(), String::new())]);
    let done = agent.run(request, CallOptions::default()).await.unwrap();
    let mut names: Vec<&str> = done.out().lines().map(|line| line.split_once('=').unwrap().0).collect();
    names.sort_unstable();
    assert_eq!(names, ["BOTH", "EMPTY", "FROM_SANDBOX", "HOME", "LOGNAME", "PATH", "SHELL", "USER"]);
    assert!(done.out().contains("BOTH=request\n") && done.out().contains("FROM_SANDBOX=1\n"));

    let mut request = start("pwd", &[]);
    assert_eq!(agent.run(request.clone(), CallOptions::default()).await.unwrap().out(), "/usr\n");
    for (cwd, expected) in [("lib", "/usr/lib\n"), ("~", "/root\n"), ("/etc/..", "/\n")] {
        request.process.get_or_insert_default().cwd = Some(cwd.into());
        assert_eq!(agent.run(request.clone(), CallOptions::default()).await.unwrap().out(), expected);
    }
}

#[tokio::test]
async fn the_deadline_kills_the_whole_session() {
    let agent = Agent::start().await;
    // `set -m` gives the second child a group of its own, as an interactive shell does with its jobs.
    let script = "sleep 1000 & echo $!; set -m; sleep 1001 & echo $!; echo ready; wait";
    let options = CallOptions::default().with_timeout(Duration::from_secs(2));
    let stream =
        agent.processes().start_with_options(start("/bin/bash", &["-c", script]), options).await.unwrap();
    let mut following = Following::new(stream);
    following.until("ready").await;
    let children: Vec<OwnedFd> = following.so_far.out().lines().take(2).map(handle).collect();
    let leader = handle(&following.so_far.pid.to_string());
    let error = following.finish().await.unwrap_err();
    assert_eq!(error.code, ErrorCode::DeadlineExceeded);
    assert!(children.iter().chain([&leader]).all(has_ended));
}

#[tokio::test]
async fn a_caller_that_leaves_does_not_end_the_process() {
    let agent = Agent::start().await;
    let script = format!("mkfifo {0}; echo ready; read line < {0}; echo \"$line\"; exit 5", agent.at("fifo"));
    let mut request = start("/bin/sh", &["-c", &script]);
    request.tag = Some("worker".into());
    let mut following = Following::new(agent.processes().start(request).await.unwrap());
    following.until("ready").await;
    let started = following.so_far.pid;
    drop(following);

    let listed = agent.processes().list(ListRequest::default()).await.unwrap().into_owned().processes;
    assert_eq!((listed.len(), listed[0].pid, listed[0].tag.as_deref()), (1, started, Some("worker")));
    assert_eq!(listed[0].config.cmd, "/bin/sh");

    // Another caller goes on where the first one left: "ready\n" were 6 bytes.
    let by_tag = ProcessSelector { selector: Some(Selector::Tag("worker".into())), ..Default::default() };
    let from = ConnectRequest { process: by_tag.into(), from_offset: Some(6), ..Default::default() };
    let mut stream = agent.processes().connect(from.clone()).await.unwrap();
    std::fs::write(agent.path("fifo"), "written later\n").unwrap();
    let events = events(&mut stream).await;
    assert_eq!(events, ["start", "stdout 6 written later\n", "end 5"]);
    // And a late one still learns how it ended.
    let mut stream = agent.processes().connect(from).await.unwrap();
    assert_eq!(self::events(&mut stream).await, ["start", "stdout 6 written later\n", "end 5"]);
    assert!(agent.processes().list(ListRequest::default()).await.unwrap().into_owned().processes.is_empty());
}

async fn events<B>(
    stream: &mut connectrpc::client::ServerStream<B, sandbar_proto::process::ConnectResponseView<'static>>,
) -> Vec<String>
where
    B: http_body::Body<Data = bytes::Bytes> + Unpin,
    B::Error: std::error::Error + Send + Sync + 'static,
{
    use sandbar_proto::process::process_event::{Event, data_event::Output};
    let mut events = Vec::new();
    while let Some(message) = stream.message::<sandbar_proto::process::ConnectResponse>().await.unwrap() {
        let event = message.to_owned_message().event.into_option().unwrap().event.unwrap();
        events.push(match event {
            Event::Start(_) => "start".to_owned(),
            Event::Data(data) => match data.output {
                Some(Output::Stdout(bytes)) => {
                    format!("stdout {} {}", data.offset, String::from_utf8(bytes).unwrap())
                }
                other => format!("{other:?}"),
            },
            Event::End(end) => format!("end {}", end.exit_code),
            Event::Keepalive(_) => "keepalive".to_owned(),
        });
    }
    events
}

#[tokio::test]
async fn signals_reach_the_process_and_its_group() {
    let agent = Agent::start().await;
    for (sent, status) in
        [(Signal::SIGNAL_SIGKILL, "signal: killed"), (Signal::SIGNAL_SIGTERM, "signal: terminated")]
    {
        let script = "sleep 1000 & echo $!; echo ready; wait";
        let mut following =
            Following::new(agent.processes().start(start("/bin/sh", &["-c", script])).await.unwrap());
        following.until("ready").await;
        let started = following.so_far.pid;
        let child = handle(following.so_far.out().lines().next().unwrap());
        agent.processes().send_signal(signal(pid(started), sent)).await.unwrap();
        let done = following.finish().await.unwrap();
        assert_eq!((done.end.exit_code, done.end.exited, done.end.status.as_str()), (-1, false, status));
        assert!(has_ended(&child));

        let error = agent.processes().send_signal(signal(pid(started), sent)).await.unwrap_err();
        let message = format!("process with pid {started} not found");
        assert_eq!((error.code, error.message), (ErrorCode::NotFound, Some(message)));
    }
    let error = agent.processes().send_signal(signal(pid(1), Signal::SIGNAL_SIGKILL)).await.unwrap_err();
    assert_eq!(error.code, ErrorCode::NotFound, "only its own processes");
    let error = agent.processes().send_signal(SendSignalRequest::default()).await.unwrap_err();
    assert_eq!(error.code, ErrorCode::InvalidArgument);
}

#[tokio::test]
async fn a_process_that_ends_by_itself_with_children_left_has_ended() {
    let agent = Agent::start().await;
    // The child holds the pipes; it must live on, and the command must not wait for it.
    let done = agent.sh("sleep 1000 & echo $!").await;
    assert_eq!(done.end.exit_code, 0);
    let child = handle(done.out());
    let at_once = Timespec { tv_sec: 0, tv_nsec: 0 };
    assert_eq!(
        poll(&mut [PollFd::new(&child, PollFlags::IN)], Some(&at_once)).unwrap(),
        0,
        "the child lives"
    );
    rustix::process::pidfd_send_signal(&child, rustix::process::Signal::KILL).unwrap();
}

#[tokio::test]
async fn children_have_none_of_the_agents_privileges() {
    let agent = Agent::start().await;
    let done = agent
        .sh("cat /proc/self/oom_score_adj; ps -o ni= -p $$; ps -o sid= -p $$; echo $$; ls /proc/self/fd")
        .await;
    let lines: Vec<&str> = done.out().lines().map(str::trim).collect();
    assert_eq!(lines[..2], ["0", "0"]);
    assert_eq!(lines[2], lines[3], "it leads a session");
    // The fourth is the folder that `ls` itself reads.
    assert_eq!(lines[4..], ["0", "1", "2", "3"], "no descriptor of the agent's leaks");
}
