//! Sandboxes in a real database: states, races, lists.

use std::collections::{BTreeMap, HashSet};

use crate::support::{World, on};
use futures::future::join_all;
use sandbar_store::Position;
use sandbar_store::hosts::{Demand, Limits, Purpose, Room};
use sandbar_store::sandboxes::{Activity, ListFilter, Transition};
use sandbar_types::{Id, NetworkPolicy, SandboxStatus};

#[tokio::test]
async fn a_status_changes_only_along_the_transition_table() {
    let world = World::new().await;
    let id = world.pending(&BTreeMap::new()).await;
    for from in SandboxStatus::ALL {
        for to in SandboxStatus::ALL {
            world.force(id, from).await;
            let before = world.row(id).await;
            let changed = world.transition(&Transition::new(id, to)).await.unwrap();
            assert_eq!(changed.is_some(), from.targets().contains(&to), "{from} -> {to}");
            let after = world.row(id).await;
            if changed.is_some() {
                assert_eq!((after.status, after.generation), (to, before.generation + 1));
            } else {
                assert_eq!(after, before, "a refused change leaves the row as it was");
            }
        }
    }
}

#[tokio::test]
async fn of_fifty_deletes_at_once_one_wins() {
    let world = World::new().await;
    let id = world.running().await;
    let transition = Transition::new(id, SandboxStatus::Stopping);
    let outcomes = join_all((0..50).map(|_| world.transition(&transition))).await;
    let winners = outcomes.into_iter().filter(|outcome| outcome.as_ref().unwrap().is_some()).count();
    assert_eq!(winners, 1);
    assert_eq!(world.row(id).await.status, SandboxStatus::Stopping);
}

#[tokio::test]
async fn a_verdict_on_an_older_row_is_void() {
    let world = World::new().await;
    let id = world.running().await;
    let old = world.row(id).await.generation;
    world.transition(&Transition::new(id, SandboxStatus::Missing)).await.unwrap().unwrap();
    let late = Transition::new(id, SandboxStatus::Stopped).at_generation(old);
    assert_eq!(world.transition(&late).await.unwrap(), None);
    let timely = Transition::new(id, SandboxStatus::Stopped).at_generation(old + 1).because("gone");
    let row = world.transition(&timely).await.unwrap().unwrap();
    assert_eq!((row.status, row.status_reason.as_deref()), (SandboxStatus::Stopped, Some("gone")));
}

#[tokio::test]
async fn running_tells_where_and_keeps_the_first_start() {
    let world = World::new().await;
    let id = world.running().await;
    let first = world.row(id).await;
    assert_eq!(first.guest_ip.as_deref(), Some("172.30.0.2"));
    assert_eq!(first.host_address.as_deref(), Some("127.0.0.1:1"));
    assert_eq!(first.template_name, "base");
    world.transition(&Transition::new(id, SandboxStatus::Missing).because("away")).await.unwrap().unwrap();
    let mut tx = world.store.begin().await.unwrap();
    let again = tx.sandbox_run(&Transition::new(id, SandboxStatus::Running), &on()).await.unwrap().unwrap();
    tx.commit().await.unwrap();
    assert_eq!(again.started_at, first.started_at);
    assert_eq!(again.status_reason, None);
}

#[tokio::test]
async fn another_team_finds_nothing() {
    let world = World::new().await;
    let id = world.running().await;
    assert!(world.store.sandbox_find(Id::new(), id).await.unwrap().is_none());
    assert!(world.store.sandbox_find(world.team, Id::new()).await.unwrap().is_none());
    let filter = ListFilter {
        team_id: Id::new(),
        status: &SandboxStatus::ALL,
        template: None,
        metadata: &BTreeMap::new(),
        after: None,
        limit: 10,
    };
    assert_eq!(world.store.sandbox_list(&filter).await.unwrap(), []);
}

