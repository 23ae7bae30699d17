//! What the edge keeps of a public authority's certificates, sealed in the database, so that of several control planes one orders and
//! all serve.

use sandbar_store::StoreError;
use sandbar_store::listen::{Told, Topic};
use sandbar_store::locks::{Held, Lock};

use crate::Control;
use crate::news::Reader;
use crate::secrets::SecretError;

/// Something that is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kept<'a> {
    /// The account at the authority that has this directory.
    Account(&'a str),
    /// A domain's certificate, with its key.
    Certificate(&'a str),
    /// The records that an order for a domain has set and may not have removed.
    Records(&'a str),
}

impl Kept<'_> {
    fn name(self) -> String {
        match self {
            Self::Account(directory) => format!("acme-account/{directory}"),
            Self::Certificate(domain) => format!("acme-certificate/{domain}"),
            Self::Records(domain) => format!("acme-records/{domain}"),
        }
    }
}

/// Tells of certificates that come.
pub struct CertificateNews(Reader);

impl CertificateNews {
    /// Waits until a certificate was kept, by whichever control plane, or one may have been.
    pub async fn wait(&mut self) {
        self.0.wait(|told| matches!(told, Told::Of(Topic::Certificates, _))).await;
    }
}

impl Control {
    /// What is kept, as it was given.
    pub async fn certificate_kept(&self, what: Kept<'_>) -> Result<Option<Vec<u8>>, SecretError> {
        self.certificate_key().find(self.store(), &what.name()).await
    }

    /// Keeps something in place of what was there.
    pub async fn certificate_keep(&self, what: Kept<'_>, secret: &[u8]) -> Result<(), SecretError> {
        self.certificate_key().put(self.store(), &what.name(), secret).await
    }

    /// The turn to order certificates, unless another control plane has it. It ends when this is dropped, or its holder dies.
    pub async fn certificate_turn(&self) -> Result<Option<Held>, StoreError> {
        self.store().try_lock(Lock::Certificates).await
    }

    /// What is told of certificates from now on.
    #[must_use]
    pub fn certificate_news(&self) -> CertificateNews {
        CertificateNews(self.news().subscribe(self.store()))
    }
}
