//! What is done to a sandbox that runs: delete, exec, files, ping, and being somebody else's.

use bytes::Bytes;
use futures::future::join_all;
use futures::stream;
use sandbar_control::sandboxes::{
    Command, ExecEvent, ExecStreamOptions, FileTarget, SandboxError, Stdin, WriteCondition,
};
use sandbar_control::{Actor, OpContext};
use sandbar_testkit::sim_host::{Fault, Reason, Rpc, Times};
use sandbar_types::{ErrorCode, Id, SandboxStatus};
use uuid::Uuid;

use crate::support::World;

fn command(cmd: &str, args: &[&str]) -> Command {
    Command {
        cmd: cmd.to_owned(),
        args: args.iter().map(|&arg| arg.to_owned()).collect(),
        ..Command::default()
    }
}

#[tokio::test]
async fn of_fifty_deletes_at_once_one_wins_and_the_trail_tells_it_once() {
    let world = World::new().await;
    let sandbox = world.create().await.unwrap();
    let deletes = (0..50).map(|_| world.control.sandbox_destroy(&world.ctx, &sandbox));
    let outcomes = join_all(deletes).await;
    assert_eq!(outcomes.iter().filter(|outcome| outcome.is_ok()).count(), 1);
    for error in outcomes.into_iter().filter_map(Result::err) {
        assert_eq!(error.code(), ErrorCode::InvalidState, "{error}");
    }
    assert_eq!(world.get(sandbox.id).await.status, SandboxStatus::Stopped);
    assert_eq!(world.host.sandboxes().len(), 0);
    let destroyed = world.trail().await.into_iter().filter(|(action, _)| action == "destroy").count();
    assert_eq!(destroyed, 1);
}

#[tokio::test]
async fn a_sandbox_that_the_host_does_not_have_counts_as_destroyed() {
    let world = World::new().await;
    let sandbox = world.create().await.unwrap();
    world.host.forget(&sandbox.id.to_string());
    world.control.sandbox_destroy(&world.ctx, &sandbox).await.unwrap();
    assert_eq!(world.get(sandbox.id).await.status, SandboxStatus::Stopped);
}

#[tokio::test]
async fn a_host_that_fails_a_delete_is_reported_and_the_reconciler_finishes_it() {
    let world = World::new().await;
    let sandbox = world.create().await.unwrap();
    world.host.inject(Rpc::DestroySandbox, Fault::Fail, Times::Once);
    let error = world.control.sandbox_destroy(&world.ctx, &sandbox).await.unwrap_err();
    assert_eq!(error.code(), ErrorCode::AgentError, "{error}");
    assert_eq!(world.get(sandbox.id).await.status, SandboxStatus::Stopping);
    let report = world.control.reconcile_host(world.host_id, None).await.unwrap();
    assert_eq!(report.ended, 0, "somebody may still be at it");
    world.age_rows().await;
    let report = world.control.reconcile_host(world.host_id, None).await.unwrap();
    assert_eq!((report.ended, report.failed), (1, 0));
    assert_eq!(world.get(sandbox.id).await.status, SandboxStatus::Stopped);
    assert_eq!(world.host.sandboxes().len(), 0);
}

#[tokio::test]
async fn every_reason_of_a_host_is_told_in_its_own_code() {
    let world = World::new().await;
    let sandbox = world.create().await.unwrap();
    let table = [
        (Reason::REASON_SANDBOX_NOT_FOUND, ErrorCode::InvalidState),
        (Reason::REASON_INVALID_STATE, ErrorCode::InvalidState),
        (Reason::REASON_BAD_INPUT, ErrorCode::InvalidRequest),
        (Reason::REASON_COMMAND_NOT_FOUND, ErrorCode::InvalidRequest),
        (Reason::REASON_FILE_NOT_FOUND, ErrorCode::NotFound),
        (Reason::REASON_GUEST_DISK_FULL, ErrorCode::InvalidState),
        (Reason::REASON_GUEST_UNREACHABLE, ErrorCode::AgentError),
        (Reason::REASON_TIMEOUT, ErrorCode::Timeout),
    ];
    for (reason, code) in table {
        world.host.inject(Rpc::Exec, Fault::Refuse(reason), Times::Once);
        let error =
            world.control.sandbox_exec(&world.ctx, &sandbox, &command("true", &[]), None).await.unwrap_err();
        assert_eq!(error.code(), code, "{reason:?}: {error}");
        world.host.inject(Rpc::ExecStream, Fault::Refuse(reason), Times::Once);
        let stream = world
            .control
            .sandbox_exec_stream(&world.ctx, &sandbox, &command("true", &[]), ExecStreamOptions::default())
            .await;
        let error = match stream {
            Ok(mut stream) => stream.output.next().await.unwrap_err(),
            Err(error) => error,
        };
        assert_eq!(error.code(), code, "streamed, {reason:?}: {error}");
    }
}

