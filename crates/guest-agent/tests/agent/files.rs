//! `/files`, both ways.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::Path;

use base64::Engine;
use base64::engine::general_purpose::STANDARD_NO_PAD;
use bytes::Bytes;
use futures::StreamExt;
use http::{Method, StatusCode};
use http_body::Frame;
use http_body_util::{BodyExt, StreamBody};
use serde_json::json;
use sha2::{Digest, Sha256};

use crate::harness::{Agent, Reply, TOKEN};

pub(crate) const OCTETS: (&str, &str) = ("content-type", "application/octet-stream");
const NOBODY: u32 = 65534;

pub(crate) fn url(path: &str, more: &str) -> String {
    let encoded: String = path
        .bytes()
        .map(|byte| match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'/' | b'.' | b'-' | b'_' => {
                char::from(byte).to_string()
            }
            other => format!("%{other:02X}"),
        })
        .collect();
    format!("/files?path={encoded}{more}")
}

pub(crate) async fn put(agent: &Agent, path: &str, content: impl Into<Bytes>) -> Reply {
    agent.call(Method::POST, &url(path, ""), &[OCTETS], content).await
}

pub(crate) async fn get(agent: &Agent, path: &str) -> Reply {
    agent.call(Method::GET, &url(path, ""), &[], "").await
}

pub(crate) fn mode(path: &Path) -> u32 {
    fs::metadata(path).unwrap().permissions().mode() & 0o7777
}

#[tokio::test]
async fn a_file_goes_in_and_comes_out() {
    let agent = Agent::start().await;
    let path = agent.at("dir with spaces/é/file.bin");
    let content: Vec<u8> = (0..=255).cycle().take(300_000).collect();
    let reply = put(&agent, &path, content.clone()).await;
    assert_eq!(reply.status, StatusCode::OK);
    // Not one key more: E2B's clients compare the whole.
    assert_eq!(reply.json(), json!([{ "name": "file.bin", "path": path, "type": "file" }]));
    assert_eq!((mode(Path::new(&path)), mode(&agent.path("dir with spaces/é"))), (0o644, 0o755));

    let reply = get(&agent, &path).await;
    assert_eq!((reply.status, reply.headers["content-length"].to_str().unwrap()), (StatusCode::OK, "300000"));
    assert!(reply.body == content);
    assert_eq!(put(&agent, &path, "").await.status, StatusCode::OK);
    assert_eq!(get(&agent, &path).await.body, "");
}

#[tokio::test]
async fn paths_are_relative_to_the_working_folder() {
    let dir = tempfile::tempdir().unwrap();
    let agent = Agent::start_with(&[], json!({ "defaultWorkdir": dir.path() })).await;
    let reply = put(&agent, "a/../b.txt", "x").await;
    assert_eq!(reply.json()[0]["path"], dir.path().join("b.txt").to_str().unwrap());
    assert_eq!(get(&agent, "./b.txt").await.body, "x");
    assert_eq!(
        get(&agent, "~/no-such-file").await.json()["message"],
        "path '/root/no-such-file' does not exist"
    );
}

#[tokio::test]
async fn what_cannot_be_read_is_said_in_json() {
    let agent = Agent::start().await;
    let dir = agent.dir.path().to_str().unwrap();
    let missing = agent.at("missing");
    fs::write(agent.path("file"), "").unwrap();
    rustix::fs::mkfifoat(rustix::fs::CWD, agent.path("fifo"), rustix::fs::Mode::RUSR).unwrap();
    for (path, status, message) in [
        (missing.clone(), 404, format!("path '{missing}' does not exist")),
        (agent.at("file/below"), 404, format!("path '{}' does not exist", agent.at("file/below"))),
        (dir.to_owned(), 400, format!("path '{dir}' is a directory")),
        (agent.at("fifo"), 400, format!("path '{}' is not a file", agent.at("fifo"))),
        ("~nobody/x".into(), 400, "cannot expand another user's home: '~nobody/x'".into()),
        ("a\0b".into(), 400, "path contains a NUL byte".into()),
        ("x".repeat(5000), 400, "path is longer than 4096 bytes".into()),
    ] {
        let reply = get(&agent, &path).await;
        assert_eq!(reply.status.as_u16(), status, "{path}");
        assert_eq!(reply.json(), json!({ "code": status, "message": message }));
    }
    let reply = agent.call(Method::GET, &url("x", "&username=no-such-user"), &[], "").await;
    assert_eq!(reply.json(), json!({ "code": 401, "message": "invalid username: 'no-such-user'" }));
}

#[tokio::test]
async fn files_that_the_kernel_makes_up_are_read_to_their_end() {
    let agent = Agent::start().await;
    for path in [
        "/proc/sys/kernel/random/boot_id",
        "/proc/self/mounts",
        "/sys/kernel/mm/transparent_hugepage/enabled",
    ] {
        let Ok(expected) = fs::read_to_string(path) else { continue };
        let reply = get(&agent, path).await;
        assert_eq!((reply.status, reply.text()), (StatusCode::OK, expected.as_str()), "{path}");
    }
}

