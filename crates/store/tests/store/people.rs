//! What the database holds about people, whoever writes.

use std::collections::BTreeMap;
use std::time::Duration;

use sandbar_store::StoreError;
use sandbar_store::api_keys::NewApiKeyRow;
use sandbar_store::sign_in::Allowance;
use sandbar_store::teams::Role;
use sandbar_types::id::{Team, User};
use sandbar_types::{Id, SandboxStatus};

use crate::support::{World, person};

/// Why a transaction does not commit: the constraint that holds it.
async fn held_by(world: &World, statement: &'static str, team: Id<Team>, user: Id<User>) -> Option<String> {
    let mut tx = world.database.pool().begin().await.unwrap();
    sqlx::query(statement).bind(team.uuid()).bind(user.uuid()).execute(&mut *tx).await.unwrap();
    let error = tx.commit().await.err()?;
    error.as_database_error()?.constraint().map(str::to_owned)
}

#[tokio::test]
async fn a_team_always_has_an_owner_and_a_person_with_teams_a_default() {
    let world = World::new().await;
    let (other, user) = (Id::<Team>::new(), world.owner);
    let mut tx = world.store.begin().await.unwrap();
    tx.team_insert(other, "Other", "aaaaaa-bbbbbb").await.unwrap();
    tx.membership_insert(other, user, Role::Owner, false).await.unwrap();
    tx.commit().await.unwrap();

    let owner = Some("teams_have_an_owner".to_owned());
    let default = Some("people_have_a_default_team".to_owned());
    let team = world.team;
    for (statement, of, held) in [
        ("DELETE FROM memberships WHERE team_id = $1 AND user_id = $2", team, &owner),
        ("UPDATE memberships SET role = 'admin' WHERE team_id = $1 AND user_id = $2", team, &owner),
        ("UPDATE memberships SET is_default = FALSE WHERE team_id = $1 AND user_id = $2", team, &default),
        // The default team must be a living one.
        ("UPDATE teams SET deleted_at = now() WHERE id = $1 AND $2::uuid IS NOT NULL", team, &default),
        ("UPDATE teams SET deleted_at = now() WHERE id = $1 AND $2::uuid IS NOT NULL", other, &None),
    ] {
        assert_eq!(held_by(&world, statement, of, user).await, *held, "{statement}");
    }
    let mut tx = world.store.begin().await.unwrap();
    tx.team_insert(Id::new(), "Nobody's", "cccccc-dddddd").await.unwrap();
    assert!(tx.commit().await.is_err(), "a team without an owner");
}

#[tokio::test]
async fn a_team_changes_hands_within_one_transaction() {
    let world = World::new().await;
    let heir = Id::new();
    let mut tx = world.store.begin().await.unwrap();
    tx.user_insert(&person(heir, "heir@example.org")).await.unwrap();
    tx.membership_insert(world.team, heir, Role::Member, true).await.unwrap();
    tx.commit().await.unwrap();
    let mut tx = world.store.begin().await.unwrap();
    tx.membership_set_role(world.team, world.owner, Role::Admin).await.unwrap();
    tx.membership_set_role(world.team, heir, Role::Owner).await.unwrap();
    tx.commit().await.unwrap();
    let members = world.store.team_members(world.team).await.unwrap();
    let roles: Vec<_> = members.iter().map(|member| (member.user_id, member.role)).collect();
    assert_eq!(roles, [(heir, Role::Owner), (world.owner, Role::Admin)]);
}

