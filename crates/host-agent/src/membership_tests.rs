//! Against a control plane that answers as it is told to.

use std::collections::VecDeque;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use axum::Json;
use axum::extract::{Request, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse as _, Response};
use sandbar_types::{Arch, Id, VmmKind};
use serde_json::{Value, json};
use tempfile::TempDir;

use super::*;

/// What was asked: path, host token or body's credential; and what is to be answered.
#[derive(Default)]
struct Script {
    asked: Mutex<Vec<(String, String)>>,
    answers: Mutex<VecDeque<(u16, Value)>>,
}

async fn play(State(script): State<Arc<Script>>, request: Request) -> Response {
    let what = request.uri().path().rsplit('/').next().unwrap().to_owned();
    let token = request.headers().get("x-host-token").map(|token| token.to_str().unwrap().to_owned());
    let body = axum::body::to_bytes(request.into_body(), 1 << 20).await.unwrap();
    let body: Value = serde_json::from_slice(&body).unwrap();
    let shown = token
        .or_else(|| body["refresh_token"].as_str().map(str::to_owned))
        .or_else(|| body["token"].as_str().map(str::to_owned));
    script.asked.lock().unwrap().push((what, shown.unwrap()));
    let (status, answer) = script.answers.lock().unwrap().pop_front().unwrap();
    (StatusCode::from_u16(status).unwrap(), Json(answer)).into_response()
}

#[derive(Default)]
struct Fake {
    paused: AtomicUsize,
}

#[async_trait]
impl Tenants for Arc<Fake> {
    fn heartbeat(&self) -> Heartbeat {
        let load = Load { sandboxes: 1, memory_used_mb: 1, disk_free_mb: 1, load1: 0.0 };
        Heartbeat { inventory_generation: 1, load }
    }

    async fn unasked_change(&self) {
        std::future::pending::<()>().await;
    }

    async fn pause_all(&self) -> (u32, u32) {
        self.paused.fetch_add(1, Ordering::SeqCst);
        (1, 0)
    }
}

struct World {
    script: Arc<Script>,
    tenants: Arc<Fake>,
    membership: Membership,
    file: PathBuf,
    server: tokio::task::JoinHandle<()>,
    _folder: TempDir,
}

fn granted(n: u32, life_sec: u64) -> Value {
    let key = rcgen::KeyPair::generate().unwrap();
    let cert = rcgen::CertificateParams::default().self_signed(&key).unwrap();
    json!({
        "host_id": Id::<sandbar_types::id::Host>::new(), "host": {"id": Id::<sandbar_types::id::Host>::new()},
        "token": format!("jwt{n}"), "token_expires_in_sec": life_sec, "refresh_token": format!("hrt{n}"),
        "refresh_expires_in_sec": 1, "cert": cert.pem(), "ca": cert.pem(), "key": key.serialize_pem(),
    })
}

fn refusal() -> (u16, Value) {
    (401, json!({"error": {"code": "unauthorized", "message": "no", "request_id": ""}}))
}

impl World {
    /// A host with the credentials 0, which last for `life_sec`.
    async fn new(life_sec: u64, registration_token: Option<&str>) -> Self {
        let script = Arc::<Script>::default();
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let router = axum::Router::new().fallback(play).with_state(Arc::clone(&script));
        let server = tokio::spawn(async move { axum::serve(listener, router).await.unwrap() });
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("credentials.json");
        let mut first = granted(0, life_sec);
        let now = std::time::SystemTime::UNIX_EPOCH.elapsed().unwrap().as_secs();
        first["obtained_at"] = json!(now);
        first["token_life_sec"] = json!(life_sec);
        std::fs::write(&file, first.to_string()).unwrap();
        let credentials = Credentials::read(&file).unwrap().unwrap();
        let identity = Identity::new(&credentials).unwrap();
        let facts = Facts {
            arch: Arch::X86_64,
            cpu_cores: 1,
            memory_mb: 1,
            disk_gb: 1,
            address: "127.0.0.1:1".to_owned(),
            vmm: VmmKind::Qemu,
        };
        let control = ControlPlane::new(&url).unwrap();
        let token = registration_token.map(str::to_owned);
        let membership = Membership::new(control, credentials, file.clone(), identity, facts, token);
        Self { script, tenants: Arc::default(), membership, file, server, _folder: folder }
    }

    /// One round with these answers: what comes next, and what was asked.
    async fn round(
        &mut self,
        answers: impl IntoIterator<Item = (u16, Value)>,
    ) -> (Next, Vec<(String, String)>) {
        self.script.answers.lock().unwrap().extend(answers);
        let next = self.membership.round(&self.tenants).await;
        assert!(self.script.answers.lock().unwrap().is_empty(), "more was expected to be asked");
        (next, std::mem::take(&mut *self.script.asked.lock().unwrap()))
    }

    fn paused(&self) -> usize {
        self.tenants.paused.load(Ordering::SeqCst)
    }

    fn kept(&self) -> String {
        Credentials::read(&self.file).unwrap().unwrap().token
    }
}

fn asked(what: &[(&str, &str)]) -> Vec<(String, String)> {
    what.iter().map(|(what, with)| ((*what).to_owned(), (*with).to_owned())).collect()
}

