//! Mutual TLS: the agent shows the host's certificate, and serves nobody without a certificate that the fleet's authority issued
//! for clients. Hosts get none of those, so one host cannot call another.

use std::sync::{Arc, PoisonError, RwLock};

use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::{ClientHello, ResolvesServerCert, WebPkiClientVerifier};
use rustls::sign::CertifiedKey;

use crate::enrolment::Credentials;

/// Why the agent cannot serve with its credentials.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// A certificate or key is not PEM.
    #[error("a certificate or key is damaged")]
    Pem(#[from] rustls::pki_types::pem::Error),
    /// The authority's certificate is not usable.
    #[error("the fleet's authority is not usable")]
    Authority(#[from] rustls::server::VerifierBuilderError),
    /// Certificate and key are not usable together.
    #[error("the host's certificate is not usable")]
    Certificate(#[from] rustls::Error),
}

/// The certificate that the agent shows: the newest. Connections that were made with an older one go on.
#[derive(Debug)]
pub(crate) struct Identity(RwLock<Arc<CertifiedKey>>);

impl Identity {
    pub(crate) fn new(credentials: &Credentials) -> Result<Arc<Self>, TlsError> {
        Ok(Arc::new(Self(RwLock::new(certified(credentials)?))))
    }

    /// From now on this one.
    pub(crate) fn show(&self, credentials: &Credentials) -> Result<(), TlsError> {
        let certified = certified(credentials)?;
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = certified;
        Ok(())
    }
}

impl ResolvesServerCert for Identity {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(Arc::clone(&self.0.read().unwrap_or_else(PoisonError::into_inner)))
    }
}

fn certified(credentials: &Credentials) -> Result<Arc<CertifiedKey>, TlsError> {
    let chain = CertificateDer::pem_slice_iter(credentials.cert.as_bytes()).collect::<Result<Vec<_>, _>>()?;
    let key = PrivateKeyDer::from_pem_slice(credentials.key.as_bytes())?;
    let provider = rustls::crypto::aws_lc_rs::default_provider();
    // Checks that the two belong together.
    Ok(Arc::new(CertifiedKey::from_der(chain, key, &provider)?))
}

/// The server's configuration.
pub(crate) fn server_config(
    credentials: &Credentials,
    identity: Arc<Identity>,
) -> Result<Arc<rustls::ServerConfig>, TlsError> {
    let mut roots = rustls::RootCertStore::empty();
    for authority in CertificateDer::pem_slice_iter(credentials.ca.as_bytes()) {
        roots.add(authority?)?;
    }
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let clients =
        WebPkiClientVerifier::builder_with_provider(Arc::new(roots), Arc::clone(&provider)).build()?;
    let mut config = rustls::ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .with_client_cert_verifier(clients)
        .with_cert_resolver(identity);
    config.alpn_protocols = vec![b"h2".to_vec()];
    Ok(Arc::new(config))
}
