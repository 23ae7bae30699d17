//! Builds: made, failed, cancelled, taken over from the dead; with both queues, against the real servers.

/// The same test with each queue.
macro_rules! with_both_queues {
    ($($test:ident),* $(,)?) => {
        mod postgres {
            $(#[tokio::test]
            async fn $test() {
                super::$test(super::Queue::Postgres).await;
            })*
        }
        mod redis {
            $(#[tokio::test]
            async fn $test() {
                super::$test(super::Queue::Redis).await;
            })*
        }
    };
}

mod archives;
mod deaths;
mod entries;
mod files;
mod given;
mod images;
mod traces;

use std::collections::BTreeMap;
use std::time::Duration;

use sandbar_control::builds::{Build, BuildConfig, BuildLog, BuildScope, NewBuild};
use sandbar_control::sandboxes::NewSandbox;
use sandbar_control::{Config, Control, OpContext};
use sandbar_testkit::RedisServer;
use sandbar_testkit::sim_host::{Fault, Reason, Rpc, Times};
use sandbar_types::{BuildStatus, ErrorCode, Id, SandboxStatus, TemplateKind, id};
use tokio_util::sync::{CancellationToken, DropGuard};

use crate::support::{World, config};

/// Longer than anything here takes, on a machine that does much else.
const PATIENCE: Duration = Duration::from_secs(60);

/// A world whose builds are queued somewhere.
struct Building {
    world: World,
    redis: Option<RedisServer>,
}

#[derive(Clone, Copy)]
enum Queue {
    Postgres,
    Redis,
}

impl Building {
    /// Nobody works in it yet.
    async fn new(queue: Queue) -> Self {
        let redis = matches!(queue, Queue::Redis).then(RedisServer::start);
        let builds = BuildConfig {
            workers: 2,
            sweep: Duration::from_millis(100),
            health_interval: Duration::from_millis(20),
            redis_url: redis.as_ref().map(RedisServer::url),
            ..BuildConfig::default()
        };
        Self { world: World::with(Config { builds, ..config() }).await, redis }
    }

    /// Workers, in a control plane of their own, until the guard is dropped.
    async fn workers(&self) -> DropGuard {
        let control = self.world.replica().await;
        let stop = CancellationToken::new();
        let token = stop.clone();
        tokio::spawn(async move { control.run_background(token).await });
        stop.drop_guard()
    }

    async fn submit(&self, name: &str, recipe: &[&str]) -> Build {
        self.submit_with(name, recipe, None).await
    }

    async fn submit_with(&self, name: &str, recipe: &[&str], healthcheck: Option<(&str, u32)>) -> Build {
        let new = NewBuild {
            name: name.to_owned(),
            recipe: recipe.iter().map(|line| (*line).to_owned()).collect(),
            healthcheck: healthcheck.map(|(line, _)| line.to_owned()),
            healthcheck_sec: healthcheck.map(|(_, limit)| limit),
            ..NewBuild::default()
        };
        self.world.control.build_create(&self.world.ctx, BuildScope::Team, &new).await.unwrap()
    }

    /// Follows a build to its end: how it ended, and all that its last attempt wrote.
    async fn end_of(&self, id: Id<id::Build>) -> (Build, Vec<BuildLog>) {
        let follow = async {
            let (control, ctx) = (&self.world.control, &self.world.ctx);
            let mut follower = control.build_follow(ctx, BuildScope::Team, id).await.unwrap();
            let (mut last, mut logs) = (None, Vec::<BuildLog>::new());
            while let Some(progress) = follower.next().await.unwrap() {
                for log in progress.logs {
                    logs.retain(|known| known.attempt == log.attempt);
                    match logs.iter_mut().find(|known| known.step == log.step) {
                        Some(known) => {
                            known.stdout.push_str(&log.stdout);
                            known.stderr.push_str(&log.stderr);
                            (known.exit_code, known.duration_ms) = (log.exit_code, log.duration_ms);
                            known.truncated = log.truncated;
                        }
                        None => logs.push(log),
                    }
                }
                last = Some(progress.build);
            }
            let build = last.unwrap();
            // What was followed is what is kept.
            assert_eq!(control.build_logs(&build).await.unwrap(), logs);
            (build, logs)
        };
        tokio::time::timeout(PATIENCE, follow).await.expect("the build comes to an end")
    }

