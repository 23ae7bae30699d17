//! Templates that are fetched from host to host.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::future::join_all;
use sandbar_control::hosts::{Draining, NewHost, Running};
use sandbar_control::sandboxes::{FileTarget, NewSandbox, NoHostReason, SandboxError, WriteCondition};
use sandbar_control::snapshots::NewSnapshot;
use sandbar_control::templates::Template;
use sandbar_control::{Config, OpContext, Sandbox};
use sandbar_testkit::sim_host::{Fault, Reason, Rpc, SimHost, Times};
use sandbar_types::Id;
use sandbar_types::id::Host;

use crate::support::{World, config, host_context, register};

/// A world whose host has a snapshot that no sandbox can be made of there, and another host without it.
pub(crate) struct Two {
    pub(crate) world: World,
    pub(crate) other: Arc<SimHost>,
    pub(crate) other_id: Id<Host>,
    pub(crate) snapshot: Template,
}

/// The files of the sandbox that the snapshot was made of: as many parts of it.
pub(crate) const FILES: usize = 6;

impl Two {
    async fn new() -> Self {
        Self::with(config()).await
    }

    pub(crate) async fn with(config: Config) -> Self {
        let world = World::with(config).await;
        let sandbox = world.create().await.unwrap();
        for number in 0..FILES {
            let (path, content) = (format!("/home/user/{number}"), format!("content {number}"));
            world.write(&sandbox, &path, &content).await;
        }
        let new = NewSnapshot { name: Some("kept".to_owned()), overwrite: false, tag: None };
        let snapshot = world.control.snapshot_create(&world.ctx, &sandbox, &new).await.unwrap();
        let created = world.control.host_create(&OpContext::system(), &NewHost::default()).await.unwrap();
        let other = Arc::new(SimHost::bind().await.unwrap());
        let registered = register(&world.control, &other, created.registration_token).await;
        let other_ctx = host_context(&world.control, &registered).await;
        world.control.host_heartbeat(&other_ctx, created.host.id, &Default::default()).await.unwrap();
        let two = Self { world, other, other_id: created.host.id, snapshot };
        two.drain().await;
        two
    }

    async fn drain(&self) {
        let on = Draining::On(Running::GoOn);
        self.world.control.host_drain(&OpContext::system(), self.world.host_id, on).await.unwrap();
    }

    async fn create(&self) -> Result<Sandbox, SandboxError> {
        create(&self.world).await
    }

    /// State and host of each of the snapshot's locations.
    async fn locations(&self) -> Vec<(Id<Host>, String)> {
        let rows: Vec<(uuid::Uuid, String)> = sqlx::query_as(
            "SELECT host_id, state FROM template_locations WHERE template_id = $1 ORDER BY created_at",
        )
        .bind(self.snapshot.id.uuid())
        .fetch_all(self.world.database.pool())
        .await
        .unwrap();
        rows.into_iter().map(|(host, state)| (Id::from_uuid(host), state)).collect()
    }

    fn ready_on(&self, hosts: &[Id<Host>]) -> Vec<(Id<Host>, String)> {
        hosts.iter().map(|&host| (host, "ready".to_owned())).collect()
    }
}

pub(crate) async fn create(world: &World) -> Result<Sandbox, SandboxError> {
    let new = NewSandbox { template: Some("kept".to_owned()), ..NewSandbox::default() };
    world.control.sandbox_create(&world.ctx, &new, None).await
}

impl World {
    pub(crate) async fn write(&self, sandbox: &Sandbox, path: &str, content: &str) {
        let chunk = Ok::<_, std::io::Error>(Bytes::copy_from_slice(content.as_bytes()));
        let contents = futures::stream::iter([chunk]);
        self.control
            .sandbox_write_file(&self.ctx, sandbox, &target(path), WriteCondition::Whatever, contents)
            .await
            .unwrap();
    }

    pub(crate) async fn read(&self, sandbox: &Sandbox, path: &str) -> String {
        let read = self.control.sandbox_read_file(&self.ctx, sandbox, &target(path)).await;
        let chunk = read.unwrap().next().await.unwrap().unwrap();
        String::from_utf8(chunk.to_vec()).unwrap()
    }
}

fn target(path: &str) -> FileTarget {
    FileTarget { path: path.to_owned(), ..FileTarget::default() }
}

