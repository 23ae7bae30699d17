//! Several hosts, and several control planes on one database.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use futures::future::join_all;
use sandbar_control::config::Scheduling;
use sandbar_control::host_client::Circuit;
use sandbar_control::hosts::{Draining, Existing, Heartbeat, HostError, HostStatus, NewHost, Running};
use sandbar_control::sandboxes::{Command, NetworkRules, NewSandbox, Resume, SandboxError, SandboxFilter};
use sandbar_control::snapshots::NewSnapshot;
use sandbar_control::{Config, Control, OpContext, PageRequest, Sandbox};
use sandbar_testkit::sim_host::{Fault, Reason, Rpc, SimHost, Times};
use sandbar_types::id::Host;
use sandbar_types::{ErrorCode, Id, SandboxStatus};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::support::{World, config, host_context, register};

/// A host beside the world's own.
struct Member {
    host: Arc<SimHost>,
    id: Id<Host>,
    ctx: OpContext,
}

impl Member {
    async fn join(world: &World) -> Self {
        let created = world.control.host_create(&OpContext::system(), &NewHost::default()).await.unwrap();
        let host = SimHost::bind().await.unwrap();
        let registered = register(&world.control, &host, created.registration_token).await;
        let ctx = host_context(&world.control, &registered).await;
        let member = Self { host: Arc::new(host), id: created.host.id, ctx };
        member.beat(&world.control).await;
        world.control.ensure_base_template(member.id).await.unwrap();
        member
    }

    async fn beat(&self, control: &Control) {
        let heartbeat =
            Heartbeat { inventory_generation: self.host.inventory_generation(), ..Heartbeat::default() };
        control.host_heartbeat(&self.ctx, self.id, &heartbeat).await.unwrap();
    }
}

async fn placed(world: &World) -> BTreeMap<Id<Host>, usize> {
    let rows: Vec<(Uuid, i64)> = sqlx::query_as(
        "SELECT host_id, count(*) FROM sandboxes WHERE status NOT IN ('stopped', 'error') GROUP BY host_id",
    )
    .fetch_all(world.database.pool())
    .await
    .unwrap();
    rows.into_iter().map(|(id, count)| (Id::from_uuid(id), usize::try_from(count).unwrap())).collect()
}

fn system() -> OpContext {
    OpContext::system()
}

#[tokio::test]
async fn sandboxes_spread_over_hosts_whichever_control_plane_places_them() {
    for scheduling in [Scheduling::LeastLoaded, Scheduling::RoundRobin] {
        let world = World::with(Config { scheduling, ..config() }).await;
        let others = [Member::join(&world).await, Member::join(&world).await];
        let replica = world.replica().await;
        for turn in 0..9 {
            let control = if turn % 2 == 0 { &world.control } else { &replica };
            control.sandbox_create(&world.ctx, &NewSandbox::default(), None).await.unwrap();
        }
        let placed = placed(&world).await;
        assert_eq!(placed.len(), 3, "{scheduling:?}: {placed:?}");
        // Replicas take turns each for itself.
        let at_most = if scheduling == Scheduling::LeastLoaded { 3 } else { 4 };
        assert!(placed.values().all(|count| *count <= at_most), "{scheduling:?}: {placed:?}");
        for member in &others {
            assert_eq!(member.host.sandboxes().len(), placed[&member.id]);
        }
    }
}

#[tokio::test]
async fn room_is_promised_once_whoever_asks_at_the_same_time() {
    // 8 GiB and sandboxes of 512 MiB: 16 fit on each of two hosts.
    let world = World::with(Config { memory_promise_percent: 100, ..config() }).await;
    let _other = Member::join(&world).await;
    let replicas = [world.replica().await, world.replica().await];
    let creates = (0..40).map(|turn| {
        let (control, ctx) = (&replicas[turn % 2], &world.ctx);
        async move { control.sandbox_create(ctx, &NewSandbox::default(), None).await }
    });
    let made = join_all(creates).await;
    let refused = made.iter().filter(|made| matches!(made, Err(SandboxError::NoHosts { .. }))).count();
    assert_eq!((made.iter().filter(|made| made.is_ok()).count(), refused), (32, 8));
    assert!(placed(&world).await.values().all(|count| *count == 16));
}

