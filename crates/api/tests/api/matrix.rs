//! Who may call what: every operation of the OpenAPI document, as everybody. An operation without a row here fails the test.

use std::collections::BTreeSet;
use std::time::Duration;

use reqwest::Method;
use reqwest::multipart::Form;
use sandbar_control::Config;
use sandbar_store::hosts::NewHostRow;
use sandbar_store::teams::Role;
use sandbar_types::{Id, PerResource};
use secrecy::ExposeSecret as _;
use serde_json::{Value, json};

use crate::client::{Client, send};
use crate::people::Someone;
use crate::platform::{Platform, config};

/// What an operation answers to each caller, as HTTP statuses.
#[derive(Clone, Copy)]
struct Answers {
    /// Without a credential, and with one that is garbage, expired or revoked.
    nobody: u16,
    /// A person of another team, who owns that one.
    stranger: u16,
    member: u16,
    admin: u16,
    owner: u16,
    /// The platform's administrator, who is in no way of the team.
    platform: u16,
    /// The team's key.
    key: u16,
    /// Another team's key.
    strange_key: u16,
    /// A host's token.
    host: u16,
}

/// All the same.
const fn everybody(status: u16) -> Answers {
    Answers {
        nobody: status,
        stranger: status,
        member: status,
        admin: status,
        owner: status,
        platform: status,
        key: status,
        strange_key: status,
        host: status,
    }
}

/// Something of the team's, for its members and keys; to all others there is no such thing.
const fn team_only(status: u16) -> Answers {
    Answers { stranger: 404, platform: 404, strange_key: 404, nobody: 401, host: 401, ..everybody(status) }
}

/// For anybody with a team, who then sees or makes what is their own team's.
const fn own_team(status: u16) -> Answers {
    Answers { nobody: 401, host: 401, ..everybody(status) }
}

/// For people, who then see or change what is their own.
const fn people(status: u16) -> Answers {
    Answers { key: 401, strange_key: 401, ..own_team(status) }
}

/// For people in the team, by role; to all others there is no such team.
const fn in_team(member: u16, admin: u16, owner: u16) -> Answers {
    Answers { stranger: 404, platform: 404, member, admin, owner, ..people(0) }
}

/// For people of the team that brought a host, by role, and for the platform's administrators.
const fn on_host(member: u16, admin: u16) -> Answers {
    Answers { platform: admin, ..in_team(member, admin, admin) }
}

/// For the platform's administrators.
const fn platform_only(status: u16) -> Answers {
    Answers { platform: status, ..people(403) }
}

