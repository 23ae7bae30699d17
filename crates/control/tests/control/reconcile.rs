//! Rows and machines come together again, whatever was lost in between.

use std::time::Duration;

use sandbar_control::config::MonitorConfig;
use sandbar_control::reconcile::ReconcileError;
use sandbar_control::sandboxes::{NewSandbox, SandboxFilter};
use sandbar_control::{Config, Control, PageRequest};
use sandbar_testkit::sim_host::{Fault, Rpc, Times};
use sandbar_types::{Id, SandboxStatus, id};
use sqlx::AssertSqlSafe;
use sqlx::postgres::PgListener;
use tokio_util::sync::CancellationToken;

use crate::support::{World, config};

#[tokio::test]
async fn a_machine_that_died_by_itself_ends_its_row_and_is_cleared_away() {
    let world = World::new().await;
    let sandbox = world.create().await.unwrap();
    world.host.kill_vmm(&sandbox.id.to_string());
    let report = world.control.reconcile_host(world.host_id, None).await.unwrap();
    assert_eq!((report.ended, report.failed), (1, 0));
    let row = world.get(sandbox.id).await;
    assert_eq!(row.status, SandboxStatus::Stopped);
    assert_eq!(row.status_reason.as_deref(), Some("the VMM ended by itself"));
    assert_eq!(world.host.sandboxes().len(), 0);
    assert_eq!(world.trail().await.pop().unwrap(), ("destroy".to_owned(), "info".to_owned()));
}

#[tokio::test]
async fn a_create_whose_control_plane_died_is_undone_past_its_deadline() {
    let world = World::new().await;
    world.create().await.unwrap();
    // As it was between the host's answer and the row's change.
    world.execute("UPDATE sandboxes SET status = 'starting', started_at = NULL, guest_ip = NULL").await;
    let report = world.control.reconcile_host(world.host_id, None).await.unwrap();
    assert_eq!(report.ended, 0, "its creator may be at it");
    world.age_rows().await;
    let report = world.replica().await.reconcile_host(world.host_id, None).await.unwrap();
    assert_eq!((report.ended, report.failed), (1, 0));
    assert_eq!(world.statuses().await, [SandboxStatus::Error]);
    assert_eq!(world.host.sandboxes().len(), 0);
}

#[tokio::test]
async fn rows_that_no_host_has_are_ended_by_the_monitor() {
    let world = World::new().await;
    world.create().await.unwrap();
    world.create().await.unwrap();
    world.execute(
        "UPDATE sandboxes SET host_id = NULL, status = CASE WHEN id = (SELECT min(id::text)::uuid FROM sandboxes)
                THEN 'pending' ELSE 'stopping' END",
    )
    .await;
    world.control.monitor_round(false).await.unwrap();
    assert_eq!(world.statuses().await, [SandboxStatus::Pending, SandboxStatus::Stopping]);
    world.age_rows().await;
    world.control.monitor_round(false).await.unwrap();
    assert_eq!(world.statuses().await, [SandboxStatus::Error, SandboxStatus::Stopped]);
}

#[tokio::test]
async fn orphans_go_past_their_grace_a_few_at_a_time_and_young_ones_stay() {
    let world = World::new().await;
    let kept = world.create().await.unwrap();
    for _ in 0..5 {
        world.host.plant(&Id::<id::Sandbox>::new().to_string(), Duration::from_secs(3600));
    }
    world.host.plant(&Id::<id::Sandbox>::new().to_string(), Duration::ZERO);
    let first = world.control.reconcile_host(world.host_id, None).await.unwrap();
    assert_eq!((first.destroyed, first.spared), (3, 2));
    let second = world.control.reconcile_host(world.host_id, Some(&first)).await.unwrap();
    assert_eq!((second.destroyed, second.spared), (2, 0));
    let mut left: Vec<String> = world.host.sandboxes().into_iter().map(|sandbox| sandbox.id).collect();
    left.retain(|id| *id != kept.id.to_string());
    assert_eq!(left.len(), 1, "the young one");
    assert_eq!(world.get(kept.id).await.status, SandboxStatus::Running);
}