    /// Waits until the platform has no sandbox left.
    async fn no_sandbox_is_left(&self) {
        let gone = self.world.host.sandboxes_are(0);
        tokio::time::timeout(PATIENCE, gone).await.expect("no sandbox is left");
        assert!(self.world.statuses().await.iter().all(|status| {
            matches!(status, SandboxStatus::Stopped | SandboxStatus::Stopping | SandboxStatus::Error)
        }));
    }

    async fn told(&self) -> Vec<String> {
        sqlx::query_scalar(
            "SELECT concat_ws(' ', actor_type, action, resource_id, status) FROM audit_logs
             WHERE resource_type = 'template' ORDER BY created_at, id",
        )
        .fetch_all(self.world.database.pool())
        .await
        .unwrap()
    }

    async fn from(&self, template: &str) -> sandbar_control::Sandbox {
        let new = NewSandbox { template: Some(template.to_owned()), ..NewSandbox::default() };
        self.world.control.sandbox_create(&self.world.ctx, &new, None).await.unwrap()
    }
}

with_both_queues! {
    a_recipe_becomes_a_template_and_its_sandboxes_have_what_it_left,
    what_waits_is_taken_once_however_many_workers_there_are,
    a_cancelled_build_leaves_nothing,
    what_a_killed_worker_had_is_begun_anew,
    a_control_plane_that_goes_down_gives_its_builds_back,
}

async fn a_recipe_becomes_a_template_and_its_sandboxes_have_what_it_left(queue: Queue) {
    let building = Building::new(queue).await;
    let world = &building.world;
    let _workers = building.workers().await;
    let recipe = [
        "FROM base",
        "echo one",
        "ENV A=1 B=\"$A two\"",
        "WORKDIR /srv",
        "USER app",
        "RUN context",
        "START sleep",
        "# that is all",
    ];
    let build = building.submit_with("work", &recipe, Some(("echo well", 30))).await;
    assert_eq!((build.status, build.total_steps), (BuildStatus::Pending, 8));
    let (ended, logs) = building.end_of(build.id).await;
    assert_eq!((ended.status, ended.error, ended.current_step), (BuildStatus::Success, None, 8));
    let told: Vec<_> =
        logs.iter().map(|log| (log.cmd.as_str(), log.stdout.as_str(), log.exit_code)).collect();
    assert_eq!(
        told,
        [
            ("RUN echo one", "one\n", Some(0)),
            ("ENV A=\"1\" B=\"${A} two\"", "", Some(0)),
            ("WORKDIR \"/srv\"", "", Some(0)),
            ("USER \"app\"", "", Some(0)),
            ("RUN context", "user=app\ncwd=/srv\nA=1\nB=1 two\n", Some(0)),
            ("START sleep", "", None),
            ("HEALTHCHECK echo well", "", Some(0)),
            ("KEEP work", "", None),
        ]
    );
    building.no_sandbox_is_left().await;
    assert_eq!(building.told().await, ["api_key build work success"]);

    let made = building.from("work").await;
    let creation = world.host.creation_of(&made.id.to_string()).unwrap();
    let env: BTreeMap<_, _> = creation.env.iter().map(|(k, v)| (k.as_str(), v.as_str())).collect();
    assert_eq!(env, [("A", "1"), ("B", "1 two")].into());
    assert_eq!((creation.default_user.as_str(), creation.default_workdir.as_str()), ("app", "/srv"));
    // What is kept of it, and what is built on it, has the same.
    let new = sandbar_control::snapshots::NewSnapshot {
        name: Some("kept".to_owned()),
        overwrite: false,
        tag: None,
    };
    world.control.snapshot_create(&world.ctx, &made, &new).await.unwrap();
    world.control.sandbox_destroy(&world.ctx, &made).await.unwrap();
    let (ended, logs) = building
        .end_of(building.submit("more", &["FROM template:kept", "ENV A=3", "context"]).await.id)
        .await;
    assert_eq!(ended.status, BuildStatus::Success);
    assert_eq!(logs[1].stdout, "user=app\ncwd=/srv\nA=3\nB=1 two\n");

    // The same name again takes its place.
    let again = building.submit("work", &["FROM base", "echo again"]).await;
    assert_eq!(building.end_of(again.id).await.0.status, BuildStatus::Success);
    let page = world.control.template_list(&world.ctx, None, &Default::default()).await.unwrap();
    assert_eq!(page.items.iter().filter(|made| made.name.as_str() == "work").count(), 1);
    assert!(page.items.iter().all(|made| made.kind == TemplateKind::Snapshot));
    let creation = building.from("work").await;
    assert!(world.host.creation_of(&creation.id.to_string()).unwrap().env.is_empty());
}

