//! Builds: one claim at a time, by the database's clock; nothing is written by a claim that is lost.

use std::collections::BTreeMap;
use std::time::Duration;

use sandbar_store::Store;
use sandbar_store::builds::{BuildRow, Claim, Ended, Lease, LogChunk, NewBuildRow};
use sandbar_types::recipe::{Base, Dialect};
use sandbar_types::{BuildStatus, Id, TemplateKind, TemplateTag};
use serde_json::json;
use uuid::Uuid;

use crate::support::World;

const LEASE: Duration = Duration::from_secs(600);

async fn submit(store: &Store, team: Id<sandbar_types::id::Team>) -> BuildRow {
    let name = "work".parse().unwrap();
    let mut tx = store.begin().await.unwrap();
    let row = tx
        .build_insert(&NewBuildRow {
            id: Id::new(),
            team_id: team,
            name: &name,
            base: &Base::Template(name.clone()),
            base_tag: &TemplateTag::default_tag(),
            dialect: Dialect::Recipe,
            tags: &[TemplateTag::default_tag()],
            note: None,
            recipe: &json!([{"run": {"command": "true"}}]),
            healthcheck: None,
            healthcheck_sec: 60,
            vcpus: 1,
            memory_mb: 512,
            disk_mb: None,
            files: &[],
            registry: Some(b"sealed"),
            total_steps: 2,
            created_by: None,
            operation: &json!({}),
            kind: TemplateKind::Snapshot,
            secrets: &BTreeMap::new(),
            trace: None,
        })
        .await
        .unwrap();
    tx.commit().await.unwrap();
    row
}

async fn end(store: &Store, claim: Claim, ended: Ended<'_>) -> Option<BuildRow> {
    let mut tx = store.begin().await.unwrap();
    let row = tx.build_end(claim, ended).await.unwrap();
    tx.commit().await.unwrap();
    row
}

#[tokio::test]
async fn of_many_claims_at_once_each_gets_another_build() {
    let world = World::new().await;
    for _ in 0..5 {
        submit(&world.store, world.team).await;
    }
    let claims = (0..8).map(|_| world.store.build_claim_next(Uuid::now_v7(), LEASE, 3));
    let claimed = futures::future::join_all(claims).await;
    let ids: std::collections::BTreeSet<_> =
        claimed.into_iter().filter_map(|claimed| claimed.unwrap().map(|row| row.id.uuid())).collect();
    assert_eq!(ids.len(), 5);
    assert!(world.store.builds_waiting(3).await.unwrap().is_empty());
}

#[tokio::test]
async fn a_lost_claim_writes_nothing_and_the_third_is_the_last() {
    let world = World::new().await;
    let store = &world.store;
    let build = submit(store, world.team).await.id;
    let mut before: Option<Claim> = None;
    for attempt in 1..=3 {
        let claim = Claim { build, worker: Uuid::now_v7() };
        let row = store.build_claim(claim, Duration::ZERO, 3).await.unwrap().unwrap();
        assert_eq!((row.status, row.attempts), (BuildStatus::Running, attempt));
        store.build_log_begin(claim, 1, "RUN true").await.unwrap();
        if let Some(lost) = before {
            assert_eq!(store.build_renew(lost, LEASE).await.unwrap(), Lease::Lost);
            assert!(!store.build_progress(lost, 1, Id::new()).await.unwrap());
            assert!(!store.build_release(lost).await.unwrap());
            assert!(!store.build_give_up(lost, Duration::ZERO).await.unwrap());
            let chunk = LogChunk { stdout: "late".to_owned(), ..LogChunk::default() };
            store.build_log_add(lost, 1, &chunk).await.unwrap();
            assert!(end(store, lost, Ended::Failed("late")).await.is_none());
        }
        assert_eq!(store.build_logs(build, attempt, 0).await.unwrap()[0].stdout, "");
        before = Some(claim);
    }
    let claim = Claim { build, worker: Uuid::now_v7() };
    assert!(store.build_claim(claim, LEASE, 3).await.unwrap().is_none());
    assert_eq!(store.builds_over(3).await.unwrap()[0].id, build);
    let mut tx = store.begin().await.unwrap();
    let over = tx.build_end_unclaimed(build, Ended::Failed("why")).await.unwrap().unwrap();
    tx.commit().await.unwrap();
    assert_eq!((over.status, over.error.as_deref()), (BuildStatus::Failed, Some("why")));
    assert!(store.builds_over(3).await.unwrap().is_empty());
}

#[tokio::test]
async fn a_lease_is_kept_given_back_and_asked_to_end() {
    let world = World::new().await;
    let store = &world.store;
    let build = submit(store, world.team).await.id;
    let claim = Claim { build, worker: Uuid::now_v7() };
    store.build_claim(claim, LEASE, 3).await.unwrap().unwrap();
    assert!(store.build_claim_next(Uuid::now_v7(), LEASE, 3).await.unwrap().is_none());
    assert_eq!(store.build_renew(claim, LEASE).await.unwrap(), Lease::Held);
    assert!(store.build_release(claim).await.unwrap());

    let claim = Claim { build, worker: Uuid::now_v7() };
    let row = store.build_claim_next(claim.worker, LEASE, 3).await.unwrap().unwrap();
    assert_eq!(row.attempts, 1, "an attempt that was given back does not count");
    // Given up, it waits a while before it is begun again.
    assert!(store.build_give_up(claim, LEASE).await.unwrap());
    assert!(store.build_claim_next(Uuid::now_v7(), LEASE, 3).await.unwrap().is_none());
    sqlx::query("UPDATE template_builds SET leased_until = now() - interval '1 second'")
        .execute(world.database.pool())
        .await
        .unwrap();
    let claim = Claim { build, worker: Uuid::now_v7() };
    assert_eq!(store.build_claim_next(claim.worker, LEASE, 3).await.unwrap().unwrap().attempts, 2);

    let mut tx = store.begin().await.unwrap();
    assert!(tx.build_ask_cancel(Some(Id::new()), build).await.unwrap().is_none(), "another team's");
    let asked = tx.build_ask_cancel(Some(world.team), build).await.unwrap().unwrap();
    tx.commit().await.unwrap();
    assert_eq!(asked.status, BuildStatus::Running);
    assert_eq!(store.build_renew(claim, LEASE).await.unwrap(), Lease::CancelAsked);
    assert_eq!(end(store, claim, Ended::Cancelled).await.unwrap().status, BuildStatus::Cancelled);
    assert!(end(store, claim, Ended::Cancelled).await.is_none());
}
