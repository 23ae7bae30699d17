//! Fetching a template to a host: one at a time for each host and template, whoever asks.
//!
//! What breaks is tried again, from another source where there is one, and goes on where it was; a receiver whose agent was killed begins
//! anew. A fetch ends when the files are there, when the host does not want them, or after some attempts in a row that carried nothing.

use std::collections::BTreeSet;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use sandbar_store::StoreError;
use sandbar_store::listen::Topic;
use sandbar_store::transfers::{Claim, Fetch};
use sandbar_types::Id;
use sandbar_types::id::{Host, Template};
use tokio::time::MissedTickBehavior;
use uuid::Uuid;

use super::carry::{CarryError, Source, SourceError, carry};
use crate::Control;
use crate::host_client::{HostClient, HostError, Reason};

/// How long a fetch is its fetcher's after it was last heard of.
const LEASE: Duration = Duration::from_secs(60);
/// How often a fetcher says that it is at it.
const RENEWAL: Duration = Duration::from_secs(15);
/// How often a fetch of another control plane is looked at although nobody tells of it: that one may have died.
const LOOK_AGAIN: Duration = Duration::from_secs(5);
/// Attempts in a row that may carry nothing.
const ATTEMPTS: u32 = 6;
/// The pause before the second attempt; each later one is twice as long.
const PAUSE: Duration = Duration::from_millis(500);

/// Why a host did not get a template's files.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum FetchFault {
    /// Nobody who answers has them, or they are damaged.
    NoSource,
    /// The host has no room for them.
    NoRoom,
    /// The host could make no sandbox of them.
    Incompatible,
    /// The host does not answer.
    Unreachable,
    /// The template is deleted.
    Gone,
    /// Something that the log has.
    Failed,
}

/// Where files came from, for the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Origin {
    Host(Id<Host>),
    ObjectStorage,
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Host(id) => id.fmt(f),
            Self::ObjectStorage => f.write_str("object storage"),
        }
    }
}

/// What waiting for a fetch came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Awaited {
    /// The files are there.
    Ready,
    /// They will not be.
    Failed(FetchFault),
    /// Not yet; it goes on.
    Late,
}

impl Control {
    /// Has a host get a template's files, and waits for them, but not for longer than `limit`.
    pub(crate) async fn fetch_template(
        &self,
        template: Id<Template>,
        host: Id<Host>,
        limit: Duration,
    ) -> Awaited {
        let key = (template, host);
        let (mut fetch, begin) = self.fetches().join(key);
        if let Some(tell) = begin {
            let control = self.clone();
            self.go_on(async move {
                let outcome = control.fetch(template, host).await;
                control.fetches().end(key);
                // Those who waited may have gone.
                tell.send_replace(Some(outcome));
            });
        }
        let ended = tokio::time::timeout(limit, fetch.wait_for(Option::is_some)).await;
        match ended {
            Err(_) => Awaited::Late,
            Ok(Ok(outcome)) => match *outcome {
                Some(Ok(())) => Awaited::Ready,
                Some(Err(fault)) => Awaited::Failed(fault),
                None => Awaited::Failed(FetchFault::Failed),
            },
            // The task died.
            Ok(Err(_)) => Awaited::Failed(FetchFault::Failed),
        }
    }

    async fn fetch(&self, template: Id<Template>, host: Id<Host>) -> Result<(), FetchFault> {
        let fetch = Fetch { template, host, fetcher: Uuid::now_v7() };
        match self.claim_and_fetch(fetch).await {
            Ok(outcome) => outcome,
            Err(error) => {
                tracing::error!(%template, %host, error = &error as &dyn std::error::Error,
                    "the database failed while a template was fetched");
                Err(FetchFault::Failed)
            }
        }
    }

    async fn claim_and_fetch(&self, fetch: Fetch) -> Result<Result<(), FetchFault>, StoreError> {
        let mut news = None;
        loop {
            match self.store().fetch_claim(fetch, LEASE).await? {
                Claim::Ours => break,
                Claim::Ready => return Ok(Ok(())),
                Claim::Gone => return Ok(Err(FetchFault::Gone)),
                Claim::Theirs => match &mut news {
                    // And one more look: what ended before this listens it is not told.
                    None => news = Some(self.news().subscribe(self.store())),
                    Some(news) => {
                        let ended = news.wait(|told| told.is_of(Topic::Fetches, fetch.template));
                        let _ = tokio::time::timeout(LOOK_AGAIN, ended).await;
                    }
                },
            }
        }
        let Some(target) = self.host_client(fetch.host).await? else {
            self.store().fetch_end(fetch).await?;
            return Ok(Err(FetchFault::Unreachable));
        };
        let outcome = tokio::select! {
            outcome = self.attempts(fetch, &target) => outcome?,
            () = self.lose_claim(fetch) => Err(FetchFault::Gone),
        };
        if outcome.is_ok() && self.store().fetch_complete(fetch).await? {
            return Ok(Ok(()));
        }
        self.store().fetch_end(fetch).await?;
        if outcome.is_ok() {
            // Deleted while it was on its way: what arrived is nobody's.
            if let Err(error) = target.delete_template(fetch.template, self.config().call_deadline).await {
                tracing::warn!(template = %fetch.template, host = %fetch.host,
                    error = &error as &dyn std::error::Error,
                    "cannot delete what was fetched of a deleted template; the reconciler will");
            }
            return Ok(Err(FetchFault::Gone));
        }
        Ok(outcome)
    }