async fn what_waits_is_taken_once_however_many_workers_there_are(queue: Queue) {
    let building = Building::new(queue).await;
    let mut builds = Vec::new();
    for n in 0..6 {
        builds.push(building.submit(&format!("t{n}"), &["echo"]).await.id);
    }
    let _workers = [building.workers().await, building.workers().await];
    for id in builds {
        let (ended, _) = building.end_of(id).await;
        assert_eq!((ended.status, ended.attempts), (BuildStatus::Success, 1));
    }
    assert_eq!(building.world.host.calls(Rpc::CreateSandbox), 6);
    building.no_sandbox_is_left().await;
}

async fn a_cancelled_build_leaves_nothing(queue: Queue) {
    let building = Building::new(queue).await;
    let (world, scope) = (&building.world, BuildScope::Team);
    let waits = building.submit("waits", &["echo"]).await;
    let cancelled = world.control.build_cancel(&world.ctx, scope, waits.id).await.unwrap();
    assert_eq!(cancelled.status, BuildStatus::Cancelled);

    let _workers = building.workers().await;
    let runs = building.submit("runs", &["sleep"]).await;
    world.host.processes_are(1).await;
    let asked = world.control.build_cancel(&world.ctx, scope, runs.id).await.unwrap();
    assert_eq!(asked.status, BuildStatus::Running);
    assert_eq!(building.end_of(runs.id).await.0.status, BuildStatus::Cancelled);
    building.no_sandbox_is_left().await;
    world.host.processes_are(0).await;
    for id in [waits.id, runs.id] {
        let refused = world.control.build_cancel(&world.ctx, scope, id).await.unwrap_err();
        assert_eq!(refused.code(), ErrorCode::InvalidState);
    }
    assert_eq!(building.told().await, ["api_key build waits warning", "api_key build runs warning"]);
}

async fn what_a_killed_worker_had_is_begun_anew(queue: Queue) {
    let mut building = Building::new(queue).await;
    let doomed = building.world.doomed(|control: Control, _: OpContext| async move {
        control.run_background(CancellationToken::new()).await;
    });
    let gate = building.world.host.hold(Rpc::ExecStream);
    let build = building.submit("work", &["echo"]).await;
    building.world.host.arrived(Rpc::ExecStream, 1).await;
    doomed.kill();
    gate.open();
    building.world.execute("UPDATE template_builds SET leased_until = now() - interval '1 second'").await;
    if let Some(redis) = &mut building.redis {
        // With it, everything that it knew.
        redis.lose_everything();
    }
    let _workers = building.workers().await;
    let (ended, _) = building.end_of(build.id).await;
    assert_eq!((ended.status, ended.attempts), (BuildStatus::Success, 2));
    building.no_sandbox_is_left().await;
}