#[tokio::test]
async fn a_stream_carries_input_and_output_and_how_it_ended() {
    let world = World::new().await;
    let sandbox = world.create().await.unwrap();
    let options = ExecStreamOptions { stdin: Stdin::Open, ..ExecStreamOptions::default() };
    let mut stream =
        world.control.sandbox_exec_stream(&world.ctx, &sandbox, &command("cat", &[]), options).await.unwrap();
    assert!(matches!(stream.output.next().await.unwrap(), Some(ExecEvent::Started { .. })));
    stream.input.stdin(Bytes::from_static(b"\xffhi")).await.unwrap();
    assert_eq!(stream.output.next().await.unwrap(), Some(ExecEvent::Stdout(Bytes::from_static(b"\xffhi"))));
    stream.input.close_stdin().await.unwrap();
    let Some(ExecEvent::Exit { exit_code: 0, .. }) = stream.output.next().await.unwrap() else {
        panic!("cat ends with its input");
    };
    assert_eq!(stream.output.next().await.unwrap(), None);
}

#[tokio::test]
async fn a_file_comes_back_as_it_was_written_and_a_broken_upload_writes_nothing() {
    let world = World::new().await;
    let sandbox = world.create().await.unwrap();
    let target = FileTarget { path: "/home/user/f".to_owned(), user: None };
    let whole: Vec<u8> = (0..3_000_000u32).map(|i| i.to_le_bytes()[i as usize % 3]).collect();
    let chunks: Vec<std::io::Result<Bytes>> =
        whole.chunks(700_001).map(|chunk| Ok(Bytes::copy_from_slice(chunk))).collect();
    let written = world
        .control
        .sandbox_write_file(&world.ctx, &sandbox, &target, WriteCondition::Whatever, stream::iter(chunks))
        .await
        .unwrap();
    assert_eq!(written.bytes, 3_000_000);

    let broken = vec![Ok(Bytes::from_static(b"half")), Err(std::io::Error::other("the client went away"))];
    let error = world
        .control
        .sandbox_write_file(&world.ctx, &sandbox, &target, WriteCondition::Whatever, stream::iter(broken))
        .await
        .unwrap_err();
    assert!(matches!(error, SandboxError::Upload(_)), "{error}");

    let mut contents = world.control.sandbox_read_file(&world.ctx, &sandbox, &target).await.unwrap();
    let mut read = Vec::new();
    while let Some(chunk) = contents.next().await.unwrap() {
        read.extend_from_slice(&chunk);
    }
    assert!(read == whole, "{} bytes came back", read.len());
    let missing = FileTarget { path: "/nope".to_owned(), user: None };
    let error = world.control.sandbox_read_file(&world.ctx, &sandbox, &missing).await.err().unwrap();
    assert_eq!(error.code(), ErrorCode::NotFound, "{error}");
}

#[tokio::test]
async fn what_does_not_run_takes_no_commands_and_says_why() {
    let world = World::new().await;
    let sandbox = world.create().await.unwrap();
    world.execute("UPDATE sandboxes SET status = 'missing'").await;
    let missing = world.get(sandbox.id).await;
    let ping = async |sandbox| world.control.sandbox_ping(&world.ctx, sandbox).await;
    assert_eq!(ping(&missing).await.unwrap_err().code(), ErrorCode::HostUnavailable);
    world.execute("UPDATE sandboxes SET status = 'stopped'").await;
    let stopped = world.get(sandbox.id).await;
    assert_eq!(ping(&stopped).await.unwrap_err().code(), ErrorCode::InvalidState);
    assert_eq!(world.host.calls(Rpc::PingSandbox), 0);
    world.execute("UPDATE sandboxes SET status = 'running'").await;
    ping(&world.get(sandbox.id).await).await.unwrap();
}

#[tokio::test]
async fn a_host_that_is_down_is_unavailable_and_serves_again_after_its_restart() {
    let world = World::new().await;
    let sandbox = world.create().await.unwrap();
    let exec =
        async || world.control.sandbox_exec(&world.ctx, &sandbox, &command("echo", &["hi"]), Some(5)).await;
    assert_eq!(exec().await.unwrap().stdout, "hi\n");
    world.host.crash().await.unwrap();
    assert_eq!(exec().await.unwrap_err().code(), ErrorCode::HostUnavailable);
    world.host.restart().await.unwrap();
    assert_eq!(exec().await.unwrap().stdout, "hi\n");
}

#[tokio::test]
async fn another_teams_sandbox_is_not_there() {
    let world = World::new().await;
    let sandbox = world.create().await.unwrap();
    let actor = Actor::ApiKey { id: Id::new(), name: "k".to_owned(), team: Id::new() };
    let stranger = OpContext::new(Uuid::now_v7(), actor);
    let error = world.control.sandbox_get(&stranger, sandbox.id).await.unwrap_err();
    assert!(matches!(error, SandboxError::NotFound { .. }), "{error}");
    let page = world.control.sandbox_list(&stranger, &Default::default(), &Default::default()).await.unwrap();
    assert!(page.items.is_empty());
}
