//! The dashboard in a browser: `dashboard/tests` against this platform, with its guests. The pages are those that the binary embeds.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use sandbar_tests::Platform;
use tokio::process::Command;

use crate::{Test, tests};

/// Of all tests of pages together; each has a limit of its own.
const LIMIT: Duration = Duration::from_secs(2400);

pub(crate) fn tests() -> Vec<Test> {
    tests![pages_do_what_they_offer]
}

async fn pages_do_what_they_offer(platform: &Platform) -> Result<()> {
    platform.start().await?;
    let first = platform.first_run()?;
    let text = |name: &str| first[name].as_str().context("first-run.json lacks it");
    let (node, pages) = (node().await?, Path::new(env!("CARGO_MANIFEST_DIR")).join("../dashboard"));
    let playwright = pages.join("node_modules/.bin/playwright");
    ensure!(playwright.exists(), "the dashboard's packages are missing: run `cargo xtask dashboard`");
    let browser = std::env::var("CHROMIUM").unwrap_or_else(|_| "/usr/bin/chromium".to_owned());
    ensure!(Path::new(&browser).exists(), "there is no {browser}: set CHROMIUM to a Chromium or Chrome");
    let tests = Command::new(node.join("node"))
        .arg(playwright)
        .arg("test")
        .current_dir(&pages)
        .env("SANDBAR_URL", platform.url())
        .env("SANDBAR_EMAIL", text("email")?)
        .env("SANDBAR_PASSWORD", text("password")?)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()?;
    let output =
        tokio::time::timeout(LIMIT, tests.wait_with_output()).await.context("the tests of pages hang")??;
    let told = String::from_utf8_lossy(&output.stdout);
    ensure!(output.status.success(), "{told}\n{}", String::from_utf8_lossy(&output.stderr));
    print!("{told}");
    Ok(())
}

/// The folder of the Node that the pages were built with.
async fn node() -> Result<PathBuf> {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../scripts/node.sh");
    let output = Command::new(script).output().await?;
    ensure!(output.status.success(), "there is no Node: {}", String::from_utf8_lossy(&output.stderr));
    Ok(PathBuf::from(String::from_utf8(output.stdout)?.trim()))
}