#[tokio::test]
async fn a_host_gets_the_files_that_it_lacks_and_all_who_wait_share_one_fetch() {
    let two = Two::new().await;
    let made = join_all((0..8).map(|_| two.create())).await;
    for sandbox in made {
        let sandbox = sandbox.unwrap();
        assert_eq!(sandbox.host_id, Some(two.other_id));
        assert_eq!(two.world.read(&sandbox, "/home/user/3").await, "content 3");
    }
    assert_eq!(two.other.calls(Rpc::WriteTemplatePart), FILES, "each part once");
    assert_eq!(two.other.calls(Rpc::CommitTemplate), 1);
    assert_eq!(two.locations().await, two.ready_on(&[two.world.host_id, two.other_id]));
    // From now on it is there.
    two.create().await.unwrap();
    assert_eq!(two.world.host.calls(Rpc::OpenTemplate), 1);

    // Deleted, it is deleted on both.
    two.world.control.snapshot_delete(&two.world.ctx, &two.snapshot.name).await.unwrap();
    assert_eq!(two.locations().await, []);
    let id = two.snapshot.id.to_string();
    for host in [&two.world.host, &*two.other] {
        assert!(host.templates().iter().all(|template| template.id != id));
    }
}

#[tokio::test]
async fn a_fetch_of_another_control_plane_is_waited_for() {
    let two = Two::new().await;
    let other = two.world.replica().await;
    let gate = two.other.hold(Rpc::CommitTemplate);
    let new = NewSandbox { template: Some("kept".to_owned()), ..NewSandbox::default() };
    let (fetcher, waiter) = tokio::join!(two.create(), async {
        two.other.arrived(Rpc::CommitTemplate, 1).await;
        let mut waits = std::pin::pin!(other.sandbox_create(&two.world.ctx, &new, None));
        assert!(futures::poll!(&mut waits).is_pending());
        gate.open();
        waits.await
    });
    for sandbox in [fetcher, waiter] {
        assert_eq!(sandbox.unwrap().host_id, Some(two.other_id));
    }
    assert_eq!(two.other.calls(Rpc::WriteTemplatePart), FILES, "each part once");
}

#[tokio::test]
async fn a_host_that_has_the_files_is_preferred_however_loaded() {
    let two = Two::new().await;
    two.world.control.host_drain(&OpContext::system(), two.world.host_id, Draining::Off).await.unwrap();
    for _ in 0..4 {
        assert_eq!(two.create().await.unwrap().host_id, Some(two.world.host_id));
    }
    // Full, it is not.
    two.world
        .execute("UPDATE hosts SET memory_mb = 128 WHERE id = (SELECT min(id::text)::uuid FROM hosts)")
        .await;
    assert_eq!(two.create().await.unwrap().host_id, Some(two.other_id));
}

#[tokio::test]
async fn a_fetch_that_breaks_goes_on_where_it_was() {
    let two = Two::new().await;
    let world = &two.world;
    for (host, rpc) in [
        (&world.host, Rpc::OpenTemplate),
        (&world.host, Rpc::ReadTemplatePart),
        (&*two.other, Rpc::WriteTemplatePart),
        (&*two.other, Rpc::CommitTemplate),
    ] {
        host.inject(rpc, Fault::LoseReply, Times::Once);
    }
    two.create().await.unwrap();
    let written = two.other.calls(Rpc::WriteTemplatePart);
    assert!(written < 2 * FILES, "{written}: what had arrived did not come again");
    assert!(two.other.calls(Rpc::ReceiveTemplate) > 1, "it broke");
}

#[tokio::test]
async fn a_create_waits_for_a_time_and_the_fetch_goes_on() {
    let two = Two::with(Config { fetch_wait: Duration::from_millis(50), ..config() }).await;
    let gate = two.other.hold(Rpc::CommitTemplate);
    let error = two.create().await.unwrap_err();
    assert!(matches!(error, SandboxError::TemplateOnItsWay), "{error:?}");
    assert!(error.retry_after().is_some());
    assert_eq!(two.world.statuses().await.len(), 1, "no row waits with it");
    gate.open();
    while two.locations().await != two.ready_on(&[two.world.host_id, two.other_id]) {
        tokio::task::yield_now().await;
    }
    assert_eq!(two.create().await.unwrap().host_id, Some(two.other_id));
    assert_eq!(two.other.calls(Rpc::CommitTemplate), 1);
}

#[tokio::test]
async fn what_stands_in_the_way_of_a_fetch_is_told_and_leaves_nothing() {
    for (reason, told) in [
        (Reason::REASON_NO_CAPACITY, NoHostReason::Full),
        (Reason::REASON_INCOMPATIBLE, NoHostReason::OtherMachine),
    ] {
        let two = Two::new().await;
        two.other.inject(Rpc::ReceiveTemplate, Fault::Refuse(reason), Times::Once);
        let error = two.create().await.unwrap_err();
        assert!(matches!(error, SandboxError::NoHosts { reason } if reason == told), "{error:?}");
        assert_eq!(two.locations().await, two.ready_on(&[two.world.host_id]));
        two.create().await.unwrap();
    }
    // Files that are not what they were are published nowhere.
    let two = Two::new().await;
    two.world.host.spoil_template(&two.snapshot.id.to_string());
    let error = two.create().await.unwrap_err();
    assert!(matches!(error, SandboxError::NoHosts { reason: NoHostReason::NoTemplateFiles }), "{error:?}");
    assert!(two.other.templates().iter().all(|template| template.id != two.snapshot.id.to_string()));
    assert_eq!(two.locations().await, two.ready_on(&[two.world.host_id]));
}

