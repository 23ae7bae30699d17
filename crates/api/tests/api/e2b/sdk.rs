//! E2B's SDKs, as they are, against the API, a real database and a simulated host: all that they ask of a control plane. Beside real guests
//! the same tests run in `tests/e2e`. Needs what `tests/sdk/install.sh` installs.

use std::path::{Path, PathBuf};
use std::process::Command;

use sandbar_control::Config;
use sandbar_control::config::BuildConfig;
use secrecy::ExposeSecret as _;

use crate::platform::{Platform, config};

/// Runs a program of the target folder on the platform. What it says is shown when it fails.
async fn judged_by(program: &str, arguments: &[&str]) {
    let files = tempfile::tempdir().unwrap();
    let builds = BuildConfig { files_folder: Some(files.path().to_owned()), ..BuildConfig::default() };
    let platform = Platform::start_with(Config { builds, ..config() }).await;
    // Somebody builds what is asked for.
    let _workers = platform.successor().await;
    let target = Path::new(env!("CARGO_TARGET_TMPDIR")).parent().unwrap();
    let sdk: PathBuf = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/sdk");
    assert!(sdk.join("js/node_modules/installed").exists(), "run tests/sdk/install.sh");
    let mut command = Command::new(target.join(program));
    // Nothing of the caller's environment may lead an SDK elsewhere (E2B_*, proxies).
    command
        .args(arguments)
        .current_dir(&sdk)
        .env_clear()
        .env("PATH", std::env::var_os("PATH").unwrap_or_default())
        .env("HOME", sdk)
        .env("LANG", "C.UTF-8")
        .env("E2B_API_URL", platform.api.url())
        .env("E2B_SANDBOX_URL", platform.api.url())
        .env("E2B_VOLUME_API_URL", platform.api.url())
        .env("E2B_API_KEY", platform.key.expose_secret());
    let output = tokio::task::spawn_blocking(move || command.output()).await.unwrap().unwrap();
    assert!(
        output.status.success(),
        "{}\n{}\n{}",
        output.status,
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
}

#[tokio::test]
async fn python() {
    judged_by("sdk-venv/bin/python", &["-B", "-m", "pytest", "-q", "python_platform/test_control.py"]).await;
}

#[tokio::test]
async fn python_templates() {
    judged_by("sdk-venv/bin/python", &["-B", "-m", "pytest", "-q", "python_platform/test_templates.py"])
        .await;
}

#[tokio::test]
async fn python_volumes() {
    let test = "python_platform/test_volumes.py::test_a_life";
    judged_by("sdk-venv/bin/python", &["-B", "-m", "pytest", "-q", test]).await;
}

#[tokio::test]
async fn javascript() {
    judged_by("node/bin/node", &["--test", "--test-timeout=300000", "js/platform/control.test.js"]).await;
}

#[tokio::test]
async fn javascript_templates() {
    judged_by("node/bin/node", &["--test", "--test-timeout=300000", "js/platform/templates.test.js"]).await;
}