#[tokio::test]
async fn of_two_resumes_at_once_the_later_is_told_the_state_and_not_that_there_is_no_room() {
    let world = World::with(Config { memory_promise_percent: 100, ..config() }).await;
    let sandbox = world.create().await.unwrap();
    let paused = world.control.sandbox_pause(&world.ctx, &sandbox).await.unwrap();
    // It is all that fits.
    world.execute("UPDATE hosts SET memory_mb = 512").await;
    let resume = || world.control.sandbox_resume(&world.ctx, &paused, Resume::default());
    let (one, other) = tokio::join!(resume(), resume());
    let ((Ok(_), Err(refused)) | (Err(refused), Ok(_))) = (one, other) else {
        panic!("one of two resumes it")
    };
    assert!(matches!(refused, SandboxError::InvalidState { .. }), "{refused}");
}

#[tokio::test]
async fn a_host_that_has_no_room_after_all_or_is_gone_is_given_up_for_another() {
    let world = World::new().await;
    let other = Member::join(&world).await;
    // The emptier one is asked first.
    world.execute("UPDATE hosts SET memory_mb = 4096 WHERE id = (SELECT id FROM hosts ORDER BY created_at DESC LIMIT 1)").await;
    for reason in [Reason::REASON_NO_CAPACITY, Reason::REASON_TEMPLATE_NOT_FOUND] {
        world.host.inject(Rpc::CreateSandbox, Fault::Refuse(reason), Times::Once);
        assert_eq!(world.create().await.unwrap().host_id, Some(other.id), "{reason:?}");
        world.control.ensure_base_template(world.host_id).await.unwrap();
    }
    world.host.crash().await.unwrap();
    let elsewhere = world.create().await.unwrap();
    assert_eq!(elsewhere.host_id, Some(other.id));
    world.host.restart().await.unwrap();
    // What was given up is nobody's, and the trail knows of it.
    let mut statuses = world.statuses().await;
    statuses.sort_by_key(|status| status.as_str());
    assert_eq!(statuses.iter().filter(|status| **status == SandboxStatus::Error).count(), 3);
    // Both refuse: the first refusal is told.
    for host in [&world.host, &*other.host] {
        host.inject(Rpc::CreateSandbox, Fault::Refuse(Reason::REASON_NO_CAPACITY), Times::Once);
    }
    assert!(matches!(world.create().await, Err(SandboxError::NoHosts { .. })));
}

#[tokio::test]
async fn a_silent_host_comes_back_with_all_that_it_had_and_the_others_go_on() {
    let world = World::new().await;
    let other = Member::join(&world).await;
    for _ in 0..4 {
        world.create().await.unwrap();
    }
    let paused = world.create().await.unwrap();
    world.control.sandbox_pause(&world.ctx, &paused).await.unwrap();
    let before = world.statuses().await;
    let silent = "UPDATE hosts SET last_heartbeat_at = now() - interval '91 seconds' WHERE id <> $1";
    sqlx::query(silent).bind(other.id.uuid()).execute(world.database.pool()).await.unwrap();
    // Two control planes look at the same time; a control plane that has just started does not judge.
    let replica = world.replica().await;
    world.control.monitor_round(false).await.unwrap();
    let status = async |id| world.control.host_get(&system(), id).await.unwrap().status;
    assert_eq!(status(world.host_id).await, HostStatus::Online);
    let (one, two) = tokio::join!(world.control.monitor_round(true), replica.monitor_round(true));
    one.unwrap();
    two.unwrap();
    assert_eq!(
        (status(world.host_id).await, status(other.id).await),
        (HostStatus::Unreachable, HostStatus::Online)
    );
    let page = PageRequest::default();
    let rows = world.control.sandbox_list(&world.ctx, &SandboxFilter::default(), &page).await.unwrap();
    for row in rows.items {
        let expected = match row.host_id == Some(world.host_id) {
            _ if row.id == paused.id => SandboxStatus::Paused,
            true => SandboxStatus::Missing,
            false => SandboxStatus::Running,
        };
        assert_eq!(row.status, expected, "{}", row.id);
    }
    assert_eq!(world.create().await.unwrap().host_id, Some(other.id));
    world.beat().await;
    world.look().await;
    assert_eq!(world.statuses().await[..before.len()], before);
    let told: Vec<String> = sqlx::query_scalar(
        "SELECT concat_ws(' ', actor_type, action) FROM audit_logs WHERE action LIKE 'marked%' ORDER BY created_at",
    )
    .fetch_all(world.database.pool())
    .await
    .unwrap();
    assert_eq!(told, ["system marked_down", "system marked_up"]);
}

