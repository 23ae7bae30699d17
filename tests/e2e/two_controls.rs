//! Three hosts with real agents under two control planes on one database: each control plane is killed while the other works, and the
//! database while both do. Nothing is lost, nothing is left, and callers are told nothing but the truth.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use futures::future::{join_all, try_join_all};
use rustix::process::Signal;
use sandbar_tests::census::{Footprint, signal};
use sandbar_tests::{Client, Platform, Sandbox, wait};
use serde_json::{Value, json};

use crate::life::Witness;
use crate::second_control::{Balancer, SecondControl};
use crate::second_host::{Fleet, SecondHost};

/// A template is some hundred MB, and is hashed at both ends.
const FETCH_LIMIT: Duration = Duration::from_secs(240);
/// What a killed process left is settled by the next; no state of work in progress lasts longer than a minute.
const REST_LIMIT: Duration = Duration::from_secs(150);
/// The latest moment of a storm in which somebody is killed, in milliseconds.
const MOMENTS: u64 = 1500;
/// The states that mark work in progress, and that of what is not seen.
const UNSETTLED: &str = "status=pending,starting,stopping,pausing,resuming,snapshotting,missing";

/// Who is killed.
#[derive(Debug, Clone, Copy)]
enum Victim {
    First,
    Second,
    Database,
}

struct World<'a> {
    platform: &'a Platform,
    second: SecondControl<'a>,
    /// Through the load balancer.
    client: Client,
    /// Sandboxes that live through all of it.
    lives: Vec<Sandbox>,
}

