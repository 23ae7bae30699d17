//! Folders and entries by RPC.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::symlink;

use connectrpc::ErrorCode;
use http::Method;
use sandbar_proto::filesystem::{
    FileType, ListDirRequest, MakeDirRequest, MoveRequest, RemoveRequest, StatRequest,
};
use serde_json::json;

use crate::harness::Agent;

fn stat(path: String) -> StatRequest {
    StatRequest { path, ..Default::default() }
}

fn list(path: String, depth: u32) -> ListDirRequest {
    ListDirRequest { path, depth, ..Default::default() }
}

fn make(path: String) -> MakeDirRequest {
    MakeDirRequest { path, ..Default::default() }
}

fn r#move(source: String, destination: String) -> MoveRequest {
    MoveRequest { source, destination, ..Default::default() }
}

#[tokio::test]
async fn an_entry_is_described_in_full() {
    let agent = Agent::start().await;
    let rpc = agent.filesystem();
    fs::write(agent.path("file"), "12345").unwrap();
    symlink("file", agent.path("link")).unwrap();

    let entry = rpc.stat(stat(agent.at("file"))).await.unwrap().into_owned().entry.into_option().unwrap();
    assert_eq!(
        (entry.name.as_str(), entry.path, entry.size, entry.mode),
        ("file", agent.at("file"), 5, 0o644)
    );
    assert_eq!(
        (entry.permissions.as_str(), entry.owner.as_str(), entry.group.as_str()),
        ("-rw-r--r--", "root", "root")
    );
    assert_eq!(entry.r#type.as_known(), Some(FileType::FILE_TYPE_FILE));
    assert!(entry.modified_time.seconds > 1_600_000_000 && entry.symlink_target.is_none());

    let link = rpc.stat(stat(agent.at("link"))).await.unwrap().into_owned().entry.into_option().unwrap();
    let target = fs::canonicalize(agent.path("file")).unwrap();
    assert_eq!((link.name.as_str(), link.size, link.symlink_target.as_deref()), ("link", 5, target.to_str()));

    let error = rpc.stat(stat(agent.at("none"))).await.unwrap_err();
    assert_eq!(error.code, ErrorCode::NotFound);
}

#[tokio::test]
async fn folders_are_made_listed_moved_and_removed() {
    let agent = Agent::start().await;
    let rpc = agent.filesystem();
    let made =
        rpc.make_dir(make(agent.at("root/a/b"))).await.unwrap().into_owned().entry.into_option().unwrap();
    assert_eq!((made.name.as_str(), made.permissions.as_str()), ("b", "drwxr-xr-x"));
    assert_eq!(rpc.make_dir(make(agent.at("root/a"))).await.unwrap_err().code, ErrorCode::AlreadyExists);
    fs::write(agent.path("root/file"), "").unwrap();
    assert_eq!(rpc.make_dir(make(agent.at("root/file"))).await.unwrap_err().code, ErrorCode::InvalidArgument);
    assert_eq!(
        rpc.make_dir(make(agent.at("root/file/x"))).await.unwrap_err().code,
        ErrorCode::InvalidArgument
    );

    let names = async |depth| {
        let listed = rpc.list_dir(list(agent.at("root"), depth)).await.unwrap().into_owned().entries;
        listed.into_iter().map(|entry| entry.path.replace(&agent.at("root/"), "")).collect::<Vec<_>>()
    };
    assert_eq!(names(0).await, ["a", "file"]);
    assert_eq!(names(2).await, ["a", "a/b", "file"]);
    assert_eq!(rpc.list_dir(list(agent.at("none"), 1)).await.unwrap_err().code, ErrorCode::NotFound);
    assert_eq!(
        rpc.list_dir(list(agent.at("root/file"), 1)).await.unwrap_err().code,
        ErrorCode::InvalidArgument
    );

    let moved = rpc
        .r#move(r#move(agent.at("root/file"), agent.at("root/new/place/file")))
        .await
        .unwrap()
        .into_owned();
    assert_eq!(moved.entry.path, agent.at("root/new/place/file"));
    let error = rpc.r#move(r#move(agent.at("root/file"), agent.at("root/other/file"))).await.unwrap_err();
    assert_eq!(error.code, ErrorCode::NotFound);
    assert!(!agent.path("root/other").exists());

    for _ in 0..2 {
        rpc.remove(RemoveRequest { path: agent.at("root"), ..Default::default() }).await.unwrap();
        assert!(!agent.path("root").exists());
    }
    let error = rpc.remove(RemoveRequest { path: "/".into(), ..Default::default() }).await.unwrap_err();
    assert_eq!(error.code, ErrorCode::InvalidArgument);
}

#[tokio::test]
async fn metadata_belongs_to_the_file() {
    let agent = Agent::start().await;
    let rpc = agent.filesystem();
    let url = format!("/files?path={}", agent.at("file"));
    let octets = ("content-type", "application/octet-stream");
    let headers = [octets, ("X-Metadata-Author", "me"), ("x-metadata-kind", "note")];
    let reply = agent.call(Method::POST, &url, &headers, "x").await;
    assert_eq!(reply.json()[0]["metadata"], json!({ "author": "me", "kind": "note" }));

    let moved = rpc.r#move(r#move(agent.at("file"), agent.at("moved"))).await.unwrap().into_owned();
    symlink("moved", agent.path("link")).unwrap();
    let listed = rpc.list_dir(list(agent.dir.path().to_str().unwrap().into(), 1)).await.unwrap().into_owned();
    let stated = rpc.stat(stat(agent.at("link"))).await.unwrap().into_owned().entry.into_option().unwrap();
    let in_list = listed.entries.into_iter().find(|entry| entry.name == "moved").unwrap();
    for entry in [moved.entry.into_option().unwrap(), in_list, stated] {
        let metadata: BTreeMap<_, _> = entry.metadata.into_iter().collect();
        let expected = [("author", "me"), ("kind", "note")].map(|(k, v)| (k.to_owned(), v.to_owned()));
        assert_eq!(metadata, BTreeMap::from(expected), "{}", entry.name);
    }
}