#[tokio::test]
async fn a_hung_host_costs_nobody_but_itself() {
    let probe_deadline = Duration::from_millis(100);
    let world = World::with(Config { probe_deadline, ..config() }).await;
    let other = Member::join(&world).await;
    let (mut here, mut there) = (None, None);
    while here.is_none() || there.is_none() {
        let made = world.create().await.unwrap();
        let slot = if made.host_id == Some(world.host_id) { &mut here } else { &mut there };
        *slot = Some(made);
    }
    let (here, there) = (here.unwrap(), there.unwrap());
    for rpc in [Rpc::GetHealth, Rpc::PingSandbox, Rpc::CreateSandbox, Rpc::ListSandboxes] {
        world.host.inject(rpc, Fault::Hang, Times::Always);
    }
    // Its own users wait until it is known not to answer; the others' calls go through meanwhile.
    let (control, ctx) = (world.control.clone(), world.ctx.clone());
    let stuck = tokio::spawn(async move { control.sandbox_ping(&ctx, &here).await });
    world.host.arrived(Rpc::PingSandbox, 1).await;
    for _ in 0..20 {
        world.control.sandbox_ping(&world.ctx, &there).await.unwrap();
    }
    assert!(stuck.await.unwrap().is_err());
    let mut circuit = world.control.host_circuit(world.host_id).unwrap();
    circuit.wait_for(|circuit| *circuit == Circuit::Open).await.unwrap();
    // From now on it is not even called, and nothing new goes there.
    let asked = world.host.calls(Rpc::CreateSandbox);
    for _ in 0..6 {
        assert_eq!(world.create().await.unwrap().host_id, Some(other.id));
    }
    assert_eq!(world.host.calls(Rpc::CreateSandbox), asked);
    world.host.heal();
    circuit.wait_for(|circuit| *circuit == Circuit::Closed).await.unwrap();
    assert_eq!(world.create().await.unwrap().host_id, Some(world.host_id));
}

#[tokio::test]
async fn a_host_whose_clock_is_five_minutes_off_keeps_what_it_has() {
    for ahead in [-300_000, 300_000] {
        let world = World::new().await;
        world.host.set_clock_ahead(ahead);
        let (running, paused) = (world.create().await.unwrap(), world.create().await.unwrap());
        world.control.sandbox_pause(&world.ctx, &paused).await.unwrap();
        let resumed = world.create().await.unwrap();
        let resumed = world.control.sandbox_pause(&world.ctx, &resumed).await.unwrap();
        world.control.sandbox_resume(&world.ctx, &resumed, Resume::default()).await.unwrap();
        let before = [SandboxStatus::Running, SandboxStatus::Paused, SandboxStatus::Running];
        for _ in 0..2 {
            world.beat().await;
            world.control.monitor_round(true).await.unwrap();
            let report = world.look().await;
            assert_eq!((report.ended, report.destroyed, report.settled, report.failed), (0, 0, 0, 0));
            assert_eq!(world.statuses().await, before, "{ahead}");
        }
        world.control.sandbox_ping(&world.ctx, &running).await.unwrap();
    }
}

/// Calls of each kind that are open on the host that hangs: together more than there are connections to the database, or turns of anything.
const STUCK: usize = 32;
/// Sandboxes there whose network policies are being replaced, and creates: more than there are turns.
const CHANGES: usize = 8;
const ANSWERED: usize = 200;

