//! Pause, resume, time-outs and figures: what happens when the host refuses, is slow, dies, or acts by itself.

use futures::future::join_all;
use sandbar_control::Config;
use sandbar_control::sandboxes::{
    Awakening, Entered, NewDeadline, NewSandbox, OnTimeout, PauseMode, Resume, SandboxError,
};
use sandbar_control::snapshots::NewSnapshot;
use sandbar_testkit::sim_host::{Fault, Reason, Rpc, SandboxState, Times};
use sandbar_types::{ErrorCode, Ingress, MetricsRange, SandboxStatus, TimeoutFrom};

use crate::support::{World, config};

/// Every way in which a call can fail, with what its caller is told; none where it is done all the same.
fn faults() -> Vec<(Fault, Option<ErrorCode>)> {
    vec![
        (Fault::Refuse(Reason::REASON_GUEST_UNREACHABLE), Some(ErrorCode::AgentError)),
        (Fault::Refuse(Reason::REASON_NO_CAPACITY), Some(ErrorCode::NoHostsAvailable)),
        (Fault::Refuse(Reason::REASON_BUSY), Some(ErrorCode::InvalidState)),
        (Fault::Refuse(Reason::REASON_SNAPSHOT_DAMAGED), Some(ErrorCode::AgentError)),
        (Fault::Refuse(Reason::REASON_INCOMPATIBLE), Some(ErrorCode::InvalidState)),
        (Fault::Fail, Some(ErrorCode::AgentError)),
        (Fault::Hang, Some(ErrorCode::Timeout)),
        (Fault::LoseReply, None),
        (Fault::HangAfter, None),
    ]
}

#[tokio::test]
async fn a_paused_sandbox_has_no_address_and_no_end_and_goes_on_with_both() {
    let world = World::new().await;
    let new =
        NewSandbox { timeout_sec: Some(300), on_timeout: Some(OnTimeout::Pause), ..NewSandbox::default() };
    let made = world.control.sandbox_create(&world.ctx, &new, None).await.unwrap();
    let paused = world.control.sandbox_pause(&world.ctx, &made).await.unwrap();
    assert_eq!((paused.status, paused.host_ip, paused.expires_at), (SandboxStatus::Paused, None, None));
    assert_eq!((paused.timeout_sec, paused.on_timeout), (300, OnTimeout::Pause));
    assert_eq!(world.host.sandboxes()[0].state, SandboxState::SANDBOX_STATE_PAUSED);
    assert_eq!(world.look().await.settled, 0);

    let resumed = world.control.sandbox_resume(&world.ctx, &paused, Resume::default()).await.unwrap();
    assert_eq!((resumed.status, resumed.on_timeout), (SandboxStatus::Running, OnTimeout::Pause));
    assert!(resumed.host_ip.is_some() && resumed.expires_at.is_some());
    assert_eq!(resumed.started_at, made.started_at);
    assert_eq!(world.told().await, ["api_key sandbox pause success", "api_key sandbox resume success"]);

    // In the wrong state each is refused.
    for answer in [
        world.control.sandbox_pause(&world.ctx, &paused).await,
        world.control.sandbox_resume(&world.ctx, &resumed, Resume::default()).await,
    ] {
        let error = answer.unwrap_err();
        assert_eq!(error.code(), ErrorCode::InvalidState, "{error}");
    }
}

