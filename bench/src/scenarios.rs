//! What is measured. Platform and bare machine take turns, so that whatever else the machine does hits both.

use std::time::{Duration, Instant};

use anyhow::Result;
use futures::future::{join_all, try_join_all};

use crate::bare::{Bare, SLOTS};
use crate::platform::{Platform, pss_mb};
use crate::report::{Row, Samples};
use crate::{fleet, guest, hung, life, proxy, stats};

/// How often each is measured.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Rounds {
    /// Sandboxes made one after the other; each gives a first command and a size, too.
    fresh: u32,
    /// Commands in one warm sandbox.
    warm: u32,
    /// Crowds of [`SLOTS`].
    crowds: u32,
    /// Starts of a process and transfers in one warm sandbox.
    agent: u32,
    /// Pauses, forks and snapshots of each kind.
    life: u32,
}

impl Rounds {
    pub(crate) const FULL: Self = Self { fresh: 20, warm: 50, crowds: 3, agent: 10, life: 5 };
    pub(crate) const QUICK: Self = Self { fresh: 3, warm: 5, crowds: 1, agent: 2, life: 1 };
}

/// Commands that are run before a warm one is measured.
const WARM_UP: u32 = 10;

pub(crate) const RESTORE: &str = "bare restore until /health answers";
const EXEC: &str = "same command straight to the bare guest's agent";

/// Measures everything, into `rows`: what was measured before a failure is there.
pub(crate) async fn all(platform: &Platform, bare: &Bare, rounds: Rounds, rows: &mut Vec<Row>) -> Result<()> {
    rows.extend(fresh(platform, bare, rounds.fresh).await?);
    rows.insert(3, warm(platform, bare, rounds.warm).await?);
    rows.splice(4..4, crowds(platform, bare, rounds.crowds).await?);
    rows.extend(guest::agent(bare, rounds.agent).await?);
    rows.extend(proxy::edge(platform, rounds.agent).await?);
    rows.extend(life::rows(platform, bare, rounds.life).await?);
    fleet(rounds, rows).await?;
    if platform.keep_warm().await? {
        rows.extend(claimed(platform, bare, rounds.fresh).await?);
    }
    Ok(())
}

/// What needs no machines.
pub(crate) async fn fleet(rounds: Rounds, rows: &mut Vec<Row>) -> Result<()> {
    rows.push(stats::year(rounds.warm).await?);
    rows.extend(fleet::rows(rounds.warm).await?);
    rows.extend(hung::rows(rounds.warm).await?);
    Ok(())
}

/// A new sandbox, its first command, and its size after that.
async fn fresh(platform: &Platform, bare: &Bare, rounds: u32) -> Result<Vec<Row>> {
    let mut create = [Samples::default(), Samples::default()];
    let mut first = create.clone();
    let mut pss = create.clone();
    let mut identity = create.clone();
    // The first round is not counted: it brings the template into the page cache.
    for round in 0..=rounds {
        let counted = |samples: &mut Samples, value: f64| {
            if round > 0 {
                samples.push(value);
            }
        };
        bare.settle().await;
        let sandbox = platform.create().await?;
        counted(&mut create[0], ms(sandbox.took));
        counted(&mut first[0], ms(platform.exec(&sandbox.id).await?));
        counted(&mut pss[0], pss_mb(platform.vmm_of(&sandbox.id)?)?);
        platform.destroy(&sandbox.id).await?;

        let prepared = bare.prepare().await?;
        bare.settle().await;
        let machine = bare.restore(prepared).await?;
        counted(&mut create[1], ms(machine.took));
        counted(&mut identity[1], ms(bare.health(&machine).await?));
        counted(&mut identity[0], ms(bare.adopt(&machine).await?));
        counted(&mut first[1], ms(machine.exec().await?));
        counted(&mut pss[1], pss_mb(machine.vmm())?);
        bare.destroy(machine).await?;
        eprint!("\rfresh sandboxes: {round}/{rounds} ");
    }
    eprintln!();
    Ok(vec![
        Row::new("create_ready", "ms", &create[0], RESTORE, &create[1]),
        Row::new("identity", "ms", &identity[0], "the bare guest's second /health", &identity[1]),
        Row::new("first_exec", "ms", &first[0], EXEC, &first[1]),
        Row::new("pss_idle", "MB", &pss[0], "bare VMM of the same template", &pss[1]),
    ])
}

