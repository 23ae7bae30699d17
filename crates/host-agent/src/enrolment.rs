//! How a host becomes a member of the fleet and what it is known by: registration by a one-time token, credentials and their renewal, and
//! what it asks of the control plane. When it asks is in `membership`.
//!
//! The host makes its own key and sends a signing request, so no private key ever travels; each certificate has a key of its own.

use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use sandbar_types::id::{Host, Id};
use sandbar_types::{Arch, VmmKind};
use serde::{Deserialize, Serialize};

use crate::error::chain;
use crate::journal::{JournalError, write_atomically};

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
    /// When they were got, by this host's clock, in seconds since 1970. Like the next, 0 in a file of an earlier version: renew now.
    #[serde(default)]
    obtained_at: u64,
    /// How long the JWT lasts, in seconds: counted by this host's clock alone, so that it need not agree with the control plane's.
    #[serde(default)]
    token_life_sec: u64,
}

/// What the control plane gives a host to go on with.
#[derive(Deserialize)]
struct Granted {
    token: String,
    token_expires_in_sec: u64,
    refresh_token: String,
    cert: String,
    ca: String,
}

impl Credentials {
    fn new(host_id: Id<Host>, granted: Granted, key: &rcgen::KeyPair) -> Self {
        let Granted { token, token_expires_in_sec, refresh_token, cert, ca } = granted;
        Self {
            host_id,
            token,
            refresh_token,
            cert,
            key: key.serialize_pem(),
            ca,
            obtained_at: now(),
            token_life_sec: token_expires_in_sec,
        }
    }

    /// Whether it is time to renew them: half of the token's life is over, so that half of it is left for trying.
    pub(crate) fn are_due(&self) -> bool {
        self.are_due_at(now())
    }

    fn are_due_at(&self, now: u64) -> bool {
        // A clock that was put back tells nothing of their age.
        now < self.obtained_at || now - self.obtained_at >= self.token_life_sec / 2
    }

    /// Reads them. None when there are none.
    pub(crate) fn read(file: &Path) -> Result<Option<Self>, EnrolmentError> {
        let failed = |source: Box<dyn std::error::Error + Send + Sync>| EnrolmentError::File {
            path: file.to_owned(),
            source,
        };
        match std::fs::read(file) {
            Ok(bytes) => serde_json::from_slice(&bytes).map(Some).map_err(|error| failed(error.into())),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(failed(error.into())),
        }
    }

    /// Keeps them, in place of others.
    pub(crate) fn write(&self, file: &Path) -> Result<(), EnrolmentError> {
        let bytes = serde_json::to_vec(self)
            .map_err(|error| EnrolmentError::File { path: file.to_owned(), source: error.into() })?;
        Ok(write_atomically(file, &bytes)?)
    }
}

fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
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
        /// The contract's word for why. None: what answered is no control plane, perhaps a proxy in front of none.
        code: Option<String>,
        /// What it said.
        answer: String,
    },
}

impl EnrolmentError {
    /// Whether the control plane itself does not know this host, or not by what it showed. Nothing else is a refusal: not silence, not a
    /// failure, not what something on the way says.
    pub(crate) fn is_refusal(&self) -> bool {
        matches!(self, Self::Refused { code: Some(code), .. } if code == "unauthorized" || code == "forbidden")
    }
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
        match Credentials::read(file) {
            Ok(Some(credentials)) => return Ok(credentials),
            Ok(None) => {}
            // Lost, and there is a way to get others.
            Err(error @ EnrolmentError::File { .. }) if token.is_some() => {
                tracing::warn!(error = chain(&error), "the host's credentials are lost; registering anew");
            }
            Err(error) => return Err(error),
        }
        let credentials = self.register(token.ok_or(EnrolmentError::NoToken)?, facts).await?;
        credentials.write(file)?;
        tracing::info!(host = %credentials.host_id, "registered");
        Ok(credentials)
    }

    /// New credentials for a one-time token.
    pub(crate) async fn register(&self, token: &str, facts: &Facts) -> Result<Credentials, EnrolmentError> {
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
            #[serde(flatten)]
            granted: Granted,
        }
        #[derive(Deserialize)]
        struct HostObject {
            id: Id<Host>,
        }
        let (key, csr) = key_and_request()?;
        let request =
            self.http.post(format!("{}/v1/hosts/register", self.url)).json(&Request { token, csr, facts });
        let answer: Answer = self.answer(request).await?;
        Ok(Credentials::new(answer.host.id, answer.granted, &key))
    }

    /// New credentials for the refresh token, which is of no use after that.
    pub(crate) async fn refresh(&self, credentials: &Credentials) -> Result<Credentials, EnrolmentError> {
        #[derive(Serialize)]
        struct Request<'a> {
            refresh_token: &'a str,
            csr: String,
        }
        #[derive(Deserialize)]
        struct Answer {
            host_id: Id<Host>,
            #[serde(flatten)]
            granted: Granted,
        }
        let (key, csr) = key_and_request()?;
        let body = Request { refresh_token: &credentials.refresh_token, csr };
        let request = self.http.post(format!("{}/v1/hosts/auth/refresh", self.url)).json(&body);
        let answer: Answer = self.answer(request).await?;
        Ok(Credentials::new(answer.host_id, answer.granted, &key))
    }

    /// Says that the host lives.
    pub(crate) async fn heartbeat(
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

    async fn answer<T: serde::de::DeserializeOwned>(
        &self,
        request: reqwest::RequestBuilder,
    ) -> Result<T, EnrolmentError> {
        self.send(request).await?.json().await.map_err(|source| self.unreachable(source))
    }

    async fn send(&self, request: reqwest::RequestBuilder) -> Result<reqwest::Response, EnrolmentError> {
        #[derive(Deserialize)]
        struct Body {
            error: Reason,
        }
        #[derive(Deserialize)]
        struct Reason {
            code: String,
        }
        let response = request.send().await.map_err(|source| self.unreachable(source))?;
        let status = response.status();
        if status.is_success() {
            return Ok(response);
        }
        let text = response.text().await.unwrap_or_default();
        let code = serde_json::from_str::<Body>(&text).ok().map(|body| body.error.code);
        let answer = text.chars().take(ERROR_TEXT_CHARS).collect();
        Err(EnrolmentError::Refused { status, code, answer })
    }

    fn unreachable(&self, source: reqwest::Error) -> EnrolmentError {
        EnrolmentError::Unreachable { url: self.url.clone(), source }
    }
}