#[tokio::test]
async fn a_pause_may_keep_the_disk_alone_and_a_resume_may_boot_what_has_memory() {
    let world = World::new().await;
    let made = world.create().await.unwrap();
    assert_eq!(made.pause_mode, None);
    let pause =
        async |sandbox, mode| world.control.sandbox_pause_keeping(&world.ctx, sandbox, mode).await.unwrap();
    let paused = pause(&made, PauseMode::Filesystem).await;
    assert_eq!((paused.status, paused.pause_mode), (SandboxStatus::Paused, Some(PauseMode::Filesystem)));
    let refused = world.control.snapshot_create(&world.ctx, &paused, &NewSnapshot::default()).await;
    let refused = refused.unwrap_err();
    assert_eq!(refused.code(), ErrorCode::InvalidState, "{refused}");
    let now = world.get(made.id).await;
    assert_eq!((now.status, now.pause_mode), (SandboxStatus::Paused, Some(PauseMode::Filesystem)));

    // The boot fails once: it is paused as before.
    world.host.inject(Rpc::ResumeSandbox, Fault::Fail, Times::Once);
    world.control.sandbox_resume(&world.ctx, &now, Resume::default()).await.unwrap_err();
    let now = world.get(made.id).await;
    assert_eq!((now.status, now.pause_mode), (SandboxStatus::Paused, Some(PauseMode::Filesystem)));
    let running = world.control.sandbox_resume(&world.ctx, &now, Resume::default()).await.unwrap();
    assert_eq!((running.status, running.pause_mode), (SandboxStatus::Running, None));
    assert_eq!((running.vcpus, running.started_at), (made.vcpus, made.started_at));

    let paused = pause(&running, PauseMode::Full).await;
    assert_eq!(paused.pause_mode, Some(PauseMode::Full));
    let reboot = Resume { awakening: Awakening::Reboot, ..Resume::default() };
    let running = world.control.sandbox_resume(&world.ctx, &paused, reboot).await.unwrap();
    assert_eq!(running.status, SandboxStatus::Running);

    // An answer that is lost: the row follows the host, and says what that kept.
    world.host.inject(Rpc::PauseSandbox, Fault::LoseReply, Times::Once);
    let paused = pause(&running, PauseMode::Filesystem).await;
    assert_eq!((paused.status, paused.pause_mode), (SandboxStatus::Paused, Some(PauseMode::Filesystem)));
}

#[tokio::test]
async fn a_request_for_traffic_cannot_wait_for_a_boot() {
    let world = World::new().await;
    let ingress = Ingress { auto_resume: true, ..Ingress::default() };
    let new = |on_timeout| NewSandbox {
        on_timeout: Some(on_timeout),
        ingress: ingress.clone(),
        ..NewSandbox::default()
    };
    let refused =
        world.control.sandbox_create(&world.ctx, &new(OnTimeout::PauseFilesystem), None).await.unwrap_err();
    assert_eq!(refused.code(), ErrorCode::InvalidRequest, "{refused}");
    let made = world.control.sandbox_create(&world.ctx, &new(OnTimeout::Pause), None).await.unwrap();
    let resumes = async || world.control.destination(made.id).await.unwrap().unwrap().ingress.auto_resume;
    assert!(resumes().await);
    world.control.sandbox_pause_keeping(&world.ctx, &made, PauseMode::Filesystem).await.unwrap();
    assert!(!resumes().await, "its servers are gone");
}

#[tokio::test]
async fn each_way_that_a_pause_can_fail_leaves_it_running_and_a_lost_reply_is_no_failure() {
    let world = World::new().await;
    for (fault, code) in faults() {
        let sandbox = world.create().await.unwrap();
        world.host.inject(Rpc::PauseSandbox, fault.clone(), Times::Once);
        let outcome = world.control.sandbox_pause(&world.ctx, &sandbox).await;
        let (status, trail) = match code {
            Some(_) => (SandboxStatus::Running, "api_key sandbox pause error"),
            None => (SandboxStatus::Paused, "api_key sandbox pause success"),
        };
        assert_eq!(
            outcome.map(|sandbox| sandbox.status).map_err(|error| error.code()),
            code.map_or(Ok(status), Err),
            "{fault:?}"
        );
        assert_eq!(world.get(sandbox.id).await.status, status, "{fault:?}");
        assert_eq!(world.told().await.pop().unwrap(), trail, "{fault:?}");
        assert_eq!(world.look().await.settled, 0, "{fault:?}: nothing is left to put right");
    }
    assert_eq!(world.told().await.len(), faults().len(), "each is told once");
}

#[tokio::test]
async fn each_way_that_a_resume_can_fail_leaves_it_paused_and_a_lost_reply_is_no_failure() {
    let world = World::new().await;
    for (fault, code) in faults() {
        let sandbox = world.create().await.unwrap();
        let paused = world.control.sandbox_pause(&world.ctx, &sandbox).await.unwrap();
        world.host.inject(Rpc::ResumeSandbox, fault.clone(), Times::Once);
        let outcome = world.control.sandbox_resume(&world.ctx, &paused, Resume::default()).await;
        let (status, trail) = match code {
            Some(_) => (SandboxStatus::Paused, "api_key sandbox resume error"),
            None => (SandboxStatus::Running, "api_key sandbox resume success"),
        };
        assert_eq!(
            outcome.map(|sandbox| sandbox.status).map_err(|error| error.code()),
            code.map_or(Ok(status), Err),
            "{fault:?}"
        );
        assert_eq!(world.get(sandbox.id).await.status, status, "{fault:?}");
        assert_eq!(world.told().await.pop().unwrap(), trail, "{fault:?}");
    }
}

