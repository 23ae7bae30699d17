//! Everything at once, in an order that chance decides: pauses, resumes, snapshots, forks, ends, commands, and kills of the host agent
//! and of virtual machines. Whatever came of each, in the end every sandbox is at rest, what is whole has lost nothing, and nothing is left.
//!
//! `SANDBAR_SEED` repeats a run's order, which is printed; `SANDBAR_STORM_STEPS` makes it longer.

use std::collections::BTreeSet;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use futures::future::join_all;
use sandbar_tests::census::Process;
use sandbar_tests::{Client, Platform, Sandbox, wait};
use serde_json::json;
use tokio::task::JoinSet;

use crate::{Test, tests};

const STEPS: u64 = 24;
/// Sandboxes at a time: each is a machine.
const MOST: usize = 4;
/// Requests under way at a time.
const AT_ONCE: usize = 3;
/// No state of work in progress lasts longer than a minute; what a killed agent left is settled by the next.
const REST_LIMIT: Duration = Duration::from_secs(150);
/// What a request may be answered with when others, and kills, are at work on the same: done, gone, not now, cut off.
const ANSWERS: [u16; 10] = [200, 201, 202, 204, 404, 409, 429, 502, 503, 504];

pub(crate) fn tests() -> Vec<Test> {
    tests![
        a_storm_leaves_every_sandbox_at_rest_and_nothing_behind,
        a_machine_killed_in_a_change_ends_or_is_whole
    ]
}

/// Numbers that look like chance and are the same for the same seed (`SplitMix64`).
struct Chance(u64);

impl Chance {
    fn new() -> Result<Self> {
        let seed = match std::env::var("SANDBAR_SEED") {
            Ok(seed) => seed.parse().context("SANDBAR_SEED")?,
            Err(_) => getrandom::u64()?,
        };
        eprintln!("SANDBAR_SEED={seed}");
        Ok(Self(seed))
    }

    fn below(&mut self, bound: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        usize::try_from((mixed ^ (mixed >> 31)) % bound as u64).unwrap_or_default()
    }
}

/// Does a thing to a sandbox and looks at no more than whether the answer is one that may be.
async fn ask(client: Client, id: String, what: &'static str) -> Result<()> {
    let path = format!("/v1/sandboxes/{id}");
    let reply = match what {
        "destroy" => client.delete(&path).await?,
        "exec" => client.exec(&id, &json!({"cmd": "cat", "args": ["/dev/shm/mine"]})).await?,
        "snapshot" => {
            let kept = client
                .post("/v1/snapshots", &json!({"sandbox_id": id, "name": format!("storm-{id}")}))
                .await?;
            if kept.status == 201 {
                // It need not be there any more: its team's snapshots are deleted at the end.
                client.delete(&format!("/v1/snapshots/storm-{id}")).await?;
            }
            kept
        }
        "fork" => client.post(&format!("{path}/fork"), &json!({"count": 1})).await?,
        change => client.post(&format!("{path}/{change}"), &json!({})).await?,
    };
    ensure!(ANSWERS.contains(&reply.status), "{what} of {id}: {} {}", reply.status, reply.text());
    Ok(())
}

async fn ids(client: &Client) -> Result<Vec<String>> {
    let listed = client.list("").await?;
    Ok(listed.iter().filter_map(|sandbox| Some(sandbox["id"].as_str()?.to_owned())).collect())
}

