//! The platform's own certificate authority: ECDSA P-256, made at the first start.
//!
//! - A host's certificate is for serving only, under the one name that [`host_name`] gives: a host cannot call another host, nor
//!   pass for one.
//! - A control plane's certificate is for calling only. Each process makes its own and never writes it down.
//! - Of a host's signing request only the public key is taken; what names and uses it asks for is not looked at.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use rcgen::{
    BasicConstraints, Certificate, CertificateParams, CertificateSigningRequestParams, DistinguishedName,
    DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose, PKCS_ECDSA_P256_SHA256,
    SerialNumber,
};
use rustls::RootCertStore;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use sandbar_store::Store;
use sandbar_types::Id;
use sandbar_types::id::Host;
use serde::{Deserialize, Serialize};

use crate::secrets::{MasterKey, SecretError, random};

const DAY: Duration = Duration::from_secs(24 * 3600);
const CA_LIFE: Duration = Duration::from_secs(20 * 365 * 24 * 3600);
/// As long as a refresh token lasts, with which a host renews its certificate.
const HOST_LIFE: Duration = Duration::from_secs(60 * 24 * 3600);
/// A control plane makes a new one whenever it starts; none runs for so long.
const CLIENT_LIFE: Duration = Duration::from_secs(5 * 365 * 24 * 3600);

/// The name that a host's certificate carries and that the control plane asks for, whatever the host's address.
#[must_use]
pub fn host_name(id: Id<Host>) -> String {
    format!("{}.host.sandbar.internal", id.uuid())
}

/// Why a certificate could not be made.
#[derive(Debug, thiserror::Error)]
pub enum PkiError {
    /// The authority's key or certificate cannot be had.
    #[error("the certificate authority's key cannot be had")]
    Secret(#[from] SecretError),
    /// The signing request is not one, or not signed with its own key.
    #[error("not a valid certificate signing request")]
    Request(#[source] rcgen::Error),
    /// A certificate could not be made.
    #[error("a certificate could not be made")]
    Certificate(#[from] rcgen::Error),
    /// The TLS library does not take what was made.
    #[error("TLS could not be set up")]
    Tls(#[from] rustls::Error),
}

/// The authority.
pub(crate) struct CertificateAuthority {
    issuer: Issuer<'static, KeyPair>,
    cert_pem: String,
    cert_der: CertificateDer<'static>,
}

/// How the authority is kept.
#[derive(Serialize, Deserialize)]
struct Kept {
    cert_pem: String,
    key_pem: String,
}

impl CertificateAuthority {
    const NAME: &str = "certificate-authority";

    pub(crate) async fn load(master: &MasterKey, store: &Store) -> Result<Self, PkiError> {
        let fresh =
            serde_json::to_vec(&Kept::generate()?).map_err(|_| SecretError::Damaged { name: Self::NAME })?;
        let kept = master.secret(store, Self::NAME, || fresh).await?;
        let kept: Kept =
            serde_json::from_slice(&kept).map_err(|_| SecretError::Damaged { name: Self::NAME })?;
        Self::from_kept(kept)
    }

    fn from_kept(kept: Kept) -> Result<Self, PkiError> {
        let Kept { cert_pem, key_pem } = kept;
        let damaged = || SecretError::Damaged { name: Self::NAME };
        let issuer = Issuer::from_ca_cert_pem(&cert_pem, KeyPair::from_pem(&key_pem)?)?;
        let cert_der =
            rustls::pki_types::pem::PemObject::from_pem_slice(cert_pem.as_bytes()).map_err(|_| damaged())?;
        Ok(Self { issuer, cert_pem, cert_der })
    }

    /// The authority's own certificate.
    pub(crate) fn cert_pem(&self) -> &str {
        &self.cert_pem
    }

    /// Signs a host's request.
    pub(crate) fn sign_host(&self, id: Id<Host>, csr_pem: &str) -> Result<String, PkiError> {
        let request = CertificateSigningRequestParams::from_pem(csr_pem).map_err(PkiError::Request)?;
        let name = host_name(id);
        let mut params = leaf(&name, HOST_LIFE, ExtendedKeyUsagePurpose::ServerAuth);
        params.subject_alt_names = CertificateParams::new([name])?.subject_alt_names;
        Ok(params.signed_by(&request.public_key, &self.issuer)?.pem())
    }

    /// How this process calls hosts: it shows a certificate that only a control plane can have, and takes only hosts that this
    /// authority signed.
    pub(crate) fn client_config(&self) -> Result<Arc<rustls::ClientConfig>, PkiError> {
        let (cert, key) = self.client_certificate()?;
        let mut roots = RootCertStore::empty();
        roots.add(self.cert_der.clone())?;
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let mut config = rustls::ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&rustls::version::TLS13])?
            .with_root_certificates(roots)
            .with_client_auth_cert(vec![cert.der().clone()], key)?;
        config.alpn_protocols = vec![b"h2".to_vec()];
        Ok(Arc::new(config))
    }

    fn client_certificate(&self) -> Result<(Certificate, PrivateKeyDer<'static>), PkiError> {
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?;
        let params = leaf("control-plane.sandbar.internal", CLIENT_LIFE, ExtendedKeyUsagePurpose::ClientAuth);
        let cert = params.signed_by(&key, &self.issuer)?;
        Ok((cert, PrivatePkcs8KeyDer::from(key.serialize_der()).into()))
    }
}

impl Kept {
    fn generate() -> Result<Self, rcgen::Error> {
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?;
        let mut params = base("Sandbar platform CA", CA_LIFE);
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        Ok(Self { cert_pem: params.self_signed(&key)?.pem(), key_pem: key.serialize_pem() })
    }
}

fn leaf(name: &str, life: Duration, usage: ExtendedKeyUsagePurpose) -> CertificateParams {
    let mut params = base(name, life);
    params.is_ca = IsCa::ExplicitNoCa;
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![usage];
    params.use_authority_key_identifier_extension = true;
    params
}

fn base(name: &str, life: Duration) -> CertificateParams {
    let now = SystemTime::now();
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, name);
    // A peer whose clock is behind must not refuse what was just made.
    params.not_before = (now - DAY).into();
    params.not_after = (now + life).into();
    params.serial_number = Some(SerialNumber::from_slice(&random::<16>()));
    params
}

#[cfg(test)]
mod tests {
    use super::*;
    use x509_parser::prelude::{FromDer as _, GeneralName, X509Certificate};