#[tokio::test]
async fn a_host_that_lost_everything_is_believed_at_the_second_telling() {
    let world = World::new().await;
    let mut ids = Vec::new();
    for _ in 0..5 {
        ids.push(world.create().await.unwrap().id);
    }
    ids.iter().for_each(|id| world.host.forget(&id.to_string()));
    let first = world.control.reconcile_host(world.host_id, None).await.unwrap();
    assert_eq!((first.ended, first.spared), (0, 5));
    let second = world.control.reconcile_host(world.host_id, Some(&first)).await.unwrap();
    assert_eq!((second.ended, second.spared), (5, 0));
    assert_eq!(world.statuses().await, vec![SandboxStatus::Stopped; 5]);
}

#[tokio::test]
async fn a_silent_host_loses_nothing_and_comes_back_with_all_it_has() {
    let world = World::new().await;
    let (kept, lost) = (world.create().await.unwrap(), world.create().await.unwrap());
    world.control.monitor_round(true).await.unwrap();
    assert_eq!(world.get(kept.id).await.status, SandboxStatus::Running, "it was heard of a moment ago");
    world.host.crash().await.unwrap();
    world.execute("UPDATE hosts SET last_heartbeat_at = now() - interval '2 minutes'").await;
    // A control plane that has just started does not judge silence.
    world.control.monitor_round(false).await.unwrap();
    assert_eq!(world.get(kept.id).await.status, SandboxStatus::Running);
    world.control.monitor_round(true).await.unwrap();
    assert_eq!(world.statuses().await, [SandboxStatus::Missing; 2]);
    let looked = world.control.reconcile_host(world.host_id, None).await;
    assert!(matches!(looked, Err(ReconcileError::Host { .. })), "{looked:?}");
    assert_eq!(world.statuses().await, [SandboxStatus::Missing; 2], "unknown is not dead");

    world.host.restart().await.unwrap();
    world.host.forget(&lost.id.to_string());
    world.beat().await;
    let report = world.control.reconcile_host(world.host_id, None).await.unwrap();
    assert_eq!((report.settled, report.ended), (1, 1));
    assert_eq!(world.get(kept.id).await.status, SandboxStatus::Running);
    assert_eq!(world.get(lost.id).await.status, SandboxStatus::Stopped);
    let marks: Vec<(String, String)> = sqlx::query_as(
        "SELECT action, actor_type FROM audit_logs WHERE action LIKE 'marked%' ORDER BY created_at, id",
    )
    .fetch_all(world.database.pool())
    .await
    .unwrap();
    let mark = |action: &str, actor: &str| (action.to_owned(), actor.to_owned());
    assert_eq!(marks, [mark("marked_down", "system"), mark("marked_up", "system")]);
}

#[tokio::test]
async fn what_a_host_had_not_made_when_it_fell_silent_was_not_made_and_not_lost() {
    let world = World::new().await;
    world.host.inject(Rpc::CreateSandbox, Fault::Hang, Times::Once);
    let doomed = world.doomed(|control, ctx| async move {
        drop(control.sandbox_create(&ctx, &NewSandbox::default(), None).await);
    });
    world.host.arrived(Rpc::CreateSandbox, 1).await;
    doomed.kill();
    world.execute("UPDATE hosts SET last_heartbeat_at = now() - interval '2 minutes'").await;
    world.control.monitor_round(true).await.unwrap();
    assert_eq!(world.statuses().await, [SandboxStatus::Missing]);
    world.beat().await;
    let report = world.look().await;
    assert_eq!((report.ended, report.failed, report.spared), (1, 0, 0));
    let page = PageRequest::default();
    let filter = SandboxFilter { status: vec![SandboxStatus::Error], ..SandboxFilter::default() };
    let rows = world.control.sandbox_list(&world.ctx, &filter, &page).await.unwrap().items;
    assert_eq!(rows[0].status_reason.as_deref(), Some("it was not made"));
}

