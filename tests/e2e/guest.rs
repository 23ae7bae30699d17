//! What a sandbox's own processes do to their guest: it answers, and it recovers.

use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use sandbar_tests::{Platform, Sandbox, wait};
use sandbar_types::guest::AGENT_PORT;
use serde_json::{Value, json};
use tokio::time::{Instant, timeout};

use crate::{Test, tests};

/// A guest's processor is emulated where these tests run, and shared with the test's own bombs.
const ANSWER_LIMIT: Duration = Duration::from_secs(60);
const RECOVERY_LIMIT: Duration = Duration::from_secs(240);
/// Until a process has all the memory that there is.
const HOG_LIMIT: Duration = Duration::from_secs(600);

pub(crate) fn tests() -> Vec<Test> {
    tests![
        processes_are_confined_and_the_agent_is_not,
        a_fork_bomb_leaves_the_agent_answering_and_can_be_put_out,
        a_memory_hog_dies_alone,
        orphans_are_reaped,
        the_agent_is_small,
        control_groups_of_version_two_bound_what_is_in_them,
    ]
}

/// Whether the guest's agent answers, asked as the host asks.
async fn health(sandbox: &Sandbox) -> Result<()> {
    let address: Ipv4Addr = sandbox.host_ip()?;
    let client = sandbar_tests::Client::new(format!("http://{address}:{AGENT_PORT}"), None)?;
    let reply = timeout(ANSWER_LIMIT, client.get("/health")).await.context("the agent does not answer")??;
    reply.expect(204)?;
    Ok(())
}

async fn processes_are_confined_and_the_agent_is_not(platform: &Platform) -> Result<()> {
    platform.start().await?;
    let sandbox = platform.sandbox().await?;
    for user in ["user", "root"] {
        assert_eq!(sandbox.sh_as(user, "cat /proc/self/cgroup").await?, "0::/sandbox/main");
    }
    let agent = "cat /proc/$(pgrep -o -x guest-agent || pgrep -o -x sandbar-guest-a)/cgroup";
    assert_eq!(sandbox.sh_as("root", agent).await?, "0::/");
    let numbers = "awk '/MemTotal/ {print $2 * 1024}' /proc/meminfo; cat /sys/fs/cgroup/sandbox/memory.max \
                   /proc/sys/kernel/threads-max /sys/fs/cgroup/sandbox/main/pids.max /sys/fs/cgroup/sandbox/spare/pids.max";
    let numbers: Vec<u64> = sandbox.sh(numbers).await?.lines().map(str::parse).collect::<Result<_, _>>()?;
    let [total, memory_max, threads, pids_max, spare] = numbers[..] else { bail!("{numbers:?}") };
    ensure!(memory_max < total && memory_max > total / 2, "{memory_max} of {total}");
    ensure!(pids_max + spare + 256 <= threads, "{pids_max} and {spare} of {threads}");
    // What runs there is what runs anywhere: same user, same terminal, same limits.
    assert_eq!(sandbox.sh("id -un; ulimit -n").await?, "user\n65536");
    Ok(())
}

async fn a_fork_bomb_leaves_the_agent_answering_and_can_be_put_out(platform: &Platform) -> Result<()> {
    platform.start().await?;
    let sandbox = platform.sandbox().await?;
    let mut lit =
        sandbox.stream(json!({"cmd": "bash", "args": ["-c", ":(){ :|:& };:"], "detach": true})).await?;
    lit.pid().await?;
    // Commands start while it burns: they say how it goes, and then put it out.
    wait::until_true("the bomb burns", RECOVERY_LIMIT, async || {
        health(&sandbox).await?;
        let burning = "cat /proc/self/cgroup; cat /sys/fs/cgroup/sandbox/main/pids.current";
        let told = sandbox.sh_as("root", burning).await?;
        let (group, count) = told.split_once('\n').context("no count")?;
        Ok(group == "0::/sandbox/spare" && count.parse::<u32>()? > 100)
    })
    .await?;
    wait::until_true("the bomb is put out", RECOVERY_LIMIT, async || {
        health(&sandbox).await?;
        // One that starts where it burns goes with it, and the next one looks again.
        let quench = "cd /sys/fs/cgroup/sandbox/main; left=$(cat pids.current); echo $left; \
                      [ $left -lt 50 ] || echo 1 >cgroup.kill";
        Ok(sandbox.sh_as("root", quench).await?.parse::<u32>()? < 50)
    })
    .await?;
    assert_eq!(sandbox.sh("echo again; cat /proc/self/cgroup").await?, "again\n0::/sandbox/main");
    health(&sandbox).await
}

