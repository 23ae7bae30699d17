//! A certificate authority of the installation's own, for a domain that no public one certifies. Whoever trusts its certificate trusts
//! the names below that domain; it is made for these alone.
//!
//! ```text
//! ca.pem      the authority's certificate, to be given to clients
//! ca.key      its key (0600)
//! server.pem  the listener's certificate, for DOMAIN and *.DOMAIN
//! server.key  its key (0600)
//! ```

use std::fs::{self, File};
use std::io::{self, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, GeneralSubtree, IsCa, Issuer,
    KeyPair, KeyUsagePurpose, NameConstraints, PKCS_ECDSA_P256_SHA256,
};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;
use x509_parser::prelude::{FromDer as _, GeneralName, X509Certificate};

use crate::tls::CertificateFiles;

const DAY: Duration = Duration::from_secs(24 * 3600);
const AUTHORITY_LIFE: Duration = Duration::from_secs(10 * 365 * 24 * 3600);
/// As long as the strictest clients take.
const SERVER_LIFE: Duration = Duration::from_secs(397 * 24 * 3600);
/// A certificate that ends before this is made anew.
const RENEWED: Duration = Duration::from_secs(120 * 24 * 3600);

/// Why there is no certificate.
#[derive(Debug, thiserror::Error)]
pub enum AuthorityError {
    /// The domain cannot be one.
    #[error("{0:?} is not a domain: letters, digits and dashes between dots")]
    Domain(String),
    /// A file cannot be read or written.
    #[error("cannot use {path}")]
    File {
        /// Which.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// A certificate or a key cannot be made or read.
    #[error("a certificate cannot be made")]
    Certificate(#[from] rcgen::Error),
}

/// What the listener and its clients need.
#[derive(Debug, Clone)]
pub struct LocalCertificate {
    /// The authority's certificate, for clients.
    pub authority: PathBuf,
    /// The listener's.
    pub server: CertificateFiles,
}

/// Whether text can be the domain below which sandboxes have names: lower case, and not only a top-level one's characters.
#[must_use]
pub fn is_domain(text: &str) -> bool {
    let is_label = |label: &str| {
        (1..=63).contains(&label.len())
            && !label.starts_with('-')
            && !label.ends_with('-')
            && label.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
    };
    // The longest name below it is `65535-sb-UUID.`
    text.len() <= 200 && text.split('.').all(is_label)
}

/// Makes what is missing in the folder, or of another domain, or about to end. What is complete stays. A start may be cut at any point:
/// no certificate is there whose key is not.
pub fn ensure(folder: &Path, domain: &str) -> Result<LocalCertificate, AuthorityError> {
    make(folder, domain, &mut replace)
}

/// Writes a file: its path, contents and mode.
type Write<'a> = &'a mut dyn FnMut(&Path, &[u8], u32) -> Result<(), AuthorityError>;

fn make(folder: &Path, domain: &str, write: Write<'_>) -> Result<LocalCertificate, AuthorityError> {
    if !is_domain(domain) {
        return Err(AuthorityError::Domain(domain.to_owned()));
    }
    let at = |name: &str| folder.join(name);
    let authority = at("ca.pem");
    let server = CertificateFiles { chain: at("server.pem"), key: at("server.key") };
    let usable = |path: &Path, names: &[&str]| is_usable(path, names);

    let constraint = [domain];
    if !usable(&authority, &constraint) || !at("ca.key").exists() {
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?;
        let certificate = authority_params(domain)?.self_signed(&key)?;
        // What the authority before has signed, and what was its own, go first, and the certificate comes last: without it the key is
        // nothing, and both are made again.
        remove(folder, &[&server.chain, &authority])?;
        write(&at("ca.key"), key.serialize_pem().as_bytes(), 0o600)?;
        write(&authority, certificate.pem().as_bytes(), 0o644)?;
    }
    let wildcard = format!("*.{domain}");
    if !usable(&server.chain, &[domain, &wildcard]) || !server.key.exists() {
        let issuer = Issuer::from_ca_cert_pem(&read(&authority)?, KeyPair::from_pem(&read(&at("ca.key"))?)?)?;
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?;
        let certificate = server_params(&[domain, &wildcard])?.signed_by(&key, &issuer)?;
        remove(folder, &[&server.chain])?;
        write(&server.key, key.serialize_pem().as_bytes(), 0o600)?;
        write(&server.chain, certificate.pem().as_bytes(), 0o644)?;
    }
    Ok(LocalCertificate { authority, server })
}

fn authority_params(domain: &str) -> Result<CertificateParams, rcgen::Error> {
    let mut params = lasting(Vec::new(), AUTHORITY_LIFE)?;
    params.distinguished_name.push(DnType::CommonName, format!("Sandbar local authority for {domain}"));
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    // Whoever gets hold of its key can speak for nobody else.
    params.name_constraints = Some(NameConstraints {
        permitted_subtrees: vec![GeneralSubtree::DnsName(domain.to_owned())],
        excluded_subtrees: Vec::new(),
    });
    Ok(params)
}

fn server_params(names: &[&str]) -> Result<CertificateParams, rcgen::Error> {
    let mut params = lasting(names.iter().map(|name| (*name).to_owned()).collect(), SERVER_LIFE)?;
    params.is_ca = IsCa::ExplicitNoCa;
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    params.use_authority_key_identifier_extension = true;
    Ok(params)
}

fn lasting(names: Vec<String>, life: Duration) -> Result<CertificateParams, rcgen::Error> {
    let mut params = CertificateParams::new(names)?;
    params.distinguished_name = rcgen::DistinguishedName::new();
    let now = SystemTime::now();
    // A client whose clock is behind must not refuse what was just made.
    params.not_before = (now - DAY).into();
    params.not_after = (now + life - DAY).into();
    Ok(params)
}

/// Whether a certificate is there, for these names, and for some time yet. One that cannot be read is not.
fn is_usable(path: &Path, names: &[&str]) -> bool {
    let Ok(der) = CertificateDer::from_pem_file(path) else { return false };
    let Ok((_, certificate)) = X509Certificate::from_der(&der) else { return false };
    let since_epoch = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    let wanted = i64::try_from((since_epoch + RENEWED).as_secs()).unwrap_or(i64::MAX);
    if certificate.validity().not_after.timestamp() < wanted {
        return false;
    }
    let own = match certificate.subject_alternative_name() {
        Ok(Some(own)) => own.value.general_names.iter().collect::<Vec<_>>(),
        _ => match certificate.name_constraints() {
            Ok(Some(own)) => own.value.permitted_subtrees.iter().flatten().map(|tree| &tree.base).collect(),
            _ => Vec::new(),
        },
    };
    let own = own.into_iter().filter_map(|name| match name {
        GeneralName::DNSName(name) => Some(*name),
        _ => None,
    });
    own.eq(names.iter().copied())
}

fn read(path: &Path) -> Result<String, AuthorityError> {
    fs::read_to_string(path).map_err(|source| AuthorityError::File { path: path.to_owned(), source })
}

/// Removes files of the folder, so that none of them comes back when the power goes.
fn remove(folder: &Path, paths: &[&Path]) -> Result<(), AuthorityError> {
    let failed = |path: &Path, source| AuthorityError::File { path: path.to_owned(), source };
    for path in paths {
        match fs::remove_file(path) {
            Err(source) if source.kind() != io::ErrorKind::NotFound => return Err(failed(path, source)),
            _ => {}
        }
    }
    File::open(folder).and_then(|folder| folder.sync_all()).map_err(|source| failed(folder, source))
}

/// All of it or nothing, also when the power goes.
fn replace(path: &Path, contents: &[u8], mode: u32) -> Result<(), AuthorityError> {
    let temporary = path.with_extension(format!("new-{}", std::process::id()));
    let write = || -> io::Result<()> {
        let mut file = File::options().write(true).create(true).truncate(true).mode(mode).open(&temporary)?;
        file.write_all(contents)?;
        file.sync_all()?;
        fs::rename(&temporary, path)?;
        File::open(path.parent().unwrap_or(Path::new("/")))?.sync_all()
    };
    write().map_err(|source| {
        // The error that is told is the first one.
        let _ = fs::remove_file(&temporary);
        AuthorityError::File { path: path.to_owned(), source }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_domain_is_one_that_names_can_stand_below() {
        for good in ["sbx.test", "localhost", "a-b.c1.example"] {
            assert!(is_domain(good), "{good}");
        }
        for bad in ["", ".", "a..b", "A.b", "-a.b", "a-.b", "*.a", "a.b:8443", "a b", &"a".repeat(64)] {
            assert!(!is_domain(bad), "{bad:?}");
        }
    }

    #[test]
    fn what_is_complete_stays_and_what_is_not_is_made() {
        let folder = tempfile::tempdir().unwrap();
        let contents = || {
            ["ca.pem", "ca.key", "server.pem", "server.key"]
                .map(|name| fs::read_to_string(folder.path().join(name)).unwrap())
        };
        ensure(folder.path(), "sbx.test").unwrap();
        let first = contents();
        ensure(folder.path(), "sbx.test").unwrap();
        assert_eq!(contents(), first);
        // A start that was cut before the certificate.
        fs::remove_file(folder.path().join("server.pem")).unwrap();
        ensure(folder.path(), "sbx.test").unwrap();
        let second = contents();
        assert_eq!(second[..2], first[..2]);
        assert_ne!(second[2..], first[2..]);
        // Another domain is another authority's.
        ensure(folder.path(), "other.test").unwrap();
        assert!(contents().iter().zip(&second).all(|(now, before)| now != before));
        assert!(ensure(folder.path(), "*.test").is_err());
    }

    /// The public key of a certificate, and that of a key, in files.
    fn public_keys(certificate: &Path, key: &Path) -> [Vec<u8>; 2] {
        let der = CertificateDer::from_pem_file(certificate).unwrap();
        let (_, certificate) = X509Certificate::from_der(&der).unwrap();
        let key = KeyPair::from_pem(&read(key).unwrap()).unwrap();
        let raw = rcgen::PublicKeyData::der_bytes(&key).to_vec();
        [certificate.public_key().subject_public_key.data.to_vec(), raw]
    }

    #[test]
    fn a_start_that_is_cut_anywhere_leaves_nothing_that_the_next_one_cannot_use() {
        for (keys_are_lost, domain) in [(true, "sbx.test"), (false, "other.test")] {
            for cut in 0..4 {
                let folder = tempfile::tempdir().unwrap();
                let at = |name: &str| folder.path().join(name);
                ensure(folder.path(), "sbx.test").unwrap();
                if keys_are_lost {
                    fs::remove_file(at("ca.key")).unwrap();
                    fs::remove_file(at("server.key")).unwrap();
                }
                let mut written = 0;
                let mut write = |path: &Path, contents: &[u8], mode| {
                    if written == cut {
                        let source = io::Error::other("the power went");
                        return Err(AuthorityError::File { path: path.to_owned(), source });
                    }
                    written += 1;
                    replace(path, contents, mode)
                };
                make(folder.path(), domain, &mut write).unwrap_err();
                // Also one that wants again what there was before.
                let made = ensure(folder.path(), "sbx.test").unwrap();
                crate::tls::server_config(made.server).expect("the listener's pair");
                let [certified, own] = public_keys(&at("ca.pem"), &at("ca.key"));
                assert_eq!(certified, own, "{domain}, cut at {cut}");
            }
        }
    }
}
