//! The verdict on one host: what is to be done so that rows and machines agree. Pure: no clock, no database, no host.
//!
//! ```text
//!   row \ host      absent          starting   running        pausing,    paused        stopping   stopped
//!                                                             resuming
//!   pending,        -- until the operation's deadline, since somebody is at it; then: destroy, error --
//!   starting
//!   running         stopped (1)     --         note use       --          paused (4)    --         destroy, stopped
//!   missing         stopped (1, 7)  --         running        --          paused (4)    --         destroy, stopped
//!   paused          stopped (1, 3)  --         running (4)    --          --            --         destroy, stopped
//!   pausing         stopped (1, 5)  --         running (5)    --          paused        --         destroy, stopped (5)
//!   resuming        stopped (1, 5)  --         running        --          paused (5)    --         destroy, stopped (5)
//!   snapshotting    stopped (1, 5)  --         running (5)    --          paused (5)    --         destroy, stopped (5)
//!   stopping        -- until the operation's deadline; then: destroy, stopped --
//!   ended           --              -- destroy, at once --
//!   elsewhere       --              -- destroy (6) --
//!   no row          --              -- destroy, past the grace (2) --
//! ```
//!
//! 1. At most `mass_limit` of one host's sandboxes are given up in one round. When more are absent, only those go that were absent
//!    in the listing before as well: a host whose journal came up late, or empty by mistake, costs nothing at once.
//! 2. At most `mass_limit` in one round: a database restored from a backup must not destroy a fleet in a minute.
//! 3. Only when it was absent in the listing before as well: nobody waits for a paused sandbox, and there is no second one.
//! 4. The host did so by itself (a sandbox that was idle), or later than it was waited for.
//! 5. Past the operation's deadline, or when nobody is at it any more ([`released`]): before, the request may be on its way.
//! 6. The row is on another host, or paused on none: it was restored from object storage, or can be, and what is here is old. A few at a
//!    time, as in 2. A row that is being restored and is absent becomes paused again, on no host, in place of `stopped`.
//! 7. One that never ran was not lost but not made: destroy, error, at once.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use chrono::{DateTime, Utc};
use sandbar_types::id::Sandbox;
use sandbar_types::{Id, SandboxStatus};

use SandboxStatus::{
    Error, Missing, Paused, Pausing, Pending, Resuming, Running, Snapshotting, Starting, Stopped, Stopping,
};

/// A living row of the host, as it was before the host was asked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Row {
    pub(super) id: Id<Sandbox>,
    pub(super) status: SandboxStatus,
    pub(super) generation: i64,
    pub(super) since: DateTime<Utc>,
    pub(super) origin: Origin,
    pub(super) past: Past,
}

/// Whether there was ever anything to lose.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Past {
    /// It ran, here or elsewhere.
    Ran,
    /// Nobody was told that it runs.
    NeverRan,
}

/// Where all that there is of a sandbox is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Origin {
    /// On the host.
    Here,
    /// In object storage, until the host runs it: it is being restored of that.
    Stored,
}

/// What the host says of a machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Machine {
    pub(super) id: Id<Sandbox>,
    pub(super) state: MachineState,
    pub(super) created_at: DateTime<Utc>,
    /// Why it stopped, in the host's words.
    pub(super) stop_reason: String,
}

/// A machine's state.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum MachineState {
    Starting,
    Running,
    /// Pausing or resuming: it will be one of the two.
    Between,
    Paused,
    Stopping,
    /// It ended by itself.
    Stopped,
}

/// All that is known of the host.
#[derive(Debug, Clone, Default)]
pub(super) struct Observation {
    /// Its living rows, read first.
    pub(super) rows: Vec<Row>,
    /// Its machines.
    pub(super) machines: Vec<Machine>,
    /// The state of rows of machines that `rows` does not know, read last.
    pub(super) other_rows: BTreeMap<Id<Sandbox>, SandboxStatus>,
    /// Those of machines that `rows` does not know whose rows live elsewhere: on another host, or on none.
    pub(super) elsewhere: BTreeSet<Id<Sandbox>>,
    /// The rows whose machines were absent in the listing before.
    pub(super) absent_before: BTreeSet<Id<Sandbox>>,
}

