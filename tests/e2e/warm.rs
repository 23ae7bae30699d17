//! The warm pool: machines that are ready before anybody asks become sandboxes like any other, and never stand in anybody's way.

use std::collections::BTreeSet;
use std::time::{Duration, Instant, SystemTime};

use anyhow::{Context as _, Result, ensure};
use futures::future::join_all;
use sandbar_tests::census::Process;
use sandbar_tests::{Platform, Sandbox, wait};
use serde_json::{Value, json};

use crate::{Test, tests};

/// A spare is made a while after the last create, and a guest under emulation on a busy machine takes its time.
const READY_LIMIT: Duration = Duration::from_secs(120);
/// The agent looks at the host's memory every few seconds.
const GONE_LIMIT: Duration = Duration::from_secs(60);
/// What is left above the floor of memory for the test's own machines; the test takes it away again.
const ROOM_MB: u64 = 3000;
const HOG_PIECE: usize = 64 << 20;
/// The most that it takes.
const HOG_PIECES: usize = 80;
/// What the agent says of each.
const READY: &str = "a spare machine is ready";

pub(crate) fn tests() -> Vec<Test> {
    tests![
        a_claimed_machine_is_a_sandbox_like_any_other,
        each_spare_has_one_winner_and_a_broken_one_is_replaced,
        spares_end_with_their_template_their_agent_and_the_hosts_memory,
    ]
}

/// A platform that keeps `size` machines ready for each template in use.
async fn with_pool(platform: &Platform, size: &str, floor_mb: Option<u64>) -> Result<()> {
    let floor = floor_mb.map(|mb| ("SANDBAR_WARM_POOL_FLOOR", mb.to_string()));
    let size = ("SANDBAR_WARM_POOL", size.to_owned());
    platform.restart_with(&[size].into_iter().chain(floor).collect::<Vec<_>>()).await
}

/// Does something that makes the agent get `count` spares ready, and waits until they are.
async fn after_that_ready<T>(
    platform: &Platform,
    count: usize,
    cause: impl Future<Output = Result<T>>,
) -> Result<(T, Vec<Process>)> {
    let before = platform.agent_logged(READY)?;
    let done = cause.await?;
    wait::until_true("spares are ready", READY_LIMIT, async || {
        Ok(platform.agent_logged(READY)? >= before + count)
    })
    .await?;
    Ok((done, platform.footprint().spares()?))
}

fn pids(processes: &[Process]) -> BTreeSet<i32> {
    processes.iter().map(|process| process.pid).collect()
}

/// The machine of a sandbox.
fn machine(platform: &Platform, sandbox: &Sandbox) -> Result<i32> {
    Ok(platform.footprint().vmm_of(&sandbox.id)?.context("no virtual machine")?.pid)
}

