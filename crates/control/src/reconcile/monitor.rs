//! When rounds run: at once for a host whose inventory changed, for all hosts every interval. Also looks for hosts that fell silent
//! and for rows that no host has.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;

use sandbar_store::StoreError;
use sandbar_store::audit::Outcome;
use sandbar_store::locks::Lock;
use sandbar_trace::Span;
use sandbar_types::id::Host;
use sandbar_types::{Id, SandboxStatus};
use tokio::sync::Semaphore;
use tokio::task::{self, JoinError, JoinSet};
use tokio::time::{Instant, MissedTickBehavior};
use tokio_util::sync::CancellationToken;

use super::judge::End;
use super::{ReconcileError, ReconcileReport};
use crate::{Control, OpContext, audit};

/// Rounds at the same time. Each holds a connection of the pool while its host answers, and needs another to write.
const AT_ONCE: usize = 8;
/// How long an idempotency key is kept.
const KEY_LIFE: Duration = Duration::from_secs(24 * 3600);

impl Control {
    /// Runs the background work until `stop`, then lets the rounds that are under way end.
    pub async fn run_background(&self, stop: CancellationToken) {
        let monitor = &self.config().monitor;
        let mut timer = tokio::time::interval(monitor.interval);
        timer.set_missed_tick_behavior(MissedTickBehavior::Delay);
        // Hosts had nobody to report to while no control plane ran: their silence counts from now.
        let mut patient_until = Instant::now() + monitor.unreachable_after;
        let mut rounds = Rounds::new();
        let house = tokio::spawn(self.clone().keep_house(stop.clone()));
        let builds = tokio::spawn(self.clone().run_builds(stop.clone()));
        let copies = tokio::spawn(self.clone().run_copies(stop.clone()));
        let samples = tokio::spawn(self.clone().keep_samples(stop.clone()));
        loop {
            tokio::select! {
                () = stop.cancelled() => break,
                hosts = self.wanted().take() => {
                    for host in hosts {
                        rounds.begin(self, host);
                    }
                }
                _ = timer.tick() => {
                    if let Err(error) = self.monitor_round(Instant::now() >= patient_until).await {
                        tracing::error!(error = &error as &dyn std::error::Error, "the monitor's round failed");
                        // While the database was away no heartbeat could be taken.
                        patient_until = Instant::now() + monitor.unreachable_after;
                    }
                    match self.store().hosts_heard_of().await {
                        Ok(hosts) => {
                            // Other replicas delete hosts, too.
                            self.host_clients().keep(&hosts.iter().map(|(host, _)| *host).collect());
                            let heard = hosts.into_iter().filter(|(_, heard)| *heard);
                            heard.for_each(|(host, _)| rounds.begin(self, host));
                        }
                        Err(error) => tracing::error!(error = &error as &dyn std::error::Error, "cannot list hosts"),
                    }
                }
                Some(ended) = rounds.running.join_next_with_id() => rounds.end(self, ended),
                Some(Ok(host)) = rounds.due.join_next() => {
                    rounds.due_hosts.remove(&host);
                    rounds.begin(self, host);
                }
            }
        }
        while rounds.running.join_next().await.is_some() {}
        if let Err(error) = house.await {
            tracing::error!(error = &error as &dyn std::error::Error, "the housekeeping broke off");
        }
        if let Err(error) = builds.await {
            tracing::error!(error = &error as &dyn std::error::Error, "the building broke off");
        }
        if let Err(error) = copies.await {
            tracing::error!(
                error = &error as &dyn std::error::Error,
                "looking after object storage broke off"
            );
        }
        if let Err(error) = samples.await {
            tracing::error!(error = &error as &dyn std::error::Error, "the sampling broke off");
        }
    }

    /// One look at all hosts and rows: those that fell silent become unreachable and their sandboxes missing (if `judge_silence`),
    /// rows that wait for no host are ended, old idempotency keys are forgotten. Does nothing while another replica is at it.
    pub async fn monitor_round(&self, judge_silence: bool) -> Result<(), StoreError> {
        let Some(lock) = self.store().try_lock(Lock::Monitor).await? else { return Ok(()) };
        let done = self.monitor_locked(judge_silence).await;
        lock.release().await?;
        done
    }

