//! The audit trail: a walk through its pages, whatever is written meanwhile.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use chrono::Utc;
use sandbar_store::audit::{AuditFilter, AuditRow, Event, Horizon, Outcome, Scope};
use sandbar_store::{Position, Store};
use sandbar_types::Id;
use sandbar_types::id::Team;
use serde_json::json;

use crate::support::World;

fn event(team: Option<Id<Team>>, resource_id: String) -> Event<'static> {
    Event {
        team_id: team,
        actor_type: "system",
        actor_id: String::new(),
        actor_name: "",
        resource_type: "sandbox",
        resource_id,
        action: "create",
        scope: Scope::Team,
        outcome: Outcome::Success,
        metadata: json!({}),
        request_id: None,
    }
}

fn all(team: Id<Team>) -> AuditFilter<'static> {
    AuditFilter {
        team_id: Some(team),
        admin_scope: true,
        resource_types: &[],
        resource_ids: &[],
        actions: &[],
        from: None,
        to: None,
        after: None,
        limit: 40,
    }
}

/// All that a walk sees, page by page.
async fn walk(store: &Store, team: Id<Team>, horizon: &Horizon) -> Vec<AuditRow> {
    let (mut seen, mut filter) = (Vec::new(), all(team));
    loop {
        let page = store.audit_list(&filter, horizon).await.unwrap();
        let Some(last) = page.last() else { return seen };
        filter.after = Some(Position { created_at: last.created_at, id: last.id.uuid() });
        seen.extend(page);
    }
}

/// Writers whose transactions begin in one order and commit in another, with several events each, some undone; readers that walk
/// from the newest on. Whatever was committed before a walk began is in it once, and nothing is in it that was undone.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_walk_neither_skips_nor_repeats_while_others_write() {
    const WRITERS: u64 = 6;
    const ROUNDS: u64 = 60;
    let world = World::new().await;
    let committed = Arc::new(Mutex::new(BTreeSet::<String>::new()));
    let writers: Vec<_> = (0..WRITERS)
        .map(|writer| {
            let (store, team) = (world.store.clone(), world.team);
            let committed = Arc::clone(&committed);
            tokio::spawn(async move {
                for round in 0..ROUNDS {
                    let mut tx = store.begin().await.unwrap();
                    let names: Vec<_> = (0..=round % 3).map(|n| format!("{writer}/{round}/{n}")).collect();
                    for name in &names {
                        tx.audit(&event(Some(team), name.clone())).await.unwrap();
                        // Not to wait for anything: so that commits come in another order than beginnings.
                        tokio::time::sleep(Duration::from_micros((writer * 997 + round * 131) % 4000)).await;
                    }
                    if round % 5 == 0 {
                        continue;
                    }
                    tx.commit().await.unwrap();
                    committed.lock().unwrap().extend(names);
                }
            })
        })
        .collect();
    let mut out_of_order = 0;
    while writers.iter().any(|writer| !writer.is_finished()) {
        let before = committed.lock().unwrap().clone();
        let horizon = world.store.audit_horizon().await.unwrap();
        let seen = walk(&world.store, world.team, &horizon).await;
        let names: BTreeSet<String> = seen.iter().map(|row| row.resource_id.clone()).collect();
        assert_eq!(names.len(), seen.len(), "an event came twice");
        assert!(names.is_superset(&before), "skipped: {:?}", before.difference(&names));
        let newest = |row: &AuditRow| (row.created_at, row.id);
        assert!(seen.is_sorted_by_key(|row| std::cmp::Reverse(newest(row))));
        // What a second walk of the same horizon sees is the same, though more was committed since, in between as well.
        let again = walk(&world.store, world.team, &horizon).await;
        assert_eq!(again, seen);
        let later = walk(&world.store, world.team, &world.store.audit_horizon().await.unwrap()).await;
        let came_below = |row: &&AuditRow| {
            !names.contains(&row.resource_id) && seen.first().is_some_and(|first| newest(row) < newest(first))
        };
        out_of_order += later.iter().filter(came_below).count();
    }
    for writer in writers {
        writer.await.unwrap();
    }
    assert!(out_of_order > 0, "no event ever appeared below one that was read: the test proves nothing");
    // What was undone is nowhere.
    let horizon = world.store.audit_horizon().await.unwrap();
    let seen: BTreeSet<String> =
        walk(&world.store, world.team, &horizon).await.into_iter().map(|row| row.resource_id).collect();
    assert_eq!(seen, *committed.lock().unwrap());
}

