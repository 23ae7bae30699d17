//! How a host becomes and stays a member of the fleet: registration by a one-time token, credentials, heartbeats.
//!
//! The host makes its own key and sends a signing request, so no private key ever travels. A network error is never a refusal: the
//! agent keeps its sandboxes and asks again.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use sandbar_types::id::{Host, Id};
use sandbar_types::{Arch, VmmKind};
use serde::{Deserialize, Serialize};
use tokio_util::sync::CancellationToken;

use crate::error::chain;
use crate::journal::{JournalError, write_atomically};
use crate::machine_facts;
use crate::resources::Resources;

/// Between two heartbeats, where nothing happens (the control plane takes a host for unreachable after three).
const HEARTBEAT: Duration = Duration::from_secs(30);
/// The first wait after a heartbeat that failed; doubled up to [`HEARTBEAT`].
const FIRST_RETRY: Duration = Duration::from_secs(1);
/// A control plane that takes longer over a small request is not there.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(10);
/// The longest answer that is read into an error.
const ERROR_TEXT_CHARS: usize = 400;

/// What the host can offer, as it tells the control plane.
#[derive(Debug, Clone, Serialize)]
pub struct Facts {
    /// The processor architecture.
    pub arch: Arch,
    /// Logical processors.
    pub cpu_cores: u32,
    /// Memory, in MiB.
    pub memory_mb: u32,
    /// Size of the store's filesystem, in GiB.
    pub disk_gb: u32,
    /// Where the control plane reaches the agent: `HOST:PORT`.
    pub address: String,
    /// What runs the virtual machines.
    pub vmm: VmmKind,
}

/// What the host is known by. Kept in a file that only root can read.
#[derive(Clone, Serialize, Deserialize)]
pub(crate) struct Credentials {
    pub(crate) host_id: Id<Host>,
    /// The host's JWT.
    pub(crate) token: String,
    pub(crate) refresh_token: String,
    /// The host's certificate, its private key and the fleet's authority, in PEM.
    pub(crate) cert: String,
    pub(crate) key: String,
    pub(crate) ca: String,
}

impl std::fmt::Debug for Credentials {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Credentials").field("host_id", &self.host_id).finish_non_exhaustive()
    }
}

/// Why a host could not enrol.
#[derive(Debug, thiserror::Error)]
pub enum EnrolmentError {
    /// There are no credentials, and no token to get them with.
    #[error(
        "this host is not registered: give it a registration token (--register, from POST /v1/hosts of the control plane)"
    )]
    NoToken,
    /// The credentials cannot be read or kept.
    #[error("the host's credentials in {path} cannot be used", path = .path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// Why not.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// No key could be made.
    #[error("no key can be made for this host")]
    Key(#[from] rcgen::Error),
    /// The control plane cannot be reached.
    #[error("the control plane at {url} cannot be reached")]
    Unreachable {
        /// Its address.
        url: String,
        /// Why not.
        #[source]
        source: reqwest::Error,
    },
    /// The control plane said no.
    #[error("the control plane refused ({status}): {answer}")]
    Refused {
        /// The HTTP status.
        status: reqwest::StatusCode,
        /// What it said.
        answer: String,
    },
}

impl From<JournalError> for EnrolmentError {
    fn from(source: JournalError) -> Self {
        let (JournalError::Io { ref path, .. } | JournalError::Damaged { ref path, .. }) = source;
        Self::File { path: path.clone(), source: Box::new(source) }
    }
}

/// The control plane, as a host speaks to it.
#[derive(Debug, Clone)]
pub(crate) struct ControlPlane {
    url: String,
    http: reqwest::Client,
}

impl ControlPlane {
    /// A client of the control plane at `url`.
    pub(crate) fn new(url: &str) -> Result<Self, EnrolmentError> {
        let unreachable = |source| EnrolmentError::Unreachable { url: url.to_owned(), source };
        let http = reqwest::Client::builder().timeout(REQUEST_TIMEOUT).build().map_err(unreachable)?;
        Ok(Self { url: url.trim_end_matches('/').to_owned(), http })
    }