fn row(operation: &str) -> Option<Answers> {
    Some(match operation {
        "healthz" | "readyz" | "list_oauth_providers" => everybody(200),
        "sign_up" => everybody(201),
        "log_in" => everybody(200),
        // Nothing of the kind is configured; and a code or a token that is not one lets nobody in, whoever they are otherwise.
        "begin_oauth" | "finish_oauth" => everybody(404),
        "exchange_oauth_code" | "register_host" | "refresh_host" => everybody(401),
        "host_heartbeat" => Answers { host: 204, ..everybody(401) },

        "create_sandbox" => own_team(201),
        "list_sandboxes" | "list_snapshots" | "get_sandbox_stats" | "get_usage" => own_team(200),
        "get_sandbox" | "exec_in_sandbox" | "read_sandbox_file" | "get_sandbox_metrics" => team_only(200),
        "get_sandbox_logs" | "follow_sandbox_logs" => team_only(200),
        "pause_sandbox" | "resume_sandbox" | "set_sandbox_timeout" => team_only(200),
        "get_sandbox_network" | "verify_snapshot" => team_only(200),
        "list_sandbox_processes" | "list_sandbox_folder" | "make_sandbox_folder" => team_only(200),
        "stream_read_sandbox_file" => team_only(200),
        "kill_sandbox_process" | "remove_sandbox_file" | "stream_write_sandbox_file" => team_only(204),
        "fork_sandbox" | "create_snapshot" => team_only(201),
        "set_sandbox_network" | "delete_snapshot" => team_only(204),
        "delete_sandbox" | "ping_sandbox" | "write_sandbox_file" => team_only(204),
        // Asked for without the upgrade to a WebSocket.
        "exec_stream_in_sandbox" | "sandbox_pty" => team_only(400),

        "create_build" => Answers { member: 403, ..own_team(201) },
        "list_builds" => own_team(200),
        // Of an archive that is not there, and with what it is not.
        "get_build_files" => Answers { member: 403, ..own_team(404) },
        "put_build_files" => Answers { member: 403, ..own_team(400) },
        "get_build_files_received" => Answers { member: 403, ..own_team(200) },
        "get_build" | "follow_build" => team_only(200),
        "cancel_build" => Answers { member: 403, ..team_only(200) },

        "get_profile" | "change_profile" | "list_sessions" | "list_identities" => people(200),
        "switch_team" => Answers { stranger: 403, platform: 403, ..people(200) },
        "log_out" => people(204),
        "end_session" => Answers { owner: 204, ..people(404) },
        "link_identity" | "unlink_identity" => people(404),
        "search_users" | "list_teams" | "list_api_keys" | "list_audit_logs" | "get_platform" => people(200),
        "create_team" | "create_api_key" => people(201),
        "revoke_api_key" => in_team(403, 204, 204),

        "list_secrets" => own_team(200),
        "list_volumes" => own_team(200),
        "create_volume" => own_team(201),
        "get_volume" => team_only(200),
        "delete_volume" => Answers { member: 403, ..team_only(204) },
        "create_secret" => own_team(201),
        "get_secret" => team_only(200),
        // Another member's.
        "set_secret" => Answers { member: 403, ..team_only(200) },
        "delete_secret" => Answers { member: 403, ..team_only(204) },

        "get_team" | "get_team_quotas" => in_team(200, 200, 200),
        "rename_team" | "change_member" => in_team(403, 200, 200),
        "add_member" => in_team(403, 201, 201),
        "remove_member" => in_team(403, 204, 204),
        "leave_team" => in_team(204, 204, 409),
        "transfer_team" => in_team(403, 403, 200),
        "delete_team" => in_team(403, 403, 204),

        "add_host" => platform_only(201),
        "list_hosts" => people(200),
        "get_host" | "list_host_tags" | "preview_host_delete" => on_host(200, 200),
        "drain_host" | "end_host_drain" => on_host(403, 200),
        "issue_host_token" | "add_host_tag" => on_host(403, 201),
        "delete_host" | "remove_host_tag" => on_host(403, 204),

        "admin_list_teams"
        | "admin_list_users"
        | "admin_list_sandboxes"
        | "admin_set_byoc"
        | "admin_get_quotas"
        | "admin_set_quotas"
        | "admin_set_admin"
        | "admin_list_builds"
        | "admin_get_build"
        | "admin_follow_build"
        | "admin_cancel_build"
        | "admin_list_templates"
        | "admin_list_audit_logs" => platform_only(200),
        "admin_create_build" => platform_only(201),
        "admin_get_build_files" => platform_only(404),
        "admin_put_build_files" => platform_only(400),
        "admin_get_build_files_received" => platform_only(200),
        "admin_delete_template" => platform_only(204),
        _ => return None,
    })
}

/// The people and things that calls are made with.
struct World {
    platform: Platform,
    first: Someone,
    stranger: Someone,
    member: Someone,
    admin: Someone,
    owner: Someone,
    /// In the shared team.
    sandbox: String,
    key: String,
    strange_key: String,
    expired: String,
    revoked: String,
}

/// What an operation is called with.
#[derive(Default)]
struct Call {
    path: Vec<(&'static str, String)>,
    query: &'static str,
    body: Option<Value>,
    form: bool,
}

impl Call {
    fn on(id: impl Into<String>) -> Self {
        Self { path: vec![("id", id.into())], ..Self::default() }
    }

