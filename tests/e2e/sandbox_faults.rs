//! Faults of one sandbox: its agent dies, its virtual machine dies, its time is over, it is deleted while it is made.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use sandbar_tests::{Platform, Sandbox, wait};
use sandbar_types::ErrorCode;
use sandbar_types::guest::{AGENT_PORT, GATEWAY_IP, READY_PORT};
use serde_json::{Value, json};

use crate::{Test, tests};

/// What the host's agent says of a guest that it told again who it is.
const TOLD_AGAIN: &str = "its guest was told again who it is";
/// And of every push of one.
const STARTED_AGAIN: &str = "the guest's agent was started again";
/// How long the platform may take to notice that a virtual machine is gone, and to say so.
const NOTICE_LIMIT: Duration = Duration::from_secs(10);

pub(crate) fn tests() -> Vec<Test> {
    tests![
        a_killed_guest_agent_is_back_and_still_guards_the_door,
        a_killed_vmm_is_noticed_and_everything_reclaimed,
        a_guest_that_powers_off_is_noticed,
        an_idle_sandbox_ends_and_a_busy_one_does_not,
        a_guest_that_pushes_without_end_ends_in_time,
        a_sandbox_deleted_while_it_is_made_leaves_nothing,
        many_deletes_have_one_end,
        who_waits_for_a_command_learns_of_the_sandboxs_end,
    ]
}

async fn a_killed_guest_agent_is_back_and_still_guards_the_door(platform: &Platform) -> Result<()> {
    platform.start().await?;
    let sandbox = platform.sandbox().await?;
    let pid = "pgrep -o -x guest-agent || pgrep -o -x sandbar-guest-a";
    let before = sandbox.sh_as("root", pid).await?;
    let mut beside = sandbox.stream(json!({"cmd": "sleep", "args": ["86399"], "detach": true})).await?;
    let running = beside.pid().await?;
    let killed = sandbox.try_exec(&json!({"cmd": "kill", "args": ["-KILL", before], "user": "root"})).await?;
    killed.refusal(ErrorCode::AgentError)?;
    let after = wait::until("exec works again", Duration::from_secs(20), async || {
        Ok(Some(sandbox.sh_as("root", pid).await?))
    })
    .await?;
    assert_ne!(before, after);
    assert_eq!(sandbox.sh(&format!("ps -o comm= -p {running}")).await?, "sleep", "what ran, runs on");
    let agent = format!("http://{}:{AGENT_PORT}", sandbox.host_ip()?);
    let stranger = sandbar_tests::Client::new(agent, None)?;
    assert_eq!(stranger.post("/process.Process/List", &json!({})).await?.status, 401);
    assert_eq!(stranger.post("/init", &json!({"accessToken": "mine now"})).await?.status, 401);

    // Root in the guest may make it forget who it is: its host tells it again.
    let heard = platform.agent_logged(TOLD_AGAIN)?;
    let script = format!("rm -f /run/sandbar/state.json && kill -KILL {after}");
    let killed = sandbox.try_exec(&json!({"cmd": "bash", "args": ["-c", script], "user": "root"})).await?;
    killed.refusal(ErrorCode::AgentError)?;
    let third = wait::until("exec works once more", Duration::from_secs(30), async || {
        Ok(Some(sandbox.sh_as("root", pid).await?))
    })
    .await?;
    assert_ne!(after, third);
    ensure!(platform.agent_logged(TOLD_AGAIN)? > heard, "its host did not hear of it");
    assert_eq!(stranger.post("/process.Process/List", &json!({})).await?.status, 401);
    Ok(())
}

async fn a_killed_vmm_is_noticed_and_everything_reclaimed(platform: &Platform) -> Result<()> {
    platform.start().await?;
    let sandbox = platform.sandbox().await?;
    let vmm = platform.footprint().vmm_of(&sandbox.id)?.context("no virtual machine")?;
    ensure!(platform.footprint().sandbox_folders()?.contains(&sandbox.id), "no folder");
    vmm.kill()?;
    is_noticed(platform, &sandbox).await?;
    ensure!(vmm.is_reaped(), "the host agent did not reap it");
    // What it held can be had again.
    assert_eq!(platform.sandbox().await?.sh("echo next").await?, "next");
    Ok(())
}

