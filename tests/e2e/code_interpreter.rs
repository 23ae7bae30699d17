//! The template that comes with the platform for E2B's code interpreter SDKs: built in a real guest, and judged by them in its sandboxes. What
//! does not depend on where the server runs, they judge beside an agent (`crates/guest-agent/tests/sdk`). The build takes minutes where guests
//! are emulated, so this is a run of its own: `make test-code-interpreter`.

use std::path::Path;
use std::process::{Output, Stdio};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use sandbar_tests::Platform;
use tokio::process::Command;
use tokio::time::timeout;

use crate::{Test, tests};

/// What asks for this run.
const ASKED: &str = "SANDBAR_CODE_INTERPRETER";
/// Two minutes on an idle machine with an emulated guest.
const BUILD_LIMIT: Duration = Duration::from_secs(1500);
/// Of one SDK.
const SUITE_LIMIT: Duration = Duration::from_secs(1500);

pub(crate) fn tests() -> Vec<Test> {
    if std::env::var_os(ASKED).is_none() {
        return Vec::new();
    }
    tests![the_sdks_work_in_sandboxes_of_the_template]
}

async fn the_sdks_work_in_sandboxes_of_the_template(platform: &Platform) -> Result<()> {
    platform.start().await?;
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..").canonicalize()?;
    let mut build = Command::new(root.join("templates/code-interpreter/build.sh"));
    build.arg(platform.binary()).arg("--data-dir").arg(platform.data_dir());
    let built = ended(build.env_remove("SANDBAR_URL").env_remove("SANDBAR_API_KEY"), BUILD_LIMIT).await?;
    ensure!(built.stdout.ends_with(b"code-interpreter-v1\n"), "{}", String::from_utf8_lossy(&built.stdout));

    let tests = root.join("tests/code-interpreter");
    let target =
        platform.binary().parent().and_then(Path::parent).context("the binary is in no target folder")?;
    let python = ["-B", "-m", "pytest", "-q", "-m", "guest", "-o", "timeout=900", "sdk_python"];
    judged(platform, &tests, &target.join("sdk_python-venv/bin/python"), &python).await?;
    let chosen = "--test-name-pattern=state|figure";
    let node = ["--test", "--test-force-exit", "--test-timeout=900000", chosen, "sdk_js/code.test.js"];
    judged(platform, &tests, &target.join("node/bin/node"), &node).await
}

/// Runs a program to its end, which must be a good one, with the platform in its environment and nothing else.
async fn judged(platform: &Platform, tests: &Path, program: &Path, arguments: &[&str]) -> Result<()> {
    let first_run = platform.first_run()?;
    let key = first_run["api_key"].as_str().context("no api_key")?;
    let mut command = Command::new(program);
    command.args(arguments).current_dir(tests).env_clear();
    command
        .env("PATH", std::env::var_os("PATH").unwrap_or_default())
        .env("HOME", tests)
        .env("LANG", "C.UTF-8");
    command.env("E2B_API_KEY", key);
    command.env("E2B_API_URL", platform.url()).env("E2B_SANDBOX_URL", platform.url());
    ended(&mut command, SUITE_LIMIT).await.context("of what tests/code-interpreter/install.sh installs")?;
    Ok(())
}

/// A command's output, once it has ended well.
async fn ended(command: &mut Command, limit: Duration) -> Result<Output> {
    let output = timeout(limit, command.stdin(Stdio::null()).kill_on_drop(true).output()).await;
    let output = output.with_context(|| format!("it did not end in {limit:?}"))??;
    ensure!(
        output.status.success(),
        "{}\n{}\n{}",
        output.status,
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
    Ok(output)
}
