//! `with-postgres` as a real program.

#![expect(clippy::unwrap_used, reason = "tests")]

use std::fs;
use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

/// Runs with a temporary folder of its own, so that a test sees its own folders only.
fn with_postgres(parent: &TempDir, shell: &str) -> Command {
    use std::os::unix::fs::PermissionsExt as _;
    fs::set_permissions(parent.path(), fs::Permissions::from_mode(0o755)).unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_with-postgres"));
    command.env("TMPDIR", parent.path()).env_remove("SANDBAR_TEST_POSTGRES").args(["--", "sh", "-c", shell]);
    command
}

fn folders(parent: &TempDir) -> Vec<PathBuf> {
    fs::read_dir(parent.path()).unwrap().map(|entry| entry.unwrap().path()).collect()
}

fn signal(child: &Child, signal: Signal) {
    kill_process(Pid::from_raw(child.id().try_into().unwrap()).unwrap(), signal).unwrap();
}

fn first_line(child: &mut Child) -> String {
    let mut line = String::new();
    BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
    line
}

fn postmaster(folder: &Path) -> i32 {
    let text = fs::read_to_string(folder.join("data/postmaster.pid")).unwrap();
    text.lines().next().unwrap().parse().unwrap()
}

/// An ended process whose parent has not yet asked for its status has no working folder.
fn is_alive(pid: i32) -> bool {
    fs::read_link(format!("/proc/{pid}/cwd")).is_ok()
}

#[test]
fn gives_the_command_a_server_and_ends_with_its_code() {
    let parent = tempfile::tempdir().unwrap();
    for (shell, code) in [
        ("psql -qtAd \"$SANDBAR_TEST_POSTGRES\" -c 'SELECT 1' | grep -qx 1", 0),
        ("exit 42", 42),
        ("kill -KILL $$", 137),
    ] {
        let status = with_postgres(&parent, shell).status().unwrap();
        assert_eq!(status.code(), Some(code), "{shell}");
        assert_eq!(folders(&parent), Vec::<PathBuf>::new());
    }
    let mut none = with_postgres(&parent, "");
    let output = none.env("PATH", "/nowhere").output().unwrap();
    assert!(!output.status.success() && String::from_utf8_lossy(&output.stderr).contains("cannot run sh"));
    assert_eq!(folders(&parent), Vec::<PathBuf>::new());
}

#[test]
fn a_signal_ends_the_command_and_then_the_server() {
    let parent = tempfile::tempdir().unwrap();
    let shell = "trap 'exit 7' TERM; echo ready; while :; do sleep 0.05; done";
    let mut child = with_postgres(&parent, shell).stdout(Stdio::piped()).spawn().unwrap();
    assert_eq!(first_line(&mut child), "ready\n");
    let server = postmaster(&folders(&parent)[0]);
    signal(&child, Signal::TERM);
    assert_eq!(child.wait().unwrap().code(), Some(7));
    assert!(!is_alive(server));
    assert_eq!(folders(&parent), Vec::<PathBuf>::new());
}

#[test]
fn what_a_killed_run_left_is_cleared_by_the_next() {
    let parent = tempfile::tempdir().unwrap();
    let mut child = with_postgres(&parent, "echo ready; cat")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    assert_eq!(first_line(&mut child), "ready\n");
    let server = postmaster(&folders(&parent)[0]);
    signal(&child, Signal::KILL);
    child.wait().unwrap();
    assert!(is_alive(server), "the server outlives its starter");
    assert!(with_postgres(&parent, "true").status().unwrap().success());
    assert!(!is_alive(server));
    assert_eq!(folders(&parent), Vec::<PathBuf>::new());
}