    /// The host's credentials: those it has, or new ones for a registration token.
    pub(crate) async fn enrol(
        &self,
        file: &Path,
        token: Option<&str>,
        facts: &Facts,
    ) -> Result<Credentials, EnrolmentError> {
        match std::fs::read(file) {
            Ok(bytes) => serde_json::from_slice(&bytes)
                .map_err(|e| EnrolmentError::File { path: file.to_owned(), source: e.into() }),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                let credentials = self.register(token.ok_or(EnrolmentError::NoToken)?, facts).await?;
                let bytes = serde_json::to_vec(&credentials)
                    .map_err(|e| EnrolmentError::File { path: file.to_owned(), source: e.into() })?;
                write_atomically(file, &bytes)?;
                tracing::info!(host = %credentials.host_id, "registered");
                Ok(credentials)
            }
            Err(error) => Err(EnrolmentError::File { path: file.to_owned(), source: error.into() }),
        }
    }

    async fn register(&self, token: &str, facts: &Facts) -> Result<Credentials, EnrolmentError> {
        #[derive(Serialize)]
        struct Request<'a> {
            token: &'a str,
            csr: String,
            #[serde(flatten)]
            facts: &'a Facts,
        }
        #[derive(Deserialize)]
        struct Answer {
            host: HostObject,
            token: String,
            refresh_token: String,
            cert: String,
            ca: String,
        }
        #[derive(Deserialize)]
        struct HostObject {
            id: Id<Host>,
        }
        let key = rcgen::KeyPair::generate()?;
        // The control plane decides which name the certificate gets.
        let csr = rcgen::CertificateParams::default().serialize_request(&key)?.pem()?;
        let request =
            self.http.post(format!("{}/v1/hosts/register", self.url)).json(&Request { token, csr, facts });
        let answer: Answer =
            self.send(request).await?.json().await.map_err(|source| self.unreachable(source))?;
        Ok(Credentials {
            host_id: answer.host.id,
            token: answer.token,
            refresh_token: answer.refresh_token,
            cert: answer.cert,
            key: key.serialize_pem(),
            ca: answer.ca,
        })
    }

    async fn heartbeat(
        &self,
        credentials: &Credentials,
        heartbeat: &Heartbeat,
    ) -> Result<(), EnrolmentError> {
        let request = self
            .http
            .post(format!("{}/v1/hosts/{}/heartbeat", self.url, credentials.host_id))
            .header("X-Host-Token", &credentials.token)
            .json(heartbeat);
        self.send(request).await.map(|_| ())
    }

    async fn send(&self, request: reqwest::RequestBuilder) -> Result<reqwest::Response, EnrolmentError> {
        let response = request.send().await.map_err(|source| self.unreachable(source))?;
        let status = response.status();
        if status.is_success() {
            return Ok(response);
        }
        let answer = response.text().await.unwrap_or_default().chars().take(ERROR_TEXT_CHARS).collect();
        Err(EnrolmentError::Refused { status, answer })
    }

    fn unreachable(&self, source: reqwest::Error) -> EnrolmentError {
        EnrolmentError::Unreachable { url: self.url.clone(), source }
    }
}

/// What a host reports.
#[derive(Debug, Clone, Serialize)]
struct Heartbeat {
    /// Grows with each change of what exists on the host.
    inventory_generation: u64,
    load: Load,
}

/// How busy a host is.
#[derive(Debug, Clone, Serialize)]
struct Load {
    sandboxes: usize,
    memory_used_mb: u64,
    disk_free_mb: u64,
    /// The system's load average over one minute.
    load1: f64,
}

/// Reports to the control plane for as long as the agent runs: every 30 s, and at once when something ended by itself.
pub(crate) async fn report(
    control: ControlPlane,
    credentials: Credentials,
    resources: Arc<Resources>,
    registry: crate::registry::Registry,
    shutdown: CancellationToken,
) {
    let mut retry = FIRST_RETRY;
    loop {
        let heartbeat = Heartbeat {
            inventory_generation: resources.inventory.generation(),
            load: Load {
                sandboxes: registry.all().len(),
                memory_used_mb: machine_facts::memory_mb()
                    .saturating_sub(machine_facts::memory_available_mb()),
                disk_free_mb: resources.store.space().map_or(0, |space| space.free >> 20),
                load1: machine_facts::load_1m(),
            },
        };
        let wait = match control.heartbeat(&credentials, &heartbeat).await {
            Ok(()) => {
                retry = FIRST_RETRY;
                HEARTBEAT
            }
            Err(error) => {
                tracing::warn!(error = chain(&error), "heartbeat not taken; asking again");
                let wait = retry;
                retry = (retry * 2).min(HEARTBEAT);
                wait
            }
        };
        tokio::select! {
            () = shutdown.cancelled() => return,
            () = resources.inventory.unasked_change() => {}
            () = tokio::time::sleep(wait) => {}
        }
    }
}