#[tokio::test]
async fn calls_to_other_hosts_are_answered_while_every_call_to_a_hung_one_is_open() {
    // Nobody gives up meanwhile, so nobody has learnt yet that the host hangs: its callers cost others the most.
    let long = Duration::from_secs(1800);
    let patient = Config { call_deadline: long, create_deadline: long, probe_deadline: long, ..config() };
    let world = World::with(patient).await;
    let other = Member::join(&world).await;
    let (mut here, mut there) = (Vec::new(), Vec::new());
    while here.len() < CHANGES || there.is_empty() {
        let made = world.create().await.unwrap();
        if made.host_id == Some(world.host_id) { here.push(made) } else { there.push(made) }
    }
    for rpc in [Rpc::Exec, Rpc::PingSandbox, Rpc::SetNetworkPolicy, Rpc::ListSandboxes, Rpc::CreateSandbox] {
        world.host.inject(rpc, Fault::Hang, Times::Always);
    }
    let (control, ctx) = (&world.control, &world.ctx);
    let echo = Command { cmd: "echo".to_owned(), args: vec!["on".to_owned()], ..Command::default() };
    let offline = NetworkRules { allow_internet: Some(false), ..NetworkRules::default() };

    let mut open = JoinSet::new();
    for sandbox in here.iter().cycle().take(STUCK) {
        let (ours, ctx, of, echo) = (control.clone(), ctx.clone(), sandbox.clone(), echo.clone());
        open.spawn(async move { drop(ours.sandbox_exec(&ctx, &of, &echo, Some(1800)).await) });
        let (ours, ctx, of) = (control.clone(), world.ctx.clone(), sandbox.clone());
        open.spawn(async move { drop(ours.sandbox_ping(&ctx, &of).await) });
    }
    control.host_drain(&system(), other.id, Draining::On(Running::GoOn)).await.unwrap();
    let before = world.host.calls(Rpc::CreateSandbox);
    for sandbox in &here {
        let (ours, ctx, of, offline) = (control.clone(), ctx.clone(), sandbox.clone(), offline.clone());
        open.spawn(async move { drop(ours.sandbox_set_network(&ctx, &of, &offline).await) });
        let (ours, ctx) = (control.clone(), world.ctx.clone());
        open.spawn(async move { drop(ours.sandbox_create(&ctx, &NewSandbox::default(), None).await) });
    }
    let (ours, host) = (control.clone(), world.host_id);
    open.spawn(async move { drop(ours.reconcile_host(host, None).await) });
    world.host.arrived(Rpc::Exec, STUCK).await;
    world.host.arrived(Rpc::PingSandbox, STUCK).await;
    world.host.arrived(Rpc::CreateSandbox, before + here.len()).await;
    world.host.arrived(Rpc::SetNetworkPolicy, 1).await;
    world.host.arrived(Rpc::ListSandboxes, 1).await;
    control.host_drain(&system(), other.id, Draining::Off).await.unwrap();

    let asked = open.len();
    // Whoever is held up waits for ever: nobody who hangs gives up.
    tokio::time::timeout(Duration::from_secs(300), answered(&world, &there)).await.expect("one is held up");
    control.reconcile_host(other.id, None).await.unwrap();
    assert!(open.try_join_next().is_none(), "a call to the host that hangs has ended");
    assert_eq!(open.len(), asked);
}

/// Calls to sandboxes on a host that answers.
async fn answered(world: &World, there: &[Sandbox]) {
    let (control, ctx) = (&world.control, &world.ctx);
    let echo = Command { cmd: "echo".to_owned(), args: vec!["on".to_owned()], ..Command::default() };
    let offline = NetworkRules { allow_internet: Some(false), ..NetworkRules::default() };
    for (turn, sandbox) in there.iter().cycle().take(ANSWERED).enumerate() {
        match turn % 5 {
            0 => drop(control.sandbox_get(ctx, sandbox.id).await.unwrap()),
            1 => assert_eq!(control.sandbox_exec(ctx, sandbox, &echo, None).await.unwrap().stdout, "on\n"),
            2 => {
                let (filter, page) = (SandboxFilter::default(), PageRequest::default());
                assert!(!control.sandbox_list(ctx, &filter, &page).await.unwrap().items.is_empty());
            }
            3 => control.sandbox_set_network(ctx, sandbox, &offline).await.unwrap(),
            _ => control.sandbox_ping(ctx, sandbox).await.unwrap(),
        }
    }
}

#[tokio::test]
async fn a_host_that_is_deleted_while_it_creates_leaves_nothing() {
    // What is held at the door must not run out of time there, however slowly the host is deleted.
    let world = World::with(Config { create_deadline: Duration::from_secs(120), ..config() }).await;
    let gate = world.host.hold(Rpc::CreateSandbox);
    let (control, ctx) = (world.control.clone(), world.ctx.clone());
    let creating =
        tokio::spawn(async move { control.sandbox_create(&ctx, &NewSandbox::default(), None).await });
    world.host.arrived(Rpc::CreateSandbox, 1).await;
    // By another control plane.
    let replica = world.replica().await;
    replica.host_delete(&system(), world.host_id, Existing::Refuse).await.unwrap_err();
    replica.host_delete(&system(), world.host_id, Existing::Destroy).await.unwrap();
    assert!(replica.host_circuit(world.host_id).is_none(), "its client is forgotten");
    gate.open();
    let error = creating.await.unwrap().unwrap_err();
    assert!(matches!(error, SandboxError::Interrupted { .. }), "{error}");
    world.host.sandboxes_are(0).await;
    assert_eq!(world.statuses().await, [SandboxStatus::Stopped]);
    assert!(matches!(world.create().await, Err(SandboxError::NoHosts { .. })));
}

