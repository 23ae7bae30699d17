//! Frames as they must not be, and as they may be though nobody sends them so.

use bytes::Bytes;
use http::{Method, Request, StatusCode};
use http_body_util::{BodyExt, StreamBody};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use sandbar_proto::process::{ListRequest, StartRequest};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::mpsc;

use crate::harness::{Agent, Following, TOKEN, start};

/// One frame: flags, length, message.
fn frame(flags: u8, message: &[u8]) -> Vec<u8> {
    let length = u32::try_from(message.len()).unwrap().to_be_bytes();
    [&[flags][..], &length[..], message].concat()
}

fn json_frame(message: &Value) -> Vec<u8> {
    frame(0, message.to_string().as_bytes())
}

/// The frames of an answer: flags and message.
fn frames(mut body: &[u8]) -> Vec<(u8, Value)> {
    let mut frames = Vec::new();
    while let Some((head, rest)) = body.split_at_checked(5) {
        let length = usize::try_from(u32::from_be_bytes(head[1..].try_into().unwrap())).unwrap();
        let (message, rest) = rest.split_at(length);
        frames.push((head[0], serde_json::from_slice(message).unwrap()));
        body = rest;
    }
    assert!(body.is_empty(), "half a frame: {body:?}");
    frames
}

/// The error of a stream that is nothing but one.
fn only_error(body: &[u8]) -> String {
    match &frames(body)[..] {
        [(2, end)] => end["error"]["code"].as_str().unwrap_or_else(|| panic!("no error: {end}")).to_owned(),
        other => panic!("not one end: {other:?}"),
    }
}

type Body =
    StreamBody<tokio_stream::wrappers::ReceiverStream<Result<http_body::Frame<Bytes>, std::io::Error>>>;

/// A client that speaks HTTP/2 over one connection, and writes what it is told when it is told.
struct Raw {
    client: Client<HttpConnector, Body>,
    base: String,
}

impl Raw {
    fn new(agent: &Agent) -> Self {
        let client = Client::builder(TokioExecutor::new()).http2_only(true).build_http();
        Self { client, base: format!("http://{}", agent.address) }
    }

    /// Calls with a body that comes in pieces. The answer is read to its end.
    async fn call(
        &self,
        path: &str,
        headers: &[(&str, &str)],
        pieces: Vec<Vec<u8>>,
        hold: Hold,
    ) -> (StatusCode, Bytes) {
        let (sender, receiver) = mpsc::channel(1);
        let body = StreamBody::new(tokio_stream::wrappers::ReceiverStream::new(receiver));
        let writing = tokio::spawn(async move {
            for piece in pieces {
                if sender.send(Ok(http_body::Frame::data(piece.into()))).await.is_err() {
                    return;
                }
            }
            if hold == Hold::Open {
                sender.closed().await;
            }
        });
        let mut request = Request::builder()
            .method(Method::POST)
            .uri(format!("{}{path}", self.base))
            .header("x-access-token", TOKEN)
            .header("connect-protocol-version", "1");
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let response = self.client.request(request.body(body).unwrap()).await.unwrap();
        let status = response.status();
        let answer = response.into_body().collect().await.unwrap().to_bytes();
        writing.abort();
        (status, answer)
    }

    async fn stream_input(
        &self,
        headers: &[(&str, &str)],
        pieces: Vec<Vec<u8>>,
        hold: Hold,
    ) -> (StatusCode, Bytes) {
        let headers = [&[("content-type", "application/connect+json")], headers].concat();
        self.call("/process.Process/StreamInput", &headers, pieces, hold).await
    }
}

/// What the caller does behind the last piece.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Hold {
    /// It ends its half.
    Close,
    /// It says nothing.
    Open,
}

async fn cat(agent: &Agent) -> Following<hyper::body::Incoming> {
    let request = StartRequest { stdin: None, ..start("cat", &[]) };
    let mut following = Following::new(agent.processes().start(request).await.unwrap());
    following.pid().await;
    following
}