    fn authority() -> CertificateAuthority {
        CertificateAuthority::from_kept(Kept::generate().unwrap()).unwrap()
    }

    fn request(ask: impl FnOnce(&mut CertificateParams)) -> String {
        let mut params = CertificateParams::default();
        ask(&mut params);
        params.serialize_request(&KeyPair::generate().unwrap()).unwrap().pem().unwrap()
    }

    fn der(pem: &str) -> CertificateDer<'static> {
        rustls::pki_types::pem::PemObject::from_pem_slice(pem.as_bytes()).unwrap()
    }

    #[test]
    fn a_host_gets_its_own_name_and_server_use_only_whatever_it_asks_for() {
        let id = Id::new();
        let greedy = request(|params| {
            params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
            params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
            params.subject_alt_names =
                CertificateParams::new([host_name(Id::new()), "*".to_owned()]).unwrap().subject_alt_names;
        });
        let cert = der(&authority().sign_host(id, &greedy).unwrap());
        let (_, cert) = X509Certificate::from_der(&cert).unwrap();
        assert!(!cert.is_ca());
        let names = &cert.subject_alternative_name().unwrap().unwrap().value.general_names;
        assert_eq!(names.as_slice(), [GeneralName::DNSName(&host_name(id))]);
        let uses = cert.extended_key_usage().unwrap().unwrap().value;
        assert!(uses.server_auth && !uses.client_auth && !uses.any);
    }

    #[test]
    fn garbage_and_requests_signed_with_another_key_are_refused() {
        let authority = authority();
        for bad in ["", "x", "-----BEGIN CERTIFICATE REQUEST-----\nAAAA\n-----END CERTIFICATE REQUEST-----\n"]
        {
            assert!(matches!(authority.sign_host(Id::new(), bad), Err(PkiError::Request(_))), "{bad:?}");
        }
        // The signature covers the key: changing one byte of the request breaks it.
        let mut der: Vec<u8> = {
            let pem = request(|_| ());
            let request: rustls::pki_types::CertificateSigningRequestDer<'static> =
                rustls::pki_types::pem::PemObject::from_pem_slice(pem.as_bytes()).unwrap();
            request.as_ref().to_vec()
        };
        let last = der.len() - 1;
        der[last] ^= 1;
        let text = base64::Engine::encode(&base64::engine::general_purpose::STANDARD, &der);
        let pem = format!("-----BEGIN CERTIFICATE REQUEST-----\n{text}\n-----END CERTIFICATE REQUEST-----\n");
        assert!(authority.sign_host(Id::new(), &pem).is_err());
    }

    #[test]
    fn a_control_planes_certificate_is_for_calling_only() {
        let (cert, _) = authority().client_certificate().unwrap();
        let (_, cert) = X509Certificate::from_der(cert.der()).unwrap();
        let uses = cert.extended_key_usage().unwrap().unwrap().value;
        assert!(uses.client_auth && !uses.server_auth);
        assert!(authority().client_config().is_ok());
    }

    #[test]
    fn a_peer_whose_clock_is_minutes_behind_takes_what_was_just_made() {
        let (authority, then) = (authority(), chrono::Utc::now().timestamp() - 600);
        let (client, _) = authority.client_certificate().unwrap();
        let host = der(&authority.sign_host(Id::new(), &request(|_| ())).unwrap());
        for cert in [&authority.cert_der, client.der(), &host] {
            let (_, cert) = X509Certificate::from_der(cert).unwrap();
            assert!(cert.validity().not_before.timestamp() < then);
        }
    }

    #[test]
    fn the_authority_survives_being_kept() {
        let kept = Kept::generate().unwrap();
        let again: Kept = serde_json::from_slice(&serde_json::to_vec(&kept).unwrap()).unwrap();
        let first = CertificateAuthority::from_kept(kept).unwrap();
        let second = CertificateAuthority::from_kept(again).unwrap();
        assert_eq!(first.cert_pem(), second.cert_pem());
        let cert = der(&second.sign_host(Id::new(), &request(|_| ())).unwrap());
        let (_, cert) = X509Certificate::from_der(&cert).unwrap();
        let (_, ca) = X509Certificate::from_der(&first.cert_der).unwrap();
        assert!(cert.verify_signature(Some(ca.public_key())).is_ok());
    }
}
