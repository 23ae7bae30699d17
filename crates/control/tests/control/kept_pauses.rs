//! Paused sandboxes in object storage: simulated hosts, a real S3 server.

use std::time::Duration;

use sandbar_control::hosts::{Draining, Existing, Running, Stay};
use sandbar_control::reconcile::ReconcileReport;
use sandbar_control::sandboxes::{
    Awakening, FileTarget, NetworkRules, NewSandbox, NoHostReason, OnTimeout, PauseMode, Resume, SandboxError,
};
use sandbar_control::{Control, OpContext, Sandbox};
use sandbar_testkit::sim_host::{Fault, Reason, Rpc, SandboxState, Times};
use sandbar_types::id::Host;
use sandbar_types::{ErrorCode, Id, SandboxStatus};

use crate::object_storage::{S3, copies};
use crate::support::config;
use crate::transfer::Two;

/// A world with two hosts, and a paused sandbox on the first.
struct Paused {
    two: Two,
    s3: S3,
    sandbox: Sandbox,
}

impl Paused {
    async fn new() -> Self {
        let s3 = S3::start().await;
        let two = Two::with(s3.config()).await;
        let world = &two.world;
        world.control.host_drain(&OpContext::system(), world.host_id, Draining::Off).await.unwrap();
        // The snapshot of the world is copied, too; from here on what is copied is the pause.
        assert_eq!(world.control.keep_copies().await.unwrap().copied, 1);
        let new = NewSandbox {
            timeout_sec: Some(300),
            on_timeout: Some(OnTimeout::Pause),
            ..NewSandbox::default()
        };
        let sandbox = world.control.sandbox_create(&world.ctx, &new, None).await.unwrap();
        assert_eq!(sandbox.host_id, Some(world.host_id));
        let rules = NetworkRules { allow_internet: Some(false), ..NetworkRules::default() };
        world.control.sandbox_set_network(&world.ctx, &sandbox, &rules).await.unwrap();
        world.write(&sandbox, "/home/user/life", "first").await;
        let sandbox = world.control.sandbox_pause(&world.ctx, &sandbox).await.unwrap();
        Self { two, s3, sandbox }
    }

    async fn kept() -> Self {
        let paused = Self::new().await;
        let kept = paused.two.world.control.keep_copies().await.unwrap();
        assert_eq!((kept.copied, kept.failed), (1, 0));
        assert!(paused.now().await.durable);
        paused
    }

    async fn now(&self) -> Sandbox {
        self.two.world.get(self.sandbox.id).await
    }

    async fn resume(&self) -> Result<Sandbox, SandboxError> {
        let world = &self.two.world;
        world.control.sandbox_resume(&world.ctx, &self.now().await, Resume::default()).await
    }

    async fn life(&self) -> String {
        self.two.world.read(&self.now().await, "/home/user/life").await
    }

    /// How many objects there are beside those of the world's snapshot.
    async fn objects(&self) -> usize {
        let folder = self.two.snapshot.id.to_string();
        self.s3.objects().await.iter().filter(|object| !object.contains(&folder)).count()
    }

    async fn look_at_other(&self) -> ReconcileReport {
        self.look_at(self.two.other_id).await
    }

    async fn look_at_first(&self) -> ReconcileReport {
        self.look_at(self.two.world.host_id).await
    }

    /// A look at a host, once it answers again.
    async fn look_at(&self, host: Id<Host>) -> ReconcileReport {
        loop {
            match self.two.world.control.reconcile_host(host, None).await {
                Ok(report) => return report,
                Err(_) => tokio::time::sleep(Duration::from_millis(20)).await,
            }
        }
    }

