//! Snapshots: made whole or not at all, replaced in one, deleted everywhere or owed.

use futures::future::join_all;
use sandbar_control::sandboxes::{NewSandbox, Sandbox, SandboxError};
use sandbar_control::snapshots::{NewSnapshot, SnapshotError};
use sandbar_control::templates::Template;
use sandbar_control::{Actor, OpContext};
use sandbar_testkit::sim_host::{Fault, Reason, Rpc, Times};
use sandbar_types::{ErrorCode, Id, SandboxStatus, TemplateKind, TemplateName};
use uuid::Uuid;

use crate::support::World;

fn named(name: &str) -> NewSnapshot {
    NewSnapshot { name: Some(name.to_owned()), overwrite: false, tag: None }
}

fn over(name: &str) -> NewSnapshot {
    NewSnapshot { name: Some(name.to_owned()), overwrite: true, tag: None }
}

fn name(text: &str) -> TemplateName {
    text.parse().unwrap()
}

impl World {
    async fn snapshot(&self, of: &Sandbox, new: &NewSnapshot) -> Result<Template, SnapshotError> {
        self.control.snapshot_create(&self.ctx, of, new).await
    }

    async fn delete(&self, text: &str) -> Result<(), SnapshotError> {
        self.control.snapshot_delete(&self.ctx, &name(text)).await
    }

    async fn from(&self, template: &str) -> Result<Sandbox, SandboxError> {
        let new = NewSandbox { template: Some(template.to_owned()), ..NewSandbox::default() };
        self.control.sandbox_create(&self.ctx, &new, None).await
    }

    /// The ids of the templates whose files the host has, but the base's.
    fn files(&self) -> Vec<String> {
        self.host.templates().into_iter().map(|template| template.id).skip(1).collect()
    }

    /// The names that the team and the platform have.
    async fn names(&self) -> Vec<String> {
        let page = self.control.template_list(&self.ctx, None, &Default::default()).await.unwrap();
        page.items.into_iter().map(|template| template.name.to_string()).collect()
    }
}

#[tokio::test]
async fn a_sandbox_that_is_made_from_one_is_as_large_as_it_and_the_source_is_as_it_was() {
    let world = World::new().await;
    let source = world.create().await.unwrap();
    let kept = world.snapshot(&source, &named("work")).await.unwrap();
    assert_eq!((kept.name.as_str(), kept.kind, kept.is_platform()), ("work", TemplateKind::Snapshot, false));
    assert_eq!((kept.vcpus, kept.memory_mb, kept.size_bytes), (1, 512, 90 << 20));
    assert_eq!(world.get(source.id).await.status, SandboxStatus::Running);

    let paused = world.control.sandbox_pause(&world.ctx, &source).await.unwrap();
    let unnamed = world.snapshot(&paused, &NewSnapshot::default()).await.unwrap();
    assert!(unnamed.name.as_str().starts_with("snapshot-"));
    assert_eq!(world.get(source.id).await.status, SandboxStatus::Paused);

    let new = NewSandbox {
        template: Some("work".to_owned()),
        vcpus: Some(4),
        memory_mb: Some(4096),
        ..NewSandbox::default()
    };
    let child = world.control.sandbox_create(&world.ctx, &new, None).await.unwrap();
    assert_eq!((child.template.as_str(), child.vcpus, child.memory_mb), ("work", 1, 512));
    assert_eq!(
        world.told().await,
        [
            "api_key snapshot create success",
            "api_key sandbox pause success",
            "api_key snapshot create success"
        ]
    );
    assert_eq!(world.look().await.deleted, 0);
}

#[tokio::test]
async fn another_team_neither_sees_it_nor_starts_from_it_nor_deletes_it() {
    let world = World::new().await;
    let source = world.create().await.unwrap();
    world.snapshot(&source, &named("work")).await.unwrap();
    let team = Id::new();
    // With an owner, as every team has one.
    let made = "WITH t AS (INSERT INTO teams (id, name, slug) VALUES ($1, 'Other', 'abcdef-012345') RETURNING id),
                u AS (INSERT INTO users (id, email, name) VALUES ($2, 'other@example.org', 'Other') RETURNING id)
                INSERT INTO memberships (team_id, user_id, role, is_default) SELECT t.id, u.id, 'owner', TRUE FROM t, u";
    sqlx::query(made).bind(team.uuid()).bind(Uuid::now_v7()).execute(world.database.pool()).await.unwrap();
    let actor = Actor::ApiKey { id: Id::new(), name: "k".to_owned(), team };
    let stranger = OpContext::new(Uuid::now_v7(), actor);
    let page = world.control.template_list(&stranger, None, &Default::default()).await.unwrap();
    assert_eq!(page.items.len(), 1, "the platform's base");
    let new = NewSandbox { template: Some("work".to_owned()), ..NewSandbox::default() };
    let refused = world.control.sandbox_create(&stranger, &new, None).await.unwrap_err();
    assert_eq!(refused.code(), ErrorCode::NotFound);
    for refused in [
        world.control.snapshot_delete(&stranger, &name("work")).await.unwrap_err(),
        world.control.snapshot_verify(&stranger, &name("work")).await.unwrap_err(),
    ] {
        assert_eq!(refused.code(), ErrorCode::NotFound);
    }
    // The platform's is everybody's to use and nobody's to delete.
    let refused = world.control.snapshot_delete(&stranger, &name("base")).await.unwrap_err();
    assert_eq!(refused.code(), ErrorCode::Forbidden);
    world.delete("work").await.unwrap();
}

