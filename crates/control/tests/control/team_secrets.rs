//! Secrets: what the database has of them, and who is given their values.

use std::collections::BTreeMap;

use sandbar_control::sandboxes::{NewFork, NewSandbox, SandboxError};
use sandbar_control::team_secrets::{Metadata, TeamSecretError};
use sandbar_control::{PageRequest, Sandbox};
use sandbar_types::{ErrorCode, SecretName};

use crate::support::World;

const VALUE: &str = "hunter2-and-more";

impl World {
    async fn secret(&self, name: &str, value: &str) {
        let none = Metadata::new();
        self.control.team_secret_create(&self.ctx, name, &value.into(), &none).await.unwrap();
    }

    /// A sandbox with one secret, in the variable `TOKEN`.
    async fn with_secret(&self, name: &str) -> Result<Sandbox, SandboxError> {
        let secrets = BTreeMap::from([("TOKEN".to_owned(), name.to_owned())]);
        let env = BTreeMap::from([("MODE".to_owned(), "fast".to_owned())]);
        let new = NewSandbox { env, secrets, ..NewSandbox::default() };
        self.control.sandbox_create(&self.ctx, &new, None).await
    }

    /// What its host was told of its environment.
    fn told_to_host(&self, sandbox: &Sandbox) -> (Vec<String>, Vec<String>) {
        let call = self.host.creation_of(&sandbox.id.to_string()).unwrap();
        let lines = |(name, value): (String, String)| format!("{name}={value}");
        (call.env.into_iter().map(lines).collect(), call.secrets.into_iter().map(lines).collect())
    }
}

#[tokio::test]
async fn a_value_goes_to_the_host_apart_from_the_environment_and_is_nowhere_in_the_database() {
    let world = World::new().await;
    world.secret("Github-Token", VALUE).await;
    let sandbox = world.with_secret("github-token").await.unwrap();
    let (env, secrets) = world.told_to_host(&sandbox);
    assert_eq!((env, secrets), (vec!["MODE=fast".to_owned()], vec![format!("TOKEN={VALUE}")]));
    let answer = format!("{sandbox:?}");
    assert!(!answer.contains(VALUE), "{answer}");

    // Every row of every table, as text and, where it is bytes, as those.
    let tables: Vec<String> = sqlx::query_scalar(
        "SELECT table_name::text FROM information_schema.tables WHERE table_schema = 'public' AND table_type = 'BASE TABLE'",
    )
    .fetch_all(world.database.pool())
    .await
    .unwrap();
    assert!(tables.iter().any(|table| table == "team_secrets"));
    let hex = hex::encode(VALUE);
    for table in tables {
        let read = sqlx::AssertSqlSafe(format!("SELECT to_jsonb(t)::text FROM \"{table}\" t"));
        let rows: Vec<String> = sqlx::query_scalar(read).fetch_all(world.database.pool()).await.unwrap();
        for row in rows {
            assert!(!row.contains(VALUE) && !row.contains(&hex), "{table}: {row}");
        }
    }
    let told: Vec<String> = sqlx::query_scalar(
        "SELECT concat_ws(' ', actor_type, action, status, metadata) FROM audit_logs WHERE resource_type = 'secret'",
    )
    .fetch_all(world.database.pool())
    .await
    .unwrap();
    assert_eq!(told, [r#"api_key create success {"name": "github-token", "version": 1}"#]);
}

#[tokio::test]
async fn a_new_version_is_for_sandboxes_that_are_made_from_then_on_and_a_missing_one_makes_nothing() {
    let world = World::new().await;
    world.secret("token", "one").await;
    let first = world.with_secret("token").await.unwrap();
    let set = world.control.team_secret_set(&world.ctx, "token", &"two".into(), None).await.unwrap();
    assert_eq!(set.version, 2);
    let second = world.with_secret("TOKEN").await.unwrap();
    assert_eq!(world.told_to_host(&first).1, ["TOKEN=one"]);
    assert_eq!(world.told_to_host(&second).1, ["TOKEN=two"]);
    // A fork says nothing of it: the children have their parent's.
    let fork = NewFork { count: 1, ..NewFork::default() };
    let children = world.control.sandbox_fork(&world.ctx, &second, fork, None).await.unwrap();
    assert!(children[0].is_ok());

    world.control.team_secret_delete(&world.ctx, "token").await.unwrap();
    let before = world.statuses().await;
    for missing in ["token", "no name", "sec_x"] {
        let error = world.with_secret(missing).await.unwrap_err();
        assert_eq!(error.code(), ErrorCode::InvalidRequest);
        assert!(error.to_string().contains(&format!("{missing:?}")), "{error}");
    }
    assert_eq!(world.statuses().await, before, "nothing was made");
    let gone = world.control.team_secret_get(&world.ctx, "token").await;
    assert!(matches!(gone, Err(TeamSecretError::NotFound { .. })), "{gone:?}");
}

#[tokio::test]
async fn a_ciphertext_opens_in_its_own_row_and_version_alone() {
    let world = World::new().await;
    world.secret("mine", "of mine").await;
    world.secret("other", "of the other").await;
    let pool = world.database.pool();
    let sealed = async |name: &str| -> Vec<u8> {
        let read = sqlx::query_scalar("SELECT sealed FROM team_secrets WHERE name = $1");
        read.bind(name).fetch_one(pool).await.unwrap()
    };
    let put = async |name: &str, sealed: &[u8]| {
        let write = sqlx::query("UPDATE team_secrets SET sealed = $2 WHERE name = $1");
        write.bind(name).bind(sealed).execute(pool).await.unwrap();
    };
    let (mine, other) = (sealed("mine").await, sealed("other").await);
    let refused = async || {
        let error = world.with_secret("mine").await.unwrap_err();
        assert!(matches!(error, SandboxError::SecretLost(_)), "{error}");
        assert_eq!(error.code(), ErrorCode::InternalError);
    };
    put("mine", &other).await;
    refused().await;
    put("mine", &mine).await;
    world.with_secret("mine").await.unwrap();
    // An earlier value that somebody puts back.
    world.control.team_secret_set(&world.ctx, "mine", &"newer".into(), None).await.unwrap();
    put("mine", &mine).await;
    refused().await;
}

#[tokio::test]
async fn of_two_that_make_the_same_secret_one_does() {
    let world = World::new().await;
    let (value, none) = ("v".into(), Metadata::new());
    let make = || world.control.team_secret_create(&world.ctx, "token", &value, &none);
    let (one, other) = tokio::join!(make(), make());
    let taken: SecretName = "token".parse().unwrap();
    match (one, other) {
        (Ok(made), Err(TeamSecretError::Exists { name }))
        | (Err(TeamSecretError::Exists { name }), Ok(made)) => {
            assert_eq!((made.name, name), (taken.clone(), taken));
        }
        both => panic!("{both:?}"),
    }
    let page = PageRequest::new(None, None).unwrap();
    assert_eq!(world.control.team_secret_list(&world.ctx, &page).await.unwrap().items.len(), 1);
}