#[tokio::test]
async fn of_twenty_pauses_at_once_one_wins_and_the_trail_tells_it_once() {
    let world = World::new().await;
    let sandbox = world.create().await.unwrap();
    let pauses = (0..20).map(|_| world.control.sandbox_pause(&world.ctx, &sandbox));
    let outcomes = join_all(pauses).await;
    assert_eq!(outcomes.iter().filter(|outcome| outcome.is_ok()).count(), 1);
    for error in outcomes.into_iter().filter_map(Result::err) {
        assert_eq!(error.code(), ErrorCode::InvalidState, "{error}");
    }
    assert_eq!(world.host.calls(Rpc::PauseSandbox), 1);
    assert_eq!(world.told().await, ["api_key sandbox pause success"]);
}

#[tokio::test]
async fn a_pause_whose_control_plane_died_is_found_in_the_inventory_and_told_in_its_callers_name() {
    let world = World::new().await;
    // Its reply is lost, and so is the question what became of it: the row stays as a dead control plane leaves it.
    let left_behind = async || {
        let sandbox = world.create().await.unwrap();
        world.host.inject(Rpc::ListSandboxes, Fault::Fail, Times::Once);
        world.control.sandbox_pause(&world.ctx, &sandbox).await.unwrap_err();
        assert_eq!(world.get(sandbox.id).await.status, SandboxStatus::Pausing);
        sandbox.id
    };
    world.host.inject(Rpc::PauseSandbox, Fault::LoseReply, Times::Once);
    let done = left_behind().await;
    world.host.inject(Rpc::PauseSandbox, Fault::Hang, Times::Once);
    let undone = left_behind().await;

    let replica = world.replica().await;
    assert_eq!(replica.reconcile_host(world.host_id, None).await.unwrap().settled, 1);
    assert_eq!(world.get(done).await.status, SandboxStatus::Paused, "what is done is seen at once");
    assert_eq!(world.get(undone).await.status, SandboxStatus::Pausing, "the request may be on its way");
    assert_eq!(world.told().await, ["api_key sandbox pause success"]);
    world.age_rows().await;
    assert_eq!(replica.reconcile_host(world.host_id, None).await.unwrap().settled, 1);
    assert_eq!(world.get(undone).await.status, SandboxStatus::Running);
    assert_eq!(world.told().await, ["api_key sandbox pause success", "api_key sandbox pause error"]);
    assert_eq!(world.look().await.settled, 0);
}

#[tokio::test]
async fn a_host_that_dies_in_the_middle_leaves_the_row_missing_until_it_is_back() {
    let world = World::new().await;
    let sandbox = world.create().await.unwrap();
    let gate = world.host.hold(Rpc::PauseSandbox);
    let (outcome, ()) = tokio::join!(world.control.sandbox_pause(&world.ctx, &sandbox), async {
        world.host.arrived(Rpc::PauseSandbox, 1).await;
        world.host.crash().await.unwrap();
    });
    drop(gate);
    assert_eq!(outcome.unwrap_err().code(), ErrorCode::HostUnavailable);
    assert_eq!(world.get(sandbox.id).await.status, SandboxStatus::Missing, "nobody is at it");
    assert!(world.control.reconcile_host(world.host_id, None).await.is_err());
    assert_eq!(world.get(sandbox.id).await.status, SandboxStatus::Missing);
    // No deadline has to pass.
    world.host.restart().await.unwrap();
    assert_eq!(world.look().await.settled, 1);
    assert_eq!(world.get(sandbox.id).await.status, SandboxStatus::Running);
}

/// Has the host carry a call out, loses sight of it before its answer comes, and finds it again.
async fn lost_in_the_middle(world: &World, rpc: Rpc, change: impl Future<Output = Result<(), ErrorCode>>) {
    world.host.inject(rpc, Fault::LoseReply, Times::Once);
    let list = world.host.hold(Rpc::ListSandboxes);
    let lost = async {
        world.host.arrived(rpc, 1).await;
        world.host.arrived(Rpc::ListSandboxes, 1).await;
        world.execute("UPDATE hosts SET last_heartbeat_at = now() - interval '2 minutes'").await;
        world.control.monitor_round(true).await.unwrap();
    };
    let (outcome, ()) = tokio::join!(change, lost);
    assert!(outcome.is_err(), "its answer did not come");
    assert_eq!(world.statuses().await, [SandboxStatus::Missing]);
    list.open();
    world.host.heal();
    world.beat().await;
    world.look().await;
}