/// Extends a platform with a second host by a third one, and by a second control plane.
pub(crate) async fn three_hosts_and_two_control_planes(
    platform: &Platform,
    fleet: &Fleet<'_>,
    host: &SecondHost<'_>,
    variables: &[(&'static str, String)],
) -> Result<()> {
    let second = SecondControl::join(platform, variables).await?;
    let balancer = Balancer::before([platform.port(), second.port()]).await?;
    let client = Client::new(balancer.url(), platform.client()?.key().map(str::to_owned))?;
    let third = SecondHost::join_third(platform, fleet, balancer.url()).await?;
    wait::until_true("the third host has the platform's template", FETCH_LIMIT, async || {
        Ok(third.templates()? > 0)
    })
    .await?;
    let mut world = World { platform, second, client, lives: Vec::new() };
    world.spreads().await.context("spreading")?;
    let witness = Witness::start(platform, &json!({"timeout_sec": 0})).await?;
    world.lives.push(Sandbox::of(&world.client, &witness.sandbox.id, witness.sandbox.made.clone()));
    for victim in [Victim::First, Victim::Second, Victim::Database] {
        world.survives(victim).await.with_context(|| format!("{victim:?} killed"))?;
        witness.is_the_same().await?;
        witness.testifies().await?;
    }
    world.agrees([&platform.footprint(), &host.footprint, &third.footprint]).await?;
    for sandbox in &world.lives {
        sandbox.destroy().await?;
    }
    world.second.leave().await?;
    third.leave(fleet).await
}

impl World<'_> {
    /// Each host is given some; one of each lives on.
    async fn spreads(&mut self) -> Result<()> {
        let mut by_host: BTreeMap<String, Sandbox> = BTreeMap::new();
        let mut others = Vec::new();
        for _ in 0..9 {
            let made = Sandbox::create(&self.client, &json!({"timeout_sec": 0})).await?;
            let host = made.made["host_id"].as_str().context("no host")?.to_owned();
            if let Some(another) = by_host.insert(host, made) {
                others.push(another);
            }
            if by_host.len() == 3 {
                break;
            }
        }
        ensure!(by_host.len() == 3, "of three hosts {} were given sandboxes", by_host.len());
        try_join_all(others.iter().map(Sandbox::destroy)).await?;
        self.lives.extend(by_host.into_values());
        Ok(())
    }

    /// Creates, pauses and resumes; in the middle of it somebody is killed.
    async fn survives(&mut self, victim: Victim) -> Result<()> {
        // Through those who live.
        let client = match victim {
            Victim::First => self.second.client()?,
            Victim::Second => self.platform.client()?,
            Victim::Database => self.client.clone(),
        };
        let storm: Vec<_> =
            self.lives.iter().map(|sandbox| sandbox.id.clone()).map(Some).chain([None, None]).collect();
        let storm: Vec<_> =
            storm.into_iter().map(|sandbox| tokio::spawn(acts(client.clone(), sandbox))).collect();
        let mut random = [0; 8];
        getrandom::fill(&mut random)?;
        let moment = Duration::from_millis(u64::from_le_bytes(random) % MOMENTS);
        tokio::time::sleep(moment).await;
        match victim {
            Victim::First => self.platform.kill_up().await?,
            Victim::Second => self.second.kill().await?,
            Victim::Database => signal(self.postmaster()?, Signal::KILL)?,
        }
        let told: Vec<Value> =
            join_all(storm).await.into_iter().map(|told| told?).collect::<Result<Vec<_>>>()?.concat();
        match victim {
            Victim::First => self.platform.start().await?,
            Victim::Second => self.second.start().await?,
            Victim::Database => {}
        }
        self.rests(moment, told).await
    }

    fn postmaster(&self) -> Result<i32> {
        let file = self.platform.data_dir().join("postgres/data/postmaster.pid");
        let text = std::fs::read_to_string(file)?;
        Ok(text.lines().next().context("no process")?.trim().parse()?)
    }

    /// All that lives runs again and answers, and what was made in the storm is no more.
    async fn rests(&self, moment: Duration, made: Vec<Value>) -> Result<()> {
        let client = &self.client;
        wait::until_true(&format!("all is at rest after a kill at {moment:?}"), REST_LIMIT, async || {
            let unsettled = client.list(UNSETTLED).await?;
            ensure!(unsettled.is_empty(), "{unsettled:?}");
            Ok(true)
        })
        .await?;
        for sandbox in &made {
            let id = sandbox["id"].as_str().context("no id")?;
            assert_eq!(client.status(id).await?, "running", "what was made is there");
        }
        let lives: BTreeSet<&str> = self.lives.iter().map(|sandbox| &*sandbox.id).collect();
        for other in client.list("").await? {
            let id = other["id"].as_str().context("no id")?;
            if !lives.contains(id) {
                client.delete(&format!("/v1/sandboxes/{id}")).await?.expect(204)?;
            }
        }
        for sandbox in &self.lives {
            if sandbox.status().await? == "paused" {
                client.post(&format!("/v1/sandboxes/{}/resume", sandbox.id), &json!({})).await?.json(200)?;
            }
            assert_eq!(sandbox.sh("echo here").await?, "here");
        }
        Ok(())
    }

    /// The hosts have together what the rows say, each its own.
    async fn agrees(&self, hosts: [&Footprint; 3]) -> Result<()> {
        wait::until_true("the hosts have what their rows say", REST_LIMIT, async || {
            let mut rows: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
            for sandbox in self.client.list("").await? {
                let word =
                    |field: &str| sandbox[field].as_str().map(str::to_owned).context("a field is missing");
                rows.entry(word("host_id")?).or_default().insert(word("id")?);
            }
            let folders: Result<BTreeSet<_>> = hosts.iter().map(|host| host.sandbox_folders()).collect();
            let wanted: BTreeSet<_> = rows.into_values().collect();
            let machines: usize = hosts.iter().map(|host| Ok(host.vmms()?.len())).sum::<Result<usize>>()?;
            let folders = folders?;
            ensure!(folders == wanted && machines == self.lives.len(), "{folders:?}, {wanted:?}, {machines}");
            Ok(true)
        })
        .await
    }
}

/// A pause and a resume of a sandbox, or a create: what was made, as far as the caller was told so.
async fn acts(client: Client, sandbox: Option<String>) -> Result<Vec<Value>> {
    let Some(id) = sandbox else {
        let reply = client.create(&json!({"timeout_sec": 0})).await?;
        is_honest(&reply)?;
        return if reply.status == 201 { Ok(vec![reply.json(201)?]) } else { Ok(Vec::new()) };
    };
    for act in ["pause", "resume"] {
        is_honest(&client.post(&format!("/v1/sandboxes/{id}/{act}"), &json!({})).await?)?;
    }
    Ok(Vec::new())
}

/// Done, or not and why: never that something is broken.
fn is_honest(reply: &sandbar_tests::Reply) -> Result<()> {
    ensure!([200, 201, 409, 503, 504].contains(&reply.status), "{} {}", reply.status, reply.text());
    Ok(())
}