    async fn monitor_locked(&self, judge_silence: bool) -> Result<(), StoreError> {
        if judge_silence {
            self.mark_silent_hosts().await?;
        }
        let now = self.store().now().await?;
        let before = now - self.config().operation_deadline;
        for row in self.store().sandboxes_stuck_without_host(before).await? {
            let (to, reason) = match row.status {
                SandboxStatus::Stopping => (End::Stopped, ""),
                _ => (End::Error, "it was not placed in time"),
            };
            self.end_row(row.id, row.generation, to, reason, None).await?;
        }
        let forgotten = self.store().idempotency_prune(now - KEY_LIFE).await?;
        tracing::debug!(forgotten, "monitor's round done");
        Ok(())
    }

    async fn mark_silent_hosts(&self) -> Result<(), StoreError> {
        let before = self.store().now().await? - self.config().monitor.unreachable_after;
        for host in self.store().hosts_silent_since(before).await? {
            let ctx = OpContext::system();
            let mut tx = self.store().begin().await?;
            // Its heartbeat may have come in between.
            let Some(team) = tx.host_lost(host, before).await? else { continue };
            let missing = tx.sandboxes_go_missing(host).await?;
            tx.audit(&audit::host(&ctx, (host, team), "marked_down", Outcome::Warning)).await?;
            tx.commit().await?;
            tracing::warn!(%host, missing, "a host is not heard of any more");
        }
        Ok(())
    }
}

/// The rounds that run, at most one for each host.
struct Rounds {
    running: JoinSet<Result<ReconcileReport, ReconcileError>>,
    hosts: HashMap<task::Id, Id<Host>>,
    /// Asked for while one ran: what that one saw may be old.
    again: BTreeSet<Id<Host>>,
    /// Sleeps until a row is due that the timer would look at too late. One for each host: what is found due then is what is due first.
    due: JoinSet<Id<Host>>,
    due_hosts: BTreeSet<Id<Host>>,
    last: BTreeMap<Id<Host>, ReconcileReport>,
    permits: Arc<Semaphore>,
}

/// How one round ended: its task, with what it came to.
type Ended = Result<(task::Id, Result<ReconcileReport, ReconcileError>), JoinError>;

impl Rounds {
    fn new() -> Self {
        Self {
            running: JoinSet::new(),
            hosts: HashMap::new(),
            again: BTreeSet::new(),
            due: JoinSet::new(),
            due_hosts: BTreeSet::new(),
            last: BTreeMap::new(),
            permits: Arc::new(Semaphore::new(AT_ONCE)),
        }
    }

    fn begin(&mut self, control: &Control, host: Id<Host>) {
        if self.hosts.values().any(|busy| *busy == host) {
            self.again.insert(host);
            return;
        }
        let (control, before, permits) =
            (control.clone(), self.last.get(&host).cloned(), Arc::clone(&self.permits));
        let span = Span::of_work("reconcile host");
        span.set("sandbar.host.id", host);
        let round = async move {
            // Before anything is held that others wait for: a host that does not answer costs nobody but itself.
            control.host_answers(host).await?;
            // The semaphore is never closed: there is always a permit to wait for.
            let _permit = permits.acquire().await;
            control.reconcile_host(host, before.as_ref()).await
        };
        let round = self.running.spawn(async move { span.run(round).await });
        self.hosts.insert(round.id(), host);
    }

    fn end(&mut self, control: &Control, ended: Ended) {
        let task = ended.as_ref().map_or_else(JoinError::id, |(task, _)| *task);
        let Some(host) = self.hosts.remove(&task) else { return };
        match ended {
            Ok((_, Ok(report))) => {
                if let Some(due_in) = report.due_in
                    && due_in < control.config().monitor.interval
                    && self.due_hosts.insert(host)
                {
                    self.due.spawn(async move {
                        tokio::time::sleep(due_in).await;
                        host
                    });
                }
                self.last.insert(host, report);
            }
            Ok((_, Err(error @ (ReconcileError::Busy { .. } | ReconcileError::NotRegistered { .. })))) => {
                tracing::debug!(%host, error = &error as &dyn std::error::Error, "no round for a host");
            }
            // Unknown is not dead: a host that cannot tell what it has loses nothing.
            Ok((_, Err(error))) => {
                tracing::warn!(%host, error = &error as &dyn std::error::Error, "a host could not be looked at");
            }
            Err(error) => {
                tracing::error!(%host, error = &error as &dyn std::error::Error, "a host's round broke off");
            }
        }
        if self.again.remove(&host) {
            self.begin(control, host);
        }
    }
}