const TAKEN: (u16, Value) = (200, Value::Null);

#[tokio::test]
async fn credentials_are_renewed_ahead_of_their_end_and_kept() {
    let mut world = World::new(1000, None).await;
    let (next, seen) = world.round([TAKEN]).await;
    assert_eq!((next, seen), (Next::Later, asked(&[("heartbeat", "jwt0")])));
    world.membership.credentials = {
        let mut old: Value = serde_json::from_slice(&std::fs::read(&world.file).unwrap()).unwrap();
        old["obtained_at"] = json!(0);
        std::fs::write(&world.file, old.to_string()).unwrap();
        Credentials::read(&world.file).unwrap().unwrap()
    };
    let (next, seen) = world.round([TAKEN, (200, granted(1, 1000))]).await;
    assert_eq!((next, seen), (Next::Later, asked(&[("heartbeat", "jwt0"), ("refresh", "hrt0")])));
    assert_eq!(world.kept(), "jwt1");
    let (_, seen) = world.round([TAKEN]).await;
    assert_eq!(seen, asked(&[("heartbeat", "jwt1")]));
}

#[tokio::test]
async fn a_renewal_whose_answer_does_not_come_is_asked_for_again() {
    let mut world = World::new(0, None).await;
    let (next, _) = world.round([TAKEN, (502, Value::Null)]).await;
    assert_eq!((next, world.kept().as_str(), world.paused()), (Next::Later, "jwt0", 0));
    let (_, seen) = world.round([TAKEN, (200, granted(1, 1000))]).await;
    assert_eq!(seen[1], ("refresh".to_owned(), "hrt0".to_owned()));
    assert_eq!(world.kept(), "jwt1");
}

#[tokio::test]
async fn a_refused_heartbeat_is_followed_by_a_renewal_at_once() {
    for status in [401, 403] {
        let mut world = World::new(1000, None).await;
        let (_, mut answer) = refusal();
        answer["error"]["code"] = json!(if status == 401 { "unauthorized" } else { "forbidden" });
        let (next, seen) = world.round([(status, answer), (200, granted(1, 1000))]).await;
        assert_eq!((next, seen), (Next::Now, asked(&[("heartbeat", "jwt0"), ("refresh", "hrt0")])));
        assert_eq!((world.kept().as_str(), world.paused()), ("jwt1", 0));
    }
}

#[tokio::test]
async fn nothing_but_the_control_planes_own_word_is_a_refusal() {
    let mut world = World::new(1000, None).await;
    let not_found = json!({"error": {"code": "not_found", "message": "no", "request_id": ""}});
    for answer in [
        (401, json!("a proxy")),
        (403, Value::Null),
        (500, Value::Null),
        (503, Value::Null),
        (404, not_found),
    ] {
        let (next, seen) = world.round([answer]).await;
        assert_eq!((next, seen), (Next::Retry, asked(&[("heartbeat", "jwt0")])));
    }
    // A renewal that fails is none, either.
    let (next, _) = world.round([refusal(), (401, json!("a proxy"))]).await;
    assert_eq!(next, Next::Retry);
    world.server.abort();
    let _ = (&mut world.server).await;
    assert_eq!(world.membership.round(&world.tenants).await, Next::Retry);
    assert_eq!((world.paused(), world.kept().as_str()), (0, "jwt0"));
}

#[tokio::test]
async fn a_host_that_is_refused_pauses_what_it_has_and_serves_again_when_it_is_let_in() {
    let mut world = World::new(1000, None).await;
    let (next, _) = world.round([refusal(), refusal()]).await;
    assert_eq!((next, world.paused(), world.membership.standing), (Next::Retry, 1, Standing::Refused));
    // Nothing is thrown away, and what runs in spite of it is paused too.
    assert_eq!(world.kept(), "jwt0");
    world.round([refusal(), refusal()]).await;
    assert_eq!(world.paused(), 2);
    let (next, _) = world.round([TAKEN]).await;
    assert_eq!((next, world.paused(), world.membership.standing), (Next::Later, 2, Standing::LetIn));
}

#[tokio::test]
async fn a_registration_token_is_the_last_resort_and_is_shown_once() {
    let mut world = World::new(1000, Some("htok")).await;
    let (next, seen) = world.round([refusal(), refusal(), (201, granted(5, 1000))]).await;
    assert_eq!(next, Next::Now);
    assert_eq!(seen, asked(&[("heartbeat", "jwt0"), ("refresh", "hrt0"), ("register", "htok")]));
    assert_eq!((world.kept().as_str(), world.paused()), ("jwt5", 0));
    let (next, seen) = world.round([refusal(), refusal()]).await;
    assert_eq!((next, seen.len(), world.paused()), (Next::Retry, 2, 1));

    let mut used = World::new(1000, Some("used")).await;
    let (next, seen) = used.round([refusal(), refusal(), refusal()]).await;
    assert_eq!((next, seen.len(), used.paused()), (Next::Retry, 3, 1));
    let (_, seen) = used.round([refusal(), refusal()]).await;
    assert_eq!(seen.len(), 2);
}