async fn a_guest_that_powers_off_is_noticed(platform: &Platform) -> Result<()> {
    platform.start().await?;
    let sandbox = platform.sandbox().await?;
    let reset = json!({"cmd": "bash", "args": ["-c", "echo b > /proc/sysrq-trigger"], "user": "root", "timeout_sec": 600});
    let ended = tokio::time::timeout(NOTICE_LIMIT, sandbox.try_exec(&reset)).await;
    let reply = ended.context("the command's caller waits for a guest that is gone")??;
    ensure!([409, 502].contains(&reply.status), "{}: {}", reply.status, reply.text());
    is_noticed(platform, &sandbox).await
}

async fn who_waits_for_a_command_learns_of_the_sandboxs_end(platform: &Platform) -> Result<()> {
    platform.start().await?;
    let sandbox = platform.sandbox().await?;
    let client = sandbox.client().clone();
    let mut streamed = sandbox.stream(json!({"cmd": "sleep", "args": ["86399"]})).await?;
    streamed.pid().await?;
    let waiting = tokio::spawn({
        let (client, id) = (client.clone(), sandbox.id.clone());
        async move { client.exec(&id, &json!({"cmd": "sleep", "args": ["86398"], "timeout_sec": 600})).await }
    });
    wait::until_true("both commands run", Duration::from_secs(20), async || {
        Ok(sandbox.sh("pgrep -cx sleep || true").await? == "2")
    })
    .await?;
    sandbox.destroy().await?;
    let reply = tokio::time::timeout(NOTICE_LIMIT, waiting).await.context("exec still waits")???;
    ensure!([409, 502].contains(&reply.status), "{}: {}", reply.status, reply.text());
    let ending =
        tokio::time::timeout(NOTICE_LIMIT, streamed.finish()).await.context("the stream still waits")??;
    ensure!(ending.error.is_some(), "{ending:?}");
    Ok(())
}

/// The end of a virtual machine that nobody asked for: the API tells it, and nothing is left.
async fn is_noticed(platform: &Platform, sandbox: &Sandbox) -> Result<()> {
    let client = sandbox.client();
    let status = wait::until("the API tells the end", NOTICE_LIMIT, async || {
        let status = sandbox.status().await?;
        Ok((status != "running").then_some(status))
    })
    .await?;
    ensure!(["stopped", "error"].contains(&&*status), "it became {status}");
    let told = client.sandbox(&sandbox.id).await?;
    ensure!(told["status_reason"].as_str().is_some_and(|reason| !reason.is_empty()), "no reason: {told}");
    sandbox.try_exec(&json!({"cmd": "true"})).await?.refusal(ErrorCode::InvalidState)?;
    ensure!(client.list("").await?.iter().all(|one| one["id"] != json!(sandbox.id)), "the list shows it");
    is_reclaimed(platform, &sandbox.id).await
}

/// Nothing of a sandbox is left on the machine.
async fn is_reclaimed(platform: &Platform, id: &str) -> Result<()> {
    let footprint = platform.footprint();
    wait::until_true("everything is reclaimed", NOTICE_LIMIT, async || {
        let journal = footprint.host_dir().join("journal");
        let recorded = std::fs::read_dir(journal)?
            .flatten()
            .any(|entry| entry.file_name().to_string_lossy().contains(id));
        Ok(!recorded && footprint.vmm_of(id)?.is_none() && !footprint.sandbox_folders()?.contains(id))
    })
    .await
}

async fn an_idle_sandbox_ends_and_a_busy_one_does_not(platform: &Platform) -> Result<()> {
    const TIMEOUT: u64 = 4;
    platform.start().await?;
    let client = platform.client()?;
    let started = Instant::now();
    let idle = Sandbox::create(&client, &json!({"timeout_sec": TIMEOUT})).await?;
    let busy = Sandbox::create(&client, &json!({"timeout_sec": TIMEOUT})).await?;
    ensure!(idle.made["expires_at"].is_string(), "no time of its end: {}", idle.made);
    let ended = wait::until("the idle sandbox ends", Duration::from_secs(TIMEOUT + 15), async || {
        // Asking for a sandbox's state is no activity; a command is.
        assert_eq!(busy.sh("echo busy").await?, "busy");
        Ok(["stopped", "error"].contains(&&*idle.status().await?).then(|| started.elapsed()))
    })
    .await?;
    ensure!(ended >= Duration::from_secs(TIMEOUT), "it ended after {ended:?}");
    assert_eq!(idle.status().await?, "stopped");
    assert_eq!(busy.status().await?, "running");
    is_reclaimed(platform, &idle.id).await?;

    // One long command is activity for as long as it runs, and a ping is activity too.
    let outcome = busy.exec(&json!({"cmd": "sleep", "args": [(TIMEOUT + 2).to_string()]})).await?;
    assert_eq!(outcome.exit_code, 0);
    client.post(&format!("/v1/sandboxes/{}/ping", busy.id), &json!({})).await?.expect(204)?;
    assert_eq!(busy.status().await?, "running");
    Ok(())
}