    /// How many hosts run it, and how many have it paused.
    fn machines(&self) -> (usize, usize) {
        let id = self.sandbox.id.to_string();
        let all: Vec<_> = [&self.two.world.host, &*self.two.other]
            .into_iter()
            .flat_map(|host| host.sandboxes())
            .filter(|sandbox| sandbox.id == id)
            .collect();
        let count = |state| all.iter().filter(|sandbox| sandbox.state == state).count();
        (count(SandboxState::SANDBOX_STATE_RUNNING), count(SandboxState::SANDBOX_STATE_PAUSED))
    }

    async fn rest(&self) -> (SandboxStatus, bool, bool) {
        let now = self.now().await;
        (now.status, now.durable, now.host_id.is_some())
    }
}

#[tokio::test]
async fn a_kept_pause_goes_on_elsewhere_and_its_old_host_learns_that_what_it_has_is_old() {
    let paused = Paused::new().await;
    let world = &paused.two.world;
    assert!(!paused.now().await.durable);
    assert_eq!(world.control.keep_copies().await.unwrap().copied, 1);
    assert_eq!(paused.rest().await, (SandboxStatus::Paused, true, true));
    assert!(paused.objects().await > 1);
    let name = format!("pause-{}", paused.sandbox.id.uuid());
    world.control.template_resolve(&world.ctx, &name).await.unwrap_err();

    world.host.crash().await.unwrap();
    let resumed = paused.resume().await.unwrap();
    assert_eq!((resumed.id, resumed.host_id), (paused.sandbox.id, Some(paused.two.other_id)));
    assert_eq!((resumed.status, resumed.durable), (SandboxStatus::Running, false));
    assert_eq!((resumed.timeout_sec, resumed.on_timeout), (300, OnTimeout::Pause));
    assert_eq!(paused.life().await, "first");
    let id = resumed.id.to_string();
    let (then, now) = (world.host.creation_of(&id).unwrap(), paused.two.other.creation_of(&id).unwrap());
    assert_eq!((&then.access_token, &then.hostname), (&now.access_token, &now.hostname));
    assert!(now.keep_environment && now.network.deny_internet);
    assert_eq!(now.timeout_sec, 300);

    // What it was kept as is old, and goes.
    let kept = world.control.keep_copies().await.unwrap();
    assert_eq!((kept.deleted, kept.copied, kept.failed), (1, 0, 0));
    assert_eq!(paused.objects().await, 0);
    paused.look_at_other().await;
    let pauses = paused.two.other.templates();
    assert!(pauses.iter().all(|template| template.id != now.template_id), "its files are left");

    world.host.restart().await.unwrap();
    assert_eq!(paused.machines(), (1, 1));
    assert_eq!(paused.look_at_first().await.destroyed, 1);
    assert_eq!(paused.machines(), (1, 0));
    assert_eq!(paused.rest().await, (SandboxStatus::Running, false, true));
    assert_eq!(paused.life().await, "first");
    assert_eq!(
        world.told().await.iter().filter(|told| told.contains("resume")).collect::<Vec<_>>(),
        ["api_key sandbox resume success"]
    );
}

#[tokio::test]
async fn a_pause_that_is_over_is_never_gone_on_from() {
    let paused = Paused::kept().await;
    let world = &paused.two.world;
    let sandbox = paused.resume().await.unwrap();
    assert_eq!((sandbox.host_id, sandbox.durable), (Some(world.host_id), false), "its host has it");
    world.write(&sandbox, "/home/user/life", "second").await;
    let sandbox = world.control.sandbox_pause(&world.ctx, &sandbox).await.unwrap();
    assert!(!sandbox.durable, "another pause is in object storage");
    world.host.crash().await.unwrap();
    paused.resume().await.unwrap_err();
    world.host.restart().await.unwrap();
    paused.look_at_first().await;
    assert_eq!(paused.rest().await, (SandboxStatus::Paused, false, true));

    let kept = world.control.keep_copies().await.unwrap();
    assert_eq!((kept.deleted, kept.copied), (1, 1));
    world.host.crash().await.unwrap();
    paused.resume().await.unwrap();
    assert_eq!(paused.life().await, "second");
}

