//! A host agent alone, with real machines, called as a control plane calls it.

use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use connectrpc::client::{ClientConfig, HttpClient};
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, SanType,
};
use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use sandbar_proto::host as rpc;
use sandbar_tests::{Platform, wait};
use sandbar_types::Id;
use sandbar_types::id::Sandbox;
use serde_json::{Value, json};

pub(crate) const PATIENCE: Duration = Duration::from_secs(60);
pub(crate) const TOKEN: &str = "only this test knows it";

/// The platform's host agent, with the platform stopped and credentials of a fleet of its own.
pub(crate) struct LoneAgent {
    pub(crate) client: rpc::HostServiceClient<HttpClient>,
    agent: tokio::process::Child,
    _credentials: Exchanged,
}

/// A file with other content for a while.
struct Exchanged {
    path: PathBuf,
    before: Vec<u8>,
}

impl Drop for Exchanged {
    fn drop(&mut self) {
        std::fs::write(&self.path, &self.before).expect("the host's credentials can be written back");
    }
}

impl LoneAgent {
    /// Its command line has these arguments too.
    pub(crate) async fn start(platform: &Platform, arguments: &[&str]) -> Result<Self> {
        // Makes the template, if this is the first test.
        platform.start().await?;
        platform.stop().await?;
        Self::start_again(platform, arguments).await
    }

    /// After it was killed, to what it left: a platform in between would end sandboxes that it does not know.
    pub(crate) async fn start_again(platform: &Platform, arguments: &[&str]) -> Result<Self> {
        let host_dir = platform.footprint().host_dir();
        let (credentials, tls) = fleet_of_one(&host_dir.join("credentials.json"))?;
        let port = TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
        let log = std::fs::File::create(platform.data_dir().join("log/lone-agent.log"))?;
        let mut command = Command::new(platform.binary());
        command
            .args([
                "host-agent",
                "--control-url",
                "http://127.0.0.1:1",
                "--warm-pool",
                "off",
                "--vmm",
                "qemu",
            ])
            .args(["--listen", &format!("127.0.0.1:{port}"), "--network", &platform.network(), "--data-dir"])
            .arg(&host_dir)
            .args(arguments)
            .env_remove("SANDBAR_REGISTER_TOKEN")
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log);
        let agent = tokio::process::Command::from(command).kill_on_drop(true).spawn()?;
        let uri = format!("https://localhost:{port}").parse()?;
        let client = rpc::HostServiceClient::new(HttpClient::with_tls(Arc::new(tls)), ClientConfig::new(uri));
        wait::until("the agent serves", PATIENCE, async || {
            Ok(client.get_health(rpc::GetHealthRequest::default()).await.ok())
        })
        .await?;
        Ok(Self { client, agent, _credentials: credentials })
    }

    /// The template with memory that sandboxes start from.
    pub(crate) async fn template(&self) -> Result<rpc::Template> {
        let listed = self.client.list_templates(rpc::ListTemplatesRequest::default()).await?.into_owned();
        let kind = |template: &rpc::Template| template.kind.as_known();
        let snapshot =
            |template: &rpc::Template| kind(template) == Some(rpc::TemplateKind::TEMPLATE_KIND_SNAPSHOT);
        listed.templates.into_iter().find(snapshot).context("no template")
    }

    pub(crate) async fn sandbox(&self) -> Result<String> {
        self.sandbox_of(self.template().await?.id).await
    }

    pub(crate) async fn sandbox_of(&self, template_id: String) -> Result<String> {
        let id = Id::<Sandbox>::new().to_string();
        let request = rpc::CreateSandboxRequest {
            id: id.clone(),
            template_id,
            access_token: TOKEN.into(),
            hostname: "lone".into(),
            ..Default::default()
        };
        self.client.create_sandbox(request).await?;
        Ok(id)
    }

    pub(crate) async fn sh(&self, id: &str, script: &str) -> Result<String> {
        self.sh_as(id, "", script).await
    }

    /// As that user; the usual one where it is empty.
    pub(crate) async fn sh_as(&self, id: &str, user: &str, script: &str) -> Result<String> {
        let args = vec!["-c".to_owned(), script.to_owned()];
        let command = rpc::Command { cmd: "sh".into(), args, user: user.into(), ..Default::default() };
        let request = rpc::ExecRequest { id: id.into(), command: command.into(), ..Default::default() };
        let output = self.client.exec(request).await?.into_owned();
        ensure!(output.exit_code == 0, "{script}: {}", output.exit_code);
        Ok(String::from_utf8(output.stdout.to_vec())?.trim().to_owned())
    }

    pub(crate) async fn states(&self) -> Result<Vec<rpc::SandboxState>> {
        let listed = self.client.list_sandboxes(rpc::ListSandboxesRequest::default()).await?.into_owned();
        Ok(listed.sandboxes.iter().filter_map(|sandbox| sandbox.state.as_known()).collect())
    }

    pub(crate) async fn destroy(&self, id: &str) -> Result<()> {
        let request = rpc::DestroySandboxRequest { id: id.into(), ..Default::default() };
        ensure!(self.client.destroy_sandbox(request).await?.into_owned().existed, "it was not there");
        Ok(())
    }

    pub(crate) async fn end(mut self) -> Result<()> {
        let pid = self.agent.id().context("it has ended before")?.cast_signed();
        sandbar_tests::census::signal(pid, rustix::process::Signal::TERM)?;
        let status = tokio::time::timeout(PATIENCE, self.agent.wait()).await??;
        ensure!(status.success(), "{status}");
        Ok(())
    }
}

impl LoneAgent {
    /// Ends it as nothing can be prepared for.
    pub(crate) async fn kill(mut self) -> Result<()> {
        Ok(self.agent.kill().await?)
    }
}

/// An authority that has issued a host's certificate, put in the place of the host's, and a client's.
fn fleet_of_one(file: &Path) -> Result<(Exchanged, rustls::ClientConfig)> {
    let authority_key = KeyPair::generate()?;
    let mut authority = CertificateParams::default();
    authority.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    authority.distinguished_name.push(DnType::CommonName, "authority");
    let authority_cert = authority.self_signed(&authority_key)?;
    let issuer = Issuer::new(authority, authority_key);
    let leaf = |name: &str, usage| -> Result<(rcgen::Certificate, KeyPair)> {
        let key = KeyPair::generate()?;
        let mut params = CertificateParams::default();
        params.subject_alt_names = vec![SanType::DnsName(name.try_into()?)];
        params.extended_key_usages = vec![usage];
        Ok((params.signed_by(&key, &issuer)?, key))
    };
    let (host, host_key) = leaf("localhost", ExtendedKeyUsagePurpose::ServerAuth)?;
    let (client, client_key) = leaf("client", ExtendedKeyUsagePurpose::ClientAuth)?;

    let before = std::fs::read(file)?;
    let mut credentials: Value = serde_json::from_slice(&before)?;
    credentials["cert"] = json!(host.pem());
    credentials["key"] = json!(host_key.serialize_pem());
    credentials["ca"] = json!(authority_cert.pem());
    let exchanged = Exchanged { path: file.to_owned(), before };
    std::fs::write(file, serde_json::to_vec(&credentials)?)?;

    let mut roots = rustls::RootCertStore::empty();
    roots.add(authority_cert.der().clone())?;
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(client_key.serialize_der()));
    let tls = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_root_certificates(roots)
        .with_client_auth_cert(vec![client.der().clone()], key)?;
    Ok((exchanged, tls))
}
