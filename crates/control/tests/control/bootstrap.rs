//! A new installation: made once, whatever is repeated or cut.

use futures::future::join_all;
use sandbar_control::bootstrap::{BootstrapError, FirstRunSecrets};
use sandbar_control::secrets::{MasterKey, SecretError};
use sandbar_control::{Actor, Config, Control, StartError};
use sandbar_store::Store;
use sandbar_testkit::TestDatabase;
use sandbar_testkit::sim_host::{Fault, Rpc, Times};
use sandbar_types::{Id, TemplateKind};
use secrecy::ExposeSecret as _;

use crate::support::World;

async fn fresh() -> (TestDatabase, Store) {
    let database = TestDatabase::new().await;
    let store = Store::connect(&database.url()).await.unwrap();
    (database, store)
}

fn key(byte: &str) -> MasterKey {
    MasterKey::from_hex(&byte.repeat(32)).unwrap()
}

#[tokio::test]
async fn the_first_person_is_made_once_even_by_ten_at_once() {
    let (database, store) = fresh().await;
    let control = Control::start(store, &key("aa"), Config::default()).await.unwrap();
    assert!(!control.has_users().await.unwrap());
    let secrets = FirstRunSecrets::generate();
    let runs =
        join_all((0..10).map(|_| control.first_run("admin@localhost", "Admin's Team", &secrets))).await;
    let made: Vec<_> = runs.into_iter().filter_map(|run| run.unwrap()).collect();
    assert_eq!(made.len(), 1);
    assert!(control.has_users().await.unwrap());
    let again = control.first_run("other@localhost", "T", &FirstRunSecrets::generate()).await.unwrap();
    assert_eq!(again, None);

    let actor = control.authenticate_api_key(secrets.api_key.expose_secret()).await.unwrap();
    assert!(matches!(actor, Actor::ApiKey { team, .. } if team == made[0].team_id));
    let (is_admin, role, is_default): (bool, String, bool) = sqlx::query_as(
        "SELECT u.is_admin, m.role, m.is_default FROM users u JOIN memberships m ON m.user_id = u.id",
    )
    .fetch_one(database.pool())
    .await
    .unwrap();
    assert_eq!((is_admin, role.as_str(), is_default), (true, "owner", true));
    // Neither secret is anywhere in the database.
    let text: String = sqlx::query_scalar(
        "SELECT (SELECT json_agg(u) FROM users u)::text || (SELECT json_agg(k) FROM api_keys k)::text",
    )
    .fetch_one(database.pool())
    .await
    .unwrap();
    assert!(
        !text.contains(secrets.password.expose_secret()) && !text.contains(secrets.api_key.expose_secret())
    );
    assert!(text.contains("$argon2id$"));
}

#[tokio::test]
async fn what_is_no_address_or_key_is_refused_before_anything_is_made() {
    let (_database, store) = fresh().await;
    let control = Control::start(store, &key("aa"), Config::default()).await.unwrap();
    let secrets = FirstRunSecrets::generate();
    let error = control.first_run("nobody", "T", &secrets).await.unwrap_err();
    assert!(matches!(error, BootstrapError::Email { .. }), "{error}");
    let bad = FirstRunSecrets { api_key: "e2b_short".into(), ..secrets };
    let error = control.first_run("a@b", "T", &bad).await.unwrap_err();
    assert!(matches!(error, BootstrapError::ApiKey), "{error}");
    assert!(!control.has_users().await.unwrap());
}

#[tokio::test]
async fn replicas_that_start_at_once_share_their_keys_and_another_master_key_is_refused() {
    let (_database, store) = fresh().await;
    let master = key("aa");
    let starts = join_all((0..4).map(|_| Control::start(store.clone(), &master, Config::default()))).await;
    assert!(starts.iter().all(Result::is_ok));
    let error = Control::start(store, &key("bb"), Config::default()).await.err().unwrap();
    let StartError::Pki(error) = error else { panic!("{error:?}") };
    let source = std::error::Error::source(&error).unwrap();
    assert!(matches!(source.downcast_ref(), Some(SecretError::WrongMasterKey { .. })), "{source}");
}

#[tokio::test]
async fn the_base_template_is_one_however_often_it_is_asked_for() {
    let world = World::new().await;
    assert_eq!(world.host.calls(Rpc::CreateTemplate), 1);
    let first = world.control.ensure_base_template(world.host_id).await.unwrap();
    assert_eq!(world.control.ensure_base_template(world.host_id).await.unwrap(), first);
    assert_eq!(
        world.host.calls(Rpc::CreateTemplate),
        3,
        "only the host knows whether what it has is still right"
    );
    let list = world
        .control
        .template_list(&world.ctx, Some(TemplateKind::Snapshot), &Default::default())
        .await
        .unwrap();
    assert_eq!(list.items.iter().map(|template| template.name.as_str()).collect::<Vec<_>>(), ["base"]);
    assert!(list.items[0].is_platform());
    // The control plane ended between the host's answer and the row.
    world.execute("DELETE FROM template_locations").await;
    assert_eq!(world.control.ensure_base_template(world.host_id).await.unwrap(), first);
    assert!(world.create().await.is_ok());
}

#[tokio::test]
async fn a_host_that_fails_to_make_the_base_template_is_asked_again_under_the_same_id() {
    let world = World::new().await;
    world.execute("DELETE FROM template_locations").await;
    world.execute("UPDATE templates SET ready_at = NULL").await;
    let second = sandbar_testkit::sim_host::SimHost::bind().await.unwrap();
    let created =
        world.control.host_create(&sandbar_control::OpContext::system(), &Default::default()).await.unwrap();
    crate::support::register(&world.control, &second, created.registration_token).await;
    second.inject(Rpc::CreateTemplate, Fault::LoseReply, Times::Once);
    let error = world.control.ensure_base_template(created.host.id).await.unwrap_err();
    assert!(matches!(error, BootstrapError::Template { .. }), "{error}");
    let id = world.control.ensure_base_template(created.host.id).await.unwrap();
    assert_eq!(second.calls(Rpc::CreateTemplate), 2);
    assert_eq!(world.control.ensure_base_template(world.host_id).await.unwrap(), id);
    let unknown = world.control.ensure_base_template(Id::new()).await.unwrap_err();
    assert!(matches!(unknown, BootstrapError::NoHost { .. }), "{unknown}");
}