#[tokio::test]
async fn a_host_that_opens_no_tunnel_is_asked_whether_it_answers_at_all() {
    let probe_deadline = Duration::from_millis(100);
    let world = World::with(Config { probe_deadline, ..config() }).await;
    let sandbox = world.create().await.unwrap();
    for rpc in [Rpc::Tunnel, Rpc::GetHealth] {
        world.host.inject(rpc, Fault::Hang, Times::Always);
    }
    let to = world.control.destination(sandbox.id).await.unwrap().unwrap();
    world.control.open_tunnel(&to, 80).await.unwrap_err();
    let mut circuit = world.control.host_circuit(world.host_id).unwrap();
    let open = circuit.wait_for(|circuit| *circuit == Circuit::Open);
    tokio::time::timeout(Duration::from_secs(60), open).await.unwrap().unwrap();
}

fn named(name: &str) -> NewSnapshot {
    NewSnapshot { name: Some(name.to_owned()), overwrite: false, tag: None }
}

#[tokio::test]
async fn the_only_copies_of_snapshots_end_with_their_host_and_nobody_else_sees_them_go_unsaid() {
    let world = World::new().await;
    let other = Member::join(&world).await;
    let source = loop {
        let made = world.create().await.unwrap();
        if made.host_id == Some(world.host_id) {
            break made;
        }
    };
    let [only, shared] = ["only", "shared"];
    for name in [only, shared] {
        world.control.snapshot_create(&world.ctx, &source, &named(name)).await.unwrap();
    }
    let copied = "INSERT INTO template_locations (template_id, host_id, state)
                  SELECT id, $1, 'ready' FROM templates WHERE name = 'shared'";
    sqlx::query(copied).bind(other.id.uuid()).execute(world.database.pool()).await.unwrap();
    world.control.sandbox_destroy(&world.ctx, &source).await.unwrap();
    let refused = world.control.host_delete(&system(), world.host_id, Existing::Refuse).await.unwrap_err();
    assert!(matches!(&refused, HostError::HasSnapshots { names } if *names == [only]), "{refused}");
    assert_eq!(refused.code(), ErrorCode::Conflict);
    assert_eq!(
        world.control.host_get(&system(), world.host_id).await.unwrap().status,
        HostStatus::Online,
        "nothing was changed"
    );
    world.control.host_delete(&system(), world.host_id, Existing::Destroy).await.unwrap();
    let page = world.control.template_list(&world.ctx, None, &PageRequest::default()).await.unwrap();
    let names: BTreeSet<_> = page.items.iter().map(|template| template.name.as_str()).collect();
    assert_eq!(names, BTreeSet::from(["base", shared]));
    assert_eq!(world.told().await.last().unwrap(), "system snapshot delete success");
    world.control.host_delete(&system(), other.id, Existing::Destroy).await.unwrap();
    assert_eq!(world.told().await.iter().filter(|told| told.contains("snapshot delete")).count(), 2);
}

#[tokio::test]
async fn a_snapshot_in_the_making_ends_with_its_host_and_gives_its_name_back() {
    // What is held at the door must not run out of time there, however slowly the host is deleted.
    let world = World::with(Config { snapshot_deadline: Duration::from_secs(120), ..config() }).await;
    let source = world.create().await.unwrap();
    let gate = world.host.hold(Rpc::SnapshotSandbox);
    let (control, ctx) = (world.control.clone(), world.ctx.clone());
    let making = tokio::spawn(async move { control.snapshot_create(&ctx, &source, &named("work")).await });
    world.host.arrived(Rpc::SnapshotSandbox, 1).await;
    // By another control plane, which is killed as soon as the host is gone.
    let id = world.host_id;
    let doomed = world.doomed(move |control, _| async move {
        control.host_delete(&system(), id, Existing::Destroy).await.unwrap();
    });
    doomed.ended().await;
    doomed.kill();
    let left: i64 =
        sqlx::query_scalar("SELECT count(*) FROM templates WHERE name = 'work' AND deleted_at IS NULL")
            .fetch_one(world.database.pool())
            .await
            .unwrap();
    assert_eq!(left, 0, "the name is free");
    assert!(world.told().await.contains(&"api_key snapshot create error".to_owned()));
    gate.open();
    making.await.unwrap().unwrap_err();
}