    /// Keeps the claim; returns once it is somebody else's, or nobody's.
    async fn lose_claim(&self, fetch: Fetch) {
        let mut renewal = tokio::time::interval(RENEWAL);
        renewal.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            renewal.tick().await;
            match self.store().fetch_renew(fetch, LEASE).await {
                Ok(true) => {}
                Ok(false) => return,
                // Whoever takes it over meanwhile carries the same parts to the same place: that is no harm.
                Err(error) => tracing::warn!(
                    error = &error as &dyn std::error::Error,
                    "cannot write down that a template is being fetched"
                ),
            }
        }
    }

    async fn attempts(
        &self,
        fetch: Fetch,
        target: &HostClient,
    ) -> Result<Result<(), FetchFault>, StoreError> {
        let Fetch { template, host, .. } = fetch;
        let limit = self.config().verify_deadline;
        let carried = Arc::new(AtomicU64::new(0));
        let (mut idle, mut fault) = (0, FetchFault::NoSource);
        // Whose files are not what their manifest says: once is enough.
        let mut damaged = BTreeSet::new();
        while idle < ATTEMPTS {
            if idle > 0 {
                tokio::time::sleep(PAUSE * 2_u32.pow(idle - 1)).await;
                // Deleted, perhaps: then the receiver has just forgotten all of it.
                if !self.store().fetch_renew(fetch, LEASE).await? {
                    return Ok(Err(FetchFault::Gone));
                }
            }
            let before = carried.load(Ordering::Relaxed);
            // Asked each time: hosts come and go.
            let mut origins = self.origins(template, host).await?;
            origins.retain(|(from, _)| !damaged.contains(from));
            fault = FetchFault::NoSource;
            if origins.is_empty() {
                break;
            }
            for (from, source) in origins {
                let count = || {
                    carried.fetch_add(1, Ordering::Relaxed);
                };
                let error = match carry(&source, target, template, limit, &count).await {
                    Ok(done) => {
                        tracing::info!(%template, %host, %from, parts = done.parts, "a template was fetched");
                        return Ok(Ok(()));
                    }
                    Err(error) => error,
                };
                tracing::info!(%template, %host, %from, error = &error as &dyn std::error::Error,
                    "a template did not arrive");
                match error {
                    CarryError::Source(error) => {
                        if let (Origin::Host(id), SourceError::Host(error)) = (from, &error)
                            && error.reason() == Some(Reason::REASON_TEMPLATE_NOT_FOUND)
                        {
                            self.store().template_location_forget(template, id).await?;
                        }
                    }
                    CarryError::Target(error) => {
                        fault = fault_of(&error);
                        if error.reason() == Some(Reason::REASON_SNAPSHOT_DAMAGED) {
                            damaged.insert(from);
                        }
                        if !is_passing(&error) {
                            return Ok(Err(fault));
                        }
                        break;
                    }
                }
            }
            idle = if carried.load(Ordering::Relaxed) > before { 1 } else { idle + 1 };
        }
        Ok(Err(fault))
    }

    /// Where a host may get a template from: other hosts first.
    async fn origins(
        &self,
        template: Id<Template>,
        host: Id<Host>,
    ) -> Result<Vec<(Origin, Source<'_>)>, StoreError> {
        let hosts = self.store().fetch_sources(template, host).await?.into_iter();
        let of = |(id, address): (Id<Host>, String)| {
            (Origin::Host(id), Source::Host(Box::new(self.host_clients().get(id, &address))))
        };
        let mut origins: Vec<_> = hosts.map(of).collect();
        if let Some(bucket) = self.bucket()
            && self.store().template_is_durable(template).await?
        {
            origins.push((Origin::ObjectStorage, Source::Bucket(bucket)));
        }
        Ok(origins)
    }

    async fn host_client(&self, host: Id<Host>) -> Result<Option<HostClient>, StoreError> {
        let address = self.store().host_find(host).await?.and_then(|host| host.address);
        Ok(address.map(|address| self.host_clients().get(host, &address)))
    }
}

/// Whether the receiver may do better at the next attempt: its agent was away, or another source has what one had damaged.
fn is_passing(error: &HostError) -> bool {
    let passing = [
        Reason::REASON_BUSY,
        Reason::REASON_SNAPSHOT_DAMAGED,
        // Its agent was killed, and what had arrived is gone with it.
        Reason::REASON_TEMPLATE_NOT_FOUND,
    ];
    match error {
        HostError::Unreachable(_) | HostError::Deadline(_) => true,
        HostError::Refused { reason, .. } => passing.contains(reason),
        HostError::Failed(_) | HostError::Protocol(_) => false,
    }
}

fn fault_of(error: &HostError) -> FetchFault {
    match error {
        HostError::Unreachable(_) | HostError::Deadline(_) => FetchFault::Unreachable,
        HostError::Refused { reason: Reason::REASON_NO_CAPACITY, .. } => FetchFault::NoRoom,
        HostError::Refused { reason: Reason::REASON_INCOMPATIBLE, .. } => FetchFault::Incompatible,
        HostError::Refused { reason: Reason::REASON_SNAPSHOT_DAMAGED, .. } => FetchFault::NoSource,
        HostError::Refused { .. } | HostError::Failed(_) | HostError::Protocol(_) => FetchFault::Failed,
    }
}
