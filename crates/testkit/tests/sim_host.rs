//! The simulated host agent is an instrument: here it is held against the contract by a client and an authority of the test's own.

#![expect(clippy::unwrap_used, reason = "what is unwrapped here is what the test asserts")]

use std::sync::Arc;
use std::time::Duration;

use connectrpc::client::{CallOptions, ClientConfig, HttpClient};
use connectrpc::{ConnectError, ErrorCode};
use rcgen::{
    BasicConstraints, CertificateParams, CertificateSigningRequestParams, DnType, ExtendedKeyUsagePurpose,
    IsCa, Issuer, KeyPair, SanType,
};
use rustls::RootCertStore;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use sandbar_proto::host as rpc;
use sandbar_testkit::sim_host::{Fault, Reason, Rpc, SandboxState, SimHost, Times};

/// An authority as the control plane's: it signs what a host sends, for serving only.
struct Authority {
    issuer: Issuer<'static, KeyPair>,
    pem: String,
    der: CertificateDer<'static>,
}

impl Authority {
    fn new() -> Self {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.distinguished_name.push(DnType::CommonName, "authority");
        let cert = params.self_signed(&key).unwrap();
        Self { pem: cert.pem(), der: cert.der().clone(), issuer: Issuer::new(params, key) }
    }

    async fn enroll(&self, host: &SimHost) {
        let mut request = CertificateSigningRequestParams::from_pem(&host.csr().unwrap()).unwrap();
        request.params.subject_alt_names = vec![SanType::DnsName("localhost".try_into().unwrap())];
        request.params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        let cert = request.signed_by(&self.issuer).unwrap();
        host.enroll("host-1", &cert.pem(), &self.pem).await.unwrap();
    }

    /// A client that trusts this authority; with a certificate of `signer` for `usage`, or none.
    fn client(
        &self,
        host: &SimHost,
        identity: Option<(&Self, ExtendedKeyUsagePurpose)>,
    ) -> rpc::HostServiceClient<HttpClient> {
        let mut roots = RootCertStore::empty();
        roots.add(self.der.clone()).unwrap();
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let builder = rustls::ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots);
        let config = match identity {
            None => builder.with_no_client_auth(),
            Some((signer, usage)) => {
                let key = KeyPair::generate().unwrap();
                let mut params = CertificateParams::new(vec!["client".to_owned()]).unwrap();
                params.extended_key_usages = vec![usage];
                let cert = params.signed_by(&key, &signer.issuer).unwrap();
                let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der()));
                builder.with_client_auth_cert(vec![cert.der().clone()], key).unwrap()
            }
        };
        let port = host.address().rsplit_once(':').unwrap().1.to_owned();
        let uri = format!("https://localhost:{port}").parse().unwrap();
        rpc::HostServiceClient::new(HttpClient::with_tls(Arc::new(config)), ClientConfig::new(uri))
    }
}

async fn served() -> (SimHost, rpc::HostServiceClient<HttpClient>) {
    let (host, authority) = (SimHost::bind().await.unwrap(), Authority::new());
    authority.enroll(&host).await;
    let client = authority.client(&host, Some((&authority, ExtendedKeyUsagePurpose::ClientAuth)));
    let template = rpc::CreateTemplateRequest {
        id: "tpl-1".to_owned(),
        image: "base".to_owned(),
        vcpus: 2,
        memory_mb: 256,
        ..Default::default()
    };
    client.create_template(template).await.unwrap();
    (host, client)
}

fn create(id: &str) -> rpc::CreateSandboxRequest {
    rpc::CreateSandboxRequest { id: id.to_owned(), template_id: "tpl-1".to_owned(), ..Default::default() }
}

fn reason(error: &ConnectError) -> Reason {
    use base64::Engine as _;
    use buffa::Message as _;
    let value = error.details[0].value.as_ref().unwrap();
    let bytes = base64::engine::general_purpose::STANDARD_NO_PAD.decode(value).unwrap();
    rpc::ErrorDetail::decode(&mut bytes.as_slice()).unwrap().reason.as_known().unwrap()
}

