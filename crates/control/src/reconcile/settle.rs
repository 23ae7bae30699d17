//! A row becomes what its machine is. The trail is told in the same transaction, in the name of whoever began the change, or of the host
//! where it was the host's own doing; so exactly once, whichever control plane comes first.

use sandbar_proto::host as proto;
use sandbar_store::StoreError;
use sandbar_store::audit::{Event, Outcome};
use sandbar_store::sandboxes::{SandboxRow, Transition};
use sandbar_types::id::{Host, Sandbox};
use sandbar_types::{Id, SandboxStatus};
use serde_json::Value;
use uuid::Uuid;

use super::host::{ActError, Done, machine};
use super::judge::{Action, Rest, Row, released};
use crate::host_client::{HostClient, HostError};
use crate::operation::{self, Operation};
use crate::{Actor, Control, OpContext, audit, reported};

/// Why a host paused a sandbox, in its word.
const REQUESTED: &str = "requested";

impl Control {
    /// Lets the row of a change that nobody is at any more follow its host's inventory, now if the host answers. What the host does not
    /// settle, the next round does.
    pub(crate) async fn follow_host(&self, row: &SandboxRow) {
        let Some(host) = row.host_id else { return };
        match self.try_follow(row).await {
            Ok(Done::Settled | Done::Ended | Done::Destroyed) => {}
            Ok(Done::Overtaken) => self.wants_reconcile(host),
            Err(error) => {
                tracing::info!(id = %row.id, %host, error = &error as &dyn std::error::Error,
                    "what became of a sandbox is not known yet");
                // No request is on its way to a host that nobody can reach: the row need not wait for one, and is what the host says
                // as soon as it is back.
                if matches!(error, ActError::Host(HostError::Unreachable(_)))
                    && let Err(error) = self.lose_sight_of(row).await
                {
                    tracing::warn!(id = %row.id, error = &error as &dyn std::error::Error,
                        "cannot write down that a sandbox is missing");
                }
                self.wants_reconcile(host);
            }
        }
    }

    async fn try_follow(&self, row: &SandboxRow) -> Result<Done, ActError> {
        let Some(address) = &row.host_address else { return Ok(Done::Overtaken) };
        let Some(host) = row.host_id else { return Ok(Done::Overtaken) };
        let client = self.host_clients().get(host, address);
        let id = row.id.to_string();
        let inventory = client.list_sandboxes(self.config().call_deadline).await?;
        let Some(sandbox) = inventory.sandboxes.into_iter().find(|sandbox| sandbox.id == id) else {
            return Ok(Done::Overtaken);
        };
        let action = machine(&sandbox).and_then(|machine| released(&Row::from(row), &machine));
        match action {
            Some(Action::Settle { id, generation, was, to }) => {
                self.settle_row(&client, (id, generation, was), to, &sandbox).await
            }
            _ => Ok(Done::Overtaken),
        }
    }

    /// See the module. Only if the row was not changed since it was read.
    pub(super) async fn settle_row(
        &self,
        client: &HostClient,
        (id, generation, was): (Id<Sandbox>, i64, SandboxStatus),
        to: Rest,
        seen: &proto::Sandbox,
    ) -> Result<Done, ActError> {
        let row = match to {
            Rest::Running => {
                let transition =
                    Transition::new(id, SandboxStatus::Running).only_from(&[was]).at_generation(generation);
                let mut tx = self.store().begin().await?;
                let begun = tx.sandbox_operation(id, generation).await?;
                let Some(row) = tx.sandbox_run(&transition, &reported::running_on(seen)).await? else {
                    return Ok(Done::Overtaken);
                };
                self.tell(tx, row, (was, begun), to, seen).await?
            }
            Rest::Paused => {
                // A resume may still be on its way to the host. From here on it does nothing: what is paused may go on elsewhere.
                if matches!(was, SandboxStatus::Resuming | SandboxStatus::Missing) {
                    let limit = self.config().call_deadline;
                    let now = client.refuse_resumes(id, generation, limit).await?;
                    if now.state != proto::SandboxState::SANDBOX_STATE_PAUSED {
                        return Ok(Done::Overtaken);
                    }
                }
                let metrics = self.all_metrics(client, id).await;
                let mut transition = Transition::new(id, SandboxStatus::Paused)
                    .only_from(&[was])
                    .at_generation(generation)
                    .keeping(reported::pause_mode(seen));
                if let Some(why) = why_paused(&seen.pause_reason) {
                    transition = transition.because(why);
                }
                let mut tx = self.store().begin().await?;
                let begun = tx.sandbox_operation(id, generation).await?;
                let Some(row) = tx.sandbox_transition(&transition).await? else {
                    return Ok(Done::Overtaken);
                };
                for (range, points) in &metrics {
                    tx.metrics_replace(id, *range, points).await?;
                }
                let row = self.tell(tx, row, (was, begun), to, seen).await?;
                self.copies_wanted().notify_one();
                row
            }
        };
        tracing::info!(%id, %was, is = %row.status, "a sandbox is what its host says");
        Ok(Done::Settled)
    }

    async fn tell(
        &self,
        mut tx: sandbar_store::Tx,
        row: SandboxRow,
        (was, begun): (SandboxStatus, Option<Value>),
        to: Rest,
        seen: &proto::Sandbox,
    ) -> Result<SandboxRow, StoreError> {
        let operation = Operation::read(begun.as_ref());
        let host = host_context(row.host_id);
        match told(was, to, operation.as_ref().map(|operation| operation.action), &seen.pause_reason) {
            Told::Nothing => {}
            Told::Begun(outcome) => {
                if let Some(operation) = &operation {
                    tx.audit(&operation.sandbox_event(&row, outcome)).await?;
                }
            }
            Told::Host(action) => {
                let event: Event<'_> = audit::sandbox(&host, &row, action, Outcome::Info);
                tx.audit(&event).await?;
            }
        }
        tx.commit().await?;
        Ok(row)
    }