/// The limits of patience.
#[derive(Debug, Clone)]
pub(super) struct Policy {
    pub(super) operation_deadline: Duration,
    pub(super) orphan_grace: Duration,
    pub(super) mass_limit: usize,
}

/// One thing to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Action {
    /// Destroy the machine, if there is one, and then end the row.
    End { id: Id<Sandbox>, generation: i64, to: End, reason: String, machine: OnHost },
    /// The row, which was this, becomes what the machine is.
    Settle { id: Id<Sandbox>, generation: i64, was: SandboxStatus, to: Rest },
    /// The machine is in use: keep its row's times right.
    NoteUse { id: Id<Sandbox>, generation: i64 },
    /// Destroy a machine that no living row wants.
    Destroy { id: Id<Sandbox> },
    /// Destroy what is left of a sandbox that went elsewhere, unless it is here again.
    Forsake { id: Id<Sandbox> },
    /// Destroy what there may be of a sandbox that was not restored here: it is paused, and nowhere.
    GiveBack { id: Id<Sandbox>, generation: i64 },
}

/// How a row ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum End {
    Stopped,
    Error,
}

/// A state in which a sandbox stays.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Rest {
    Running,
    Paused,
}

/// Whether the host may have something of the sandbox.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum OnHost {
    /// It said that it has not, or a machine that is made at this moment may not be in its list yet: ask it to destroy.
    Perhaps,
    /// It has not.
    Nothing,
}

/// What is to be done, and what the next round must know.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Verdict {
    pub(super) actions: Vec<Action>,
    /// Rows whose machines are absent; some may have been spared this time.
    pub(super) absent: BTreeSet<Id<Sandbox>>,
    /// How many rows and machines were spared because they were too many at once.
    pub(super) spared: usize,
    /// How long until the first of the rows is due that were left to whoever is at them.
    pub(super) due_in: Option<Duration>,
}

/// See the module.
pub(super) fn judge(seen: &Observation, now: DateTime<Utc>, policy: &Policy) -> Verdict {
    let machines: BTreeMap<Id<Sandbox>, &Machine> =
        seen.machines.iter().map(|machine| (machine.id, machine)).collect();
    let mut verdict = Verdict::default();
    let mut given_up = Vec::new();
    for row in &seen.rows {
        let machine = machines.get(&row.id).copied();
        let left = remaining(row.since, now, policy.operation_deadline);
        match judge_row(row, machine, left.is_none()) {
            RowVerdict::LeaveAlone => {
                if let Some(left) = left.filter(|_| row.status.is_transitional()) {
                    verdict.due_in = Some(verdict.due_in.map_or(left, |due| due.min(left)));
                }
            }
            RowVerdict::Do(action) => verdict.actions.push(action),
            RowVerdict::GiveUp(action) => {
                verdict.absent.insert(row.id);
                given_up.push((row, action));
            }
        }
    }
    let too_many = given_up.len() > policy.mass_limit;
    for (row, action) in given_up {
        let wants_confirmation = too_many || row.status == Paused;
        if wants_confirmation && !seen.absent_before.contains(&row.id) {
            verdict.spared += 1;
        } else {
            verdict.actions.push(action);
        }
    }
    judge_orphans(seen, now, policy, &mut verdict);
    verdict
}

/// The verdict on a row in the middle of a pause, a resume or a snapshot that nobody is at any more. Only what the host's own word settles:
/// what it does not have is left to the whole round.
pub(super) fn released(row: &Row, machine: &Machine) -> Option<Action> {
    match judge_row(row, Some(machine), true) {
        RowVerdict::Do(action) if matches!(row.status, Pausing | Resuming | Snapshotting) => Some(action),
        _ => None,
    }
}

enum RowVerdict {
    LeaveAlone,
    Do(Action),
    /// The machine is gone without a word.
    GiveUp(Action),
}

