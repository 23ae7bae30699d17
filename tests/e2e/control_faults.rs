//! The control plane is killed in the middle of its work.

use std::collections::BTreeSet;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use sandbar_tests::{Client, Platform, wait};
use serde_json::{Value, json};

use crate::{Test, tests};

/// A row may be in a transitional state for a minute; the reconciler looks every half.
const SETTLE_LIMIT: Duration = Duration::from_secs(120);
/// The states that mark work in progress.
const TRANSITIONAL: &str = "status=pending,starting,stopping,pausing,resuming,snapshotting";

pub(crate) fn tests() -> Vec<Test> {
    tests![creates_cut_by_a_kill_leave_no_row_and_no_machine, deletes_cut_by_a_kill_are_carried_out]
}

async fn creates_cut_by_a_kill_leave_no_row_and_no_machine(platform: &Platform) -> Result<()> {
    platform.start().await?;
    let client = platform.client()?;
    let before = platform.sandbox().await?;
    let creating: Vec<_> = (0..5)
        .map(|_| {
            let client = client.clone();
            tokio::spawn(async move { client.create(&json!({})).await })
        })
        .collect();
    wait::until_true("creates are under way", Duration::from_secs(30), async || {
        Ok(!client.list("status=starting").await?.is_empty())
    })
    .await?;
    platform.kill_up().await?;
    for create in creating {
        // Cut off, or just done: either is fine.
        let _cut = create.await?;
    }
    platform.start().await?;
    settles(platform, &client).await?;
    assert_eq!(before.sh("echo still here").await?, "still here");
    remove_all(platform, &client).await
}

async fn deletes_cut_by_a_kill_are_carried_out(platform: &Platform) -> Result<()> {
    platform.start().await?;
    let client = platform.client()?;
    let nothing = json!({});
    let made = futures::future::join_all((0..3).map(|_| client.create(&nothing))).await;
    let mut ids = Vec::new();
    for reply in made {
        ids.push(reply?.json(201)?["id"].as_str().context("no id")?.to_owned());
    }
    let deleting: Vec<_> = ids
        .iter()
        .map(|id| {
            let (client, path) = (client.clone(), format!("/v1/sandboxes/{id}"));
            tokio::spawn(async move { client.delete(&path).await })
        })
        .collect();
    wait::until_true("a delete is under way, or done", Duration::from_secs(30), async || {
        Ok(client
            .list("status=stopping,stopped")
            .await?
            .iter()
            .any(|one| ids.iter().any(|id| one["id"] == **id)))
    })
    .await?;
    platform.kill_up().await?;
    let mut answered = BTreeSet::new();
    for (id, delete) in ids.iter().zip(deleting) {
        if delete.await?.is_ok_and(|reply| reply.status == 204) {
            answered.insert(id.clone());
        }
    }
    platform.start().await?;
    settles(platform, &client).await?;
    for id in &answered {
        assert_eq!(client.status(id).await?, "stopped", "the caller was told that {id} is gone");
    }
    remove_all(platform, &client).await
}

/// Database and host come to agree: no work in progress, a machine for every row and a row for every machine.
async fn settles(platform: &Platform, client: &Client) -> Result<()> {
    let footprint = platform.footprint();
    wait::until_true("rows and machines agree", SETTLE_LIMIT, async || {
        let unfinished = client.list(TRANSITIONAL).await?;
        let rows: BTreeSet<String> = ids(&client.list("status=running").await?);
        let machines: BTreeSet<String> =
            footprint.vmms()?.iter().map(|vmm| vmm.sandbox().unwrap_or_else(|| format!("{vmm:?}"))).collect();
        let folders = footprint.sandbox_folders()?;
        ensure!(
            unfinished.is_empty() && rows == machines && rows == folders,
            "unfinished {:?}, running {rows:?}, machines {machines:?}, folders {folders:?}",
            ids(&unfinished),
        );
        Ok(true)
    })
    .await
}

async fn remove_all(platform: &Platform, client: &Client) -> Result<()> {
    for id in ids(&client.list("").await?) {
        client.delete(&format!("/v1/sandboxes/{id}")).await?.expect(204)?;
    }
    assert_eq!(platform.footprint().vmms()?, []);
    assert_eq!(platform.footprint().sandbox_folders()?, BTreeSet::new());
    Ok(())
}

fn ids(sandboxes: &[Value]) -> BTreeSet<String> {
    sandboxes.iter().filter_map(|sandbox| sandbox["id"].as_str().map(str::to_owned)).collect()
}