#[tokio::test]
async fn nothing_is_made_for_a_team_that_is_being_deleted() {
    let world = World::new().await;
    let other = Id::new();
    let mut tx = world.store.begin().await.unwrap();
    tx.team_insert(other, "Other", "aaaaaa-bbbbbb").await.unwrap();
    tx.membership_insert(other, world.owner, Role::Owner, false).await.unwrap();
    tx.commit().await.unwrap();
    let early = world.pending(&BTreeMap::new()).await;

    let mut deleting = world.store.begin().await.unwrap();
    deleting.team_lock(world.team).await.unwrap().unwrap();
    let ended = deleting.sandboxes_stop_of_team(world.team).await.unwrap();
    assert_eq!(
        ended.iter().map(|row| (row.id, row.status)).collect::<Vec<_>>(),
        [(early, SandboxStatus::Stopping)]
    );
    // Another makes a sandbox and a key at this moment: both wait for the lock, and then find no team.
    let late = async {
        let mut tx = world.store.begin().await.unwrap();
        let metadata = BTreeMap::new();
        tx.sandbox_insert(&world.new_row(Id::new(), &metadata)).await
    };
    let late_key = async {
        let mut tx = world.store.begin().await.unwrap();
        let key = NewApiKeyRow {
            id: Id::new(),
            team_id: world.team,
            name: "late",
            key_hash: &[7; 32],
            key_prefix: "e2b_",
            created_by: None,
            expires_at: None,
        };
        tx.api_key_insert(&key).await
    };
    let delete = async {
        deleting.team_delete(world.team).await.unwrap();
        deleting.defaults_move_away(world.team, None).await.unwrap();
        deleting.commit().await.unwrap();
    };
    let (late, late_key, ()) = tokio::join!(late, late_key, delete);
    assert!(matches!(late, Err(StoreError::TeamGone)), "{late:?}");
    assert!(matches!(late_key, Err(StoreError::TeamGone)), "{late_key:?}");

    assert_eq!(world.store.team_default(world.owner).await.unwrap(), Some((other, Role::Owner)));
    assert_eq!(world.store.team_of(world.team, world.owner).await.unwrap(), None);
    assert_eq!(world.store.team_members(world.team).await.unwrap(), []);
    assert_eq!(world.store.team_list(None, 10).await.unwrap().len(), 1);
    let mut tx = world.store.begin().await.unwrap();
    let again = tx.team_insert(Id::new(), "Again", "0123ab-cd4567").await;
    assert!(matches!(again, Err(StoreError::Taken { .. })), "the slug stays reserved");
}

#[tokio::test]
async fn attempts_are_counted_together_and_given_back_with_time() {
    let world = World::new().await;
    let strict = Allowance { burst: 10, refill: Duration::from_secs(3600) };
    let attempts = (0..50).map(|_| world.store.attempt(&[1; 32], strict));
    let outcomes = futures::future::join_all(attempts).await;
    let passed = outcomes.iter().filter(|outcome| matches!(outcome, Ok(None))).count();
    assert_eq!(passed, 10, "exactly the allowance, however many try at once");
    let wait = world.store.attempt(&[1; 32], strict).await.unwrap().unwrap();
    assert!(wait <= Duration::from_secs(3600) && wait > Duration::from_secs(3000), "{wait:?}");
    assert_eq!(world.store.attempt(&[2; 32], strict).await.unwrap(), None, "another bucket");

    let older = "UPDATE sign_in_attempts SET updated_at = updated_at - interval '3601 seconds'";
    sqlx::query(older).execute(world.database.pool()).await.unwrap();
    assert_eq!(world.store.attempt(&[1; 32], strict).await.unwrap(), None, "one was given back");
    assert!(world.store.attempt(&[1; 32], strict).await.unwrap().is_some(), "and not more");

    let mut tx = world.store.begin().await.unwrap();
    tx.attempts_forget(&[1; 32]).await.unwrap();
    tx.commit().await.unwrap();
    assert_eq!(world.store.attempt(&[1; 32], strict).await.unwrap(), None);
    let now = world.store.now().await.unwrap();
    assert_eq!(world.store.attempts_prune(now + Duration::from_secs(1)).await.unwrap(), 2);
}

#[tokio::test]
async fn a_search_takes_patterns_for_what_they_are_written() {
    let world = World::new().await;
    let mut tx = world.store.begin().await.unwrap();
    for email in ["a_b@example.org", "axb@example.org", "A%b@example.org", r"a\b@example.org"] {
        let id = Id::new();
        tx.user_insert(&person(id, email)).await.unwrap();
    }
    tx.commit().await.unwrap();
    for (prefix, found) in [
        ("a_b@", vec!["a_b@example.org"]),
        ("A_B@EX", vec!["a_b@example.org"]),
        ("a%b@", vec!["A%b@example.org"]),
        (r"a\b@", vec![r"a\b@example.org"]),
        ("%@", vec![]),
    ] {
        let rows = world.store.users_by_email_prefix(prefix, 10).await.unwrap();
        assert_eq!(rows.iter().map(|row| row.email.as_str()).collect::<Vec<_>>(), found, "{prefix}");
    }
}
