//! What an upload makes of what was there, and leaves behind when it fails.

use std::ffi::CStr;
use std::fs;
use std::io::Write;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::Path;

use bytes::Bytes;
use http::{Method, StatusCode};
use http_body::Frame;
use http_body_util::{BodyExt, StreamBody};
use rustix::mount::{MountFlags, UnmountFlags, mount, unmount};
use serde_json::json;
use tokio::sync::mpsc;

use crate::files::{OCTETS, get, mode, put, url};
use crate::harness::{Agent, Reply, TOKEN};

const NOBODY: u32 = 65534;

fn names(folder: &Path) -> Vec<String> {
    let mut names: Vec<_> = fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

#[tokio::test]
async fn an_existing_file_keeps_mode_and_owner_and_links_stay_links() {
    let agent = Agent::start().await;
    let file = agent.path("script");
    fs::write(&file, "old").unwrap();
    std::os::unix::fs::chown(&file, Some(NOBODY), Some(NOBODY)).unwrap();
    fs::set_permissions(&file, fs::Permissions::from_mode(0o4750)).unwrap();
    symlink("script", agent.path("link")).unwrap();
    symlink("made-by-link", agent.path("dangling")).unwrap();

    assert_eq!(put(&agent, &agent.at("link"), "new").await.status, StatusCode::OK);
    let metadata = fs::metadata(&file).unwrap();
    assert_eq!(
        (fs::read_to_string(&file).unwrap().as_str(), metadata.uid(), mode(&file)),
        ("new", NOBODY, 0o4750)
    );
    assert!(fs::symlink_metadata(agent.path("link")).unwrap().is_symlink());

    assert_eq!(put(&agent, &agent.at("dangling"), "x").await.status, StatusCode::OK);
    assert_eq!(fs::read_to_string(agent.path("made-by-link")).unwrap(), "x");
}

/// A folder with a disk of its own.
struct Disk<'a>(&'a Path);

impl<'a> Disk<'a> {
    fn mount(at: &'a Path, kind: &str, options: Option<&CStr>) -> Self {
        fs::create_dir(at).unwrap();
        mount(kind, at, kind, MountFlags::empty(), options).unwrap();
        Self(at)
    }
}

impl Drop for Disk<'_> {
    fn drop(&mut self) {
        let _ = unmount(self.0, UnmountFlags::DETACH);
    }
}

#[tokio::test]
async fn a_full_disk_leaves_the_old_file_and_nothing_else() {
    let agent = Agent::start().await;
    let folder = agent.path("disk");
    let _disk = Disk::mount(&folder, "tmpfs", Some(c"size=1m"));
    assert_eq!(put(&agent, &agent.at("disk/file"), "old").await.status, StatusCode::OK);
    for (name, content) in [("file", vec![1; 4 << 20]), ("other", vec![1; 4 << 20])] {
        let reply = put(&agent, &agent.at(&format!("disk/{name}")), content).await;
        assert_eq!(reply.json(), json!({ "code": 507, "message": "not enough disk space available" }));
    }
    assert_eq!(names(&folder), ["file"]);
    assert_eq!(fs::read_to_string(folder.join("file")).unwrap(), "old");
    assert_eq!(put(&agent, &agent.at("disk/file"), "new").await.status, StatusCode::OK);
}

/// The old content and the complete new one fit, but not both with the old one grown to the new one's size.
#[tokio::test]
async fn a_disk_that_is_full_in_the_end_leaves_the_old_file_too() {
    let agent = Agent::start().await;
    let folder = agent.path("disk");
    let _disk = Disk::mount(&folder, "tmpfs", Some(c"size=1m"));
    let old = vec![b'o'; 100 << 10];
    assert_eq!(put(&agent, &agent.at("disk/file"), old.clone()).await.status, StatusCode::OK);
    let reply = put(&agent, &agent.at("disk/file"), vec![b'n'; 600 << 10]).await;
    assert_eq!(reply.status, StatusCode::INSUFFICIENT_STORAGE, "{}", reply.text());
    assert!(fs::read(folder.join("file")).unwrap() == old);
    // Nothing is kept of it: the rest of the disk can be used.
    assert_eq!(put(&agent, &agent.at("disk/other"), vec![b'x'; 800 << 10]).await.status, StatusCode::OK);
}

