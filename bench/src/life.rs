//! What a sandbox's life costs: pauses over the memory that changed, resumes, forks, snapshots, crowds.

use std::fs::File;
use std::io::Write as _;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use futures::future::join_all;
use serde_json::json;

use crate::bare::Bare;
use crate::platform::{Platform, pss_mb};
use crate::report::{Row, Samples};
use crate::scenarios::{RESTORE, ms};

/// Megabytes of memory that a guest changes before its pause, and the row's name.
const DIRTY_MB: [(usize, &str); 3] = [(10, "pause_10"), (100, "pause_100"), (400, "pause_400")];
/// Children, and the row's name.
const FORKS: [(usize, &str); 3] = [(1, "fork_1"), (10, "fork_10"), (20, "fork_20")];
/// Creates at once.
const CROWD: usize = 30;
/// Clones of one template that share its memory.
const CLONES: usize = 10;
const BLOCK: usize = 1 << 20;

/// Changes memory and keeps it: a file in memory, as large as is asked for, nowhere zero.
const DIRTY: &str = "
import os, subprocess, sys
subprocess.run(['mount', '-t', 'tmpfs', '-o', 'size=420m', 'bench', '/mnt'], check=True)
block = os.urandom(1 << 20)
with open('/mnt/dirty', 'wb', buffering=0) as file:
    for _ in range(int(sys.argv[1])):
        file.write(block)
";

/// All of it, `rounds` times each.
pub(crate) async fn rows(platform: &Platform, bare: &Bare, rounds: u32) -> Result<Vec<Row>> {
    let mut rows = pauses(platform, bare, rounds).await?;
    rows.extend(forks(platform, bare, rounds).await?);
    rows.push(stall(platform, rounds).await?);
    rows.extend(crowd(platform, bare).await?);
    rows.push(idle_clones(platform, bare).await?);
    Ok(rows)
}

async fn pauses(platform: &Platform, bare: &Bare, rounds: u32) -> Result<Vec<Row>> {
    let mut rows = Vec::new();
    let mut resume = [Samples::default(), Samples::default()];
    for (megabytes, name) in DIRTY_MB {
        let mut pause = [Samples::default(), Samples::default()];
        for round in 1..=rounds {
            let sandbox = platform.create().await?;
            let amount = megabytes.to_string();
            platform.run(&sandbox.id, &["python3", "-c", DIRTY, &amount]).await?;
            pause[0].push(ms(platform.act(&sandbox.id, "pause", &json!({})).await?.0));
            pause[1].push(ms(write(&platform.store_dir(), megabytes)?));
            resume[0].push(ms(platform.act(&sandbox.id, "resume", &json!({})).await?.0));
            platform.destroy(&sandbox.id).await?;
            let prepared = bare.prepare().await?;
            bare.settle().await;
            let machine = bare.restore(prepared).await?;
            resume[1].push(ms(machine.took));
            bare.destroy(machine).await?;
            eprint!("\rpauses over {megabytes} MB: {round}/{rounds} ");
        }
        eprintln!();
        rows.push(Row::new(
            name,
            "ms",
            &pause[0],
            "the same bytes written to the same disk, and fsync",
            &pause[1],
        ));
    }
    rows.push(Row::new("resume", "ms", &resume[0], RESTORE, &resume[1]));
    Ok(rows)
}

async fn forks(platform: &Platform, bare: &Bare, rounds: u32) -> Result<Vec<Row>> {
    let mut rows = Vec::new();
    let source = platform.create().await?;
    for (count, name) in FORKS {
        let mut fork = [Samples::default(), Samples::default()];
        for round in 1..=rounds {
            let (took, answer) = platform.act(&source.id, "fork", &json!({"count": count})).await?;
            fork[0].push(ms(took));
            let children = answer.as_array().context("no list of children")?;
            for child in children {
                platform.destroy(child["sandbox"]["id"].as_str().context("a child was not made")?).await?;
            }
            ensure!(children.len() == count, "{} children of {count}", children.len());
            let prepared = bare.prepare().await?;
            bare.settle().await;
            let machine = bare.restore(prepared).await?;
            fork[1].push(ms(machine.took));
            bare.destroy(machine).await?;
            eprint!("\rforks of {count}: {round}/{rounds} ");
        }
        eprintln!();
        rows.push(Row::new(name, "ms", &fork[0], "one bare restore", &fork[1]));
    }
    platform.destroy(&source.id).await?;
    Ok(rows)
}