#[tokio::test]
async fn a_pause_that_its_host_ended_by_itself_meanwhile_is_not_gone_on_from() {
    let paused = Paused::kept().await;
    let world = &paused.two.world;
    // A resume that came late, and then the time-out.
    world.host.resume_late(&paused.sandbox.id.to_string());
    paused.look_at_first().await;
    assert_eq!(paused.rest().await, (SandboxStatus::Running, false, true));
    world.host.auto_pause(&paused.sandbox.id.to_string());
    paused.look_at_first().await;
    assert_eq!(paused.rest().await, (SandboxStatus::Paused, false, true));
}

#[tokio::test]
async fn with_the_sandbox_its_kept_pause_goes() {
    for on_no_host in [false, true] {
        let paused = Paused::kept().await;
        let world = &paused.two.world;
        if on_no_host {
            world.execute("UPDATE sandboxes SET host_id = NULL WHERE durable").await;
        }
        world.control.sandbox_destroy(&world.ctx, &paused.now().await).await.unwrap();
        assert_eq!(paused.rest().await.0, SandboxStatus::Stopped);
        assert_eq!(world.control.keep_copies().await.unwrap().deleted, 1);
        assert_eq!(
            (paused.objects().await, copies(&paused.two).await),
            (0, 1),
            "the snapshot's alone is left"
        );
        paused.look_at_first().await;
        assert_eq!(paused.machines(), (0, 0));
    }
}

#[tokio::test]
async fn a_host_that_drains_is_left_and_can_be_deleted() {
    let paused = Paused::kept().await;
    let world = &paused.two.world;
    let (system, host) = (OpContext::system(), world.host_id);
    world.control.host_drain(&system, host, Draining::On(Running::GoOn)).await.unwrap();
    let preview = world.control.host_delete_preview(&system, host).await.unwrap();
    assert_eq!(preview.surviving, 1);
    assert!(preview.sandboxes.iter().all(|(tenant, _)| tenant.id != paused.sandbox.id));
    world.control.keep_copies().await.unwrap();
    assert_eq!(paused.rest().await, (SandboxStatus::Paused, true, false));
    paused.look_at_first().await;
    assert_eq!(paused.machines(), (0, 0));
    // The sandbox that the world's snapshot was made of runs there; it is in the way, this one is not.
    world.control.host_delete(&system, host, Existing::Destroy).await.unwrap();
    assert_eq!(paused.rest().await, (SandboxStatus::Paused, true, false));
    assert_eq!(paused.resume().await.unwrap().host_id, Some(paused.two.other_id));
    assert_eq!(paused.life().await, "first");
}

#[tokio::test]
async fn a_deleted_host_takes_no_sandbox_with_it_that_object_storage_has() {
    let paused = Paused::kept().await;
    let world = &paused.two.world;
    world.host.crash().await.unwrap();
    world.control.host_delete(&OpContext::system(), world.host_id, Existing::Destroy).await.unwrap();
    assert_eq!(paused.rest().await, (SandboxStatus::Paused, true, false));
    assert_eq!(paused.resume().await.unwrap().host_id, Some(paused.two.other_id));
}

#[tokio::test]
async fn a_host_that_drains_resumes_what_nobody_else_can_take() {
    let paused = Paused::kept().await;
    let world = &paused.two.world;
    world.control.host_drain(&OpContext::system(), world.host_id, Draining::On(Running::GoOn)).await.unwrap();
    paused.two.other.inject(Rpc::ReceiveTemplate, Fault::Refuse(Reason::REASON_INCOMPATIBLE), Times::Always);
    assert_eq!(paused.resume().await.unwrap().host_id, Some(world.host_id));
}

