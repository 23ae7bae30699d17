//! What the schema itself guards, and migrations.

use std::str::FromStr as _;

use crate::support::{World, complete, person as user};
use sandbar_store::api_keys::NewApiKeyRow;
use sandbar_store::audit::{Event, Outcome, Scope};
use sandbar_store::teams::Role;
use sandbar_store::templates::NewTemplateRow;
use sandbar_store::{Store, StoreError};
use sandbar_types::id::Team;
use sandbar_types::{Arch, Id, TemplateKind, TemplateName, VmmKind};
use serde_json::json;
use sqlx::ConnectOptions as _;
use sqlx::postgres::PgConnectOptions;

fn taken<T: std::fmt::Debug>(result: Result<T, StoreError>) -> String {
    match result {
        Err(StoreError::Taken { constraint }) => constraint,
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn several_replicas_may_migrate_an_empty_database_at_once() {
    let world = World::new().await;
    let name = format!("empty_{}", Id::<Team>::new().uuid().simple());
    sqlx::query(sqlx::AssertSqlSafe(format!("CREATE DATABASE {name}")))
        .execute(world.database.pool())
        .await
        .unwrap();
    let options = PgConnectOptions::from_str(&world.database.url()).unwrap().database(&name);
    let url = options.to_url_lossy().to_string();
    let stores = [Store::connect(&url).await.unwrap(), Store::connect(&url).await.unwrap()];
    let (a, b) = tokio::join!(stores[0].migrate(), stores[1].migrate());
    a.unwrap();
    b.unwrap();
    stores[0].migrate().await.unwrap();
    assert!(!stores[0].users_exist().await.unwrap());
    for store in stores {
        store.close().await;
    }
    sqlx::query(sqlx::AssertSqlSafe(format!("DROP DATABASE {name} WITH (FORCE)")))
        .execute(world.database.pool())
        .await
        .unwrap();
}

#[tokio::test]
async fn one_account_for_an_address_one_owner_of_a_team_one_default_team() {
    let world = World::new().await;
    let (a, b) = (Id::new(), Id::new());
    let other_team = Id::new();
    let mut tx = world.store.begin().await.unwrap();
    tx.user_insert(&user(a, "Ann@Example.org")).await.unwrap();
    tx.user_insert(&user(b, "bob@example.org")).await.unwrap();
    tx.team_insert(other_team, "Other", "ffffff-000000").await.unwrap();
    tx.membership_insert(other_team, a, Role::Owner, true).await.unwrap();
    tx.commit().await.unwrap();

    let mut tx = world.store.begin().await.unwrap();
    assert_eq!(taken(tx.user_insert(&user(Id::new(), "ann@example.ORG")).await), "users_email");
    let mut tx = world.store.begin().await.unwrap();
    assert_eq!(taken(tx.membership_insert(world.team, b, Role::Owner, false).await), "memberships_owner");
    let mut tx = world.store.begin().await.unwrap();
    assert_eq!(taken(tx.membership_insert(world.team, a, Role::Member, true).await), "memberships_default");
    let mut tx = world.store.begin().await.unwrap();
    assert_eq!(taken(tx.team_insert(Id::new(), "Third", "ffffff-000000").await), "teams_slug_key");
}

#[tokio::test]
async fn the_audit_trail_can_only_grow() {
    let world = World::new().await;
    let mut tx = world.store.begin().await.unwrap();
    let event = Event {
        team_id: Some(world.team),
        actor_type: "system",
        actor_id: String::new(),
        actor_name: "",
        resource_type: "sandbox",
        resource_id: "sb-x".to_owned(),
        action: "create",
        scope: Scope::Team,
        outcome: Outcome::Success,
        metadata: json!({}),
        request_id: None,
    };
    tx.audit(&event).await.unwrap();
    tx.commit().await.unwrap();
    let pool = world.database.pool();
    for statement in ["UPDATE audit_logs SET action = 'x'", "DELETE FROM audit_logs", "TRUNCATE audit_logs"] {
        let error = sqlx::query(statement).execute(pool).await.unwrap_err().to_string();
        assert!(error.contains("append-only"), "{statement}: {error}");
    }
    // Retention says so first.
    let mut retention = pool.begin().await.unwrap();
    sqlx::query("SET LOCAL sandbar.audit_retention = 'on'").execute(&mut *retention).await.unwrap();
    assert!(sqlx::query("UPDATE audit_logs SET action = 'x'").execute(&mut *retention).await.is_err());
    drop(retention);
    let mut retention = pool.begin().await.unwrap();
    sqlx::query("SET LOCAL sandbar.audit_retention = 'on'").execute(&mut *retention).await.unwrap();
    let deleted = sqlx::query("DELETE FROM audit_logs").execute(&mut *retention).await.unwrap();
    assert_eq!(deleted.rows_affected(), 1);
}

#[tokio::test]
async fn a_key_works_until_it_is_revoked_expired_or_its_team_is_gone() {
    let world = World::new().await;
    let now = world.store.now().await.unwrap();
    let hour = std::time::Duration::from_secs(3600);
    let key = |id, hash, expires_at| NewApiKeyRow {
        id,
        team_id: world.team,
        name: "k",
        key_hash: hash,
        key_prefix: "e2b_",
        created_by: None,
        expires_at,
    };
    let id = Id::new();
    let mut tx = world.store.begin().await.unwrap();
    tx.api_key_insert(&key(id, &[1; 32], Some(now + hour))).await.unwrap();
    tx.api_key_insert(&key(Id::new(), &[2; 32], Some(now - hour))).await.unwrap();
    tx.api_key_insert(&key(Id::new(), &[3; 32], None)).await.unwrap();
    tx.commit().await.unwrap();

    let find = async |hash: [u8; 32]| world.store.api_key_find(&hash).await.unwrap();
    let found = find([1; 32]).await.unwrap();
    assert_eq!((found.id, found.team_id), (id, world.team));
    assert_eq!(find([2; 32]).await, None, "expired");
    assert_eq!(find([9; 32]).await, None, "unknown");

    let mut tx = world.store.begin().await.unwrap();
    assert_eq!(tx.api_key_lock(Id::new(), id).await.unwrap(), None, "another team's");
    tx.api_key_revoke(id).await.unwrap();
    assert_eq!(tx.api_key_lock(world.team, id).await.unwrap(), None, "revoked");
    tx.commit().await.unwrap();
    assert_eq!(find([1; 32]).await, None, "revoked");

    assert!(find([3; 32]).await.is_some());
    sqlx::query("UPDATE teams SET deleted_at = now() WHERE id = $1")
        .bind(world.team.uuid())
        .execute(world.database.pool())
        .await
        .unwrap();
    assert_eq!(find([3; 32]).await, None, "its team is deleted");
}

#[tokio::test]
async fn a_template_is_there_once_its_files_are_and_a_teams_own_comes_before_the_platforms() {
    let world = World::new().await;
    let name: TemplateName = "base".parse().unwrap();
    let own = NewTemplateRow {
        id: Id::new(),
        team_id: world.team,
        name: &name,
        kind: TemplateKind::Snapshot,
        vcpus: 2,
        memory_mb: 1024,
        arch: Arch::X86_64,
        vmm: VmmKind::Qemu,
    };
    let mut tx = world.store.begin().await.unwrap();
    let id = tx.template_reserve(&own).await.unwrap();
    let again = tx.template_reserve(&NewTemplateRow { id: Id::new(), ..own.clone() }).await.unwrap();
    tx.commit().await.unwrap();
    assert_eq!(id, again, "a repeated attempt gets the same id");
    let by_name = async || world.store.template_by_name(world.team, &name).await.unwrap().unwrap().id;
    assert_eq!(by_name().await, world.template, "a name that is only taken is not found");

    let mut tx = world.store.begin().await.unwrap();
    tx.template_complete(id, world.host, &complete()).await.unwrap();
    tx.template_complete(id, world.host, &complete()).await.unwrap();
    tx.commit().await.unwrap();
    assert_eq!(by_name().await, id);
    assert_eq!(world.store.template_hosts(id).await.unwrap().len(), 1);
    let stranger = world.store.template_by_name(Id::new(), &name).await.unwrap().unwrap();
    assert_eq!(stranger.id, world.template);
    assert_eq!(world.store.template_list(world.team, None, None, 10).await.unwrap().len(), 2);
    assert_eq!(world.store.template_list(Id::new(), None, None, 10).await.unwrap().len(), 1);
    let images = world.store.template_list(world.team, Some(TemplateKind::Base), None, 10).await.unwrap();
    assert_eq!(images, []);

    world.store.template_location_forget(id, world.host).await.unwrap();
    assert_eq!(world.store.template_hosts(id).await.unwrap(), []);
}

#[tokio::test]
async fn of_several_replicas_that_make_a_secret_the_first_ones_is_kept() {
    let world = World::new().await;
    assert_eq!(world.store.secret_find("s").await.unwrap(), None);
    assert_eq!(world.store.secret_keep("s", b"first").await.unwrap(), b"first");
    assert_eq!(world.store.secret_keep("s", b"second").await.unwrap(), b"first");
    assert_eq!(world.store.secret_find("s").await.unwrap().as_deref(), Some(&b"first"[..]));
}
