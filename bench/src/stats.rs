//! What a team's figures cost with a year of samples behind them: on a database of its own, since no platform has that at hand.

use std::time::Instant;

use anyhow::Result;
use sandbar_store::Store;
use sandbar_types::id::Team;
use sandbar_types::{Id, StatsRange};
use sqlx::{Connection as _, PgConnection};

use crate::database::with_scratch;
use crate::report::{Row, Samples};

/// A sample each hour of a year, one each minute of its last two days, one each ten seconds of its last two hours, for twenty teams and the
/// platform's own: what retention leaves and six times as much, since it leaves sixty days.
const YEAR: &str = "INSERT INTO team_usage_snapshots (team_id, at, span_sec, running_count, vcpus, memory_mb)
    SELECT t.team_id, s.at, s.span, 3, 6, 2048
    FROM (SELECT $1::uuid AS team_id UNION ALL SELECT $2::uuid UNION ALL SELECT gen_random_uuid() FROM generate_series(1, 19)) t,
         (SELECT generate_series(date_trunc('hour', now()) - interval '365 days', now() - interval '2 days', '1 hour') AS at, 3600 AS span
          UNION ALL SELECT generate_series(date_trunc('hour', now()) - interval '47 hours', now() - interval '2 hours', '1 minute'), 60
          UNION ALL SELECT generate_series(date_bin('10 seconds', now(), 'epoch') - interval '1 hour', now(), '10 seconds'), 10) s
    ON CONFLICT DO NOTHING";

/// All ranges, with a year behind them, against the same with nothing.
pub(crate) async fn year(rounds: u32) -> Result<Row> {
    with_scratch(async |url| measure(url, rounds).await).await
}

async fn measure(url: &str, rounds: u32) -> Result<Row> {
    let store = Store::connect(url).await?;
    store.migrate().await?;
    let team = Id::<Team>::new();
    let without = time(&store, team, rounds).await?;
    let mut connection = PgConnection::connect(url).await?;
    sqlx::query(YEAR).bind(team.uuid()).bind(Id::<Team>::PLATFORM.uuid()).execute(&mut connection).await?;
    sqlx::raw_sql("ANALYZE").execute(&mut connection).await?;
    connection.close().await?;
    let with = time(&store, team, rounds).await?;
    store.close().await;
    Ok(Row::new("stats_year", "ms", &with, "the same without a sample", &without))
}

async fn time(store: &Store, team: Id<Team>, rounds: u32) -> Result<Samples> {
    let mut samples = Samples::default();
    for round in 0..=rounds {
        for range in StatsRange::ALL {
            let begun = Instant::now();
            store.stats_now(team).await?;
            store.stats_series(team, range).await?;
            // The first round brings the tables and the plans into memory.
            if round > 0 {
                samples.push(begun.elapsed().as_secs_f64() * 1000.0);
            }
        }
    }
    Ok(samples)
}