#[tokio::test]
async fn parts_of_a_file_can_be_asked_for() {
    let agent = Agent::start().await;
    fs::write(agent.path("digits"), "0123456789").unwrap();
    let url = url(&agent.at("digits"), "");
    let part = async |range| agent.call(Method::GET, &url, &[("range", range)], "").await;
    let reply = part("bytes=2-4").await;
    assert_eq!((reply.status, reply.text()), (StatusCode::PARTIAL_CONTENT, "234"));
    assert_eq!(reply.headers["content-range"], "bytes 2-4/10");
    assert_eq!(part("bytes=-2").await.text(), "89");
    assert_eq!(part("bytes=8-").await.text(), "89");
    let reply = part("bytes=10-").await;
    assert_eq!(
        (reply.status, &reply.headers["content-range"]),
        (StatusCode::RANGE_NOT_SATISFIABLE, &"bytes */10".parse().unwrap())
    );
    assert_eq!(part("nonsense").await.text(), "0123456789");
}

#[tokio::test]
async fn new_files_and_folders_belong_to_their_user() {
    let agent = Agent::start().await;
    fs::set_permissions(agent.dir.path(), fs::Permissions::from_mode(0o777)).unwrap();
    let path = agent.at("a/b/file");
    let reply = agent.call(Method::POST, &url(&path, "&username=nobody"), &[OCTETS], "x").await;
    assert_eq!(reply.status, StatusCode::OK, "{}", reply.text());
    for made in ["a", "a/b", "a/b/file"] {
        let metadata = fs::metadata(agent.path(made)).unwrap();
        assert_eq!((metadata.uid(), metadata.gid()), (NOBODY, NOBODY), "{made}");
    }
}

#[tokio::test]
async fn what_cannot_be_written_is_said_in_json() {
    let agent = Agent::start().await;
    fs::create_dir(agent.path("folder")).unwrap();
    fs::write(agent.path("file"), "kept").unwrap();
    symlink("loop", agent.path("loop")).unwrap();
    for (path, status, message) in [
        (agent.at("folder"), 400, format!("path '{}' is a directory", agent.at("folder"))),
        (agent.at("file/below"), 400, format!("path '{}' is not a directory", agent.at("file/below"))),
    ] {
        assert_eq!(put(&agent, &path, "x").await.json(), json!({ "code": status, "message": message }));
    }
    for path in [agent.at("loop"), agent.at(&"n".repeat(300))] {
        assert_eq!(put(&agent, &path, "x").await.status, StatusCode::BAD_REQUEST, "{path}");
    }
    let post =
        async |path: &str, headers: &[(&str, &str)]| agent.call(Method::POST, path, headers, "x").await;
    assert_eq!(post("/files", &[OCTETS]).await.json(), json!({ "code": 400, "message": "path is required" }));
    assert_eq!(
        post("/files?path=x", &[("content-type", "text/plain")]).await.status,
        StatusCode::BAD_REQUEST
    );
    assert_eq!(
        post("/files?path=x", &[("content-type", "multipart/form-data")]).await.status,
        StatusCode::BAD_REQUEST
    );
    assert_eq!(fs::read_to_string(agent.path("file")).unwrap(), "kept");
}

#[tokio::test]
async fn devices_are_written_not_replaced() {
    let agent = Agent::start().await;
    assert_eq!(put(&agent, "/dev/null", "gone").await.status, StatusCode::OK);
    assert!(!fs::metadata("/dev/null").unwrap().is_file());
    rustix::fs::mkfifoat(rustix::fs::CWD, agent.path("fifo"), rustix::fs::Mode::RUSR).unwrap();
    assert_eq!(put(&agent, &agent.at("fifo"), "nobody reads").await.status, StatusCode::BAD_REQUEST);
}

const FORM: (&str, &str) = ("content-type", "multipart/form-data; boundary=B");

fn part(disposition: &str, content: &str) -> String {
    format!(
        "--B\r\nContent-Disposition: form-data; {disposition}\r\nContent-Type: application/octet-stream\r\n\r\n{content}\r\n"
    )
}

#[tokio::test]
async fn a_form_brings_several_files() {
    let agent = Agent::start().await;
    let (one, two) = (agent.at("one"), agent.at("sub/two"));
    let form = [
        part("name=\"note\"", "not a file"),
        part(&format!("name=\"file\"; filename=\"{one}\""), "1"),
        part(&format!("name=\"file\"; filename=\"{two}\""), "2"),
        "--B--\r\n".into(),
    ];
    let reply = agent.call(Method::POST, "/files", &[FORM], form.concat()).await;
    assert_eq!(
        reply.json(),
        json!([{ "name": "one", "path": one, "type": "file" }, { "name": "two", "path": two, "type": "file" }])
    );
    assert_eq!(
        (fs::read_to_string(&one).unwrap(), fs::read_to_string(&two).unwrap()),
        ("1".into(), "2".into())
    );

    // The path of the request goes before the part's own name, which may be missing.
    let form = [part("name=\"file\"", "3"), "--B--\r\n".into()].concat();
    assert_eq!(agent.call(Method::POST, &url(&one, ""), &[FORM], form.clone()).await.status, StatusCode::OK);
    assert_eq!(fs::read_to_string(&one).unwrap(), "3");
    assert_eq!(agent.call(Method::POST, "/files", &[FORM], form).await.status, StatusCode::BAD_REQUEST);
    assert_eq!(
        agent.call(Method::POST, "/files", &[FORM], "--B--\r\n").await.status,
        StatusCode::BAD_REQUEST
    );
}

