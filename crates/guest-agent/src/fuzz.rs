//! Bytes that nobody should send, to the real router: whatever comes, it answers, with no fault of its own, and goes on.
//!
//! A caller with the token may do as it likes to the sandbox's files, so the routes that change files are left out: what these
//! tests make up would be done to this machine. `PROPTEST_CASES=100000` makes a long run of it.

use std::net::SocketAddr;
use std::sync::Arc;

use axum::body::Body;
use axum::extract::ConnectInfo;
use http::{Method, Request, StatusCode};
use http_body_util::BodyExt;
use proptest::collection::vec;
use proptest::prelude::*;
use tower::ServiceExt;

use crate::auth::ACCESS_TOKEN;
use crate::connections::Peer;
use crate::options::{Options, SystemChanges};
use crate::server::{self, Agent};
use crate::state::{AccessToken, Sandbox, State};

const TOKEN: &str = "token";

const STREAMS: [&str; 3] =
    ["/process.Process/Start", "/process.Process/Connect", "/process.Process/StreamInput"];
const UNARY: [&str; 8] = [
    "/process.Process/List",
    "/process.Process/SendInput",
    "/process.Process/SendSignal",
    "/process.Process/CloseStdin",
    "/process.Process/Update",
    "/filesystem.Filesystem/Stat",
    "/process.Process/No",
    "/no.Such/Service",
];
const PLAIN: [&str; 4] = ["/init", "/snapshot/prepare", "/snapshot/resume", "/no/such/route"];
const TYPES: [&str; 6] = [
    "application/json",
    "application/proto",
    "application/connect+json",
    "application/connect+proto",
    "application/grpc",
    "text/plain",
];
/// Words that get further than noise.
const WORDS: [&str; 14] = [
    r#"{"process":{"pid":1}}"#,
    r#"{"process":{"tag":""}}"#,
    r#"{"process":{"cmd":"/no/such/program"}}"#,
    r#"{"process":{"cmd":"/no/such/program","envs":{"":"x"}},"pty":{"size":{"cols":4294967295}}}"#,
    r#"{"process":{"pid":4294967296}}"#,
    r#"{"start":{"process":{"pid":1}}}"#,
    r#"{"data":{"input":{"stdin":"????"}}}"#,
    r#"{"timeoutMs":1}"#,
    r#"{"timestampUnixNanos":"18446744073709551616"}"#,
    r#"{"accessToken":"token","entropy":"AA=="}"#,
    r#"{"envVars":{"A":"\u0000"}}"#,
    r#"{"hostname":"\ud800"}"#,
    "[[[[[[[[[[[[[[[[",
    "null",
];

fn sent(
    runtime: &tokio::runtime::Runtime,
    agent: &Arc<Agent>,
    request: Request<Body>,
) -> (StatusCode, Vec<u8>) {
    let router = server::router(Arc::clone(agent));
    runtime.block_on(async {
        let response = router.oneshot(request).await.unwrap_or_else(|never| match never {});
        let status = response.status();
        // A stream may break off as the protocol says; it may not hang.
        let body = response.into_body().collect().await.map(|body| body.to_bytes().to_vec());
        (status, body.unwrap_or_default())
    })
}

fn agent(dir: &tempfile::TempDir) -> Arc<Agent> {
    let options = Options { system_changes: SystemChanges::Refused, ..Options::default() };
    let (state, _) = State::load(dir.path().join("state.json")).unwrap();
    let sandbox = Sandbox { access_token: AccessToken::new(TOKEN.into()), ..Sandbox::default() };
    state.replace(sandbox).unwrap();
    Arc::new(Agent::new(options, state, None, Arc::default()))
}

fn request(method: Method, target: &str, content_type: &str, body: Vec<u8>) -> Option<Request<Body>> {
    let gateway = Options::default().gateway;
    let peer = Peer { address: SocketAddr::new(gateway, 1), connection: 0 };
    let request = Request::builder()
        .method(method)
        .uri(target)
        .header(ACCESS_TOKEN, TOKEN)
        .header("content-type", content_type)
        .header("connect-protocol-version", "1")
        .extension(ConnectInfo(peer))
        .body(Body::from(body));
    // What is no address at all is refused before it gets to us.
    request.ok()
}