    /// A host that does not tell what it has: rows in the middle of a change that nobody is at any more are `missing`, which they would
    /// become in any case when the host stays silent.
    pub(super) async fn lose_sight(&self, rows: &[SandboxRow]) -> Result<(), StoreError> {
        use SandboxStatus::{Pausing, Resuming, Snapshotting};
        let now = self.store().now().await?;
        let patience = chrono::Duration::from_std(self.config().operation_deadline).unwrap_or_default();
        for row in rows {
            let between = matches!(row.status, Pausing | Resuming | Snapshotting);
            if between && now - row.transition_started_at >= patience {
                self.lose_sight_of(row).await?;
            }
        }
        Ok(())
    }

    /// Only if the row was not changed since it was read.
    async fn lose_sight_of(&self, row: &SandboxRow) -> Result<(), StoreError> {
        let transition = Transition::new(row.id, SandboxStatus::Missing)
            .at_generation(row.generation)
            .because("its host cannot be reached");
        let mut tx = self.store().begin().await?;
        tx.sandbox_transition(&transition).await?;
        tx.commit().await
    }
}

/// Who is told of a row that became what its machine is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Told {
    /// Nobody: it was known, or it is told with something else.
    Nothing,
    /// Of the change that somebody began.
    Begun(Outcome),
    /// Of what the host did by itself, by this word.
    Host(&'static str),
}

fn told(was: SandboxStatus, to: Rest, begun: Option<operation::Action>, pause_reason: &str) -> Told {
    use operation::Action;
    let outcome = |done| if done { Outcome::Success } else { Outcome::Error };
    // A sandbox that went missing in the middle of a change comes back to what the change came to.
    let change = match was {
        SandboxStatus::Pausing => Some(Action::Pause),
        SandboxStatus::Resuming => Some(Action::Resume),
        SandboxStatus::Snapshotting => Some(begun.unwrap_or(Action::Snapshot)),
        SandboxStatus::Missing => begun,
        _ => None,
    };
    match change {
        Some(Action::Pause) => return Told::Begun(outcome(to == Rest::Paused)),
        Some(Action::Resume) => return Told::Begun(outcome(to == Rest::Running)),
        Some(Action::Fork) => return Told::Begun(Outcome::Error),
        // A snapshot that was given up is told of where it is given up.
        Some(Action::Snapshot) => return Told::Nothing,
        Some(Action::Create | Action::Delete | Action::Build | Action::Tag | Action::Untag) | None => {}
    }
    match (was, to) {
        (SandboxStatus::Running | SandboxStatus::Missing, Rest::Paused) => {
            Told::Host(if pause_reason == REQUESTED { "pause" } else { "auto_pause" })
        }
        (SandboxStatus::Paused, Rest::Running) => Told::Host("resume"),
        _ => Told::Nothing,
    }
}

/// Why a sandbox is paused, for people; none where it was asked for.
fn why_paused(word: &str) -> Option<&str> {
    match word {
        REQUESTED | "" => None,
        "idle" => Some("it was idle for its time-out"),
        "host_refused" => Some("its host was no longer let in"),
        other => Some(other),
    }
}

fn host_context(host: Option<Id<Host>>) -> OpContext {
    let actor = host.map_or(Actor::System, |id| Actor::Host { id });
    OpContext::new(Uuid::now_v7(), actor)
}

#[cfg(test)]
mod tests {
    use super::*;
    use operation::Action;

    #[test]
    fn who_began_it_is_told_how_it_ended_and_the_host_answers_for_its_own() {
        use SandboxStatus::{Missing, Paused, Pausing, Resuming, Running, Snapshotting};
        let of = |was, to, begun| told(was, to, begun, "idle");
        assert_eq!(of(Pausing, Rest::Paused, Some(Action::Pause)), Told::Begun(Outcome::Success));
        assert_eq!(of(Pausing, Rest::Running, Some(Action::Pause)), Told::Begun(Outcome::Error));
        assert_eq!(of(Resuming, Rest::Running, Some(Action::Resume)), Told::Begun(Outcome::Success));
        assert_eq!(of(Resuming, Rest::Paused, Some(Action::Resume)), Told::Begun(Outcome::Error));
        assert_eq!(of(Snapshotting, Rest::Running, Some(Action::Fork)), Told::Begun(Outcome::Error));
        assert_eq!(of(Snapshotting, Rest::Paused, Some(Action::Snapshot)), Told::Nothing);
        for was in [Running, Missing] {
            assert_eq!(of(was, Rest::Paused, None), Told::Host("auto_pause"));
            assert_eq!(told(was, Rest::Paused, None, REQUESTED), Told::Host("pause"));
        }
        assert_eq!(of(Paused, Rest::Running, None), Told::Host("resume"));
        assert_eq!(of(Missing, Rest::Running, None), Told::Nothing);
        // Lost sight of in the middle.
        assert_eq!(of(Missing, Rest::Paused, Some(Action::Pause)), Told::Begun(Outcome::Success));
        assert_eq!(of(Missing, Rest::Running, Some(Action::Pause)), Told::Begun(Outcome::Error));
        assert_eq!(of(Missing, Rest::Running, Some(Action::Resume)), Told::Begun(Outcome::Success));
        assert_eq!(of(Missing, Rest::Running, Some(Action::Fork)), Told::Begun(Outcome::Error));
        assert_eq!(of(Missing, Rest::Running, Some(Action::Snapshot)), Told::Nothing);
    }
}
