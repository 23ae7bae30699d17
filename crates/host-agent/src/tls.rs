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

#[cfg(test)]
mod tests {
    use super::*;
    use rcgen::{
        BasicConstraints, CertificateParams, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose,
    };
    use rustls::{ClientConfig, ClientConnection, ServerConnection};

    const HOST: &str = "h.host.sandbar.internal";

    /// An authority: its certificate, and what it signs with.
    fn authority() -> (String, Issuer<'static, KeyPair>) {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        let cert = params.self_signed(&key).unwrap().pem();
        (cert, Issuer::new(params, key))
    }

    /// A certificate and its key.
    fn leaf(issuer: &Issuer<'static, KeyPair>, usage: ExtendedKeyUsagePurpose) -> (String, String) {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new([HOST.to_owned()]).unwrap();
        params.extended_key_usages = vec![usage];
        (params.signed_by(&key, issuer).unwrap().pem(), key.serialize_pem())
    }

    fn credentials(ca: &str, issuer: &Issuer<'static, KeyPair>) -> Credentials {
        let (cert, key) = leaf(issuer, ExtendedKeyUsagePurpose::ServerAuth);
        let id = sandbar_types::Id::<sandbar_types::id::Host>::new();
        let kept = serde_json::json!({
            "host_id": id, "token": "", "refresh_token": "", "cert": cert, "key": key, "ca": ca,
        });
        serde_json::from_value(kept).unwrap()
    }

    fn caller(ca: &str, own: Option<(String, String)>) -> Arc<ClientConfig> {
        let mut roots = rustls::RootCertStore::empty();
        roots.add(CertificateDer::from_pem_slice(ca.as_bytes()).unwrap()).unwrap();
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let builder = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots);
        Arc::new(match own {
            None => builder.with_no_client_auth(),
            Some((cert, key)) => {
                let chain = vec![CertificateDer::from_pem_slice(cert.as_bytes()).unwrap()];
                builder
                    .with_client_auth_cert(chain, PrivateKeyDer::from_pem_slice(key.as_bytes()).unwrap())
                    .unwrap()
            }
        })
    }

    /// A handshake in memory: the certificate that the agent showed.
    fn call(server: &Arc<rustls::ServerConfig>, caller: Arc<ClientConfig>) -> Result<Vec<u8>, rustls::Error> {
        let mut server = ServerConnection::new(Arc::clone(server)).unwrap();
        let mut client = ClientConnection::new(caller, HOST.try_into().unwrap()).unwrap();
        while server.is_handshaking()
            || client.is_handshaking()
            || client.wants_write()
            || server.wants_write()
        {
            let mut wire = Vec::new();
            client.write_tls(&mut wire).unwrap();
            let mut sent = wire.as_slice();
            while !sent.is_empty() {
                server.read_tls(&mut sent).unwrap();
                server.process_new_packets()?;
            }
            let mut wire = Vec::new();
            server.write_tls(&mut wire).unwrap();
            let mut sent = wire.as_slice();
            while !sent.is_empty() {
                client.read_tls(&mut sent).unwrap();
                client.process_new_packets()?;
            }
        }
        Ok(client.peer_certificates().unwrap()[0].to_vec())
    }

    #[test]
    fn the_newest_certificate_is_shown_without_a_new_server() {
        let (ca, issuer) = authority();
        let (old, new) = (credentials(&ca, &issuer), credentials(&ca, &issuer));
        let identity = Identity::new(&old).unwrap();
        let server = server_config(&old, Arc::clone(&identity)).unwrap();
        let control = || caller(&ca, Some(leaf(&issuer, ExtendedKeyUsagePurpose::ClientAuth)));
        let der = |pem: &str| CertificateDer::from_pem_slice(pem.as_bytes()).unwrap().to_vec();
        assert_eq!(call(&server, control()).unwrap(), der(&old.cert));
        identity.show(&new).unwrap();
        assert_eq!(call(&server, control()).unwrap(), der(&new.cert));
        // A key that is another certificate's cannot be shown, and changes nothing.
        let mut torn = new.clone();
        torn.key.clone_from(&old.key);
        assert!(identity.show(&torn).is_err());
        assert_eq!(call(&server, control()).unwrap(), der(&new.cert));
    }

    #[test]
    fn nobody_is_served_without_a_callers_certificate_of_the_same_authority() {
        let ((ca, issuer), (_, strange)) = (authority(), authority());
        let own = credentials(&ca, &issuer);
        let server = server_config(&own, Identity::new(&own).unwrap()).unwrap();
        assert!(call(&server, caller(&ca, None)).is_err());
        let stranger = leaf(&strange, ExtendedKeyUsagePurpose::ClientAuth);
        assert!(call(&server, caller(&ca, Some(stranger))).is_err());
        // Another host's.
        let host = leaf(&issuer, ExtendedKeyUsagePurpose::ServerAuth);
        assert!(call(&server, caller(&ca, Some(host))).is_err());
    }
}
