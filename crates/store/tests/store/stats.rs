//! What teams have running, against a recount by hand.

use std::collections::BTreeMap;

use chrono::{DateTime, TimeDelta, Utc};
use futures::future::join_all;
use sandbar_store::Store;
use sandbar_store::stats::StatsPoint;
use sandbar_types::id::Team;
use sandbar_types::stats::{MERGES, SAMPLES_KEPT_SEC};
use sandbar_types::{Id, Reserved, SandboxStatus, StatsRange};
use uuid::Uuid;

use crate::support::{Random, World};

/// A sample: whose, when, what.
type Sample = (Uuid, DateTime<Utc>, Reserved);

#[tokio::test]
async fn what_is_reserved_now_is_what_a_recount_says() {
    let world = World::new().await;
    assert_eq!(world.store.stats_now(world.team).await.unwrap(), Reserved::default());
    let mut random = Random(1);
    let mut rows = Vec::new();
    for _ in 0..60 {
        let id = world.pending(&BTreeMap::new()).await;
        let (vcpus, memory) = (1 + random.below(8), 128 + random.below(999));
        sqlx::query("UPDATE sandboxes SET vcpus = $2, memory_mb = $3 WHERE id = $1")
            .bind(id.uuid())
            .bind(i32::try_from(vcpus).unwrap())
            .bind(i32::try_from(memory).unwrap())
            .execute(world.database.pool())
            .await
            .unwrap();
        rows.push((id, vcpus, memory, SandboxStatus::Pending));
        for _ in 0..3 {
            let at = random.below(rows.len());
            let status = SandboxStatus::ALL[random.below(SandboxStatus::ALL.len())];
            world.force(rows[at].0, status).await;
            rows[at].3 = status;
        }
        let (mut expected, mut paused) = (Reserved::default(), 0);
        for (_, vcpus, memory, status) in &rows {
            match status {
                SandboxStatus::Running | SandboxStatus::Starting => {
                    expected.running_count += 1;
                    expected.vcpus += vcpus;
                    expected.memory_mb += memory;
                }
                SandboxStatus::Paused => paused += memory,
                _ => {}
            }
        }
        expected.memory_mb += paused.div_ceil(2);
        assert_eq!(world.store.stats_now(world.team).await.unwrap(), expected);
    }
    assert_eq!(
        world.store.stats_now(Id::new()).await.unwrap(),
        Reserved::default(),
        "of others it has nothing"
    );
}

#[tokio::test]
async fn of_many_who_sample_at_once_one_does() {
    let world = World::new().await;
    world.running().await;
    let other = Store::connect(&world.database.url()).await.unwrap();
    let rounds = join_all(
        (0..20).map(|round| if round % 2 == 0 { world.store.stats_sample() } else { other.stats_sample() }),
    );
    let written: u64 = rounds.await.into_iter().map(|sampled| sampled.unwrap().samples).sum();
    let (rows, slots): (i64, i64) =
        sqlx::query_as("SELECT count(*), count(DISTINCT at) FROM team_usage_snapshots")
            .fetch_one(world.database.pool())
            .await
            .unwrap();
    // One of the team, one of the platform's own, which tells that somebody looked.
    assert_eq!((written, rows), (2 * slots.unsigned_abs(), 2 * slots));
    let (count, off): (i64, i64) = sqlx::query_as(
        "SELECT max(running_count)::bigint, count(*) FILTER (WHERE at <> date_bin('10 seconds', at, 'epoch'))
         FROM team_usage_snapshots WHERE team_id = $1",
    )
    .bind(world.team.uuid())
    .fetch_one(world.database.pool())
    .await
    .unwrap();
    assert_eq!((count, off), (1, 0));
}

