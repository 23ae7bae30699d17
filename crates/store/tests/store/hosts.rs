//! Hosts, their tokens and their heartbeats in a real database.

use std::time::Duration;

use crate::support::{REGISTRATION, World};
use futures::future::join_all;
use sandbar_store::hosts::NewRefreshToken;
use sandbar_store::locks::Lock;
use sandbar_store::{Store, Tx};
use sandbar_types::Id;
use serde_json::json;
use uuid::Uuid;

#[tokio::test]
async fn a_registration_token_is_used_once_even_when_shown_ten_times_at_once() {
    let world = World::new().await;
    let expires = world.store.now().await.unwrap() + Duration::from_secs(60);
    let mut tx = world.store.begin().await.unwrap();
    tx.host_token_insert(Id::new(), world.host, &[1; 32], expires).await.unwrap();
    tx.commit().await.unwrap();
    let use_it = async || {
        let mut tx = world.store.begin().await.unwrap();
        let host = tx.host_token_use(&[1; 32]).await.unwrap();
        tx.commit().await.unwrap();
        host
    };
    let hosts = join_all((0..10).map(|_| use_it())).await;
    assert_eq!(hosts.iter().flatten().collect::<Vec<_>>(), [&world.host]);
}

#[tokio::test]
async fn expired_unknown_and_taken_back_tokens() {
    let world = World::new().await;
    let now = world.store.now().await.unwrap();
    let mut tx = world.store.begin().await.unwrap();
    tx.host_token_insert(Id::new(), world.host, &[1; 32], now - Duration::from_secs(1)).await.unwrap();
    tx.host_token_insert(Id::new(), world.host, &[2; 32], now + Duration::from_secs(60)).await.unwrap();
    assert_eq!(tx.host_token_use(&[1; 32]).await.unwrap(), None);
    assert_eq!(tx.host_token_use(&[3; 32]).await.unwrap(), None);
    tx.commit().await.unwrap();
    // A registration that fails after its token was used gives the token back.
    let mut tx = world.store.begin().await.unwrap();
    assert_eq!(tx.host_token_use(&[2; 32]).await.unwrap(), Some(world.host));
    drop(tx);
    let mut tx = world.store.begin().await.unwrap();
    assert_eq!(tx.host_token_use(&[2; 32]).await.unwrap(), Some(world.host));
}

#[tokio::test]
async fn a_new_registration_begins_a_new_epoch() {
    let world = World::new().await;
    let before = world.store.host_find(world.host).await.unwrap().unwrap();
    let mut tx = world.store.begin().await.unwrap();
    let after = tx.host_register(world.host, &REGISTRATION).await.unwrap();
    tx.commit().await.unwrap();
    assert_eq!(after.credential_epoch, before.credential_epoch + 1);
    assert_eq!(after.status, "online", "a host that is there stays there");
}

const GRACE: Duration = Duration::from_secs(300);

/// What revokes a host's credentials.
#[derive(Debug, Clone, Copy)]
enum Revoking {
    Registration,
    Theft,
    Deletion,
}

impl World {
    /// A token that replaces the one shown, if there was one.
    async fn refresh(&self, tx: &mut Tx, family: Uuid, shown: Option<u8>, next: u8) {
        let id = Id::new();
        let shown = match shown {
            Some(shown) => Some(tx.host_refresh_token_lock(&[shown; 32], GRACE).await.unwrap().unwrap()),
            None => None,
        };
        let expires_at = self.store.now().await.unwrap() + Duration::from_secs(3600);
        let token_hash = &[next; 32];
        let new = NewRefreshToken { id, host_id: self.host, family_id: family, token_hash, expires_at };
        tx.host_refresh_token_insert(&new).await.unwrap();
        if let Some(shown) = shown {
            tx.host_refresh_token_replace(&shown, id).await.unwrap();
        }
    }

    async fn revoke(&self, store: &Store, by: Revoking) {
        let mut tx = store.begin().await.unwrap();
        match by {
            Revoking::Registration => {
                assert_eq!(tx.host_token_use(&[9; 32]).await.unwrap(), Some(self.host));
                tx.host_register(self.host, &REGISTRATION).await.unwrap();
            }
            Revoking::Theft => {
                let shown = tx.host_refresh_token_lock(&[1; 32], GRACE).await.unwrap().unwrap();
                tx.host_family_revoke(&shown).await.unwrap();
            }
            Revoking::Deletion => {
                tx.host_lock(self.host).await.unwrap().unwrap();
                tx.host_delete(self.host).await.unwrap();
            }
        }
        tx.commit().await.unwrap();
    }

    /// Until a statement of this database waits for another transaction.
    async fn somebody_waits(&self) {
        let waiting = "SELECT EXISTS (SELECT 1 FROM pg_stat_activity
                       WHERE datname = current_database() AND wait_event_type = 'Lock')";
        while !sqlx::query_scalar::<_, bool>(waiting).fetch_one(self.database.pool()).await.unwrap() {
            tokio::task::yield_now().await;
        }
    }
}

