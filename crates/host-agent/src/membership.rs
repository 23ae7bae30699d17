//! How a host stays a member of the fleet: heartbeats, and the renewal of its credentials.
//!
//! ```text
//!            heartbeat refused, then the refresh token too
//!   let in ────────────────────────────────────────────────► refused: every sandbox is paused, once and for all that run
//!      ▲                                                        │
//!      └──── a heartbeat is taken, or a renewal works ◄─────────┘ asked again and again
//! ```
//!
//! - A heartbeat every 30 s, and at once when something ended by itself.
//! - Credentials are renewed when half of their time is over, right after a heartbeat that was taken: then the way there is open, and the
//!   answer is likely to arrive. A heartbeat that is refused is followed by a renewal at once.
//! - A network error is never a refusal, nor is a failure of the control plane, nor that it does not know the host (404): the host keeps
//!   its sandboxes as they are, their time-outs go on, and it asks again.
//! - A host whose refresh token itself is refused, and that was given a registration token at its start, shows that one, once.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use tokio_util::sync::CancellationToken;

use crate::enrolment::{ControlPlane, Credentials, EnrolmentError, Facts, Heartbeat, Load};
use crate::error::chain;
use crate::machine_facts;
use crate::registry::Registry;
use crate::resources::Resources;
use crate::tls::Identity;

/// Between two heartbeats, where nothing happens (the control plane takes a host for unreachable after three).
const HEARTBEAT: Duration = Duration::from_secs(30);
/// The first wait after a heartbeat that failed; doubled up to [`HEARTBEAT`].
const FIRST_RETRY: Duration = Duration::from_secs(1);

/// What the host has, as far as its membership is concerned.
#[async_trait]
pub(crate) trait Tenants: Send + Sync {
    /// What is reported now.
    fn heartbeat(&self) -> Heartbeat;
    /// Completes when something has changed that nobody asked for.
    async fn unasked_change(&self);
    /// Pauses all that run: how many are paused now, and how many run on.
    async fn pause_all(&self) -> (u32, u32);
}

/// The host's own.
pub(crate) struct OwnTenants {
    pub(crate) registry: Registry,
    pub(crate) resources: Arc<Resources>,
}

#[async_trait]
impl Tenants for OwnTenants {
    fn heartbeat(&self) -> Heartbeat {
        let used = machine_facts::memory_mb().saturating_sub(machine_facts::memory_available_mb());
        Heartbeat {
            inventory_generation: self.resources.inventory.generation(),
            load: Load {
                sandboxes: self.registry.all().len(),
                memory_used_mb: used,
                disk_free_mb: self.resources.store.space().map_or(0, |space| space.free >> 20),
                load1: machine_facts::load_1m(),
            },
        }
    }

    async fn unasked_change(&self) {
        self.resources.inventory.unasked_change().await;
    }

    async fn pause_all(&self) -> (u32, u32) {
        self.registry.pause_all().await
    }
}

/// Whether the control plane takes this host for a member.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Standing {
    LetIn,
    Refused,
}

/// What is to come after one heartbeat.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Next {
    /// All is well.
    Later,
    /// It did not work.
    Retry,
    /// There are new credentials: show them.
    Now,
}

/// See the module.
pub(crate) struct Membership {
    control: ControlPlane,
    credentials: Credentials,
    file: PathBuf,
    identity: Arc<Identity>,
    facts: Facts,
    /// What a host that is refused may try, once.
    registration_token: Option<String>,
    standing: Standing,
}

impl Membership {
    pub(crate) fn new(
        control: ControlPlane,
        credentials: Credentials,
        file: PathBuf,
        identity: Arc<Identity>,
        facts: Facts,
        registration_token: Option<String>,
    ) -> Self {
        Self { control, credentials, file, identity, facts, registration_token, standing: Standing::LetIn }
    }