async fn a_claimed_machine_is_a_sandbox_like_any_other(platform: &Platform) -> Result<()> {
    with_pool(platform, "2", None).await?;
    let client = platform.client()?;
    let (cold, spares) = after_that_ready(platform, 2, platform.sandbox()).await?;
    assert_eq!(spares.len(), 2, "{spares:?}");
    assert_eq!(client.list("").await?.len(), 1, "a spare is told of as a sandbox");

    let body = json!({"env": {"WHOSE": "mine"}, "timeout_sec": 0, "network": {"allow_internet": false}});
    let one = Sandbox::create(&client, &body).await?;
    let other = platform.sandbox().await?;
    let claimed = BTreeSet::from([machine(platform, &one)?, machine(platform, &other)?]);
    assert_eq!(claimed, pids(&spares), "a spare was there and was not claimed");

    // Nothing of who it was before, and nothing of each other.
    let tell = "hostname; head -c 16 /dev/urandom | sha256sum; cat /proc/sys/kernel/random/uuid";
    let mut told = BTreeSet::new();
    for sandbox in [&cold, &one, &other] {
        told.extend(sandbox.sh(tell).await?.lines().map(str::to_owned));
        told.insert(sandbox.host_ip()?.to_string());
        let clock = Duration::from_secs(sandbox.sh("date +%s").await?.parse()?);
        let now = SystemTime::UNIX_EPOCH.elapsed()?;
        ensure!(now.abs_diff(clock) < Duration::from_secs(30), "its clock says {clock:?}");
        assert_eq!(sandbox.sh("ls -A ~ /tmp").await?, cold.sh("ls -A ~ /tmp").await?);
    }
    assert_eq!(told.len(), 12, "something is shared: {told:?}");
    ensure!(!told.contains("sandbar"), "it kept the name that it waited under");
    assert_eq!(one.sh("echo $WHOSE").await?, "mine");
    // The policy is in force: an address that one may reach and the other may not is refused at once.
    let try_out = "timeout 2 bash -c 'echo > /dev/tcp/203.0.113.7/9' 2>/dev/null; true";
    for (sandbox, closed) in [(&one, true), (&other, false)] {
        sandbox.sh(try_out).await?;
        let network = client.get(&format!("/v1/sandboxes/{}/network", sandbox.id)).await?.json(200)?;
        let denied = network["denials"].to_string().contains("203.0.113.7");
        assert_eq!(denied, closed, "{network}");
    }

    // It outlives its agent, pauses, forks and is kept like any other.
    one.sh("echo kept > ~/file").await?;
    let before = platform.agent_pid()?;
    sandbar_tests::census::signal(before, rustix::process::Signal::KILL)?;
    wait::until_true("it answers the next agent", GONE_LIMIT, async || {
        Ok(platform.agent_pid()? != before && one.sh("cat ~/file").await? == "kept")
    })
    .await?;
    ensure!(claimed.contains(&machine(platform, &one)?), "another virtual machine");
    let act = async |id: &str, what: &str, body: &Value| -> Result<Value> {
        let reply = client.post(&format!("/v1/sandboxes/{id}/{what}"), body).await?;
        ensure!(reply.status < 300, "{what}: {}", reply.text());
        reply.json(reply.status)
    };
    act(&one.id, "pause", &json!({})).await?;
    act(&one.id, "resume", &json!({})).await?;
    assert_eq!(one.sh("cat ~/file; echo $WHOSE").await?, "kept\nmine");
    let children = act(&one.id, "fork", &json!({"count": 1})).await?;
    let child = &children[0]["sandbox"];
    let child = Sandbox::of(&client, child["id"].as_str().context("no child")?, child.clone());
    assert_eq!(child.sh("cat ~/file").await?, "kept");
    let body = json!({"sandbox_id": other.id, "name": "warm-kept"});
    client.post("/v1/snapshots", &body).await?.json(201)?;
    let copy = Sandbox::create(&client, &json!({"template": "warm-kept"})).await?;
    assert_eq!(copy.sh("echo copied").await?, "copied");
    client.delete("/v1/snapshots/warm-kept").await?.expect(204)?;
    for sandbox in [&cold, &one, &other, &child, &copy] {
        sandbox.destroy().await?;
    }
    assert_eq!(platform.footprint().sandbox_folders()?, BTreeSet::new());
    platform.restart_with(&[]).await
}

async fn each_spare_has_one_winner_and_a_broken_one_is_replaced(platform: &Platform) -> Result<()> {
    with_pool(platform, "2", None).await?;
    let client = platform.client()?;
    let (first, spares) = after_that_ready(platform, 2, platform.sandbox()).await?;
    first.destroy().await?;
    let nothing = json!({});
    let made = join_all((0..5).map(|_| Sandbox::create(&client, &nothing))).await;
    let made: Vec<Sandbox> = made.into_iter().collect::<Result<_>>()?;
    let machines = made.iter().map(|sandbox| machine(platform, sandbox)).collect::<Result<BTreeSet<_>>>()?;
    assert_eq!(machines.len(), 5, "two sandboxes have one machine");
    ensure!(pids(&spares).is_subset(&machines), "not all spares were claimed: {spares:?}, {machines:?}");
    let names = join_all(made.iter().map(|sandbox| sandbox.sh("hostname"))).await;
    assert_eq!(names.into_iter().collect::<Result<BTreeSet<_>>>()?.len(), 5);
    let ended = async {
        for sandbox in &made {
            sandbox.destroy().await?;
        }
        Ok(())
    };
    let ((), spares) = after_that_ready(platform, 2, ended).await?;

    // Whether the agent has seen that they are dead or not: a create does not fail of it.
    for spare in &spares {
        sandbar_tests::census::signal(spare.pid, rustix::process::Signal::KILL)?;
    }
    let after = platform.sandbox().await?;
    assert_eq!(after.sh("echo here").await?, "here");
    ensure!(!pids(&spares).contains(&machine(platform, &after)?), "its machine is dead");
    after.destroy().await?;
    wait::until_true("the dead leave nothing", GONE_LIMIT, async || {
        Ok(spares.iter().all(Process::is_reaped))
    })
    .await?;
    platform.restart_with(&[]).await
}

