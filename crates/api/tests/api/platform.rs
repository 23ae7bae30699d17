//! A whole platform for one test: database, control plane, API on a port of its own, one simulated host that was let in the way
//! every host is.

use std::time::Duration;

use sandbar_api::Limits;
use sandbar_control::bootstrap::FirstRunSecrets;
use sandbar_control::config::{Allowance, MonitorConfig};
use sandbar_control::hosts::NewHost;
use sandbar_control::sandboxes::NewSandbox;
use sandbar_control::secrets::MasterKey;
use sandbar_control::{Config, Control, OpContext};
use sandbar_store::Store;
use sandbar_store::api_keys::NewApiKeyRow;
use sandbar_store::teams::Role;
use sandbar_store::users::NewUserRow;
use sandbar_testkit::TestDatabase;
use sandbar_testkit::sim_host::SimHost;
use sandbar_types::Id;
use secrecy::{ExposeSecret as _, SecretString};
use serde_json::json;
use sha2::{Digest as _, Sha256};
use sqlx::postgres::PgListener;
use tokio::net::TcpListener;
use tokio::runtime::Runtime;
use tokio_util::sync::{CancellationToken, DropGuard};
use uuid::Uuid;

use crate::client::Client;

/// See the module. Dropping it ends everything.
pub(crate) struct Platform {
    /// With the first team's key.
    pub(crate) api: Client,
    pub(crate) control: Control,
    pub(crate) store: Store,
    pub(crate) host: SimHost,
    pub(crate) host_id: String,
    pub(crate) host_token: String,
    pub(crate) key: SecretString,
    pub(crate) password: SecretString,
    master_key: MasterKey,
    config: Config,
    _stop: DropGuard,
    // Last: what is connected to it ends first.
    pub(crate) database: TestDatabase,
}

/// The defaults, but with patience for a test's length.
pub(crate) fn config() -> Config {
    Config {
        create_deadline: Duration::from_secs(2),
        destroy_deadline: Duration::from_secs(2),
        pause_deadline: Duration::from_secs(2),
        resume_deadline: Duration::from_secs(2),
        snapshot_deadline: Duration::from_secs(2),
        fork_deadline: Duration::from_secs(2),
        call_deadline: Duration::from_secs(2),
        operation_deadline: Duration::from_secs(3),
        monitor: MonitorConfig { interval: Duration::from_millis(200), ..MonitorConfig::default() },
        // All tests come from one address, and some sign in often.
        sign_ins_by_account: Allowance { burst: 10_000, refill: Duration::from_secs(1) },
        sign_ins_by_address: Allowance { burst: 10_000, refill: Duration::from_secs(1) },
        ..Config::default()
    }
}

/// The defaults, without a limit on requests: tests wait for nobody.
pub(crate) fn api_config() -> sandbar_api::Config {
    sandbar_api::Config { request_rate: None, ..sandbar_api::Config::default() }
}

impl Platform {
    pub(crate) async fn start() -> Self {
        Self::start_with(config()).await
    }

    pub(crate) async fn start_with(config: Config) -> Self {
        let database = TestDatabase::new().await;
        let store = Store::connect(&database.url()).await.unwrap();
        let master_key = MasterKey::from_hex(&"5a".repeat(32)).unwrap();
        let control = Control::start(store.clone(), &master_key, config.clone()).await.unwrap();
        let secrets = FirstRunSecrets::generate();
        control.first_run("admin@example.org", "First", &secrets).await.unwrap().unwrap();

        let stop = CancellationToken::new();
        let api = serve(control.clone(), &api_config(), stop.clone()).await;
        let api = api.with_key(secrets.api_key.expose_secret());
        let (host, host_id, host_token) = let_in(&control, &api).await;
        control.ensure_base_template(host_id.parse().unwrap()).await.unwrap();
        Self {
            api,
            control,
            store,
            host,
            host_id,
            host_token,
            key: secrets.api_key,
            password: secrets.password,
            master_key,
            config,
            _stop: stop.drop_guard(),
            database,
        }
    }

    /// Another control plane on the same database, as after the first one's death, that does the background work until the guard
    /// is dropped.
    pub(crate) async fn successor(&self) -> DropGuard {
        let control =
            Control::start(self.store.clone(), &self.master_key, self.config.clone()).await.unwrap();
        let stop = CancellationToken::new();
        let token = stop.clone();
        tokio::spawn(async move { control.run_background(token).await });
        stop.drop_guard()
    }

    /// As [`Self::successor`], by another configuration, and on a port of its own in place of the background work.
    pub(crate) async fn beside(&self, config: Config) -> (Client, DropGuard) {
        let control = Control::start(self.store.clone(), &self.master_key, config).await.unwrap();
        let stop = CancellationToken::new();
        let api = serve(control, &api_config(), stop.clone()).await;
        (api, stop.drop_guard())
    }

    /// The same control plane on another port, whose API is configured otherwise.
    pub(crate) async fn facing(&self, config: &sandbar_api::Config) -> (Client, DropGuard) {
        let stop = CancellationToken::new();
        let api = serve(self.control.clone(), config, stop.clone()).await;
        (api, stop.drop_guard())
    }

    /// A create by a control plane in a process of its own, as it were: ending the runtime ends all of it at once, as SIGKILL
    /// would.
    pub(crate) fn doomed_create(&self) -> Runtime {
        self.doomed(|control, ctx| async move {
            drop(control.sandbox_create(&ctx, &NewSandbox::default(), None).await);
        })
    }

