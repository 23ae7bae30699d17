//! Volumes on a host agent alone, with real guests: what was synced outlives every end of the machine, the agent and the connection, and nobody but the
//! one sandbox has it meanwhile.

use anyhow::{Context as _, Result, ensure};
use connectrpc::ConnectError;
use sandbar_proto::host as rpc;
use sandbar_tests::{Platform, wait};
use sandbar_types::Id;
use sandbar_types::id::{Sandbox, Template, Volume};

use crate::lone_agent::{LoneAgent, PATIENCE, TOKEN};
use crate::{Test, tests};

const SIZE: u64 = 256 << 20;
// How refusals begin to say why; programs have the reason's number.
const REASON_VOLUME_NOT_FOUND: &str = "this host has no volume vol-";
const REASON_VOLUME_IN_USE: &str = " has volume vol-";
const REASON_HAS_VOLUMES: &str = " has volumes, and cannot be copied";

pub(crate) fn tests() -> Vec<Test> {
    tests![a_volume_outlives_machines_pauses_and_agents]
}

/// One test, since each part needs what the one before it made.
async fn a_volume_outlives_machines_pauses_and_agents(platform: &Platform) -> Result<()> {
    let agent = LoneAgent::start(platform, &[]).await?;
    let id = Id::<Volume>::new().to_string();
    let make = rpc::CreateVolumeRequest { id: id.clone(), size_bytes: SIZE, ..Default::default() };
    let made = agent.client.create_volume(make.clone()).await?.into_owned().volume;
    let made = made.into_option().context("no volume")?;
    assert_eq!((made.size_bytes, made.sandbox_id.as_str()), (SIZE, ""));
    ensure!(made.used_bytes < SIZE / 4, "an empty one takes {} bytes", made.used_bytes);
    agent.client.create_volume(make).await?;

    let unknown =
        create(&agent, &Id::<Volume>::new().to_string()).await.err().context("made without a volume")?;
    ensure!(says(&unknown, REASON_VOLUME_NOT_FOUND), "{unknown}");
    let first = create(&agent, &id).await?;
    // The usual user's, and no device or other's rights come with it.
    agent.sh(&first, "echo one > /data/one && sync -f /data/one && echo lost > /data/lost").await?;
    let mount = agent.sh(&first, "grep ' /data ' /proc/mounts").await?;
    ensure!(mount.contains("nodev") && mount.contains("nosuid"), "{mount}");
    refused_while_had(&agent, &first, &id).await?;
    from_inside_nobody_connects(&agent, &first).await?;

    // As with a power cut: what was synced is there, and the filesystem is whole.
    let vmm = platform.footprint().vmms()?.into_iter().find(|vmm| vmm.sandbox().as_ref() == Some(&first));
    vmm.context("no machine")?.kill()?;
    wait::until_true("the end is noticed", PATIENCE, async || {
        Ok(agent.states().await? == [rpc::SandboxState::SANDBOX_STATE_STOPPED])
    })
    .await?;
    let refused = create(&agent, &id).await.err().context("had by two")?;
    ensure!(says(&refused, REASON_VOLUME_IN_USE), "until it is destroyed");
    agent.destroy(&first).await?;
    let second = create(&agent, &id).await?;
    assert_eq!(agent.sh(&second, "cat /data/one").await?, "one");

    // A writer that runs through a pause, and through the agent's death.
    agent.sh(&second, WRITER).await?;
    until_written(&agent, &second).await?;
    agent.client.pause_sandbox(rpc::PauseSandboxRequest { id: second.clone(), ..Default::default() }).await?;
    let refused = create(&agent, &id).await.err().context("had by two")?;
    ensure!(says(&refused, REASON_VOLUME_IN_USE), "while it is paused");
    agent
        .client
        .resume_sandbox(rpc::ResumeSandboxRequest { id: second.clone(), ..Default::default() })
        .await?;
    until_written(&agent, &second).await?;
    agent.kill().await?;

    let agent = LoneAgent::start_again(platform, &[]).await?;
    until_written(&agent, &second).await?;
    let refused = create(&agent, &id).await.err().context("had by two")?;
    ensure!(says(&refused, REASON_VOLUME_IN_USE), "also for the next agent");
    agent.sh(&second, "kill $(cat /tmp/writer) && ! test -e /tmp/failed").await?;

    // Booted, with the disk alone: mounted anew.
    let mode = rpc::PauseMode::PAUSE_MODE_FILESYSTEM.into();
    agent
        .client
        .pause_sandbox(rpc::PauseSandboxRequest { id: second.clone(), mode, ..Default::default() })
        .await?;
    agent
        .client
        .resume_sandbox(rpc::ResumeSandboxRequest { id: second.clone(), ..Default::default() })
        .await?;
    assert_eq!(
        agent.sh(&second, "cat /data/one && ! test -e /dev/shm/gone && echo last > /data/last").await?,
        "one"
    );
    // Synced by nobody but its end.
    agent.destroy(&second).await?;
    let third = create(&agent, &id).await?;
    assert_eq!(agent.sh(&third, "cat /data/one /data/last").await?, "one\nlast");
    agent.destroy(&third).await?;

    let forget = rpc::DeleteVolumeRequest { id: id.clone(), ..Default::default() };
    ensure!(agent.client.delete_volume(forget.clone()).await?.into_owned().existed, "it was not there");
    ensure!(!agent.client.delete_volume(forget).await?.into_owned().existed, "it is still there");
    assert_eq!(agent.client.list_volumes(rpc::ListVolumesRequest::default()).await?.into_owned().volumes, []);
    agent.end().await
}

