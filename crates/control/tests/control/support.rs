//! A control plane with one host and one team.

use std::time::Duration;

use sandbar_control::bootstrap::FirstRunSecrets;
use sandbar_control::config::MonitorConfig;
use sandbar_control::hosts::{Heartbeat, NewHost, Registered, Registration};
use sandbar_control::reconcile::ReconcileReport;
use sandbar_control::sandboxes::{NewSandbox, SandboxError};
use sandbar_control::secrets::MasterKey;
use sandbar_control::{Config, Control, OpContext, Sandbox};
use sandbar_store::Store;
use sandbar_testkit::TestDatabase;
use sandbar_testkit::sim_host::SimHost;
use sandbar_types::id::{self, Host};
use sandbar_types::{Arch, Id, SandboxStatus, VmmKind};
use secrecy::{ExposeSecret as _, SecretString};
use uuid::Uuid;

/// See the module.
pub(crate) struct World {
    pub(crate) control: Control,
    /// As the team's API key.
    pub(crate) ctx: OpContext,
    pub(crate) host: SimHost,
    pub(crate) host_id: Id<Host>,
    /// As the host.
    pub(crate) host_ctx: OpContext,
    config: Config,
    pub(crate) database: TestDatabase,
}

/// Patience for a test's length. Nothing here waits for these to pass unless it tests that.
pub(crate) fn config() -> Config {
    Config {
        create_deadline: Duration::from_millis(1500),
        destroy_deadline: Duration::from_millis(1500),
        pause_deadline: Duration::from_millis(1500),
        resume_deadline: Duration::from_millis(1500),
        snapshot_deadline: Duration::from_millis(1500),
        fork_deadline: Duration::from_millis(1500),
        verify_deadline: Duration::from_millis(1500),
        call_deadline: Duration::from_millis(1500),
        // Not to be waited for: tests make rows older.
        operation_deadline: Duration::from_secs(60),
        monitor: MonitorConfig { mass_limit: 3, ..MonitorConfig::default() },
        ..Config::default()
    }
}

fn master_key() -> MasterKey {
    MasterKey::from_hex(&"17".repeat(32)).unwrap()
}

impl World {
    pub(crate) async fn new() -> Self {
        Self::with(config()).await
    }

    pub(crate) async fn with(config: Config) -> Self {
        Self::on(TestDatabase::new().await, config).await
    }

    pub(crate) async fn on(database: TestDatabase, config: Config) -> Self {
        let control = start(&database, &config).await;
        let secrets = FirstRunSecrets::generate();
        control.first_run("admin@example.org", "First", &secrets).await.unwrap().unwrap();
        let actor = control.authenticate_api_key(secrets.api_key.expose_secret()).await.unwrap();
        let ctx = OpContext::new(Uuid::now_v7(), actor);
        let host = SimHost::bind().await.unwrap();
        let created = control.host_create(&OpContext::system(), &NewHost::default()).await.unwrap();
        let registered = register(&control, &host, created.registration_token).await;
        let host_ctx = host_context(&control, &registered).await;
        let world = Self { control, ctx, host, host_id: created.host.id, host_ctx, config, database };
        world.beat().await;
        world.control.ensure_base_template(world.host_id).await.unwrap();
        world
    }

    /// Another control plane on the same database.
    pub(crate) async fn replica(&self) -> Control {
        start(&self.database, &self.config).await
    }

    /// The same, told something else.
    pub(crate) async fn replica_with(&self, config: Config) -> Control {
        start(&self.database, &config).await
    }

    /// The host's heartbeat.
    pub(crate) async fn beat(&self) {
        let heartbeat =
            Heartbeat { inventory_generation: self.host.inventory_generation(), ..Heartbeat::default() };
        self.control.host_heartbeat(&self.host_ctx, self.host_id, &heartbeat).await.unwrap();
    }

    pub(crate) async fn create(&self) -> Result<Sandbox, SandboxError> {
        self.control.sandbox_create(&self.ctx, &NewSandbox::default(), None).await
    }

    pub(crate) async fn get(&self, id: Id<id::Sandbox>) -> Sandbox {
        self.control.sandbox_get(&self.ctx, id).await.unwrap()
    }