fn judge_row(row: &Row, machine: Option<&Machine>, overdue: bool) -> RowVerdict {
    use MachineState as Is;
    use RowVerdict::{Do, GiveUp, LeaveAlone};
    let Row { id, status: was, generation, since: _, origin: _, past: _ } = row;
    let (id, was, generation) = (*id, *was, *generation);
    let end =
        |to, reason: &str, machine| Action::End { id, generation, to, reason: reason.to_owned(), machine };
    let settle = |to| Do(Action::Settle { id, generation, was, to });
    match (was, machine.map(|machine| machine.state)) {
        // Not among the living rows that are read.
        (Stopped | Error, _) => LeaveAlone,

        (Pending | Starting, _) if overdue => Do(end(End::Error, "it was not made in time", OnHost::Perhaps)),
        (Stopping, _) if overdue => Do(end(End::Stopped, "", OnHost::Perhaps)),
        (Pending | Starting | Stopping, _) => LeaveAlone,

        // Where it was to go: whoever is at it finds it done.
        (Pausing, Some(Is::Paused)) => settle(Rest::Paused),
        (Resuming, Some(Is::Running)) => settle(Rest::Running),
        (Pausing | Resuming | Snapshotting, _) if !overdue => LeaveAlone,

        (Running, Some(Is::Running)) => Do(Action::NoteUse { id, generation }),
        (Paused, Some(Is::Paused)) => LeaveAlone,
        (_, Some(Is::Running)) => settle(Rest::Running),
        (_, Some(Is::Paused)) => settle(Rest::Paused),
        (_, Some(Is::Starting | Is::Between | Is::Stopping)) => LeaveAlone,

        (Resuming | Missing, None) if row.origin == Origin::Stored => Do(Action::GiveBack { id, generation }),
        // Its host was lost sight of before it made it, or could tell.
        (Missing, None) if row.past == Past::NeverRan => {
            Do(end(End::Error, "it was not made", OnHost::Perhaps))
        }
        (_, None) => GiveUp(end(End::Stopped, "its host does not have it any more", OnHost::Nothing)),
        (_, Some(Is::Stopped)) => {
            let reason = machine.map_or("", |machine| machine.stop_reason.as_str());
            let reason = if reason.is_empty() { "its virtual machine ended by itself" } else { reason };
            Do(end(End::Stopped, reason, OnHost::Perhaps))
        }
    }
}

/// Machines whose row is ended, or that no row knows.
fn judge_orphans(seen: &Observation, now: DateTime<Utc>, policy: &Policy, verdict: &mut Verdict) {
    let living: BTreeSet<Id<Sandbox>> = seen.rows.iter().map(|row| row.id).collect();
    let (mut unknown, mut forsaken) = (0, 0);
    for machine in seen.machines.iter().filter(|machine| !living.contains(&machine.id)) {
        match seen.other_rows.get(&machine.id) {
            Some(Stopped | Error) => verdict.actions.push(Action::Destroy { id: machine.id }),
            Some(_) if seen.elsewhere.contains(&machine.id) => {
                forsaken += 1;
                if forsaken <= policy.mass_limit {
                    verdict.actions.push(Action::Forsake { id: machine.id });
                } else {
                    verdict.spared += 1;
                }
            }
            // It was created, or restored, after the rows were read.
            Some(_) => {}
            None if older(machine.created_at, now, policy.orphan_grace) => {
                unknown += 1;
                if unknown <= policy.mass_limit {
                    verdict.actions.push(Action::Destroy { id: machine.id });
                } else {
                    verdict.spared += 1;
                }
            }
            None => {}
        }
    }
}

fn older(since: DateTime<Utc>, now: DateTime<Utc>, age: Duration) -> bool {
    remaining(since, now, age).is_none()
}

/// How long until something is of this age; none when it is.
fn remaining(since: DateTime<Utc>, now: DateTime<Utc>, age: Duration) -> Option<Duration> {
    let passed = (now - since).to_std().unwrap_or_default();
    age.checked_sub(passed).filter(|left| !left.is_zero())
}

#[cfg(test)]
#[path = "judge_tests.rs"]
mod tests;
