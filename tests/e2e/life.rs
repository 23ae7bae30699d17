//! A sandbox's life: pause and resume, snapshots, forks, time-outs, and all of these cut short.
//!
//! Fidelity is proved by a process in the guest that has a random nonce in its memory alone and appends `SHA-256(nonce n)` to a file
//! for n = 1, 2, 3...: only who has that memory can write the next line, and when it tells its nonce at last, every line can be
//! checked. A reboot, an older memory beside a newer disk, a repeated or a lost step would show.

use std::collections::BTreeSet;
use std::time::{Duration, Instant, SystemTime};

use anyhow::{Context as _, Result, ensure};
use futures::future::join_all;
use sandbar_tests::{Client, Platform, Sandbox, census, wait};
use sandbar_types::ErrorCode;
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

use crate::{Test, tests};

/// For whatever takes long on a machine that does other things.
const PATIENCE: Duration = Duration::from_secs(90);
/// How far a guest's clock may lie off after a resume, on a machine where a call may take seconds.
const CLOCK: f64 = 10.0;

pub(crate) fn tests() -> Vec<Test> {
    tests![
        many_pauses_lose_no_step_and_no_byte,
        a_fork_goes_on_in_children_that_share_nothing,
        a_snapshot_of_a_running_and_of_a_paused_sandbox_can_be_started,
        two_pauses_at_once_are_one_and_a_pause_can_be_destroyed,
        an_idle_sandbox_is_paused_and_keeps_its_figures,
        a_damaged_pause_is_refused_by_the_files_name,
        a_host_agent_killed_at_any_moment_of_a_pause_loses_nothing,
    ]
}

/// The process with the nonce.
pub(crate) struct Witness {
    pub(crate) sandbox: Sandbox,
    pid: String,
    boot_id: String,
}

const SCRIPT: &str = r"
import hashlib, os, signal, time
nonce, told = os.urandom(16), []
signal.signal(signal.SIGUSR1, lambda *_: told.append(open('/tmp/nonce', 'w').write(nonce.hex())))
log = open('/home/user/log', 'a', buffering=1)
n = 0
while True:
    n += 1
    log.write(hashlib.sha256(nonce + str(n).encode()).hexdigest() + '\n')
    time.sleep(.02)
";

impl Witness {
    pub(crate) async fn start(platform: &Platform, body: &Value) -> Result<Self> {
        platform.start().await?;
        let sandbox = Sandbox::create(&platform.client()?, body).await?;
        let start = json!({"cmd": "python3", "args": ["-c", SCRIPT], "detach": true});
        let mut socket = sandbox.stream(start).await?;
        let pid = socket.pid().await?.to_string();
        socket.close().await?;
        let boot_id = sandbox.sh("cat /proc/sys/kernel/random/boot_id").await?;
        let witness = Self { sandbox, pid, boot_id };
        witness.steps_past(0).await?;
        Ok(witness)
    }

    /// The same process in a copy of the sandbox.
    fn seen_in(&self, sandbox: Sandbox) -> Self {
        Self { sandbox, pid: self.pid.clone(), boot_id: self.boot_id.clone() }
    }

    pub(crate) async fn steps(&self) -> Result<u64> {
        Ok(self.sandbox.sh("wc -l < /home/user/log 2>/dev/null || echo 0").await?.parse()?)
    }

    /// Waits until the process has made more steps than `steps`.
    pub(crate) async fn steps_past(&self, steps: u64) -> Result<u64> {
        wait::until("the process goes on", PATIENCE, async || {
            Ok(Some(self.steps().await?).filter(|now| *now > steps))
        })
        .await
    }

    /// It is the same life, at the right time.
    pub(crate) async fn is_the_same(&self) -> Result<()> {
        let found = self.sandbox.sh("cat /proc/sys/kernel/random/boot_id; date +%s.%N").await?;
        let (boot_id, clock) = found.split_once('\n').context("no clock")?;
        assert_eq!(boot_id, self.boot_id, "it was booted anew");
        let host = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH)?.as_secs_f64();
        ensure!((clock.parse::<f64>()? - host).abs() < CLOCK, "its clock says {clock}, the host's {host}");
        Ok(())
    }

    /// Every line of the file is the next step of the one process.
    pub(crate) async fn testifies(&self) -> Result<u64> {
        let ask = format!(
            "rm -f /tmp/nonce; kill -USR1 {0} && while [ ! -s /tmp/nonce ]; do sleep .05; done && cat /tmp/nonce",
            self.pid
        );
        let nonce = hex::decode(self.sandbox.sh(&ask).await?)?;
        let log = self.sandbox.client().read_file(&self.sandbox.id, "/home/user/log").await?;
        let log = String::from_utf8(log.expect(200)?.bytes.clone())?;
        let mut steps = 0;
        // The last line may be half written.
        for line in log.split_inclusive('\n').filter(|line| line.ends_with('\n')) {
            steps += 1;
            let mut hash = Sha256::new();
            hash.update(&nonce);
            hash.update(steps.to_string());
            ensure!(line.trim_end() == hex::encode(hash.finalize()), "line {steps} is not that step");
        }
        ensure!(steps > 0, "no step");
        Ok(steps)
    }
}

