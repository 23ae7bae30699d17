//! The operator's commands, as processes, on a real database.

#![expect(clippy::unwrap_used, reason = "what is unwrapped here is what the test asserts")]

use std::process::{Command, Output};

use sandbar_control::bootstrap::FirstRunSecrets;
use sandbar_control::people::NewUser;
use sandbar_control::secrets::MasterKey;
use sandbar_control::{Client, Config, Control, OpContext};
use sandbar_store::Store;
use sandbar_testkit::TestDatabase;
use secrecy::ExposeSecret as _;
use serde_json::Value;
use uuid::Uuid;

struct World {
    control: Control,
    master_key: String,
    data_dir: tempfile::TempDir,
    database: TestDatabase,
}

impl World {
    async fn new() -> Self {
        let database = TestDatabase::new().await;
        let store = Store::connect(&database.url()).await.unwrap();
        let master_key = "3c".repeat(32);
        let key = MasterKey::from_hex(&master_key).unwrap();
        let control = Control::start(store, &key, Config::default()).await.unwrap();
        control.first_run("admin@example.org", "First", &FirstRunSecrets::generate()).await.unwrap().unwrap();
        let ann = NewUser {
            email: "ann@example.org".to_owned(),
            password: "correct horse".into(),
            name: "Ann".to_owned(),
        };
        let ctx = OpContext::anonymous(Uuid::now_v7());
        control.sign_up(&ctx, &ann, &Client::default()).await.unwrap();
        Self { control, master_key, data_dir: tempfile::tempdir().unwrap(), database }
    }

    fn run(&self, words: &[&str]) -> Output {
        Command::new(env!("CARGO_BIN_EXE_sandbar"))
            .args(words)
            .env("DATABASE_URL", self.database.url())
            .env("SANDBAR_DATA_DIR", self.data_dir.path())
            .env("SANDBAR_MASTER_KEY", &self.master_key)
            .output()
            .unwrap()
    }

