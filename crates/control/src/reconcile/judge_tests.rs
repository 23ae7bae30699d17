//! The table of [`super`], row by row, and properties over random observations.

use super::*;
use proptest::prelude::*;
use uuid::Uuid;

const NOW: i64 = 1_700_000_000;

fn at(seconds_ago: i64) -> DateTime<Utc> {
    DateTime::from_timestamp(NOW - seconds_ago, 0).unwrap()
}

fn now() -> DateTime<Utc> {
    at(0)
}

fn policy() -> Policy {
    Policy {
        operation_deadline: Duration::from_secs(60),
        orphan_grace: Duration::from_secs(30),
        mass_limit: 3,
    }
}

fn id(n: u128) -> Id<Sandbox> {
    Id::from_uuid(Uuid::from_u128(n))
}

fn row(n: u128, status: SandboxStatus, seconds_ago: i64) -> Row {
    let past = if matches!(status, Pending | Starting) { Past::NeverRan } else { Past::Ran };
    Row { id: id(n), status, generation: 7, since: at(seconds_ago), origin: Origin::Here, past }
}

fn machine(n: u128, state: MachineState, seconds_ago: i64) -> Machine {
    Machine { id: id(n), state, created_at: at(seconds_ago), stop_reason: String::new() }
}

fn one(row: Row, machine: Option<Machine>) -> Vec<Action> {
    let seen =
        Observation { rows: vec![row], machines: machine.into_iter().collect(), ..Observation::default() };
    judge(&seen, now(), &policy()).actions
}

const STATES: [MachineState; 6] = [
    MachineState::Starting,
    MachineState::Running,
    MachineState::Between,
    MachineState::Paused,
    MachineState::Stopping,
    MachineState::Stopped,
];

fn every_report() -> impl Iterator<Item = Option<Machine>> {
    std::iter::once(None).chain(STATES.into_iter().map(|state| Some(machine(1, state, 100))))
}

#[test]
fn work_in_progress_is_left_to_whoever_is_at_it_until_its_deadline() {
    for status in [Pending, Starting, Stopping] {
        for report in every_report() {
            assert_eq!(one(row(1, status, 59), report.clone()), [], "{status} {report:?}");
        }
    }
}

#[test]
fn overdue_work_is_ended_on_both_sides() {
    for report in every_report() {
        for (status, to) in [(Pending, End::Error), (Starting, End::Error), (Stopping, End::Stopped)] {
            let actions = one(row(1, status, 60), report.clone());
            let [Action::End { generation: 7, to: got, machine: OnHost::Perhaps, .. }] = actions.as_slice()
            else {
                panic!("{status} {report:?}: {actions:?}");
            };
            assert_eq!(*got, to, "{status}");
        }
    }
}

#[test]
fn a_running_row_follows_its_machine() {
    assert_eq!(
        one(row(1, Running, 5), Some(machine(1, MachineState::Running, 5))),
        [Action::NoteUse { id: id(1), generation: 7 }]
    );
    for state in [MachineState::Starting, MachineState::Between, MachineState::Stopping] {
        assert_eq!(one(row(1, Running, 5), Some(machine(1, state, 5))), []);
    }
    assert!(matches!(
        one(row(1, Running, 5), None).as_slice(),
        [Action::End { to: End::Stopped, machine: OnHost::Nothing, .. }]
    ));
    let died = Machine { stop_reason: "idle for 300 s".to_owned(), ..machine(1, MachineState::Stopped, 5) };
    assert!(matches!(
        one(row(1, Running, 5), Some(died)).as_slice(),
        [Action::End { to: End::Stopped, machine: OnHost::Perhaps, reason, .. }] if reason == "idle for 300 s"
    ));
}

#[test]
fn a_missing_row_comes_back_or_ends_as_its_host_says() {
    assert_eq!(
        one(row(1, Missing, 500), Some(machine(1, MachineState::Running, 900))),
        [settled(Missing, Rest::Running)]
    );
    assert_eq!(
        one(row(1, Missing, 500), Some(machine(1, MachineState::Paused, 900))),
        [settled(Missing, Rest::Paused)]
    );
    assert!(matches!(one(row(1, Missing, 500), None).as_slice(), [Action::End { to: End::Stopped, .. }]));
}

#[test]
fn a_missing_row_that_never_ran_was_not_made_however_many_there_are() {
    let never = |n| Row { past: Past::NeverRan, ..row(n, Missing, 0) };
    let rows: Vec<Row> = (1..=10).map(never).collect();
    let verdict = judge(&Observation { rows, ..Observation::default() }, now(), &policy());
    assert_eq!((verdict.actions.len(), verdict.spared), (10, 0), "nothing was lost that could be spared");
    for action in &verdict.actions {
        let Action::End { to: End::Error, machine: OnHost::Perhaps, reason, .. } = action else {
            panic!("{action:?}");
        };
        assert_eq!(reason, "it was not made");
    }
    // What its host made all the same runs.
    let made = one(never(1), Some(machine(1, MachineState::Running, 0)));
    assert_eq!(made, [settled(Missing, Rest::Running)]);
}

