//! One round for one host.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use chrono::{DateTime, Utc};
use futures::StreamExt as _;
use sandbar_proto::host::{self as proto, SandboxState};
use sandbar_store::StoreError;
use sandbar_store::audit::Outcome;
use sandbar_store::locks::Lock;
use sandbar_store::sandbox_metrics::MetricPoint;
use sandbar_store::sandboxes::{SandboxRow, Transition};
use sandbar_types::id::{Host, Sandbox};
use sandbar_types::{Id, SandboxStatus};

use super::judge::{
    Action, End, Machine, MachineState, Observation, OnHost, Origin, Past, Policy, Row, judge,
};
use crate::host_client::{HostClient, HostError};
use crate::sandboxes::keep_last;
use crate::{Control, OpContext, audit, reported};

/// Machines of one host that are destroyed at the same time.
const AT_ONCE: usize = 4;

/// What a round came to.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ReconcileReport {
    /// Rows that ended.
    pub ended: usize,
    /// Rows that became what their machines are.
    pub settled: usize,
    /// Templates and volumes that were deleted as was owed.
    pub deleted: usize,
    /// Machines that no living row wanted.
    pub destroyed: usize,
    /// What was spared because it was too much at once; the next round looks again.
    pub spared: usize,
    /// What could not be done now; the next round tries again.
    pub failed: usize,
    /// The rows whose machines were absent, for the next round to compare.
    pub(super) absent: BTreeSet<Id<Sandbox>>,
    /// How long until a row is due that was left to whoever is at it.
    pub(super) due_in: Option<Duration>,
}

/// Why a round could not be done. Nothing was changed then, nor lost.
#[derive(Debug, thiserror::Error)]
pub enum ReconcileError {
    /// The host cannot tell what it has.
    #[error("host {id} did not list its sandboxes")]
    Host {
        /// Which.
        id: Id<Host>,
        /// Why.
        #[source]
        source: HostError,
    },
    /// The host has not registered, or was deleted.
    #[error("host {id} cannot be called: it has not registered")]
    NotRegistered {
        /// Which.
        id: Id<Host>,
    },
    /// Another replica is at it.
    #[error("host {id} is being looked at by another control plane")]
    Busy {
        /// Which.
        id: Id<Host>,
    },
    /// The database failed.
    #[error("the database failed")]
    Store(#[from] StoreError),
}

impl Control {
    /// Holds a host's rows against its inventory, now. `before` is the report of the round before, if there was one.
    pub async fn reconcile_host(
        &self,
        id: Id<Host>,
        before: Option<&ReconcileReport>,
    ) -> Result<ReconcileReport, ReconcileError> {
        let lock = self.store().try_lock(Lock::Reconcile(id)).await?;
        let Some(lock) = lock else { return Err(ReconcileError::Busy { id }) };
        let report = self.reconcile_locked(id, before).await;
        lock.release().await?;
        report
    }

    /// That a host answers. Where it does not, what is in between there is `missing`.
    pub(super) async fn host_answers(&self, id: Id<Host>) -> Result<(), ReconcileError> {
        let host = self.store().host_find(id).await?;
        let address = host.and_then(|host| host.address).ok_or(ReconcileError::NotRegistered { id })?;
        let client = self.host_clients().get(id, &address);
        if let Err(source) = client.health(self.config().call_deadline).await {
            self.lose_sight(&self.store().sandboxes_living_on(id).await?).await?;
            return Err(ReconcileError::Host { id, source });
        }
        Ok(())
    }