    fn with(self, body: Value) -> Self {
        Self { body: Some(body), ..self }
    }
}

impl World {
    async fn new() -> Self {
        // Nobody works on the builds that are asked for here.
        let default_quotas = PerResource {
            builds: 10_000,
            secrets: 10_000,
            volumes: 10_000,
            volume_mb: 10_000_000,
            ..config().default_quotas
        };
        let platform = Platform::start_with(Config { default_quotas, ..config() }).await;
        let first = platform.first_person().await;
        let owner = platform.sign_up("owner").await;
        let stranger = platform.sign_up("stranger").await;
        let mut others = Vec::new();
        for name in ["member", "teamadmin"] {
            let other = platform.sign_up(name).await;
            owner.adds(&other).await;
            let api = other.in_team(&owner.team).await;
            others.push(Someone { api, ..other });
        }
        let (admin, member) = (others.pop().unwrap(), others.pop().unwrap());
        owner.makes(&admin, "admin").await;
        let (key, strange_key) = (owner.key().await.1, stranger.key().await.1);
        let sandbox = platform.api.with_key(&key).sandbox().await;
        let (beside, _stop) = platform.beside(Config { session_life: Duration::ZERO, ..config() }).await;
        let sign_in = json!({"email": owner.email, "password": crate::people::PASSWORD});
        let token = |answer: Value| answer["token"].as_str().unwrap().to_owned();
        let expired = token(beside.post("/v1/auth/login", sign_in.clone()).await.expect(200));
        let revoked = token(platform.api.anonymous().post("/v1/auth/login", sign_in).await.expect(200));
        platform.api.with_bearer(&revoked).post("/v1/auth/logout", json!({})).await.expect(204);
        Self { platform, first, stranger, member, admin, owner, sandbox, key, strange_key, expired, revoked }
    }

    /// A team with the same people in the same roles, and its member.
    async fn fresh_team(&self) -> String {
        let id = Id::new();
        let digits = id.uuid().simple().to_string();
        let slug = format!("{}-{}", &digits[20..26], &digits[26..32]);
        let mut tx = self.platform.store.begin().await.unwrap();
        tx.team_insert(id, "Fresh", &slug).await.unwrap();
        for (someone, role) in
            [(&self.owner, Role::Owner), (&self.admin, Role::Admin), (&self.member, Role::Member)]
        {
            tx.membership_insert(id, someone.id.parse().unwrap(), role, false).await.unwrap();
        }
        tx.commit().await.unwrap();
        id.to_string()
    }

    /// A host that a fresh team brought, with the tag `a`.
    async fn fresh_host(&self) -> String {
        let (id, team) = (Id::new(), self.fresh_team().await);
        let mut tx = self.platform.store.begin().await.unwrap();
        tx.host_insert(&NewHostRow {
            id,
            kind: "byoc",
            team_id: team.parse().unwrap(),
            provider: None,
            availability_zone: None,
            created_by: None,
        })
        .await
        .unwrap();
        assert!(tx.host_tag_add(id, "a", 1).await.unwrap());
        tx.commit().await.unwrap();
        id.to_string()
    }

    /// A build of the team's that waits.
    async fn fresh_build(&self) -> String {
        let api = self.platform.api.with_key(&self.key);
        let build = api.post("/v1/builds", json!({"name": "built", "recipe": ["echo"]})).await.expect(201);
        build["id"].as_str().unwrap().to_owned()
    }

    /// A secret that the owner made.
    async fn fresh_secret(&self) -> String {
        let name = Id::<sandbar_types::id::User>::new();
        let made = self.owner.api.post("/v1/secrets", json!({"name": name, "value": "v"})).await.expect(201);
        made["name"].as_str().unwrap().to_owned()
    }

    /// A volume that the owner made.
    async fn fresh_volume(&self) -> String {
        let body = json!({"name": Id::<sandbar_types::id::User>::new(), "size_mb": 64});
        let made = self.owner.api.post("/v1/volumes", body).await.expect(201);
        made["name"].as_str().unwrap().to_owned()
    }

