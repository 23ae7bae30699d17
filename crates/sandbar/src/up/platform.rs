//! The running parts of a platform, and the order in which they stop.

use std::time::Duration;

use anyhow::Context as _;
use axum::Router;
use sandbar_api::{Limits, Listener};
use sandbar_control::Control;
use sandbar_edge::acme::Keeper;
use sandbar_postgres::Server;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tracing::{error, info};

use super::prepare::Preparation;
use super::supervise::Supervised;

/// How long requests that are under way may take once the platform stops.
const REQUEST_GRACE: Duration = Duration::from_secs(10);

/// What was started so far. A start that is interrupted stops with what there is.
#[derive(Default)]
pub(super) struct Platform {
    pub(super) postgres: Option<Server>,
    pub(super) preparation: Option<Preparation>,
    pub(super) control: Option<RunningControl>,
    pub(super) agent: Option<Supervised>,
}

/// The control plane: its background work and its listeners.
pub(super) struct RunningControl {
    control: Control,
    stop_serving: CancellationToken,
    servers: Vec<JoinHandle<()>>,
    stop_background: CancellationToken,
    background: JoinHandle<()>,
    certificate: Option<JoinHandle<()>>,
}

impl RunningControl {
    pub(super) fn start(control: Control) -> Self {
        let stop_background = CancellationToken::new();
        let (background, stop) = (control.clone(), stop_background.clone());
        let background = tokio::spawn(async move { background.run_background(stop).await });
        Self {
            control,
            stop_serving: CancellationToken::new(),
            servers: Vec::new(),
            stop_background,
            background,
            certificate: None,
        }
    }

    pub(super) fn serve(&mut self, listener: impl Into<Listener>, router: Router, limits: Limits) {
        let stop = self.stop_serving.clone();
        let serving = sandbar_api::serve(listener.into(), router, limits, stop, REQUEST_GRACE);
        self.servers.push(tokio::spawn(serving));
    }

    /// Keeps the listener's certificate, until the end.
    pub(super) fn keep_certificate(&mut self, keeper: Keeper) {
        let stop = self.stop_background.clone();
        self.certificate = Some(tokio::spawn(async move { keeper.run(stop).await }));
    }

    /// No new requests; those under way end; then the work that they began; then the background work.
    async fn stop(self) {
        self.stop_serving.cancel();
        for server in self.servers {
            joined("the API", server.await);
        }
        self.control.drain().await;
        self.stop_background.cancel();
        joined("the background work", self.background.await);
        if let Some(certificate) = self.certificate {
            joined("the renewal of the certificate", certificate.await);
        }
    }
}

impl Platform {
    /// Stops everything, users of a thing before the thing. Sandboxes run on.
    pub(super) async fn stop(self) -> anyhow::Result<()> {
        let Self { postgres, preparation, control, agent } = self;
        if let Some(control) = control {
            info!("stopping the control plane");
            control.stop().await;
        }
        if let Some(agent) = agent {
            info!("stopping the host agent");
            agent.stop().await;
        }
        if let Some(postgres) = postgres {
            info!("stopping PostgreSQL");
            postgres.stop().await.context("cannot stop PostgreSQL")?;
        }
        // Last: it ends every child that is left.
        if let Some(preparation) = preparation {
            preparation.give_up().await;
        }
        Ok(())
    }
}

fn joined(what: &str, ended: Result<(), tokio::task::JoinError>) {
    if let Err(error) = ended {
        error!(%error, "{what} broke");
    }
}