async fn a_memory_hog_dies_alone(platform: &Platform) -> Result<()> {
    platform.start().await?;
    let sandbox = platform.sandbox().await?;
    let agent = "pgrep -o -x guest-agent || pgrep -o -x sandbar-guest-a";
    let before = sandbox.sh_as("root", agent).await?;
    let mut beside = sandbox.stream(json!({"cmd": "sleep", "args": ["86399"], "detach": true})).await?;
    let running = beside.pid().await?;
    for user in ["user", "root"] {
        let hog = json!({
            "cmd": "python3", "args": ["-c", "hoard = []\nwhile True: hoard.append(bytearray(8 << 20))"],
            "user": user, "timeout_sec": HOG_LIMIT.as_secs()
        });
        let client = sandbox.client().clone();
        let hogging = tokio::spawn({
            let id = sandbox.id.clone();
            async move { client.exec(&id, &hog).await }
        });
        let started = Instant::now();
        while !hogging.is_finished() {
            health(&sandbox).await?;
            ensure!(started.elapsed() < HOG_LIMIT, "the hog lives on");
        }
        let ended = hogging.await??.json(200)?;
        // Killed, or told that there is no more.
        ensure!(ended["exit_code"] != json!(0), "{ended}");
    }
    assert_eq!(sandbox.sh_as("root", agent).await?, before, "the agent died with it");
    assert_eq!(sandbox.sh(&format!("ps -o comm= -p {running}")).await?, "sleep", "another died with it");
    Ok(())
}

async fn orphans_are_reaped(platform: &Platform) -> Result<()> {
    platform.start().await?;
    let sandbox = platform.sandbox().await?;
    // Grandchildren that outlive their parents, and end.
    sandbox.sh("for n in $(seq 50); do (setsid sh -c 'exit 0' &) ; done").await?;
    wait::until_true("no zombie is left", RECOVERY_LIMIT, async || {
        Ok(sandbox.sh("ps -eo stat= | grep -c '^Z' || true").await? == "0")
    })
    .await
}

async fn the_agent_is_small(platform: &Platform) -> Result<()> {
    const MIB: u64 = 16;
    platform.start().await?;
    let sandbox = platform.sandbox().await?;
    let size =
        "awk '/VmRSS/ {print $2}' /proc/$(pgrep -o -x guest-agent || pgrep -o -x sandbar-guest-a)/status";
    for _ in 0..20 {
        sandbox.sh("head -c 1000000 /dev/zero").await?;
    }
    let kib: u64 = sandbox.sh_as("root", size).await?.parse()?;
    ensure!(kib < MIB << 10, "the agent has {kib} KiB");
    Ok(())
}

/// A host's own unit tests: the machines that run these tests may have version 1 alone, and every guest has version 2.
async fn control_groups_of_version_two_bound_what_is_in_them(platform: &Platform) -> Result<()> {
    platform.start().await?;
    let folder = tempfile::tempdir()?;
    let program = folder.path().join("tests");
    // Nine tenths of it are for debuggers.
    let stripped = Command::new("strip").arg("-o").arg(&program).arg(unit_tests("sandbar_vmm")?).status()?;
    ensure!(stripped.success(), "strip: {stripped}");
    let sandbox = platform.sandbox().await?;
    let content = std::fs::read(&program)?;
    sandbox.client().write_file(&sandbox.id, "/tmp/tests", content).await?.expect(204)?;
    let told = sandbox.sh_as("root", "chmod +x /tmp/tests && /tmp/tests confine::cgroup::").await?;
    for test in [
        "a_group_holds_what_it_is_told_until_nothing_is_in_it",
        "who_takes_more_than_the_group_may_have_does_not_get_it",
    ] {
        ensure!(told.contains(&format!("{test} ... ok")), "{told}");
    }
    Ok(())
}

/// The program of a library's unit tests, which is built with these tests.
fn unit_tests(library: &str) -> Result<PathBuf> {
    let built = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()))
        .args(["test", "--workspace", "--locked", "--lib", "--no-run", "--message-format=json"])
        .current_dir(Path::new(env!("CARGO_MANIFEST_DIR")))
        .output()?;
    ensure!(built.status.success(), "{}", String::from_utf8_lossy(&built.stderr));
    let messages = serde_json::Deserializer::from_slice(&built.stdout).into_iter::<Value>();
    for message in messages {
        let message = message?;
        if message["target"]["name"] == library && message["profile"]["test"] == true {
            return Ok(message["executable"].as_str().context("no program")?.into());
        }
    }
    bail!("cargo names no unit tests of {library}")
}