    /// A template of the platform's of which no host has files.
    async fn fresh_platform_template(&self) -> String {
        let id = Id::<sandbar_types::id::Template>::new().uuid();
        let name = format!("t{}", id.simple());
        let made = "INSERT INTO templates (id, team_id, name, kind, vcpus, memory_mb, disk_mb, size_bytes, arch, vmm, ready_at)
                    SELECT $1, team_id, $2, kind, vcpus, memory_mb, disk_mb, size_bytes, arch, vmm, now()
                    FROM templates WHERE name = 'base'";
        let pool = self.platform.database.pool();
        sqlx::query(made).bind(id).bind(&name).execute(pool).await.unwrap();
        name
    }

    /// Somebody who just signed up.
    async fn fresh_person(&self) -> Someone {
        self.platform.sign_up(&format!("p{}", Id::<sandbar_types::id::User>::new().uuid().simple())).await
    }

    /// What to call an operation with, made anew where a call uses it up.
    async fn call(&self, operation: &str) -> Call {
        let sandbox = || Call::on(&self.sandbox);
        match operation {
            "sign_up" => {
                let email = format!("{}@example.org", Id::<sandbar_types::id::User>::new());
                Call::default().with(json!({"email": email, "password": "12345678", "name": "N"}))
            }
            "log_in" => {
                let password = self.platform.password.expose_secret();
                Call::default().with(json!({"email": self.first.email, "password": password}))
            }
            "begin_oauth" | "finish_oauth" | "link_identity" | "unlink_identity" => {
                Call { path: vec![("provider", "github".to_owned())], ..Call::default() }
            }
            "exchange_oauth_code" => Call::default().with(json!({"code": "none"})),
            "register_host" => Call::default().with(json!({
                "token": "none", "arch": "x86_64", "cpu_cores": 1, "memory_mb": 1024, "disk_gb": 1,
                "address": "127.0.0.1:1", "vmm": "qemu", "csr": self.platform.host.csr().unwrap(),
            })),
            "refresh_host" => Call::default()
                .with(json!({"refresh_token": "none", "csr": self.platform.host.csr().unwrap()})),
            "get_host"
            | "list_host_tags"
            | "preview_host_delete"
            | "drain_host"
            | "end_host_drain"
            | "issue_host_token"
            | "delete_host" => Call::on(self.fresh_host().await),
            "add_host_tag" => Call::on(self.fresh_host().await).with(json!({"tag": "a"})),
            "remove_host_tag" => {
                let path = vec![("id", self.fresh_host().await), ("tag", "a".to_owned())];
                Call { path, ..Call::default() }
            }
            "host_heartbeat" => {
                let generation = self.platform.host.inventory_generation();
                Call::on(&self.platform.host_id).with(json!({"inventory_generation": generation}))
            }
            "delete_sandbox" => Call::on(self.platform.api.with_key(&self.key).sandbox().await),
            "exec_in_sandbox" => sandbox().with(json!({"cmd": "echo", "args": ["x"]})),
            "read_sandbox_file" | "stream_read_sandbox_file" => sandbox().with(json!({"path": "/tmp/x"})),
            "list_sandbox_folder" | "make_sandbox_folder" => sandbox().with(json!({"path": "/tmp"})),
            "remove_sandbox_file" => sandbox().with(json!({"path": "/tmp/nothing"})),
            "stream_write_sandbox_file" => Call { query: "?path=/tmp/x", ..sandbox() },
            "list_sandbox_processes" | "sandbox_pty" => sandbox(),
            "kill_sandbox_process" => {
                let path = vec![("id", self.sandbox.clone()), ("process", "1000".to_owned())];
                Call { path, ..Call::default() }
            }
            "write_sandbox_file" => Call { form: true, ..sandbox() },
            "get_sandbox" | "ping_sandbox" | "exec_stream_in_sandbox" | "get_sandbox_network" => sandbox(),
            "get_sandbox_logs" => Call { query: "?limit=10&level=info", ..sandbox() },
            "follow_sandbox_logs" => {
                let id = self.platform.api.with_key(&self.key).sandbox().await;
                // It is followed to its end.
                self.platform.host.end_log(&id);
                Call::on(id)
            }
            "get_sandbox_metrics" => Call { query: "?range=10m", ..sandbox() },
            "set_sandbox_timeout" => sandbox().with(json!({"timeout_sec": 60})),
            "set_sandbox_network" => sandbox().with(json!({"allow_internet": false})),
            "fork_sandbox" => sandbox().with(json!({"count": 1})),
            "pause_sandbox" | "resume_sandbox" => {
                let api = self.platform.api.with_key(&self.key);
                let id = api.sandbox().await;
                if operation == "resume_sandbox" {
                    api.post(&format!("/v1/sandboxes/{id}/pause"), json!({})).await.expect(200);
                }
                Call::on(id)
            }
            "create_snapshot" => Call::default().with(json!({"sandbox_id": self.sandbox})),
            "delete_snapshot" | "verify_snapshot" => {
                let api = self.platform.api.with_key(&self.key);
                let made = api.post("/v1/snapshots", json!({"sandbox_id": self.sandbox})).await.expect(201);
                let name = made["name"].as_str().unwrap().to_owned();
                Call { path: vec![("name", name)], ..Call::default() }
            }
            "create_build" | "admin_create_build" => {
                Call::default().with(json!({"name": "built", "recipe": ["echo"]}))
            }
            "get_build_files"
            | "put_build_files"
            | "get_build_files_received"
            | "admin_get_build_files"
            | "admin_put_build_files"
            | "admin_get_build_files_received" => {
                Call { path: vec![("sha256", "0".repeat(64))], ..Call::default() }
            }
            "get_build" | "admin_get_build" | "cancel_build" | "admin_cancel_build" => {
                Call::on(self.fresh_build().await)
            }
            "follow_build" | "admin_follow_build" => {
                let id = self.fresh_build().await;
                // It is followed to its end.
                let api = self.platform.api.with_key(&self.key);
                api.post(&format!("/v1/builds/{id}/cancel"), json!({})).await.expect(200);
                Call::on(id)
            }
            "admin_delete_template" => {
                Call { path: vec![("name", self.fresh_platform_template().await)], ..Call::default() }
            }
            "change_profile" => Call::default().with(json!({"name": "Another"})),
            "switch_team" => Call::default().with(json!({"team_id": self.owner.team})),
            "end_session" => {
                let theirs = self.owner.sign_in_again().await;
                let sessions = theirs.get("/v1/me/sessions").await.expect(200);
                Call::on(sessions[0]["id"].as_str().unwrap())
            }
            "search_users" => Call { query: "?email=owner@", ..Call::default() },
            "create_team" | "create_api_key" => Call::default().with(json!({"name": "N"})),
            "create_secret" => {
                Call::default().with(json!({"name": Id::<sandbar_types::id::User>::new(), "value": "v"}))
            }
            "create_volume" => {
                let name = Id::<sandbar_types::id::User>::new();
                Call::default().with(json!({"name": name, "size_mb": 64}))
            }
            "get_volume" | "delete_volume" => Call::on(self.fresh_volume().await),
            "get_secret" | "delete_secret" => Call::on(self.fresh_secret().await),
            "set_secret" => Call::on(self.fresh_secret().await).with(json!({"value": "w"})),
            "revoke_api_key" => Call::on(self.owner.key().await.0),
            "get_team" | "get_team_quotas" | "admin_get_quotas" | "leave_team" | "delete_team" => {
                Call::on(self.fresh_team().await)
            }
            "rename_team" => Call::on(self.fresh_team().await).with(json!({"name": "N"})),
            "add_member" => {
                let body = json!({"email": self.fresh_person().await.email});
                Call::on(self.fresh_team().await).with(body)
            }
            "change_member" | "remove_member" => {
                let (team, person) = (self.fresh_team().await, self.fresh_person().await);
                let path = format!("/v1/teams/{team}/members");
                self.owner.api.post(&path, json!({"email": person.email})).await.expect(201);
                let path = vec![("id", team), ("user_id", person.id)];
                Call { path, body: Some(json!({"role": "admin"})), ..Call::default() }
            }
            "transfer_team" => Call::on(self.fresh_team().await).with(json!({"user_id": self.member.id})),
            "admin_set_byoc" => Call::on(self.fresh_team().await).with(json!({"is_byoc": true})),
            "admin_set_quotas" => Call::on(self.fresh_team().await).with(json!({"sandboxes": 5})),
            "admin_set_admin" => Call::on(self.fresh_person().await.id).with(json!({"is_admin": true})),
            _ => Call::default(),
        }
    }

