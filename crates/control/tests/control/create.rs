//! Creating: what happens when each step fails, is repeated, is overtaken, or is cut.

use futures::future::join_all;
use sandbar_control::sandboxes::{IdempotencyKey, NewSandbox, NoHostReason, SandboxError};
use sandbar_control::{Config, OpContext};
use sandbar_testkit::sim_host::{Fault, Reason, Rpc, Times};
use sandbar_types::{ErrorCode, SandboxStatus};
use uuid::Uuid;

use crate::support::{World, config};

#[tokio::test]
async fn a_sandbox_runs_as_its_template_says_and_with_a_token_of_its_own() {
    let world = World::new().await;
    let (one, two) = (world.create().await.unwrap(), world.create().await.unwrap());
    assert_eq!(one.status, SandboxStatus::Running);
    assert_eq!((one.vcpus, one.memory_mb, one.template.as_str()), (1, 512, "base"));
    assert!(one.guest_ip.is_some() && one.host_ip.is_some() && one.started_at.is_some());
    assert_eq!(one.host_id, Some(world.host_id));
    let sent = |id: String| world.host.creation_of(&id).unwrap();
    let (sent_one, sent_two) = (sent(one.id.to_string()), sent(two.id.to_string()));
    assert_eq!(sent_one.access_token.len(), 64);
    assert_ne!(sent_one.access_token, sent_two.access_token);
    assert_ne!(sent_one.hostname, sent_two.hostname);
    let created = ("create".to_owned(), "success".to_owned());
    assert_eq!(world.trail().await, [created.clone(), created]);
}

#[tokio::test]
async fn each_way_that_a_host_can_fail_a_create_leaves_nothing_on_it_and_no_row_alive() {
    let table = [
        (Fault::Fail, ErrorCode::AgentError),
        (Fault::Hang, ErrorCode::Timeout),
        (Fault::LoseReply, ErrorCode::HostUnavailable),
        (Fault::HangAfter, ErrorCode::Timeout),
        (Fault::Refuse(Reason::REASON_GUEST_UNREACHABLE), ErrorCode::AgentError),
        (Fault::Refuse(Reason::REASON_NO_CAPACITY), ErrorCode::NoHostsAvailable),
        (Fault::Refuse(Reason::REASON_TEMPLATE_NOT_FOUND), ErrorCode::NoHostsAvailable),
    ];
    let world = World::new().await;
    for (count, (fault, code)) in table.into_iter().enumerate() {
        // The last fault makes the control plane forget that the host has the template.
        world.host.inject(Rpc::CreateSandbox, fault.clone(), Times::Once);
        let error = world.create().await.unwrap_err();
        assert_eq!(error.code(), code, "{fault:?}: {error}");
        assert_eq!(world.host.sandboxes().len(), 0, "{fault:?}");
        assert_eq!(world.statuses().await, vec![SandboxStatus::Error; count + 1], "{fault:?}");
        let (action, status) = world.trail().await.pop().unwrap();
        assert_eq!((action.as_str(), status.as_str()), ("create", "error"));
    }
    let error = world.create().await.unwrap_err();
    assert!(
        matches!(error, SandboxError::NoHosts { reason: NoHostReason::NoTemplateFiles }),
        "a host that says that it lacks the files is not asked again: {error}"
    );
    // The host has them after all: looking mends it.
    world.control.ensure_base_template(world.host_id).await.unwrap();
    assert!(world.create().await.is_ok());
}

#[tokio::test]
async fn what_cannot_be_undone_now_is_undone_by_the_next_round() {
    let world = World::new().await;
    world.host.inject(Rpc::CreateSandbox, Fault::LoseReply, Times::Once);
    world.host.inject(Rpc::DestroySandbox, Fault::Fail, Times::Once);
    assert_eq!(world.create().await.unwrap_err().code(), ErrorCode::HostUnavailable);
    assert_eq!(world.statuses().await, [SandboxStatus::Error]);
    assert_eq!(world.host.sandboxes().len(), 1, "the machine is there, and nobody wants it");
    let report = world.control.reconcile_host(world.host_id, None).await.unwrap();
    assert_eq!((report.destroyed, report.failed), (1, 0));
    assert_eq!(world.host.sandboxes().len(), 0);
}

#[tokio::test]
async fn a_delete_in_the_middle_of_a_create_wins_and_leaves_nothing() {
    let world = World::new().await;
    let gate = world.host.hold(Rpc::CreateSandbox);
    let create = world.create();
    let delete = async {
        world.host.arrived(Rpc::CreateSandbox, 1).await;
        let starting = &world
            .control
            .sandbox_list(&world.ctx, &Default::default(), &Default::default())
            .await
            .unwrap()
            .items[0];
        assert_eq!(starting.status, SandboxStatus::Starting);
        world.control.sandbox_destroy(&world.ctx, starting).await.unwrap();
        gate.open();
    };
    let (created, ()) = tokio::join!(create, delete);
    assert!(matches!(created, Err(SandboxError::Interrupted { .. })), "{created:?}");
    assert_eq!(world.statuses().await, [SandboxStatus::Stopped]);
    assert_eq!(world.host.sandboxes().len(), 0, "the machine that came after the delete is destroyed, too");
}

#[tokio::test]
async fn a_caller_that_goes_away_does_not_cut_the_work() {
    let world = World::new().await;
    let gate = world.host.hold(Rpc::CreateSandbox);
    {
        let create = world.create();
        tokio::select! {
            _ = create => panic!("the host holds it"),
            () = world.host.arrived(Rpc::CreateSandbox, 1) => {}
        }
    }
    gate.open();
    world.control.drain().await;
    assert_eq!(world.statuses().await, [SandboxStatus::Running]);
    assert_eq!(world.host.sandboxes().len(), 1);
}

