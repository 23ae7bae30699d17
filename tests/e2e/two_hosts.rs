//! Two hosts with real agents under one control plane, and then three under two ([`crate::two_controls`]): sandboxes spread, what becomes of one host harms nobody on the other, and what was
//! paused on one that is gone goes on on the other.

use std::collections::BTreeSet;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use futures::future::join_all;
use rustix::process::Signal;
use sandbar_tests::census::Footprint;
use sandbar_tests::{Client, Platform, Sandbox, wait};
use sandbar_types::ErrorCode;
use serde_json::json;

use crate::life::{Witness, pause};
use crate::object_storage::ObjectStorage;
use crate::second_host::{Fleet, SecondHost};
use crate::two_controls::three_hosts_and_two_control_planes;
use crate::{Test, tests};

/// A template is some hundred MB, and is hashed at both ends.
const FETCH_LIMIT: Duration = Duration::from_secs(240);
/// What a killed agent left is settled by the next; no state of work in progress lasts longer than a minute.
const REST_LIMIT: Duration = Duration::from_secs(150);
/// As much there and back, through a server that is slow.
const COPY_LIMIT: Duration = Duration::from_secs(400);
/// Calls to one host while the other hangs.
const CALLS: usize = 5;
/// Creates at a time, in the middle of which an agent is killed.
const CREATES: usize = 4;
/// The value of a secret of the team's.
const SECRET: &str = "hunter2-elsewhere";

pub(crate) fn tests() -> Vec<Test> {
    tests![sandboxes_spread_over_two_hosts_and_what_becomes_of_one_harms_nobody_on_the_other]
}

async fn sandboxes_spread_over_two_hosts_and_what_becomes_of_one_harms_nobody_on_the_other(
    platform: &Platform,
) -> Result<()> {
    let storage = ObjectStorage::start().await?;
    platform.restart_with(&storage.variables()).await?;
    let done = two_hosts(platform, &storage.variables()).await;
    platform.restart_with(&[]).await?;
    done
}