/// A message, or what is left of one.
fn message() -> impl Strategy<Value = Vec<u8>> {
    let word = prop::sample::select(&WORDS[..]).prop_map(|word| word.as_bytes().to_vec());
    prop_oneof![
        word.clone(),
        vec(any::<u8>(), 0..200),
        (word, any::<prop::sample::Index>(), any::<u8>()).prop_map(|(mut word, place, byte)| {
            let place = place.index(word.len());
            word[place] = byte;
            word
        }),
    ]
}

/// Frames: right, with lengths that lie, with any flags, cut anywhere.
fn framed() -> impl Strategy<Value = Vec<u8>> {
    let flags = prop_oneof![3 => Just(0_u8), 1 => any::<u8>()];
    let lie = prop_oneof![4 => Just(None), 1 => any::<u32>().prop_map(Some)];
    let frame = (flags, message(), lie).prop_map(|(flags, message, lie)| {
        let length = lie.unwrap_or(u32::try_from(message.len()).unwrap()).to_be_bytes();
        [&[flags][..], &length[..], &message].concat()
    });
    (vec(frame, 0..5), any::<prop::sample::Index>(), any::<bool>()).prop_map(|(frames, cut, whole)| {
        let mut all = frames.concat();
        if !whole && !all.is_empty() {
            all.truncate(cut.index(all.len()));
        }
        all
    })
}

/// No answer may say that the agent is at fault, and no request may keep the next one from being served.
fn holds(request: Option<Request<Body>>) -> Result<(), TestCaseError> {
    let Some(request) = request else { return Ok(()) };
    let dir = tempfile::tempdir().unwrap();
    let agent = agent(&dir);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let shown = format!("{request:?}");
    let (status, body) = sent(&runtime, &agent, request);
    let text = String::from_utf8_lossy(&body);
    prop_assert!(status != StatusCode::INTERNAL_SERVER_ERROR, "{}: {} {}", shown, status, text);
    // The protocol has this one error called so, though it is the caller's.
    let named = text.contains("\"internal\"") && !text.contains("compressed message without");
    prop_assert!(!named, "{}: {} {}", shown, status, text);
    // A request may have sealed the guest or changed its token: so it is asked what stays open in any case.
    let health = Request::get("/health").extension(ConnectInfo(Peer {
        address: SocketAddr::new(Options::default().gateway, 1),
        connection: 0,
    }));
    let (status, _) = sent(&runtime, &agent, health.body(Body::empty()).unwrap());
    prop_assert_eq!(status, StatusCode::NO_CONTENT);
    prop_assert!(State::load(dir.path().join("state.json")).is_ok());
    Ok(())
}

proptest! {
    #[test]
    fn streams_survive_any_frames(
        path in prop::sample::select(&STREAMS[..]),
        content_type in prop::sample::select(&TYPES[..]),
        body in prop_oneof![4 => framed(), 1 => message()],
    ) {
        holds(request(Method::POST, path, content_type, body))?;
    }

    #[test]
    fn calls_survive_any_message(
        path in prop::sample::select([&UNARY[..], &PLAIN[..]].concat()),
        content_type in prop::sample::select(&TYPES[..]),
        body in prop_oneof![4 => message(), 1 => framed()],
    ) {
        holds(request(Method::POST, path, content_type, body))?;
    }

    #[test]
    fn addresses_survive_any_query(
        path in prop::sample::select(&["/connect", "/files", "/metrics", "/envs", "/health", "/init"][..]),
        query in prop_oneof![
            "[!-~]{0,60}",
            "(port|path|username|signature|signature_expiration|%[0-9a-fA-F]{2})=[!-~]{0,40}(&(port|path|username|signature)=[!-~]{0,20}){0,3}",
        ],
    ) {
        holds(request(Method::GET, &format!("{path}?{query}"), "application/json", Vec::new()))?;
    }
}
