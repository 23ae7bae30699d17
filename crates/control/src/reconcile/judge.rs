//! The verdict on one host: what is to be done so that rows and machines agree. Pure: no clock, no database, no host.
//!
//! ```text
//!   row \ host    absent          starting   running     stopping   stopped
//!   pending,      -- until the operation's deadline, since somebody is at it; then: destroy, error --
//!   starting
//!   running       stopped (1)     --         note use    --         destroy, stopped
//!   missing       stopped (1)     --         running     --         destroy, stopped
//!   stopping      -- until the operation's deadline; then: destroy, stopped --
//!   paused and around it          not reported by hosts yet: left alone
//!   ended         --              -- destroy, at once --
//!   no row        --              -- destroy, past the grace (2) --
//! ```
//!
//! 1. At most `mass_limit` of one host's sandboxes are given up in one round. When more are absent, only those go that were absent
//!    in the listing before as well: a host whose journal came up late, or empty by mistake, costs nothing at once.
//! 2. At most `mass_limit` in one round: a database restored from a backup must not destroy a fleet in a minute.

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
    /// The row is `running` again.
    Restore { id: Id<Sandbox>, generation: i64 },
    /// The machine is in use: keep its row's times right.
    NoteUse { id: Id<Sandbox> },
    /// Destroy a machine that no living row wants.
    Destroy { id: Id<Sandbox> },
}

/// How a row ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum End {
    Stopped,
    Error,
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
}

/// See the module.
pub(super) fn judge(seen: &Observation, now: DateTime<Utc>, policy: &Policy) -> Verdict {
    let machines: BTreeMap<Id<Sandbox>, &Machine> =
        seen.machines.iter().map(|machine| (machine.id, machine)).collect();
    let mut verdict = Verdict::default();
    let mut given_up = Vec::new();
    for row in &seen.rows {
        let machine = machines.get(&row.id).copied();
        match judge_row(row, machine, now, policy) {
            RowVerdict::LeaveAlone => {}
            RowVerdict::Do(action) => verdict.actions.push(action),
            RowVerdict::GiveUp(action) => {
                verdict.absent.insert(row.id);
                given_up.push((row.id, action));
            }
        }
    }
    let too_many = given_up.len() > policy.mass_limit;
    for (id, action) in given_up {
        if too_many && !seen.absent_before.contains(&id) {
            verdict.spared += 1;
        } else {
            verdict.actions.push(action);
        }
    }
    judge_orphans(seen, now, policy, &mut verdict);
    verdict
}

enum RowVerdict {
    LeaveAlone,
    Do(Action),
    /// The machine is gone without a word.
    GiveUp(Action),
}

fn judge_row(row: &Row, machine: Option<&Machine>, now: DateTime<Utc>, policy: &Policy) -> RowVerdict {
    use RowVerdict::{Do, GiveUp, LeaveAlone};
    let Row { id, status, generation, since } = row;
    let (id, generation) = (*id, *generation);
    let overdue = older(*since, now, policy.operation_deadline);
    let end =
        |to, reason: &str, machine| Action::End { id, generation, to, reason: reason.to_owned(), machine };
    match (status, machine.map(|machine| machine.state)) {
        (Pending | Starting, _) if overdue => Do(end(End::Error, "it was not made in time", OnHost::Perhaps)),
        (Stopping, _) if overdue => Do(end(End::Stopped, "", OnHost::Perhaps)),
        (Pending | Starting | Stopping, _) => LeaveAlone,

        (Running | Missing, None) => {
            GiveUp(end(End::Stopped, "its virtual machine is gone from its host", OnHost::Nothing))
        }
        (Running | Missing, Some(MachineState::Stopped)) => {
            let reason = machine.map_or("", |machine| machine.stop_reason.as_str());
            let reason = if reason.is_empty() { "its virtual machine ended by itself" } else { reason };
            Do(end(End::Stopped, reason, OnHost::Perhaps))
        }
        (Running, Some(MachineState::Running)) => Do(Action::NoteUse { id }),
        (Missing, Some(MachineState::Running)) => Do(Action::Restore { id, generation }),
        (Running | Missing, Some(MachineState::Starting | MachineState::Stopping)) => LeaveAlone,

        (Paused | Pausing | Resuming | Snapshotting, _) => LeaveAlone,
        // Not among the living rows that are read.
        (Stopped | Error, _) => LeaveAlone,
    }
}

/// Machines whose row is ended, or that no row knows.
fn judge_orphans(seen: &Observation, now: DateTime<Utc>, policy: &Policy, verdict: &mut Verdict) {
    let living: BTreeSet<Id<Sandbox>> = seen.rows.iter().map(|row| row.id).collect();
    let mut unknown = 0;
    for machine in seen.machines.iter().filter(|machine| !living.contains(&machine.id)) {
        match seen.other_rows.get(&machine.id) {
            Some(Stopped | Error) => verdict.actions.push(Action::Destroy { id: machine.id }),
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
    (now - since).to_std().is_ok_and(|passed| passed >= age)
}

#[cfg(test)]
#[path = "judge_tests.rs"]
mod tests;