    async fn reconcile_locked(
        &self,
        id: Id<Host>,
        before: Option<&ReconcileReport>,
    ) -> Result<ReconcileReport, ReconcileError> {
        let host = self.store().host_find(id).await?;
        let address = host.and_then(|host| host.address).ok_or(ReconcileError::NotRegistered { id })?;
        let client = self.host_clients().get(id, &address);

        // Rows first. See the module above for why.
        let rows = self.store().sandboxes_living_on(id).await?;
        let inventory = match client.list_sandboxes(self.config().call_deadline).await {
            Ok(inventory) => inventory,
            Err(source) => {
                self.lose_sight(&rows).await?;
                return Err(ReconcileError::Host { id, source });
            }
        };
        if let Some(pool) = inventory.warm_pool.as_option() {
            tell_warm_pool(id, pool);
        }
        let reported: BTreeMap<Id<Sandbox>, proto::Sandbox> = inventory
            .sandboxes
            .into_iter()
            .filter_map(|sandbox| Some((sandbox.id.parse().ok()?, sandbox)))
            .collect();
        let known: BTreeSet<Id<Sandbox>> = rows.iter().map(|row| row.id).collect();
        let unknown: Vec<Id<Sandbox>> = reported.keys().filter(|id| !known.contains(id)).copied().collect();
        let other_rows = self.store().sandbox_statuses(&unknown).await?.into_iter().collect();
        let seen = Observation {
            rows: rows.iter().map(Row::from).collect(),
            machines: reported.values().filter_map(machine).collect(),
            other_rows,
            elsewhere: self.store().sandboxes_elsewhere(id, &unknown).await?.into_iter().collect(),
            absent_before: before.map(|report| report.absent.clone()).unwrap_or_default(),
        };
        let monitor = &self.config().monitor;
        let policy = Policy {
            operation_deadline: self.config().operation_deadline,
            orphan_grace: monitor.orphan_grace,
            mass_limit: monitor.mass_limit,
        };
        let verdict = judge(&seen, self.store().now().await?, &policy);
        if verdict.spared > 0 {
            tracing::warn!(host = %id, spared = verdict.spared,
                "a host's inventory and its rows differ by more than one round may put right");
        }
        let mut report = self.carry_out(&client, verdict.actions, &reported).await;
        report.spared = verdict.spared;
        report.absent = verdict.absent;
        report.due_in = verdict.due_in;
        let templates = self.reconcile_templates(&client).await?;
        let volumes = self.reconcile_volumes(&client).await?;
        self.provision(id).await?;
        report.deleted = templates.deleted + volumes.deleted;
        report.failed += templates.failed + volumes.failed;
        if report.failed == 0 && report.spared == 0 {
            let generation = i64::try_from(inventory.inventory_generation).unwrap_or(i64::MAX);
            self.store().host_reconciled(id, generation).await?;
        }
        Ok(report)
    }

    async fn carry_out(
        &self,
        client: &HostClient,
        actions: Vec<Action>,
        reported: &BTreeMap<Id<Sandbox>, proto::Sandbox>,
    ) -> ReconcileReport {
        let mut activity = Vec::new();
        let mut work = Vec::new();
        for action in actions {
            match action {
                Action::NoteUse { id, generation } => {
                    let noted = |sandbox| reported::activity(id, Some(generation), sandbox);
                    activity.extend(reported.get(&id).map(noted));
                }
                other => work.push(other),
            }
        }
        let mut report = ReconcileReport::default();
        if !activity.is_empty()
            && let Err(error) = self.store().sandbox_activity(&activity).await
        {
            tracing::error!(
                error = &error as &dyn std::error::Error,
                "cannot write down when sandboxes were used"
            );
            report.failed += 1;
        }
        let mut done = futures::stream::iter(work)
            .map(|action| self.act(client, action, reported))
            .buffer_unordered(AT_ONCE);
        while let Some(outcome) = done.next().await {
            match outcome {
                Ok(Done::Ended) => report.ended += 1,
                Ok(Done::Settled) => report.settled += 1,
                Ok(Done::Destroyed) => report.destroyed += 1,
                Ok(Done::Overtaken) => {}
                Err(error) => {
                    report.failed += 1;
                    tracing::warn!(host = %client.id(), error = &error as &dyn std::error::Error,
                        "cannot put a sandbox right; the next round will try");
                }
            }
        }
        report
    }

    async fn act(
        &self,
        client: &HostClient,
        action: Action,
        reported: &BTreeMap<Id<Sandbox>, proto::Sandbox>,
    ) -> Result<Done, ActError> {
        let limit = self.config().destroy_deadline;
        match action {
            Action::NoteUse { .. } => Ok(Done::Overtaken),
            Action::Destroy { id } => {
                tracing::info!(%id, host = %client.id(), "destroying a virtual machine that no living sandbox owns");
                client.destroy_sandbox(id, limit).await?;
                Ok(Done::Destroyed)
            }
            Action::Forsake { id } => {
                // Held while the host destroys: it cannot come back meanwhile and be destroyed then.
                let mut tx = self.store().begin().await?;
                if !tx.sandbox_is_elsewhere(id, client.id()).await? {
                    return Ok(Done::Overtaken);
                }
                tracing::info!(%id, host = %client.id(), "destroying what is left of a sandbox that went elsewhere");
                client.destroy_sandbox(id, limit).await?;
                tx.commit().await?;
                Ok(Done::Destroyed)
            }
            Action::GiveBack { id, generation } => {
                client.destroy_sandbox(id, limit).await?;
                Ok(self.give_back(id, generation).await?.map_or(Done::Overtaken, |_| Done::Settled))
            }
            Action::End { id, generation, to, reason, machine } => {
                let mut last = None;
                if machine == OnHost::Perhaps {
                    if reported.contains_key(&id) {
                        last = self.last_metrics(client, id).await;
                    }
                    client.destroy_sandbox(id, limit).await?;
                }
                Ok(self.end_row(id, generation, to, &reason, last.as_deref()).await?)
            }
            Action::Settle { id, generation, was, to } => match reported.get(&id) {
                Some(sandbox) => self.settle_row(client, (id, generation, was), to, sandbox).await,
                None => Ok(Done::Overtaken),
            },
        }
    }