async fn a_control_plane_that_goes_down_gives_its_builds_back(queue: Queue) {
    let building = Building::new(queue).await;
    let world = &building.world;
    let control = world.replica().await;
    let stop = CancellationToken::new();
    let token = stop.clone();
    let work = tokio::spawn(async move { control.run_background(token).await });
    let gate = world.host.hold(Rpc::ExecStream);
    let build = building.submit("work", &["echo"]).await;
    world.host.arrived(Rpc::ExecStream, 1).await;
    stop.cancel();
    gate.open();
    work.await.unwrap();
    let now = world.control.build_get(&world.ctx, BuildScope::Team, build.id).await.unwrap();
    assert_eq!((now.status, now.attempts), (BuildStatus::Pending, 0));
    building.no_sandbox_is_left().await;
    let _workers = building.workers().await;
    let (ended, _) = building.end_of(build.id).await;
    assert_eq!((ended.status, ended.attempts), (BuildStatus::Success, 1));
}

#[tokio::test]
async fn a_template_that_is_a_disk_alone_is_booted_in_the_size_that_is_asked_for() {
    let building = Building::new(Queue::Postgres).await;
    let world = &building.world;
    let _workers = building.workers().await;
    let first = building.submit("first", &["ENV A=1", "WORKDIR /srv", "USER app"]).await;
    assert_eq!(building.end_of(first.id).await.0.status, BuildStatus::Success);
    let made = building.from("first").await;
    let new = sandbar_control::snapshots::NewSnapshot {
        name: Some("disk".to_owned()),
        overwrite: false,
        tag: None,
    };
    let disk = world.control.sandbox_flatten(&world.ctx, &made, &new).await.unwrap();
    assert_eq!(disk.kind, TemplateKind::Base);
    world.control.sandbox_destroy(&world.ctx, &made).await.unwrap();

    let asked = |vcpus, memory_mb, disk_mb| NewBuild {
        name: "second".to_owned(),
        recipe: ["FROM disk", "context"].map(str::to_owned).to_vec(),
        vcpus,
        memory_mb,
        disk_mb,
        ..NewBuild::default()
    };
    for (vcpus, memory_mb, disk_mb) in
        [(Some(33), None, None), (None, Some(1), None), (None, None, Some(disk.disk_mb + 1))]
    {
        let bad = asked(vcpus, memory_mb, disk_mb);
        let refused = world.control.build_create(&world.ctx, BuildScope::Team, &bad).await.unwrap_err();
        assert_eq!(refused.code(), ErrorCode::InvalidRequest, "{refused}");
    }
    for (vcpus, memory_mb, disk_mb) in [(None, None, None), (Some(3), Some(768), Some(disk.disk_mb))] {
        let new = asked(vcpus, memory_mb, disk_mb);
        let build = world.control.build_create(&world.ctx, BuildScope::Team, &new).await.unwrap();
        let (ended, logs) = building.end_of(build.id).await;
        assert_eq!((ended.status, ended.error), (BuildStatus::Success, None));
        assert_eq!(logs[0].stdout, "user=app\ncwd=/srv\nA=1\n");
        let page = world.control.template_list(&world.ctx, None, &Default::default()).await.unwrap();
        let second = page.items.iter().find(|made| made.name.as_str() == "second").unwrap();
        let size = (vcpus.unwrap_or(disk.vcpus), memory_mb.unwrap_or(disk.memory_mb), disk.disk_mb);
        assert_eq!((second.vcpus, second.memory_mb, second.disk_mb), size);
        assert_eq!(second.kind, TemplateKind::Snapshot);
    }
    building.no_sandbox_is_left().await;
}

