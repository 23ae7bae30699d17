//! Sandboxes that boot: after a pause that kept the disk alone, because somebody wants it so, and from templates without memory.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use sandbar_tests::{Platform, Sandbox, census, wait};
use sandbar_types::ErrorCode;
use serde_json::{Value, json};

use crate::{Test, tests};

/// For whatever takes long on a machine that does other things: a boot under emulation above all.
const PATIENCE: Duration = Duration::from_secs(120);

pub(crate) fn tests() -> Vec<Test> {
    tests![
        a_pause_without_memory_boots_the_same_sandbox,
        a_secret_is_its_sandboxs_through_all_that_happens_to_it_and_is_in_no_log,
        a_disk_alone_is_started_in_any_size,
        a_host_agent_killed_while_the_disk_alone_is_kept_or_booted_loses_nothing,
    ]
}

async fn act(sandbox: &Sandbox, what: &str, body: &Value) -> Result<Value> {
    sandbox.client().post(&format!("/v1/sandboxes/{}/{what}", sandbox.id), body).await?.json(200)
}

async fn boot_id(sandbox: &Sandbox) -> Result<String> {
    sandbox.sh("cat /proc/sys/kernel/random/boot_id").await
}

async fn a_pause_without_memory_boots_the_same_sandbox(platform: &Platform) -> Result<()> {
    platform.start().await?;
    let body = json!({
        "timeout_sec": 0, "env": {"KEPT": "yes"}, "metadata": {"a": "b"}, "network": {"allow_internet": false},
    });
    let sandbox = Sandbox::create(&platform.client()?, &body).await?;
    let path = format!("/v1/sandboxes/{}", sandbox.id);
    // Flushed by the pause alone.
    sandbox.sh("echo here > ~/kept; echo gone > /dev/shm/memory; (sleep 98765 &) > /dev/null 2>&1").await?;
    let (first, who) = (boot_id(&sandbox).await?, sandbox.sh("hostname; whoami; pwd; nproc").await?);

    let paused = act(&sandbox, "pause", &json!({"memory": false})).await?;
    assert_eq!((&paused["status"], &paused["pause_mode"]), (&json!("paused"), &json!("filesystem")));
    ensure!(platform.footprint().vmm_of(&sandbox.id)?.is_none(), "a paused sandbox has a machine");
    let folder = platform.footprint().store_dir().join("sandboxes").join(&sandbox.id);
    ensure!(folder.join("paused/disk.ext4").exists() && !folder.join("paused/memory").exists());
    ensure!(!folder.join("memory").exists() && !folder.join("disk.ext4").exists(), "what it ran on is there");
    let refused = sandbox.client().post("/v1/snapshots", &json!({"sandbox_id": sandbox.id})).await?;
    refused.refusal(ErrorCode::InvalidState)?;

    let resumed = act(&sandbox, "resume", &json!({})).await?;
    assert_eq!((&resumed["status"], resumed.get("pause_mode")), (&json!("running"), None));
    let second = boot_id(&sandbox).await?;
    assert_ne!(second, first, "it was not booted");
    assert_eq!(sandbox.sh("cat ~/kept; echo $KEPT").await?, "here\nyes");
    assert_eq!(sandbox.sh("hostname; whoami; pwd; nproc").await?, who);
    sandbox.sh("! test -e /dev/shm/memory && ! pgrep -x sleep").await?;
    let now = sandbox.client().get(&path).await?.json(200)?;
    for field in ["access_token", "vcpus", "memory_mb", "disk_mb", "metadata", "started_at"] {
        assert_eq!(now[field], sandbox.made[field], "{field}");
    }
    let network = sandbox.client().get(&format!("{path}/network")).await?.json(200)?;
    assert_eq!(network["allow_internet"], false, "{network}");

    // It is a sandbox like any other: copied, kept, and paused with its memory.
    let forked = sandbox.client().post(&format!("{path}/fork"), &json!({})).await?.json(201)?;
    let child = forked[0]["sandbox"]["id"].as_str().with_context(|| format!("no child: {forked}"))?;
    let child = Sandbox::of(sandbox.client(), child, forked[0]["sandbox"].clone());
    assert_eq!(boot_id(&child).await?, second);
    assert_eq!(child.sh("cat ~/kept; echo $KEPT").await?, "here\nyes");
    child.destroy().await?;
    act(&sandbox, "pause", &json!({})).await?;
    assert_eq!(act(&sandbox, "resume", &json!({})).await?["status"], "running");
    assert_eq!(boot_id(&sandbox).await?, second, "its memory was kept");

    // Booted although its memory was kept; and paused by its time-out in the way that was said.
    act(&sandbox, "pause", &json!({})).await?;
    let soon = json!({"memory": false, "timeout_sec": 5, "on_timeout": "pause_filesystem"});
    assert_eq!(act(&sandbox, "resume", &soon).await?["on_timeout"], "pause_filesystem");
    ensure!(!folder.join("paused").exists(), "the memory that nobody wanted is there");
    wait::until_true("it is paused", PATIENCE, async || Ok(sandbox.status().await? == "paused")).await?;
    assert_eq!(sandbox.client().sandbox(&sandbox.id).await?["pause_mode"], "filesystem");
    act(&sandbox, "resume", &json!({"timeout_sec": 0})).await?;
    ensure!(![first, second].contains(&boot_id(&sandbox).await?), "it was not booted");
    assert_eq!(sandbox.sh("cat ~/kept; echo $KEPT").await?, "here\nyes");
    Ok(())
}

