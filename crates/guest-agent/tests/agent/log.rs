//! What the agent tells its host of what happened.

use http::{Method, Request, StatusCode};
use http_body_util::{BodyExt as _, Empty};
use hyper_util::client::legacy::Client;
use hyper_util::rt::TokioExecutor;
use sandbar_proto::process::{PTY, StartRequest, pty};
use sandbar_types::log::{GuestEntry, GuestEvent, GuestLogHead, OutputStream};

use crate::harness::{Agent, TOKEN, start};

/// The log as the host reads it.
struct Told {
    body: hyper::body::Incoming,
    rest: Vec<u8>,
    instance: String,
}

impl Told {
    async fn open(agent: &Agent, query: &str) -> Self {
        let client = Client::builder(TokioExecutor::new()).build_http::<Empty<bytes::Bytes>>();
        let request = Request::get(format!("http://{}/logs{query}", agent.address))
            .header("x-access-token", TOKEN)
            .body(Empty::new())
            .unwrap();
        let response = client.request(request).await.unwrap();
        assert_eq!(response.status(), StatusCode::OK);
        let mut told = Self { body: response.into_body(), rest: Vec::new(), instance: String::new() };
        let head: GuestLogHead = serde_json::from_slice(&told.line().await).unwrap();
        told.instance = head.instance;
        told
    }

    async fn line(&mut self) -> Vec<u8> {
        loop {
            if let Some(end) = self.rest.iter().position(|byte| *byte == b'\n') {
                let rest = self.rest.split_off(end + 1);
                return std::mem::replace(&mut self.rest, rest);
            }
            let frame = self.body.frame().await.expect("the log does not end").unwrap();
            self.rest.extend_from_slice(&frame.into_data().unwrap());
        }
    }

    async fn entry(&mut self) -> GuestEntry {
        serde_json::from_slice(&self.line().await).unwrap()
    }

    /// Reads up to the end of a process.
    async fn until_end(&mut self) -> Vec<GuestEntry> {
        let mut all = Vec::new();
        loop {
            all.push(self.entry().await);
            if all.last().unwrap().event == GuestEvent::ProcessEnd {
                return all;
            }
        }
    }
}

#[tokio::test]
async fn the_host_is_told_of_processes_as_they_go_and_goes_on_where_it_was() {
    let agent = Agent::start().await;
    let mut told = Told::open(&agent, "").await;
    let done = agent.sh("echo one; echo two >&2; printf three; exit 4").await;
    assert_eq!(done.end.exit_code, 4);
    let all = told.until_end().await;
    assert_eq!(all[0].event, GuestEvent::ProcessStart);
    let mut lines: Vec<_> = all
        .iter()
        .filter(|entry| entry.event == GuestEvent::Output)
        .map(|entry| (entry.message.as_str(), entry.stream))
        .collect();
    // Two pipes have no order between them.
    lines.sort_unstable_by_key(|(line, _)| *line);
    let (out, err) = (Some(OutputStream::Stdout), Some(OutputStream::Stderr));
    assert_eq!(lines, [("one", out), ("three", out), ("two", err)]);
    let end = all.last().unwrap();
    assert_eq!((end.exit_code, end.message.as_str()), (Some(4), "ended: exit status 4"));
    assert!(all.iter().all(|entry| entry.process.as_ref().is_some_and(|p| p.pid == done.pid)));

    // Somebody else, who has heard of some.
    let after = all[0].seq;
    let mut again = Told::open(&agent, &format!("?instance={}&after={after}", told.instance)).await;
    assert_eq!(again.until_end().await, all[1..]);
    // What was heard of another agent counts for nothing.
    let mut other = Told::open(&agent, &format!("?instance=other&after={after}")).await;
    assert_eq!(other.until_end().await, all);
}

#[tokio::test]
async fn what_cannot_be_started_is_told_and_what_is_typed_is_not() {
    let agent = Agent::start().await;
    let mut told = Told::open(&agent, "").await;
    let missing = agent.run(start("/no/such/program", &[]), Default::default()).await;
    assert!(missing.is_err());
    let refused = told.entry().await;
    assert_eq!(refused.event, GuestEvent::ProcessRefused);
    assert!(refused.message.contains("/no/such/program"), "{}", refused.message);

    let size = pty::Size { cols: 80, rows: 24, ..Default::default() };
    let terminal = StartRequest {
        pty: PTY { size: size.into(), ..Default::default() }.into(),
        ..start("/bin/sh", &["-c", "echo what-is-on-the-screen"])
    };
    let done = agent.run(terminal, Default::default()).await.unwrap();
    assert!(String::from_utf8_lossy(&done.pty).contains("what-is-on-the-screen"));
    let all = told.until_end().await;
    let events: Vec<_> = all.iter().map(|entry| entry.event).collect();
    assert_eq!(events, [GuestEvent::ProcessStart, GuestEvent::ProcessEnd]);
}

#[tokio::test]
async fn another_sandbox_has_no_log_and_strangers_read_none() {
    let agent = Agent::start().await;
    agent.sh("echo of-the-one-before").await;
    assert_eq!(agent.request(Method::GET, "/logs", &[], "").await.status, StatusCode::UNAUTHORIZED);
    // The same again, as after a pause: the log is still there.
    let same = serde_json::json!({ "accessToken": TOKEN }).to_string();
    assert_eq!(agent.call(Method::POST, "/init", &[], same).await.status, StatusCode::NO_CONTENT);
    let mut told = Told::open(&agent, "").await;
    assert_eq!(told.until_end().await.len(), 3);
    let other = serde_json::json!({ "accessToken": "another" }).to_string();
    assert_eq!(agent.call(Method::POST, "/init", &[], other).await.status, StatusCode::NO_CONTENT);
    let back = serde_json::json!({ "accessToken": TOKEN }).to_string();
    let reply = agent.request(Method::POST, "/init", &[("x-access-token", "another")], back).await;
    assert_eq!(reply.status, StatusCode::NO_CONTENT);
    let mut told = Told::open(&agent, "").await;
    agent.sh("echo of-this-one").await;
    let all = told.until_end().await;
    assert_eq!(
        all.iter().map(|entry| entry.message.as_str()).filter(|m| m.starts_with("of-")).collect::<Vec<_>>(),
        ["of-this-one"]
    );
    assert_eq!(all.len(), 3);
}