#[tokio::test]
async fn a_template_without_memory_is_a_disk_and_has_all_else_that_the_recipe_left() {
    let building = Building::new(Queue::Postgres).await;
    let world = &building.world;
    let _workers = building.workers().await;
    let new = NewBuild {
        name: "work".to_owned(),
        recipe: ["FROM debian:12", "ENV A=1", "WORKDIR /opt"].map(str::to_owned).into(),
        healthcheck: Some("echo well".to_owned()),
        kind: Some(TemplateKind::Base),
        ..NewBuild::default()
    };
    let build = world.control.build_create(&world.ctx, BuildScope::Team, &new).await.unwrap();
    assert_eq!(build.kind, TemplateKind::Base);
    world.host.inject(Rpc::FlattenRootfs, Fault::LoseReply, Times::Once);
    let (ended, logs) = building.end_of(build.id).await;
    assert_eq!((ended.status, ended.error, ended.attempts), (BuildStatus::Success, None, 2));
    assert_eq!(logs.last().unwrap().cmd, "KEEP work");
    assert_eq!((world.host.calls(Rpc::FlattenRootfs), world.host.calls(Rpc::SnapshotSandbox)), (2, 0));
    building.no_sandbox_is_left().await;
    let page = world.control.template_list(&world.ctx, None, &Default::default()).await.unwrap();
    let work = page.items.iter().find(|made| made.name.as_str() == "work").unwrap();
    assert_eq!(work.kind, TemplateKind::Base);

    // Its sandboxes boot, as large as they are asked for.
    let sized = NewSandbox {
        template: Some("work".to_owned()),
        vcpus: Some(3),
        memory_mb: Some(768),
        ..NewSandbox::default()
    };
    let made = world.control.sandbox_create(&world.ctx, &sized, None).await.unwrap();
    assert_eq!((made.vcpus, made.memory_mb), (3, 768));
    let creation = world.host.creation_of(&made.id.to_string()).unwrap();
    assert_eq!((creation.env["A"].as_str(), creation.default_workdir.as_str()), ("1", "/opt"));

    // What is to go on has nothing to do so in.
    let start = NewBuild { recipe: vec!["echo".to_owned(), "START sleep".to_owned()], ..new };
    let refused = world.control.build_create(&world.ctx, BuildScope::Team, &start).await.unwrap_err();
    assert_eq!(refused.code(), ErrorCode::InvalidRequest);
    assert!(refused.to_string().starts_with("recipe: step 2: what START began"), "{refused}");
}

#[tokio::test]
async fn a_step_that_fails_ends_it_and_tells_what_it_wrote() {
    let building = Building::new(Queue::Postgres).await;
    let _workers = building.workers().await;
    let recipe = ["echo first", "nonsense", "echo never"];
    let (ended, logs) = building.end_of(building.submit("work", &recipe).await.id).await;
    assert_eq!((ended.status, ended.attempts, ended.current_step), (BuildStatus::Failed, 1, 2));
    assert_eq!(ended.error.unwrap(), "step 2 (RUN nonsense) failed: exit code 127");
    assert_eq!((logs.len(), logs[1].stderr.as_str()), (2, "sh: nonsense: not found\n"));
    building.no_sandbox_is_left().await;
    assert_eq!(building.told().await, ["api_key build work error"]);
    let page = building.world.control.template_list(&building.world.ctx, None, &Default::default()).await;
    assert_eq!(page.unwrap().items.len(), 1, "the base");

    let late = building.submit("work", &["RUN --timeout=1s sleep"]).await;
    let (ended, _) = building.end_of(late.id).await;
    assert_eq!(ended.status, BuildStatus::Failed, "{:?}", ended.error);
    assert!(ended.error.unwrap().ends_with("took longer than 1 s"));

    let ill = building.submit_with("work", &["echo"], Some(("exit 3", 1))).await;
    let (ended, logs) = building.end_of(ill.id).await;
    assert_eq!(ended.error.unwrap(), "the healthcheck did not pass within 1 s");
    assert_eq!(logs[1].exit_code, Some(3));

    let flood = building.submit("work", &["flood 3000000", "exit 1"]).await;
    let (_, logs) = building.end_of(flood.id).await;
    assert_eq!((logs[0].stdout.len(), logs[0].truncated), (1 << 20, true));
    building.no_sandbox_is_left().await;
}