#[tokio::test]
async fn a_host_of_another_kind_is_refused_with_the_reason_and_nothing_changes() {
    let paused = Paused::kept().await;
    let world = &paused.two.world;
    world.host.crash().await.unwrap();
    let refuse = Fault::Refuse(Reason::REASON_INCOMPATIBLE);
    paused.two.other.inject(Rpc::ReceiveTemplate, refuse, Times::Once);
    let error = paused.resume().await.unwrap_err();
    assert!(matches!(error, SandboxError::NoHosts { reason: NoHostReason::OtherMachine }), "{error:?}");
    assert_eq!(paused.rest().await, (SandboxStatus::Paused, true, true));
    world.execute("UPDATE hosts SET arch = 'aarch64' WHERE cpu_cores IS NOT NULL").await;
    let error = paused.resume().await.unwrap_err();
    assert!(matches!(error, SandboxError::NoHosts { reason: NoHostReason::OtherMachine }), "{error:?}");
    world.execute("UPDATE hosts SET arch = 'x86_64'").await;
    paused.resume().await.unwrap();
}

#[tokio::test]
async fn each_way_that_a_restore_can_fail_leaves_it_paused_and_whole() {
    let paused = Paused::kept().await;
    let world = &paused.two.world;
    world.host.crash().await.unwrap();
    for fault in [
        Fault::Refuse(Reason::REASON_NO_CAPACITY),
        Fault::Refuse(Reason::REASON_SNAPSHOT_DAMAGED),
        Fault::Fail,
        Fault::Hang,
        Fault::LoseReply,
        Fault::HangAfter,
    ] {
        paused.two.other.inject(Rpc::CreateSandbox, fault.clone(), Times::Once);
        paused.resume().await.unwrap_err();
        assert_eq!(paused.rest().await, (SandboxStatus::Paused, true, false), "{fault:?}");
        assert_eq!(paused.machines().0, 0, "{fault:?}");
    }
    assert_eq!(paused.resume().await.unwrap().host_id, Some(paused.two.other_id));
    assert_eq!((paused.machines().0, paused.life().await.as_str()), (1, "first"));
}

#[tokio::test]
async fn a_host_that_dies_while_it_restores_loses_nothing() {
    let paused = Paused::kept().await;
    let world = &paused.two.world;
    world.host.crash().await.unwrap();
    let _gate = paused.two.other.hold(Rpc::CreateSandbox);
    let (outcome, ()) = tokio::join!(paused.resume(), async {
        paused.two.other.arrived(Rpc::CreateSandbox, 1).await;
        paused.two.other.crash().await.unwrap();
    });
    outcome.unwrap_err();
    assert_eq!(paused.rest().await, (SandboxStatus::Missing, true, true));
    paused.two.other.heal();
    paused.two.other.restart().await.unwrap();
    paused.look_at_other().await;
    assert_eq!(paused.rest().await, (SandboxStatus::Paused, true, false));
    // Either host may have it: the first one's copy is as good as none.
    world.host.restart().await.unwrap();
    paused.look_at_first().await;
    let resumed = paused.resume().await.unwrap();
    assert_eq!((resumed.status, paused.life().await.as_str()), (SandboxStatus::Running, "first"));
    assert_eq!(paused.machines().0, 1);
}

#[tokio::test]
async fn a_control_plane_that_dies_while_it_keeps_a_pause_is_followed_by_the_next() {
    let paused = Paused::new().await;
    let world = &paused.two.world;
    for step in [Rpc::SnapshotSandbox, Rpc::OpenTemplate, Rpc::ReadTemplatePart] {
        let before = world.host.calls(step);
        let gate = world.host.hold(step);
        let doomed = world.doomed(|control, _| async move {
            let _killed = control.keep_copies().await;
        });
        world.host.arrived(step, before + 1).await;
        doomed.kill();
        gate.open();
        assert!(!paused.now().await.durable, "{step:?}");
        world.age_rows().await;
        world.execute("UPDATE template_copies SET copier_until = now() - interval '1 second' WHERE copier IS NOT NULL").await;
        paused.look_at_first().await;
    }
    for _ in 0..2 {
        world.control.keep_copies().await.unwrap();
    }
    assert!(paused.now().await.durable);
    let pauses = "SELECT count(*) FROM templates WHERE is_pause AND deleted_at IS NULL";
    let left: i64 = sqlx::query_scalar(pauses).fetch_one(world.database.pool()).await.unwrap();
    assert_eq!(left, 1, "what was given up is deleted");
    world.host.crash().await.unwrap();
    paused.resume().await.unwrap();
    assert_eq!(paused.life().await, "first");
}