/// The control plane decides which name the certificate gets.
fn key_and_request() -> Result<(rcgen::KeyPair, String), rcgen::Error> {
    let key = rcgen::KeyPair::generate()?;
    let csr = rcgen::CertificateParams::default().serialize_request(&key)?.pem()?;
    Ok((key, csr))
}

/// What a host reports.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Heartbeat {
    /// Grows with each change of what exists on the host.
    pub(crate) inventory_generation: u64,
    pub(crate) load: Load,
}

/// How busy a host is.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Load {
    pub(crate) sandboxes: usize,
    pub(crate) memory_used_mb: u64,
    pub(crate) disk_free_mb: u64,
    /// The system's load average over one minute.
    pub(crate) load1: f64,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn credentials_are_due_at_half_their_life_by_this_hosts_own_clock() {
        let granted = Granted {
            token: String::new(),
            token_expires_in_sec: 1000,
            refresh_token: String::new(),
            cert: String::new(),
            ca: String::new(),
        };
        let credentials = Credentials::new(Id::new(), granted, &rcgen::KeyPair::generate().unwrap());
        let then = credentials.obtained_at;
        assert!(!credentials.are_due_at(then));
        assert!(!credentials.are_due_at(then + 499));
        assert!(credentials.are_due_at(then + 500));
        assert!(credentials.are_due_at(then - 1), "the clock was put back");
    }

    #[test]
    fn credentials_of_an_earlier_version_are_read_and_due() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("credentials.json");
        assert!(Credentials::read(&file).unwrap().is_none());
        let id = Id::<Host>::new();
        let old = serde_json::json!({
            "host_id": id, "token": "t", "refresh_token": "r", "cert": "c", "key": "k", "ca": "a",
        });
        std::fs::write(&file, old.to_string()).unwrap();
        let read = Credentials::read(&file).unwrap().unwrap();
        assert!(read.are_due());
        read.write(&file).unwrap();
        assert_eq!(Credentials::read(&file).unwrap().unwrap().host_id, id);
        let mode = std::os::unix::fs::PermissionsExt::mode(&std::fs::metadata(&file).unwrap().permissions());
        assert_eq!(mode & 0o777, 0o600);
        std::fs::write(&file, "{").unwrap();
        assert!(matches!(Credentials::read(&file), Err(EnrolmentError::File { .. })));
    }

    #[test]
    fn only_the_control_planes_own_word_is_a_refusal() {
        let refused = |code: Option<&str>| EnrolmentError::Refused {
            status: reqwest::StatusCode::UNAUTHORIZED,
            code: code.map(str::to_owned),
            answer: String::new(),
        };
        assert!(refused(Some("unauthorized")).is_refusal());
        assert!(refused(Some("forbidden")).is_refusal());
        assert!(!refused(Some("not_found")).is_refusal());
        assert!(!refused(Some("internal_error")).is_refusal());
        assert!(!refused(None).is_refusal(), "a proxy's 401");
        assert!(!EnrolmentError::NoToken.is_refusal());
    }
}
