//! A control plane with one host, one team and an edge on a port of its own; servers to reach through it.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::routing::get;
use reqwest::RequestBuilder;
use sandbar_control::bootstrap::FirstRunSecrets;
use sandbar_control::hosts::{Heartbeat, NewHost, Registration};
use sandbar_control::people::NewUser;
use sandbar_control::sandboxes::NewSandbox;
use sandbar_control::secrets::MasterKey;
use sandbar_control::{Client, Config, Control, OpContext, Sandbox};
use sandbar_store::Store;
use sandbar_testkit::TestDatabase;
use sandbar_testkit::sim_host::SimHost;
use sandbar_types::{Arch, Ingress, VmmKind};
use secrecy::{ExposeSecret as _, SecretString};
use serde_json::Value;
use tokio::net::TcpListener;
use uuid::Uuid;

/// The name below which this world's sandboxes have theirs.
pub(crate) const DOMAIN: &str = "sbx.test:8443";
/// What the API behind the edge says.
pub(crate) const API: &str = "the API";

pub(crate) struct World {
    pub(crate) control: Control,
    pub(crate) ctx: OpContext,
    pub(crate) key: SecretString,
    pub(crate) host: SimHost,
    pub(crate) at: SocketAddr,
    pub(crate) database: TestDatabase,
}

impl World {
    pub(crate) async fn new() -> Self {
        Self::with(edge()).await
    }

    /// With proxies whose word counts.
    pub(crate) async fn trusting(proxies: &[ipnet::IpNet]) -> Self {
        Self::with(sandbar_edge::Config { trusted_proxies: proxies.to_vec(), ..edge() }).await
    }

    pub(crate) async fn with(edge: sandbar_edge::Config) -> Self {
        let database = TestDatabase::new().await;
        let store = Store::connect(&database.url()).await.unwrap();
        let config = Config {
            resume_deadline: Duration::from_secs(5),
            domain: Some(DOMAIN.to_owned()),
            ..Config::default()
        };
        let master_key = MasterKey::from_hex(&"17".repeat(32)).unwrap();
        let control = Control::start(store, &master_key, config).await.unwrap();
        let secrets = FirstRunSecrets::generate();
        control.first_run("admin@example.org", "First", &secrets).await.unwrap().unwrap();
        let actor = control.authenticate_api_key(secrets.api_key.expose_secret()).await.unwrap();
        let ctx = OpContext::new(Uuid::now_v7(), actor);
        let host = let_in(&control).await;

        let api = Router::new().fallback(get(async || API));
        let at = serve(sandbar_edge::router(control.clone(), edge, api)).await;
        Self { control, ctx, key: secrets.api_key, host, at, database }
    }

    pub(crate) async fn sandbox(&self, ingress: Ingress) -> Sandbox {
        let new = NewSandbox { ingress, ..NewSandbox::default() };
        self.control.sandbox_create(&self.ctx, &new, None).await.unwrap()
    }

    /// Whose port 3000 anybody may reach.
    pub(crate) async fn public(&self) -> Sandbox {
        self.sandbox(Ingress { public_ports: [3000].into(), ..Ingress::default() }).await
    }

    /// A request to a port of a sandbox, by its name.
    pub(crate) fn request(&self, method: &str, sandbox: &Sandbox, port: u16, path: &str) -> RequestBuilder {
        self.request_by(&client(), method, sandbox, port, path)
    }

    pub(crate) fn request_by(
        &self,
        client: &reqwest::Client,
        method: &str,
        sandbox: &Sandbox,
        port: u16,
        path: &str,
    ) -> RequestBuilder {
        let host = format!("{port}-{}.{DOMAIN}", sandbox.id.e2b());
        client.request(method.parse().unwrap(), format!("http://{}{path}", self.at)).header("host", host)
    }

    /// A key of another team.
    pub(crate) async fn strangers_key(&self) -> SecretString {
        let anybody = OpContext::anonymous(Uuid::now_v7());
        let stranger = NewUser {
            email: "stranger@example.org".to_owned(),
            password: "a long password".to_owned().into(),
            name: "Stranger".to_owned(),
        };
        let client = Client { address: None, user_agent: String::new() };
        let signed_in = self.control.sign_up(&anybody, &stranger, &client).await.unwrap();
        let actor = self.control.authenticate_user(signed_in.token.expose_secret()).await.unwrap();
        let ctx = OpContext::new(Uuid::now_v7(), actor);
        self.control.api_key_create(&ctx, "strange", None).await.unwrap().secret
    }

    pub(crate) async fn pause(&self, sandbox: &Sandbox) {
        let now = self.control.sandbox_get(&self.ctx, sandbox.id).await.unwrap();
        self.control.sandbox_pause(&self.ctx, &now).await.unwrap();
    }
}

/// An edge that charges nothing.
pub(crate) fn edge() -> sandbar_edge::Config {
    sandbar_edge::Config { trusted_proxies: Vec::new(), streams: 10_000, charge: Arc::new(|_, _| Ok(())) }
}

/// A client that keeps its connections to itself.
pub(crate) fn client() -> reqwest::Client {
    reqwest::Client::builder().no_proxy().build().unwrap()
}

/// Serves a router on a port of this machine.
pub(crate) async fn serve(router: Router) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let at = listener.local_addr().unwrap();
    let service = router.into_make_service_with_connect_info::<SocketAddr>();
    tokio::spawn(async move { axum::serve(listener, service).await });
    at
}

/// What a refusal says: its status, and its body.
pub(crate) async fn refusal(request: RequestBuilder) -> (u16, Value) {
    let response = request.send().await.unwrap();
    (response.status().as_u16(), response.json().await.unwrap())
}

async fn let_in(control: &Control) -> SimHost {
    let host = SimHost::bind().await.unwrap();
    let created = control.host_create(&OpContext::system(), &NewHost::default()).await.unwrap();
    let registration = Registration {
        token: created.registration_token,
        arch: Arch::X86_64,
        cpu_cores: 4,
        memory_mb: 8192,
        disk_gb: 100,
        address: host.address(),
        vmm: VmmKind::Qemu,
        csr: host.csr().unwrap(),
    };
    let anybody = OpContext::anonymous(Uuid::now_v7());
    let registered = control.host_register(&anybody, &registration).await.unwrap();
    host.enroll(&registered.host.id.to_string(), &registered.credentials.cert, &registered.credentials.ca)
        .await
        .unwrap();
    let actor = control.authenticate_host(registered.credentials.token.expose_secret()).await.unwrap();
    let heartbeat = Heartbeat { inventory_generation: host.inventory_generation(), ..Heartbeat::default() };
    let ctx = OpContext::new(Uuid::now_v7(), actor);
    control.host_heartbeat(&ctx, created.host.id, &heartbeat).await.unwrap();
    control.ensure_base_template(created.host.id).await.unwrap();
    host
}
