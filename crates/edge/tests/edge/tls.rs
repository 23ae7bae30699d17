//! Certificates: those of the local authority, and others in their place while the listener serves.

use std::path::Path;
use std::sync::Arc;

use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, RootCertStore, ServerConfig};
use sandbar_edge::{local_authority, tls};
use tokio::io::DuplexStream;
use tokio_rustls::{TlsAcceptor, TlsConnector, client, server};

/// A connection between a client that trusts some authorities and a server: both ends.
pub(crate) async fn connect(
    server: &Arc<ServerConfig>,
    roots: &RootCertStore,
    name: &str,
) -> std::io::Result<(client::TlsStream<DuplexStream>, server::TlsStream<DuplexStream>)> {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let client = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots.clone())
        .with_no_client_auth();
    let (here, there) = tokio::io::duplex(1 << 16);
    let serving = tokio::spawn(TlsAcceptor::from(Arc::clone(server)).accept(there));
    let name = ServerName::try_from(name.to_owned()).unwrap();
    let stream = TlsConnector::from(Arc::new(client)).connect(name, here).await?;
    Ok((stream, serving.await.unwrap()?))
}

/// A handshake; the server's certificate.
pub(crate) async fn greet(
    server: &Arc<ServerConfig>,
    roots: &RootCertStore,
    name: &str,
) -> std::io::Result<CertificateDer<'static>> {
    let (client, _server) = connect(server, roots, name).await?;
    Ok(client.get_ref().1.peer_certificates().unwrap()[0].clone().into_owned())
}

fn trusting(authority: &Path) -> RootCertStore {
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_file(authority).unwrap()).unwrap();
    roots
}

#[tokio::test]
async fn the_local_authority_speaks_for_its_domain_and_for_nothing_else() {
    let folder = tempfile::tempdir().unwrap();
    let made = local_authority::ensure(folder.path(), "sbx.test").unwrap();
    let server = tls::server_config(made.server).unwrap();
    for name in ["sbx.test", "api.sbx.test", "49983-0192f0c15c4e7a3b9d2e3f4a5b6c7d8e.sbx.test"] {
        greet(&server, &trusting(&made.authority), name).await.expect(name);
    }
    for name in ["other.test", "a.b.sbx.test", "test"] {
        assert!(greet(&server, &trusting(&made.authority), name).await.is_err(), "{name}");
    }
}

#[tokio::test]
async fn another_certificate_is_in_use_from_the_next_handshake_on() {
    let folder = tempfile::tempdir().unwrap();
    let made = local_authority::ensure(folder.path(), "sbx.test").unwrap();
    let server = tls::server_config(made.server.clone()).unwrap();
    let first = greet(&server, &trusting(&made.authority), "sbx.test").await.unwrap();
    assert_eq!(greet(&server, &trusting(&made.authority), "sbx.test").await.unwrap(), first);

    // What cannot be used changes nothing.
    let chain = std::fs::read(&made.server.chain).unwrap();
    std::fs::write(&made.server.chain, "no certificate").unwrap();
    assert_eq!(greet(&server, &trusting(&made.authority), "sbx.test").await.unwrap(), first);
    std::fs::write(&made.server.chain, chain).unwrap();
    assert_eq!(greet(&server, &trusting(&made.authority), "sbx.test").await.unwrap(), first);

    std::fs::remove_file(&made.server.chain).unwrap();
    local_authority::ensure(folder.path(), "sbx.test").unwrap();
    let second = greet(&server, &trusting(&made.authority), "sbx.test").await.unwrap();
    assert_ne!(second, first);
}
