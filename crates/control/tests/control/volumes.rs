//! Volumes: where they are, who has them, and what is left of them when something is cut off.

use sandbar_control::hosts::{Draining, Existing, HostError, NewHost, Running, Stay};
use sandbar_control::sandboxes::{NewFork, NewMount, NewSandbox, SandboxError, VolumeHostReason};
use sandbar_control::snapshots::{NewSnapshot, SnapshotError};
use sandbar_control::volumes::{NewVolume, Volume, VolumeError};
use sandbar_control::{Config, Control, OpContext, PageRequest, Sandbox};
use sandbar_testkit::sim_host::{Fault, Reason, Rpc, SimHost, Times};
use sandbar_types::id::Host;
use sandbar_types::{ErrorCode, Id, SandboxStatus, VolumeStatus};
use secrecy::ExposeSecret as _;
use uuid::Uuid;

use crate::object_storage::S3;
use crate::support::{World, config, host_context, register};

fn named(name: &str) -> NewVolume {
    NewVolume { name: name.to_owned(), size_mb: None }
}

fn with(volumes: &[&str]) -> NewSandbox {
    let mount = |name: &&str| NewMount { volume: (*name).to_owned(), path: format!("/{name}") };
    NewSandbox { volumes: volumes.iter().map(mount).collect(), ..NewSandbox::default() }
}

impl World {
    async fn volume(&self, name: &str) -> Volume {
        self.control.volume_create(&self.ctx, &named(name)).await.unwrap()
    }

    async fn now(&self, name: &str) -> Volume {
        self.control.volume_get(&self.ctx, name).await.unwrap()
    }

    async fn create_with(&self, volumes: &[&str]) -> Result<Sandbox, SandboxError> {
        self.control.sandbox_create(&self.ctx, &with(volumes), None).await
    }

    /// Another host, which takes everybody's.
    async fn another(&self) -> (SimHost, Id<Host>) {
        let created = self.control.host_create(&OpContext::system(), &NewHost::default()).await.unwrap();
        let host = SimHost::bind().await.unwrap();
        let registered = register(&self.control, &host, created.registration_token).await;
        let ctx = host_context(&self.control, &registered).await;
        self.control.host_heartbeat(&ctx, created.host.id, &Default::default()).await.unwrap();
        self.control.ensure_base_template(created.host.id).await.unwrap();
        (host, created.host.id)
    }

    async fn drain(&self, host: Id<Host>, draining: Draining) {
        self.control.host_drain(&OpContext::system(), host, draining).await.unwrap();
    }

    /// Name and state of all rows, those too that are none to people.
    async fn volume_rows(&self) -> Vec<(String, String)> {
        let rows = sqlx::query_as("SELECT name, status FROM volumes ORDER BY created_at, id");
        rows.fetch_all(self.database.pool()).await.unwrap()
    }
}