/// What its host's agent takes of a guest's own accord, over and over.
async fn a_guest_that_pushes_without_end_ends_in_time(platform: &Platform) -> Result<()> {
    const TIMEOUT: u64 = 60;
    platform.start().await?;
    let heard = platform.agent_logged(STARTED_AGAIN)?;
    let sandbox = Sandbox::create(&platform.client()?, &json!({"timeout_sec": TIMEOUT})).await?;
    let push = format!(
        r#"import socket
while True:
    try:
        with socket.create_connection(("{GATEWAY_IP}", {READY_PORT}), 5) as host:
            host.sendall(b'{{"event":"restarted","boot_id":"b","version":"1"}}\n')
    except OSError:
        pass
"#
    );
    let mut pushing = sandbox
        .stream(json!({"cmd": "python3", "args": ["-c", push], "user": "root", "detach": true}))
        .await?;
    pushing.pid().await?;
    drop(pushing);
    wait::until_true("its host hears of it", Duration::from_secs(TIMEOUT), async || {
        Ok(platform.agent_logged(STARTED_AGAIN)? > heard)
    })
    .await?;
    wait::until_true("the sandbox ends", Duration::from_secs(TIMEOUT + 30), async || {
        Ok(sandbox.status().await? == "stopped")
    })
    .await?;
    is_reclaimed(platform, &sandbox.id).await
}

async fn a_sandbox_deleted_while_it_is_made_leaves_nothing(platform: &Platform) -> Result<()> {
    platform.start().await?;
    let client = platform.client()?;
    let marked = json!({"metadata": {"test": "deleted while made"}});
    let creating = tokio::spawn({
        let (client, marked) = (client.clone(), marked.clone());
        async move { client.create(&marked).await }
    });
    let id = wait::until("the sandbox is in the list", Duration::from_secs(30), async || {
        let listed = client.list("metadata=test%3Ddeleted%20while%20made").await?;
        Ok(listed.first().and_then(|one| one["id"].as_str()).map(str::to_owned))
    })
    .await?;
    let deleted = client.delete(&format!("/v1/sandboxes/{id}")).await?;
    ensure!([204, 409].contains(&deleted.status), "{}: {}", deleted.status, deleted.text());
    let created = creating.await??;
    if deleted.status == 409 {
        // It could not be deleted yet: then it was made, and can be now.
        created.expect(201)?;
        client.delete(&format!("/v1/sandboxes/{id}")).await?.expect(204)?;
    } else {
        ensure!([201, 409].contains(&created.status), "{}: {}", created.status, created.text());
    }
    let status = wait::until("it has ended", Duration::from_secs(30), async || {
        let status = client.status(&id).await?;
        Ok(["stopped", "error"].contains(&&*status).then_some(status))
    })
    .await?;
    ensure!(status == "stopped" || created.status != 201, "made, deleted, and then in {status}");
    is_reclaimed(platform, &id).await
}

async fn many_deletes_have_one_end(platform: &Platform) -> Result<()> {
    platform.start().await?;
    let client = platform.client()?;
    let sandbox = platform.sandbox().await?;
    let path = format!("/v1/sandboxes/{}", sandbox.id);
    let deletes = (0..20).map(|_| client.delete(&path));
    let replies: Vec<_> = futures::future::join_all(deletes).await.into_iter().collect::<Result<_>>()?;
    let statuses: Vec<u16> = replies.iter().map(|reply| reply.status).collect();
    ensure!(statuses.contains(&204), "{statuses:?}");
    ensure!(statuses.iter().all(|status| [204, 404, 409].contains(status)), "{statuses:?}");
    let ended: Value = client.sandbox(&sandbox.id).await?;
    assert_eq!(ended["status"], "stopped", "{ended}");
    is_reclaimed(platform, &sandbox.id).await
}