#[tokio::test]
async fn a_host_with_a_certificate_of_another_authority_is_not_called() {
    let (world, strange) = (World::new().await, World::new().await);
    let sandbox = world.create().await.unwrap();
    sqlx::query("UPDATE hosts SET address = $1")
        .bind(strange.host.address())
        .execute(world.database.pool())
        .await
        .unwrap();
    let sandbox = world.get(sandbox.id).await;
    let error = world.control.sandbox_ping(&world.ctx, &sandbox).await.unwrap_err();
    assert!(matches!(error, SandboxError::HostUnavailable { .. }), "{error}");
    assert_eq!(strange.host.calls(Rpc::PingSandbox), 0);
}

#[tokio::test]
async fn a_new_host_gets_the_platforms_template_by_itself() {
    let world = World::new().await;
    let created = world.control.host_create(&system(), &NewHost::default()).await.unwrap();
    let host = SimHost::bind().await.unwrap();
    let registered = register(&world.control, &host, created.registration_token).await;
    let ctx = host_context(&world.control, &registered).await;
    // It could not at first; two control planes look after it.
    host.inject(Rpc::CreateTemplate, Fault::Fail, Times::Once);
    let (replica, stop) = (world.replica().await, CancellationToken::new());
    let background: Vec<_> = [world.control.clone(), replica]
        .into_iter()
        .map(|control| {
            let stop = stop.clone();
            tokio::spawn(async move { control.run_background(stop).await })
        })
        .collect();
    let heartbeat = Heartbeat { inventory_generation: 1, ..Heartbeat::default() };
    world.control.host_heartbeat(&ctx, created.host.id, &heartbeat).await.unwrap();
    host.arrived(Rpc::CreateTemplate, 1).await;
    let beats = async {
        // Each brings a round; the claim of the one that failed is given back. No shutdown waits for what a host makes.
        for generation in 2.. {
            if host.templates().len() == 1 {
                break;
            }
            let heartbeat = Heartbeat { inventory_generation: generation, ..Heartbeat::default() };
            world.control.host_heartbeat(&ctx, created.host.id, &heartbeat).await.unwrap();
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(60), beats).await.unwrap();
    stop.cancel();
    join_all(background).await;
    assert_eq!(host.calls(Rpc::CreateTemplate), 2, "one at a time");
}

#[tokio::test]
async fn a_storm_of_creates_with_kills_of_hosts_and_control_planes_leaves_nothing_without_an_owner() {
    let world = World::new().await;
    let other = Member::join(&world).await;
    let replica = world.replica().await;
    let doomed = world.doomed(|control, ctx| async move {
        loop {
            drop(control.sandbox_create(&ctx, &NewSandbox::default(), None).await);
        }
    });
    let storm = |control: Control| {
        let ctx = world.ctx.clone();
        async move {
            for _ in 0..25 {
                drop(control.sandbox_create(&ctx, &NewSandbox::default(), None).await);
            }
        }
    };
    let kills = async {
        for turn in 1..=10 {
            other.host.arrived(Rpc::CreateSandbox, turn).await;
            other.host.crash().await.unwrap();
            other.host.restart().await.unwrap();
        }
    };
    tokio::join!(storm(world.control.clone()), storm(replica.clone()), kills);
    doomed.kill();
    world.control.drain().await;
    replica.drain().await;
    world.age_rows().await;
    let settled = world.replica().await;
    for id in [world.host_id, other.id] {
        // A round that met what was on its way is followed by another.
        let first = settled.reconcile_host(id, None).await.unwrap();
        settled.reconcile_host(id, Some(&first)).await.unwrap();
    }
    for (id, host) in [(world.host_id, &world.host), (other.id, &*other.host)] {
        let rows: Vec<Uuid> =
            sqlx::query_scalar("SELECT id FROM sandboxes WHERE host_id = $1 AND status = 'running'")
                .bind(id.uuid())
                .fetch_all(world.database.pool())
                .await
                .unwrap();
        let rows: BTreeSet<String> =
            rows.into_iter().map(|id| Id::<sandbar_types::id::Sandbox>::from_uuid(id).to_string()).collect();
        let machines: BTreeSet<String> = host.sandboxes().into_iter().map(|sandbox| sandbox.id).collect();
        assert_eq!(rows, machines, "{id}");
    }
    let between = world.statuses().await.into_iter().filter(|status| status.is_transitional()).count();
    assert_eq!(between, 0);
}
