//! A host agent alone, with real machines, called as a control plane calls it: what no route of the API reaches yet.

use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use sandbar_proto::host as rpc;
use sandbar_tests::{Platform, wait};
use sandbar_types::Id;
use sandbar_types::id::Template;

use crate::lone_agent::{LoneAgent, PATIENCE};
use crate::{Test, tests};

pub(crate) fn tests() -> Vec<Test> {
    tests![
        a_disk_alone_is_kept_checked_and_small,
        a_disk_is_as_fast_as_it_may_be,
        a_host_that_was_refused_pauses_all_and_can_verify_each,
    ]
}

async fn a_disk_alone_is_kept_checked_and_small(platform: &Platform) -> Result<()> {
    let agent = LoneAgent::start(platform, &[]).await?;
    let id = agent.sandbox().await?;
    // Not flushed by anybody but the call.
    agent.sh(&id, "echo flat > ~/flat; echo stays > /dev/shm/memory").await?;
    let template_id = Id::<Template>::new().to_string();
    let request =
        rpc::FlattenRootfsRequest { id: id.clone(), template_id: template_id.clone(), ..Default::default() };
    let made = agent.client.flatten_rootfs(request.clone()).await?.into_owned().template;
    let made = made.into_option().context("no template")?;
    assert_eq!(made.kind.as_known(), Some(rpc::TemplateKind::TEMPLATE_KIND_BASE));
    assert_eq!(made.disk_mb, agent.template().await?.disk_mb, "its size stays");
    let again = agent.client.flatten_rootfs(request).await?.into_owned().template;
    assert_eq!(again.into_option().context("no template")?.disk_mb, made.disk_mb, "made a second time");
    assert_eq!(agent.sh(&id, "cat ~/flat /dev/shm/memory").await?, "flat\nstays", "the source is lost");

    let folder = platform.footprint().store_dir().join("templates").join(&template_id);
    let disk = folder.join("disk.ext4");
    let bytes = disk.metadata()?.len();
    ensure!(
        bytes.div_ceil(1 << 20) == u64::from(made.disk_mb),
        "{bytes} bytes are told as {} MiB",
        made.disk_mb
    );
    let checked = Command::new("e2fsck").arg("-fn").arg(&disk).output()?;
    ensure!(checked.status.success(), "{}", String::from_utf8_lossy(&checked.stdout));
    let kept = Command::new("debugfs").args(["-R", "cat /home/user/flat"]).arg(&disk).output()?;
    assert_eq!(String::from_utf8_lossy(&kept.stdout), "flat\n");
    ensure!(!folder.join("memory").exists(), "a base template has no memory");

    let forget = rpc::DeleteTemplateRequest { id: template_id, ..Default::default() };
    ensure!(agent.client.delete_template(forget).await?.into_owned().existed, "it was not there");
    agent.destroy(&id).await?;
    agent.end().await
}

/// How fast at most: a guest under emulation, which shares its processor, may well be slower.
async fn a_disk_is_as_fast_as_it_may_be(platform: &Platform) -> Result<()> {
    const MEGABYTES_PER_SECOND: u64 = 4;
    let rate = MEGABYTES_PER_SECOND.to_string();
    let agent = LoneAgent::start(platform, &["--sandbox-disk-mbps", &rate]).await?;
    let id = agent.sandbox().await?;
    let measured = "a=$(date +%s%N) && dd if=/dev/zero of=/home/user/zeroes bs=1M count=16 oflag=direct 2>/dev/null && \
        b=$(date +%s%N) && echo $((b - a))";
    let took = Duration::from_nanos(agent.sh(&id, measured).await?.parse()?);
    // A tenth of a second's worth may go at once.
    let least = Duration::from_secs((16 << 20) / (MEGABYTES_PER_SECOND * 1_000_000)).mul_f64(0.9);
    ensure!(took >= least, "16 MiB were written in {took:?}");
    agent.destroy(&id).await?;
    agent.end().await
}

async fn a_host_that_was_refused_pauses_all_and_can_verify_each(platform: &Platform) -> Result<()> {
    let agent = LoneAgent::start(platform, &[]).await?;
    let (one, other) = (agent.sandbox().await?, agent.sandbox().await?);
    agent.sh(&one, "echo one > /dev/shm/memory").await?;
    let verify = |id: &str| {
        let request = rpc::VerifySandboxRequest { id: id.to_owned(), ..Default::default() };
        agent.client.verify_sandbox(request)
    };
    let refused = verify(&one).await.err().context("a sandbox that runs was verified")?;
    assert_eq!(refused.code, connectrpc::ErrorCode::FailedPrecondition, "{refused}");

    let request =
        rpc::PauseAllRequest { reason: "the control plane refuses this host".into(), ..Default::default() };
    let outcome = agent.client.pause_all(request.clone()).await?.into_owned();
    assert_eq!((outcome.paused, outcome.failed), (2, 0));
    assert_eq!(agent.states().await?, [rpc::SandboxState::SANDBOX_STATE_PAUSED; 2]);
    assert_eq!(platform.footprint().vmms()?, []);
    let outcome = agent.client.pause_all(request).await?.into_owned();
    assert_eq!((outcome.paused, outcome.failed), (0, 0), "there was nothing left to pause");

    // The checksums of memory and disk come a while after the pause: until then there is less to read.
    let memory_bytes = u64::from(agent.template().await?.memory_mb) << 20;
    for id in [&one, &other] {
        wait::until_true("all of it is verified", PATIENCE, async || {
            Ok(verify(id).await?.into_owned().bytes > memory_bytes)
        })
        .await?;
    }
    let memory = platform.footprint().store_dir().join("sandboxes").join(&other).join("paused/memory");
    let file = std::fs::OpenOptions::new().write(true).open(&memory)?;
    std::os::unix::fs::FileExt::write_all_at(&file, b"damage", 64 << 20)?;
    let damaged = verify(&other).await.err().context("damage was not noticed")?;
    ensure!(damaged.to_string().contains("memory"), "the file is not named: {damaged}");

    agent.client.resume_sandbox(rpc::ResumeSandboxRequest { id: one.clone(), ..Default::default() }).await?;
    assert_eq!(agent.sh(&one, "cat /dev/shm/memory").await?, "one");
    agent.destroy(&one).await?;
    agent.destroy(&other).await?;
    assert_eq!(platform.footprint().sandbox_folders()?.len(), 0);
    agent.end().await
}
