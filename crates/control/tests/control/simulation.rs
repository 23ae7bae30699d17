//! Random storms of everything that can happen to sandboxes and snapshots, by two control planes at once, over a host that drops replies,
//! refuses, crashes and acts by itself, with control planes that die in the middle. Afterwards nothing is between two states, and
//! rows and host agree.

use std::collections::BTreeMap;

use futures::future::join_all;
use sandbar_control::sandboxes::{
    NewDeadline, NewFork, NewSandbox, OnTimeout, Resume, Sandbox, SandboxFilter,
};
use sandbar_control::snapshots::NewSnapshot;
use sandbar_control::{Control, OpContext, PageRequest};
use sandbar_testkit::sim_host::{Fault, Reason, Rpc, SandboxState, Times};
use sandbar_types::{ErrorCode, SandboxStatus};

use crate::support::World;

const SEEDS: u64 = 4;
const STEPS: usize = 50;
/// Operations at the same time.
const WIDTH: usize = 3;

/// Deterministic, so that a failure can be repeated by its seed (splitmix64).
pub(crate) struct Random(pub(crate) u64);

impl Random {
    pub(crate) fn below(&mut self, bound: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        usize::try_from((mixed ^ (mixed >> 31)) % bound as u64).unwrap()
    }

    pub(crate) fn pick<T: Clone>(&mut self, of: &[T]) -> T {
        of[self.below(of.len())].clone()
    }
}

#[derive(Debug, Clone, Copy)]
enum Operation {
    Create,
    Pause,
    Resume,
    Fork,
    Snapshot,
    Replace,
    DeleteSnapshot,
    Timeout,
    Destroy,
}

const OPERATIONS: [Operation; 12] = [
    Operation::Create,
    Operation::Create,
    Operation::Pause,
    Operation::Pause,
    Operation::Resume,
    Operation::Resume,
    Operation::Fork,
    Operation::Snapshot,
    Operation::Replace,
    Operation::DeleteSnapshot,
    Operation::Timeout,
    Operation::Destroy,
];

const CALLS: [Rpc; 10] = [
    Rpc::ListSandboxes,
    Rpc::CreateSandbox,
    Rpc::DestroySandbox,
    Rpc::PauseSandbox,
    Rpc::ResumeSandbox,
    Rpc::SnapshotSandbox,
    Rpc::ForkSandbox,
    Rpc::DeleteTemplate,
    Rpc::SetDeadline,
    Rpc::FlushSandboxMetrics,
];

/// One operation on some sandbox. Whatever it comes to is fine, unless it is a fault of ours.
async fn operate(
    control: Control,
    ctx: OpContext,
    operation: Operation,
    sandbox: Option<Sandbox>,
    name: u32,
) {
    let snapshot = |overwrite| NewSnapshot { name: Some(format!("s{name}")), overwrite, tag: None };
    let code = match (operation, sandbox) {
        (Operation::Create, _) | (_, None) => {
            let from = (name == 0).then(|| "s1".to_owned());
            let new = NewSandbox { template: from, ..NewSandbox::default() };
            control.sandbox_create(&ctx, &new, None).await.err().map(|error| error.code())
        }
        (Operation::Pause, Some(of)) => {
            control.sandbox_pause(&ctx, &of).await.err().map(|error| error.code())
        }
        (Operation::Resume, Some(of)) => {
            control.sandbox_resume(&ctx, &of, Resume::default()).await.err().map(|error| error.code())
        }
        (Operation::Fork, Some(of)) => {
            let fork = NewFork { count: 2, ..NewFork::default() };
            control.sandbox_fork(&ctx, &of, fork, None).await.err().map(|error| error.code())
        }
        (Operation::Snapshot, Some(of)) => {
            control.snapshot_create(&ctx, &of, &snapshot(false)).await.err().map(|error| error.code())
        }
        (Operation::Replace, Some(of)) => {
            control.snapshot_create(&ctx, &of, &snapshot(true)).await.err().map(|error| error.code())
        }
        (Operation::DeleteSnapshot, Some(_)) => {
            let name = format!("s{name}").parse().unwrap();
            control.snapshot_delete(&ctx, &name).await.err().map(|error| error.code())
        }
        (Operation::Timeout, Some(of)) => control
            .sandbox_set_timeout(
                &ctx,
                &of,
                600,
                NewDeadline { on_timeout: Some(OnTimeout::Pause), ..NewDeadline::default() },
            )
            .await
            .err()
            .map(|error| error.code()),
        (Operation::Destroy, Some(of)) => {
            control.sandbox_destroy(&ctx, &of).await.err().map(|error| error.code())
        }
    };
    assert_ne!(code, Some(ErrorCode::InternalError), "{operation:?}");
}

/// Mostly one in a state that allows it.
fn subject(living: &[Sandbox], operation: Operation, random: &mut Random) -> Option<Sandbox> {
    let wanted =
        if matches!(operation, Operation::Resume) { SandboxStatus::Paused } else { SandboxStatus::Running };
    let fitting: Vec<Sandbox> = living.iter().filter(|of| of.status == wanted).cloned().collect();
    match (fitting.is_empty() || random.below(4) == 0, living.is_empty()) {
        (false, _) => Some(random.pick(&fitting)),
        (true, false) => Some(random.pick(living)),
        (true, true) => None,
    }
}