pub(crate) async fn pause(sandbox: &Sandbox) -> Result<Value> {
    act(sandbox.client(), &sandbox.id, "pause", &json!({})).await
}

async fn resume(sandbox: &Sandbox) -> Result<Value> {
    act(sandbox.client(), &sandbox.id, "resume", &json!({})).await
}

async fn act(client: &Client, id: &str, what: &str, body: &Value) -> Result<Value> {
    client.post(&format!("/v1/sandboxes/{id}/{what}"), body).await?.json(200)
}

/// `SANDBAR_SOAK` says how often, where the few of a normal run are not enough.
fn cycles() -> Result<u64> {
    Ok(std::env::var("SANDBAR_SOAK").map_or(Ok(8), |cycles| cycles.parse())?)
}

async fn many_pauses_lose_no_step_and_no_byte(platform: &Platform) -> Result<()> {
    let witness = Witness::start(platform, &json!({"timeout_sec": 0})).await?;
    let sandbox = &witness.sandbox;
    sandbox.sh("head -c 3000000 /dev/urandom > ~/blob && sha256sum ~/blob > ~/sum").await?;
    let cycles = cycles()?;
    let mut took = Vec::new();
    for cycle in 0..cycles {
        let before = witness.steps().await?;
        let begun = Instant::now();
        assert_eq!(pause(sandbox).await?["status"], "paused");
        let paused = begun.elapsed();
        ensure!(platform.footprint().vmm_of(&sandbox.id)?.is_none(), "a paused sandbox has a machine");
        if cycle % 10 == 0 {
            sandbox.try_exec(&json!({"cmd": "true"})).await?.refusal(ErrorCode::InvalidState)?;
        }
        let begun = Instant::now();
        assert_eq!(resume(sandbox).await?["status"], "running");
        took.push(paused + begun.elapsed());
        witness.is_the_same().await?;
        witness.steps_past(before).await?;
        // A different piece of memory and disk each time, some of it zeroed again.
        let fill = format!(
            "head -c 2000000 /dev/urandom > /dev/shm/{0}; rm -f /dev/shm/{1}; sha256sum --quiet -c ~/sum",
            cycle % 7,
            (cycle + 3) % 7
        );
        sandbox.sh(&fill).await?;
    }
    witness.testifies().await?;
    grows_no_slower(&took)
}

/// The last cycles of a long run cost what the first ones did. A short run is too short to tell.
fn grows_no_slower(took: &[Duration]) -> Result<()> {
    const SAMPLE: usize = 50;
    if took.len() < 4 * SAMPLE {
        return Ok(());
    }
    let median = |times: &mut [Duration]| {
        times.sort_unstable();
        times[times.len() / 2]
    };
    let last = median(&mut took[took.len() - SAMPLE..].to_vec());
    let first = median(&mut took[..SAMPLE].to_vec());
    println!("a pause and a resume took {first:?} at first and {last:?} at last");
    ensure!(last <= first.mul_f64(1.2), "a pause and a resume took {first:?} at first and {last:?} at last");
    Ok(())
}