async fn a_secret_is_its_sandboxs_through_all_that_happens_to_it_and_is_in_no_log(
    platform: &Platform,
) -> Result<()> {
    // Small letters: what the guest prints of it is in the sandbox's own log, so it prints capital ones.
    const VALUE: &str = "keep-me-out-of-every-log";
    const TOLD: &str = "printf %s \"$TOKEN\" | tr a-z A-Z";
    platform.start().await?;
    let client = platform.client()?;
    client.post("/v1/secrets", &json!({"name": "e2e-token", "value": VALUE})).await?.json(201)?;
    let body = json!({"timeout_sec": 0, "env": {"KEPT": "yes"}, "secrets": {"TOKEN": "e2e-token"}});
    let sandbox = Sandbox::create(&client, &body).await?;
    // They have their copy.
    client.delete("/v1/secrets/e2e-token").await?.expect(204)?;
    let path = format!("/v1/sandboxes/{}", sandbox.id);
    let has_it = async |sandbox: &Sandbox| -> Result<()> {
        assert_eq!(
            sandbox.sh(&format!("{TOLD}; echo; echo $KEPT")).await?,
            format!("{}\nyes", VALUE.to_uppercase())
        );
        Ok(())
    };
    has_it(&sandbox).await?;
    let forked = client.post(&format!("{path}/fork"), &json!({})).await?.json(201)?;
    let child = forked[0]["sandbox"]["id"].as_str().with_context(|| format!("no child: {forked}"))?;
    let child = Sandbox::of(&client, child, forked[0]["sandbox"].clone());
    has_it(&child).await?;
    act(&child, "pause", &json!({"memory": false})).await?;
    act(&child, "resume", &json!({})).await?;
    has_it(&child).await?;
    child.destroy().await?;
    act(&sandbox, "pause", &json!({})).await?;
    act(&sandbox, "resume", &json!({})).await?;
    has_it(&sandbox).await?;
    act(&sandbox, "pause", &json!({})).await?;
    act(&sandbox, "resume", &json!({"memory": false})).await?;
    has_it(&sandbox).await?;

    // A template that is made of it does not give it to others.
    let body = json!({"sandbox_id": sandbox.id, "name": "boot-secret"});
    client.post("/v1/snapshots", &body).await?.json(201)?;
    let other = Sandbox::create(&client, &json!({"template": "boot-secret", "env": {"KEPT": "yes"}})).await?;
    assert_eq!(other.sh("env | grep -c ^TOKEN= || echo $KEPT").await?, "0\nyes");
    client.delete("/v1/snapshots/boot-secret").await?.expect(204)?;

    for path in [&path, &format!("{path}/logs"), "/v1/sandboxes", "/v1/secrets"] {
        let answer = client.get(path).await?.json(200)?.to_string();
        ensure!(!answer.contains(VALUE), "{path}: {answer}");
    }
    let logs = platform.logs_with(VALUE)?;
    ensure!(logs.is_empty(), "it is in {logs:?}");
    ensure!(!platform.logs_with("host agent")?.is_empty(), "there are no logs");
    Ok(())
}