    /// The states of all rows, oldest first.
    pub(crate) async fn statuses(&self) -> Vec<SandboxStatus> {
        let words: Vec<String> = sqlx::query_scalar("SELECT status FROM sandboxes ORDER BY created_at, id")
            .fetch_all(self.database.pool())
            .await
            .unwrap();
        words.iter().map(|word| word.parse().unwrap()).collect()
    }

    /// The audit trail of sandboxes: action and status, oldest first.
    pub(crate) async fn trail(&self) -> Vec<(String, String)> {
        sqlx::query_as(
            "SELECT action, status FROM audit_logs WHERE resource_type = 'sandbox' ORDER BY created_at, id",
        )
        .fetch_all(self.database.pool())
        .await
        .unwrap()
    }

    /// Who is told of what since its sandboxes were made: actor's type, resource's type, action, status; oldest first.
    pub(crate) async fn told(&self) -> Vec<String> {
        sqlx::query_scalar(
            "SELECT concat_ws(' ', actor_type, resource_type, action, status) FROM audit_logs
             WHERE resource_type IN ('sandbox', 'snapshot') AND NOT (resource_type = 'sandbox' AND action = 'create')
             ORDER BY created_at, id",
        )
        .fetch_all(self.database.pool())
        .await
        .unwrap()
    }

    /// A look at the host, as the background work takes one.
    pub(crate) async fn look(&self) -> ReconcileReport {
        self.control.reconcile_host(self.host_id, None).await.unwrap()
    }

    /// Makes rows in transition as old as if somebody had begun and died an hour ago.
    pub(crate) async fn age_rows(&self) {
        self.execute("UPDATE sandboxes SET transition_started_at = now() - interval '1 hour'").await;
        self.execute("UPDATE template_locations SET updated_at = now() - interval '1 hour'").await;
    }

    pub(crate) async fn execute(&self, statement: &'static str) {
        sqlx::query(statement).execute(self.database.pool()).await.unwrap();
    }
}

async fn start(database: &TestDatabase, config: &Config) -> Control {
    let store = Store::connect(&database.url()).await.unwrap();
    Control::start(store, &master_key(), config.clone()).await.unwrap()
}

/// What a host says when it registers.
pub(crate) fn registration(host: &SimHost, token: SecretString) -> Registration {
    Registration {
        token,
        arch: Arch::X86_64,
        cpu_cores: 4,
        memory_mb: 8192,
        disk_gb: 100,
        address: host.address(),
        vmm: VmmKind::Qemu,
        csr: host.csr().unwrap(),
    }
}

/// Lets a host in, and has it serve with what it got.
pub(crate) async fn register(control: &Control, host: &SimHost, token: SecretString) -> Registered {
    let registration = registration(host, token);
    let registered =
        control.host_register(&OpContext::anonymous(Uuid::now_v7()), &registration).await.unwrap();
    host.enroll(&registered.host.id.to_string(), &registered.credentials.cert, &registered.credentials.ca)
        .await
        .unwrap();
    registered
}

pub(crate) async fn host_context(control: &Control, registered: &Registered) -> OpContext {
    let actor = control.authenticate_host(registered.credentials.token.expose_secret()).await.unwrap();
    OpContext::new(Uuid::now_v7(), actor)
}

/// A control plane in a process of its own, as it were: ending it ends all of its work at once, as SIGKILL would.
pub(crate) struct Doomed {
    runtime: tokio::runtime::Runtime,
    work: tokio::sync::watch::Receiver<()>,
}

impl World {
    /// Lets a control plane of its own do something, until it is killed.
    pub(crate) fn doomed<F>(&self, work: impl FnOnce(Control, OpContext) -> F + Send + 'static) -> Doomed
    where
        F: Future<Output = ()> + Send,
    {
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let (url, config, ctx) = (self.database.url(), self.config.clone(), self.ctx.clone());
        let (ending, ended) = tokio::sync::watch::channel(());
        runtime.spawn(async move {
            let _ending = ending;
            let store = Store::connect(&url).await.unwrap();
            work(Control::start(store, &master_key(), config).await.unwrap(), ctx).await;
        });
        Doomed { runtime, work: ended }
    }
}

impl Doomed {
    /// Waits until its work ended by itself.
    pub(crate) async fn ended(&self) {
        // The sender says nothing; it is dropped with the work.
        while self.work.clone().changed().await.is_ok() {}
    }

    pub(crate) fn kill(self) {
        self.runtime.shutdown_background();
    }
}
