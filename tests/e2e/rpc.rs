//! A host agent alone, with real machines, called as a control plane calls it: what no route of the API reaches yet.

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
use sandbar_types::id::{Sandbox, Template};
use serde_json::{Value, json};

use crate::{Test, tests};

const PATIENCE: Duration = Duration::from_secs(60);
const TOKEN: &str = "only this test knows it";

pub(crate) fn tests() -> Vec<Test> {
    tests![a_disk_alone_is_kept_checked_and_small, a_host_that_was_refused_pauses_all_and_can_verify_each]
}

/// The platform's host agent, with the platform stopped and credentials of a fleet of its own.
struct LoneAgent {
    client: rpc::HostServiceClient<HttpClient>,
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
    async fn start(platform: &Platform) -> Result<Self> {
        // Makes the template, if this is the first test.
        platform.start().await?;
        platform.stop().await?;
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
    async fn template(&self) -> Result<rpc::Template> {
        let listed = self.client.list_templates(rpc::ListTemplatesRequest::default()).await?.into_owned();
        let kind = |template: &rpc::Template| template.kind.as_known();
        let snapshot =
            |template: &rpc::Template| kind(template) == Some(rpc::TemplateKind::TEMPLATE_KIND_SNAPSHOT);
        listed.templates.into_iter().find(snapshot).context("no template")
    }

    async fn sandbox(&self) -> Result<String> {
        let id = Id::<Sandbox>::new().to_string();
        let request = rpc::CreateSandboxRequest {
            id: id.clone(),
            template_id: self.template().await?.id,
            access_token: TOKEN.into(),
            hostname: "lone".into(),
            ..Default::default()
        };
        self.client.create_sandbox(request).await?;
        Ok(id)
    }

    async fn sh(&self, id: &str, script: &str) -> Result<String> {
        let args = vec!["-c".to_owned(), script.to_owned()];
        let command = rpc::Command { cmd: "bash".into(), args, ..Default::default() };
        let request = rpc::ExecRequest { id: id.into(), command: command.into(), ..Default::default() };
        let output = self.client.exec(request).await?.into_owned();
        ensure!(output.exit_code == 0, "{script}: {}", output.exit_code);
        Ok(String::from_utf8(output.stdout.to_vec())?.trim().to_owned())
    }

    async fn states(&self) -> Result<Vec<rpc::SandboxState>> {
        let listed = self.client.list_sandboxes(rpc::ListSandboxesRequest::default()).await?.into_owned();
        Ok(listed.sandboxes.iter().filter_map(|sandbox| sandbox.state.as_known()).collect())
    }

    async fn destroy(&self, id: &str) -> Result<()> {
        let request = rpc::DestroySandboxRequest { id: id.into(), ..Default::default() };
        ensure!(self.client.destroy_sandbox(request).await?.into_owned().existed, "it was not there");
        Ok(())
    }

    async fn end(mut self) -> Result<()> {
        let pid = self.agent.id().context("it has ended before")?.cast_signed();
        sandbar_tests::census::signal(pid, rustix::process::Signal::TERM)?;
        let status = tokio::time::timeout(PATIENCE, self.agent.wait()).await??;
        ensure!(status.success(), "{status}");
        Ok(())
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

async fn a_disk_alone_is_kept_checked_and_small(platform: &Platform) -> Result<()> {
    let agent = LoneAgent::start(platform).await?;
    let id = agent.sandbox().await?;
    // Not flushed by anybody but the call.
    agent.sh(&id, "echo flat > ~/flat; echo stays > /dev/shm/memory").await?;
    let template_id = Id::<Template>::new().to_string();
    let request =
        rpc::FlattenRootfsRequest { id: id.clone(), template_id: template_id.clone(), ..Default::default() };
    let made = agent.client.flatten_rootfs(request.clone()).await?.into_owned().template;
    let made = made.into_option().context("no template")?;
    assert_eq!(made.kind.as_known(), Some(rpc::TemplateKind::TEMPLATE_KIND_BASE));
    ensure!(
        made.disk_mb > 0 && made.disk_mb < agent.template().await?.disk_mb,
        "not shrunk: {}",
        made.disk_mb
    );
    let again = agent.client.flatten_rootfs(request).await?.into_owned().template;
    assert_eq!(again.into_option().context("no template")?.disk_mb, made.disk_mb, "made a second time");
    assert_eq!(agent.sh(&id, "cat ~/flat /dev/shm/memory").await?, "flat\nstays", "the source is lost");

    let folder = platform.footprint().store_dir().join("templates").join(&template_id);
    let disk = folder.join("disk.ext4");
    let bytes = disk.metadata()?.len();
    ensure!(
        bytes.div_ceil(1 << 20) == u64::from(made.disk_mb),
        "{bytes} bytes are told as {} MiB",
        made.disk_mb
    );
    let checked = Command::new("e2fsck").arg("-fn").arg(&disk).output()?;
    ensure!(checked.status.success(), "{}", String::from_utf8_lossy(&checked.stdout));
    let kept = Command::new("debugfs").args(["-R", "cat /home/user/flat"]).arg(&disk).output()?;
    assert_eq!(String::from_utf8_lossy(&kept.stdout), "flat\n");
    ensure!(!folder.join("memory").exists(), "a base template has no memory");

    let forget = rpc::DeleteTemplateRequest { id: template_id, ..Default::default() };
    ensure!(agent.client.delete_template(forget).await?.into_owned().existed, "it was not there");
    agent.destroy(&id).await?;
    agent.end().await
}

async fn a_host_that_was_refused_pauses_all_and_can_verify_each(platform: &Platform) -> Result<()> {
    let agent = LoneAgent::start(platform).await?;
    let (one, other) = (agent.sandbox().await?, agent.sandbox().await?);
    agent.sh(&one, "echo one > /dev/shm/memory").await?;
    let verify = |id: &str| {
        let request = rpc::VerifySandboxRequest { id: id.to_owned(), ..Default::default() };
        agent.client.verify_sandbox(request)
    };
    let refused = verify(&one).await.err().context("a sandbox that runs was verified")?;
    assert_eq!(refused.code, connectrpc::ErrorCode::FailedPrecondition, "{refused}");

    let request =
        rpc::PauseAllRequest { reason: "the control plane refuses this host".into(), ..Default::default() };
    let outcome = agent.client.pause_all(request.clone()).await?.into_owned();
    assert_eq!((outcome.paused, outcome.failed), (2, 0));
    assert_eq!(agent.states().await?, [rpc::SandboxState::SANDBOX_STATE_PAUSED; 2]);
    assert_eq!(platform.footprint().vmms()?, []);
    let outcome = agent.client.pause_all(request).await?.into_owned();
    assert_eq!((outcome.paused, outcome.failed), (0, 0), "there was nothing left to pause");

    // The checksums of memory and disk come a while after the pause: until then there is less to read.
    let memory_bytes = u64::from(agent.template().await?.memory_mb) << 20;
    for id in [&one, &other] {
        wait::until_true("all of it is verified", PATIENCE, async || {
            Ok(verify(id).await?.into_owned().bytes > memory_bytes)
        })
        .await?;
    }
    let memory = platform.footprint().store_dir().join("sandboxes").join(&other).join("paused/memory");
    let file = std::fs::OpenOptions::new().write(true).open(&memory)?;
    std::os::unix::fs::FileExt::write_all_at(&file, b"damage", 64 << 20)?;
    let damaged = verify(&other).await.err().context("damage was not noticed")?;
    ensure!(damaged.to_string().contains("memory"), "the file is not named: {damaged}");

    agent.client.resume_sandbox(rpc::ResumeSandboxRequest { id: one.clone(), ..Default::default() }).await?;
    assert_eq!(agent.sh(&one, "cat /dev/shm/memory").await?, "one");
    agent.destroy(&one).await?;
    agent.destroy(&other).await?;
    assert_eq!(platform.footprint().sandbox_folders()?.len(), 0);
    agent.end().await
}
