//! What the command line says of a public certificate authority, held against itself before anything starts.

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;

use anyhow::{Context as _, bail};
use clap::Args;
use sandbar_edge::acme::{Hook, Pace, Records, Settings, UpdateServer, system_resolvers};
use secrecy::SecretString;

/// The secret of the name server's key, where no file has it.
const SECRET_VARIABLE: &str = "SANDBAR_ACME_DNS_SECRET";
/// The authority that is asked where nobody says otherwise.
const LETS_ENCRYPT: &str = "https://acme-v02.api.letsencrypt.org/directory";

#[derive(Debug, Args)]
pub(super) struct AcmeArgs {
    /// Get a certificate for NAME and *.NAME of --domain from a public authority, agreeing to its terms, and renew it; the authority may
    /// write to ADDRESS. Needs --acme-dns-server or --acme-hook: see docs/tls.md
    #[arg(
        long,
        env = "SANDBAR_ACME_EMAIL",
        value_name = "ADDRESS",
        requires = "domain",
        conflicts_with = "tls_cert"
    )]
    acme_email: Option<String>,

    /// The authority's directory
    #[arg(long, env = "SANDBAR_ACME_DIRECTORY", value_name = "URL", requires = "acme_email", default_value = LETS_ENCRYPT)]
    acme_directory: String,

    /// Certificates by which the authority's server is trusted, in PEM, beside the system's
    #[arg(long, env = "SANDBAR_ACME_CA", value_name = "FILE", requires = "acme_email")]
    acme_ca: Option<PathBuf>,

    /// Name server that takes updates of the zone (RFC 2136), signed with --acme-dns-key. The secret is in --acme-dns-secret-file, or in
    /// SANDBAR_ACME_DNS_SECRET
    #[arg(
        long,
        env = "SANDBAR_ACME_DNS_SERVER",
        value_name = "HOST[:PORT]",
        requires = "acme_email",
        requires = "acme_dns_key"
    )]
    acme_dns_server: Option<String>,

    /// The key's name
    #[arg(long, env = "SANDBAR_ACME_DNS_KEY", value_name = "NAME", requires = "acme_dns_server")]
    acme_dns_key: Option<String>,

    /// The key's algorithm: hmac-sha256, hmac-sha384 or hmac-sha512
    #[arg(long, env = "SANDBAR_ACME_DNS_ALGORITHM", value_name = "NAME", default_value = "hmac-sha256")]
    acme_dns_algorithm: String,

    /// File with the key's secret, in base64
    #[arg(long, env = "SANDBAR_ACME_DNS_SECRET_FILE", value_name = "FILE", requires = "acme_dns_server")]
    acme_dns_secret_file: Option<PathBuf>,

    /// Program that sets records: called as `PROGRAM present|cleanup RECORD. VALUE`, as lego's provider `exec` does
    #[arg(
        long,
        env = "SANDBAR_ACME_HOOK",
        value_name = "PROGRAM",
        requires = "acme_email",
        conflicts_with = "acme_dns_server"
    )]
    acme_hook: Option<PathBuf>,

    /// Resolver that finds the zone's name servers; may be given more than once [default: those of /etc/resolv.conf]
    #[arg(long, env = "SANDBAR_ACME_RESOLVER", value_name = "ADDRESS[:PORT]", value_delimiter = ',', value_parser = resolver)]
    acme_resolver: Vec<SocketAddr>,
}

fn resolver(text: &str) -> anyhow::Result<SocketAddr> {
    let alone = || text.parse::<IpAddr>().map(|address| SocketAddr::new(address, 53));
    text.parse().or_else(|_| alone()).context("expected ADDRESS or ADDRESS:PORT")
}

impl AcmeArgs {
    /// What is asked for, if anything is.
    pub(super) fn settings(&self, domain: &str) -> anyhow::Result<Option<Settings>> {
        let Some(email) = &self.acme_email else { return Ok(None) };
        let is_address = email.split_once('@').is_some_and(|(name, host)| {
            !name.is_empty() && host.contains('.') && !email.contains(|c: char| c.is_whitespace() || c == ',')
        });
        if !is_address {
            bail!("--acme-email: {email:?} is not an e-mail address");
        }
        if !self.acme_directory.starts_with("https://") {
            bail!("--acme-directory: {:?} is not an https:// address", self.acme_directory);
        }
        if !domain.contains('.') {
            bail!("--acme-email: no public authority certifies {domain:?}, which has no dot");
        }
        let resolvers = match self.acme_resolver.is_empty() {
            true => system_resolvers(),
            false => self.acme_resolver.clone(),
        };
        if resolvers.is_empty() {
            bail!("/etc/resolv.conf names no resolver: give one by --acme-resolver");
        }
        Ok(Some(Settings {
            domain: domain.to_owned(),
            email: email.clone(),
            directory: self.acme_directory.clone(),
            trusted: self.acme_ca.clone(),
            records: self.records()?,
            resolvers,
            pace: Pace::default(),
        }))
    }

