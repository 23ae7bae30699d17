//! Quotas: what many requests at once may take together, what frees it, and what a limit that is lowered does.

use futures::future::join_all;
use sandbar_control::quotas::NewLimit;
use sandbar_control::sandboxes::{IdempotencyKey, NewFork, NewSandbox, Resume, Sandbox, SandboxError};
use sandbar_control::snapshots::{NewSnapshot, SnapshotError};
use sandbar_control::{Config, OpContext};
use sandbar_testkit::sim_host::{Fault, Reason, Rpc, Times};
use sandbar_types::{ErrorCode, PerResource, Resource, SandboxStatus};

use crate::support::{World, config};

/// A world whose team may have so many sandboxes.
async fn with(sandboxes: u64) -> World {
    World::with(Config { default_quotas: PerResource { sandboxes, ..config().default_quotas }, ..config() })
        .await
}

#[track_caller]
fn assert_over(error: &SandboxError, resource: Resource, limit: u64) {
    let SandboxError::Quota(exceeded) = error else { panic!("{error}") };
    assert_eq!((exceeded.resource, exceeded.limit), (resource, limit));
    assert_eq!(error.code(), ErrorCode::RateLimited);
}

impl World {
    async fn used(&self) -> PerResource<u64> {
        let team = self.ctx.team().unwrap();
        let quotas = self.control.admin_team_quotas(&OpContext::system(), team).await.unwrap();
        PerResource::each(|resource| quotas.of(resource).used)
    }

    async fn limit(&self, new: PerResource<NewLimit>) {
        let team = self.ctx.team().unwrap();
        self.control.admin_set_team_quotas(&OpContext::system(), team, &new).await.unwrap();
    }

    async fn pause(&self, sandbox: &Sandbox) -> Sandbox {
        self.control.sandbox_pause(&self.ctx, sandbox).await.unwrap()
    }
}

#[tokio::test]
async fn of_fifty_creates_at_once_by_two_control_planes_exactly_as_many_succeed_as_the_team_may_have() {
    let world = with(10).await;
    let replica = world.replica().await;
    let new = NewSandbox::default();
    let creates = (0..50).map(|n| {
        let control = if n % 2 == 0 { &world.control } else { &replica };
        control.sandbox_create(&world.ctx, &new, None)
    });
    let outcomes = join_all(creates).await;
    assert_eq!(outcomes.iter().filter(|outcome| outcome.is_ok()).count(), 10);
    for error in outcomes.iter().filter_map(|outcome| outcome.as_ref().err()) {
        assert_over(error, Resource::Sandboxes, 10);
    }
    assert_eq!((world.host.sandboxes().len(), world.statuses().await.len()), (10, 10));
    let used = PerResource { sandboxes: 10, vcpus: 10, memory_mb: 5120, ..PerResource::default() };
    assert_eq!(world.used().await, used);
}

#[tokio::test]
async fn creates_resumes_and_forks_at_once_share_one_quota() {
    let world = with(8).await;
    let replica = world.replica().await;
    let mut paused = Vec::new();
    for _ in 0..4 {
        paused.push(world.pause(&world.create().await.unwrap()).await);
    }
    let source = world.create().await.unwrap();
    assert_eq!(world.used().await.sandboxes, 1);
    let new = NewSandbox::default();
    let creates = join_all((0..4).map(|_| world.control.sandbox_create(&world.ctx, &new, None)));
    let resumes =
        join_all(paused.iter().map(|paused| replica.sandbox_resume(&world.ctx, paused, Resume::default())));
    let fork = NewFork { count: 4, ..NewFork::default() };
    let fork = world.control.sandbox_fork(&world.ctx, &source, fork, None);
    let (created, resumed, forked) = tokio::join!(creates, resumes, fork);
    let forked = forked.map_or(0, |children| children.iter().filter(|child| child.is_ok()).count());
    let succeeded = created.iter().chain(&resumed).filter(|outcome| outcome.is_ok()).count() + forked;
    assert_eq!((succeeded, world.used().await.sandboxes), (7, 8));
}

#[tokio::test]
async fn what_ends_fails_or_is_paused_is_free_again() {
    let world = with(1).await;
    for fault in [Fault::Fail, Fault::Refuse(Reason::REASON_NO_CAPACITY), Fault::Hang] {
        world.host.inject(Rpc::CreateSandbox, fault, Times::Once);
        let error = world.create().await.unwrap_err();
        assert_ne!(error.code(), ErrorCode::RateLimited, "{error}");
    }
    let first = world.create().await.unwrap();
    assert_over(&world.create().await.unwrap_err(), Resource::Sandboxes, 1);
    world.control.sandbox_destroy(&world.ctx, &first).await.unwrap();
    let second = world.pause(&world.create().await.unwrap()).await;
    let third = world.create().await.unwrap();
    let error = world.control.sandbox_resume(&world.ctx, &second, Resume::default()).await.unwrap_err();
    assert_over(&error, Resource::Sandboxes, 1);
    assert_eq!(world.get(second.id).await.status, SandboxStatus::Paused);
    assert_eq!(world.host.calls(Rpc::ResumeSandbox), 0);
    // One that cannot be reached is not gone.
    world.execute("UPDATE sandboxes SET status = 'missing' WHERE status = 'running'").await;
    assert_over(&world.create().await.unwrap_err(), Resource::Sandboxes, 1);
    world.execute("UPDATE sandboxes SET status = 'running' WHERE status = 'missing'").await;
    world.pause(&third).await;
    world.control.sandbox_resume(&world.ctx, &second, Resume::default()).await.unwrap();
}

