//! Much output, slow readers, long silence.

use connectrpc::client::CallOptions;
use sandbar_proto::process::process_event::{Event, data_event::Output};
use sandbar_proto::process::process_selector::Selector;
use sandbar_proto::process::{
    CloseStdinRequest, ConnectRequest, ConnectResponse, ProcessSelector, StartRequest,
};

use crate::harness::{Agent, Following, start};

const LENGTH: usize = 50_000_000;
/// The agent itself, unoptimised, with its threads and buffers: far below the output.
const MEMORY_MIB: u64 = 40;

fn flood() -> StartRequest {
    start("/bin/sh", &["-c", &format!("head -c {LENGTH} /dev/zero | tr '\\0' x")])
}

#[tokio::test]
async fn fifty_megabytes_arrive_whole_in_little_memory() {
    let agent = Agent::start().await;
    let done = agent.run(flood(), CallOptions::default()).await.unwrap();
    assert_eq!((done.stdout.len(), done.dropped, done.end.exit_code), (LENGTH, 0, 0));
    assert!(done.stdout.iter().all(|byte| *byte == b'x'));
    assert!(agent.peak_memory_mib() < MEMORY_MIB, "{} MiB", agent.peak_memory_mib());
}

#[tokio::test]
async fn a_reader_that_stands_still_neither_stops_the_process_nor_fills_memory() {
    let agent = Agent::start_with(&["--stall-limit-ms", "300"], serde_json::json!({})).await;
    let mut stuck = Following::new(agent.processes().start(flood()).await.unwrap());
    let pid = stuck.pid().await;

    // Another caller, interested in the end alone, reads on meanwhile.
    let selector = ProcessSelector { selector: Some(Selector::Pid(pid)), ..Default::default() };
    let request = ConnectRequest { process: selector.into(), ..Default::default() };
    let mut watcher = agent.processes().connect(request).await.unwrap();
    let mut code = None;
    while let Some(message) = watcher.message::<ConnectResponse>().await.unwrap() {
        match message.to_owned_message().event.into_option().unwrap().event.unwrap() {
            Event::Data(data) => assert!(matches!(data.output, Some(Output::Stdout(_)))),
            Event::End(end) => code = Some(end.exit_code),
            Event::Start(_) | Event::Keepalive(_) => {}
        }
    }
    assert_eq!(code, Some(0));

    let done = stuck.finish().await.unwrap();
    assert!(done.dropped > 0);
    assert_eq!(done.stdout.len() as u64 + done.dropped, LENGTH as u64);
    assert!(agent.peak_memory_mib() < MEMORY_MIB, "{} MiB", agent.peak_memory_mib());
}

#[tokio::test]
async fn single_bytes_cost_no_more_than_long_lines() {
    let agent = Agent::start().await;
    // Unbuffered: every byte is a write, and mostly a read, of its own.
    let script = "dd if=/dev/zero of=/dev/stdout bs=1 count=300000 status=none";
    let done = agent.sh(script).await;
    assert_eq!((done.stdout.len(), done.dropped), (300_000, 0));
    assert!(agent.peak_memory_mib() < MEMORY_MIB, "{} MiB", agent.peak_memory_mib());
}

/// A character that two writes make is in two chunks, and whole when they are put together.
#[tokio::test]
async fn a_character_in_two_pieces_arrives_whole() {
    let agent = Agent::start().await;
    let script = r"printf '\342'; echo >&2; while [ ! -e go ]; do sleep 0.01; done; printf '\202\254'";
    let mut request = start("/bin/sh", &["-c", script]);
    request.process.get_or_insert_default().cwd = Some(agent.at(""));
    let mut following = Following::new(agent.processes().start(request).await.unwrap());
    while following.so_far.stdout.is_empty() {
        assert!(following.step().await.unwrap());
    }
    assert_eq!(following.so_far.stdout, b"\xe2");
    std::fs::write(agent.path("go"), "").unwrap();
    assert_eq!(following.finish().await.unwrap().out(), "€");
}

#[tokio::test]
async fn a_silent_stream_is_kept_alive() {
    let agent = Agent::start().await;
    let rpc = agent.processes();
    let request = StartRequest { stdin: None, ..start("cat", &[]) };
    let options = CallOptions::default().with_header("keepalive-ping-interval", "1");
    let mut following = Following::new(rpc.start_with_options(request, options).await.unwrap());
    while following.so_far.keepalives == 0 {
        assert!(following.step().await.unwrap());
    }
    let selector =
        ProcessSelector { selector: Some(Selector::Pid(following.so_far.pid)), ..Default::default() };
    rpc.close_stdin(CloseStdinRequest { process: selector.into(), ..Default::default() }).await.unwrap();
    assert_eq!(following.finish().await.unwrap().end.exit_code, 0);
}