fn settled(was: SandboxStatus, to: Rest) -> Action {
    Action::Settle { id: id(1), generation: 7, was, to }
}

#[test]
fn what_the_host_did_by_itself_or_late_is_followed_at_once() {
    let of = |status, state| one(row(1, status, 0), Some(machine(1, state, 100)));
    assert_eq!(of(Running, MachineState::Paused), [settled(Running, Rest::Paused)]);
    assert_eq!(of(Paused, MachineState::Running), [settled(Paused, Rest::Running)]);
    assert_eq!(of(Paused, MachineState::Paused), []);
    assert_eq!(of(Paused, MachineState::Between), []);
}

#[test]
fn a_change_that_is_done_is_seen_at_once_and_one_that_is_not_only_past_its_deadline() {
    use MachineState::{Between, Paused as IsPaused, Running as IsRunning};
    for (was, state, at_once, overdue) in [
        (Pausing, IsPaused, Some(Rest::Paused), Some(Rest::Paused)),
        (Pausing, IsRunning, None, Some(Rest::Running)),
        (Resuming, IsRunning, Some(Rest::Running), Some(Rest::Running)),
        (Resuming, IsPaused, None, Some(Rest::Paused)),
        (Snapshotting, IsRunning, None, Some(Rest::Running)),
        (Snapshotting, IsPaused, None, Some(Rest::Paused)),
        (Pausing, Between, None, None),
        (Resuming, Between, None, None),
    ] {
        for (age, expected) in [(59, at_once), (60, overdue)] {
            let actions = one(row(1, was, age), Some(machine(1, state, 100)));
            let expected: Vec<Action> = expected.map(|to| settled(was, to)).into_iter().collect();
            assert_eq!(actions, expected, "{was} {state:?} {age}");
        }
        let now = released(&row(1, was, 0), &machine(1, state, 100));
        assert_eq!(now, overdue.map(|to| settled(was, to)), "{was} {state:?}, nobody is at it");
    }
}

#[test]
fn a_change_whose_machine_is_gone_ends_past_its_deadline() {
    for was in [Pausing, Resuming, Snapshotting] {
        for report in [None, Some(machine(1, MachineState::Stopped, 100))] {
            assert_eq!(one(row(1, was, 59), report.clone()), [], "{was}");
            let actions = one(row(1, was, 60), report.clone());
            assert!(
                matches!(actions.as_slice(), [Action::End { to: End::Stopped, .. }]),
                "{was} {actions:?}"
            );
        }
    }
}

#[test]
fn a_paused_sandbox_is_given_up_only_at_the_second_telling() {
    let rows = vec![row(1, Paused, 1_000_000)];
    let first = judge(&Observation { rows: rows.clone(), ..Observation::default() }, now(), &policy());
    assert_eq!((first.actions.len(), first.spared), (0, 1));
    let second = Observation { rows, absent_before: first.absent, ..Observation::default() };
    let second = judge(&second, now(), &policy());
    assert!(matches!(
        second.actions.as_slice(),
        [Action::End { to: End::Stopped, machine: OnHost::Nothing, .. }]
    ));
}

#[test]
fn the_next_look_is_when_the_first_row_is_due() {
    let rows = vec![row(1, Pausing, 20), row(2, Starting, 50), row(3, Running, 59), row(4, Stopping, 70)];
    let machines = vec![machine(1, MachineState::Running, 100), machine(3, MachineState::Running, 100)];
    let verdict = judge(&Observation { rows, machines, ..Observation::default() }, now(), &policy());
    assert_eq!(verdict.due_in, Some(Duration::from_secs(10)));
    assert_eq!(judge(&Observation::default(), now(), &policy()).due_in, None);
}

#[test]
fn a_machine_without_a_living_row_goes_at_once_when_its_row_ended_and_past_the_grace_when_none_is_known() {
    let of = |other: Option<SandboxStatus>, age| {
        let seen = Observation {
            machines: vec![machine(1, MachineState::Running, age)],
            other_rows: other.map(|status| (id(1), status)).into_iter().collect(),
            ..Observation::default()
        };
        judge(&seen, now(), &policy()).actions
    };
    assert_eq!(of(Some(Stopped), 0), [Action::Destroy { id: id(1) }]);
    assert_eq!(of(Some(Error), 0), [Action::Destroy { id: id(1) }]);
    assert_eq!(of(None, 29), []);
    assert_eq!(of(None, 30), [Action::Destroy { id: id(1) }]);
    // Made between the reading of the rows and the listing.
    for status in [Starting, Running, Stopping, Paused] {
        assert_eq!(of(Some(status), 1000), [], "{status}");
    }
    // A host whose clock is ahead says "made in the future": that is young.
    assert_eq!(of(None, -300), []);
}