#[tokio::test]
async fn a_name_is_one_is_free_and_is_not_the_platforms() {
    let world = World::new().await;
    let source = world.create().await.unwrap();
    let code = async |new: &NewSnapshot| world.snapshot(&source, new).await.unwrap_err().code();
    for bad in ["", "-x", "a b", "a/b", &"x".repeat(65)] {
        assert_eq!(code(&named(bad)).await, ErrorCode::InvalidRequest, "{bad:?}");
    }
    for new in [named("base"), over("base")] {
        assert_eq!(code(&new).await, ErrorCode::NameReserved);
    }
    world.snapshot(&source, &named("work")).await.unwrap();
    assert_eq!(code(&named("work")).await, ErrorCode::AlreadyExists);
    assert_eq!(world.get(source.id).await.status, SandboxStatus::Running, "what is refused changes nothing");
    world.control.sandbox_destroy(&world.ctx, &source).await.unwrap();
    assert_eq!(code(&named("late")).await, ErrorCode::InvalidState);
    assert_eq!(world.host.calls(Rpc::SnapshotSandbox), 1);
}

#[tokio::test]
async fn of_ten_of_one_name_at_once_one_wins() {
    let world = World::new().await;
    let sources = join_all((0..10).map(|_| world.create())).await;
    let sources: Vec<Sandbox> = sources.into_iter().map(Result::unwrap).collect();
    let new = named("work");
    let outcomes = join_all(sources.iter().map(|source| world.snapshot(source, &new))).await;
    assert_eq!(outcomes.iter().filter(|outcome| outcome.is_ok()).count(), 1);
    for error in outcomes.into_iter().filter_map(Result::err) {
        assert_eq!(error.code(), ErrorCode::AlreadyExists, "{error}");
    }
    // And all may replace it, one after the other.
    let new = over("work");
    let outcomes = join_all(sources.iter().map(|source| world.snapshot(source, &new))).await;
    for outcome in outcomes {
        outcome.unwrap();
    }
    assert_eq!(world.names().await.iter().filter(|name| *name == "work").count(), 1);
    assert_eq!(world.look().await.deleted, 10);
    assert_eq!(world.files().len(), 1);
}

#[tokio::test]
async fn replacing_keeps_the_old_one_until_the_new_one_is_whole() {
    let world = World::new().await;
    let source = world.create().await.unwrap();
    world.snapshot(&source, &named("work")).await.unwrap();
    let old = world.files();
    world.host.inject(Rpc::SnapshotSandbox, Fault::LoseReply, Times::Once);
    world.snapshot(&source, &over("work")).await.unwrap_err();
    world.look().await;
    assert_eq!(world.files(), old, "what failed is gone, what was there is there");
    let first = world.from("work").await.unwrap();

    let gate = world.host.hold(Rpc::SnapshotSandbox);
    let new = over("work");
    let (replaced, ()) = tokio::join!(world.snapshot(&source, &new), async {
        world.host.arrived(Rpc::SnapshotSandbox, 3).await;
        world.from("work").await.unwrap();
        gate.open();
    });
    replaced.unwrap();
    world.look().await;
    assert_eq!(world.files().len(), 1);
    assert_ne!(world.files(), old);
    world.from("work").await.unwrap();
    assert_eq!(world.get(first.id).await.template.as_str(), "work", "its template is gone, its name is not");
}

