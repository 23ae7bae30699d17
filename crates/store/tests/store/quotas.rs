//! What of a team's is counted.

use std::collections::BTreeMap;

use sandbar_store::StoreError;
use sandbar_types::{Id, PerResource, SandboxStatus};

use crate::support::World;

#[tokio::test]
async fn a_sandbox_counts_in_the_states_that_occupy_a_host() {
    let world = World::new().await;
    let id = world.pending(&BTreeMap::new()).await;
    for status in SandboxStatus::ALL {
        world.force(id, status).await;
        let used = world.store.quota(world.team).await.unwrap().unwrap().used;
        let expected =
            if status.occupies() { PerResource::of_sandbox(1, 512) } else { PerResource::default() };
        assert_eq!(used, expected, "{status}");
    }
}

#[tokio::test]
async fn the_count_reads_its_index_alone_and_so_no_more_rows_than_the_team_may_have() {
    let world = World::new().await;
    let sandbox = world.pending(&BTreeMap::new()).await;
    let pool = world.database.pool();
    // Many that are paused: each of the other indexes has all of them.
    sqlx::query(
        "INSERT INTO sandboxes (id, team_id, template_id, host_id, status, vcpus, memory_mb, disk_mb)
         SELECT gen_random_uuid(), team_id, template_id, $2, 'paused', 1, 512, 1024
         FROM sandboxes, generate_series(1, 3000) WHERE id = $1",
    )
    .bind(sandbox.uuid())
    .bind(world.host.uuid())
    .execute(pool)
    .await
    .unwrap();
    sqlx::raw_sql("ANALYZE sandboxes").execute(pool).await.unwrap();
    // The statement itself, as it stands in the source.
    let source = include_str!("../../src/quotas.rs");
    let statement = source.split_once("r#\"").unwrap().1.split_once("\"#").unwrap().0;
    let explain = sqlx::AssertSqlSafe(format!("EXPLAIN {statement}"));
    let plan: Vec<String> =
        sqlx::query_scalar(explain).bind(world.team.uuid()).fetch_all(pool).await.unwrap();
    assert!(plan.iter().any(|line| line.contains("sandboxes_occupying")), "{plan:#?}");
}

#[tokio::test]
async fn limits_are_kept_as_they_were_set_and_a_deleted_team_has_none() {
    let world = World::new().await;
    assert_eq!(world.store.quota(world.team).await.unwrap().unwrap().set, PerResource::default());
    for set in [
        PerResource { sandboxes: Some(0), memory_mb: Some(7), ..PerResource::default() },
        PerResource { builds: Some(3), secrets: Some(4), ..PerResource::default() },
        PerResource { volumes: Some(5), volume_mb: Some(6), ..PerResource::default() },
    ] {
        let mut tx = world.store.begin().await.unwrap();
        tx.quota_hold(world.team).await.unwrap();
        tx.quota_set(world.team, &set).await.unwrap();
        tx.commit().await.unwrap();
        assert_eq!(world.store.quota(world.team).await.unwrap().unwrap().set, set);
    }
    let mut tx = world.store.begin().await.unwrap();
    let nobody = tx.quota_hold(Id::new()).await;
    assert!(matches!(nobody, Err(StoreError::TeamGone)), "{nobody:?}");
}