    /// Everybody, with what they should be answered. Of people each time another token, where one call ends it.
    async fn callers(&self, operation: &str, answers: Answers) -> Vec<(&'static str, Client, u16)> {
        let anyone = self.platform.api.anonymous();
        let mut callers = vec![
            ("nobody", anyone.clone(), answers.nobody),
            ("a garbage token", anyone.with_bearer("garbage"), answers.nobody),
            ("a garbage key", anyone.with_key("e2b_garbage"), answers.nobody),
            ("an expired token", anyone.with_bearer(&self.expired), answers.nobody),
            ("a revoked token", anyone.with_bearer(&self.revoked), answers.nobody),
            ("a host token", anyone.with_host_token(&self.platform.host_token), answers.host),
            ("a host token as a person's", anyone.with_bearer(&self.platform.host_token), answers.nobody),
            ("another team's key", anyone.with_key(&self.strange_key), answers.strange_key),
            ("the team's key", anyone.with_key(&self.key), answers.key),
        ];
        for (who, someone, status) in [
            ("another team's owner", &self.stranger, answers.stranger),
            ("the platform's administrator", &self.first, answers.platform),
            ("a member", &self.member, answers.member),
            ("an admin", &self.admin, answers.admin),
            ("the owner", &self.owner, answers.owner),
        ] {
            let api = match operation {
                "log_out" if who == "the platform's administrator" => self.platform.first_person().await.api,
                "log_out" => someone.sign_in_again().await,
                _ => someone.api.clone(),
            };
            callers.push((who, api, status));
        }
        callers
    }
}

/// The operations of the document: id, method, path.
fn operations() -> Vec<(String, Method, String)> {
    let document = serde_json::to_value(sandbar_api::openapi()).unwrap();
    let mut found = Vec::new();
    for (path, item) in document["paths"].as_object().unwrap() {
        for (method, operation) in item.as_object().unwrap() {
            let id = operation["operationId"].as_str().unwrap().to_owned();
            found.push((id, method.to_uppercase().parse().unwrap(), path.clone()));
        }
    }
    found
}

#[tokio::test]
async fn every_operation_answers_everybody_as_declared() {
    let missing: BTreeSet<String> =
        operations().into_iter().map(|(id, ..)| id).filter(|id| row(id).is_none()).collect();
    assert!(missing.is_empty(), "who may call these is not declared in the matrix: {missing:?}");

    let world = World::new().await;
    // What is read must be there.
    let form = Form::new().text("path", "/tmp/x").text("file", "x");
    let write = world.platform.api.with_key(&world.key);
    let path = format!("/v1/sandboxes/{}/files/write", world.sandbox);
    send(write.request(Method::POST, &path).multipart(form)).await.expect(204);

    let mut wrong = Vec::new();
    for (operation, method, path) in operations() {
        let answers = row(&operation).unwrap();
        for (who, caller, expected) in world.callers(&operation, answers).await {
            let call = world.call(&operation).await;
            let mut url = path.clone();
            for (name, value) in &call.path {
                url = url.replace(&format!("{{{name}}}"), value);
            }
            assert!(!url.contains('{'), "{operation}: what is {url}?");
            let mut request = caller.request(method.clone(), &format!("{url}{}", call.query));
            if let Some(body) = &call.body {
                request = request.json(body);
            }
            if call.form {
                request = request.multipart(Form::new().text("path", "/tmp/x").text("file", "x"));
            }
            let answer = send(request).await;
            if answer.status != expected {
                wrong.push(format!(
                    "{operation} as {who}: {} in place of {expected}: {}",
                    answer.status, answer.body
                ));
            }
        }
    }
    assert!(wrong.is_empty(), "{} answers are not as declared:\n{}", wrong.len(), wrong.join("\n"));
}