#[tokio::test]
async fn each_way_that_a_snapshot_can_fail_leaves_nothing_of_it_and_the_sandbox_as_it_was() {
    let world = World::new().await;
    let source = world.create().await.unwrap();
    for (fault, code) in [
        (Fault::Refuse(Reason::REASON_NO_CAPACITY), ErrorCode::NoHostsAvailable),
        (Fault::Refuse(Reason::REASON_GUEST_UNREACHABLE), ErrorCode::AgentError),
        (Fault::Refuse(Reason::REASON_BUSY), ErrorCode::InvalidState),
        (Fault::Fail, ErrorCode::AgentError),
        (Fault::Hang, ErrorCode::Timeout),
        (Fault::LoseReply, ErrorCode::HostUnavailable),
        (Fault::HangAfter, ErrorCode::Timeout),
    ] {
        world.host.inject(Rpc::SnapshotSandbox, fault.clone(), Times::Once);
        let error = world.snapshot(&source, &named("work")).await.unwrap_err();
        assert_eq!(error.code(), code, "{fault:?}: {error}");
        assert_eq!(world.get(source.id).await.status, SandboxStatus::Running, "{fault:?}");
        assert_eq!(world.names().await, ["base"], "{fault:?}");
        assert_eq!(world.told().await.pop().unwrap(), "api_key snapshot create error");
        world.look().await;
        assert!(world.files().is_empty(), "{fault:?}");
    }
    world.snapshot(&source, &named("work")).await.unwrap();
}

#[tokio::test]
async fn files_that_a_host_makes_of_a_request_that_was_given_up_are_deleted_when_they_are_seen() {
    let world = World::new().await;
    let source = world.create().await.unwrap();
    let gate = world.host.hold(Rpc::SnapshotSandbox);
    let error = world.snapshot(&source, &named("work")).await.unwrap_err();
    assert_eq!(error.code(), ErrorCode::Timeout);
    world.look().await;
    // Nothing is owed any more. Then the request is carried out after all.
    assert!(world.files().is_empty());
    let id: Uuid = sqlx::query_scalar("SELECT id FROM templates WHERE name = 'work'")
        .fetch_one(world.database.pool())
        .await
        .unwrap();
    world.host.plant_template(&Id::<sandbar_types::id::Template>::from_uuid(id).to_string());
    gate.open();
    assert_eq!(world.look().await.deleted, 1);
    assert!(world.files().is_empty());
}

#[tokio::test]
async fn a_snapshot_whose_control_plane_died_is_given_up_past_its_deadline() {
    let world = World::new().await;
    let source = world.create().await.unwrap();
    world.snapshot(&source, &named("work")).await.unwrap();
    // As it was between the host's answer and the rows' changes.
    world.execute("UPDATE sandboxes SET status = 'snapshotting'").await;
    world.execute("UPDATE templates SET ready_at = NULL WHERE name = 'work'").await;
    world.execute("UPDATE template_locations SET state = 'fetching' WHERE template_id IN (SELECT id FROM templates WHERE name = 'work')").await;
    let early = world.look().await;
    assert_eq!((early.settled, early.deleted), (0, 0), "somebody may be at it");
    world.age_rows().await;
    let late = world.look().await;
    assert_eq!((late.settled, late.deleted), (1, 1));
    assert!(world.files().is_empty());
    assert_eq!(world.get(source.id).await.status, SandboxStatus::Running);
    assert_eq!(world.told().await, ["api_key snapshot create success", "api_key snapshot create error"]);
}

#[tokio::test]
async fn a_delete_is_refused_where_the_files_cannot_be_deleted_and_then_all_is_as_it_was() {
    let world = World::new().await;
    let source = world.create().await.unwrap();
    world.snapshot(&source, &named("work")).await.unwrap();
    world.host.inject(Rpc::DeleteTemplate, Fault::Refuse(Reason::REASON_TEMPLATE_IN_USE), Times::Once);
    let error = world.delete("work").await.unwrap_err();
    assert_eq!(error.code(), ErrorCode::Conflict, "{error}");
    world.age_rows().await;
    assert_eq!(world.look().await.deleted, 0);
    let child = world.from("work").await.unwrap();
    world.delete("work").await.unwrap();
    assert!(world.files().is_empty());
    assert_eq!(world.get(child.id).await.status, SandboxStatus::Running, "what was made from it goes on");
    assert_eq!(world.delete("work").await.unwrap_err().code(), ErrorCode::NotFound);
    assert_eq!(world.from("work").await.unwrap_err().code(), ErrorCode::NotFound);
    let told = ["api_key snapshot create success", "api_key snapshot delete success"];
    assert_eq!(world.told().await, told);
    world.snapshot(&source, &named("work")).await.unwrap();
}