#[test]
fn what_is_left_of_a_sandbox_that_went_elsewhere_goes_a_few_at_a_time() {
    let seen = Observation {
        machines: (1..=5).map(|n| machine(n, MachineState::Paused, 0)).collect(),
        other_rows: [(1, Running), (2, Paused), (3, Resuming), (4, Running), (5, Running)]
            .into_iter()
            .map(|(n, status)| (id(n), status))
            .collect(),
        elsewhere: [1, 2, 3, 4].into_iter().map(id).collect(),
        ..Observation::default()
    };
    let verdict = judge(&seen, now(), &policy());
    assert_eq!(verdict.actions, [1, 2, 3].map(|n| Action::Forsake { id: id(n) }));
    assert_eq!(verdict.spared, 1, "the fifth came here after the rows were read");
}

#[test]
fn what_was_to_be_restored_and_is_absent_is_paused_again_and_only_that() {
    let of = |status, age, origin| one(Row { origin, ..row(1, status, age) }, None);
    let back = [Action::GiveBack { id: id(1), generation: 7 }];
    assert_eq!(of(Resuming, 59, Origin::Stored), [], "somebody is at it");
    assert_eq!(of(Resuming, 60, Origin::Stored), back);
    assert_eq!(of(Missing, 0, Origin::Stored), back);
    for (status, origin) in [(Missing, Origin::Here), (Resuming, Origin::Here), (Running, Origin::Stored)] {
        assert!(matches!(of(status, 60, origin).as_slice(), [Action::End { .. }]), "{status}");
    }
}

#[test]
fn a_mass_loss_is_believed_at_the_second_telling() {
    let rows: Vec<Row> = (1..=10).map(|n| row(n, Running, 5)).collect();
    let first = judge(&Observation { rows: rows.clone(), ..Observation::default() }, now(), &policy());
    assert_eq!((first.actions.len(), first.absent.len(), first.spared), (0, 10, 10));
    let second = Observation { rows, absent_before: first.absent, ..Observation::default() };
    let second = judge(&second, now(), &policy());
    assert_eq!((second.actions.len(), second.spared), (10, 0));
}

#[test]
fn unknown_machines_go_a_few_at_a_time() {
    let machines: Vec<Machine> = (1..=10).map(|n| machine(n, MachineState::Running, 1000)).collect();
    let verdict = judge(&Observation { machines, ..Observation::default() }, now(), &policy());
    assert_eq!((verdict.actions.len(), verdict.spared), (3, 7));
}

fn any_status() -> impl Strategy<Value = SandboxStatus> {
    proptest::sample::select(SandboxStatus::ALL.to_vec())
}

fn any_observation() -> impl Strategy<Value = Observation> {
    let living = any_status().prop_filter("living", |status| !status.is_end());
    let rows = proptest::collection::btree_map(0u128..30, (living, 0i64..200), 0..15);
    let machines = proptest::collection::btree_map(0u128..30, (0usize..STATES.len(), -100i64..200), 0..15);
    let others = proptest::collection::btree_map(0u128..30, any_status(), 0..15);
    let absent = proptest::collection::btree_set(0u128..30, 0..15);
    let elsewhere = proptest::collection::btree_set(0u128..30, 0..15);
    let stored = proptest::collection::btree_set(0u128..30, 0..15);
    let never = proptest::collection::btree_set(0u128..30, 0..15);
    let all = (rows, machines, others, absent, elsewhere, stored, never);
    all.prop_map(|(rows, machines, others, absent, elsewhere, stored, never)| Observation {
        elsewhere: others
            .iter()
            .filter(|(n, status)| !rows.contains_key(n) && elsewhere.contains(n) && !status.is_end())
            .map(|(n, _)| id(*n))
            .collect(),
        other_rows: others
            .into_iter()
            .filter(|(n, _)| !rows.contains_key(n))
            .map(|(n, status)| (id(n), status))
            .collect(),
        rows: rows
            .into_iter()
            .map(|(n, (status, age))| {
                let origin = if stored.contains(&n) { Origin::Stored } else { Origin::Here };
                let past = if status == Missing && never.contains(&n) { Past::NeverRan } else { Past::Ran };
                Row { origin, past, ..row(n, status, age) }
            })
            .collect(),
        machines: machines.into_iter().map(|(n, (state, age))| machine(n, STATES[state], age)).collect(),
        absent_before: absent.into_iter().map(id).collect(),
    })
}

fn subject(action: &Action) -> Id<Sandbox> {
    match action {
        Action::End { id, .. }
        | Action::Settle { id, .. }
        | Action::NoteUse { id, .. }
        | Action::GiveBack { id, .. }
        | Action::Forsake { id }
        | Action::Destroy { id } => *id,
    }
}