#[tokio::test]
async fn two_replicas_do_not_look_at_one_host_at_once() {
    let world = World::new().await;
    let replica = world.replica().await;
    let gate = world.host.hold(Rpc::ListSandboxes);
    let first = world.control.reconcile_host(world.host_id, None);
    let second = async {
        world.host.arrived(Rpc::ListSandboxes, 1).await;
        let busy = replica.reconcile_host(world.host_id, None).await;
        gate.open();
        busy
    };
    let (first, second) = tokio::join!(first, second);
    first.unwrap();
    assert!(matches!(second, Err(ReconcileError::Busy { .. })), "{second:?}");
    replica.reconcile_host(world.host_id, None).await.unwrap();
}

#[tokio::test]
async fn a_host_that_cannot_destroy_now_is_asked_again() {
    let world = World::new().await;
    let sandbox = world.create().await.unwrap();
    world.host.kill_vmm(&sandbox.id.to_string());
    world.host.inject(Rpc::DestroySandbox, Fault::Fail, Times::Once);
    let first = world.control.reconcile_host(world.host_id, None).await.unwrap();
    assert_eq!((first.ended, first.failed), (0, 1));
    assert_eq!(
        world.get(sandbox.id).await.status,
        SandboxStatus::Running,
        "the row keeps owning the machine"
    );
    let second = world.control.reconcile_host(world.host_id, Some(&first)).await.unwrap();
    assert_eq!((second.ended, second.failed), (1, 0));
}

#[tokio::test]
async fn a_heartbeat_with_another_inventory_wakes_the_background_work() {
    let world = World::new().await;
    let sandbox = world.create().await.unwrap();
    let mut ends = changes(&world, "stopped").await;
    let (background, stop) = background(&world.control);
    // The first round, which every start begins with, has seen the machine alive.
    world.host.arrived(Rpc::ListSandboxes, 1).await;
    world.host.kill_vmm(&sandbox.id.to_string());
    world.beat().await;
    tokio::time::timeout(Duration::from_secs(20), ends.recv()).await.unwrap().unwrap();
    assert_eq!(world.get(sandbox.id).await.status, SandboxStatus::Stopped);
    stop.cancel();
    background.await.unwrap();
}

#[tokio::test]
async fn a_row_that_is_left_to_whoever_is_at_it_is_looked_at_when_it_is_due() {
    // The timer alone would look in an hour.
    let monitor = MonitorConfig { interval: Duration::from_secs(3600), ..config().monitor };
    let world = World::with(Config { operation_deadline: Duration::from_secs(2), monitor, ..config() }).await;
    let sandbox = world.create().await.unwrap();
    world.host.inject(Rpc::PauseSandbox, Fault::Fail, Times::Once);
    world.host.inject(Rpc::ListSandboxes, Fault::Fail, Times::Once);
    world.control.sandbox_pause(&world.ctx, &sandbox).await.unwrap_err();
    assert_eq!(world.get(sandbox.id).await.status, SandboxStatus::Pausing);
    let mut changes = changes(&world, "running").await;
    let successor = world.replica().await;
    let (background, stop) = background(&successor);
    tokio::time::timeout(Duration::from_secs(30), changes.recv()).await.unwrap().unwrap();
    assert_eq!(world.get(sandbox.id).await.status, SandboxStatus::Running);
    stop.cancel();
    background.await.unwrap();
}

fn background(control: &Control) -> (tokio::task::JoinHandle<()>, CancellationToken) {
    let (control, stop) = (control.clone(), CancellationToken::new());
    let token = stop.clone();
    (tokio::spawn(async move { control.run_background(token).await }), stop)
}

/// Tells when a row comes into a state.
async fn changes(world: &World, status: &str) -> PgListener {
    sqlx::raw_sql(AssertSqlSafe(format!(
        "CREATE FUNCTION tell() RETURNS trigger LANGUAGE plpgsql AS $$
             BEGIN PERFORM pg_notify('changes', NEW.id::text); RETURN NULL; END $$;
         CREATE TRIGGER tell AFTER UPDATE ON sandboxes FOR EACH ROW
             WHEN (NEW.status = '{status}') EXECUTE FUNCTION tell();"
    )))
    .execute(world.database.pool())
    .await
    .unwrap();
    let mut listener = PgListener::connect_with(world.database.pool()).await.unwrap();
    listener.listen("changes").await.unwrap();
    listener
}
