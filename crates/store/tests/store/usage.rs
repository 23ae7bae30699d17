//! What teams used, against a recount by hand.

use std::collections::BTreeMap;

use chrono::{DateTime, Days, NaiveDate, TimeDelta, Utc};
use futures::future::join_all;
use sandbar_store::Store;
use sandbar_store::usage::UsageRow;
use sandbar_types::id::Team;
use sandbar_types::{Id, SandboxStatus};
use uuid::Uuid;

use crate::support::{Random, World};

/// A run: whose, vcpus, memory, from, to; none = it goes on.
type Run = (Uuid, i32, i32, DateTime<Utc>, Option<DateTime<Utc>>);

/// Days that are counted in these tests, before today.
const PAST: u64 = 12;

#[tokio::test]
async fn runs_follow_every_change_of_state_whoever_makes_it() {
    let world = World::new().await;
    let mut random = Random(7);
    let mut sandboxes = Vec::new();
    for _ in 0..4 {
        sandboxes.push((world.pending(&BTreeMap::new()).await, false));
    }
    // The least and the most that they can have run for, by the clock around each change.
    let (mut least, mut most, mut since) = (TimeDelta::zero(), TimeDelta::zero(), BTreeMap::new());
    let mut runs = 0;
    for _ in 0..200 {
        let which = random.below(sandboxes.len());
        let (id, runs_now) = &mut sandboxes[which];
        let status = SandboxStatus::ALL[random.below(SandboxStatus::ALL.len())];
        let before = clock(&world).await;
        world.force(*id, status).await;
        let after = clock(&world).await;
        match status {
            SandboxStatus::Running if !*runs_now => {
                since.insert(which, (before, after));
                (*runs_now, runs) = (true, runs + 1);
            }
            SandboxStatus::Running | SandboxStatus::Pausing | SandboxStatus::Snapshotting => {}
            _ if *runs_now => {
                let (earliest, latest) = since.remove(&which).unwrap();
                (least, most) = (least + (before - latest), most + (after - earliest));
                *runs_now = false;
            }
            _ => {}
        }
    }
    for (id, _) in &sandboxes {
        world.force(*id, SandboxStatus::Stopped).await;
    }
    let end = clock(&world).await;
    for (earliest, _) in since.values() {
        most += end - *earliest;
    }
    let (kept, micros, across): (i64, i64, i64) = sqlx::query_as(
        "SELECT count(*), sum((EXTRACT(EPOCH FROM ended_at) - EXTRACT(EPOCH FROM started_at)) * 1000000)::bigint,
                (SELECT count(*) FROM sandbox_runs a JOIN sandbox_runs b ON a.sandbox_id = b.sandbox_id
                 WHERE a.started_at < b.started_at AND a.ended_at >= b.started_at)
         FROM sandbox_runs",
    )
    .fetch_one(world.database.pool())
    .await
    .unwrap();
    assert_eq!((kept, across), (runs, 0));
    let (least, most) = (least.num_microseconds().unwrap(), most.num_microseconds().unwrap());
    assert!((least..=most).contains(&micros), "{micros} is not between {least} and {most}");
}

#[tokio::test]
async fn a_clock_that_goes_back_counts_nothing_twice() {
    let world = World::new().await;
    let id = world.running().await;
    world.force(id, SandboxStatus::Paused).await;
    world.execute("UPDATE sandbox_runs SET ended_at = now() + interval '1 hour'").await;
    world.force(id, SandboxStatus::Running).await;
    world.force(id, SandboxStatus::Paused).await;
    let in_order: bool = sqlx::query_scalar(
        "SELECT count(*) = 2 AND max(started_at) > min(ended_at) AND bool_and(ended_at >= started_at) FROM sandbox_runs",
    )
    .fetch_one(world.database.pool())
    .await
    .unwrap();
    assert!(in_order);
}

#[tokio::test]
async fn days_say_what_a_recount_of_all_runs_says_before_during_and_after_they_are_summed_up() {
    for seed in 0..3 {
        let world = World::new().await;
        world
            .execute(
                "UPDATE usage_counted SET counted_from = counted_from - 12, counted_to = counted_to - 12",
            )
            .await;
        let other = Id::<Team>::PLATFORM;
        let runs = scatter(&world, other, &mut Random(seed)).await;
        for team in [world.team, other, Id::new()] {
            check(&world, team, &runs).await;
        }
        // Two control planes, and many turns of each at once: each day is summed up once.
        let beside = Store::connect(&world.database.url()).await.unwrap();
        let mut days = Vec::new();
        while days.len() < usize::try_from(PAST).unwrap() {
            let turns = join_all((0..4).map(|turn| {
                if turn % 2 == 0 { world.store.usage_count_day(0) } else { beside.usage_count_day(0) }
            }));
            days.extend(turns.await.into_iter().filter_map(Result::unwrap));
            check(&world, world.team, &runs).await;
        }
        let today = world.store.now().await.unwrap().date_naive();
        let expected: Vec<NaiveDate> = (1..=PAST).rev().map(|ago| today - Days::new(ago)).collect();
        // Whose answer comes first is another thing.
        days.sort_unstable();
        assert_eq!(days, expected, "seed {seed}");
        assert_eq!(world.store.usage_count_day(0).await.unwrap(), None, "today is not over");
        while world.store.usage_prune(0, 10).await.unwrap() > 0 {}
        let left: i64 = sqlx::query_scalar("SELECT count(*) FROM sandbox_runs")
            .fetch_one(world.database.pool())
            .await
            .unwrap();
        assert!(usize::try_from(left).unwrap() < runs.len(), "seed {seed}");
        for team in [world.team, other] {
            check(&world, team, &runs).await;
        }
    }
}