#[tokio::test]
async fn a_control_plane_that_dies_while_it_restores_leaves_one_sandbox() {
    for step in [Rpc::WriteTemplatePart, Rpc::DestroySandbox, Rpc::CreateSandbox] {
        let paused = Paused::kept().await;
        let world = &paused.two.world;
        world.host.crash().await.unwrap();
        let gate = paused.two.other.hold(step);
        let sandbox = paused.now().await;
        let doomed = world.doomed(|control, ctx| async move {
            let _killed = control.sandbox_resume(&ctx, &sandbox, Resume::default()).await;
        });
        paused.two.other.arrived(step, 1).await;
        doomed.kill();
        gate.open();
        assert!(paused.now().await.durable, "{step:?}");
        world.age_rows().await;
        world.execute("UPDATE template_locations SET fetcher_until = now() - interval '1 second' WHERE fetcher IS NOT NULL").await;
        paused.look_at_other().await;
        if paused.rest().await.0 == SandboxStatus::Paused {
            paused.resume().await.unwrap();
        }
        assert_eq!(
            (paused.rest().await.0, paused.life().await.as_str()),
            (SandboxStatus::Running, "first"),
            "{step:?}"
        );
        assert_eq!(paused.machines().0, 1, "{step:?}");
    }
}

#[tokio::test]
async fn a_pause_on_a_teams_own_host_stays_there() {
    let paused = Paused::new().await;
    let world = &paused.two.world;
    world
        .execute(
            "UPDATE hosts SET kind = 'byoc', team_id = (SELECT team_id FROM templates WHERE name = 'kept')",
        )
        .await;
    assert_eq!(world.control.keep_copies().await.unwrap().copied, 0);
    assert!(!paused.now().await.durable);
}

#[tokio::test]
async fn a_pause_without_memory_is_kept_and_boots_elsewhere_with_what_its_guest_was_told() {
    for awakening in [Awakening::AsKept, Awakening::Reboot] {
        let paused = Paused::new().await;
        let world = &paused.two.world;
        let running = paused.resume().await.unwrap();
        world.write(&running, "/dev/shm/thought", "gone").await;
        let mode = PauseMode::Filesystem;
        world.control.sandbox_pause_keeping(&world.ctx, &running, mode).await.unwrap();
        let kept = world.control.keep_copies().await.unwrap();
        assert_eq!((kept.copied, kept.failed), (1, 0));
        assert_eq!(paused.rest().await, (SandboxStatus::Paused, true, true));
        let (system, drain) = (OpContext::system(), Draining::On(Running::GoOn));
        world.control.host_drain(&system, world.host_id, drain).await.unwrap();
        world.control.keep_copies().await.unwrap();
        assert_eq!(paused.rest().await, (SandboxStatus::Paused, true, false));

        let resume = Resume { awakening, ..Resume::default() };
        let resumed = world.control.sandbox_resume(&world.ctx, &paused.now().await, resume).await.unwrap();
        assert_eq!((resumed.host_id, resumed.pause_mode), (Some(paused.two.other_id), None));
        assert_eq!(paused.life().await, "first");
        let thought = FileTarget { path: "/dev/shm/thought".to_owned(), ..FileTarget::default() };
        let error = world.control.sandbox_read_file(&world.ctx, &resumed, &thought).await.err().unwrap();
        assert_eq!(error.code(), ErrorCode::NotFound, "it has a memory");
        let now = paused.two.other.creation_of(&resumed.id.to_string()).unwrap();
        assert!(now.keep_environment && now.env.is_empty());
    }
}

