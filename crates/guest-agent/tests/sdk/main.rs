//! The official, unmodified E2B SDKs judge the agent: the tests of `tests/sdk/`, run beside a real agent. Needs root and what
//! `tests/sdk/install.sh` installs. The code interpreter's server, which asks the agent who may run code, is judged in the same way: the
//! tests of `tests/code-interpreter/`, and its `install.sh`.

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

/// The code interpreter's.
fn code_interpreter() -> PathBuf {
    tests().join("../code-interpreter").canonicalize().unwrap()
}

/// Where `install.sh` puts Python, and `scripts/node.sh` Node.
fn installed(program: &str) -> PathBuf {
    Path::new(env!("CARGO_TARGET_TMPDIR")).parent().unwrap().join(program)
}

/// Whether what is installed is what the tests were written for: a test against another version of an SDK tells nothing.
fn assert_installed(wanted: &Path, installed: &Path) {
    let versions = fs::read(wanted).unwrap();
    assert!(
        fs::read(installed).is_ok_and(|installed| installed == versions),
        "{} is not installed as the tests want it: run tests/sdk/install.sh and tests/code-interpreter/install.sh",
        wanted.display()
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

/// Runs a command beside an agent and a code interpreter's server.
fn beside_server(command: &[OsString]) {
    let (template, venv) = (
        code_interpreter().join("../../templates/code-interpreter").canonicalize().unwrap(),
        installed("code-interpreter-venv"),
    );
    assert_installed(&template.join("requirements.txt"), &venv.join("installed"));
    let mut whole = vec![code_interpreter().join("beside-server.sh").into(), venv.join("bin/python").into()];
    whole.extend_from_slice(command);
    beside_agent(&whole);
}

#[test]
fn code_interpreter_by_python() {
    let (tests, venv) = (code_interpreter().join("sdk_python"), installed("sdk_python-venv"));
    assert_installed(&tests.join("requirements.txt"), &venv.join("installed"));
    let python = venv.join("bin/python");
    beside_server(&[python.into(), "-B".into(), "-m".into(), "pytest".into(), "-q".into(), tests.into()]);
}

#[test]
fn code_interpreter_by_javascript() {
    let (tests, node) = (code_interpreter().join("sdk_js"), installed("node/bin/node"));
    assert_installed(&tests.join("package-lock.json"), &tests.join("node_modules/installed"));
    let test = tests.join("code.test.js");
    // A refused cell leaves a timer of the SDK's behind, for which Node would wait.
    let force_exit = "--test-force-exit".into();
    beside_server(&[node.into(), "--test".into(), force_exit, "--test-timeout=300000".into(), test.into()]);
}