#[tokio::test]
async fn a_change_that_was_lost_sight_of_is_told_as_what_it_came_to() {
    let world = World::new().await;
    let sandbox = world.create().await.unwrap();
    let pause = async {
        world.control.sandbox_pause(&world.ctx, &sandbox).await.map(drop).map_err(|error| error.code())
    };
    lost_in_the_middle(&world, Rpc::PauseSandbox, pause).await;
    let paused = world.get(sandbox.id).await;
    assert_eq!(paused.status, SandboxStatus::Paused);
    assert_eq!(world.told().await, ["api_key sandbox pause success"]);

    // And is over then: what happens to the sandbox later is not its doing.
    let running = world.control.sandbox_resume(&world.ctx, &paused, Resume::default()).await.unwrap();
    assert_eq!(running.status, SandboxStatus::Running);
    world.execute("UPDATE sandboxes SET status = 'missing'").await;
    world.host.auto_pause(&sandbox.id.to_string());
    world.look().await;
    assert_eq!(
        world.told().await,
        ["api_key sandbox pause success", "api_key sandbox resume success", "host sandbox auto_pause info"]
    );
}

#[tokio::test]
async fn why_a_sandbox_is_paused_outlives_a_snapshot_of_it() {
    let world = World::new().await;
    let sandbox = world.create().await.unwrap();
    world.host.auto_pause(&sandbox.id.to_string());
    world.look().await;
    let paused = world.get(sandbox.id).await;
    for fault in [None, Some(Fault::Fail)] {
        if let Some(fault) = fault {
            world.host.inject(Rpc::SnapshotSandbox, fault, Times::Once);
        }
        // Made or not.
        let _ = world.control.snapshot_create(&world.ctx, &paused, &NewSnapshot::default()).await;
        let after = world.get(sandbox.id).await;
        assert_eq!(after.status, SandboxStatus::Paused);
        assert_eq!(after.status_reason.as_deref(), Some("it was idle for its time-out"));
    }
}

#[tokio::test]
async fn what_the_host_paused_by_itself_is_told_once_however_many_look() {
    let world = World::new().await;
    let sandbox = world.create().await.unwrap();
    world.host.auto_pause(&sandbox.id.to_string());
    let replica = world.replica().await;
    let looks =
        join_all([&world.control, &replica].map(|control| control.reconcile_host(world.host_id, None)));
    let settled: usize = looks.await.into_iter().flatten().map(|report| report.settled).sum();
    assert_eq!(settled + world.look().await.settled, 1);
    let paused = world.get(sandbox.id).await;
    assert_eq!(paused.status, SandboxStatus::Paused);
    assert_eq!(paused.status_reason.as_deref(), Some("it was idle for its time-out"));
    assert_eq!(world.told().await, ["host sandbox auto_pause info"]);
    let metrics = world.control.sandbox_metrics(&world.ctx, &paused, MetricsRange::Day).await.unwrap();
    assert_eq!(metrics.points.len(), 3, "its figures are kept, too");

    // A request that came late is followed, too; and what is running again has no reason to be paused.
    world.host.resume_late(&sandbox.id.to_string());
    assert_eq!(world.look().await.settled, 1);
    let running = world.get(sandbox.id).await;
    assert_eq!((running.status, running.status_reason), (SandboxStatus::Running, None));
}

#[tokio::test]
async fn a_delete_during_a_pause_wins() {
    let world = World::new().await;
    let sandbox = world.create().await.unwrap();
    let gate = world.host.hold(Rpc::PauseSandbox);
    let (paused, deleted) = tokio::join!(world.control.sandbox_pause(&world.ctx, &sandbox), async {
        world.host.arrived(Rpc::PauseSandbox, 1).await;
        let deleted = world.control.sandbox_destroy(&world.ctx, &sandbox).await;
        gate.open();
        deleted
    });
    deleted.unwrap();
    assert_eq!(paused.unwrap_err().code(), ErrorCode::InvalidState);
    assert_eq!(world.get(sandbox.id).await.status, SandboxStatus::Stopped);
    assert!(world.host.sandboxes().is_empty());
    assert_eq!(world.told().await, ["api_key sandbox destroy success"]);
}