async fn a_storm_leaves_every_sandbox_at_rest_and_nothing_behind(platform: &Platform) -> Result<()> {
    platform.start().await?;
    let client = platform.client()?;
    let footprint = platform.footprint();
    let mut chance = Chance::new()?;
    let steps = std::env::var("SANDBAR_STORM_STEPS").map_or(Ok(STEPS), |steps| steps.parse())?;
    let mut under_way = JoinSet::new();
    let mut created = 0;
    for _ in 0..steps {
        while under_way.len() >= AT_ONCE {
            under_way.join_next().await.context("nothing is under way")???;
        }
        let living = ids(&client).await?;
        if living.len() < MOST && chance.below(3) == 0 || living.is_empty() {
            let made = client.create(&json!({"timeout_sec": 0})).await?;
            ensure!(ANSWERS.contains(&made.status), "create: {} {}", made.status, made.text());
            if made.status == 201 {
                created += 1;
                let sandbox = made.json(201)?;
                let id = sandbox["id"].as_str().context("no id")?.to_owned();
                let script = format!("echo {id} > /dev/shm/mine; cp /dev/shm/mine ~/mine; sync");
                let body = json!({"cmd": "bash", "args": ["-c", script]});
                client.exec(&id, &body).await?;
            }
            continue;
        }
        let id = living[chance.below(living.len())].clone();
        let kinds =
            ["pause", "resume", "pause", "resume", "exec", "snapshot", "fork", "destroy", "machine", "agent"];
        match kinds[chance.below(kinds.len())] {
            "machine" => {
                if let Some(vmm) = footprint.vmm_of(&id)? {
                    vmm.kill()?;
                }
            }
            "agent" => sandbar_tests::census::signal(platform.agent_pid()?, rustix::process::Signal::KILL)?,
            "fork" if living.len() >= MOST => {}
            what => {
                under_way.spawn(ask(client.clone(), id, what));
            }
        }
    }
    while let Some(done) = under_way.join_next().await {
        done??;
    }
    ensure!(created > 0, "not one sandbox was made");

    wait::until_true("every sandbox is at rest", REST_LIMIT, async || {
        let states = join_all(ids(&client).await?.iter().map(|id| client.status(id))).await;
        let states = states.into_iter().collect::<Result<Vec<_>>>()?;
        Ok(states.iter().all(|state| ["running", "paused", "stopped", "error"].contains(&state.as_str())))
    })
    .await?;
    for id in ids(&client).await? {
        let state = client.status(&id).await?;
        let sandbox = Sandbox::of(&client, &id, json!({}));
        if state == "paused" {
            client.post(&format!("/v1/sandboxes/{id}/resume"), &json!({})).await?.expect(200)?;
        }
        if ["running", "paused"].contains(&state.as_str()) {
            // A child remembers what its source was. One that was cut off before it could write it down remembers nothing.
            let mine = sandbox.sh("cat /dev/shm/mine ~/mine 2>/dev/null | sort -u").await?;
            ensure!(mine.is_empty() || mine.lines().count() == 1, "memory and disk differ: {mine}");
        }
        sandbox.destroy().await?;
    }
    for snapshot in client.get("/v1/snapshots").await?.json(200)?.as_array().into_iter().flatten() {
        let name = snapshot["name"].as_str().unwrap_or_default();
        if name.starts_with("storm-") {
            client.delete(&format!("/v1/snapshots/{name}")).await?;
        }
    }
    nothing_is_left(platform).await
}

async fn nothing_is_left(platform: &Platform) -> Result<()> {
    let footprint = platform.footprint();
    wait::until_true("nothing is left", REST_LIMIT, async || {
        let recorded = std::fs::read_dir(footprint.host_dir().join("journal"))?.count();
        Ok(recorded == 0 && footprint.vmms()?.is_empty() && footprint.sandbox_folders()? == BTreeSet::new())
    })
    .await
    .with_context(|| format!("{:?} {:?}", footprint.vmms(), footprint.sandbox_folders()))
}

async fn a_machine_killed_in_a_change_ends_or_is_whole(platform: &Platform) -> Result<()> {
    platform.start().await?;
    let client = platform.client()?;
    let mut kills = 0;
    for (what, wait_ms) in [("pause", 0), ("pause", 60), ("pause", 250), ("resume", 0), ("resume", 120)] {
        let sandbox = Sandbox::create(&client, &json!({"timeout_sec": 0})).await?;
        sandbox
            .sh("head -c 60000000 /dev/urandom > /dev/shm/much; sha256sum < /dev/shm/much > ~/sum; sync")
            .await?;
        let change = async |what: &str| {
            let path = format!("/v1/sandboxes/{}/{what}", sandbox.id);
            client.post(&path, &json!({})).await
        };
        if what == "resume" {
            change("pause").await?.expect(200)?;
        }
        let kill = async {
            // The moments differ from machine to machine; what must hold does not.
            tokio::time::sleep(Duration::from_millis(wait_ms)).await;
            let vmm = platform.footprint().vmm_of(&sandbox.id)?;
            vmm.as_ref().map(Process::kill).transpose()?;
            Ok::<_, anyhow::Error>(vmm.is_some())
        };
        let (reply, killed) = tokio::join!(change(what), kill);
        reply?;
        kills += u32::from(killed?);
        let state = wait::until("it is at rest", REST_LIMIT, async || {
            let state = sandbox.status().await?;
            Ok(["running", "paused", "stopped", "error"].contains(&state.as_str()).then_some(state))
        })
        .await?;
        // What was published is whole.
        if state == "paused" {
            change("resume").await?.expect(200)?;
        }
        if state == "paused" || (state == "running" && platform.footprint().vmm_of(&sandbox.id)?.is_some()) {
            let same = "sha256sum < /dev/shm/much | cmp - ~/sum && echo same";
            // The end of a machine is told a moment after it.
            match sandbox.sh(same).await {
                Ok(answer) => assert_eq!(answer, "same"),
                Err(error) => {
                    ensure!(state == "running" && sandbox.status().await? != "running", "{error:#}");
                }
            }
        }
        sandbox.destroy().await?;
    }
    // A fast machine has paused before the last kill, a slow one does not yet resume at the first: two find theirs on any.
    ensure!(kills >= 2, "{kills} machines were killed");
    nothing_is_left(platform).await
}