#[tokio::test]
async fn charts_say_what_a_recount_of_all_samples_says_before_and_after_merging() {
    for seed in 0..3 {
        let world = World::new().await;
        let samples = scatter(&world, &mut Random(seed)).await;
        check(&world, world.team, &samples, seed).await;
        // A batch that cuts a minute in two loses nothing of it.
        for (merge, batch) in MERGES.into_iter().zip([7, 1000]) {
            while world.store.stats_merge(merge, batch).await.unwrap() > 0 {}
        }
        let finer: i64 = sqlx::query_scalar(
            "SELECT count(*) FROM team_usage_snapshots
             WHERE (span_sec = 10 AND at < now() - interval '2 hours 2 minutes')
                OR (span_sec = 60 AND at < now() - interval '49 hours 2 minutes')",
        )
        .fetch_one(world.database.pool())
        .await
        .unwrap();
        assert_eq!(finer, 0, "seed {seed}");
        check(&world, world.team, &samples, seed).await;
        check(&world, Id::new(), &samples, seed).await;
        while world.store.stats_prune(SAMPLES_KEPT_SEC, 100).await.unwrap() > 0 {}
        check(&world, world.team, &samples, seed).await;
        let oldest: DateTime<Utc> = sqlx::query_scalar("SELECT min(at) FROM team_usage_snapshots")
            .fetch_one(world.database.pool())
            .await
            .unwrap();
        assert!(world.store.now().await.unwrap() - oldest < TimeDelta::days(61), "seed {seed}");
    }
}

/// Samples of seventy days, the more the younger; the platform looked at most times, not at all.
async fn scatter(world: &World, random: &mut Random) -> Vec<Sample> {
    let now = world.store.now().await.unwrap().timestamp() / 10 * 10;
    let mut samples: BTreeMap<(Uuid, DateTime<Utc>), Reserved> = BTreeMap::new();
    for reach_sec in [300_i64, 3600, 3 * 3600, 30 * 3600, 72 * 3600, 70 * 86_400] {
        for _ in 0..250 {
            let at = DateTime::from_timestamp(now - random.below(reach_sec / 10) * 10, 0).unwrap();
            samples.insert((Id::<Team>::PLATFORM.uuid(), at), Reserved::default());
            if random.below(2) == 0 {
                let [running_count, vcpus, memory_mb] = [0; 3].map(|_: u64| random.below(1000_u64));
                samples.insert((world.team.uuid(), at), Reserved { running_count, vcpus, memory_mb });
            }
        }
    }
    for ((team, at), most) in &samples {
        sqlx::query("INSERT INTO team_usage_snapshots VALUES ($1, $2, 10, $3, $4, $5)")
            .bind(team)
            .bind(at)
            .bind(i32::try_from(most.running_count).unwrap())
            .bind(i32::try_from(most.vcpus).unwrap())
            .bind(i64::try_from(most.memory_mb).unwrap())
            .execute(world.database.pool())
            .await
            .unwrap();
    }
    samples.into_iter().map(|((team, at), most)| (team, at, most)).collect()
}

/// Compares each point of each range with all samples that fall into its time.
async fn check(world: &World, team: Id<Team>, samples: &[Sample], seed: u64) {
    for range in StatsRange::ALL {
        let before = world.store.now().await.unwrap();
        let points = world.store.stats_series(team, range).await.unwrap();
        assert_eq!(points.len(), usize::try_from(range.points()).unwrap());
        let step = TimeDelta::seconds(range.step_sec().into());
        for pair in points.windows(2) {
            assert_eq!(pair[1].at - pair[0].at, step);
        }
        assert!(points.last().unwrap().at + step > before);
        for StatsPoint { at, most } in points {
            let within = |(whose, when, _): &&Sample| {
                (at..at + step).contains(when)
                    && (*whose == team.uuid() || *whose == Id::<Team>::PLATFORM.uuid())
            };
            let expected = samples.iter().filter(within).map(|(.., most)| *most).reduce(Reserved::max);
            assert_eq!(most, expected, "seed {seed}, {range} at {at}");
        }
    }
}
