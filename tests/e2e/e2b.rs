//! E2B's SDKs, as they are, on the whole platform: everything that they ask goes to one address, and a program is told so by its
//! environment alone. What they ask of the control plane alone is judged beside a simulated host, too
//! (`crates/api/tests/api/e2b/sdk.rs`).

use std::path::{Path, PathBuf};
use std::process::Stdio;

use anyhow::{Context as _, Result, ensure};
use sandbar_tests::Platform;
use tokio::process::Command;

use crate::{Test, tests};

pub(crate) fn tests() -> Vec<Test> {
    tests![the_python_sdk_works_in_real_guests, the_javascript_sdk_works_in_real_guests]
}

async fn the_python_sdk_works_in_real_guests(platform: &Platform) -> Result<()> {
    judged_by(
        platform,
        "sdk-venv/bin/python",
        &["-B", "-m", "pytest", "-q", "-x", "python_platform/test_guest.py"],
    )
    .await
}

async fn the_javascript_sdk_works_in_real_guests(platform: &Platform) -> Result<()> {
    judged_by(platform, "node/bin/node", &["--test", "--test-timeout=600000", "js/platform/guest.test.js"])
        .await
}

/// Runs a program of the target folder on the platform. What it says is shown when it fails.
async fn judged_by(platform: &Platform, program: &str, arguments: &[&str]) -> Result<()> {
    platform.start().await?;
    let first_run = platform.first_run()?;
    let key = first_run["api_key"].as_str().context("no api_key")?;
    let sdk: PathBuf = Path::new(env!("CARGO_MANIFEST_DIR")).join("sdk");
    ensure!(sdk.join("js/node_modules/installed").exists(), "run tests/sdk/install.sh");
    let target =
        platform.binary().parent().and_then(Path::parent).context("the binary is in no target folder")?;
    let output = Command::new(target.join(program))
        .args(arguments)
        .current_dir(&sdk)
        // Nothing of the caller's environment may lead an SDK elsewhere (E2B_*, proxies).
        .env_clear()
        .env("PATH", std::env::var_os("PATH").unwrap_or_default())
        .env("HOME", &sdk)
        .env("LANG", "C.UTF-8")
        .env("E2B_API_URL", platform.url())
        .env("E2B_SANDBOX_URL", platform.url())
        .env("E2B_API_KEY", key)
        .stdin(Stdio::null())
        .kill_on_drop(true)
        .output()
        .await?;
    ensure!(
        output.status.success(),
        "{}\n{}\n{}",
        output.status,
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
    Ok(())
}