async fn a_fork_goes_on_in_children_that_share_nothing(platform: &Platform) -> Result<()> {
    let witness = Witness::start(platform, &json!({"timeout_sec": 0, "env": {"KEPT": "yes"}})).await?;
    let source = &witness.sandbox;
    let client = source.client().clone();
    let answer =
        client.post(&format!("/v1/sandboxes/{}/fork", source.id), &json!({"count": 3})).await?.json(201)?;
    let mut children = Vec::new();
    for child in answer.as_array().context("no list")? {
        let id = child["sandbox"]["id"].as_str().with_context(|| format!("no child: {child}"))?;
        children.push(witness.seen_in(Sandbox::of(&client, id, child["sandbox"].clone())));
    }
    assert_eq!(children.len(), 3);
    let all: Vec<&Witness> = children.iter().chain([&witness]).collect();
    let tell = "hostname; head -c 16 /dev/urandom | sha256sum; cat /proc/sys/kernel/random/uuid; echo $KEPT";
    let mut told = BTreeSet::new();
    for one in &all {
        one.is_the_same().await?;
        let lines = one.sandbox.sh(tell).await?;
        ensure!(lines.ends_with("yes"), "the environment is gone: {lines}");
        told.extend(lines.lines().map(str::to_owned));
        told.insert(one.sandbox.client().sandbox(&one.sandbox.id).await?["host_ip"].to_string());
    }
    assert_eq!(told.len(), 4 * all.len() + 1, "something is shared: {told:?}");
    // Each goes its own way from the same instant.
    for (number, one) in all.iter().enumerate() {
        one.sandbox.sh(&format!("echo {number} > ~/whose")).await?;
    }
    for (number, one) in all.iter().enumerate() {
        assert_eq!(one.sandbox.sh("cat ~/whose").await?, number.to_string());
        one.testifies().await?;
    }
    // A child is a sandbox like any other, without its source.
    source.destroy().await?;
    let child = &children[0];
    let before = child.steps().await?;
    pause(&child.sandbox).await?;
    resume(&child.sandbox).await?;
    child.steps_past(before).await?;
    child.testifies().await?;
    Ok(())
}

async fn a_snapshot_of_a_running_and_of_a_paused_sandbox_can_be_started(platform: &Platform) -> Result<()> {
    let witness = Witness::start(platform, &json!({"timeout_sec": 0})).await?;
    let source = &witness.sandbox;
    let client = source.client().clone();
    for (name, state) in [("life-running", "running"), ("life-paused", "paused")] {
        if state == "paused" {
            pause(source).await?;
        }
        let body = json!({"sandbox_id": source.id, "name": name});
        let snapshot = client.post("/v1/snapshots", &body).await?.json(201)?;
        assert_eq!(snapshot["type"], "snapshot");
        assert_eq!(source.status().await?, state, "the source is not as it was");
        client.post(&format!("/v1/snapshots/{name}/verify"), &json!({})).await?.json(200)?;
        let copy = Sandbox::create(&client, &json!({"template": name})).await?;
        let copy = witness.seen_in(copy);
        copy.is_the_same().await?;
        let steps = copy.steps().await?;
        copy.steps_past(steps).await?;
        copy.testifies().await?;
        // Its template may go before its next pause.
        client.delete(&format!("/v1/snapshots/{name}")).await?.expect(204)?;
        pause(&copy.sandbox).await?;
        resume(&copy.sandbox).await?;
        copy.testifies().await?;
    }
    resume(source).await?;
    witness.testifies().await?;
    Ok(())
}

async fn two_pauses_at_once_are_one_and_a_pause_can_be_destroyed(platform: &Platform) -> Result<()> {
    let witness = Witness::start(platform, &json!({"timeout_sec": 0})).await?;
    let sandbox = &witness.sandbox;
    let replies = join_all((0..3).map(|_| {
        let (client, id) = (sandbox.client().clone(), sandbox.id.clone());
        async move { client.post(&format!("/v1/sandboxes/{id}/pause"), &json!({})).await }
    }));
    let mut paused = 0;
    for reply in replies.await {
        let reply = reply?;
        if reply.status == 200 {
            paused += 1;
        } else {
            reply.refusal(ErrorCode::InvalidState)?;
        }
    }
    ensure!(paused >= 1, "none of the pauses succeeded");
    assert_eq!(sandbox.status().await?, "paused");
    resume(sandbox).await?;
    witness.testifies().await?;

    let pausing = tokio::spawn({
        let (client, id) = (sandbox.client().clone(), sandbox.id.clone());
        async move { client.post(&format!("/v1/sandboxes/{id}/pause"), &json!({})).await }
    });
    wait::until_true("the pause is under way", PATIENCE, async || {
        Ok(pausing.is_finished() || sandbox.status().await? != "running")
    })
    .await?;
    wait::until_true("it can be destroyed", PATIENCE, async || {
        sandbox.destroy().await?;
        Ok(sandbox.status().await? == "stopped")
    })
    .await?;
    let _whatever = pausing.await?;
    wait::until_true("nothing is left", PATIENCE, async || {
        let footprint = platform.footprint();
        Ok(footprint.vmm_of(&sandbox.id)?.is_none() && !footprint.sandbox_folders()?.contains(&sandbox.id))
    })
    .await
}