#[tokio::test]
async fn what_a_teams_own_host_has_goes_to_no_shared_host() {
    let two = Two::new().await;
    // As if the snapshot had been made on a host that the team brought.
    two.world
        .execute("UPDATE hosts SET kind = 'byoc', team_id = (SELECT team_id FROM templates WHERE name = 'kept') WHERE draining")
        .await;
    let error = two.create().await.unwrap_err();
    assert!(matches!(error, SandboxError::NoHosts { reason: NoHostReason::NoTemplateFiles }), "{error:?}");
    assert_eq!(two.world.host.calls(Rpc::OpenTemplate), 0);
    // Another host of the same team gets it; one of another team does not.
    two.world.execute("UPDATE teams SET is_byoc = TRUE").await;
    two.world
        .execute(
            "UPDATE hosts SET kind = 'byoc', team_id = (SELECT team_id FROM templates WHERE name = 'kept')",
        )
        .await;
    assert_eq!(two.create().await.unwrap().host_id, Some(two.other_id));
}

#[tokio::test]
async fn a_deletion_ends_a_fetch_and_nothing_stays_behind() {
    let two = Two::new().await;
    let gate = two.other.hold(Rpc::CommitTemplate);
    let (create, ()) = tokio::join!(two.create(), async {
        two.other.arrived(Rpc::CommitTemplate, 1).await;
        two.world.control.snapshot_delete(&two.world.ctx, &two.snapshot.name).await.unwrap();
        gate.open();
    });
    assert!(matches!(create, Err(SandboxError::TemplateNotFound { .. })), "{create:?}");
    assert_eq!(two.locations().await, []);
    assert!(two.other.templates().iter().all(|template| template.id != two.snapshot.id.to_string()));
}

#[tokio::test]
async fn a_fetch_whose_control_plane_died_is_taken_up_by_the_next() {
    let two = Two::new().await;
    let gate = two.other.hold(Rpc::CommitTemplate);
    let doomed = two.world.doomed(|control, ctx| async move {
        let new = NewSandbox { template: Some("kept".to_owned()), ..NewSandbox::default() };
        let _killed = control.sandbox_create(&ctx, &new, None).await;
    });
    two.other.arrived(Rpc::CommitTemplate, 1).await;
    doomed.kill();
    gate.open();
    assert_eq!(two.locations().await.len(), 2);
    // The claim is held until it lapses.
    two.world.execute("UPDATE template_locations SET fetcher_until = now() - interval '1 second' WHERE fetcher IS NOT NULL").await;
    assert_eq!(two.create().await.unwrap().host_id, Some(two.other_id));
    assert_eq!(two.locations().await, two.ready_on(&[two.world.host_id, two.other_id]));
    assert!(two.other.calls(Rpc::WriteTemplatePart) <= FILES, "what had arrived did not come again");
}

#[tokio::test]
async fn a_fetch_that_nobody_takes_up_is_forgotten() {
    let two = Two::new().await;
    let _gate = two.other.hold(Rpc::CommitTemplate);
    let doomed = two.world.doomed(|control, ctx| async move {
        let new = NewSandbox { template: Some("kept".to_owned()), ..NewSandbox::default() };
        let _killed = control.sandbox_create(&ctx, &new, None).await;
    });
    two.other.arrived(Rpc::CommitTemplate, 1).await;
    doomed.kill();
    two.world.control.reconcile_host(two.other_id, None).await.unwrap();
    assert_eq!(two.locations().await.len(), 2, "somebody may still be at it");
    two.world.execute("UPDATE template_locations SET fetcher_until = now() - interval '1 second' WHERE fetcher IS NOT NULL").await;
    two.world.control.reconcile_host(two.other_id, None).await.unwrap();
    assert_eq!(two.locations().await, two.ready_on(&[two.world.host_id]));
}

#[tokio::test]
async fn a_host_without_an_image_gets_the_platforms_template_from_another() {
    let two = Two::new().await;
    two.other.inject(Rpc::CreateTemplate, Fault::Refuse(Reason::REASON_TEMPLATE_NOT_FOUND), Times::Always);
    two.world.control.reconcile_host(two.other_id, None).await.unwrap();
    let has = "SELECT count(*) FROM template_locations WHERE host_id = $1 AND state = 'ready'";
    loop {
        let ready: i64 = sqlx::query_scalar(has)
            .bind(two.other_id.uuid())
            .fetch_one(two.world.database.pool())
            .await
            .unwrap();
        if ready == 1 {
            break;
        }
        tokio::task::yield_now().await;
    }
    assert_eq!(two.world.create().await.unwrap().host_id, Some(two.other_id));
}