async fn a_disk_alone_is_started_in_any_size(platform: &Platform) -> Result<()> {
    platform.start().await?;
    let client = platform.client()?;
    let source = Sandbox::create(&client, &json!({"timeout_sec": 0})).await?;
    source.sh("echo disk > ~/kept; echo memory > /dev/shm/memory").await?;
    let body = json!({"sandbox_id": source.id, "name": "boot-disk", "memory": false});
    let kept = client.post("/v1/snapshots", &body).await?.json(201)?;
    assert_eq!(kept["type"], "base");
    assert_eq!(source.sh("cat /dev/shm/memory").await?, "memory", "the source is not as it was");

    let body = json!({"template": "boot-disk", "vcpus": 2, "memory_mb": 700, "env": {"NEW": "1"}});
    let started = Sandbox::create(&client, &body).await?;
    assert_eq!((&started.made["vcpus"], &started.made["memory_mb"]), (&json!(2), &json!(700)));
    assert_eq!(started.made["disk_mb"], source.made["disk_mb"], "it has the room that its source has");
    assert_eq!(started.sh("nproc; cat ~/kept; echo $NEW; whoami").await?, "2\ndisk\n1\nuser");
    started.sh("! test -e /dev/shm/memory && sudo true").await?;
    let memory: u64 = started.sh("awk '/MemTotal/ {print $2}' /proc/meminfo").await?.parse()?;
    ensure!((500 << 10..700 << 10).contains(&memory), "{memory} KiB of memory");
    let sectors: u64 = started.sh("cat /sys/block/vda/size").await?.parse()?;
    let disk_mb = source.made["disk_mb"].as_u64().context("no disk_mb")?;
    assert_eq!(sectors / 2048, disk_mb);
    assert_ne!(boot_id(&started).await?, boot_id(&source).await?);
    client.delete("/v1/snapshots/boot-disk").await?.expect(204)?;

    // Its template is gone, and its memory is its own.
    let before = boot_id(&started).await?;
    act(&started, "pause", &json!({})).await?;
    act(&started, "resume", &json!({})).await?;
    assert_eq!(boot_id(&started).await?, before);
    Ok(())
}

async fn a_host_agent_killed_while_the_disk_alone_is_kept_or_booted_loses_nothing(
    platform: &Platform,
) -> Result<()> {
    platform.start().await?;
    let sandbox = Sandbox::create(&platform.client()?, &json!({"timeout_sec": 0, "env": {"A": "1"}})).await?;
    sandbox.sh("echo here > ~/kept; sync").await?;
    for (what, body, after) in [
        ("pause", json!({"memory": false}), Duration::ZERO),
        ("pause", json!({"memory": false}), Duration::from_millis(300)),
        ("resume", json!({"memory": false}), Duration::from_secs(1)),
    ] {
        if what == "resume" && sandbox.status().await? == "running" {
            act(&sandbox, "pause", &json!({})).await?;
        }
        let asked = tokio::spawn({
            let (client, path) = (sandbox.client().clone(), format!("/v1/sandboxes/{}/{what}", sandbox.id));
            async move { client.post(&path, &body).await }
        });
        // In the middle of some step; which one depends on the machine, and any will do.
        tokio::time::sleep(after).await;
        let before = platform.agent_pid()?;
        census::signal(before, rustix::process::Signal::KILL)?;
        wait::until_true("another host agent starts", PATIENCE, async || Ok(platform.agent_pid()? != before))
            .await?;
        let _whatever = asked.await?;
        // Whichever it has become, it can be made to run, and has what its disk had.
        wait::until_true("it runs", PATIENCE, async || {
            if sandbox.status().await? == "paused" {
                act(&sandbox, "resume", &json!({})).await?;
            }
            Ok(sandbox.sh("cat ~/kept; echo $A").await? == "here\n1")
        })
        .await?;
    }
    Ok(())
}
