//! The host's disk fills up. A file that takes the room is put into the store, and taken away at the end, however the test ends.

use std::fs::File;
use std::path::PathBuf;

use anyhow::{Result, ensure};
use rustix::fs::{FallocateFlags, fallocate, fstatvfs};
use rustix::io::Errno;
use sandbar_tests::{Platform, Sandbox};
use sandbar_types::ErrorCode;
use serde_json::json;

use crate::{Test, tests};

const MIB: u64 = 1 << 20;

pub(crate) fn tests() -> Vec<Test> {
    tests![new_work_is_refused_and_what_runs_is_not_harmed]
}

struct Filler {
    path: PathBuf,
    file: File,
}

impl Filler {
    fn new(platform: &Platform) -> Result<Self> {
        let path = platform.footprint().store_dir().join("filler");
        Ok(Self { file: File::create(&path)?, path })
    }

    /// Leaves so many bytes of the store, or what it keeps to itself if that is more.
    fn leave(&self, left: u64) -> Result<()> {
        let mut most = u64::MAX;
        while most > 4096 {
            let room = fstatvfs(&self.file)?;
            let wanted = (room.f_bavail * room.f_frsize).saturating_sub(left).min(most);
            if wanted == 0 {
                return Ok(());
            }
            let length = self.file.metadata()?.len();
            match fallocate(&self.file, FallocateFlags::empty(), length, wanted) {
                // A filesystem keeps a little for itself as it fills.
                Err(Errno::NOSPC) => most = wanted / 2,
                taken => taken?,
            }
        }
        Ok(())
    }
}

impl Drop for Filler {
    fn drop(&mut self) {
        // Cut first: the room of a file that is removed is free some time later.
        let _ = self.file.set_len(0);
        let _ = std::fs::remove_file(&self.path);
    }
}

async fn new_work_is_refused_and_what_runs_is_not_harmed(platform: &Platform) -> Result<()> {
    platform.start().await?;
    let client = platform.client()?;
    let sandbox = Sandbox::create(&client, &json!({})).await?;
    let path = format!("/v1/sandboxes/{}", sandbox.id);
    let call = async |what: &str| client.post(&format!("{path}/{what}"), &json!({})).await;
    // In memory alone: what a pause has to write.
    let fill = "head -c 64M /dev/urandom > /m/data && sha256sum < /m/data";
    let content = sandbox.sh_as("root", &format!("mkdir -p /m && mount -t tmpfs none /m && {fill}")).await?;

    let filler = Filler::new(platform)?;
    filler.leave(512 * MIB)?;
    client.create(&json!({})).await?.refusal(ErrorCode::NoHostsAvailable)?;
    call("fork").await?.refusal(ErrorCode::NoHostsAvailable)?;
    client
        .post("/v1/snapshots", &json!({"sandbox_id": sandbox.id, "name": "too-much"}))
        .await?
        .refusal(ErrorCode::NoHostsAvailable)?;
    // A pause fits, and ends in less being used; so does a resume.
    call("pause").await?.json(200)?;
    call("resume").await?.json(200)?;
    ensure!(sandbox.sh_as("root", "sha256sum < /m/data").await? == content);

    // What was written before the pause is in its files already.
    let content = sandbox.sh_as("root", fill).await?;
    filler.leave(32 * MIB)?;
    let reason = call("pause").await?.refusal(ErrorCode::NoHostsAvailable)?;
    ensure!(reason.contains("disk"), "{reason}");
    ensure!(sandbox.status().await? == "running", "a pause that does not fit stopped it");
    ensure!(sandbox.sh_as("root", "sha256sum < /m/data").await? == content);

    drop(filler);
    call("pause").await?.json(200)?;
    call("resume").await?.json(200)?;
    ensure!(sandbox.sh_as("root", "sha256sum < /m/data").await? == content);
    platform.sandbox().await?.destroy().await
}