#[tokio::test]
async fn a_repeated_request_is_answered_although_the_team_has_all_that_it_may() {
    let world = with(1).await;
    let key: IdempotencyKey = "once".parse().unwrap();
    let new = NewSandbox::default();
    let made = world.control.sandbox_create(&world.ctx, &new, Some(&key)).await.unwrap();
    let again = world.control.sandbox_create(&world.ctx, &new, Some(&key)).await.unwrap();
    assert_eq!(made.id, again.id);
    assert_over(&world.create().await.unwrap_err(), Resource::Sandboxes, 1);
}

#[tokio::test]
async fn a_fork_makes_the_children_that_the_team_may_have() {
    let world = with(3).await;
    let source = world.create().await.unwrap();
    let fork = NewFork { count: 4, ..NewFork::default() };
    let children = world.control.sandbox_fork(&world.ctx, &source, fork, None).await.unwrap();
    let (made, refused): (Vec<_>, Vec<_>) = children.iter().partition(|child| child.is_ok());
    assert_eq!((made.len(), refused.len()), (2, 2));
    for child in refused {
        assert_over(child.as_ref().unwrap_err(), Resource::Sandboxes, 3);
    }
    // Where there is none to be had, nothing is begun.
    let calls = world.host.calls(Rpc::ForkSandbox);
    let error = world.control.sandbox_fork(&world.ctx, &source, fork, None).await.unwrap_err();
    assert_over(&error, Resource::Sandboxes, 3);
    assert_eq!(world.get(source.id).await.status, SandboxStatus::Running);
    assert_eq!(world.host.calls(Rpc::ForkSandbox), calls);
}

#[tokio::test]
async fn snapshots_are_counted_and_one_that_replaces_another_is_none_more() {
    let world = World::new().await;
    world.limit(PerResource { snapshots: NewLimit::At(2), ..PerResource::default() }).await;
    let (one, two) = (world.create().await.unwrap(), world.create().await.unwrap());
    let snapshot = async |of: &Sandbox, name: &str, overwrite| {
        let new = NewSnapshot { name: Some(name.to_owned()), overwrite, tag: None };
        world.control.snapshot_create(&world.ctx, of, &new).await
    };
    snapshot(&one, "a", false).await.unwrap();
    let (left, right) = tokio::join!(snapshot(&one, "b", false), snapshot(&two, "c", true));
    let refused: Vec<SnapshotError> = [left, right].into_iter().filter_map(Result::err).collect();
    assert!(matches!(refused[..], [SnapshotError::Quota(_)]), "{refused:?}");
    assert_eq!(refused[0].code(), ErrorCode::RateLimited);
    assert_eq!(world.statuses().await, [SandboxStatus::Running; 2], "nothing was begun");
    snapshot(&one, "a", true).await.unwrap();
    world.control.snapshot_delete(&world.ctx, &"a".parse().unwrap()).await.unwrap();
    // One that fails leaves its place to another.
    world.host.inject(Rpc::SnapshotSandbox, Fault::Fail, Times::Once);
    assert_eq!(snapshot(&one, "d", false).await.unwrap_err().code(), ErrorCode::AgentError);
    snapshot(&one, "d", false).await.unwrap();
    assert_eq!(world.used().await.snapshots, 2);
}

#[tokio::test]
async fn a_limit_below_what_there_is_ends_nothing_and_each_resource_has_its_own() {
    let world = World::new().await;
    let (first, _second) = (world.create().await.unwrap(), world.create().await.unwrap());
    world.limit(PerResource { sandboxes: NewLimit::At(1), ..PerResource::default() }).await;
    assert_over(&world.create().await.unwrap_err(), Resource::Sandboxes, 1);
    assert_eq!(world.host.sandboxes().len(), 2);
    // A snapshot of one that runs takes no more of what there is too much of already.
    world.control.snapshot_create(&world.ctx, &first, &NewSnapshot::default()).await.unwrap();
    let new = PerResource { sandboxes: NewLimit::Default, vcpus: NewLimit::At(2), ..PerResource::default() };
    world.limit(new).await;
    assert_over(&world.create().await.unwrap_err(), Resource::Vcpus, 2);
    world
        .limit(PerResource {
            vcpus: NewLimit::At(3),
            memory_mb: NewLimit::At(1535),
            ..PerResource::default()
        })
        .await;
    assert_over(&world.create().await.unwrap_err(), Resource::MemoryMb, 1535);
    world.limit(PerResource { memory_mb: NewLimit::At(1536), ..PerResource::default() }).await;
    world.create().await.unwrap();
}