#[tokio::test]
async fn pages_neither_skip_nor_repeat_though_rows_share_an_instant() {
    let world = World::new().await;
    let none = BTreeMap::new();
    // One transaction stamps all of its rows with the same time.
    let mut tx = world.store.begin().await.unwrap();
    let mut made = HashSet::new();
    for _ in 0..23 {
        let id = Id::new();
        tx.sandbox_insert(&world.new_row(id, &none)).await.unwrap();
        made.insert(id);
    }
    tx.commit().await.unwrap();
    for status in [&[][..], &[SandboxStatus::Pending]] {
        let mut seen = Vec::new();
        let mut after = None;
        loop {
            let filter =
                ListFilter { team_id: world.team, status, template: None, metadata: &none, after, limit: 5 };
            let page = world.store.sandbox_list(&filter).await.unwrap();
            let Some(last) = page.last() else { break };
            after = Some(Position { created_at: last.created_at, id: last.id.uuid() });
            seen.extend(page.iter().map(|row| row.id));
        }
        assert_eq!(seen.len(), made.len());
        assert_eq!(seen.into_iter().collect::<HashSet<_>>(), made);
    }
}

#[tokio::test]
async fn lists_filter_by_status_template_and_metadata() {
    let world = World::new().await;
    let tag = |key: &str, value: &str| BTreeMap::from([(key.to_owned(), value.to_owned())]);
    let both = tag("a", "1").into_iter().chain(tag("b", "2")).collect();
    let (one, two) = (world.pending(&tag("a", "1")).await, world.pending(&both).await);
    let ended = world.running().await;
    world.transition(&Transition::new(ended, SandboxStatus::Stopped)).await.unwrap().unwrap();
    let list = async |status: &[SandboxStatus],
                      template: Option<&str>,
                      metadata: BTreeMap<String, String>| {
        let filter =
            ListFilter { team_id: world.team, status, template, metadata: &metadata, after: None, limit: 10 };
        let rows = world.store.sandbox_list(&filter).await.unwrap();
        rows.into_iter().map(|row| row.id).collect::<Vec<_>>()
    };
    let none = BTreeMap::new;
    assert_eq!(list(&[], None, none()).await, [two, one], "newest first, ended ones hidden");
    assert_eq!(list(&[SandboxStatus::Stopped], None, none()).await, [ended]);
    assert_eq!(list(&[], Some("base"), tag("a", "1")).await, [two, one]);
    assert_eq!(list(&[], Some("other"), none()).await, []);
    assert_eq!(list(&[], None, both).await, [two]);
    assert_eq!(list(&[], None, tag("a", "2")).await, []);
    assert_eq!(list(&[SandboxStatus::Pending], None, tag("b", "2")).await, [two]);
}

const DEMAND: Demand = Demand { memory_mb: 512, vcpus: 1, disk_mb: 1024 };
const LIMITS: Limits = Limits { memory: 100, vcpus: 10_000, disk: 1_000 };

#[tokio::test]
async fn a_host_is_never_promised_beyond_its_room() {
    let world = World::new().await;
    let none = BTreeMap::new();
    // 8192 MiB, 512 each, 100 %: sixteen fit.
    let place = async || {
        let id = Id::new();
        let mut tx = world.store.begin().await.unwrap();
        tx.sandbox_insert(&world.new_row(id, &none)).await.unwrap();
        let room = tx.host_room(world.host, DEMAND, LIMITS, Purpose::New).await.unwrap();
        if room == Room::Enough {
            tx.sandbox_place(id, world.host).await.unwrap().unwrap();
            tx.commit().await.unwrap();
        }
        room
    };
    let rooms = join_all((0..40).map(|_| place())).await;
    assert_eq!(rooms.iter().filter(|room| **room == Room::Enough).count(), 16);
    assert_eq!(world.store.sandboxes_living_on(world.host).await.unwrap().len(), 16);
    let candidates = world.store.host_candidates(world.team, world.template, None).await.unwrap();
    assert_eq!((candidates[0].promised_memory_mb, candidates[0].sandboxes), (8192, 16));
    let mut tx = world.store.begin().await.unwrap();
    assert_eq!(tx.host_room(Id::new(), DEMAND, LIMITS, Purpose::New).await.unwrap(), Room::Gone);
}