#[tokio::test]
async fn a_file_is_more_than_its_content() {
    let agent = Agent::start().await;
    let file = agent.path("file");
    fs::write(&file, "a long first line\n").unwrap();
    fs::hard_link(&file, agent.path("other-name")).unwrap();
    let mut open = fs::OpenOptions::new().append(true).open(&file).unwrap();
    let before = fs::metadata(&file).unwrap();

    assert_eq!(put(&agent, &agent.at("file"), "short\n").await.status, StatusCode::OK);
    open.write_all(b"more\n").unwrap();
    assert_eq!(fs::read_to_string(agent.path("other-name")).unwrap(), "short\nmore\n");
    assert_eq!(fs::metadata(&file).unwrap().ino(), before.ino());
}

#[tokio::test]
async fn of_two_uploads_at_once_one_is_what_is_left() {
    let agent = Agent::start().await;
    for name in ["old", "new"] {
        if name == "old" {
            fs::write(agent.path(name), "old").unwrap();
        }
        let contents: Vec<Vec<u8>> = (b'a'..=b'd').map(|letter| vec![letter; 3_000_000]).collect();
        let path = agent.at(name);
        let uploads = contents.iter().map(|content| put(&agent, &path, content.clone()));
        for reply in futures::future::join_all(uploads).await {
            assert_eq!(reply.status, StatusCode::OK, "{}", reply.text());
        }
        assert!(contents.contains(&fs::read(&path).unwrap()), "{name}");
    }
}

#[tokio::test]
async fn an_upload_that_breaks_off_changes_nothing() {
    let agent = Agent::start().await;
    fs::write(agent.path("file"), "old").unwrap();
    let before = names(agent.dir.path());
    // It fails once the agent has what came before.
    let (breaks, broken) = tokio::sync::oneshot::channel();
    let failure = futures::stream::once(async move {
        let _gone = broken.await;
        Err(std::io::Error::other("the caller is gone"))
    });
    let first = futures::stream::iter([Ok(Frame::data(Bytes::from(vec![b'x'; 3 << 20])))]);
    let body = StreamBody::new(futures::StreamExt::chain(first, failure));
    let (path, headers) = (url(&agent.at("file"), ""), [("x-access-token", TOKEN), OCTETS]);
    let upload = agent.send(Method::POST, &path, &headers, BodyExt::boxed(body));
    let break_off = async {
        agent.until_open_without_a_name(3 << 20).await;
        breaks.send(()).unwrap();
    };
    let (sent, ()) = tokio::join!(upload, break_off);
    assert!(sent.is_err());
    agent.until_none_without_a_name().await;
    assert_eq!(names(agent.dir.path()), before);
    assert_eq!(fs::read_to_string(agent.path("file")).unwrap(), "old");
    // Nor does it keep the next one out.
    assert_eq!(get(&agent, &agent.at("file")).await.body, "old");
}

/// A body that does not end, and the way to let it.
fn endless() -> (impl http_body::Body<Data = Bytes, Error = std::io::Error> + Send + Sync, mpsc::Sender<()>) {
    let (going, mut gone) = mpsc::channel::<()>(1);
    let first = futures::stream::iter([Ok(Frame::data(Bytes::from(vec![b'x'; 3 << 20])))]);
    let rest = futures::stream::poll_fn(move |context| gone.poll_recv(context).map(|_| None));
    (StreamBody::new(futures::StreamExt::chain(first, rest)), going)
}

#[tokio::test]
async fn an_agent_that_is_killed_leaves_nothing_of_an_upload() {
    let mut agent = Agent::start().await;
    fs::write(agent.path("old"), "old").unwrap();
    for name in ["old", "new"] {
        let before = names(agent.dir.path());
        let (body, _going) = endless();
        let headers = [("x-access-token", TOKEN), OCTETS];
        let path = url(&agent.at(name), "");
        {
            let upload = agent.send(Method::POST, &path, &headers, BodyExt::boxed(body));
            let arrived = agent.until_open_without_a_name(3 << 20);
            tokio::select! {
                _ = upload => panic!("an upload without an end ended"),
                () = arrived => {}
            }
        }
        agent.restart();
        assert_eq!(names(agent.dir.path()), before);
    }
    assert_eq!(get(&agent, &agent.at("old")).await.body, "old");
}

