//! The handle to the control plane.

use std::sync::Arc;

use sandbar_store::{Store, StoreError};
use tokio_util::sync::CancellationToken;

use crate::Config;
use crate::host_client::{HostClient, HostClients, HostError};
use crate::sandboxes::{Sandbox, SandboxError};
use std::time::Duration;

/// The control plane. Cheap to clone; stateless but for connections: any number of replicas may run on one database.
#[derive(Clone)]
pub struct Control {
    inner: Arc<Inner>,
}

struct Inner {
    store: Store,
    config: Config,
    hosts: HostClients,
}

/// Why the control plane cannot start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The database failed.
    #[error("the database failed")]
    Store(#[from] StoreError),
}

impl Control {
    /// Starts on a migrated database: reads the platform's keys, or makes them at the first start.
    pub async fn start(store: Store, master_key: crate::secrets::MasterKey, config: Config) -> Result<Self, StartError> {
        unimplemented!()
    }

    /// Runs the background work until cancelled. The future returns once the round that was under way is done.
    pub async fn run_background(&self, stop: CancellationToken) {
        unimplemented!()
    }

    /// Whether the database answers and at least one host is online.
    pub async fn readiness(&self) -> Result<Readiness, StoreError> {
        unimplemented!()
    }

    pub(crate) fn config(&self) -> &Config {
        &self.inner.config
    }

    pub(crate) fn client_of_running(&self, sandbox: &Sandbox, operation: &'static str) -> Result<HostClient, SandboxError> {
        unimplemented!()
    }
    pub(crate) fn host_failed(&self, sandbox: &Sandbox, what: &'static str, limit: Duration, error: HostError) -> SandboxError {
        unimplemented!()
    }
}

/// Whether the platform can take requests.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Readiness {
    /// How many hosts are online.
    pub hosts_online: u32,
}