#[tokio::test]
async fn only_a_client_certificate_of_the_same_authority_is_let_in() {
    let (host, authority, other) = (SimHost::bind().await.unwrap(), Authority::new(), Authority::new());
    authority.enroll(&host).await;
    let refused = [
        None,
        Some((&other, ExtendedKeyUsagePurpose::ClientAuth)),
        // A host's own certificate: hosts must not be able to call one another.
        Some((&authority, ExtendedKeyUsagePurpose::ServerAuth)),
    ];
    for identity in refused {
        let client = authority.client(&host, identity);
        assert!(client.get_health(rpc::GetHealthRequest::default()).await.is_err());
    }
    assert_eq!(host.calls(Rpc::GetHealth), 0);
    let client = authority.client(&host, Some((&authority, ExtendedKeyUsagePurpose::ClientAuth)));
    let health = client.get_health(rpc::GetHealthRequest::default()).await.unwrap().into_owned();
    assert_eq!(health.host_id, "host-1");
}

#[tokio::test]
async fn calls_are_idempotent_by_id_and_every_change_raises_the_generation() {
    let (host, client) = served().await;
    let before = host.inventory_generation();
    let first = client.create_sandbox(create("sb-1")).await.unwrap().into_owned();
    let again = client.create_sandbox(create("sb-1")).await.unwrap().into_owned();
    assert_eq!(first, again);
    assert_eq!((first.sandbox.vcpus, first.sandbox.memory_mb), (2, 256));
    let made = host.inventory_generation();
    assert!(made > before);
    let destroy = || rpc::DestroySandboxRequest { id: "sb-1".to_owned(), ..Default::default() };
    assert!(client.destroy_sandbox(destroy()).await.unwrap().into_owned().existed);
    assert!(!client.destroy_sandbox(destroy()).await.unwrap().into_owned().existed);
    assert!(host.inventory_generation() > made);
}

#[tokio::test]
async fn each_fault_does_what_it_says() {
    let (host, client) = served().await;
    let short = || CallOptions::default().with_timeout(Duration::from_millis(300));
    for (fault, code, made) in [
        (Fault::Refuse(Reason::REASON_NO_CAPACITY), ErrorCode::ResourceExhausted, false),
        (Fault::Fail, ErrorCode::Internal, false),
        (Fault::Hang, ErrorCode::DeadlineExceeded, false),
        (Fault::LoseReply, ErrorCode::Unavailable, true),
        (Fault::HangAfter, ErrorCode::DeadlineExceeded, true),
    ] {
        host.inject(Rpc::CreateSandbox, fault.clone(), Times::Once);
        let error = client.create_sandbox_with_options(create("sb-1"), short()).await.unwrap_err();
        assert_eq!(error.code, code, "{fault:?}");
        if let Fault::Refuse(expected) = fault {
            assert_eq!(reason(&error), expected);
        }
        assert_eq!(host.sandboxes().len(), usize::from(made), "{fault:?}");
        host.forget("sb-1");
    }
    // `Once` is over, `Always` lasts until it is healed, and a gate holds until it is opened.
    client.create_sandbox(create("sb-1")).await.unwrap();
    host.inject(Rpc::ListSandboxes, Fault::Fail, Times::Always);
    for _ in 0..3 {
        assert!(client.list_sandboxes(rpc::ListSandboxesRequest::default()).await.is_err());
    }
    host.heal();
    assert!(client.list_sandboxes(rpc::ListSandboxesRequest::default()).await.is_ok());
    let gate = host.hold(Rpc::CreateSandbox);
    let held = tokio::spawn(async move { client.create_sandbox(create("sb-2")).await.map(|_| ()) });
    host.arrived(Rpc::CreateSandbox, 7).await;
    assert_eq!(host.sandboxes().len(), 1);
    gate.open();
    held.await.unwrap().unwrap();
    assert_eq!(host.sandboxes().len(), 2);
}

#[tokio::test]
async fn a_crash_breaks_calls_and_keeps_sandboxes() {
    let (host, client) = served().await;
    client.create_sandbox(create("sb-1")).await.unwrap();
    let generation = host.inventory_generation();
    host.inject(Rpc::ListSandboxes, Fault::Hang, Times::Once);
    let waiting = async { client.list_sandboxes(rpc::ListSandboxesRequest::default()).await.is_err() };
    let crash = async {
        host.arrived(Rpc::ListSandboxes, 1).await;
        host.crash().await.unwrap();
    };
    assert!(tokio::join!(waiting, crash).0);
    assert!(client.get_health(rpc::GetHealthRequest::default()).await.is_err());
    host.restart().await.unwrap();
    let list = client.list_sandboxes(rpc::ListSandboxesRequest::default()).await.unwrap().into_owned();
    assert_eq!(list.sandboxes.len(), 1);
    assert!(list.inventory_generation > generation);
}

