//! Watches of whole trees, and what happens when there is more than anybody reads.

use std::fs;
use std::io::Write;

use connectrpc::ErrorCode;
use connectrpc::client::CallOptions;
use http::StatusCode;
use sandbar_proto::filesystem::EventType::{
    EVENT_TYPE_CREATE as CREATE, EVENT_TYPE_REMOVE as REMOVE, EVENT_TYPE_RENAME as RENAME,
    EVENT_TYPE_WRITE as WRITE,
};
use sandbar_proto::filesystem::{MakeDirRequest, MoveRequest, RemoveRequest};

use crate::files::put;
use crate::harness::Agent;
use crate::watch::{Polled, polled, stream, streamed};

#[tokio::test]
async fn a_file_in_a_folder_that_was_just_made_is_told() {
    let agent = Agent::start().await;
    let rpc = agent.filesystem();
    fs::create_dir(agent.path("top")).unwrap();
    let watcher = Polled::create(&agent, polled(agent.at("top"), true)).await.unwrap();
    let mut watched = stream(&agent, streamed(agent.at("top"), true), CallOptions::default()).await.unwrap();
    for round in 0..50 {
        let folder = format!("a{round}/b");
        let made = MakeDirRequest { path: agent.at(&format!("top/{folder}")), ..Default::default() };
        rpc.make_dir(made).await.unwrap();
        let file = format!("{folder}/file");
        assert_eq!(put(&agent, &agent.at(&format!("top/{file}")), "x").await.status, StatusCode::OK);
        for told in [watcher.told().await, watched.told_until(&file, WRITE).await] {
            for name in [&format!("a{round}"), &folder, &file] {
                let created = told.iter().filter(|(told, kind)| told == name && *kind == CREATE).count();
                assert_eq!(created, 1, "{name} in {told:?}");
            }
            // What was found in a folder that is new may be told before the last of what the folder above had to tell of it.
            assert!(told.contains(&(file.clone(), WRITE)), "{told:?}");
        }
    }
}

#[tokio::test]
async fn trees_come_and_go() {
    let agent = Agent::start().await;
    let rpc = agent.filesystem();
    fs::create_dir_all(agent.path("outside/tree/deep")).unwrap();
    fs::write(agent.path("outside/tree/deep/file"), "x").unwrap();
    fs::create_dir(agent.path("top")).unwrap();
    let mut watched = stream(&agent, streamed(agent.at("top"), true), CallOptions::default()).await.unwrap();
    let r#move = |from: &str, to: &str| MoveRequest {
        source: agent.at(from),
        destination: agent.at(to),
        ..Default::default()
    };

    rpc.r#move(r#move("outside/tree", "top/tree")).await.unwrap();
    let told = watched.told_until("tree/deep/file", WRITE).await;
    assert_eq!(told.len(), 4, "{told:?}");
    put(&agent, &agent.at("top/tree/deep/file"), "y").await;
    assert_eq!(watched.told().await, ("tree/deep/file".to_owned(), WRITE));

    rpc.r#move(r#move("top/tree", "outside/again")).await.unwrap();
    assert_eq!(watched.told().await, ("tree".to_owned(), RENAME));
    put(&agent, &agent.at("outside/again/deep/file"), "unseen").await;

    fs::create_dir_all(agent.path("top/short/lived")).unwrap();
    rpc.remove(RemoveRequest { path: agent.at("top/short"), ..Default::default() }).await.unwrap();
    let told = watched.told_until("short", REMOVE).await;
    assert!(told.iter().all(|(name, _)| name.starts_with("short")), "{told:?}");
    put(&agent, &agent.at("top/still"), "here").await;
    assert_eq!(watched.told().await, ("still".to_owned(), CREATE));
}

/// As many events as `count`, no two neighbours alike.
fn storm(agent: &Agent, count: usize) {
    let files = ["a", "b"].map(|name| {
        let path = agent.path("folder").join(format!("{name}{}", "n".repeat(240)));
        fs::File::create(path).unwrap()
    });
    for round in 0..count {
        (&files[round % 2]).write_all(b"x").unwrap();
    }
}

#[tokio::test]
async fn a_watcher_that_nobody_asks_says_what_it_lost_and_goes_on() {
    let agent = Agent::start().await;
    fs::create_dir(agent.path("folder")).unwrap();
    let watcher = Polled::create(&agent, polled(agent.at("folder"), true)).await.unwrap();
    storm(&agent, 50_000);
    assert_eq!(watcher.events().await.unwrap_err().code, ErrorCode::ResourceExhausted);
    fs::create_dir(agent.path("folder/new")).unwrap();
    fs::write(agent.path("folder/new/file"), "").unwrap();
    let told = watcher.told().await;
    assert_eq!(told, [("new".to_owned(), CREATE), ("new/file".to_owned(), CREATE)]);
    assert!(agent.peak_memory_mib() < 64, "{} MiB", agent.peak_memory_mib());
}

#[tokio::test]
async fn a_stream_that_nobody_reads_ends_with_an_error_and_no_memory() {
    let agent = Agent::start().await;
    fs::create_dir(agent.path("folder")).unwrap();
    let mut watched =
        stream(&agent, streamed(agent.at("folder"), false), CallOptions::default()).await.unwrap();
    storm(&agent, 400_000);
    let error = loop {
        match watched.next().await {
            Ok(Some(_)) => {}
            Ok(None) => panic!("the stream ended without an error"),
            Err(error) => break error,
        }
    };
    assert_eq!(error.code, ErrorCode::ResourceExhausted, "{error:?}");
    assert!(agent.peak_memory_mib() < 64, "{} MiB", agent.peak_memory_mib());
}
