//! The agent's own life: readiness, and a restart by init.

use http::{Method, StatusCode};
use tokio::io::AsyncReadExt;
use tokio::net::TcpListener;

use crate::harness::{Agent, TOKEN};

async fn report(listener: &TcpListener) -> serde_json::Value {
    let (mut stream, _) = listener.accept().await.unwrap();
    let mut line = String::new();
    stream.read_to_string(&mut line).await.unwrap();
    assert!(line.ends_with('\n') && line.lines().count() == 1, "{line:?}");
    serde_json::from_str(&line).unwrap()
}

#[tokio::test]
async fn a_new_agent_reports_that_it_is_ready_and_a_restarted_one_that_it_is_back() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port().to_string();
    let mut agent = Agent::start_with(
        &["--ready-port", &port, "--predecessor", "was killed by signal 9"],
        serde_json::json!({}),
    )
    .await;
    let boot_id = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap();

    let ready = report(&listener).await;
    assert_eq!((ready["event"].as_str(), ready["boot_id"].as_str()), (Some("ready"), Some(boot_id.trim())));
    assert_eq!(ready["version"], env!("CARGO_PKG_VERSION"));
    agent.restart();
    let restarted = report(&listener).await;
    assert_eq!(restarted["event"], "restarted");
    assert_eq!(restarted["reason"], "was killed by signal 9");
}

#[tokio::test]
async fn the_host_may_begin_to_listen_later() {
    let reserved = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = reserved.local_addr().unwrap();
    drop(reserved);
    let agent = Agent::bare(&["--ready-port", &address.port().to_string()]);
    // The agent serves, so its first attempts have met a closed port or are about to.
    assert_eq!(agent.request(Method::GET, "/health", &[], "").await.status, StatusCode::NO_CONTENT);
    let listener = TcpListener::bind(address).await.unwrap();
    assert_eq!(report(&listener).await["event"], "ready");
}

#[tokio::test]
async fn a_restarted_agent_keeps_token_and_environment() {
    let mut agent = Agent::start_with(&[], serde_json::json!({ "envVars": { "A": "1" } })).await;
    agent.restart();
    assert_eq!(agent.request(Method::GET, "/envs", &[], "").await.status, StatusCode::UNAUTHORIZED);
    // The gateway has no special rights any more.
    let reply = agent.request(Method::POST, "/init", &[], r#"{"accessToken":"mine"}"#).await;
    assert_eq!(reply.status, StatusCode::UNAUTHORIZED);
    let reply = agent.request(Method::GET, "/envs", &[("x-access-token", TOKEN)], "").await;
    assert_eq!(reply.text(), r#"{"A":"1"}"#);
    assert_eq!(agent.sh("echo $A").await.out(), "1\n");
}

#[test]
fn a_command_line_that_makes_no_sense_is_refused() {
    let agent = env!("CARGO_BIN_EXE_sandbar-guest-agent");
    let run = |args: &[&str]| std::process::Command::new(agent).args(args).output().unwrap();
    let refused = run(&["--bogus"]);
    assert_eq!(refused.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&refused.stderr).contains("--bogus"));
    let version = run(&["--version"]);
    assert_eq!(
        String::from_utf8_lossy(&version.stdout).trim(),
        concat!("sandbar-guest-agent ", env!("CARGO_PKG_VERSION"))
    );
}

#[test]
fn init_refuses_to_be_anything_but_pid_1() {
    let refused = std::process::Command::new(env!("CARGO_BIN_EXE_sandbar-init")).output().unwrap();
    assert_eq!(refused.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&refused.stderr).contains("PID 1"));
}