#[tokio::test]
async fn what_revokes_credentials_does_not_miss_a_refresh_that_is_under_way() {
    for by in [Revoking::Registration, Revoking::Theft, Revoking::Deletion] {
        let (world, family) = (World::new().await, Uuid::now_v7());
        let other = Store::connect(&world.database.url()).await.unwrap();
        let mut tx = world.store.begin().await.unwrap();
        world.refresh(&mut tx, family, None, 1).await;
        world.refresh(&mut tx, family, Some(1), 2).await;
        let expires = world.store.now().await.unwrap() + Duration::from_secs(60);
        tx.host_token_insert(Id::new(), world.host, &[9; 32], expires).await.unwrap();
        tx.commit().await.unwrap();

        let mut under_way = world.store.begin().await.unwrap();
        world.refresh(&mut under_way, family, Some(2), 3).await;
        let end = async {
            tokio::time::timeout(Duration::from_secs(60), world.somebody_waits()).await.unwrap();
            under_way.commit().await.unwrap();
        };
        tokio::join!(world.revoke(&other, by), end);
        let valid: i64 =
            sqlx::query_scalar("SELECT count(*) FROM host_refresh_tokens WHERE revoked_at IS NULL")
                .fetch_one(world.database.pool())
                .await
                .unwrap();
        assert_eq!(valid, 0, "{by:?}");
    }
}

#[tokio::test]
async fn silence_makes_unreachable_and_a_heartbeat_undoes_it() {
    let world = World::new().await;
    let later = world.store.now().await.unwrap() + Duration::from_secs(1);
    assert_eq!(world.store.hosts_silent_since(later).await.unwrap(), [world.host]);
    let mut tx = world.store.begin().await.unwrap();
    assert_eq!(tx.host_lost(world.host, later).await.unwrap(), Some(Id::PLATFORM));
    assert_eq!(tx.host_lost(world.host, later).await.unwrap(), None, "once");
    tx.commit().await.unwrap();
    assert_eq!(world.store.hosts_online().await.unwrap(), 0);
    let mut tx = world.store.begin().await.unwrap();
    let beat = tx.host_beat(world.host, 9, &json!({ "sandboxes": 1 })).await.unwrap().unwrap();
    tx.commit().await.unwrap();
    assert_eq!((beat.was.as_str(), beat.is.as_str()), ("unreachable", "online"));
    assert_eq!(world.store.hosts_online().await.unwrap(), 1);
    // It spoke after the look that found it silent.
    let earlier = later - Duration::from_secs(60);
    let mut tx = world.store.begin().await.unwrap();
    assert_eq!(tx.host_lost(world.host, earlier).await.unwrap(), None);
    assert_eq!(tx.host_beat(Id::new(), 1, &json!({})).await.unwrap(), None);
}

#[tokio::test]
async fn a_host_that_drains_goes_on_draining_when_it_was_silent() {
    let world = World::new().await;
    let later = world.store.now().await.unwrap() + Duration::from_secs(1);
    let mut tx = world.store.begin().await.unwrap();
    tx.host_set_draining(world.host, true).await.unwrap();
    tx.host_lost(world.host, later).await.unwrap();
    let beat = tx.host_beat(world.host, 2, &json!({})).await.unwrap().unwrap();
    assert_eq!((beat.was.as_str(), beat.is.as_str()), ("unreachable", "draining"));
    assert_eq!(tx.host_set_draining(world.host, false).await.unwrap().status, "online");
}

#[tokio::test]
async fn a_template_is_claimed_once_for_a_host_that_lacks_it() {
    let world = World::new().await;
    let lease = Duration::from_secs(60);
    let claim = async |host| world.store.template_claim(host, Id::PLATFORM, "base", lease).await.unwrap();
    assert_eq!(claim(world.host).await, None, "it has it");
    world.store.template_location_forget(world.template, world.host).await.unwrap();
    let claims = join_all((0..8).map(|_| claim(world.host))).await;
    assert_eq!(claims.iter().flatten().collect::<Vec<_>>(), [&world.template]);
    world.store.template_claim_end(world.template, world.host).await.unwrap();
    assert_eq!(claim(world.host).await, Some(world.template));
    // Whoever claimed it died.
    sqlx::query("UPDATE template_locations SET updated_at = now() - interval '61 seconds'")
        .execute(world.database.pool())
        .await
        .unwrap();
    assert_eq!(claim(world.host).await, Some(world.template));
    assert_eq!(claim(world.host).await, None);
    assert_eq!(world.store.template_hosts(world.template).await.unwrap(), []);
}

#[tokio::test]
async fn a_change_of_status_is_told_to_listeners_once_it_is_committed() {
    let world = World::new().await;
    let mut events = world.store.host_events().await.unwrap();
    let later = world.store.now().await.unwrap() + Duration::from_secs(1);
    let mut undone = world.store.begin().await.unwrap();
    undone.host_lost(world.host, later).await.unwrap();
    drop(undone);
    let mut tx = world.store.begin().await.unwrap();
    // Nothing but the time changes: nobody is woken.
    tx.host_beat(world.host, 2, &json!({})).await.unwrap();
    tx.commit().await.unwrap();
    let mut tx = world.store.begin().await.unwrap();
    tx.host_lost(world.host, later + Duration::from_secs(60)).await.unwrap();
    tx.commit().await.unwrap();
    assert_eq!(events.next().await.unwrap(), Some(world.host));
    assert_eq!(world.store.host_find(world.host).await.unwrap().unwrap().status, "unreachable");
}

#[tokio::test]
async fn a_lock_has_one_holder_and_ends_with_it() {
    let world = World::new().await;
    let other = Store::connect(&world.database.url()).await.unwrap();
    let lock = Lock::Reconcile(world.host);
    let held = world.store.try_lock(lock).await.unwrap();
    assert!(held.is_some());
    assert!(other.try_lock(lock).await.unwrap().is_none());
    assert!(other.try_lock(Lock::Reconcile(Id::new())).await.unwrap().is_some());
    assert!(other.try_lock(Lock::Monitor).await.unwrap().is_some());
    held.unwrap().release().await.unwrap();
    assert!(other.try_lock(lock).await.unwrap().is_some());
}