/// For how long the guest stands still: the longest gap between two ticks of a clock in it that otherwise ticks all the time.
async fn stall(platform: &Platform, rounds: u32) -> Result<Row> {
    const CLOCK: &str = "
import sys, time
gap, last, end = 0, time.monotonic(), time.monotonic() + float(sys.argv[1])
while last < end:
    now = time.monotonic()
    gap, last = max(gap, now - last), now
print(gap * 1000)
";
    let mut gaps = [Samples::default(), Samples::default()];
    let sandbox = platform.create().await?;
    platform.run(&sandbox.id, &["python3", "-c", CLOCK, "1"]).await?;
    for round in 1..=rounds {
        let undisturbed = platform.run(&sandbox.id, &["python3", "-c", CLOCK, "3"]).await?;
        gaps[1].push(undisturbed.trim().parse()?);
        let keep = async {
            // After the clock's interpreter has started, well before the clock stops.
            tokio::time::sleep(Duration::from_millis(1500)).await;
            platform.keep(&sandbox.id, &format!("bench-{round}")).await
        };
        let (ticked, kept) = tokio::join!(platform.run(&sandbox.id, &["python3", "-c", CLOCK, "6"]), keep);
        kept?;
        gaps[0].push(ticked?.trim().parse()?);
        platform.forget(&format!("bench-{round}")).await?;
        eprint!("\rsnapshots: {round}/{rounds} ");
    }
    eprintln!();
    platform.destroy(&sandbox.id).await?;
    Ok(Row::new("snapshot_stall", "ms", &gaps[0], "the same guest, undisturbed", &gaps[1]))
}

/// Thirty creates at once, of which some may fail.
async fn crowd(platform: &Platform, bare: &Bare) -> Result<Vec<Row>> {
    let mut each = [Samples::default(), Samples::default()];
    let mut success = [Samples::default(), Samples::default()];
    let made = join_all((0..CROWD).map(|_| platform.create())).await;
    let sandboxes: Vec<_> = made.into_iter().filter_map(Result::ok).collect();
    sandboxes.iter().for_each(|sandbox| each[0].push(ms(sandbox.took)));
    for ended in join_all(sandboxes.iter().map(|sandbox| platform.destroy(&sandbox.id))).await {
        ended?;
    }
    #[expect(clippy::cast_precision_loss, reason = "thirty at most")]
    success[0].push(sandboxes.len() as f64 / CROWD as f64 * 100.0);
    success[1].push(100.0);
    let prepared = bare.prepare().await?;
    bare.settle().await;
    let machine = bare.restore(prepared).await?;
    each[1].push(ms(machine.took));
    bare.destroy(machine).await?;
    eprintln!("a crowd of {CROWD}: {}", sandboxes.len());
    Ok(vec![
        Row::new("create_30", "ms", &each[0], "one bare restore", &each[1]),
        Row::new("create_30_ok", "%", &success[0], "all of them", &success[1]),
    ])
}

/// The memory of clones that have done nothing since they were made.
async fn idle_clones(platform: &Platform, bare: &Bare) -> Result<Row> {
    let mut pss = [Samples::default(), Samples::default()];
    let mut sandboxes = Vec::new();
    for _ in 0..CLONES {
        sandboxes.push(platform.create().await?);
    }
    for sandbox in &sandboxes {
        pss[0].push(pss_mb(platform.vmm_of(&sandbox.id)?)?);
    }
    for sandbox in &sandboxes {
        platform.destroy(&sandbox.id).await?;
    }
    let mut machines = Vec::new();
    for _ in 0..CLONES {
        machines.push(bare.restore(bare.prepare().await?).await?);
    }
    for machine in &machines {
        pss[1].push(pss_mb(machine.vmm())?);
    }
    for machine in machines {
        bare.destroy(machine).await?;
    }
    Ok(Row::new("pss_clone", "MB", &pss[0], "each of 10 bare VMMs of the same template", &pss[1]))
}

/// Writes as many megabytes to the filesystem of `folder`, through to the disk.
fn write(folder: &Path, megabytes: usize) -> Result<Duration> {
    let mut block = vec![0; BLOCK];
    getrandom::fill(&mut block)?;
    let path = folder.join(format!("bench-write-{}", std::process::id()));
    let started = Instant::now();
    let written = File::create(&path).and_then(|mut file| {
        (0..megabytes).try_for_each(|_| file.write_all(&block))?;
        file.sync_all()
    });
    let took = started.elapsed();
    std::fs::remove_file(&path)?;
    written?;
    Ok(took)
}
