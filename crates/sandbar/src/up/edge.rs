//! Names of sandboxes, and HTTPS: with certificates of the operator's, of an authority that is made here, or of a public one.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;

use anyhow::{Context as _, bail};
use clap::Args;
use sandbar_api::Listener;
use sandbar_control::Control;
use sandbar_edge::acme::{Keeper, Settings};
use sandbar_edge::local_authority;
use sandbar_edge::tls::{self, CertificateFiles, Replaceable};

use super::acme::AcmeArgs;
use crate::data_dir::DataDir;

/// The port that URLs need not name.
const HTTPS_PORT: u16 = 443;

#[derive(Debug, Args)]
pub(super) struct EdgeArgs {
    /// Ports of sandboxes are reached as PORT-ID.NAME, by HTTPS too. A port of this name (NAME:443) is what clients are told, where a
    /// proxy stands before --https-listen
    #[arg(long, env = "SANDBAR_DOMAIN", value_name = "NAME")]
    domain: Option<String>,

    /// Address for HTTPS, where there is a --domain or a --tls-cert
    #[arg(long, env = "SANDBAR_HTTPS_LISTEN", value_name = "ADDRESS:PORT", default_value = "127.0.0.1:8443")]
    https_listen: SocketAddr,

    /// Certificate chain for NAME and *.NAME, in PEM, read again when it changes [default: one of an authority that is made here]
    #[arg(long, env = "SANDBAR_TLS_CERT", value_name = "FILE", requires = "tls_key")]
    tls_cert: Option<PathBuf>,

    /// Its private key, in PEM
    #[arg(long, env = "SANDBAR_TLS_KEY", value_name = "FILE", requires = "tls_cert")]
    tls_key: Option<PathBuf>,

    #[command(flatten)]
    acme: AcmeArgs,
}

/// HTTPS, ready to be served.
pub(super) struct Https {
    pub(super) listener: Listener,
    pub(super) known_as: Known,
    pub(super) public: Option<Public>,
}

/// A public authority's certificate, which takes the place of the local one's.
pub(super) struct Public {
    settings: Settings,
    served: Arc<Replaceable>,
}

/// What people are told of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Known {
    pub(super) url: String,
    /// The name below which sandboxes have theirs, with its port.
    pub(super) domain: Option<String>,
    /// The certificate that clients must trust.
    pub(super) authority: Option<PathBuf>,
    /// The public authority whose certificate is awaited, and takes the place of that one.
    pub(super) awaited_from: Option<String>,
}

impl EdgeArgs {
    /// The name below which sandboxes have theirs, as clients write it: with its port, unless that is the usual one.
    pub(super) fn domain(&self) -> anyhow::Result<Option<String>> {
        let Some(given) = &self.domain else { return Ok(None) };
        let (name, port) = self.name_and_port(given)?;
        Ok(Some(if port == HTTPS_PORT { name.to_owned() } else { format!("{name}:{port}") }))
    }

    fn name_and_port<'a>(&self, given: &'a str) -> anyhow::Result<(&'a str, u16)> {
        let (name, port) = match given.split_once(':') {
            Some((name, port)) => {
                (name, port.parse().with_context(|| format!("--domain: {port:?} is no port"))?)
            }
            None => (given, self.https_listen.port()),
        };
        if !local_authority::is_domain(name) {
            bail!("--domain: {name:?} is not a name: lower-case letters, digits and dashes between dots");
        }
        Ok((name, port))
    }

    /// Listens for HTTPS, if that is asked for.
    pub(super) async fn https(&self, data: &DataDir) -> anyhow::Result<Option<Https>> {
        let (config, authority, public) = match (&self.tls_cert, &self.tls_key, &self.domain) {
            (Some(chain), Some(key), _) => {
                let files = CertificateFiles { chain: chain.clone(), key: key.clone() };
                (tls::server_config(files), None, None)
            }
            (_, _, Some(given)) => {
                let (name, _) = self.name_and_port(given)?;
                let settings = self.acme.settings(name)?;
                let made = local_authority::ensure(&data.tls(), name);
                let made = made.context("cannot make a certificate for --domain")?;
                let config = tls::replaceable_config(made.server);
                let (config, served) = config.context("HTTPS cannot be served")?;
                let public = settings.map(|settings| Public { settings, served });
                (Ok(config), Some(made.authority), public)
            }
            _ => return Ok(None),
        };
        let config = config.context("HTTPS cannot be served")?;
        let tcp = super::bind("--https-listen", self.https_listen).await?;
        let domain = self.domain()?;
        let host = domain.clone().unwrap_or_else(|| super::reachable(self.https_listen).to_string());
        let known_as = Known { url: format!("https://{host}"), domain, authority, awaited_from: None };
        Ok(Some(Https { listener: Listener::with_tls(tcp, config), known_as, public }))
    }
}

impl Https {
    /// Takes up the public authority's certificate that is kept, if there is one. What keeps it from then on.
    pub(super) async fn take_up(&mut self, control: &Control) -> anyhow::Result<Option<Keeper>> {
        let Some(Public { settings, served }) = self.public.take() else { return Ok(None) };
        let directory = settings.directory.clone();
        let keeper = Keeper::new(control.clone(), settings, served)?;
        match keeper.take_up().await? {
            true => self.known_as.authority = None,
            false => self.known_as.awaited_from = Some(directory),
        }
        Ok(Some(keeper))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(clap::Parser)]
    struct Command {
        #[command(flatten)]
        edge: EdgeArgs,
    }

    fn args(domain: &str) -> EdgeArgs {
        <Command as clap::Parser>::parse_from(["up", "--domain", domain]).edge
    }

    #[test]
    fn clients_are_told_the_port_unless_it_is_the_usual_one() {
        for (given, told) in [
            ("sbx.test", Some("sbx.test:8443")),
            ("sbx.test:443", Some("sbx.test")),
            ("sbx.test:9443", Some("sbx.test:9443")),
            ("*.sbx.test", None),
            ("sbx.test:x", None),
        ] {
            assert_eq!(args(given).domain().ok().flatten().as_deref(), told, "{given}");
        }
    }
}