/// A new sandbox, and its first command, where a machine waits for it.
async fn claimed(platform: &Platform, bare: &Bare, rounds: u32) -> Result<Vec<Row>> {
    let mut create = [Samples::default(), Samples::default()];
    let mut first = create.clone();
    // The first one finds none, and makes that one is kept ready.
    let sandbox = platform.create().await?;
    platform.destroy(&sandbox.id).await?;
    for round in 1..=rounds {
        platform.spare().await?;
        let sandbox = platform.create().await?;
        create[0].push(ms(sandbox.took));
        first[0].push(ms(platform.exec(&sandbox.id).await?));
        platform.destroy(&sandbox.id).await?;

        let prepared = bare.prepare().await?;
        bare.settle().await;
        let machine = bare.restore(prepared).await?;
        create[1].push(ms(machine.took));
        bare.adopt(&machine).await?;
        first[1].push(ms(machine.exec().await?));
        bare.destroy(machine).await?;
        eprint!("\rwarm sandboxes: {round}/{rounds} ");
    }
    eprintln!();
    Ok(vec![
        Row::new("create_ready_warm", "ms", &create[0], RESTORE, &create[1]),
        Row::new("first_exec_warm", "ms", &first[0], EXEC, &first[1]),
    ])
}

/// A command in a sandbox that has run some.
async fn warm(platform: &Platform, bare: &Bare, rounds: u32) -> Result<Row> {
    let sandbox = platform.create().await?;
    let machine = bare.restore(bare.prepare().await?).await?;
    bare.adopt(&machine).await?;
    let mut exec = [Samples::default(), Samples::default()];
    for round in 0..WARM_UP + rounds {
        let took = [platform.exec(&sandbox.id).await?, machine.exec().await?];
        if round >= WARM_UP {
            for (samples, took) in exec.iter_mut().zip(took) {
                samples.push(ms(took));
            }
        }
    }
    platform.destroy(&sandbox.id).await?;
    bare.destroy(machine).await?;
    eprintln!("warm commands: {rounds}/{rounds}");
    Ok(Row::new("exec_warm", "ms", &exec[0], EXEC, &exec[1]))
}

/// Ten at once: how long each took, and how long until all were there.
async fn crowds(platform: &Platform, bare: &Bare, rounds: u32) -> Result<Vec<Row>> {
    let mut each = [Samples::default(), Samples::default()];
    let mut all = each.clone();
    for round in 1..=rounds {
        bare.settle().await;
        let started = Instant::now();
        let sandboxes = try_join_all((0..SLOTS).map(|_| platform.create())).await?;
        all[0].push(ms(started.elapsed()));
        sandboxes.iter().for_each(|sandbox| each[0].push(ms(sandbox.took)));
        for ended in join_all(sandboxes.iter().map(|sandbox| platform.destroy(&sandbox.id))).await {
            ended?;
        }

        let prepared = try_join_all((0..SLOTS).map(|_| bare.prepare())).await?;
        bare.settle().await;
        let started = Instant::now();
        let machines = try_join_all(prepared.into_iter().map(|prepared| bare.restore(prepared))).await?;
        all[1].push(ms(started.elapsed()));
        machines.iter().for_each(|machine| each[1].push(ms(machine.took)));
        for ended in join_all(machines.into_iter().map(|machine| bare.destroy(machine))).await {
            ended?;
        }
        eprint!("\rcrowds: {round}/{rounds} ");
    }
    eprintln!();
    Ok(vec![
        Row::new("create_10", "ms", &each[0], "each of 10 bare restores at once", &each[1]),
        Row::new("create_10_all", "ms", &all[0], "until all of 10 bare restores were there", &all[1]),
    ])
}

pub(crate) fn ms(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1000.0
}
