//! Forks: what each child is, what becomes of those that fail, and of a request that is repeated.

use std::collections::BTreeSet;

use sandbar_control::Config;
use sandbar_control::sandboxes::{Command, IdempotencyKey, NewFork, Sandbox, SandboxError};
use sandbar_testkit::sim_host::{Fault, Reason, Rpc, Times};
use sandbar_types::{ErrorCode, SandboxStatus};

use crate::support::{World, config};

fn of(count: u32) -> NewFork {
    NewFork { count, ..NewFork::default() }
}

type Children = Result<Vec<Result<Sandbox, SandboxError>>, SandboxError>;

async fn fork(world: &World, source: &Sandbox, new: NewFork, key: Option<&str>) -> Children {
    let key = key.map(|key| key.parse::<IdempotencyKey>().unwrap());
    world.control.sandbox_fork(&world.ctx, source, new, key.as_ref()).await
}

#[tokio::test]
async fn every_child_runs_with_a_token_and_a_name_of_its_own_and_the_source_runs_on() {
    let world = World::new().await;
    let source = world.create().await.unwrap();
    let new = NewFork { timeout_sec: Some(77), ..of(3) };
    let children: Vec<Sandbox> =
        fork(&world, &source, new, None).await.unwrap().into_iter().map(Result::unwrap).collect();
    let mut tokens = BTreeSet::new();
    for child in &children {
        assert_eq!((child.status, child.template.as_str()), (SandboxStatus::Running, "base"));
        assert_eq!((child.vcpus, child.memory_mb), (source.vcpus, source.memory_mb));
        assert_eq!((child.timeout_sec, child.host_id), (77, source.host_id));
        let sent = world.host.creation_of(&child.id.to_string()).unwrap();
        assert_eq!((sent.hostname, sent.timeout_sec), (child.id.to_string(), 77));
        assert!(tokens.insert(sent.access_token));
    }
    assert_eq!(tokens.len(), 3);
    assert_eq!(world.get(source.id).await.status, SandboxStatus::Running);
    assert_eq!(world.statuses().await, [SandboxStatus::Running; 4]);
    assert_eq!(world.told().await, ["api_key sandbox fork success"]);
    let of_source: i64 = sqlx::query_scalar("SELECT count(*) FROM sandboxes WHERE parent_id = $1")
        .bind(source.id.uuid())
        .fetch_one(world.database.pool())
        .await
        .unwrap();
    assert_eq!(of_source, 3);
}

#[tokio::test]
async fn the_source_serves_while_it_is_forked_and_cannot_be_changed() {
    let world = World::new().await;
    let source = world.create().await.unwrap();
    let gate = world.host.hold(Rpc::ForkSandbox);
    let (children, ()) = tokio::join!(fork(&world, &source, of(1), None), async {
        world.host.arrived(Rpc::ForkSandbox, 1).await;
        let now = world.get(source.id).await;
        assert_eq!(now.status, SandboxStatus::Snapshotting);
        let echo = Command { cmd: "echo".to_owned(), args: vec!["on".to_owned()], ..Command::default() };
        let output = world.control.sandbox_exec(&world.ctx, &now, &echo, Some(5)).await.unwrap();
        assert_eq!(output.stdout, "on\n");
        let refused = world.control.sandbox_pause(&world.ctx, &source).await.unwrap_err();
        assert_eq!(refused.code(), ErrorCode::InvalidState);
        gate.open();
    });
    assert!(children.unwrap().remove(0).is_ok());
}

#[tokio::test]
async fn a_child_that_fails_leaves_the_others_and_nothing_of_itself() {
    let world = World::new().await;
    let source = world.create().await.unwrap();
    world.host.fail_children(1);
    let children = fork(&world, &source, of(3), None).await.unwrap();
    let errors: Vec<&SandboxError> = children.iter().filter_map(|child| child.as_ref().err()).collect();
    assert_eq!((children.len(), errors.len()), (3, 1));
    assert_eq!(errors[0].code(), ErrorCode::NoHostsAvailable);
    assert_eq!(world.host.sandboxes().len(), 3);
    let mut statuses = world.statuses().await;
    statuses.sort_by_key(|status| status.as_str());
    assert_eq!(statuses[0], SandboxStatus::Error);
    assert_eq!(statuses[1..], [SandboxStatus::Running; 3]);
}