async fn two_hosts(platform: &Platform, variables: &[(&'static str, String)]) -> Result<()> {
    let fleet = Fleet::sign_in(platform).await?;
    let mut second = SecondHost::join(platform, &fleet).await?;
    let here = they_spread(platform, &second).await.context("spreading")?;
    let first = host_of(&here)?;

    // One whose memory tells whether it is the same life, on the second host.
    fleet.drain(&first).await?;
    let client = platform.client()?;
    client.post("/v1/secrets", &json!({"name": "two-hosts", "value": SECRET})).await?.json(201)?;
    let body = json!({"timeout_sec": 0, "env": {"TOLD": "once"}, "secrets": {"HIDDEN": "two-hosts"}});
    let there = Witness::start(platform, &body).await?;
    // It has its own copy: nobody can look the value up later.
    client.delete("/v1/secrets/two-hosts").await?.expect(204)?;
    fleet.end_drain(&first).await?;
    assert_eq!(host_of(&there.sandbox)?, second.id);

    a_host_that_hangs_slows_nobody_elsewhere(&second, &here, &there).await.context("hanging")?;
    a_kill_in_creates_loses_and_leaks_nothing(platform, &mut second).await.context("killed in creates")?;
    a_host_that_is_cut_off_comes_back(&mut second, &here, &there).await.context("cut off")?;
    a_pause_goes_on_elsewhere(&mut second, &first, &there).await.context("paused")?;
    there.sandbox.destroy().await?;
    here.destroy().await?;
    three_hosts_and_two_control_planes(platform, &fleet, &second, variables)
        .await
        .context("three hosts and two control planes")?;
    second.leave(&fleet).await
}

fn host_of(sandbox: &Sandbox) -> Result<String> {
    Ok(sandbox.made["host_id"].as_str().context("no host")?.to_owned())
}

/// The platform's template comes to the second host by itself, through the control plane: it has no image to make it of. From then on
/// both are given sandboxes. One that is on the first.
async fn they_spread(platform: &Platform, second: &SecondHost<'_>) -> Result<Sandbox> {
    wait::until_true("the second host has the platform's template", FETCH_LIMIT, async || {
        Ok(second.templates()? > 0)
    })
    .await?;
    // Those on the first host stay: they are its load.
    let (mut here, mut spread) = (Vec::new(), false);
    for _ in 0..6 {
        let sandbox = platform.sandbox().await?;
        assert_eq!(sandbox.sh("echo here").await?, "here");
        if host_of(&sandbox)? == second.id {
            ensure!(second.footprint.vmm_of(&sandbox.id)?.is_some(), "its machine is elsewhere");
            spread = true;
        } else {
            here.push(sandbox);
        }
        if spread && !here.is_empty() {
            break;
        }
    }
    ensure!(spread, "all went to the first host");
    here.pop().context("all went to the second host")
}

/// A stopped process keeps its connections: calls to it get no answer, which is the hardest case.
async fn a_host_that_hangs_slows_nobody_elsewhere(
    second: &SecondHost<'_>,
    here: &Sandbox,
    there: &Witness,
) -> Result<()> {
    second.send(Signal::STOP)?;
    let hanging = tokio::spawn({
        let (client, id) = (there.sandbox.client().clone(), there.sandbox.id.clone());
        async move { client.exec(&id, &json!({"cmd": "true"})).await }
    });
    let answered = async {
        for _ in 0..CALLS {
            assert_eq!(here.sh("echo here").await?, "here");
            assert_eq!(here.status().await?, "running");
        }
        Ok(())
    };
    let answered: Result<()> = answered.await;
    let was_hanging = !hanging.is_finished();
    second.send(Signal::CONT)?;
    answered?;
    ensure!(was_hanging, "the host did not hang, or its caller was told before the others were");
    hanging.await??;
    wait::until_true("it answers again", REST_LIMIT, async || {
        Ok(there.sandbox.sh("echo there").await? == "there")
    })
    .await
}

/// Each create succeeds or is refused; in the end each host has the machines of its rows, and no others.
async fn a_kill_in_creates_loses_and_leaks_nothing(
    platform: &Platform,
    second: &mut SecondHost<'_>,
) -> Result<()> {
    let client = platform.client()?;
    let before = second.recorded()?;
    let creates: Vec<_> = (0..CREATES)
        .map(|_| {
            let client = client.clone();
            tokio::spawn(async move { client.create(&json!({"timeout_sec": 0})).await })
        })
        .collect();
    wait::until_true("the second host makes one", REST_LIMIT, async || {
        let folders = second.footprint.sandbox_folders()?;
        Ok(folders.iter().any(|id| !before.contains(id)) || creates.iter().all(|create| create.is_finished()))
    })
    .await?;
    second.kill().await?;
    second.start().await?;
    let mut made = Vec::new();
    for created in join_all(creates).await {
        let reply = created??;
        if reply.status == 201 {
            let answer = reply.json(201)?;
            let id = answer["id"].as_str().context("no id")?.to_owned();
            made.push(Sandbox::of(&client, &id, answer));
        } else {
            ensure!([429, 502, 503, 504].contains(&reply.status), "{} {}", reply.status, reply.text());
        }
    }
    for sandbox in &made {
        wait::until_true("what was made runs", REST_LIMIT, async || {
            Ok(sandbox.sh("echo here").await? == "here")
        })
        .await?;
    }
    wait::until_true("each host has what its rows say", REST_LIMIT, async || {
        let first = platform.footprint();
        Ok(agrees(&client, &first, |host| host != second.id).await?
            && agrees(&client, &second.footprint, |host| host == second.id).await?)
    })
    .await?;
    for sandbox in &made {
        sandbox.destroy().await?;
    }
    Ok(())
}

/// Whether a host has folders and machines of the living sandboxes that are on it, and no others.
async fn agrees(client: &Client, footprint: &Footprint, is_its: impl Fn(&str) -> bool) -> Result<bool> {
    let mut rows = BTreeSet::new();
    for sandbox in client.list("").await? {
        if is_its(sandbox["host_id"].as_str().unwrap_or_default()) {
            ensure!(sandbox["status"] == "running", "not at rest: {sandbox}");
            rows.insert(sandbox["id"].as_str().context("no id")?.to_owned());
        }
    }
    Ok(footprint.sandbox_folders()? == rows && footprint.vmms()?.len() == rows.len())
}

/// What a host without an agent has is missing, not gone: its machine runs on, and is found again.
async fn a_host_that_is_cut_off_comes_back(
    second: &mut SecondHost<'_>,
    here: &Sandbox,
    there: &Witness,
) -> Result<()> {
    let vmm = second.footprint.vmm_of(&there.sandbox.id)?.context("no machine")?;
    let steps = there.steps().await?;
    second.kill().await?;
    // A change that its host does not hear of.
    let client = there.sandbox.client();
    let path = format!("/v1/sandboxes/{}/pause", there.sandbox.id);
    let refused = client.post(&path, &json!({})).await?;
    ensure!(refused.status >= 500 || refused.status == 409, "{} {}", refused.status, refused.text());
    wait::until_true("it is missing", REST_LIMIT, async || Ok(there.sandbox.status().await? == "missing"))
        .await?;
    there.sandbox.try_exec(&json!({"cmd": "true"})).await?.refusal(ErrorCode::HostUnavailable)?;
    assert_eq!(here.sh("echo here").await?, "here");
    second.start().await?;
    wait::until_true("it runs", REST_LIMIT, async || Ok(there.sandbox.status().await? == "running")).await?;
    ensure!(vmm.lives(), "its machine was ended");
    there.steps_past(steps).await?;
    there.is_the_same().await
}

/// Its host is gone: it goes on on the other, the same life, and what the host has of it when it is back is old.
async fn a_pause_goes_on_elsewhere(second: &mut SecondHost<'_>, first: &str, there: &Witness) -> Result<()> {
    let sandbox = &there.sandbox;
    let client = sandbox.client();
    let steps = there.steps().await?;
    assert_eq!(pause(sandbox).await?["status"], "paused");
    wait::until_true("object storage has it", COPY_LIMIT, async || {
        Ok(client.sandbox(&sandbox.id).await?["durable"] == true)
    })
    .await?;
    second.kill().await?;
    // The files may take longer than a request waits.
    let path = format!("/v1/sandboxes/{}/resume", sandbox.id);
    let resumed = wait::until("it goes on", COPY_LIMIT, async || {
        let reply = client.post(&path, &json!({})).await?;
        ensure!(reply.status == 200, "{} {}", reply.status, reply.text());
        Ok(Some(reply.json(200)?))
    })
    .await?;
    assert_eq!((&resumed["host_id"], &resumed["durable"]), (&json!(first), &json!(false)));
    there.is_the_same().await?;
    there.steps_past(steps).await?;
    there.testifies().await?;

    ensure!(second.recorded()?.contains(&sandbox.id), "its old host has nothing");
    second.start().await?;
    wait::until_true("its old host has nothing of it", REST_LIMIT, async || {
        Ok(!second.recorded()?.contains(&sandbox.id)
            && !second.footprint.sandbox_folders()?.contains(&sandbox.id))
    })
    .await?;
    assert_eq!(sandbox.status().await?, "running");
    there.testifies().await?;

    // What its guest was told came along, secrets too: in its memory, and the new host tells it again where that is not kept.
    assert_eq!(sandbox.sh("echo $TOLD $HIDDEN").await?, format!("once {SECRET}"));
    for (act, body) in [("pause", json!({"memory": false})), ("resume", json!({}))] {
        client.post(&format!("/v1/sandboxes/{}/{act}", sandbox.id), &body).await?.json(200)?;
    }
    let told = sandbox.sh("echo $TOLD $HIDDEN; wc -l < /home/user/log > /dev/null").await?;
    assert_eq!(told, format!("once {SECRET}"));
    Ok(())
}
