//! What `/files` does for all sorts of HTTP clients: encodings, HEAD, browsers, errors in JSON.

use std::fs;
use std::io::Write;
use std::process::{Command, Stdio};

use http::{Method, StatusCode};

use crate::files::{OCTETS, url};
use crate::harness::{Agent, TOKEN};

fn gunzipped(bytes: &[u8]) -> Vec<u8> {
    let mut gzip =
        Command::new("gzip").arg("-dc").stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    let mut input = gzip.stdin.take().unwrap();
    let bytes = bytes.to_vec();
    let writer = std::thread::spawn(move || input.write_all(&bytes).unwrap());
    let output = gzip.wait_with_output().unwrap();
    writer.join().unwrap();
    assert!(output.status.success());
    output.stdout
}

#[tokio::test]
async fn a_download_is_compressed_where_the_caller_asks_for_it() {
    let agent = Agent::start().await;
    let content: Vec<u8> = (0..2_000_000_u32).flat_map(|number| (number / 100).to_le_bytes()).collect();
    fs::write(agent.path("file"), &content).unwrap();
    let url = url(&agent.at("file"), "");
    let fetch = async |headers: &[(&str, &str)]| agent.call(Method::GET, &url, headers, "").await;

    let reply = fetch(&[("accept-encoding", "gzip")]).await;
    assert_eq!(
        (reply.status, &reply.headers["content-encoding"]),
        (StatusCode::OK, &"gzip".parse().unwrap())
    );
    assert_eq!(reply.headers["vary"], "accept-encoding");
    assert!(!reply.headers.contains_key("content-length") && reply.body.len() < content.len());
    assert!(gunzipped(&reply.body) == content);

    // The second is what HTTP libraries offer unasked.
    for offered in ["identity", "gzip, deflate"] {
        let reply = fetch(&[("accept-encoding", offered)]).await;
        assert!(!reply.headers.contains_key("content-encoding") && reply.body == content, "{offered}");
    }
    let reply = fetch(&[("accept-encoding", "gzip"), ("range", "bytes=4-7")]).await;
    assert_eq!((reply.status, reply.body.as_ref()), (StatusCode::PARTIAL_CONTENT, &content[4..8]));
    assert!(!reply.headers.contains_key("content-encoding"));

    for headers in [
        &[("accept-encoding", "br, identity;q=0")][..],
        &[("accept-encoding", "*;q=0")],
        &[("accept-encoding", "gzip, identity;q=0"), ("range", "bytes=4-7")],
    ] {
        let reply = fetch(headers).await;
        assert_eq!((reply.status, reply.json()["code"].as_u64()), (StatusCode::NOT_ACCEPTABLE, Some(406)));
    }
    // What the kernel makes up has no length, and can be compressed all the same.
    let reply =
        agent.call(Method::GET, "/files?path=/proc/self/stat", &[("accept-encoding", "gzip")], "").await;
    assert!(gunzipped(&reply.body).ends_with(b"\n"));
}

#[tokio::test]
async fn head_is_get_without_the_content() {
    let agent = Agent::start().await;
    fs::write(agent.path("file"), "0123456789").unwrap();
    let head = async |path: &str, headers: &[(&str, &str)]| {
        agent.call(Method::HEAD, &url(&agent.at(path), ""), headers, "").await
    };
    let reply = head("file", &[]).await;
    assert_eq!((reply.status, reply.body.len()), (StatusCode::OK, 0));
    assert_eq!(
        (&reply.headers["content-length"], &reply.headers["accept-ranges"]),
        (&"10".parse().unwrap(), &"bytes".parse().unwrap())
    );
    let reply = head("file", &[("range", "bytes=2-4")]).await;
    assert_eq!(
        (reply.status, &reply.headers["content-range"]),
        (StatusCode::PARTIAL_CONTENT, &"bytes 2-4/10".parse().unwrap())
    );
    assert_eq!(head("file", &[("accept-encoding", "gzip")]).await.headers["content-encoding"], "gzip");
    assert_eq!(head("none", &[]).await.status, StatusCode::NOT_FOUND);
    let reply = agent.request(Method::HEAD, &url(&agent.at("file"), ""), &[], "").await;
    assert_eq!(reply.status, StatusCode::UNAUTHORIZED);
}

#[tokio::test]
async fn pages_of_any_origin_may_call() {
    let agent = Agent::start().await;
    let asked = "authorization,connect-protocol-version,connect-timeout-ms,content-type,keepalive-ping-interval,x-access-token,x-metadata-author";
    for path in
        ["/files?path=x", "/process.Process/Start", "/filesystem.Filesystem/WatchDir", "/health", "/no/such"]
    {
        let headers = [
            ("origin", "https://example.com"),
            ("access-control-request-method", "POST"),
            ("access-control-request-headers", asked),
        ];
        let reply = agent.request(Method::OPTIONS, path, &headers, "").await;
        assert_eq!(reply.status, StatusCode::NO_CONTENT, "{path}");
        assert_eq!(reply.headers["access-control-allow-origin"], "*");
        assert_eq!(reply.headers["access-control-allow-headers"], asked);
        assert!(reply.headers["access-control-allow-methods"].to_str().unwrap().contains("POST"));
    }
    // Answers can be read, refusals too. And OPTIONS that is no preflight is a request like any other.
    for (token, method, status) in [
        (TOKEN, Method::GET, StatusCode::NOT_FOUND),
        ("wrong", Method::GET, StatusCode::UNAUTHORIZED),
        ("wrong", Method::OPTIONS, StatusCode::UNAUTHORIZED),
    ] {
        let headers = [("x-access-token", token), ("origin", "https://example.com")];
        let reply = agent.request(method, "/files?path=/none", &headers, "").await;
        assert_eq!(reply.status, status);
        assert_eq!(reply.headers["access-control-allow-origin"], "*");
        assert_eq!(reply.headers["access-control-expose-headers"], "*");
    }
}

#[tokio::test]
async fn every_refusal_is_json() {
    let agent = Agent::start().await;
    for (method, path, code) in [
        (Method::GET, "/files?path=/none&signature_expiration=soon", 400),
        (Method::GET, "/files?path=/none&path=/twice", 400),
        (Method::POST, "/files?path=/none&signature_expiration=soon", 400),
        (Method::PUT, "/files?path=/none", 405),
        (Method::DELETE, "/files", 405),
    ] {
        let reply = agent.call(method.clone(), path, &[OCTETS], "").await;
        assert_eq!(
            (reply.status.as_u16(), reply.json()["code"].as_u64()),
            (code, Some(code.into())),
            "{method} {path}"
        );
        assert_eq!(reply.headers["content-type"], "application/json");
        assert!(!reply.json()["message"].as_str().unwrap().is_empty());
    }
}