    /// The same for a pause.
    pub(crate) fn doomed_pause(&self, id: &str) -> Runtime {
        let id = id.parse().unwrap();
        self.doomed(move |control, ctx| async move {
            let sandbox = control.sandbox_get(&ctx, id).await.unwrap();
            drop(control.sandbox_pause(&ctx, &sandbox).await);
        })
    }

    fn doomed<F: Future<Output = ()> + Send>(
        &self,
        work: impl FnOnce(Control, OpContext) -> F + Send + 'static,
    ) -> Runtime {
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let (url, key, config) = (self.database.url(), self.key.clone(), self.config.clone());
        let master_key = self.master_key.clone();
        runtime.spawn(async move {
            let store = Store::connect(&url).await.unwrap();
            let control = Control::start(store, &master_key, config).await.unwrap();
            let actor = control.authenticate_api_key(key.expose_secret()).await.unwrap();
            work(control, OpContext::new(Uuid::now_v7(), actor)).await;
        });
        runtime
    }

    /// Waits until `count` sandboxes have come to their end, woken by the database.
    pub(crate) async fn settled(&self, count: i64) {
        self.rows_reach(&["stopped", "error"], count).await;
    }

    /// Waits until `count` sandboxes are of this status, woken by the database.
    pub(crate) async fn rows_are(&self, status: &str, count: i64) {
        self.rows_reach(&[status], count).await;
    }

    async fn rows_reach(&self, statuses: &[&str], count: i64) {
        let pool = self.database.pool();
        let trigger = "CREATE OR REPLACE FUNCTION tell() RETURNS trigger AS $$
                BEGIN PERFORM pg_notify('sandboxes', ''); RETURN NULL; END $$ LANGUAGE plpgsql;
            CREATE OR REPLACE TRIGGER tell AFTER UPDATE ON sandboxes EXECUTE FUNCTION tell();";
        sqlx::raw_sql(trigger).execute(pool).await.unwrap();
        let mut listener = PgListener::connect_with(pool).await.unwrap();
        listener.listen("sandboxes").await.unwrap();
        let wait = async {
            loop {
                let reached = sqlx::query_scalar("SELECT count(*) FROM sandboxes WHERE status = ANY($1)");
                let now: i64 = reached.bind(statuses).fetch_one(pool).await.unwrap();
                if now >= count {
                    break;
                }
                listener.recv().await.unwrap();
            }
        };
        let waited = tokio::time::timeout(Duration::from_secs(30), wait).await;
        assert!(waited.is_ok(), "{count} sandboxes did not become {statuses:?}");
    }

    /// A client with the key of another team.
    pub(crate) async fn stranger(&self) -> Client {
        let key = format!("e2b_{:040x}", Id::<sandbar_types::id::ApiKey>::new().uuid().as_u128());
        let (user, team) = (Id::new(), Id::new());
        let hash = Sha256::digest(key.as_bytes()).into();
        let new_user = NewUserRow {
            id: user,
            email: "stranger@example.org",
            name: "Stranger",
            password_hash: None,
            is_admin: false,
        };
        let new_key = NewApiKeyRow {
            id: Id::new(),
            team_id: team,
            name: "stranger",
            key_hash: &hash,
            key_prefix: &key[..8],
            created_by: Some(user),
            expires_at: None,
        };
        let mut tx = self.store.begin().await.unwrap();
        tx.user_insert(&new_user).await.unwrap();
        tx.team_insert(team, "Strangers", "0a1b2c-3d4e5f").await.unwrap();
        tx.membership_insert(team, user, Role::Owner, true).await.unwrap();
        tx.api_key_insert(&new_key).await.unwrap();
        tx.commit().await.unwrap();
        self.api.with_key(&key)
    }
}

async fn serve(control: Control, config: &sandbar_api::Config, stop: CancellationToken) -> Client {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let router = sandbar_api::router(control, config, sandbar_api::Throttle::new(config));
    tokio::spawn(sandbar_api::serve(listener, router, Limits::default(), stop, Duration::ZERO));
    Client::new(address)
}

/// A new host that registered over HTTP and sent its first heartbeat: the host, its id, its token.
pub(crate) async fn let_in(control: &Control, api: &Client) -> (SimHost, String, String) {
    let created = control.host_create(&OpContext::system(), &NewHost::default()).await.unwrap();
    let host = SimHost::bind().await.unwrap();
    let body = registration(&host, created.registration_token.expose_secret());
    let answer = api.anonymous().post("/v1/hosts/register", body).await.expect(201);
    let text = |name: &str| answer[name].as_str().unwrap().to_owned();
    let id = answer["host"]["id"].as_str().unwrap().to_owned();
    host.enroll(&id, &text("cert"), &text("ca")).await.unwrap();
    let token = text("token");
    let body = json!({"inventory_generation": host.inventory_generation()});
    api.with_host_token(&token).post(&format!("/v1/hosts/{id}/heartbeat"), body).await.expect(204);
    (host, id, token)
}

/// What an agent says of itself.
pub(crate) fn registration(host: &SimHost, token: &str) -> serde_json::Value {
    json!({
        "token": token,
        "arch": "x86_64",
        "cpu_cores": 8,
        "memory_mb": 65_536,
        "disk_gb": 500,
        "address": host.address(),
        "vmm": "qemu",
        "csr": host.csr().unwrap(),
    })
}