proptest! {
    #[test]
    fn every_sandbox_gets_at_most_one_action_and_only_if_it_was_seen(seen in any_observation()) {
        let verdict = judge(&seen, now(), &policy());
        let mut subjects: Vec<_> = verdict.actions.iter().map(subject).collect();
        let count = subjects.len();
        subjects.sort();
        subjects.dedup();
        prop_assert_eq!(subjects.len(), count);
        for id in subjects {
            let known = seen.rows.iter().any(|row| row.id == id) || seen.machines.iter().any(|m| m.id == id);
            prop_assert!(known);
        }
    }

    #[test]
    fn a_machine_whose_row_lives_and_wants_it_is_never_destroyed(seen in any_observation()) {
        let verdict = judge(&seen, now(), &policy());
        for action in &verdict.actions {
            let id = subject(action);
            let row = seen.rows.iter().find(|row| row.id == id);
            let is = |state| seen.machines.iter().any(|m| m.id == id && m.state == state);
            let (runs, rests) = (is(MachineState::Running), is(MachineState::Paused));
            match action {
                Action::Destroy { .. } => {
                    prop_assert!(row.is_none());
                    prop_assert!(seen.other_rows.get(&id).is_none_or(|status| status.is_end()));
                }
                Action::Forsake { .. } => {
                    prop_assert!(row.is_none());
                    prop_assert!(seen.elsewhere.contains(&id));
                }
                Action::GiveBack { .. } => prop_assert!(!seen.machines.iter().any(|m| m.id == id)),
                Action::End { .. } => {
                    let status = row.unwrap().status;
                    let wanted = !matches!(status, Pending | Starting | Stopping);
                    prop_assert!(!((runs || rests) && wanted), "{:?}", status);
                }
                Action::Settle { to: Rest::Running, .. } | Action::NoteUse { .. } => prop_assert!(runs),
                Action::Settle { to: Rest::Paused, .. } => prop_assert!(rests),
            }
        }
    }

    #[test]
    fn every_change_is_one_that_the_transition_table_allows(seen in any_observation()) {
        for action in judge(&seen, now(), &policy()).actions {
            let target = match action {
                Action::End { to: End::Stopped, .. } => Stopped,
                Action::End { to: End::Error, .. } => Error,
                Action::Settle { to: Rest::Running, .. } => Running,
                Action::Settle { to: Rest::Paused, .. } => Paused,
                Action::GiveBack { .. } => Paused,
                Action::NoteUse { .. } | Action::Destroy { .. } | Action::Forsake { .. } => continue,
            };
            let id = subject(&action);
            let status = seen.rows.iter().find(|row| row.id == id).unwrap().status;
            prop_assert!(status.targets().contains(&target), "{status} -> {target}");
        }
    }

    #[test]
    fn what_is_lost_without_confirmation_is_bounded(seen in any_observation()) {
        let verdict = judge(&seen, now(), &policy());
        let unconfirmed = verdict.actions.iter().filter(|action| match action {
            Action::End { id, machine: OnHost::Nothing, .. } => !seen.absent_before.contains(id),
            Action::Destroy { id } => !seen.other_rows.contains_key(id),
            _ => false,
        });
        prop_assert!(unconfirmed.count() <= 2 * policy().mass_limit);
    }

    #[test]
    fn repeating_the_verdict_converges(seen in any_observation()) {
        // Carry the verdict out as a perfect world would, and judge again: nothing is left to end or destroy at once, but
        // what was spared.
        let verdict = judge(&seen, now(), &policy());
        let mut after = seen.clone();
        after.absent_before = verdict.absent.clone();
        for action in &verdict.actions {
            let id = subject(action);
            match action {
                Action::End { to, .. } => {
                    after.rows.retain(|row| row.id != id);
                    after.machines.retain(|machine| machine.id != id);
                    after.other_rows.insert(id, match to { End::Stopped => Stopped, End::Error => Error });
                }
                Action::Destroy { .. } | Action::Forsake { .. } => after.machines.retain(|machine| machine.id != id),
                Action::GiveBack { .. } => after.rows.retain(|row| row.id != id),
                Action::Settle { to, .. } => {
                    let status = match to { Rest::Running => Running, Rest::Paused => Paused };
                    for row in after.rows.iter_mut().filter(|row| row.id == id) {
                        row.status = status;
                    }
                }
                Action::NoteUse { .. } => {}
            }
        }
        let again = judge(&after, now(), &policy());
        let fresh = again.actions.iter().filter(|action| !matches!(action, Action::NoteUse { .. })).count();
        prop_assert!(fresh <= verdict.spared, "{fresh} > {}", verdict.spared);
    }
}