#[tokio::test]
async fn each_resource_has_its_limit_and_a_host_that_drains_takes_only_its_own_back() {
    let world = World::new().await;
    world.running().await;
    let room = async |demand: Demand, limits: Limits, purpose: Purpose| {
        let mut tx = world.store.begin().await.unwrap();
        tx.host_room(world.host, demand, limits, purpose).await.unwrap()
    };
    // Of 8192 MiB, 4 processors and 100 GiB, 512, 1 and 1 are promised.
    let most = Demand { memory_mb: 7680, vcpus: 3, disk_mb: 99 * 1024 };
    let limits = Limits { memory: 100, vcpus: 100, disk: 100 };
    assert_eq!(room(most, limits, Purpose::New).await, Room::Enough);
    for more in [
        Demand { memory_mb: 7681, ..most },
        Demand { vcpus: 4, ..most },
        Demand { disk_mb: 99 * 1024 + 1, ..most },
    ] {
        assert_eq!(room(more, limits, Purpose::New).await, Room::Full, "{more:?}");
    }
    // A paused one has its disk.
    assert_eq!(room(Demand { disk_mb: 200 * 1024, ..most }, limits, Purpose::Resume).await, Room::Enough);
    let mut tx = world.store.begin().await.unwrap();
    assert_eq!(tx.host_set_draining(world.host, true).await.unwrap().status, "draining");
    tx.commit().await.unwrap();
    assert_eq!(room(DEMAND, LIMITS, Purpose::New).await, Room::Draining);
    assert_eq!(room(DEMAND, LIMITS, Purpose::Resume).await, Room::Enough);
    assert!(world.store.host_candidates(world.team, world.template, None).await.unwrap()[0].is_draining);
}

#[tokio::test]
async fn use_is_noted_for_running_sandboxes_only_and_is_no_change_of_state() {
    let world = World::new().await;
    let (running, stopped) = (world.running().await, world.running().await);
    world.transition(&Transition::new(stopped, SandboxStatus::Stopped)).await.unwrap().unwrap();
    let before = world.row(running).await;
    let at = world.store.now().await.unwrap();
    let seen =
        |id| Activity { id, last_active_at: Some(at), expires_at: None, deadline: None, generation: None };
    world.store.sandbox_activity(&[seen(running), seen(stopped)]).await.unwrap();
    let after = world.row(running).await;
    assert_eq!((after.last_active_at, after.generation), (Some(at), before.generation));
    assert_eq!(world.row(stopped).await.last_active_at, None);
}

#[tokio::test]
async fn an_unreachable_hosts_sandboxes_go_missing_but_paused_and_stopping_ones_stay() {
    let world = World::new().await;
    let mut rows = Vec::new();
    for status in SandboxStatus::ALL {
        let id = world.pending(&BTreeMap::new()).await;
        world.force(id, status).await;
        rows.push((id, status));
    }
    let mut tx = world.store.begin().await.unwrap();
    let changed = tx.sandboxes_go_missing(world.host).await.unwrap();
    tx.commit().await.unwrap();
    let expected = |status: SandboxStatus| status.targets().contains(&SandboxStatus::Missing);
    assert_eq!(changed, rows.iter().filter(|(_, status)| expected(*status)).count() as u64);
    for (id, status) in rows {
        let now = world.row(id).await.status;
        assert_eq!(now, if expected(status) { SandboxStatus::Missing } else { status });
    }
}

#[tokio::test]
async fn a_network_policy_is_kept_as_it_was_given_and_replaced_as_a_whole() {
    let world = World::new().await;
    let id = world.running().await;
    let default = NetworkPolicy::default();
    let policy = NetworkPolicy::parse(&["a.com".into(), "10.0.0.0/8".into()], &[], false).unwrap();
    for policy in [&policy, &default] {
        let before = world.row(id).await;
        let mut tx = world.store.begin().await.unwrap();
        let row = tx.sandbox_network(id, policy).await.unwrap().unwrap();
        tx.commit().await.unwrap();
        assert_eq!((&row.network, row.generation), (policy, before.generation + 1));
        assert_eq!(world.row(id).await, row);
    }
    let mut tx = world.store.begin().await.unwrap();
    assert_eq!(tx.sandbox_network(Id::new(), &policy).await.unwrap(), None);
}
