//! Certificates from files that whoever renews them replaces: looked at with every handshake, read when they are others. No restart and
//! no signal; files that cannot be used change nothing, and the log tells of them. In place of the files' one another can be served, put
//! there while the listener serves ([`Replaceable`]).

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::SystemTime;

use rustls::ServerConfig;
use rustls::crypto::CryptoProvider;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;

/// Why certificates cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// A file cannot be read.
    #[error("cannot read {path}")]
    File {
        /// Which.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// A file is not what it should be.
    #[error("{path} is not PEM of the right kind")]
    Pem {
        /// Which.
        path: PathBuf,
        /// Why.
        #[source]
        source: rustls::pki_types::pem::Error,
    },
    /// A chain without a certificate.
    #[error("{path} has no certificate")]
    Empty {
        /// Which.
        path: PathBuf,
    },
    /// Certificate and key cannot be used together.
    #[error("the certificate in {path} cannot be used with its key")]
    Pair {
        /// The certificate's file.
        path: PathBuf,
        /// Why.
        #[source]
        source: rustls::Error,
    },
    /// The TLS library does not take the configuration.
    #[error("TLS cannot be set up")]
    Library(#[from] rustls::Error),
}

/// A certificate chain and its key, in PEM.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CertificateFiles {
    /// The chain, the server's own certificate first.
    pub chain: PathBuf,
    /// The private key.
    pub key: PathBuf,
}

/// How the listener speaks TLS: HTTP/2 and HTTP/1.1, with whatever certificate the files hold at the time.
pub fn server_config(files: CertificateFiles) -> Result<Arc<ServerConfig>, TlsError> {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let reloading = Reloading::open(files, Arc::clone(&provider))?;
    config(provider, Arc::new(reloading))
}

/// The same, but that another certificate can be put in the files' place.
pub fn replaceable_config(
    files: CertificateFiles,
) -> Result<(Arc<ServerConfig>, Arc<Replaceable>), TlsError> {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let files = Reloading::open(files, Arc::clone(&provider))?;
    let replaceable = Arc::new(Replaceable { files, replaced: RwLock::default() });
    let resolver: Arc<dyn ResolvesServerCert> = Arc::<Replaceable>::clone(&replaceable);
    Ok((config(provider, resolver)?, replaceable))
}

fn config(
    provider: Arc<CryptoProvider>,
    resolver: Arc<dyn ResolvesServerCert>,
) -> Result<Arc<ServerConfig>, TlsError> {
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_no_client_auth()
        .with_cert_resolver(resolver);
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(Arc::new(config))
}

/// Serves by a certificate from memory for as long as that lasts, and by the files' one before and after.
#[derive(Debug)]
pub struct Replaceable {
    files: Reloading,
    replaced: RwLock<Option<(Arc<CertifiedKey>, SystemTime)>>,
}

impl Replaceable {
    /// From the next handshake on a chain is served, until it ends. `key` is in PEM. False: it was served already.
    pub fn replace(
        &self,
        chain: Vec<CertificateDer<'static>>,
        key: &str,
        ends: SystemTime,
    ) -> Result<bool, TlsError> {
        let in_memory = || PathBuf::from("the kept certificate");
        let key = PrivateKeyDer::from_pem_slice(key.as_bytes())
            .map_err(|source| TlsError::Pem { path: in_memory(), source })?;
        let new = CertifiedKey::from_der(chain, key, &self.files.provider)
            .map_err(|source| TlsError::Pair { path: in_memory(), source })?;
        let mut replaced = self.replaced.write().unwrap_or_else(PoisonError::into_inner);
        let is_other = replaced.as_ref().is_none_or(|(served, _)| served.cert != new.cert);
        if is_other {
            *replaced = Some((Arc::new(new), ends));
        }
        Ok(is_other)
    }
}

impl ResolvesServerCert for Replaceable {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let replaced = self.replaced.read().unwrap_or_else(PoisonError::into_inner);
        match &*replaced {
            Some((key, ends)) if *ends > SystemTime::now() => Some(Arc::clone(key)),
            _ => Some(self.files.current()),
        }
    }
}

/// Tells one content of the files from another.
type Stamp = [Option<(SystemTime, u64)>; 2];

#[derive(Debug)]
struct Reloading {
    files: CertificateFiles,
    provider: Arc<CryptoProvider>,
    current: RwLock<(Stamp, Arc<CertifiedKey>)>,
}

impl Reloading {
    fn open(files: CertificateFiles, provider: Arc<CryptoProvider>) -> Result<Self, TlsError> {
        let current = RwLock::new((stamp(&files), Arc::new(read(&files, &provider)?)));
        Ok(Self { files, provider, current })
    }

    fn current(&self) -> Arc<CertifiedKey> {
        let now = stamp(&self.files);
        {
            let current = self.current.read().unwrap_or_else(PoisonError::into_inner);
            if current.0 == now {
                return Arc::clone(&current.1);
            }
        }
        self.reload(now)
    }

    fn reload(&self, now: Stamp) -> Arc<CertifiedKey> {
        let mut current = self.current.write().unwrap_or_else(PoisonError::into_inner);
        if current.0 != now {
            match read(&self.files, &self.provider) {
                Ok(key) => {
                    tracing::info!(chain = %self.files.chain.display(), "another certificate is in use from now on");
                    *current = (now, Arc::new(key));
                }
                Err(error) => {
                    // One of the two may still be on its way; the next look sees that.
                    tracing::warn!(
                        error = &error as &dyn std::error::Error,
                        "the certificate is used that was there before"
                    );
                    current.0 = now;
                }
            }
        }
        Arc::clone(&current.1)
    }
}

impl ResolvesServerCert for Reloading {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(self.current())
    }
}

fn stamp(files: &CertificateFiles) -> Stamp {
    [&files.chain, &files.key].map(|path| {
        let metadata = fs::metadata(path).ok()?;
        Some((metadata.modified().ok()?, metadata.len()))
    })
}

fn read(files: &CertificateFiles, provider: &CryptoProvider) -> Result<CertifiedKey, TlsError> {
    let pem = |path: &Path| {
        let path = path.to_owned();
        move |source| TlsError::Pem { path, source }
    };
    let contents =
        |path: &PathBuf| fs::read(path).map_err(|source| TlsError::File { path: path.clone(), source });
    let chain = CertificateDer::pem_slice_iter(&contents(&files.chain)?).collect::<Result<Vec<_>, _>>();
    let chain = chain.map_err(pem(&files.chain))?;
    if chain.is_empty() {
        return Err(TlsError::Empty { path: files.chain.clone() });
    }
    let key = PrivateKeyDer::from_pem_slice(&contents(&files.key)?).map_err(pem(&files.key))?;
    CertifiedKey::from_der(chain, key, provider)
        .map_err(|source| TlsError::Pair { path: files.chain.clone(), source })
}