#[tokio::test]
async fn filters_scopes_and_teams_keep_events_apart() {
    let world = World::new().await;
    let mut tx = world.store.begin().await.unwrap();
    tx.audit(&event(Some(world.team), "a".to_owned())).await.unwrap();
    tx.audit(&Event { scope: Scope::Admin, ..event(Some(world.team), "b".to_owned()) }).await.unwrap();
    tx.audit(&Event { action: "destroy", ..event(Some(world.team), "c".to_owned()) }).await.unwrap();
    tx.audit(&Event { resource_type: "team", ..event(Some(Id::PLATFORM), "d".to_owned()) }).await.unwrap();
    tx.audit(&event(None, "e".to_owned())).await.unwrap();
    tx.commit().await.unwrap();
    let horizon = world.store.audit_horizon().await.unwrap();
    let list = async |filter: AuditFilter<'_>| -> Vec<String> {
        let rows = world.store.audit_list(&filter, &horizon).await.unwrap();
        let mut names: Vec<String> = rows.into_iter().map(|row| row.resource_id).collect();
        names.sort();
        names
    };
    let filter = || all(world.team);
    assert_eq!(list(filter()).await, ["a", "b", "c"]);
    assert_eq!(list(AuditFilter { admin_scope: false, ..filter() }).await, ["a", "c"]);
    assert_eq!(list(AuditFilter { team_id: None, ..filter() }).await, ["a", "b", "c", "d", "e"]);
    let (actions, types) = (["destroy".to_owned()], ["team".to_owned(), "x".to_owned()]);
    assert_eq!(list(AuditFilter { actions: &actions, ..filter() }).await, ["c"]);
    assert_eq!(list(AuditFilter { team_id: None, resource_types: &types, ..filter() }).await, ["d"]);
    let ids = ["a".to_owned(), "d".to_owned()];
    assert_eq!(list(AuditFilter { resource_ids: &ids, ..filter() }).await, ["a"]);
    let (past, future) = (Utc::now() - Duration::from_secs(60), Utc::now() + Duration::from_secs(60));
    assert_eq!(list(AuditFilter { from: Some(past), to: Some(future), ..filter() }).await.len(), 3);
    assert_eq!(list(AuditFilter { from: Some(future), ..filter() }).await.len(), 0);
    assert_eq!(list(AuditFilter { to: Some(past), ..filter() }).await.len(), 0);
}

#[tokio::test]
async fn the_trail_of_a_restored_database_is_read_though_its_transaction_ids_lie_in_the_future() {
    let world = World::new().await;
    let insert = "INSERT INTO audit_logs (id, team_id, actor_type, resource_type, action, scope, status, created_at, xid)
                  SELECT gen_random_uuid(), $1, 'system', 'sandbox', 'create', 'team', 'info',
                         now() - interval '2 hours', '99999999999'::xid8
                  FROM generate_series(1, 10)";
    sqlx::query(insert).bind(world.team.uuid()).execute(world.database.pool()).await.unwrap();
    let horizon = world.store.audit_horizon().await.unwrap();
    assert_eq!(walk(&world.store, world.team, &horizon).await.len(), 10);
}

#[tokio::test]
async fn retention_forgets_what_is_older_and_nothing_else() {
    let world = World::new().await;
    let insert = "INSERT INTO audit_logs (id, team_id, actor_type, resource_type, action, scope, status, created_at)
                  SELECT gen_random_uuid(), $1, 'system', 'sandbox', 'create', 'team', 'info', now() - make_interval(days => n)
                  FROM generate_series(1, 10) AS n";
    sqlx::query(insert).bind(world.team.uuid()).execute(world.database.pool()).await.unwrap();
    let before = world.store.now().await.unwrap() - Duration::from_secs(5 * 24 * 3600 + 3600);
    assert_eq!(world.store.audit_prune(before, 3).await.unwrap(), 3);
    assert_eq!(world.store.audit_prune(before, 3).await.unwrap(), 2);
    assert_eq!(world.store.audit_prune(before, 3).await.unwrap(), 0);
    let horizon = world.store.audit_horizon().await.unwrap();
    assert_eq!(walk(&world.store, world.team, &horizon).await.len(), 5);
}