#[tokio::test]
async fn a_volume_is_had_by_one_sandbox_from_its_making_to_its_end_and_paused_too() {
    let world = World::new().await;
    let volume = world.volume("data").await;
    assert_eq!((volume.status, volume.host_id, volume.size_mb), (VolumeStatus::Ready, world.host_id, 10_240));
    assert_eq!(world.host.volumes()[0].size_bytes, 10_240 << 20);
    let sandbox = world.create_with(&["data"]).await.unwrap();
    let mounts: Vec<_> = sandbox.volumes.iter().map(|m| (m.id, m.name.as_str(), m.path.as_str())).collect();
    assert_eq!(mounts, [(volume.id, "data", "/data")]);
    let told = world.host.creation_of(&sandbox.id.to_string()).unwrap().volumes;
    assert_eq!((told[0].volume_id.as_str(), told[0].path.as_str()), (&*volume.id.to_string(), "/data"));
    assert_eq!(world.now("data").await.sandbox_id, Some(sandbox.id));

    let refused = async || {
        let error = world.create_with(&["data"]).await.unwrap_err();
        assert_eq!(error.code(), ErrorCode::Conflict, "{error}");
        assert!(error.to_string().contains(&sandbox.id.to_string()), "{error}");
        let error = world.control.volume_delete(&world.ctx, "data").await.unwrap_err();
        assert!(matches!(error, VolumeError::InUse { sandbox: by, .. } if by == sandbox.id), "{error}");
    };
    refused().await;
    let paused = world.control.sandbox_pause(&world.ctx, &sandbox).await.unwrap();
    refused().await;
    let resumed = world.control.sandbox_resume(&world.ctx, &paused, Default::default()).await.unwrap();
    refused().await;
    for error in [
        world
            .control
            .sandbox_fork(&world.ctx, &resumed, NewFork { count: 1, ..NewFork::default() }, None)
            .await
            .unwrap_err(),
        match world.control.snapshot_create(&world.ctx, &resumed, &NewSnapshot::default()).await {
            Err(SnapshotError::Sandbox(error)) => error,
            other => panic!("{other:?}"),
        },
    ] {
        assert!(matches!(error, SandboxError::HasVolumes { .. }), "{error}");
        assert_eq!(error.code(), ErrorCode::InvalidState);
    }
    world.control.sandbox_destroy(&world.ctx, &resumed).await.unwrap();
    assert_eq!(world.now("data").await.sandbox_id, None);
    let next = world.create_with(&["data"]).await.unwrap();
    // One whose host lost it ends without anybody's asking.
    world.host.forget(&next.id.to_string());
    world.look().await;
    world.control.reconcile_host(world.host_id, Some(&world.look().await)).await.unwrap();
    assert_eq!(world.get(next.id).await.status, SandboxStatus::Stopped);
    assert_eq!(world.get(next.id).await.volumes, next.volumes, "what it had is told still");
    world.control.volume_delete(&world.ctx, "data").await.unwrap();
    assert_eq!((world.host.volumes().len(), world.volume_rows().await.len()), (0, 0));
    let told: Vec<String> = sqlx::query_scalar(
        "SELECT concat_ws(' ', actor_type, action, status, metadata) FROM audit_logs WHERE resource_type = 'volume' ORDER BY created_at",
    )
    .fetch_all(world.database.pool())
    .await
    .unwrap();
    let of = |action| format!(r#"api_key {action} success {{"name": "data", "size_mb": 10240}}"#);
    assert_eq!(told, [of("create"), of("delete")]);
}

#[tokio::test]
async fn of_many_that_want_one_volume_one_has_it_and_nothing_is_left_of_the_others() {
    let world = World::new().await;
    world.volume("a").await;
    world.volume("b").await;
    // In two orders, through two control planes.
    let replica = world.replica().await;
    let create = async |number: usize| {
        let (control, volumes) =
            if number.is_multiple_of(2) { (&world.control, ["a", "b"]) } else { (&replica, ["b", "a"]) };
        control.sandbox_create(&world.ctx, &with(&volumes), None).await
    };
    let made = futures::future::join_all((0..6).map(create)).await;
    let (won, lost): (Vec<_>, Vec<_>) = made.into_iter().partition(Result::is_ok);
    assert_eq!(won.len(), 1);
    let won = won.into_iter().next().unwrap().unwrap();
    for error in lost {
        let error = error.unwrap_err();
        assert!(
            matches!(error, SandboxError::VolumeInUse { sandbox, serving: false, .. } if sandbox == won.id),
            "{error}"
        );
    }
    assert_eq!(world.statuses().await, [SandboxStatus::Running]);
    // A create that fails at its host gives them back.
    world.control.sandbox_destroy(&world.ctx, &won).await.unwrap();
    world.host.inject(Rpc::CreateSandbox, Fault::Fail, Times::Once);
    assert_eq!(world.create_with(&["a", "b"]).await.unwrap_err().code(), ErrorCode::AgentError);
    world.create_with(&["b", "a"]).await.unwrap();
}

#[tokio::test]
async fn a_sandbox_goes_where_its_volumes_are_or_nowhere() {
    let world = World::new().await;
    let (other, other_id) = world.another().await;
    world.drain(other_id, Draining::On(Running::GoOn)).await;
    world.volume("here").await;
    world.drain(other_id, Draining::Off).await;
    world.drain(world.host_id, Draining::On(Running::GoOn)).await;
    let there = world.volume("there").await;
    assert_eq!(there.host_id, other_id);
    let error = world.create_with(&["here", "there"]).await.unwrap_err();
    assert!(
        matches!(error, SandboxError::VolumesApart { .. }) && error.code() == ErrorCode::Conflict,
        "{error}"
    );
    let why = async |name: &str| match world.create_with(&[name]).await {
        Err(error @ SandboxError::VolumeHost { reason, .. }) => (reason, error.code()),
        other => panic!("{other:?}"),
    };
    assert_eq!(why("here").await, (VolumeHostReason::Draining, ErrorCode::NoHostsAvailable));
    for _ in 0..3 {
        let sandbox = world.create_with(&["there"]).await.unwrap();
        assert_eq!(sandbox.host_id, Some(other_id));
        world.control.sandbox_destroy(&world.ctx, &sandbox).await.unwrap();
    }
    world.execute("UPDATE hosts SET memory_mb = 128").await;
    assert_eq!(why("there").await, (VolumeHostReason::Full, ErrorCode::NoHostsAvailable));
    world.execute("UPDATE hosts SET memory_mb = 8192").await;
    other.crash().await.unwrap();
    world.execute("UPDATE hosts SET status = 'unreachable' WHERE NOT draining").await;
    assert_eq!(why("there").await, (VolumeHostReason::Away, ErrorCode::HostUnavailable));
    for (bad, code) in [("nothing", ErrorCode::InvalidRequest), ("a b", ErrorCode::InvalidRequest)] {
        assert_eq!(world.create_with(&[bad]).await.unwrap_err().code(), code);
    }
}

#[tokio::test]
async fn what_is_promised_of_a_disk_counts_volumes() {
    let world = World::with(Config { disk_promise_percent: 100, ..config() }).await;
    // The host has 100 GiB.
    let large = |name: &str, size_mb| NewVolume { size_mb: Some(size_mb), ..named(name) };
    world.control.volume_create(&world.ctx, &large("a", 90 * 1024)).await.unwrap();
    let error = world.control.volume_create(&world.ctx, &large("b", 20 * 1024)).await.unwrap_err();
    assert_eq!(error.code(), ErrorCode::NoHostsAvailable, "{error}");
    world.control.volume_create(&world.ctx, &large("b", 9 * 1024)).await.unwrap();
    // A sandbox's disk is 2 GiB.
    let error = world.create().await.unwrap_err();
    assert_eq!(error.code(), ErrorCode::NoHostsAvailable, "{error}");
    world.control.volume_delete(&world.ctx, "b").await.unwrap();
    world.create().await.unwrap();
    for size_mb in [0, 63, 102_401] {
        let error = world.control.volume_create(&world.ctx, &large("c", size_mb)).await.unwrap_err();
        assert!(matches!(error, VolumeError::Size { min: 64, max: 102_400 }), "{error}");
    }
}

#[tokio::test]
async fn a_deletion_that_a_host_owes_is_done_when_it_is_back_and_the_name_is_free_at_once() {
    let world = World::new().await;
    world.volume("data").await;
    world.host.inject(Rpc::DeleteVolume, Fault::Fail, Times::Once);
    world.control.volume_delete(&world.ctx, "data").await.unwrap();
    assert_eq!(world.control.volume_get(&world.ctx, "data").await.unwrap_err().code(), ErrorCode::NotFound);
    assert_eq!(world.volume_rows().await, [("data".to_owned(), "deleting".to_owned())]);
    let again = world.volume("data").await;
    assert_eq!(world.host.volumes().len(), 2);
    assert_eq!(world.look().await.deleted, 1);
    assert_eq!(world.host.volumes()[0].id, again.id.to_string());
    // As is one that a sandbox still has that is at its end: of a team that was deleted.
    world.create_with(&["data"]).await.unwrap();
    world.execute("UPDATE volumes SET status = 'deleting', sandbox_id = NULL").await;
    assert_eq!((world.look().await.failed, world.host.volumes().len()), (1, 1));
    world
        .execute(
            "UPDATE sandboxes SET status = 'stopping', transition_started_at = now() - interval '1 hour'",
        )
        .await;
    world.look().await;
    world.look().await;
    assert_eq!((world.host.volumes().len(), world.volume_rows().await.len()), (0, 0));
}

#[tokio::test]
async fn a_control_plane_that_is_killed_while_it_makes_or_deletes_leaves_nothing_behind() {
    let world = World::new().await;
    // Killed while the host makes it, which it does.
    let gate = world.host.hold(Rpc::CreateVolume);
    let doomed = world.doomed(|control: Control, ctx| async move {
        let _ = control.volume_create(&ctx, &named("lost")).await;
    });
    world.host.arrived(Rpc::CreateVolume, 1).await;
    doomed.kill();
    gate.open();
    assert_eq!(world.volume_rows().await, [("lost".to_owned(), "creating".to_owned())]);
    let error = world.create_with(&["lost"]).await.unwrap_err();
    assert!(matches!(error, SandboxError::VolumeNotReady { .. }), "{error}");
    let error = world.control.volume_delete(&world.ctx, "lost").await.unwrap_err();
    assert!(matches!(error, VolumeError::NotReady { .. }), "{error}");
    // Not while it may still be at it.
    assert_eq!(world.look().await.deleted, 0);
    world.execute("UPDATE volumes SET transition_started_at = now() - interval '1 hour'").await;
    assert_eq!(world.look().await.deleted, 1);
    assert_eq!((world.host.volumes().len(), world.volume_rows().await.len()), (0, 0));

    world.volume("kept").await;
    let _gate = world.host.hold(Rpc::DeleteVolume);
    let doomed = world.doomed(|control: Control, ctx| async move {
        let _ = control.volume_delete(&ctx, "kept").await;
    });
    world.host.arrived(Rpc::DeleteVolume, 2).await;
    doomed.kill();
    assert_eq!(world.look().await.deleted, 1);
    assert_eq!((world.host.volumes().len(), world.volume_rows().await.len()), (0, 0));

    // Killed while a sandbox is made with it: the volume is free when that is given up.
    world.volume("data").await;
    let gate = world.host.hold(Rpc::CreateSandbox);
    let doomed = world.doomed(|control: Control, ctx| async move {
        let _ = control.sandbox_create(&ctx, &with(&["data"]), None).await;
    });
    world.host.arrived(Rpc::CreateSandbox, 1).await;
    doomed.kill();
    gate.open();
    assert_eq!(world.create_with(&["data"]).await.unwrap_err().code(), ErrorCode::Conflict);
    world.age_rows().await;
    world.look().await;
    world.create_with(&["data"]).await.unwrap();
}

#[tokio::test]
async fn a_host_that_does_not_make_it_is_passed_over_and_one_that_cannot_is_told_so() {
    let world = World::new().await;
    world.host.inject(Rpc::CreateVolume, Fault::Refuse(Reason::REASON_NO_CAPACITY), Times::Once);
    let error = world.control.volume_create(&world.ctx, &named("data")).await.unwrap_err();
    assert_eq!(error.code(), ErrorCode::NoHostsAvailable, "{error}");
    world.host.inject(Rpc::CreateVolume, Fault::Fail, Times::Once);
    let error = world.control.volume_create(&world.ctx, &named("data")).await.unwrap_err();
    assert_eq!(error.code(), ErrorCode::AgentError, "{error}");
    // Its answer was lost: what it made all the same is removed.
    world.host.inject(Rpc::CreateVolume, Fault::LoseReply, Times::Once);
    let error = world.control.volume_create(&world.ctx, &named("data")).await.unwrap_err();
    assert_eq!(error.code(), ErrorCode::HostUnavailable, "{error}");
    assert_eq!(world.host.volumes().len(), 1);
    assert_eq!(world.look().await.deleted, 3);
    assert_eq!(world.host.volumes().len(), 0);

    let (other, other_id) = world.another().await;
    for host in [&world.host, &other] {
        host.inject(Rpc::CreateVolume, Fault::Refuse(Reason::REASON_NO_CAPACITY), Times::Once);
    }
    assert!(world.control.volume_create(&world.ctx, &named("data")).await.is_err());
    world.host.inject(Rpc::CreateVolume, Fault::Refuse(Reason::REASON_NO_CAPACITY), Times::Always);
    assert_eq!(world.volume("data").await.host_id, other_id);
    let error = world.control.volume_create(&world.ctx, &named("data")).await.unwrap_err();
    assert!(matches!(error, VolumeError::Exists { .. }), "{error}");
    // Of two of a name that are asked for at once one is made.
    let (new, replica) = (named("twin"), world.replica().await);
    let twins =
        tokio::join!(world.control.volume_create(&world.ctx, &new), replica.volume_create(&world.ctx, &new));
    assert!(
        matches!(twins, (Ok(_), Err(VolumeError::Exists { .. })) | (Err(VolumeError::Exists { .. }), Ok(_))),
        "{twins:?}"
    );
}

#[tokio::test]
async fn a_host_is_not_deleted_with_volumes_unless_that_is_forced_and_what_has_some_stays_while_it_drains() {
    let s3 = S3::start().await;
    let world = World::with(s3.config()).await;
    let admin = OpContext::system();
    let volume = world.volume("data").await;
    let sandbox = world.create_with(&["data"]).await.unwrap();
    let sandbox = world.control.sandbox_pause(&world.ctx, &sandbox).await.unwrap();
    // Though there is object storage for pauses.
    assert_eq!(world.control.keep_copies().await.unwrap().copied, 0);
    world.drain(world.host_id, Draining::On(Running::GoOn)).await;
    world.control.keep_copies().await.unwrap();
    assert_eq!(world.get(sandbox.id).await.host_id, Some(world.host_id));
    let preview = world.control.host_delete_preview(&admin, world.host_id).await.unwrap();
    assert_eq!((preview.sandboxes[0].0.id, preview.sandboxes[0].1), (sandbox.id, Stay::HasVolumes));
    assert_eq!(preview.volumes.iter().map(|volume| volume.id).collect::<Vec<_>>(), [volume.id]);
    // It can go on there.
    let sandbox = world.control.sandbox_resume(&world.ctx, &sandbox, Default::default()).await.unwrap();
    world.control.sandbox_destroy(&world.ctx, &sandbox).await.unwrap();
    let error = world.control.host_delete(&admin, world.host_id, Existing::Refuse).await.unwrap_err();
    assert!(matches!(&error, HostError::HasVolumes { names } if names == &["data"]), "{error}");
    assert_eq!(error.code(), ErrorCode::Conflict);
    world.control.host_delete(&admin, world.host_id, Existing::Destroy).await.unwrap();
    assert_eq!(world.volume_rows().await, []);
    let page = PageRequest::new(None, None).unwrap();
    assert_eq!(world.control.volume_list(&world.ctx, &page).await.unwrap().items, []);
}

#[tokio::test]
async fn files_are_served_by_a_sandbox_that_goes_when_somebody_wants_the_volume() {
    let world = World::new().await;
    let volume = world.volume("data").await;
    let token = world.control.volume_token(volume.id);
    let open =
        async |token: &str| world.control.volume_opened(Uuid::now_v7(), volume.id, token.as_bytes()).await;
    for wrong in ["", "x", world.control.volume_token(Id::new()).expose_secret()] {
        let error = open(wrong).await.unwrap_err();
        assert_eq!(error.code(), ErrorCode::Unauthorized, "{error}");
    }
    let (ctx, volume) = open(token.expose_secret()).await.unwrap();
    let list = async || world.control.volume_entries(&ctx, &volume, "/", 1).await;
    // Several at once share one.
    let (one, two) = tokio::join!(list(), list());
    assert_eq!((one.unwrap(), two.unwrap()), (Vec::new(), Vec::new()));
    assert_eq!(world.statuses().await, [SandboxStatus::Running]);
    let server = world.now("data").await;
    assert!(server.serving);
    let server = world.get(server.sandbox_id.unwrap()).await;
    assert_eq!((server.timeout_sec, server.volumes[0].path.as_str()), (60, "/volume"));
    assert_eq!(server.metadata.get("sandbar_volume_files").map(String::as_str), Some("data"));

    // Its host ended it: that is found out, and another one serves.
    world.host.forget(&server.id.to_string());
    list().await.unwrap();
    let second = world.now("data").await.sandbox_id.unwrap();
    assert_ne!(second, server.id);
    assert!(world.get(server.id).await.status.is_end());

    // A sandbox of somebody's takes the volume, and the files are that one's.
    let mine = world.create_with(&["data"]).await.unwrap();
    assert!(world.get(second).await.status.is_end());
    let error = list().await.unwrap_err();
    assert!(matches!(error, VolumeError::FilesInUse { sandbox, .. } if sandbox == mine.id), "{error}");
    assert_eq!(error.code(), ErrorCode::Conflict);
    world.control.sandbox_destroy(&world.ctx, &mine).await.unwrap();
    // A deletion takes it away as well.
    list().await.unwrap();
    world.control.volume_delete(&world.ctx, "data").await.unwrap();
    assert_eq!((world.host.volumes().len(), world.host.sandboxes().len()), (0, 0));
    assert_eq!(open(token.expose_secret()).await.unwrap_err().code(), ErrorCode::NotFound);
}
