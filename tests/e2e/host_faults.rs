//! The host agent is killed, or ends and starts: sandboxes run on, and answer again.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use sandbar_tests::census::Process;
use sandbar_tests::{Platform, Sandbox, wait};
use serde_json::{Value, json};

use crate::{Test, tests};

/// The supervisor waits a little before it starts the agent again, and the agent looks at everything before it serves.
const RETURN_LIMIT: Duration = Duration::from_secs(60);

pub(crate) fn tests() -> Vec<Test> {
    tests![
        a_killed_host_agent_is_started_again_and_its_sandboxes_never_stopped,
        a_vmm_that_died_while_the_host_agent_was_away_is_noticed,
        sandboxes_outlive_a_stop_and_start_of_the_platform,
        a_host_whose_credentials_are_refused_or_lost_comes_back_with_its_sandboxes,
    ]
}

/// A sandbox with something going on in its memory alone.
struct Busy {
    sandbox: Sandbox,
    vmm: Process,
    boot_id: String,
    counter: i64,
    count: u64,
}

impl Busy {
    async fn start(platform: &Platform) -> Result<Self> {
        let sandbox = platform.sandbox().await?;
        // Its number is in its own memory; the file in another memory only shows it.
        let script = "import itertools, time\nfor n in itertools.count():\n open('/dev/shm/n', 'w').write(str(n))\n time.sleep(.02)";
        let start = json!({"cmd": "python3", "args": ["-c", script], "detach": true});
        let mut socket = sandbox.stream(start).await?;
        let counter = socket.pid().await?;
        socket.close().await?;
        let vmm = platform.footprint().vmm_of(&sandbox.id)?.context("no virtual machine")?;
        let mut busy = Self { boot_id: boot_id(&sandbox).await?, sandbox, vmm, counter, count: 0 };
        busy.count = wait::until("it counts", Duration::from_secs(30), async || {
            Ok(Some(busy.look().await?).filter(|count| *count > 0))
        })
        .await?;
        Ok(busy)
    }

    /// How far it has counted.
    async fn look(&self) -> Result<u64> {
        Ok(self.sandbox.sh("cat /dev/shm/n 2>/dev/null || echo 0").await?.parse().unwrap_or(0))
    }

    /// Nothing of it was interrupted.
    async fn went_on(&self) -> Result<()> {
        wait::until_true("it answers", RETURN_LIMIT, async || {
            Ok(self.sandbox.sh("echo here").await? == "here")
        })
        .await?;
        ensure!(self.vmm.lives(), "another virtual machine");
        assert_eq!(boot_id(&self.sandbox).await?, self.boot_id);
        assert_eq!(self.sandbox.sh(&format!("ps -o comm= -p {}", self.counter)).await?, "python3");
        wait::until_true(
            "it counts on",
            Duration::from_secs(30),
            async || Ok(self.look().await? > self.count),
        )
        .await
    }
}

async fn boot_id(sandbox: &Sandbox) -> Result<String> {
    sandbox.sh("cat /proc/sys/kernel/random/boot_id").await
}

/// Kills the host agent, and waits until another one has its place.
async fn kill_agent(platform: &Platform) -> Result<()> {
    let before = platform.agent_pid()?;
    sandbar_tests::census::signal(before, rustix::process::Signal::KILL)?;
    wait::until_true("another host agent starts", RETURN_LIMIT, async || Ok(platform.agent_pid()? != before))
        .await
}

async fn a_killed_host_agent_is_started_again_and_its_sandboxes_never_stopped(
    platform: &Platform,
) -> Result<()> {
    platform.start().await?;
    let busy = Busy::start(platform).await?;
    for _ in 0..2 {
        kill_agent(platform).await?;
        busy.went_on().await?;
        assert_eq!(busy.sandbox.status().await?, "running");
    }
    // The old one can be ended, and new ones made.
    assert_eq!(platform.sandbox().await?.sh("echo new").await?, "new");
    busy.sandbox.destroy().await?;
    ensure!(!busy.vmm.lives(), "an adopted machine was not ended");
    Ok(())
}

async fn a_vmm_that_died_while_the_host_agent_was_away_is_noticed(platform: &Platform) -> Result<()> {
    platform.start().await?;
    let sandbox = platform.sandbox().await?;
    let vmm = platform.footprint().vmm_of(&sandbox.id)?.context("no virtual machine")?;
    let before = platform.agent_pid()?;
    sandbar_tests::census::signal(before, rustix::process::Signal::KILL)?;
    vmm.kill()?;
    wait::until_true("the API tells the end", RETURN_LIMIT, async || {
        Ok(["stopped", "error"].contains(&&*sandbox.status().await?))
    })
    .await?;
    wait::until_true("everything is reclaimed", RETURN_LIMIT, async || {
        Ok(!platform.footprint().sandbox_folders()?.contains(&sandbox.id))
    })
    .await
}

async fn sandboxes_outlive_a_stop_and_start_of_the_platform(platform: &Platform) -> Result<()> {
    platform.start().await?;
    let busy = Busy::start(platform).await?;
    let status = platform.stop().await?;
    ensure!(status.success(), "{status}");
    ensure!(busy.vmm.lives(), "a stop of the platform ended a sandbox");
    let left = platform.footprint().processes()?;
    ensure!(left.iter().all(Process::is_vmm), "{left:?}");
    platform.start().await?;
    busy.went_on().await
}

/// The file of the host agent's credentials, read.
fn credentials(platform: &Platform) -> Result<Value> {
    Ok(serde_json::from_slice(&std::fs::read(platform.data_dir().join("host/credentials.json"))?)?)
}

async fn a_host_whose_credentials_are_refused_or_lost_comes_back_with_its_sandboxes(
    platform: &Platform,
) -> Result<()> {
    platform.start().await?;
    let busy = Busy::start(platform).await?;
    let file = platform.data_dir().join("host/credentials.json");
    let was = credentials(platform)?;

    // The control plane refuses the token of its heartbeats: it renews all of them at once.
    let mut refused = was.clone();
    refused["token"] = json!("of another time");
    std::fs::write(&file, refused.to_string())?;
    kill_agent(platform).await?;
    wait::until_true("the credentials are renewed", RETURN_LIMIT, async || {
        let now = credentials(platform)?;
        Ok(["token", "refresh_token", "cert", "key"].iter().all(|part| now[part] != refused[part]))
    })
    .await?;
    busy.went_on().await?;

    // They are lost: it registers anew, as the host that it was.
    std::fs::remove_file(&file)?;
    kill_agent(platform).await?;
    wait::until_true("it registers anew", RETURN_LIMIT, async || Ok(file.exists())).await?;
    busy.went_on().await?;
    assert_eq!(credentials(platform)?["host_id"], was["host_id"]);
    assert_eq!(busy.sandbox.status().await?, "running");

    let listed = platform.cli(&["host", "list", "--json"]).run().await?.expect(0)?.text();
    let listed: Value = serde_json::from_str(&listed)?;
    assert_eq!(listed[0]["id"], was["host_id"]);
    wait::until_true("it is online", RETURN_LIMIT, async || {
        let host = platform.cli(&["host", "get", was["host_id"].as_str().unwrap_or_default()]);
        let host: Value = serde_json::from_str(&host.run().await?.expect(0)?.text())?;
        Ok(host["status"] == "online")
    })
    .await
}
