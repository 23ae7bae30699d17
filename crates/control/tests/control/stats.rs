//! Statistics and usage as control planes keep them: two at once, and across their deaths.

use std::time::Duration;

use sandbar_control::sandboxes::Resume;
use sandbar_control::stats::StatsError;
use sandbar_control::{Actor, OpContext};
use sandbar_testkit::sim_host::{Fault, Rpc, Times};
use sandbar_types::{ErrorCode, Reserved, SandboxStatus, StatsRange};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::support::World;

#[tokio::test]
async fn a_team_sees_what_it_has_now_and_the_most_that_it_had() {
    let world = World::new().await;
    let (first, second) = (world.create().await.unwrap(), world.create().await.unwrap());
    world.control.sample_stats().await.unwrap();
    world.control.sandbox_pause(&world.ctx, &first).await.unwrap();
    world.control.sandbox_destroy(&world.ctx, &second).await.unwrap();
    let memory = u64::from(first.memory_mb);
    for range in StatsRange::ALL {
        let stats = world.control.team_stats(&world.ctx, range).await.unwrap();
        assert_eq!(stats.current, Reserved { running_count: 0, vcpus: 0, memory_mb: memory.div_ceil(2) });
        assert_eq!(stats.peaks, Reserved { running_count: 2, vcpus: 2, memory_mb: 2 * memory }, "{range}");
        let (last, before) = stats.series.split_last().unwrap();
        assert!(last.1.is_some(), "what is now is known");
        // Nobody looked before the sample; it may be in the last point, or in the one before.
        assert!(before[..before.len() - 1].iter().all(|(_, most)| most.is_none()), "{range}");
    }
    let stranger = OpContext::new(Uuid::now_v7(), Actor::Anonymous);
    let error = world.control.team_stats(&stranger, StatsRange::Day).await.unwrap_err();
    assert!(matches!(&error, StatsError::NoTeam(_)) && error.code() == ErrorCode::NoTeam, "{error:?}");
}

#[tokio::test]
async fn two_control_planes_sample_each_slot_once() {
    let world = World::new().await;
    world.create().await.unwrap();
    let stop = CancellationToken::new();
    let mut running = Vec::new();
    for control in [world.control.clone(), world.replica().await] {
        let stop = stop.clone();
        running.push(tokio::spawn(async move { control.run_background(stop).await }));
    }
    // The first one is taken at once, the next one when the clock comes to it.
    let taken = async {
        loop {
            let slots: i64 = sqlx::query_scalar("SELECT count(DISTINCT at) FROM team_usage_snapshots")
                .fetch_one(world.database.pool())
                .await
                .unwrap();
            if slots >= 2 {
                break;
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(120), taken).await.unwrap();
    stop.cancel();
    for background in running {
        background.await.unwrap();
    }
    let (samples, slots, teams): (i64, i64, i64) = sqlx::query_as(
        "SELECT count(*), count(DISTINCT at), count(DISTINCT team_id) FROM team_usage_snapshots",
    )
    .fetch_one(world.database.pool())
    .await
    .unwrap();
    assert_eq!((samples, teams), (slots * 2, 2), "the team's and the platform's");
}

#[tokio::test]
async fn what_runs_is_counted_also_when_the_control_plane_dies_in_the_middle() {
    let world = World::new().await;
    let sandbox = world.create().await.unwrap();
    world.host.inject(Rpc::PauseSandbox, Fault::Hang, Times::Once);
    let id = sandbox.id;
    let doomed = world.doomed(move |control, ctx| async move {
        let sandbox = control.sandbox_get(&ctx, id).await.unwrap();
        drop(control.sandbox_pause(&ctx, &sandbox).await);
    });
    world.host.arrived(Rpc::PauseSandbox, 1).await;
    doomed.kill();
    assert_eq!(world.statuses().await, [SandboxStatus::Pausing]);
    assert_eq!(runs(&world).await, (1, 1), "it runs until it is paused");
    world.age_rows().await;
    world.look().await;
    assert_eq!((world.statuses().await, runs(&world).await), (vec![SandboxStatus::Running], (1, 1)));
    // Its host pauses it, and whoever looks next writes it down.
    world.host.auto_pause(&id.to_string());
    world.look().await;
    assert_eq!((world.statuses().await, runs(&world).await), (vec![SandboxStatus::Paused], (1, 0)));

    let paused = world.get(id).await;
    world.control.sandbox_resume(&world.ctx, &paused, Resume::default()).await.unwrap();
    assert_eq!(runs(&world).await, (2, 1));
    let resumed = world.get(id).await;
    world.control.sandbox_destroy(&world.ctx, &resumed).await.unwrap();
    assert_eq!(runs(&world).await, (2, 0));

    let exact: f64 = sqlx::query_scalar(
        "SELECT (sum(vcpus * (EXTRACT(EPOCH FROM ended_at) - EXTRACT(EPOCH FROM started_at))) / 60)::float8 FROM sandbox_runs",
    )
    .fetch_one(world.database.pool())
    .await
    .unwrap();
    let replica = world.replica().await;
    let usage = replica.usage(&world.ctx, None, None).await.unwrap();
    let told: f64 = usage.days.iter().map(|day| day.cpu_minutes).sum();
    assert!((told - exact).abs() < 1e-9, "{told} is not {exact}");
    let memory: f64 = usage.days.iter().map(|day| day.memory_mb_minutes).sum();
    assert!((memory - exact * f64::from(sandbox.memory_mb)).abs() < 1e-6);
}

/// How many runs there are, and how many of them go on.
async fn runs(world: &World) -> (i64, i64) {
    sqlx::query_as("SELECT count(*), count(*) FILTER (WHERE ended_at = 'infinity') FROM sandbox_runs")
        .fetch_one(world.database.pool())
        .await
        .unwrap()
}
