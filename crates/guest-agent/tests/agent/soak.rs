//! Much of everything: what it costs must not grow with how much there was.

use std::collections::BTreeSet;

use connectrpc::client::CallOptions;
use sandbar_proto::process::StartRequest;
use sandbar_proto::process::process_selector::Selector;
use sandbar_proto::process::{CloseStdinRequest, ListRequest, ProcessSelector};
use tokio::task::JoinSet;

use crate::harness::{Agent, Following, start};

/// What an allocator keeps for itself, and the ended processes that are kept for a while.
const SLACK_KIB: u64 = 8 << 10;

async fn short_processes(agent: &Agent, count: usize) {
    const AT_ONCE: usize = 8;
    for _ in 0..count / AT_ONCE {
        let runs = (0..AT_ONCE).map(|n| {
            let text = n.to_string();
            async move {
                let done = agent.run(start("/bin/echo", &[&text]), CallOptions::default()).await.unwrap();
                assert_eq!((done.out().trim(), done.end.exit_code), (text.as_str(), 0));
            }
        });
        futures::future::join_all(runs).await;
    }
}

#[tokio::test]
async fn a_thousand_short_processes_leave_nothing_behind() {
    let agent = Agent::start().await;
    short_processes(&agent, 200).await;
    let (memory, descriptors) = (agent.memory_kib(), agent.descriptors());
    short_processes(&agent, 1000).await;
    let (after, descriptors_after) = (agent.memory_kib(), agent.descriptors());
    assert!(after < memory + SLACK_KIB, "{memory} KiB before, {after} KiB after");
    assert!(
        descriptors_after <= descriptors + 8,
        "{descriptors} descriptors before, {descriptors_after} after"
    );
    assert!(agent.processes().list(ListRequest::default()).await.unwrap().into_owned().processes.is_empty());
}

/// A hundred processes with a stream each, and more from every one than its share of the memory.
#[tokio::test]
async fn a_hundred_streams_at_once_cost_little() {
    const STREAMS: usize = 100;
    const LENGTH: usize = 600_000;
    // On a busy machine a reader may have to wait for its turn.
    let agent = Agent::start_with(&["--stall-limit-ms", "600000"], serde_json::json!({})).await;
    let script = format!("read line; head -c {LENGTH} /dev/zero | tr '\\0' x; echo $line >&2");
    let mut followed = Vec::new();
    for _ in 0..STREAMS {
        let request = StartRequest { stdin: None, ..start("/bin/sh", &["-c", &script]) };
        let mut following = Following::new(agent.processes().start(request).await.unwrap());
        following.pid().await;
        followed.push(following);
    }
    let pids: BTreeSet<u32> = followed.iter().map(|following| following.so_far.pid).collect();
    assert_eq!(pids.len(), STREAMS);
    let idle = agent.memory_kib();
    for pid in &pids {
        let selector = ProcessSelector { selector: Some(Selector::Pid(*pid)), ..Default::default() };
        let close = CloseStdinRequest { process: selector.into(), ..Default::default() };
        agent.processes().close_stdin(close).await.unwrap();
    }
    let mut all = JoinSet::new();
    for following in followed {
        all.spawn(async move {
            let done = following.finish().await.unwrap();
            assert_eq!((done.stdout.len(), done.dropped, done.end.exit_code), (LENGTH, 0, 0));
        });
    }
    while let Some(outcome) = all.join_next().await {
        outcome.unwrap();
    }
    let peak = agent.peak_memory_mib();
    // What all rings share is 32 MiB; each stream has buffers of its own on top.
    assert!(peak < idle / 1024 + 96, "{idle} KiB idle, {peak} MiB at most");
}
