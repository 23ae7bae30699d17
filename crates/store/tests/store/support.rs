//! What the store's tests share: a database with a team, a host and a template in it.

use std::collections::{BTreeMap, BTreeSet};

use sandbar_store::hosts::{NewHostRow, RegistrationRow};
use sandbar_store::sandboxes::{NewSandboxRow, RunningOn, SandboxRow, Transition};
use sandbar_store::teams::Role;
use sandbar_store::templates::{CompleteTemplate, NewTemplateRow};
use sandbar_store::users::NewUserRow;
use sandbar_store::{Store, StoreError};
use sandbar_testkit::TestDatabase;
use sandbar_types::id::{Host, Sandbox, Team, Template, User};
use sandbar_types::{
    Arch, Id, Ingress, NetworkPolicy, OnTimeout, SandboxStatus, TemplateKind, TimeoutFrom, VmmKind,
};

/// A database with the least that a sandbox needs.
pub(crate) struct World {
    pub(crate) store: Store,
    pub(crate) team: Id<Team>,
    pub(crate) owner: Id<User>,
    pub(crate) host: Id<Host>,
    pub(crate) template: Id<Template>,
    pub(crate) database: TestDatabase,
}

pub(crate) const REGISTRATION: RegistrationRow<'static> = RegistrationRow {
    arch: Arch::X86_64,
    vmm: VmmKind::Qemu,
    cpu_cores: 4,
    memory_mb: 8192,
    disk_gb: 100,
    address: "127.0.0.1:1",
};

/// Somebody without a password.
pub(crate) fn person(id: Id<User>, email: &str) -> NewUserRow<'_> {
    NewUserRow { id, email, name: "Somebody", password_hash: None, is_admin: false }
}

static CLOSED: Ingress =
    Ingress { public: false, public_ports: BTreeSet::new(), mask_request_host: None, auto_resume: false };
static OPEN: NetworkPolicy =
    NetworkPolicy { allow_out: Vec::new(), deny_out: Vec::new(), allow_internet: true };

impl World {
    pub(crate) async fn new() -> Self {
        let database = TestDatabase::new().await;
        let store = Store::connect(&database.url()).await.unwrap();
        let (team, host) = (Id::new(), Id::new());
        let mut tx = store.begin().await.unwrap();
        tx.team_insert(team, "Team", "0123ab-cd4567").await.unwrap();
        let owner = Id::new();
        tx.user_insert(&person(owner, "owner@example.org")).await.unwrap();
        tx.membership_insert(team, owner, Role::Owner, true).await.unwrap();
        let new = NewHostRow {
            id: host,
            kind: "regular",
            team_id: Id::PLATFORM,
            provider: None,
            availability_zone: None,
            created_by: None,
        };
        tx.host_insert(&new).await.unwrap();
        tx.host_register(host, &REGISTRATION).await.unwrap();
        tx.host_beat(host, 1, &serde_json::json!({})).await.unwrap();
        let template = tx
            .template_reserve(&NewTemplateRow {
                id: Id::new(),
                team_id: Id::PLATFORM,
                name: &"base".parse().unwrap(),
                kind: TemplateKind::Snapshot,
                vcpus: 1,
                memory_mb: 512,
                arch: Arch::X86_64,
                vmm: VmmKind::Qemu,
            })
            .await
            .unwrap();
        tx.template_complete(template, host, &complete()).await.unwrap();
        tx.commit().await.unwrap();
        Self { store, team, owner, host, template, database }
    }

    /// A row in the state `pending`.
    pub(crate) async fn pending(&self, metadata: &BTreeMap<String, String>) -> Id<Sandbox> {
        let id = Id::new();
        let mut tx = self.store.begin().await.unwrap();
        tx.sandbox_insert(&self.new_row(id, metadata)).await.unwrap();
        tx.commit().await.unwrap();
        id
    }

    pub(crate) fn new_row<'a>(
        &self,
        id: Id<Sandbox>,
        metadata: &'a BTreeMap<String, String>,
    ) -> NewSandboxRow<'a> {
        NewSandboxRow {
            id,
            team_id: self.team,
            template_id: self.template,
            vcpus: 1,
            memory_mb: 512,
            disk_mb: 1024,
            timeout_sec: 300,
            on_timeout: OnTimeout::Kill,
            timeout_from: TimeoutFrom::Activity,
            network: &OPEN,
            ingress: &CLOSED,
            metadata,
            created_by: "",
            parent_id: None,
            volumes: &[],
        }
    }

    /// A row in the state `running`.
    pub(crate) async fn running(&self) -> Id<Sandbox> {
        let id = self.pending(&BTreeMap::new()).await;
        let mut tx = self.store.begin().await.unwrap();
        tx.sandbox_place(id, self.host).await.unwrap().unwrap();
        let transition = Transition::new(id, SandboxStatus::Running);
        tx.sandbox_run(&transition, &on()).await.unwrap().unwrap();
        tx.commit().await.unwrap();
        id
    }

    pub(crate) async fn row(&self, id: Id<Sandbox>) -> SandboxRow {
        self.store.sandbox_find(self.team, id).await.unwrap().unwrap()
    }

    /// Puts a row into any state, past all rules.
    pub(crate) async fn force(&self, id: Id<Sandbox>, status: SandboxStatus) {
        sqlx::query("UPDATE sandboxes SET status = $2, host_id = $3 WHERE id = $1")
            .bind(id.uuid())
            .bind(status.as_str())
            .bind(self.host.uuid())
            .execute(self.database.pool())
            .await
            .unwrap();
    }

    pub(crate) async fn execute(&self, statement: &'static str) {
        sqlx::query(statement).execute(self.database.pool()).await.unwrap();
    }

    pub(crate) async fn transition(
        &self,
        transition: &Transition<'_>,
    ) -> Result<Option<SandboxRow>, StoreError> {
        let mut tx = self.store.begin().await?;
        let row = tx.sandbox_transition(transition).await?;
        tx.commit().await?;
        Ok(row)
    }
}

pub(crate) fn complete() -> CompleteTemplate<'static> {
    CompleteTemplate {
        vcpus: 1,
        memory_mb: 512,
        disk_mb: 1024,
        size_bytes: 1 << 30,
        compatibility: "qemu-10",
    }
}

pub(crate) fn on() -> RunningOn {
    RunningOn {
        guest_ip: Some("172.30.0.2".to_owned()),
        host_ip: Some("10.0.0.2".to_owned()),
        last_active_at: None,
        expires_at: None,
        deadline: None,
    }
}

/// Deterministic, so that a failure can be repeated by its seed (splitmix64).
pub(crate) struct Random(pub(crate) u64);

impl Random {
    pub(crate) fn below<N: Copy + TryInto<u64> + TryFrom<u64>>(&mut self, bound: N) -> N {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        let bound = bound.try_into().unwrap_or_else(|_| panic!("a bound is positive"));
        N::try_from((mixed ^ (mixed >> 31)) % bound).unwrap_or_else(|_| panic!("below the bound"))
    }
}