#[tokio::test]
async fn metadata_is_replaced_as_a_whole() {
    let agent = Agent::start().await;
    let path = agent.at("file");
    let upload = async |content: &str, metadata: &[(&str, &str)]| {
        let headers = [&[OCTETS], metadata].concat();
        agent.call(Method::POST, &url(&path, ""), &headers, content.to_owned()).await
    };
    let kept = || {
        let output = std::process::Command::new("python3")
            .args([
                "-c",
                "import os,sys; f=sys.argv[1]; print({a: os.getxattr(f, a) for a in os.listxattr(f)})",
            ])
            .arg(&path)
            .output()
            .unwrap();
        String::from_utf8(output.stdout).unwrap().trim().to_owned()
    };
    let reply = upload("1", &[("X-Metadata-One", "1"), ("X-Metadata-Two", "2")]).await;
    assert_eq!(reply.json()[0]["metadata"], json!({ "one": "1", "two": "2" }));
    assert_eq!(kept(), "{'user.e2b.one': b'1', 'user.e2b.two': b'2'}");
    assert_eq!(upload("2", &[("X-Metadata-Two", "3")]).await.json()[0]["metadata"], json!({ "two": "3" }));
    assert_eq!(kept(), "{'user.e2b.two': b'3'}");

    let long = "v".repeat(3000);
    for bad in [("x-metadata-", "v"), ("x-metadata-k", long.as_str()), ("x-metadata-k", "a\tb")] {
        let reply = upload("3", &[bad]).await;
        assert_eq!(reply.status, StatusCode::BAD_REQUEST, "{bad:?}");
        assert_eq!(
            (fs::read_to_string(&path).unwrap().as_str(), kept().as_str()),
            ("2", "{'user.e2b.two': b'3'}")
        );
    }

    let reply = upload("4", &[]).await;
    assert_eq!(reply.json(), json!([{ "name": "file", "path": path, "type": "file" }]));
    assert_eq!(kept(), "{}");
}

#[tokio::test]
async fn where_metadata_cannot_be_kept_it_is_refused() {
    let agent = Agent::start().await;
    let folder = agent.path("disk");
    let _disk = Disk::mount(&folder, "ramfs", None);
    let path = agent.at("disk/file");
    assert_eq!(put(&agent, &path, "without").await.status, StatusCode::OK);
    for path in [path.clone(), agent.at("disk/new")] {
        let reply = agent.call(Method::POST, &url(&path, ""), &[OCTETS, ("x-metadata-k", "v")], "with").await;
        let message = format!("path '{path}': the filesystem does not keep metadata");
        assert_eq!(reply.json(), json!({ "code": 400, "message": message }));
    }
    assert_eq!(
        (names(&folder), fs::read_to_string(&path).unwrap()),
        (vec!["file".to_owned()], "without".into())
    );
}

#[tokio::test]
async fn where_no_file_can_be_without_a_name_it_is_written_in_place() {
    let agent = Agent::start().await;
    assert_eq!(put(&agent, "/proc/self/comm", "renamed").await.status, StatusCode::OK);
    assert_eq!(get(&agent, "/proc/self/comm").await.body, "renamed\n");
    assert_eq!(put(&agent, "/proc/self/no-such-file", "x").await.status, StatusCode::BAD_REQUEST);
}

/// The state of a file, as its reader is told it.
async fn state(agent: &Agent, name: &str) -> String {
    get(agent, &agent.at(name)).await.headers["etag"].to_str().unwrap().to_owned()
}

async fn put_if(agent: &Agent, name: &str, condition: (&str, &str), content: &'static str) -> Reply {
    agent.call(Method::POST, &url(&agent.at(name), ""), &[OCTETS, condition], content).await
}

