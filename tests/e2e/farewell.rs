//! The end: all sandboxes destroyed, the platform stopped, and what is left counted.

use anyhow::{Result, ensure};
use sandbar_tests::Platform;
use sandbar_tests::census::Leftovers;

use crate::{Test, tests};

pub(crate) fn tests() -> Vec<Test> {
    tests![a_stopped_platform_without_sandboxes_leaves_nothing_running]
}

async fn a_stopped_platform_without_sandboxes_leaves_nothing_running(platform: &Platform) -> Result<()> {
    platform.start().await?;
    let client = platform.client()?;
    for sandbox in client.list("").await? {
        let path = format!("/v1/sandboxes/{}", sandbox["id"].as_str().unwrap_or_default());
        client.delete(&path).await?.expect(204)?;
    }
    let status = platform.stop().await?;
    ensure!(status.success(), "{status}");
    let footprint = platform.footprint();
    assert_eq!(footprint.leftovers()?, Leftovers::default());
    // The store stays mounted where it is a filesystem image; nothing else is.
    let store = footprint.store_dir();
    let strange: Vec<_> = footprint.mounts()?.into_iter().filter(|point| *point != store).collect();
    ensure!(strange.is_empty(), "{strange:?}");
    Ok(())
}