async fn spares_end_with_their_template_their_agent_and_the_hosts_memory(platform: &Platform) -> Result<()> {
    with_pool(platform, "1", None).await?;
    let client = platform.client()?;
    let footprint = platform.footprint();
    let (source, base) = after_that_ready(platform, 1, platform.sandbox()).await?;
    let body = json!({"sandbox_id": source.id, "name": "warm-gone"});
    client.post("/v1/snapshots", &body).await?.json(201)?;
    let from_it = json!({"template": "warm-gone"});
    let (copy, both) = after_that_ready(platform, 1, Sandbox::create(&client, &from_it)).await?;
    assert_eq!(both.len(), 2, "{both:?}");
    let started = Instant::now();
    client.delete("/v1/snapshots/warm-gone").await?.expect(204)?;
    wait::until_true("its spare ends", GONE_LIMIT, async || Ok(pids(&footprint.spares()?) == pids(&base)))
        .await?;
    ensure!(started.elapsed() < GONE_LIMIT);
    copy.destroy().await?;
    source.destroy().await?;

    // An agent that is killed leaves spares that nobody knows; the next one ends them, with all that they held.
    let before = platform.agent_pid()?;
    sandbar_tests::census::signal(before, rustix::process::Signal::KILL)?;
    wait::until_true("another host agent serves", GONE_LIMIT, async || {
        Ok(platform.agent_pid()? != before && footprint.vmms()?.is_empty())
    })
    .await?;
    let sessions = footprint.store_sessions()?;
    ensure!(sessions.len() <= 2, "what the dead agent left is not swept: {sessions:?}");

    // One that ends in order ends them first.
    let made =
        async { wait::until("it serves", GONE_LIMIT, async || Ok(platform.sandbox().await.ok())).await };
    let (sandbox, _) = after_that_ready(platform, 1, made).await?;
    sandbox.destroy().await?;
    platform.stop().await?;
    assert_eq!(footprint.vmms()?, []);
    assert_eq!(footprint.network()?, BTreeSet::new());

    // Memory that others need: what spares take of it is given back, and no new ones are made.
    let available = available_mb()?;
    ensure!(available > ROOM_MB + 1000, "{available} MiB of memory are free: too few for this test");
    let floor = available - ROOM_MB;
    with_pool(platform, "1", Some(floor)).await?;
    let (sandbox, spares) = after_that_ready(platform, 1, platform.sandbox()).await?;
    let mut hog: Vec<Vec<u8>> = Vec::new();
    wait::until_true("the spare is given back", GONE_LIMIT, async || {
        // No more than it takes, also where others free some meanwhile.
        while available_mb()? >= floor && hog.len() < HOG_PIECES {
            hog.push(vec![1; HOG_PIECE]);
        }
        Ok(footprint.spares()?.is_empty())
    })
    .await?;
    ensure!(spares.iter().all(|spare| !spare.lives()));
    let scarce = platform.sandbox().await?;
    assert_eq!(scarce.sh("echo cold").await?, "cold");
    ensure!(hog.iter().flatten().step_by(4096).all(|byte| *byte == 1));
    drop(hog);
    scarce.destroy().await?;
    sandbox.destroy().await?;
    platform.restart_with(&[]).await
}

fn available_mb() -> Result<u64> {
    let text = std::fs::read_to_string("/proc/meminfo")?;
    let kib = text.lines().find_map(|line| line.strip_prefix("MemAvailable:")?.trim().strip_suffix(" kB"));
    Ok(kib.context("no MemAvailable")?.parse::<u64>()? >> 10)
}