#[tokio::test]
async fn a_day_is_summed_up_when_nothing_of_it_can_still_be_under_way() {
    let world = World::new().await;
    world
        .execute("UPDATE usage_counted SET counted_from = counted_from - 1, counted_to = counted_to - 1")
        .await;
    assert_eq!(world.store.usage_count_day(86_400).await.unwrap(), None);
    assert!(world.store.usage_count_day(0).await.unwrap().is_some());
}

#[tokio::test]
async fn there_is_no_account_of_days_before_the_counting_began_nor_of_days_to_come() {
    let world = World::new().await;
    let today = world.store.now().await.unwrap().date_naive();
    let days = world.store.usage(world.team, today - Days::new(50), today + Days::new(50)).await.unwrap();
    assert_eq!(days, [UsageRow { day: today, cpu_minutes: 0.0, memory_mb_minutes: 0.0 }]);
    assert_eq!(world.store.usage(world.team, today + Days::new(1), today + Days::new(2)).await.unwrap(), []);
}

async fn clock(world: &World) -> DateTime<Utc> {
    sqlx::query_scalar("SELECT clock_timestamp()").fetch_one(world.database.pool()).await.unwrap()
}

/// Runs of two teams, short and long, across days, of no length, and going on.
async fn scatter(world: &World, other: Id<Team>, random: &mut Random) -> Vec<Run> {
    let now = world.store.now().await.unwrap();
    let mut runs = Vec::new();
    for number in 0..120 {
        let team = if random.below(3) == 0 { other } else { world.team };
        let (vcpus, memory) = (1 + random.below(8), 128 + random.below(4096));
        let ago = TimeDelta::microseconds(i64::try_from(random.below(14 * 86_400_000_000_u64)).unwrap());
        let from = now - ago;
        let lasts = [0, 1, 59_000_000, 3_600_000_000, 200_000_000_000_u64][random.below(5)];
        let to = from + TimeDelta::microseconds(i64::try_from(random.below(lasts + 1)).unwrap());
        let to = (number % 10 != 0).then_some(to.min(now));
        runs.push((team.uuid(), vcpus, memory, from, to));
    }
    for (team, vcpus, memory, from, to) in &runs {
        sqlx::query(
            "INSERT INTO sandbox_runs VALUES (gen_random_uuid(), $1, $2, $3, $4, COALESCE($5, 'infinity'))",
        )
        .bind(team)
        .bind(vcpus)
        .bind(memory)
        .bind(from)
        .bind(to)
        .execute(world.database.pool())
        .await
        .unwrap();
    }
    runs
}

/// Compares each day with all runs. Those that go on grow meanwhile: today is between two recounts.
async fn check(world: &World, team: Id<Team>, runs: &[Run]) {
    let before = clock(world).await;
    let today = before.date_naive();
    let days = world.store.usage(team, today - Days::new(PAST), today).await.unwrap();
    let after = clock(world).await;
    assert_eq!(days.len() as u64, PAST + 1);
    for UsageRow { day, cpu_minutes, memory_mb_minutes } in days {
        let (least, most) = (recount(runs, team, day, before), recount(runs, team, day, after));
        for (told, least, most) in [(cpu_minutes, least.0, most.0), (memory_mb_minutes, least.1, most.1)] {
            let slack = 1e-9 * most.max(1.0);
            assert!(
                told >= least - slack && told <= most + slack,
                "{day}: {told} is not between {least} and {most}"
            );
        }
    }
}

/// The minutes of one day, run by run.
fn recount(runs: &[Run], team: Id<Team>, day: NaiveDate, now: DateTime<Utc>) -> (f64, f64) {
    let low = day.and_hms_opt(0, 0, 0).unwrap().and_utc();
    let high = (low + Days::new(1)).min(now);
    let (mut cpu, mut memory) = (0, 0);
    for (_, vcpus, memory_mb, from, to) in runs.iter().filter(|run| run.0 == team.uuid()) {
        let within = to.unwrap_or(now).min(high) - (*from).max(low);
        let micros = i128::from(within.num_microseconds().unwrap().max(0));
        cpu += i128::from(*vcpus) * micros;
        memory += i128::from(*memory_mb) * micros;
    }
    (cpu as f64 / 60e6, memory as f64 / 60e6)
}