#[tokio::test]
async fn a_paused_sandbox_takes_no_room_outlives_a_silent_host_and_can_be_destroyed() {
    // 8192 MiB, of which a sixteenth may be promised: one sandbox.
    let world = World::with(Config { memory_promise_percent: 7, ..config() }).await;
    let first = world.create().await.unwrap();
    assert_eq!(world.create().await.unwrap_err().code(), ErrorCode::NoHostsAvailable);
    let first = world.control.sandbox_pause(&world.ctx, &first).await.unwrap();
    let second = world.create().await.unwrap();
    let full = world.control.sandbox_resume(&world.ctx, &first, Resume::default()).await.unwrap_err();
    assert!(matches!(full, SandboxError::NoRoom { .. }), "{full}");
    assert_eq!(full.code(), ErrorCode::NoHostsAvailable);
    assert_eq!(world.get(first.id).await.status, SandboxStatus::Paused);

    world.host.crash().await.unwrap();
    world.execute("UPDATE hosts SET last_heartbeat_at = now() - interval '2 minutes'").await;
    world.control.monitor_round(true).await.unwrap();
    assert_eq!(world.statuses().await, [SandboxStatus::Paused, SandboxStatus::Missing]);
    let away = world.control.sandbox_resume(&world.ctx, &first, Resume::default()).await.unwrap_err();
    assert_eq!(away.code(), ErrorCode::HostUnavailable, "{away}");
    world.host.restart().await.unwrap();
    world.beat().await;
    world.look().await;
    world.control.sandbox_destroy(&world.ctx, &world.get(second.id).await).await.unwrap();
    world.control.sandbox_resume(&world.ctx, &first, Resume::default()).await.unwrap();
    let paused = world.control.sandbox_pause(&world.ctx, &world.get(first.id).await).await.unwrap();
    world.control.sandbox_destroy(&world.ctx, &paused).await.unwrap();
    assert!(world.host.sandboxes().is_empty());
}

#[tokio::test]
async fn a_time_out_is_the_hosts_first_and_the_rows_after() {
    let world = World::new().await;
    let sandbox = world.create().await.unwrap();
    let set = async |seconds, on_timeout| {
        let new = NewDeadline { on_timeout, ..NewDeadline::default() };
        world.control.sandbox_set_timeout(&world.ctx, &sandbox, seconds, new).await
    };
    let changed = set(600, Some(OnTimeout::Pause)).await.unwrap();
    assert_eq!((changed.timeout_sec, changed.on_timeout), (600, OnTimeout::Pause));
    assert!(changed.expires_at.is_some());
    assert_eq!((world.host.sandboxes()[0].timeout_sec), 600);
    assert_eq!(set(60, None).await.unwrap().on_timeout, OnTimeout::Pause, "as it was");
    assert_eq!(set(2_592_001, None).await.unwrap_err().code(), ErrorCode::InvalidRequest);

    // A change of which the row never heard is in the inventory.
    world.host.inject(Rpc::SetDeadline, Fault::LoseReply, Times::Once);
    set(0, Some(OnTimeout::Kill)).await.unwrap_err();
    assert_eq!(world.get(sandbox.id).await.timeout_sec, 60);
    world.look().await;
    let now = world.get(sandbox.id).await;
    assert_eq!((now.timeout_sec, now.on_timeout, now.expires_at), (0, OnTimeout::Kill, None));
    let paused = world.control.sandbox_pause(&world.ctx, &now).await.unwrap();
    let refused =
        world.control.sandbox_set_timeout(&world.ctx, &paused, 1, NewDeadline::default()).await.unwrap_err();
    assert_eq!(refused.code(), ErrorCode::InvalidState);

    let resume = Resume {
        timeout_sec: Some(90),
        on_timeout: Some(OnTimeout::Pause),
        timeout_from: Some(TimeoutFrom::Start),
        awakening: Awakening::AsKept,
    };
    let resumed = world.control.sandbox_resume(&world.ctx, &paused, resume).await.unwrap();
    assert_eq!((resumed.timeout_sec, resumed.on_timeout), (90, OnTimeout::Pause));
    assert_eq!(resumed.timeout_from, TimeoutFrom::Start);
}