async fn step(world: &World, controls: &[Control], random: &mut Random) {
    let page = PageRequest::new(Some(200), None).unwrap();
    let living = controls[0].sandbox_list(&world.ctx, &SandboxFilter::default(), &page).await.unwrap().items;
    for _ in 0..random.below(3) {
        let fault = random.pick(&[
            Fault::LoseReply,
            Fault::LoseReply,
            Fault::Fail,
            Fault::Refuse(Reason::REASON_BUSY),
            Fault::Refuse(Reason::REASON_NO_CAPACITY),
        ]);
        world.host.inject(random.pick(&CALLS), fault, Times::Once);
    }
    match random.below(10) {
        0 if !living.is_empty() => world.host.auto_pause(&random.pick(&living).id.to_string()),
        1 if !living.is_empty() => world.host.resume_late(&random.pick(&living).id.to_string()),
        2 if !living.is_empty() => world.host.kill_vmm(&random.pick(&living).id.to_string()),
        3 => {
            world.host.crash().await.unwrap();
            world.host.restart().await.unwrap();
        }
        // What a round comes to is checked at the end.
        4 => drop(random.pick(controls).reconcile_host(world.host_id, None).await),
        5 => return doomed(world, random, &living).await,
        _ => {}
    }
    let operations = (0..WIDTH).map(|_| {
        let (control, operation) = (random.pick(controls), random.pick(&OPERATIONS));
        let sandbox = subject(&living, operation, random);
        let name = u32::try_from(random.below(3)).unwrap();
        operate(control, world.ctx.clone(), operation, sandbox, name)
    });
    join_all(operations.collect::<Vec<_>>()).await;
}

/// An operation by a control plane that dies while its host is at it: before, or after the work is done there.
async fn doomed(world: &World, random: &mut Random, living: &[Sandbox]) {
    let (operation, call) = random.pick(&[
        (Operation::Create, Rpc::CreateSandbox),
        (Operation::Pause, Rpc::PauseSandbox),
        (Operation::Resume, Rpc::ResumeSandbox),
        (Operation::Fork, Rpc::ForkSandbox),
        (Operation::Replace, Rpc::SnapshotSandbox),
        (Operation::DeleteSnapshot, Rpc::DeleteTemplate),
        (Operation::Destroy, Rpc::DestroySandbox),
    ]);
    let sandbox = subject(living, operation, random);
    world.host.heal();
    let before = world.host.calls(call);
    world.host.inject(call, random.pick(&[Fault::Hang, Fault::HangAfter]), Times::Once);
    let doomed = world.doomed(move |control, ctx| operate(control, ctx, operation, sandbox, 1));
    // One that is refused before any host is called just ends.
    tokio::select! {
        () = world.host.arrived(call, before + 1) => {}
        () = doomed.ended() => {}
    }
    doomed.kill();
    world.host.heal();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn after_any_storm_rows_and_host_agree_and_nothing_is_between_two_states() {
    for seed in 0..SEEDS {
        let mut random = Random(seed);
        let world = World::new().await;
        let controls = [world.control.clone(), world.replica().await];
        for _ in 0..STEPS {
            step(&world, &controls, &mut random).await;
        }
        world.host.heal();
        world.age_rows().await;
        // The second settles what the first had to see twice.
        let first = world.look().await;
        world.age_rows().await;
        let second = world.control.reconcile_host(world.host_id, Some(&first)).await.unwrap();
        assert_eq!((second.failed, second.spared), (0, 0), "seed {seed}");
        agree(&world, seed).await;
    }
}

async fn agree(world: &World, seed: u64) {
    let rows: Vec<(uuid::Uuid, String)> =
        sqlx::query_as("SELECT id, status FROM sandboxes WHERE status NOT IN ('stopped', 'error')")
            .fetch_all(world.database.pool())
            .await
            .unwrap();
    let rows: BTreeMap<String, String> =
        rows.into_iter().map(|(id, status)| (format!("sb-{id}"), status)).collect();
    let machines: BTreeMap<String, String> = world
        .host
        .sandboxes()
        .into_iter()
        .map(|sandbox| {
            let state = match sandbox.state.as_known().unwrap() {
                SandboxState::SANDBOX_STATE_RUNNING => "running",
                SandboxState::SANDBOX_STATE_PAUSED => "paused",
                other => panic!("seed {seed}: {other:?}"),
            };
            (sandbox.id, state.to_owned())
        })
        .collect();
    assert_eq!(rows, machines, "seed {seed}");
    let locations: Vec<(uuid::Uuid, String)> = sqlx::query_as(
        "SELECT l.template_id, CASE WHEN t.ready_at IS NULL OR t.deleted_at IS NOT NULL THEN 'no template' ELSE l.state END
         FROM template_locations l JOIN templates t ON t.id = l.template_id",
    )
    .fetch_all(world.database.pool())
    .await
    .unwrap();
    let locations: BTreeMap<String, String> =
        locations.into_iter().map(|(id, state)| (format!("tpl-{id}"), state)).collect();
    let files: BTreeMap<String, String> =
        world.host.templates().into_iter().map(|template| (template.id, "ready".to_owned())).collect();
    assert_eq!(locations, files, "seed {seed}");
    let unnamed: i64 = sqlx::query_scalar(
        "SELECT count(*) FROM templates t WHERE deleted_at IS NULL
         AND (ready_at IS NULL OR draft OR NOT EXISTS (SELECT 1 FROM template_locations WHERE template_id = t.id))",
    )
    .fetch_one(world.database.pool())
    .await
    .unwrap();
    assert_eq!(unnamed, 0, "seed {seed}: a template that nobody can use");
    // Of each sandbox that runs, and of no other, there is one run that goes on.
    let miscounted: i64 = sqlx::query_scalar(
        "SELECT count(*) FROM sandboxes s
         FULL JOIN (SELECT sandbox_id FROM sandbox_runs WHERE ended_at = 'infinity') r ON r.sandbox_id = s.id
         WHERE (s.status = 'running') IS DISTINCT FROM (r.sandbox_id IS NOT NULL)",
    )
    .fetch_one(world.database.pool())
    .await
    .unwrap();
    assert_eq!(miscounted, 0, "seed {seed}");
}