#[tokio::test]
async fn a_host_that_is_away_owes_the_deletion_and_does_it_when_it_is_back() {
    let world = World::new().await;
    let source = world.create().await.unwrap();
    for status in ["online", "unreachable"] {
        world.snapshot(&source, &named("work")).await.unwrap();
        world.host.crash().await.unwrap();
        sqlx::query("UPDATE hosts SET status = $1")
            .bind(status)
            .execute(world.database.pool())
            .await
            .unwrap();
        world.delete("work").await.unwrap();
        assert_eq!(world.names().await, ["base"]);
        assert_eq!(world.files().len(), 1, "{status}");
        world.host.restart().await.unwrap();
        world.beat().await;
        world.host.inject(Rpc::DeleteTemplate, Fault::Fail, Times::Once);
        let first = world.look().await;
        assert_eq!((first.deleted, first.failed), (0, 1));
        let second = world.look().await;
        assert_eq!((second.deleted, second.failed), (1, 0));
        assert!(world.files().is_empty());
        assert_eq!(world.look().await.deleted, 0);
    }
}

#[tokio::test]
async fn a_delete_whose_control_plane_died_is_finished_past_its_deadline_and_told_once() {
    let world = World::new().await;
    let source = world.create().await.unwrap();
    world.snapshot(&source, &named("work")).await.unwrap();
    world.host.inject(Rpc::DeleteTemplate, Fault::Hang, Times::Once);
    let deleting = world.control.clone();
    let ctx = world.ctx.clone();
    let cut = tokio::spawn(async move { deleting.snapshot_delete(&ctx, &name("work")).await });
    world.host.arrived(Rpc::DeleteTemplate, 1).await;
    // The work goes on without its caller; a host that does not answer in time owes it.
    cut.abort();
    world.control.drain().await;
    assert_eq!(world.names().await, ["base"]);
    let successor = world.replica().await;
    assert_eq!(successor.reconcile_host(world.host_id, None).await.unwrap().deleted, 1);
    assert!(world.files().is_empty());

    // And one that was cut before anybody was asked.
    let again = successor.snapshot_create(&world.ctx, &world.get(source.id).await, &named("more")).await;
    again.unwrap();
    world
        .execute(
            "UPDATE templates SET operation = operation || '{\"action\": \"delete\"}' WHERE name = 'more'",
        )
        .await;
    world.execute("UPDATE template_locations SET state = 'deleting' WHERE template_id IN (SELECT id FROM templates WHERE name = 'more')").await;
    assert_eq!(successor.reconcile_host(world.host_id, None).await.unwrap().deleted, 0);
    world.age_rows().await;
    assert_eq!(successor.reconcile_host(world.host_id, None).await.unwrap().deleted, 1);
    assert_eq!(world.names().await, ["base"]);
    let deletes = world.told().await.into_iter().filter(|told| told.contains("delete")).count();
    assert_eq!(deletes, 2);
}

#[tokio::test]
async fn a_check_names_what_is_wrong_and_a_flattened_disk_is_a_base() {
    let world = World::new().await;
    let source = world.create().await.unwrap();
    world.snapshot(&source, &named("work")).await.unwrap();
    let verify = async || world.control.snapshot_verify(&world.ctx, &name("work")).await;
    assert_eq!(verify().await.unwrap(), 90 << 20);
    world.host.inject(Rpc::VerifyTemplate, Fault::Refuse(Reason::REASON_SNAPSHOT_DAMAGED), Times::Once);
    let damaged = verify().await.unwrap_err();
    assert_eq!(damaged.code(), ErrorCode::AgentError);
    assert!(damaged.to_string().contains("REASON_SNAPSHOT_DAMAGED"), "the host's words: {damaged}");
    world.execute("UPDATE hosts SET status = 'unreachable'").await;
    assert_eq!(verify().await.unwrap_err().code(), ErrorCode::NoHostsAvailable);

    world.beat().await;
    let flat = world.control.sandbox_flatten(&world.ctx, &source, &named("disk")).await.unwrap();
    assert_eq!((flat.kind, flat.name.as_str()), (TemplateKind::Base, "disk"));
    assert_eq!(world.get(source.id).await.status, SandboxStatus::Running);
    assert_eq!(world.host.calls(Rpc::FlattenRootfs), 1);
    let new = NewSandbox { template: Some("disk".to_owned()), vcpus: Some(3), ..NewSandbox::default() };
    let booted = world.control.sandbox_create(&world.ctx, &new, None).await.unwrap();
    assert_eq!((booted.vcpus, booted.memory_mb), (3, source.memory_mb), "what is not said is the template's");
    let asked = world.host.creation_of(&booted.id.to_string()).unwrap();
    assert_eq!((asked.vcpus, asked.memory_mb), (3, source.memory_mb));
    assert_eq!(world.look().await.deleted, 0);
}
