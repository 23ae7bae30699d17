//! The official, unmodified E2B SDKs judge the agent: the tests of `tests/sdk/`, run beside a real agent. Needs root and what
//! `tests/sdk/install.sh` installs.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use sandbar_types::guest;

/// Where the tests are written.
fn tests() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/sdk").canonicalize().unwrap()
}

/// Where `install.sh` puts Python, and `scripts/node.sh` Node.
fn installed(program: &str) -> PathBuf {
    Path::new(env!("CARGO_TARGET_TMPDIR")).parent().unwrap().join(program)
}

/// Whether what is installed is what the tests were written for: a test against another version of an SDK tells nothing.
fn assert_installed(wanted: &Path, installed: &Path) {
    let wanted = fs::read(wanted).unwrap();
    assert!(
        fs::read(installed).is_ok_and(|installed| installed == wanted),
        "E2B's SDKs are not installed in the versions that the tests want: run tests/sdk/install.sh"
    );
}

/// Runs a command beside an agent of its own. Its output is shown when it fails.
fn beside_agent(command: &[OsString]) {
    let output = Command::new(tests().join("beside-agent.sh"))
        .arg(env!("CARGO_BIN_EXE_sandbar-guest-agent"))
        .args(command)
        .env("ENVD_VERSION", guest::ENVD_VERSION)
        .output()
        .unwrap();
    assert!(
        output.status.success(),
        "{}\n{}\n{}",
        output.status,
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
}

#[test]
fn python() {
    let (tests, venv) = (tests().join("python"), installed("sdk-venv"));
    assert_installed(&tests.join("requirements.txt"), &venv.join("installed"));
    let python = venv.join("bin/python");
    beside_agent(&[python.into(), "-B".into(), "-m".into(), "pytest".into(), "-q".into(), tests.into()]);
}

#[test]
fn javascript() {
    let (tests, node) = (tests().join("js"), installed("node/bin/node"));
    assert_installed(&tests.join("package-lock.json"), &tests.join("node_modules/installed"));
    // The tests of one file run one after another, files side by side.
    let mut files: Vec<PathBuf> = fs::read_dir(&tests)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.to_str().is_some_and(|path| path.ends_with(".test.js")))
        .collect();
    files.sort();
    assert!(!files.is_empty());
    let mut command = vec![node.into(), "--test".into(), "--test-timeout=300000".into()];
    command.extend(files.into_iter().map(OsString::from));
    beside_agent(&command);
}