#[tokio::test]
async fn a_compressed_body_is_decoded_and_an_unknown_encoding_refused() {
    // `printf 'hello' | gzip -n`
    const HELLO: &[u8] =
        &[31, 139, 8, 0, 0, 0, 0, 0, 0, 3, 203, 72, 205, 201, 201, 7, 0, 134, 166, 16, 54, 5, 0, 0, 0];
    let agent = Agent::start().await;
    let path = agent.at("file");
    let upload = async |encoding: &str, content: &'static [u8]| {
        agent.call(Method::POST, &url(&path, ""), &[OCTETS, ("content-encoding", encoding)], content).await
    };
    assert_eq!(upload("gzip", HELLO).await.status, StatusCode::OK);
    assert_eq!(fs::read_to_string(&path).unwrap(), "hello");
    for (encoding, content) in [("gzip", &HELLO[..20]), ("gzip", b"plain"), ("br", HELLO)] {
        assert_eq!(upload(encoding, content).await.status, StatusCode::BAD_REQUEST);
        assert_eq!(fs::read_to_string(&path).unwrap(), "hello");
    }
}

#[tokio::test]
async fn large_files_pass_through_little_memory() {
    const CHUNK: usize = 1 << 20;
    const CHUNKS: usize = 200;
    let agent = Agent::start().await;
    let chunk = Bytes::from(vec![b'x'; CHUNK]);
    let chunks = futures::stream::iter(0..CHUNKS).map(move |_| Ok(Frame::data(chunk.clone())));
    let headers = [("x-access-token", TOKEN), OCTETS];
    let reply = agent
        .send(Method::POST, &url(&agent.at("large"), ""), &headers, BodyExt::boxed(StreamBody::new(chunks)))
        .await
        .unwrap();
    assert_eq!(reply.status, StatusCode::OK);
    assert_eq!(fs::metadata(agent.path("large")).unwrap().len(), (CHUNK * CHUNKS) as u64);
    assert_eq!(get(&agent, &agent.at("large")).await.body.len(), CHUNK * CHUNKS);
    assert!(agent.peak_memory_mib() < 40, "{} MiB", agent.peak_memory_mib());
}

fn signature(path: &str, operation: &str, user: &str, expiration: Option<i64>) -> String {
    let mut signed = format!("{path}:{operation}:{user}:{TOKEN}");
    if let Some(expiration) = expiration {
        signed.push_str(&format!(":{expiration}"));
    }
    let base64 = STANDARD_NO_PAD.encode(Sha256::digest(signed));
    format!("v1_{}", base64.replace('+', "%2B").replace('/', "%2F"))
}

#[tokio::test]
async fn a_signed_url_stands_in_for_the_token() {
    let agent = Agent::start().await;
    let path = agent.at("signed");
    let request = async |method: Method, query: String, headers: &[(&str, &str)]| {
        agent.request(method, &url(&path, &query), headers, "content").await
    };
    let write = signature(&path, "write", "root", None);
    let reply = request(Method::POST, format!("&username=root&signature={write}"), &[OCTETS]).await;
    assert_eq!(reply.status, StatusCode::OK, "{}", reply.text());

    let read = signature(&path, "read", "", None);
    assert_eq!(request(Method::GET, format!("&signature={read}"), &[]).await.body, "content");
    let later = signature(&path, "read", "", Some(9_999_999_999));
    let reply =
        request(Method::GET, format!("&signature={later}&signature_expiration=9999999999"), &[]).await;
    assert_eq!(reply.body, "content");

    let past = signature(&path, "read", "", Some(1));
    let reply = request(Method::GET, format!("&signature={past}&signature_expiration=1"), &[]).await;
    assert_eq!(reply.text(), r#"{"code":401,"message":"signature is already expired"}"#);
    for query in [
        String::new(),
        "&signature=v1_x".into(),
        format!("&signature={write}"),
        format!("&signature={later}&signature_expiration=9999999998"),
    ] {
        let reply = request(Method::GET, query, &[]).await;
        assert_eq!(reply.status, StatusCode::UNAUTHORIZED);
    }
    // A wrong token is not made good by a right signature.
    let reply = request(Method::GET, format!("&signature={read}"), &[("x-access-token", "wrong")]).await;
    assert_eq!(reply.status, StatusCode::UNAUTHORIZED);
}