#[tokio::test]
async fn a_fork_that_fails_leaves_no_child_and_the_source_running() {
    let world = World::new().await;
    let source = world.create().await.unwrap();
    for (fault, code) in [
        (Fault::Fail, ErrorCode::AgentError),
        (Fault::Hang, ErrorCode::Timeout),
        (Fault::LoseReply, ErrorCode::HostUnavailable),
        (Fault::HangAfter, ErrorCode::Timeout),
        (Fault::Refuse(Reason::REASON_NO_CAPACITY), ErrorCode::NoHostsAvailable),
        (Fault::Refuse(Reason::REASON_BUSY), ErrorCode::InvalidState),
    ] {
        world.host.inject(Rpc::ForkSandbox, fault.clone(), Times::Once);
        let error = fork(&world, &source, of(2), None).await.unwrap_err();
        assert_eq!(error.code(), code, "{fault:?}: {error}");
        assert_eq!(world.host.sandboxes().len(), 1, "{fault:?}");
        assert_eq!(world.get(source.id).await.status, SandboxStatus::Running, "{fault:?}");
        assert_eq!(world.told().await.pop().unwrap(), "api_key sandbox fork error");
    }
    let living = world.statuses().await.into_iter().filter(|status| !status.is_end()).count();
    assert_eq!(living, 1);
    for (count, paused) in [(0, false), (21, false), (1, true)] {
        if paused {
            world.control.sandbox_pause(&world.ctx, &source).await.unwrap();
        }
        let code = fork(&world, &source, of(count), None).await.unwrap_err().code();
        assert_eq!(code, if paused { ErrorCode::InvalidState } else { ErrorCode::InvalidRequest });
    }
}

#[tokio::test]
async fn a_fork_whose_control_plane_died_is_taken_back_past_its_deadline() {
    let world = World::new().await;
    let source = world.create().await.unwrap();
    world.host.inject(Rpc::ForkSandbox, Fault::HangAfter, Times::Once);
    let id = source.id;
    let doomed = world.doomed(move |control, ctx| async move {
        let source = control.sandbox_get(&ctx, id).await.unwrap();
        drop(control.sandbox_fork(&ctx, &source, of(2), None).await);
    });
    // Between the host's doing and the rows' changes.
    world.host.sandboxes_are(3).await;
    doomed.kill();
    assert_eq!((world.look().await.ended, world.host.sandboxes().len()), (0, 3));
    world.age_rows().await;
    let report = world.look().await;
    assert_eq!((report.ended, report.settled), (2, 1));
    assert_eq!(world.host.sandboxes().len(), 1);
    assert_eq!(world.get(source.id).await.status, SandboxStatus::Running);
    assert!(world.told().await.contains(&"api_key sandbox fork error".to_owned()));
}

#[tokio::test]
async fn a_repeated_request_is_answered_with_the_same_children_and_makes_only_those_that_failed() {
    let world = World::new().await;
    let source = world.create().await.unwrap();
    world.host.fail_children(1);
    let ids = |children: &[Result<Sandbox, SandboxError>]| {
        children.iter().map(|child| child.as_ref().ok().map(|child| child.id)).collect::<Vec<_>>()
    };
    let first = fork(&world, &source, of(3), Some("k")).await.unwrap();
    let second = fork(&world, &source, of(3), Some("k")).await.unwrap();
    assert_eq!(ids(&first)[..2], ids(&second)[..2]);
    assert!(first[2].is_err() && second[2].is_ok());
    assert_eq!(world.host.sandboxes().len(), 4);
    // All of them are known now, and the source need not even be there.
    world.control.sandbox_destroy(&world.ctx, &world.get(source.id).await).await.unwrap();
    let third = fork(&world, &source, of(3), Some("k")).await.unwrap();
    assert_eq!(ids(&third), ids(&second));
    assert_eq!(world.host.calls(Rpc::ForkSandbox), 2);
    let other = fork(&world, &source, of(2), Some("k")).await.unwrap_err();
    assert!(matches!(other, SandboxError::KeyReused), "{other}");
}

#[tokio::test]
async fn no_more_children_are_made_than_the_host_has_room_for() {
    // 8192 MiB, a quarter of it: the source and three more.
    let world = World::with(Config { memory_promise_percent: 25, ..config() }).await;
    let source = world.create().await.unwrap();
    let children = fork(&world, &source, of(5), None).await.unwrap();
    let made = children.iter().filter(|child| child.is_ok()).count();
    assert_eq!((children.len(), made, world.host.sandboxes().len()), (5, 3, 4));
    for error in children.into_iter().filter_map(Result::err) {
        assert_eq!(error.code(), ErrorCode::NoHostsAvailable);
    }
    let full = fork(&world, &source, of(1), None).await.unwrap_err();
    assert_eq!(full.code(), ErrorCode::NoHostsAvailable);
    assert_eq!(world.get(source.id).await.status, SandboxStatus::Running);
}