#[tokio::test]
async fn of_two_who_saw_the_same_only_the_first_replaces_it() {
    let agent = Agent::start().await;
    let file = agent.path("file");
    fs::write(&file, "seen").unwrap();
    let seen = state(&agent, "file").await;
    assert_eq!(state(&agent, "file").await, seen, "to read changes nothing");

    let first = put_if(&agent, "file", ("if-match", &seen), "mine").await;
    assert_eq!(first.status, StatusCode::OK, "{}", first.text());
    let second = put_if(&agent, "file", ("if-match", &seen), "ours").await;
    assert_eq!(second.status, StatusCode::PRECONDITION_FAILED, "{}", second.text());
    assert_eq!(fs::read_to_string(&file).unwrap(), "mine");

    // Who wrote it knows its state without another look, until somebody else writes: through the agent, or in the guest.
    let mut known = first.headers["etag"].to_str().unwrap().to_owned();
    assert_eq!(known, state(&agent, "file").await);
    for round in ["1234", "5678", "9012"] {
        let reply = put_if(&agent, "file", ("if-match", &known), round).await;
        assert_eq!(reply.status, StatusCode::OK, "{}", reply.text());
        let now = reply.headers["etag"].to_str().unwrap().to_owned();
        assert_ne!(now, known, "the same length, the same moment, another content");
        known = now;
    }
    fs::write(agent.path("new"), "renamed over it").unwrap();
    fs::rename(agent.path("new"), &file).unwrap();
    let late = put_if(&agent, "file", ("if-match", &known), "late").await;
    assert_eq!(late.status, StatusCode::PRECONDITION_FAILED);
    assert_eq!(fs::read_to_string(&file).unwrap(), "renamed over it");
}

#[tokio::test]
async fn what_a_write_expects_may_be_nothing_or_anything_and_is_never_guessed() {
    let agent = Agent::start().await;
    let first = put_if(&agent, "folder/file", ("if-none-match", "*"), "first").await;
    assert_eq!(first.status, StatusCode::OK, "{}", first.text());
    assert_eq!(first.headers["etag"].to_str().unwrap(), state(&agent, "folder/file").await);
    let again = put_if(&agent, "folder/file", ("if-none-match", "*"), "again").await;
    assert_eq!(again.status, StatusCode::PRECONDITION_FAILED);
    assert_eq!(fs::read_to_string(agent.path("folder/file")).unwrap(), "first");

    // A file that is gone is in no state, and its folder is not made for it.
    let seen = state(&agent, "folder/file").await;
    fs::remove_dir_all(agent.path("folder")).unwrap();
    for condition in [seen.as_str(), "*"] {
        let gone = put_if(&agent, "folder/file", ("if-match", condition), "back").await;
        assert_eq!(gone.status, StatusCode::PRECONDITION_FAILED, "{condition}");
    }
    assert!(!agent.path("folder").exists());
    fs::write(agent.path("there"), "").unwrap();
    let any = put_if(&agent, "there", ("if-match", "*"), "any").await;
    assert_eq!(any.status, StatusCode::OK, "{}", any.text());
    let unknown = put_if(&agent, "there", ("if-none-match", &seen), "x").await;
    assert_eq!(unknown.status, StatusCode::BAD_REQUEST);
    assert_eq!(fs::read_to_string(agent.path("there")).unwrap(), "any");
}

#[tokio::test]
async fn of_many_at_once_who_saw_the_same_one_replaces_it() {
    let agent = Agent::start().await;
    fs::write(agent.path("file"), "seen").unwrap();
    let seen = state(&agent, "file").await;
    let wrote =
        futures::future::join_all((0..16).map(|_| put_if(&agent, "file", ("if-match", &seen), "mine")));
    let statuses: Vec<StatusCode> = wrote.await.iter().map(|reply| reply.status).collect();
    assert_eq!(statuses.iter().filter(|status| **status == StatusCode::OK).count(), 1, "{statuses:?}");
    let made =
        futures::future::join_all((0..16).map(|_| put_if(&agent, "new", ("if-none-match", "*"), "mine")));
    let statuses: Vec<StatusCode> = made.await.iter().map(|reply| reply.status).collect();
    assert_eq!(statuses.iter().filter(|status| **status == StatusCode::OK).count(), 1, "{statuses:?}");
}