/// `hello` to a process, in two frames.
fn greeting(pid: u32) -> Vec<u8> {
    // "hel" and "lo\n".
    [
        json_frame(&json!({"start": {"process": {"pid": pid}}})),
        json_frame(&json!({"data": {"input": {"stdin": "aGVs"}}})),
        json_frame(&json!({"keepalive": {}})),
        json_frame(&json!({"data": {"input": {"stdin": "bG8K"}}})),
    ]
    .concat()
}

#[tokio::test]
async fn frames_may_come_in_any_pieces() {
    let agent = Agent::start().await;
    let mut following = cat(&agent).await;
    let all = greeting(following.so_far.pid);
    let raw = Raw::new(&agent);
    for size in [1, 2, 3, 5, 7, 64, all.len()] {
        let before = following.so_far.stdout.len();
        let pieces = all.chunks(size).map(<[u8]>::to_vec).collect();
        let (status, answer) = raw.stream_input(&[], pieces, Hold::Close).await;
        assert_eq!((status, &frames(&answer)[..]), (StatusCode::OK, &[(0, json!({})), (2, json!({}))][..]));
        while following.so_far.stdout.len() < before + 6 {
            assert!(following.step().await.unwrap());
        }
        assert!(following.so_far.stdout.ends_with(b"hello\n"));
    }
}

#[tokio::test]
async fn a_frame_that_is_too_large_is_refused_and_the_connection_goes_on() {
    let agent = Agent::start().await;
    let raw = Raw::new(&agent);
    // Nothing of it has to be sent: its head says enough.
    for length in [u32::MAX, (16 << 20) + 1] {
        let head = [&[0][..], &length.to_be_bytes()[..]].concat();
        let (status, answer) = raw.stream_input(&[], vec![head.clone()], Hold::Open).await;
        assert_eq!((status, only_error(&answer)), (StatusCode::OK, "resource_exhausted".into()));
        let json = [("content-type", "application/connect+json")];
        let (_, answer) = raw.call("/process.Process/Start", &json, vec![head], Hold::Close).await;
        only_error(&answer);
    }
    let json = [("content-type", "application/json")];
    let huge = vec![vec![b' '; 1 << 20]; 17];
    let (status, answer) = raw.call("/process.Process/SendInput", &json, huge, Hold::Close).await;
    let error: Value = serde_json::from_slice(&answer).unwrap();
    assert_eq!((status, &error["code"]), (StatusCode::TOO_MANY_REQUESTS, &json!("resource_exhausted")));
    let (status, answer) = raw.call("/process.Process/List", &json, vec![b"{}".to_vec()], Hold::Close).await;
    assert_eq!((status, &answer[..]), (StatusCode::OK, &b"{}"[..]));
    assert!(agent.peak_memory_mib() < 80, "{} MiB", agent.peak_memory_mib());
}

#[tokio::test]
async fn a_codec_that_is_not_spoken_is_refused() {
    let agent = Agent::start().await;
    let raw = Raw::new(&agent);
    for (path, content_type) in [
        ("/process.Process/List", "text/plain"),
        ("/process.Process/List", "application/xml"),
        ("/process.Process/Start", "application/json"),
        ("/process.Process/Start", "application/connect+yaml"),
        ("/process.Process/StreamInput", "multipart/form-data"),
    ] {
        let headers = [("content-type", content_type)];
        let (status, _) = raw.call(path, &headers, vec![b"{}".to_vec()], Hold::Close).await;
        let refusals = [StatusCode::UNSUPPORTED_MEDIA_TYPE, StatusCode::NOT_IMPLEMENTED];
        assert!(refusals.contains(&status), "{path} {content_type}: {status}");
    }
    let json = [("content-type", "application/json"), ("content-encoding", "br")];
    let (status, _) = raw.call("/process.Process/List", &json, vec![b"{}".to_vec()], Hold::Close).await;
    assert!(status.is_client_error() || status == StatusCode::NOT_IMPLEMENTED, "{status}");
}

