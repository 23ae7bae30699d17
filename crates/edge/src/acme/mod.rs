//! Certificates of a public authority, by its protocol ACME (RFC 8555): ordered, kept and renewed by the edge itself.
//!
//! ```text
//!   keeper   what is kept is served; when its time comes, and whose turn it is: order
//!     order    account -> order for DOMAIN and *.DOMAIN -> records -> asked of the zone's servers -> challenge -> certificate
//!       records  how the TXT records are set: update (RFC 2136, TSIG) or hook (a program of the operator's)
//!       dns      questions to name servers
//!       http     the authority
//! ```
//!
//! Names of sandboxes need a wildcard, which authorities give for a challenge by DNS alone (DNS-01). Account, certificate and the records
//! that are set are in the database, sealed (`sandbar_control::certificates`): of several control planes one orders, all serve, and the
//! next one removes what a dead one has left in the zone.

mod dns;
mod hook;
mod http;
mod keeper;
mod order;
mod update;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use sandbar_control::secrets::SecretError;
use sandbar_store::StoreError;

pub use dns::{DnsError, system_resolvers};
pub use hook::{Hook, HookError};
pub use keeper::{Keeper, Pace};
pub use update::{UpdateError, UpdateServer};

use crate::tls::TlsError;

/// What an operator says of an authority.
#[derive(Debug, Clone)]
pub struct Settings {
    /// The certificate is for this name and the names one step below it.
    pub domain: String,
    /// Whom the authority may write to.
    pub email: String,
    /// Where the authority's protocol begins: a URL.
    pub directory: String,
    /// Certificates, in PEM, by which the authority's own server is trusted, beside those that the system trusts.
    pub trusted: Option<PathBuf>,
    /// How records come into the zone.
    pub records: Records,
    /// Resolvers that find the zone and its servers.
    pub resolvers: Vec<SocketAddr>,
    /// How soon things are tried again.
    pub pace: Pace,
}

/// How records come into the zone.
#[derive(Debug, Clone)]
pub enum Records {
    /// By updates of a name server.
    Update(UpdateServer),
    /// By a program.
    Hook(Hook),
}

/// Why there is no new certificate.
#[derive(Debug, thiserror::Error)]
pub enum AcmeError {
    /// The file of trusted certificates cannot be used.
    #[error("cannot use the certificates in {path}")]
    Trusted {
        /// Which file.
        path: PathBuf,
        /// Why.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The authority cannot be reached, or refuses.
    #[error("the certificate authority, {step}")]
    Authority {
        /// What was asked of it.
        step: &'static str,
        /// Why.
        #[source]
        source: instant_acme::Error,
    },
    /// The authority looked for the records and was not content.
    #[error("the certificate authority does not accept the records: {told}")]
    Refused {
        /// In its words.
        told: String,
    },
    /// The authority has no challenge by DNS for the name.
    #[error("the certificate authority offers no challenge by DNS")]
    NoChallenge,
    /// The zone cannot be found.
    #[error("cannot find out who serves {name}")]
    Zone {
        /// Whose zone.
        name: String,
        /// Why.
        #[source]
        source: DnsError,
    },
    /// The zone's servers do not have the records.
    #[error("the records for {name} were set, but {lacking} did not show them within {} s", .waited.as_secs())]
    NotShown {
        /// Their name.
        name: String,
        /// The servers.
        lacking: String,
        /// For how long they were asked.
        waited: Duration,
    },
    /// A record cannot be set by an update.
    #[error("the records cannot be set")]
    Update(#[from] UpdateError),
    /// A record cannot be set by the program.
    #[error("the records cannot be set")]
    Hook(#[from] HookError),
    /// A certificate's key cannot be made.
    #[error("a certificate cannot be requested")]
    Request(#[from] rcgen::Error),
    /// The certificate is no certificate for its key and the domain.
    #[error("the certificate cannot be used: {0}")]
    Unusable(&'static str),
    /// The certificate cannot be used for TLS.
    #[error("the certificate cannot be used")]
    Tls(#[from] TlsError),
    /// What is kept cannot be opened.
    #[error("what is kept of the certificate cannot be used")]
    Kept(#[from] SecretError),
    /// The database failed.
    #[error("the database failed")]
    Store(#[from] StoreError),
    /// The order takes too long.
    #[error("the order was not done within {} minutes", .limit.as_secs() / 60)]
    TooSlow {
        /// How long it may take.
        limit: Duration,
    },
}

impl Records {
    /// Sets TXT records of one name, beside those that are there.
    async fn set(&self, name: &hickory_proto::rr::Name, values: &[String]) -> Result<(), AcmeError> {
        match self {
            Self::Update(server) => Ok(server.add(name, values).await?),
            Self::Hook(hook) => Ok(hook.present(name, values).await?),
        }
    }

    /// Removes them. Those that are not there are not missed.
    async fn remove(&self, name: &hickory_proto::rr::Name, values: &[String]) -> Result<(), AcmeError> {
        match self {
            Self::Update(server) => Ok(server.delete(name, values).await?),
            Self::Hook(hook) => Ok(hook.clean_up(name, values).await?),
        }
    }
}