#[tokio::test]
async fn bad_requests_reach_neither_the_database_nor_a_host() {
    let world = World::new().await;
    let create =
        async |new: NewSandbox| world.control.sandbox_create(&world.ctx, &new, None).await.unwrap_err();
    let of = |change: fn(&mut NewSandbox)| {
        let mut new = NewSandbox::default();
        change(&mut new);
        new
    };
    assert_eq!(create(of(|new| new.vcpus = Some(0))).await.code(), ErrorCode::InvalidRequest);
    assert_eq!(create(of(|new| new.disk_mb = Some(4096))).await.code(), ErrorCode::InvalidRequest);
    assert_eq!(create(of(|new| new.template = Some("../x".into()))).await.code(), ErrorCode::InvalidRequest);
    assert_eq!(create(of(|new| new.template = Some("nope".into()))).await.code(), ErrorCode::NotFound);
    let nobody = OpContext::anonymous(Uuid::now_v7());
    let error = world.control.sandbox_create(&nobody, &NewSandbox::default(), None).await.unwrap_err();
    assert_eq!(error.code(), ErrorCode::NoTeam);
    assert_eq!(world.statuses().await, []);
    assert_eq!(world.host.calls(Rpc::CreateSandbox), 0);
}

#[tokio::test]
async fn without_a_host_online_nothing_is_written() {
    let world = World::new().await;
    world.execute("UPDATE hosts SET status = 'unreachable'").await;
    let error = world.create().await.unwrap_err();
    assert!(matches!(error, SandboxError::NoHosts { reason: NoHostReason::NoneOnline }), "{error}");
    assert_eq!(world.statuses().await, []);
}

#[tokio::test]
async fn of_many_creates_at_once_as_many_run_as_fit() {
    // 8192 MiB at 50 %: eight of 512.
    let world = World::with(Config { memory_promise_percent: 50, ..config() }).await;
    let outcomes = join_all((0..20).map(|_| world.create())).await;
    let (made, refused): (Vec<_>, Vec<_>) = outcomes.into_iter().partition(Result::is_ok);
    assert_eq!((made.len(), refused.len()), (8, 12));
    for error in refused {
        let error = error.unwrap_err();
        assert!(matches!(error, SandboxError::NoHosts { reason: NoHostReason::Full }), "{error}");
    }
    assert_eq!(world.host.sandboxes().len(), 8);
    assert_eq!(world.statuses().await, vec![SandboxStatus::Running; 8]);
}

#[tokio::test]
async fn a_repeated_request_is_answered_with_the_first_ones_sandbox() {
    let world = World::new().await;
    let key: IdempotencyKey = "k-1".parse().unwrap();
    let new = NewSandbox { timeout_sec: Some(60), ..NewSandbox::default() };
    let create = || world.control.sandbox_create(&world.ctx, &new, Some(&key));
    let first = create().await.unwrap();
    assert_eq!(create().await.unwrap().id, first.id);
    let other = NewSandbox { timeout_sec: Some(61), ..NewSandbox::default() };
    let error = world.control.sandbox_create(&world.ctx, &other, Some(&key)).await.unwrap_err();
    assert!(matches!(error, SandboxError::KeyReused), "{error}");
    // Answered, too, when no host could take another one, and after the sandbox's end.
    world.control.sandbox_destroy(&world.ctx, &first).await.unwrap();
    world.execute("UPDATE hosts SET status = 'unreachable'").await;
    let again = create().await.unwrap();
    assert_eq!((again.id, again.status), (first.id, SandboxStatus::Stopped));
    assert_eq!(world.host.calls(Rpc::CreateSandbox), 1);
}

#[tokio::test]
async fn of_ten_requests_with_one_key_at_once_one_is_carried_out() {
    let world = World::new().await;
    let key: IdempotencyKey = "k-1".parse().unwrap();
    let new = NewSandbox::default();
    let outcomes =
        join_all((0..10).map(|_| world.control.sandbox_create(&world.ctx, &new, Some(&key)))).await;
    let mut ids: Vec<_> = outcomes.iter().flatten().map(|sandbox| sandbox.id).collect();
    ids.dedup();
    assert_eq!(ids.len(), 1);
    for error in outcomes.into_iter().filter_map(Result::err) {
        assert!(matches!(error, SandboxError::KeyInProgress), "{error}");
    }
    assert_eq!(world.host.calls(Rpc::CreateSandbox), 1);
    assert_eq!(world.statuses().await, [SandboxStatus::Running]);
}

#[tokio::test]
async fn a_failed_first_attempt_does_not_block_its_key() {
    let world = World::new().await;
    let key: IdempotencyKey = "k-1".parse().unwrap();
    let new = NewSandbox::default();
    let create = || world.control.sandbox_create(&world.ctx, &new, Some(&key));
    world.host.inject(Rpc::CreateSandbox, Fault::Fail, Times::Once);
    create().await.unwrap_err();
    let second = create().await.unwrap();
    assert_eq!(create().await.unwrap().id, second.id);
    // Nor does one whose control plane died: once the reconciler ended its row.
    world
        .execute("UPDATE sandboxes SET status = 'starting', started_at = NULL WHERE status = 'running'")
        .await;
    assert!(matches!(create().await, Err(SandboxError::KeyInProgress)));
    world.age_rows().await;
    world.control.reconcile_host(world.host_id, None).await.unwrap();
    let third = create().await.unwrap();
    assert_ne!(third.id, second.id);
    assert_eq!(world.host.sandboxes().len(), 1);
}
