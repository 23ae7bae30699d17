//! From nothing to a running platform; interrupted, asked for twice, stopped, started again.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use sandbar_tests::Platform;
use sandbar_tests::cli::Output;
use serde_json::{Value, json};

use crate::{Test, tests};

/// Until the base image is being made: PostgreSQL is up, the guest kernel was fetched and unpacked.
const IMAGE_LIMIT: Duration = Duration::from_secs(300);
/// The goal is 10 s on a machine with nothing else to do.
const SECOND_START_LIMIT: Duration = Duration::from_secs(30);

pub(crate) fn tests() -> Vec<Test> {
    tests![
        an_interrupted_first_start_is_taken_up_again,
        the_first_users_credentials_are_kept_for_root_alone,
        a_second_up_says_that_the_first_one_runs,
        a_second_start_makes_nothing_anew,
    ]
}

/// Ctrl-C while the base image is made, then `up` again.
async fn an_interrupted_first_start_is_taken_up_again(platform: &Platform) -> Result<()> {
    let footprint = platform.footprint();
    // Written once there is a base image.
    if platform.first_run().is_ok() {
        eprintln!("the folder was kept from a former run: its first start is over, and is not interrupted");
        return platform.start().await;
    }
    platform.spawn_up()?;
    let making = |words: &[String]| words.iter().any(|word| word.ends_with("mmdebstrap"));
    platform
        .until_up(IMAGE_LIMIT, "the base image is being made", || {
            Ok(footprint.processes()?.iter().any(|process| making(&process.command)))
        })
        .await?;
    let status = platform.interrupt().await?;
    ensure!(!status.success(), "it says that all went well");
    assert_eq!(footprint.processes()?, [], "processes go on after Ctrl-C");
    let interrupted = footprint.store_sessions()?;

    platform.spawn_up()?;
    let took = platform.wait_ready().await?;
    eprintln!("the first start took {:.1} s after the interruption", took.as_secs_f64());
    let dead: Vec<_> = footprint.store_sessions()?.intersection(&interrupted).cloned().collect();
    ensure!(dead.is_empty(), "half-made things of the first start stay: {dead:?}");
    let store = footprint.store_dir();
    let strange: Vec<_> = footprint.mounts()?.into_iter().filter(|point| *point != store).collect();
    ensure!(strange.is_empty(), "mounts of the first start stay: {strange:?}");
    Ok(())
}

async fn the_first_users_credentials_are_kept_for_root_alone(platform: &Platform) -> Result<()> {
    platform.start().await?;
    let file = platform.data_dir().join("first-run.json");
    assert_eq!(fs::metadata(&file)?.permissions().mode() & 0o777, 0o600);
    let first = platform.first_run()?;
    assert_eq!(first["url"], json!(platform.url()));
    ensure!(first["email"].as_str().is_some_and(|email| email.contains('@')), "{first}");
    ensure!(first["password"].as_str().is_some_and(|password| password.len() >= 12), "a weak password");
    let key = first["api_key"].as_str().context("no key")?;
    let digits = key.strip_prefix("e2b_").context("not a key")?;
    ensure!(digits.len() == 40 && digits.bytes().all(|byte| byte.is_ascii_hexdigit()), "{digits:?}");
    let said = platform.up_stdout()?;
    for told in ["url", "email", "password", "api_key"] {
        let value = first[told].as_str().context("not text")?;
        ensure!(said.contains(value), "{told} was not printed:\n{said}");
    }
    Ok(())
}

async fn a_second_up_says_that_the_first_one_runs(platform: &Platform) -> Result<()> {
    platform.start().await?;
    let agent = platform.agent_pid()?;
    let second = platform.up_command(&[]).run().await?.expect(0)?;
    ensure!(second.text().contains(&platform.url()), "{}{}", second.text(), second.stderr);
    ensure!(second.text().contains("sandbar run"), "no commands to go on with: {}", second.text());
    assert_eq!(platform.agent_pid()?, agent, "the second one replaced the first one's host agent");
    assert_eq!(platform.sandbox().await?.sh("echo alive").await?, "alive");
    Ok(())
}

async fn a_second_start_makes_nothing_anew(platform: &Platform) -> Result<()> {
    platform.start().await?;
    let before = made(platform)?;
    ensure!(before.len() >= 3, "kernel, image and template: {before:?}");
    let first = platform.first_run()?;
    let status = platform.stop().await?;
    ensure!(status.success(), "stopped: {status}");
    assert_eq!(
        platform.footprint().processes()?,
        [],
        "a stopped platform without sandboxes has no processes"
    );
    assert_eq!(platform.footprint().namespaces()?.len(), 0, "nor networks");

    // In the background this time, as `make up` does it; and stopped by the command, whatever is found.
    let started = Instant::now();
    let up = platform.up_command(&["--detach"]).run().await?.expect(0)?;
    let took = started.elapsed();
    let checked = in_the_background(platform, &before, &first, &up).await;
    platform.cli(&["down"]).run().await?.expect(0)?;
    checked?;
    eprintln!("the second start took {:.1} s", took.as_secs_f64());
    ensure!(took < SECOND_START_LIMIT, "the second start took {took:?}");
    assert_eq!(platform.footprint().processes()?, []);
    platform.cli(&["down"]).run().await?.expect(0).context("a second down")?;
    platform.start().await
}

async fn in_the_background(platform: &Platform, before: &Made, first: &Value, up: &Output) -> Result<()> {
    ensure!(up.text().contains(&platform.url()), "{}", up.text());
    // Something old may go, once nothing needs it. Nothing comes.
    let anew: Vec<_> =
        made(platform)?.into_iter().filter(|(file, facts)| before.get(file) != Some(facts)).collect();
    ensure!(anew.is_empty(), "made anew: {anew:?}");
    ensure!(platform.first_run()? == *first, "the first user's credentials changed");
    ensure!(platform.sandbox().await?.sh("echo again").await? == "again");
    Ok(())
}

/// Files, and what would change if they were made anew.
type Made = BTreeMap<PathBuf, (u64, i64, i64)>;

/// The manifests of all that a first start makes.
fn made(platform: &Platform) -> Result<Made> {
    let store = platform.footprint().store_dir();
    let mut made = BTreeMap::new();
    for kind in ["kernel", "images", "templates"] {
        for entry in fs::read_dir(store.join(kind))? {
            let file = entry?.path().join("manifest.json");
            if file.exists() {
                made.insert(file.clone(), facts(&file)?);
            }
        }
    }
    Ok(made)
}

fn facts(file: &Path) -> Result<(u64, i64, i64)> {
    let metadata = fs::metadata(file)?;
    Ok((metadata.ino(), metadata.mtime(), metadata.mtime_nsec()))
}
