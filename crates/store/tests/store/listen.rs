//! What the database tells whoever listens.

use std::time::Duration;

use sandbar_store::hosts::NewHostRow;
use sandbar_store::listen::{Listener, Told, Topic};
use sandbar_store::snapshots::Naming;
use sandbar_store::transfers::{Claim, Fetch};
use sandbar_types::id::Host;
use sandbar_types::{Id, SandboxStatus, TemplateTag};
use uuid::Uuid;

use crate::support::World;

const LEASE: Duration = Duration::from_secs(60);

async fn next(listener: &mut Listener) -> Told {
    tokio::time::timeout(LEASE, listener.next()).await.expect("something is told").unwrap()
}

impl World {
    async fn another_host(&self) -> Id<Host> {
        let id = Id::new();
        let mut tx = self.store.begin().await.unwrap();
        let new = NewHostRow {
            id,
            kind: "regular",
            team_id: Id::PLATFORM,
            provider: None,
            availability_zone: None,
            created_by: None,
        };
        tx.host_insert(&new).await.unwrap();
        tx.commit().await.unwrap();
        id
    }
}

#[tokio::test]
async fn the_end_of_a_change_of_a_sandbox_is_told_but_not_that_of_its_start() {
    let world = World::new().await;
    let mut listener = world.store.listen().await.unwrap();
    let (started, changed) = (world.running().await, world.running().await);
    for between in [SandboxStatus::Pausing, SandboxStatus::Resuming, SandboxStatus::Snapshotting] {
        for end in [SandboxStatus::Running, SandboxStatus::Error] {
            world.force(changed, between).await;
            world.force(changed, end).await;
            let told = next(&mut listener).await;
            assert!(told.is_of(Topic::Sandboxes, changed), "{between} {end}: {told:?}");
            assert!(!told.is_of(Topic::Sandboxes, started) && !told.is_of(Topic::Fetches, changed));
        }
    }
    // Nothing else was told before this.
    let name = "work".parse().unwrap();
    let template = world.reserve(&name, Naming::Fresh).await.unwrap();
    assert!(world.publish_as(template, &[TemplateTag::default_tag()]).await.unwrap());
    assert!(next(&mut listener).await.is_of(Topic::Fetches, template));
}

#[tokio::test]
async fn the_end_of_a_fetch_is_told_whatever_it_is() {
    let world = World::new().await;
    let mut listener = world.store.listen().await.unwrap();
    let fetch = async || {
        let fetch =
            Fetch { template: world.template, host: world.another_host().await, fetcher: Uuid::now_v7() };
        assert_eq!(world.store.fetch_claim(fetch, LEASE).await.unwrap(), Claim::Ours);
        assert!(world.store.fetch_renew(fetch, LEASE).await.unwrap());
        fetch
    };
    let complete = fetch().await;
    assert!(world.store.fetch_complete(complete).await.unwrap());
    let told = next(&mut listener).await;
    assert!(told.is_of(Topic::Fetches, world.template), "complete: {told:?}");
    let other = Fetch { fetcher: Uuid::now_v7(), ..complete };
    assert_eq!(world.store.fetch_claim(other, LEASE).await.unwrap(), Claim::Ready);

    world.store.fetch_end(fetch().await).await.unwrap();
    let told = next(&mut listener).await;
    assert!(told.is_of(Topic::Fetches, world.template), "given up: {told:?}");

    let dead = fetch().await;
    world.execute("UPDATE template_locations SET fetcher_until = now() - interval '1 second' WHERE fetcher IS NOT NULL").await;
    assert_eq!(world.store.fetches_forget(dead.host).await.unwrap(), 1);
    let told = next(&mut listener).await;
    assert!(told.is_of(Topic::Fetches, world.template), "forgotten: {told:?}");
}