    /// Reports to the control plane for as long as the agent runs.
    pub(crate) async fn keep(mut self, tenants: impl Tenants, shutdown: CancellationToken) {
        let mut retry = FIRST_RETRY;
        loop {
            let wait = match self.round(&tenants).await {
                Next::Later => {
                    retry = FIRST_RETRY;
                    HEARTBEAT
                }
                // With new credentials at once; refused again, it is no reason to hurry.
                Next::Now if retry == FIRST_RETRY => {
                    retry *= 2;
                    Duration::ZERO
                }
                Next::Now | Next::Retry => {
                    let wait = retry;
                    retry = (retry * 2).min(HEARTBEAT);
                    wait
                }
            };
            tokio::select! {
                () = shutdown.cancelled() => return,
                () = tenants.unasked_change() => {}
                () = tokio::time::sleep(wait) => {}
            }
        }
    }

    async fn round(&mut self, tenants: &impl Tenants) -> Next {
        match self.control.heartbeat(&self.credentials, &tenants.heartbeat()).await {
            Ok(()) => {
                self.is_let_in();
                if self.credentials.are_due()
                    && let Err(error) = self.renew().await
                {
                    tracing::warn!(
                        error = chain(&error),
                        "credentials not renewed; the next heartbeat asks again"
                    );
                }
                Next::Later
            }
            Err(error) if error.is_refusal() => {
                tracing::warn!(error = chain(&error), "heartbeat refused; renewing the credentials");
                match self.renew_or_register().await {
                    Ok(()) => {
                        self.is_let_in();
                        Next::Now
                    }
                    Err(error) if error.is_refusal() => {
                        self.is_refused(tenants, &error).await;
                        Next::Retry
                    }
                    Err(error) => {
                        tracing::warn!(error = chain(&error), "credentials not renewed; asking again");
                        Next::Retry
                    }
                }
            }
            Err(error) => {
                tracing::warn!(error = chain(&error), "heartbeat not taken; asking again");
                Next::Retry
            }
        }
    }

    async fn renew_or_register(&mut self) -> Result<(), EnrolmentError> {
        let refused = match self.renew().await {
            Err(error) if error.is_refusal() => error,
            done => return done,
        };
        let Some(token) = self.registration_token.clone() else { return Err(refused) };
        match self.control.register(&token, &self.facts).await {
            Ok(credentials) => {
                self.registration_token = None;
                tracing::info!(host = %credentials.host_id, "registered anew");
                self.take(credentials);
                Ok(())
            }
            Err(error) => {
                if error.is_refusal() {
                    self.registration_token = None;
                }
                Err(error)
            }
        }
    }

    async fn renew(&mut self) -> Result<(), EnrolmentError> {
        let credentials = self.control.refresh(&self.credentials).await?;
        tracing::info!(host = %credentials.host_id, "credentials renewed");
        self.take(credentials);
        Ok(())
    }

    /// The old ones are void as soon as these are used, so these count even where they cannot be kept: the next renewal tries that again.
    fn take(&mut self, credentials: Credentials) {
        if let Err(error) = credentials.write(&self.file) {
            tracing::error!(error = chain(&error), "the host's new credentials cannot be kept");
        }
        if let Err(error) = self.identity.show(&credentials) {
            tracing::error!(
                error = chain(&error),
                "the host's new certificate cannot be used; the old one still is"
            );
        }
        self.credentials = credentials;
    }

    fn is_let_in(&mut self) {
        if self.standing == Standing::Refused {
            tracing::info!("let in again");
            self.standing = Standing::LetIn;
        }
    }

    async fn is_refused(&mut self, tenants: &impl Tenants, error: &EnrolmentError) {
        if self.standing == Standing::LetIn {
            tracing::error!(
                error = chain(error),
                "this host is not let in any more: its sandboxes are paused. Give it a new registration token"
            );
            self.standing = Standing::Refused;
        }
        let (paused, failed) = tenants.pause_all().await;
        if paused + failed > 0 {
            tracing::warn!(paused, failed, "paused the sandboxes of a host that is not let in");
        }
    }
}

#[cfg(test)]
#[path = "membership_tests.rs"]
mod tests;