    /// Ends a row, unless it changed since it was read.
    pub(super) async fn end_row(
        &self,
        id: Id<Sandbox>,
        generation: i64,
        to: End,
        reason: &str,
        last: Option<&[MetricPoint]>,
    ) -> Result<Done, StoreError> {
        let (status, outcome) = match to {
            End::Stopped => (SandboxStatus::Stopped, Outcome::Info),
            End::Error => (SandboxStatus::Error, Outcome::Error),
        };
        let mut transition = Transition::new(id, status).at_generation(generation);
        if !reason.is_empty() {
            transition = transition.because(reason);
        }
        let ctx = OpContext::system();
        let mut tx = self.store().begin().await?;
        let Some(row) = tx.sandbox_transition(&transition).await? else { return Ok(Done::Overtaken) };
        keep_last(&mut tx, id, last).await?;
        if !reason.is_empty() {
            // Without a reason it was asked for, and the trail was told then.
            tx.audit(&audit::sandbox(&ctx, &row, "destroy", outcome)).await?;
        }
        tx.commit().await?;
        Ok(Done::Ended)
    }
}

/// What one action came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Done {
    Ended,
    Settled,
    Destroyed,
    /// The row changed meanwhile: somebody else is at it.
    Overtaken,
}

#[derive(Debug, thiserror::Error)]
pub(super) enum ActError {
    #[error("the host failed")]
    Host(#[from] HostError),
    #[error("the database failed")]
    Store(#[from] StoreError),
}

impl From<&SandboxRow> for Row {
    fn from(row: &SandboxRow) -> Self {
        // A pause is kept no longer than until the sandbox goes on, but where it goes on from just that.
        let origin = if row.durable { Origin::Stored } else { Origin::Here };
        Self {
            id: row.id,
            status: row.status,
            generation: row.generation,
            since: row.transition_started_at,
            origin,
            past: if row.started_at.is_some() { Past::Ran } else { Past::NeverRan },
        }
    }
}

/// What the host says of a machine. None of a state that this version does not know: it is left alone.
pub(super) fn machine(sandbox: &proto::Sandbox) -> Option<Machine> {
    let state = match sandbox.state.as_known()? {
        SandboxState::SANDBOX_STATE_UNSPECIFIED => return None,
        SandboxState::SANDBOX_STATE_STARTING => MachineState::Starting,
        SandboxState::SANDBOX_STATE_RUNNING => MachineState::Running,
        SandboxState::SANDBOX_STATE_STOPPING => MachineState::Stopping,
        SandboxState::SANDBOX_STATE_STOPPED => MachineState::Stopped,
        SandboxState::SANDBOX_STATE_PAUSED => MachineState::Paused,
        SandboxState::SANDBOX_STATE_PAUSING | SandboxState::SANDBOX_STATE_RESUMING => MachineState::Between,
    };
    Some(Machine {
        id: sandbox.id.parse().ok()?,
        state,
        created_at: reported::time(sandbox.created_at_unix_ms).unwrap_or(DateTime::<Utc>::MAX_UTC),
        stop_reason: sandbox.stop_reason.clone(),
    })
}

/// For the metrics endpoint: what a host keeps ready, and what came of it. The host counts from its agent's start.
#[expect(clippy::cast_precision_loss, reason = "a gauge, of counts far below where it matters")]
fn tell_warm_pool(id: Id<Host>, pool: &proto::WarmPool) {
    let proto::WarmPool { spares, hits, misses, .. } = pool;
    metrics::gauge!("sandbar_warm_pool_spares", "host" => id.to_string()).set(*spares);
    metrics::gauge!("sandbar_warm_pool_hits", "host" => id.to_string()).set(*hits as f64);
    metrics::gauge!("sandbar_warm_pool_misses", "host" => id.to_string()).set(*misses as f64);
}