#[tokio::test]
async fn a_delayed_resume_starts_nothing_that_was_resumed_since_or_went_elsewhere() {
    let paused = Paused::new().await;
    let world = &paused.two.world;
    let id = paused.sandbox.id.to_string();
    let generation = async || -> u64 {
        let row = sqlx::query_scalar("SELECT generation FROM sandboxes WHERE id = $1")
            .bind(paused.sandbox.id.uuid());
        let row: i64 = row.fetch_one(world.database.pool()).await.unwrap();
        row.unsigned_abs()
    };
    // Resumed and paused since: the first resume, shown once more, is a thing of the past.
    let first = generation().await + 1;
    let running = paused.resume().await.unwrap();
    world.host.resume_of(&id, first).unwrap();
    world.control.sandbox_pause(&world.ctx, &running).await.unwrap();
    for old in [first, first - 1] {
        let refused = world.host.resume_of(&id, old).unwrap_err();
        assert_eq!(refused.code, connectrpc::ErrorCode::FailedPrecondition);
    }
    assert_eq!(paused.machines(), (0, 1));

    // One that nobody heard of any more: the row is paused again only once the host refuses it.
    let delayed = generation().await + 1;
    world.host.inject(Rpc::ResumeSandbox, Fault::Hang, Times::Once);
    world.host.inject(Rpc::RefuseResumes, Fault::Fail, Times::Once);
    paused.resume().await.unwrap_err();
    assert_eq!(paused.rest().await.0, SandboxStatus::Resuming);
    world.age_rows().await;
    paused.look_at_first().await;
    assert_eq!(paused.rest().await.0, SandboxStatus::Paused);
    world.control.keep_copies().await.unwrap();
    world.host.crash().await.unwrap();
    assert_eq!(paused.resume().await.unwrap().host_id, Some(paused.two.other_id));
    world.host.restart().await.unwrap();
    world.host.resume_of(&id, delayed).unwrap_err();
    assert_eq!(paused.machines(), (1, 1), "it lives once");
    paused.look_at_first().await;

    // It comes back to its first host, which knows the later row: nothing from before counts.
    let running = paused.now().await;
    let asleep = world.control.sandbox_pause(&world.ctx, &running).await.unwrap();
    world.control.keep_copies().await.unwrap();
    paused.two.other.crash().await.unwrap();
    assert_eq!(paused.resume().await.unwrap().host_id, Some(world.host_id));
    world.host.resume_of(&id, delayed).unwrap_err();
    assert_eq!(asleep.id, paused.sandbox.id);
    assert_eq!(paused.life().await, "first");
}

#[tokio::test]
async fn what_stays_on_a_host_that_drains_says_why() {
    let paused = Paused::new().await;
    let world = &paused.two.world;
    let (system, host) = (OpContext::system(), world.host_id);
    world.control.host_drain(&system, host, Draining::On(Running::GoOn)).await.unwrap();
    let why = async |control: &Control| -> Vec<Stay> {
        let preview = control.host_delete_preview(&system, host).await.unwrap();
        preview.sandboxes.into_iter().map(|(_, why)| why).collect()
    };
    // The sandbox that the world's snapshot was made of runs there.
    assert_eq!(why(&world.control).await, [Stay::Running, Stay::NotCopied]);
    let without = world.replica_with(config()).await;
    assert_eq!(why(&without).await, [Stay::Running, Stay::NoObjectStorage]);
    world.execute("UPDATE sandboxes SET status = 'missing' WHERE status = 'running'").await;
    assert_eq!(why(&world.control).await, [Stay::Missing, Stay::NotCopied]);
    world.control.keep_copies().await.unwrap();
    assert_eq!(why(&world.control).await, [Stay::Missing], "the other has left");
}