#[tokio::test]
async fn a_stream_that_breaks_off_in_a_frame_is_an_error_and_what_came_before_arrived() {
    let agent = Agent::start().await;
    let mut following = cat(&agent).await;
    let all = greeting(following.so_far.pid);
    let raw = Raw::new(&agent);
    let cut = all[..all.len() - 3].to_vec();
    let (_, answer) = raw.stream_input(&[], vec![cut], Hold::Close).await;
    only_error(&answer);
    while following.so_far.stdout.len() < 3 {
        assert!(following.step().await.unwrap());
    }
    assert_eq!(following.so_far.stdout, b"hel");

    // Nothing at all, input for nobody, for somebody who is not there, and no input.
    for pieces in [
        vec![json_frame(&json!({"data": {"input": {"stdin": "aGVs"}}}))],
        vec![json_frame(&json!({"start": {"process": {"pid": 1}}}))],
        vec![json_frame(&json!({"start": {}}))],
        vec![frame(0, b"{"), frame(0, b"}")],
        vec![frame(0, b"\xff\xfe")],
    ] {
        let (status, answer) = raw.stream_input(&[], pieces.clone(), Hold::Close).await;
        assert_eq!(status, StatusCode::OK);
        let code = only_error(&answer);
        assert!(["invalid_argument", "not_found"].contains(&code.as_str()), "{pieces:?}: {code}");
    }
    let (_, answer) = raw.stream_input(&[], Vec::new(), Hold::Close).await;
    assert_eq!(frames(&answer), [(0, json!({})), (2, json!({}))]);
}

#[tokio::test]
async fn a_message_that_claims_to_be_compressed_and_was_not_announced_is_an_error() {
    let agent = Agent::start().await;
    let following = cat(&agent).await;
    let raw = Raw::new(&agent);
    let message = json!({"start": {"process": {"pid": following.so_far.pid}}}).to_string();
    for (headers, flags) in [
        (&[][..], 1),
        (&[("connect-content-encoding", "gzip")], 1),
        (&[("connect-content-encoding", "br")], 1),
    ] {
        let (_, answer) =
            raw.stream_input(headers, vec![frame(flags, message.as_bytes())], Hold::Close).await;
        assert_ne!(only_error(&answer), "");
    }
    assert_eq!(agent.sh("echo alive").await.out(), "alive\n");
}

#[tokio::test]
async fn a_deadline_in_the_middle_of_a_frame_ends_the_stream() {
    let agent = Agent::start().await;
    let following = cat(&agent).await;
    let all = greeting(following.so_far.pid);
    let raw = Raw::new(&agent);
    let cut = all[..all.len() - 3].to_vec();
    let (_, answer) = raw.stream_input(&[("connect-timeout-ms", "300")], vec![cut], Hold::Open).await;
    assert_eq!(only_error(&answer), "deadline_exceeded");
    // It was the stream's deadline, not the process's, and the connection's still less.
    let json = [("content-type", "application/json")];
    let (_, answer) = raw.call("/process.Process/List", &json, vec![b"{}".to_vec()], Hold::Close).await;
    let listed: Value = serde_json::from_slice(&answer).unwrap();
    assert_eq!(listed["processes"][0]["pid"], following.so_far.pid);
}

#[tokio::test]
async fn a_caller_that_closes_its_half_loses_at_most_its_stream() {
    let agent = Agent::start().await;
    let script =
        format!("while [ ! -e {0} ]; do sleep 0.01; done; echo done >{1}", agent.at("go"), agent.at("done"));
    let message = json_frame(&json!({"process": {"cmd": "/bin/sh", "args": ["-c", script]}}));
    let mut stream = agent.connect_from("127.0.0.1").await;
    let head = format!(
        "POST /process.Process/Start HTTP/1.1\r\nhost: s\r\nx-access-token: {TOKEN}\r\n\
         content-type: application/connect+json\r\ncontent-length: {}\r\n\r\n",
        message.len()
    );
    stream.write_all(&[head.as_bytes(), &message].concat()).await.unwrap();
    let mut answer = [0; 15];
    stream.read_exact(&mut answer).await.unwrap();
    assert_eq!(&answer, b"HTTP/1.1 200 OK");
    stream.shutdown().await.unwrap();
    let listed = agent.processes().list(ListRequest::default()).await.unwrap().into_owned();
    assert_eq!(listed.processes.len(), 1);
    std::fs::write(agent.path("go"), "").unwrap();
    let check = format!("while [ ! -s {} ]; do sleep 0.01; done; cat {0}", agent.at("done"));
    assert_eq!(agent.sh(&check).await.out(), "done\n");
}