async fn an_idle_sandbox_is_paused_and_keeps_its_figures(platform: &Platform) -> Result<()> {
    let witness = Witness::start(platform, &json!({"timeout_sec": 600, "on_timeout": "pause"})).await?;
    let sandbox = &witness.sandbox;
    let changed = act(sandbox.client(), &sandbox.id, "timeout", &json!({"timeout_sec": 3})).await?;
    assert_eq!(changed["on_timeout"], "pause", "what was not named is not as it was");
    wait::until_true("it is paused", PATIENCE, async || Ok(sandbox.status().await? == "paused")).await?;
    let path = format!("/v1/sandboxes/{}/metrics?range=10m", sandbox.id);
    let metrics = sandbox.client().get(&path).await?.json(200)?;
    let points = metrics["points"].as_array().context("no points")?;
    ensure!(points.len() >= 3, "{metrics}");
    ensure!(points.iter().all(|point| point["mem_bytes"].as_u64() > Some(1 << 20)), "{metrics}");
    ensure!(points.iter().any(|point| point["cpu_pct"].as_f64() > Some(0.0)), "{metrics}");
    act(sandbox.client(), &sandbox.id, "resume", &json!({"timeout_sec": 0})).await?;
    witness.is_the_same().await?;
    witness.testifies().await?;
    Ok(())
}

async fn a_damaged_pause_is_refused_by_the_files_name(platform: &Platform) -> Result<()> {
    let witness = Witness::start(platform, &json!({"timeout_sec": 0})).await?;
    let sandbox = &witness.sandbox;
    pause(sandbox).await?;
    let folder = platform.footprint().store_dir().join("sandboxes").join(&sandbox.id).join("paused");
    for (file, damage) in [("state", Damage::Flip), ("memory", Damage::Cut), ("disk.ext4", Damage::Remove)] {
        let (path, aside) = (folder.join(file), folder.join("aside"));
        std::fs::rename(&path, &aside)?;
        match damage {
            Damage::Remove => {}
            Damage::Cut => std::fs::write(&path, b"cut")?,
            Damage::Flip => {
                let mut content = std::fs::read(&aside)?;
                let middle = content.len() / 2;
                content[middle] ^= 1;
                std::fs::write(&path, content)?;
            }
        }
        let reply =
            sandbox.client().post(&format!("/v1/sandboxes/{}/resume", sandbox.id), &json!({})).await?;
        ensure!(reply.status >= 400 && reply.text().contains(file), "{file}: {}", reply.text());
        assert_eq!(sandbox.status().await?, "paused", "{file}");
        std::fs::rename(&aside, &path)?;
    }
    resume(sandbox).await?;
    witness.testifies().await?;
    Ok(())
}

enum Damage {
    Flip,
    Cut,
    Remove,
}

async fn a_host_agent_killed_at_any_moment_of_a_pause_loses_nothing(platform: &Platform) -> Result<()> {
    let witness = Witness::start(platform, &json!({"timeout_sec": 0})).await?;
    let sandbox = &witness.sandbox;
    for round in 0..3_u64 {
        let what = if sandbox.status().await? == "paused" { "resume" } else { "pause" };
        let asked = tokio::spawn({
            let (client, path) = (sandbox.client().clone(), format!("/v1/sandboxes/{}/{what}", sandbox.id));
            async move { client.post(&path, &json!({})).await }
        });
        // Another step each time; which one depends on the machine, and any will do.
        tokio::time::sleep(Duration::from_millis(round * 150)).await;
        let before = platform.agent_pid()?;
        census::signal(before, rustix::process::Signal::KILL)?;
        wait::until_true("another host agent starts", PATIENCE, async || Ok(platform.agent_pid()? != before))
            .await?;
        let _whatever = asked.await?;
        // Whichever it has become, it can be made to run, and it is the same.
        wait::until_true("it runs", PATIENCE, async || {
            if sandbox.status().await? == "paused" {
                resume(sandbox).await?;
            }
            Ok(sandbox.sh("echo here").await? == "here")
        })
        .await?;
        witness.is_the_same().await?;
        let steps = witness.steps().await?;
        witness.steps_past(steps).await?;
        if round % 2 == 1 {
            pause(sandbox).await?;
        }
    }
    if sandbox.status().await? == "paused" {
        resume(sandbox).await?;
    }
    witness.testifies().await?;
    Ok(())
}