    /// What a command that must succeed prints.
    fn printed(&self, words: &[&str]) -> String {
        let output = self.run(words);
        assert!(output.status.success(), "{words:?}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    }

    /// What a command that must fail says.
    fn refused(&self, words: &[&str]) -> String {
        let output = self.run(words);
        assert!(!output.status.success(), "{words:?}: {}", String::from_utf8_lossy(&output.stdout));
        String::from_utf8(output.stderr).unwrap()
    }

    async fn is_admin(&self, email: &str) -> bool {
        self.control.user_by_email(&OpContext::system(), email).await.unwrap().is_admin
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn administrators_are_made_and_unmade_and_one_is_always_left() {
    let world = World::new().await;
    assert!(world.refused(&["admin", "revoke", "admin@example.org"]).contains("last administrator"));
    world.printed(&["admin", "grant", "ANN@example.org"]);
    assert!(world.is_admin("ann@example.org").await);
    world.printed(&["admin", "revoke", "admin@example.org"]);
    assert!(!world.is_admin("admin@example.org").await);
    assert!(world.refused(&["admin", "grant", "nobody@example.org"]).contains("nobody@example.org"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reset_password_is_printed_once_and_is_the_one_that_counts() {
    let world = World::new().await;
    let password = world.printed(&["admin", "reset-password", "ann@example.org"]);
    let ctx = OpContext::anonymous(Uuid::now_v7());
    let log_in = async |password: &str| {
        world.control.log_in(&ctx, "ann@example.org", &password.into(), &Client::default()).await
    };
    assert!(log_in("correct horse").await.is_err());
    let signed_in = log_in(password.trim()).await.unwrap();
    assert_eq!(signed_in.name, "Ann");

    let before = signed_in.token.expose_secret().to_owned();
    world.printed(&["admin", "rotate-token-key"]);
    world.control.authenticate_user(&before).await.unwrap();
    let other = "admin reset-password ann@example.org".split(' ').collect::<Vec<_>>();
    world.printed(&other);
    assert!(world.control.authenticate_user(&before).await.is_err(), "all sign-ins are ended");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn quotas_are_shown_and_set() {
    let world = World::new().await;
    let team: Uuid = sqlx::query_scalar("SELECT team_id FROM memberships ORDER BY joined_at DESC LIMIT 1")
        .fetch_one(world.database.pool())
        .await
        .unwrap();
    let team = format!("team-{team}");
    let shown = world.printed(&["admin", "quota", &team, "--sandboxes", "5", "--builds", "0"]);
    let lines: Vec<Vec<&str>> = shown.lines().map(|line| line.split_whitespace().collect()).collect();
    assert_eq!(lines[0], ["sandboxes", "0", "of", "5"]);
    assert_eq!(lines[1], ["vcpus", "0", "of", "default"]);
    let again = world.printed(&["admin", "quota", &team, "--builds", "default"]);
    assert!(again.lines().next().unwrap().ends_with("of 5"), "{again}");
    assert!(again.lines().last().unwrap().ends_with("of default"), "{again}");
    let nobody = format!("team-{}", Uuid::nil());
    assert!(world.refused(&["admin", "quota", &nobody]).contains("there is no team"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_trail_is_exported_as_one_json_object_a_line() {
    let world = World::new().await;
    world.printed(&["admin", "grant", "ann@example.org"]);
    let lines = |words: &[&str]| -> Vec<Value> {
        world.printed(words).lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    };
    let all = lines(&["audit", "export"]);
    let actions: Vec<_> = all.iter().map(|event| event["action"].as_str().unwrap()).collect();
    assert_eq!(actions, ["admin_grant", "signup", "signup"]);
    assert_eq!((&all[0]["actor_type"], &all[1]["actor_name"]), (&"system".into(), &"Ann".into()));
    let team = all[1]["team_id"].as_str().unwrap();
    assert_eq!(lines(&["audit", "export", "--team", team]).len(), 1);
    assert_eq!(lines(&["audit", "export", "--action", "signup"]).len(), 2);
    assert_eq!(lines(&["audit", "export", "--from", "2999-01-01T00:00:00Z"]).len(), 0);

    // More than a page.
    let insert = "INSERT INTO audit_logs (id, actor_type, resource_type, action, scope, status)
                  SELECT gen_random_uuid(), 'system', 'host', 'drain', 'admin', 'info' FROM generate_series(1, 450)";
    sqlx::query(insert).execute(world.database.pool()).await.unwrap();
    assert_eq!(lines(&["audit", "export"]).len(), 453);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_wrong_folder_or_key_is_told_and_nothing_is_made_there() {
    let world = World::new().await;
    let run = |key: Option<String>| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_sandbar"));
        command.args(["admin", "grant", "ann@example.org"]).env("DATABASE_URL", world.database.url());
        command.env("SANDBAR_DATA_DIR", world.data_dir.path()).env_remove("SANDBAR_MASTER_KEY");
        command.envs(key.map(|key| ("SANDBAR_MASTER_KEY", key)));
        let output = command.output().unwrap();
        assert!(!output.status.success());
        String::from_utf8(output.stderr).unwrap()
    };
    assert!(run(None).contains("master.key does not exist"));
    assert!(run(Some("44".repeat(32))).contains("master key does not open"));
    assert_eq!(std::fs::read_dir(world.data_dir.path()).unwrap().count(), 0);
    assert!(!world.is_admin("ann@example.org").await);
}

#[test]
fn a_host_agent_takes_a_flag_before_its_environment_and_that_before_the_file_of_its_folder() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(
        folder.path().join(".env"),
        "SANDBAR_CONTROL_URL=http://127.0.0.1:1\nSANDBAR_HOST_LISTEN=of-the-file\n",
    )
    .unwrap();
    // Each says which it took, since none is an address.
    let complaint = |flags: &[&str], environment: &[(&str, &str)]| {
        let mut agent = Command::new(env!("CARGO_BIN_EXE_sandbar"));
        agent.env_clear().envs(environment.iter().copied()).current_dir(folder.path());
        let output = agent.arg("host-agent").args(flags).output().unwrap();
        assert_eq!(output.status.code(), Some(2), "{output:?}");
        String::from_utf8(output.stderr).unwrap()
    };
    let environment = [("SANDBAR_HOST_LISTEN", "of-the-environment")];
    let told = complaint(&[], &[]);
    assert!(told.contains("of-the-file") && !told.contains("--control-url"), "{told}");
    assert!(complaint(&[], &environment).contains("of-the-environment"));
    assert!(complaint(&["--listen", "of-the-flag"], &environment).contains("of-the-flag"));
}