#[tokio::test]
async fn a_paused_sandbox_goes_on_and_what_was_made_of_it_is_its_own() {
    let (host, client) = served().await;
    client.create_sandbox(create("sb-1")).await.unwrap();
    let pause = || rpc::PauseSandboxRequest { id: "sb-1".to_owned(), ..Default::default() };
    let generation = host.inventory_generation();
    let paused = client.pause_sandbox(pause()).await.unwrap().into_owned();
    assert_eq!(client.pause_sandbox(pause()).await.unwrap().into_owned(), paused, "idempotent");
    assert_eq!(paused.sandbox.state, SandboxState::SANDBOX_STATE_PAUSED);
    assert_eq!((paused.sandbox.pause_reason.as_str(), paused.sandbox.host_ip.as_str()), ("requested", ""));
    assert!(paused.sandbox.paused_at_unix_ms > 0 && host.inventory_generation() > generation);
    let ping = rpc::PingSandboxRequest { id: "sb-1".to_owned(), ..Default::default() };
    let refused = client.ping_sandbox(ping).await.unwrap_err();
    assert_eq!(reason(&refused), Reason::REASON_INVALID_STATE);

    // A paused one can be kept and tells its figures; it cannot be forked.
    let keep = || rpc::SnapshotSandboxRequest {
        id: "sb-1".to_owned(),
        template_id: "tpl-2".to_owned(),
        ..Default::default()
    };
    let kept = client.snapshot_sandbox(keep()).await.unwrap().into_owned();
    assert_eq!((kept.template.memory_mb, kept.stall_ms), (256, 0));
    let metrics = rpc::FlushSandboxMetricsRequest { id: "sb-1".to_owned(), ..Default::default() };
    assert_eq!(client.flush_sandbox_metrics(metrics).await.unwrap().into_owned().tiers.len(), 3);
    let fork = |children: &[&str]| rpc::ForkSandboxRequest {
        id: "sb-1".to_owned(),
        children: children
            .iter()
            .map(|id| rpc::fork_sandbox_request::Child { id: (*id).to_owned(), ..Default::default() })
            .collect(),
        ..Default::default()
    };
    let refused = client.fork_sandbox(fork(&["sb-2"])).await.unwrap_err();
    assert_eq!(reason(&refused), Reason::REASON_INVALID_STATE);

    let resume = rpc::ResumeSandboxRequest {
        id: "sb-1".to_owned(),
        timeout_sec: Some(60),
        on_timeout: rpc::OnTimeout::ON_TIMEOUT_PAUSE.into(),
        ..Default::default()
    };
    let resumed = client.resume_sandbox(resume).await.unwrap().into_owned();
    assert_eq!(resumed.sandbox.state, SandboxState::SANDBOX_STATE_RUNNING);
    assert!(resumed.sandbox.expires_at_unix_ms > 0 && resumed.sandbox.pause_reason.is_empty());
    assert_eq!(resumed.sandbox.on_timeout, rpc::OnTimeout::ON_TIMEOUT_PAUSE);

    // Each child for itself: the last fails, one that exists is a success.
    host.fail_children(1);
    let forked = client.fork_sandbox(fork(&["sb-2", "sb-3"])).await.unwrap().into_owned();
    assert_eq!(
        forked
            .children
            .iter()
            .filter(|child| matches!(
                child.outcome,
                Some(rpc::fork_sandbox_response::child_result::Outcome::Sandbox(_))
            ))
            .count(),
        1
    );
    let again = client.fork_sandbox(fork(&["sb-2", "sb-3"])).await.unwrap().into_owned();
    assert_eq!(
        again
            .children
            .iter()
            .filter(|child| matches!(
                child.outcome,
                Some(rpc::fork_sandbox_response::child_result::Outcome::Sandbox(_))
            ))
            .count(),
        2
    );
    assert_eq!(host.sandboxes().len(), 3);

    let delete = || rpc::DeleteTemplateRequest { id: "tpl-2".to_owned(), ..Default::default() };
    assert!(client.delete_template(delete()).await.unwrap().into_owned().existed);
    assert!(!client.delete_template(delete()).await.unwrap().into_owned().existed);
    let all = client.pause_all(rpc::PauseAllRequest::default()).await.unwrap().into_owned();
    assert_eq!((all.paused, all.failed), (3, 0));
}