#[tokio::test]
async fn what_may_pass_is_tried_again_but_not_for_ever() {
    let building = Building::new(Queue::Postgres).await;
    let world = &building.world;
    let _workers = building.workers().await;
    world.host.inject(Rpc::SnapshotSandbox, Fault::Fail, Times::Once);
    let (ended, _) = building.end_of(building.submit("work", &["echo"]).await.id).await;
    assert_eq!((ended.status, ended.attempts), (BuildStatus::Success, 2));

    world.host.inject(Rpc::CreateSandbox, Fault::Refuse(Reason::REASON_NO_CAPACITY), Times::Always);
    let (ended, _) = building.end_of(building.submit("full", &["echo"]).await.id).await;
    assert_eq!((ended.status, ended.attempts), (BuildStatus::Failed, 3));
    assert!(ended.error.is_some_and(|error| !error.contains("internal")));
    world.host.heal();

    // Its workers died, three of them.
    world
        .execute(
            "UPDATE template_builds SET status = 'running', error = NULL, finished_at = NULL, worker = 'x',
                    leased_until = now() - interval '1 second' WHERE name = 'full'",
        )
        .await;
    let (ended, _) = building.end_of(ended.id).await;
    assert_eq!(ended.error.unwrap(), "it was begun 3 times, and each time its worker died");
}

#[tokio::test]
async fn what_cannot_be_built_is_refused_at_once() {
    let building = Building::new(Queue::Postgres).await;
    let (control, ctx) = (&building.world.control, &building.world.ctx);
    let good = NewBuild { name: "work".to_owned(), recipe: vec!["echo".to_owned()], ..NewBuild::default() };
    let lines = |lines: &[&str]| lines.iter().map(|line| (*line).to_owned()).collect();
    let env: Vec<String> = (0..65).map(|n| format!("ENV V{n}=1")).collect();
    for (bad, code) in [
        (NewBuild { name: "a/b".to_owned(), ..good.clone() }, ErrorCode::InvalidRequest),
        (NewBuild { name: "base".to_owned(), ..good.clone() }, ErrorCode::NameReserved),
        (NewBuild { recipe: lines(&["CMD x"]), ..good.clone() }, ErrorCode::InvalidRequest),
        (
            NewBuild { recipe: lines(&["FROM template:python", "x"]), ..good.clone() },
            ErrorCode::InvalidRequest,
        ),
        (NewBuild { recipe: lines(&["FROM Python", "echo"]), ..good.clone() }, ErrorCode::InvalidRequest),
        (
            NewBuild { vcpus: Some(33), recipe: lines(&["FROM a/b", "x"]), ..good.clone() },
            ErrorCode::InvalidRequest,
        ),
        (
            NewBuild { disk_mb: Some(100), recipe: lines(&["FROM a/b", "x"]), ..good.clone() },
            ErrorCode::InvalidRequest,
        ),
        (NewBuild { recipe: lines(&["USER a b"]), ..good.clone() }, ErrorCode::InvalidRequest),
        (NewBuild { recipe: env, ..good.clone() }, ErrorCode::InvalidRequest),
        (
            NewBuild {
                base_template: Some("other".to_owned()),
                recipe: lines(&["FROM base", "echo"]),
                ..good.clone()
            },
            ErrorCode::InvalidRequest,
        ),
        (NewBuild { vcpus: Some(2), ..good.clone() }, ErrorCode::InvalidRequest),
        (NewBuild { disk_mb: Some(512), ..good.clone() }, ErrorCode::InvalidRequest),
        (NewBuild { memory_mb: Some(1024), ..good.clone() }, ErrorCode::InvalidRequest),
        (NewBuild { healthcheck: Some(" ".to_owned()), ..good.clone() }, ErrorCode::InvalidRequest),
        (NewBuild { healthcheck_sec: Some(0), ..good.clone() }, ErrorCode::InvalidRequest),
    ] {
        let refused = control.build_create(ctx, BuildScope::Team, &bad).await.unwrap_err();
        assert_eq!(refused.code(), code, "{bad:?}: {refused}");
    }
    let refused = control.build_create(ctx, BuildScope::Platform, &good).await.unwrap_err();
    assert_eq!(refused.code(), ErrorCode::Forbidden);
    for n in 0..10 {
        building.submit(&format!("t{n}"), &["echo"]).await;
    }
    let refused = control.build_create(ctx, BuildScope::Team, &good).await.unwrap_err();
    assert_eq!(refused.code(), ErrorCode::RateLimited);
}