#[tokio::test]
async fn who_comes_in_never_brings_the_end_nearer_and_wakes_what_sleeps() {
    let world = World::new().await;
    let sandbox = world.create().await.unwrap();
    let start = NewDeadline { timeout_from: Some(TimeoutFrom::Start), ..NewDeadline::default() };
    let set = world.control.sandbox_set_timeout(&world.ctx, &sandbox, 600, start).await.unwrap();
    let Entered::Running(shorter) =
        world.control.sandbox_enter(&world.ctx, &set, 60, Awakening::AsKept).await.unwrap()
    else {
        panic!("it ran");
    };
    assert_eq!((shorter.expires_at, shorter.timeout_sec), (set.expires_at, 600));
    // Use does not move it either, whoever tells of it.
    world.control.sandbox_ping(&world.ctx, &sandbox).await.unwrap();
    assert_eq!(world.get(sandbox.id).await.expires_at, set.expires_at);
    let Entered::Running(longer) =
        world.control.sandbox_enter(&world.ctx, &set, 900, Awakening::AsKept).await.unwrap()
    else {
        panic!("it ran");
    };
    assert!(longer.expires_at > set.expires_at);
    world.control.sandbox_pause(&world.ctx, &longer).await.unwrap();
    // What the caller was shown is old: it is looked at again.
    let entered = world.control.sandbox_enter(&world.ctx, &longer, 30, Awakening::AsKept).await.unwrap();
    let Entered::Resumed(resumed) = entered else { panic!("it was paused") };
    assert_eq!((resumed.status, resumed.timeout_sec), (SandboxStatus::Running, 30));
    world.control.sandbox_expire(&world.ctx, &resumed).await.unwrap();
    let over = world.get(sandbox.id).await;
    assert_eq!(over.status, SandboxStatus::Stopped);
    let refused = world.control.sandbox_enter(&world.ctx, &over, 30, Awakening::AsKept).await.unwrap_err();
    assert_eq!(refused.code(), ErrorCode::InvalidState);
}

#[tokio::test]
async fn whoever_comes_in_waits_for_the_end_of_what_another_control_plane_does() {
    let world = World::new().await;
    let sandbox = world.create().await.unwrap();
    let other = world.replica().await;
    let gate = world.host.hold(Rpc::PauseSandbox);
    let (paused, entered) = tokio::join!(world.control.sandbox_pause(&world.ctx, &sandbox), async {
        world.host.arrived(Rpc::PauseSandbox, 1).await;
        let mut enters = std::pin::pin!(other.sandbox_enter(&world.ctx, &sandbox, 30, Awakening::AsKept));
        // It is begun, and does not end before the pause does.
        assert!(futures::poll!(&mut enters).is_pending());
        gate.open();
        enters.await
    });
    paused.unwrap();
    let Entered::Resumed(resumed) = entered.unwrap() else { panic!("it was paused") };
    assert_eq!(resumed.status, SandboxStatus::Running);
}

#[tokio::test]
async fn figures_are_live_kept_at_a_pause_and_thinned_at_the_end() {
    let world = World::new().await;
    let sandbox = world.create().await.unwrap();
    let kept = async || -> Vec<String> {
        sqlx::query_scalar("SELECT DISTINCT tier FROM sandbox_metric_points ORDER BY tier")
            .fetch_all(world.database.pool())
            .await
            .unwrap()
    };
    let live = world.control.sandbox_metrics(&world.ctx, &sandbox, MetricsRange::TwoHours).await.unwrap();
    assert_eq!(live.points.len(), 3);
    assert_eq!((live.points[1].0 - live.points[0].0).num_seconds(), 30);
    assert!(kept().await.is_empty());
    let paused = world.control.sandbox_pause(&world.ctx, &sandbox).await.unwrap();
    assert_eq!(kept().await, ["10m", "24h", "2h"]);
    world.host.crash().await.unwrap();
    for range in MetricsRange::ALL {
        let stored = world.control.sandbox_metrics(&world.ctx, &paused, range).await.unwrap();
        assert_eq!((stored.range, stored.points.len()), (range, 3));
    }
    world.host.restart().await.unwrap();
    let resumed = world.control.sandbox_resume(&world.ctx, &paused, Resume::default()).await.unwrap();
    world.control.sandbox_destroy(&world.ctx, &resumed).await.unwrap();
    assert_eq!(kept().await, ["24h"]);
    let ended = world.get(sandbox.id).await;
    let error = world.control.sandbox_metrics(&world.ctx, &ended, MetricsRange::Day).await.unwrap_err();
    assert_eq!(error.code(), ErrorCode::NotFound);

    // A host that keeps its figures to itself holds nothing up.
    let sandbox = world.create().await.unwrap();
    world.host.inject(Rpc::FlushSandboxMetrics, Fault::Fail, Times::Always);
    let paused = world.control.sandbox_pause(&world.ctx, &sandbox).await.unwrap();
    let resumed = world.control.sandbox_resume(&world.ctx, &paused, Resume::default()).await.unwrap();
    world.control.sandbox_destroy(&world.ctx, &resumed).await.unwrap();
}