    fn records(&self) -> anyhow::Result<Records> {
        match (&self.acme_dns_server, &self.acme_dns_key, &self.acme_hook) {
            (Some(server), Some(key), _) => {
                let secret = self.secret()?;
                let server = UpdateServer::new(server, key, &self.acme_dns_algorithm, &secret);
                Ok(Records::Update(server.context("updates of the name server cannot be signed")?))
            }
            (_, _, Some(program)) => Ok(Records::Hook(Hook::new(program).context("--acme-hook")?)),
            _ => bail!(
                "--acme-email: the authority wants a record in the zone: say by --acme-dns-server or --acme-hook how it comes there"
            ),
        }
    }

    fn secret(&self) -> anyhow::Result<SecretString> {
        match &self.acme_dns_secret_file {
            Some(path) => {
                let text = std::fs::read_to_string(path);
                Ok(text
                    .with_context(|| format!("--acme-dns-secret-file: cannot read {}", path.display()))?
                    .into())
            }
            None => match std::env::var(SECRET_VARIABLE) {
                Ok(text) => Ok(text.into()),
                Err(_) => bail!(
                    "--acme-dns-server: the key's secret is missing: --acme-dns-secret-file, or {SECRET_VARIABLE}"
                ),
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[derive(Debug, Parser)]
    struct Command {
        #[arg(long)]
        domain: Option<String>,
        #[arg(long)]
        tls_cert: Option<String>,
        #[command(flatten)]
        acme: AcmeArgs,
    }

    fn settings(words: &str) -> Result<Option<Settings>, String> {
        let words = ["up", "--acme-resolver", "192.0.2.1"].into_iter().chain(words.split_whitespace());
        let command = Command::try_parse_from(words).map_err(|error| error.to_string())?;
        let domain = command.domain.unwrap_or_default();
        command.acme.settings(&domain).map_err(|error| format!("{error:#}"))
    }

    #[test]
    fn settings_that_cannot_work_are_told_at_the_start() {
        assert!(settings("--domain sbx.test").unwrap().is_none());
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("secret");
        std::fs::write(&file, "c2VjcmV0\n").unwrap();
        let email = "--domain sbx.test --acme-email ops@example.org";
        let good = settings(&format!(
            "{email} --acme-dns-server ns.sbx.test --acme-dns-key acme --acme-dns-secret-file {}",
            file.display()
        ));
        let good = good.unwrap().unwrap();
        assert_eq!((good.directory.as_str(), good.resolvers[0].port()), (LETS_ENCRYPT, 53));
        assert!(!format!("{good:?}").contains("secret"));
        settings(&format!("{email} --acme-hook /bin/true")).unwrap().unwrap();
        for (words, told) in [
            ("--acme-email ops@example.org", "--domain"),
            ("--domain sbx.test --acme-email ops --acme-hook /bin/true", "not an e-mail address"),
            ("--domain sbx --acme-email ops@example.org --acme-hook /bin/true", "no dot"),
            (&format!("{email} --tls-cert x --acme-hook /bin/true"), "cannot be used with"),
            (&format!("{email} --acme-directory http://a.test --acme-hook /bin/true"), "https://"),
            (email, "--acme-dns-server or --acme-hook"),
            (&format!("{email} --acme-hook /nowhere"), "/nowhere is not a program"),
            (&format!("{email} --acme-dns-server ns.sbx.test"), "--acme-dns-key"),
            (&format!("{email} --acme-dns-server ns.sbx.test --acme-dns-key acme"), SECRET_VARIABLE),
            (
                &format!("{email} --acme-dns-server ns --acme-dns-key a --acme-dns-secret-file /nowhere"),
                "/nowhere",
            ),
        ] {
            let error = settings(words).unwrap_err();
            assert!(error.contains(told), "{words}: {error}");
        }
    }
}