/// Counts on the volume, each number synced, and says so if it ever fails.
const WRITER: &str = "nohup sh -c 'echo $$ > /tmp/writer; n=0; while n=$((n + 1)); do \
    echo $n > /data/count.new && sync -f /data/count.new && mv /data/count.new /data/count || { touch /tmp/failed; exit 1; }; \
    sleep 0.1; done' > /dev/null 2>&1 &";

/// Waits until the writer has written once more.
async fn until_written(agent: &LoneAgent, id: &str) -> Result<()> {
    let count = async || -> Result<u64> {
        Ok(agent.sh(id, "cat /data/count 2> /dev/null || echo 0").await?.parse().unwrap_or_default())
    };
    let before = count().await?;
    wait::until_true("the writer goes on", PATIENCE, async || Ok(count().await? > before)).await
}

async fn refused_while_had(agent: &LoneAgent, sandbox: &str, volume: &str) -> Result<()> {
    let refused = create(agent, volume).await.err().context("had by two")?;
    ensure!(says(&refused, REASON_VOLUME_IN_USE), "{refused}");
    let forget = rpc::DeleteVolumeRequest { id: volume.into(), ..Default::default() };
    let refused = agent.client.delete_volume(forget).await.err().context("deleted in use")?;
    ensure!(says(&refused, REASON_VOLUME_IN_USE), "{refused}");
    let listed = agent.client.list_volumes(rpc::ListVolumesRequest::default()).await?.into_owned().volumes;
    assert_eq!(listed.first().map(|volume| volume.sandbox_id.as_str()), Some(sandbox));

    let template_id = Id::<Template>::new().to_string();
    let snapshot = rpc::SnapshotSandboxRequest {
        id: sandbox.into(),
        template_id: template_id.clone(),
        ..Default::default()
    };
    let refused = agent.client.snapshot_sandbox(snapshot).await.err().context("copied with its volume")?;
    ensure!(says(&refused, REASON_HAS_VOLUMES), "{refused}");
    let flatten = rpc::FlattenRootfsRequest { id: sandbox.into(), template_id, ..Default::default() };
    let refused = agent.client.flatten_rootfs(flatten).await.err().context("copied with its volume")?;
    ensure!(says(&refused, REASON_HAS_VOLUMES), "{refused}");
    Ok(())
}

fn says(refused: &ConnectError, reason: &str) -> bool {
    refused.to_string().contains(reason)
}

/// Neither without the token nor with it: the agent knows its host by its address, too.
async fn from_inside_nobody_connects(agent: &LoneAgent, id: &str) -> Result<()> {
    let ask = |token: &str| {
        format!(
            "curl -s -o /dev/null -w '%{{http_code}}' -H 'X-Access-Token: {token}' -H 'Connection: Upgrade' \
            -H 'Upgrade: nbd' 'http://127.0.0.1:49983/volumes/connect?device=1&size=4096'"
        )
    };
    assert_eq!(agent.sh(id, &ask("no")).await?, "401");
    assert_eq!(agent.sh(id, &ask(TOKEN)).await?, "403");
    Ok(())
}

async fn create(agent: &LoneAgent, volume: &str) -> Result<String, ConnectError> {
    let id = Id::<Sandbox>::new().to_string();
    let mount = rpc::VolumeMount { volume_id: volume.into(), path: "/data".into(), ..Default::default() };
    let request = rpc::CreateSandboxRequest {
        id: id.clone(),
        template_id: agent.template().await.map_err(|error| ConnectError::internal(error.to_string()))?.id,
        access_token: TOKEN.into(),
        hostname: "lone".into(),
        volumes: vec![mount],
        ..Default::default()
    };
    agent.client.create_sandbox(request).await?;
    Ok(id)
}
