//! An outside judge: schemathesis, a fuzzer for OpenAPI documents, asks the API as the document says, and as it does not, with a key, with
//! a token and with neither. Any 5xx, and any answer that the document does not allow, is a failure. What it asks is in
//! `tests/api-fuzz/schemathesis.toml`; `tests/api-fuzz/install.sh` installs it.

use std::fs;
use std::path::{Path, PathBuf};

use tokio::process::Command;

use crate::client::Client;
use crate::platform::Platform;

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/api-fuzz").canonicalize().unwrap()
}

/// Where `install.sh` puts it.
fn venv() -> PathBuf {
    Path::new(env!("CARGO_TARGET_TMPDIR")).parent().unwrap().join("api-fuzz-venv")
}

/// Lets schemathesis ask as this client, among other things of this team and a sandbox of its own. Its words are shown when it finds something.
async fn fuzz(client: &Client, (team, sandbox): (&str, &str), arguments: &[&str]) {
    let (folder, venv) = (folder(), venv());
    let wanted = fs::read(folder.join("requirements.txt")).unwrap();
    assert!(
        fs::read(venv.join("installed")).is_ok_and(|installed| installed == wanted),
        "schemathesis is not installed in the version that is wanted: run tests/api-fuzz/install.sh"
    );
    let mut command = Command::new(venv.join("bin/schemathesis"));
    command.arg("--config-file").arg(folder.join("schemathesis.toml")).arg("--no-color").arg("run");
    if let Some((name, value)) = client.credential() {
        command.arg("--header").arg(format!("{name}: {value}"));
    }
    command.env("FUZZ_TEAM", team).env("FUZZ_SANDBOX", sandbox);
    command.args(arguments).arg(format!("http://{}/openapi.json", client.address()));
    // What it may leave behind goes where nobody looks.
    let scratch = tempfile::tempdir().unwrap();
    let output = command.current_dir(scratch.path()).kill_on_drop(true).output().await.unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(
        output.status.success(),
        "{}\n{text}\n{}",
        output.status,
        String::from_utf8_lossy(&output.stderr)
    );
    assert!(text.contains("passed"), "nothing was asked:\n{text}");
}

#[tokio::test]
async fn with_a_key() {
    let platform = Platform::start().await;
    let (team, sandbox) = (platform.first_person().await.team, platform.api.sandbox().await);
    fuzz(&platform.api, (&team, &sandbox), &[]).await;
}

#[tokio::test]
async fn with_a_token() {
    let platform = Platform::start().await;
    let ann = platform.sign_up("ann").await;
    let sandbox = ann.api.sandbox().await;
    // Signing out would end the run's own token.
    fuzz(&ann.api, (&ann.team, &sandbox), &["--exclude-operation-id", "log_out"]).await;
}

#[tokio::test]
async fn without_a_credential() {
    let platform = Platform::start().await;
    let (team, sandbox) = (platform.first_person().await.team, platform.api.sandbox().await);
    fuzz(&platform.api.anonymous(), (&team, &sandbox), &[]).await;
}
