//! What a caller without the right credential reaches, from inside a guest and from outside: nothing.

use std::collections::BTreeSet;
use std::net::Ipv4Addr;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use anyhow::{Context as _, Result, ensure};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use sandbar_tests::{Platform, Sandbox};
use sandbar_types::guest::{AGENT_PORT, GATEWAY_IP, READY_PORT};
use serde_json::{Value, json};
use tokio::io::AsyncReadExt as _;
use tokio::net::TcpListener;

use crate::{Test, tests};

pub(crate) fn tests() -> Vec<Test> {
    tests![
        a_guest_reaches_no_port_of_the_host,
        a_guest_reaches_no_other_guest_and_no_private_network,
        a_guests_agent_takes_its_own_token_alone,
        two_sandboxes_share_no_secret,
        the_host_agent_takes_the_control_planes_certificate_alone,
    ]
}

/// Tries TCP connections from inside, all at once, as root; prints those that were opened.
const PROBE: &str = r"
import socket, sys, threading
def probe(target):
    host, port = target.rsplit(':', 1)
    s = socket.socket()
    s.settimeout(4)
    try:
        s.connect((host, int(port)))
        print(target, flush=True)
    except OSError:
        pass
threads = [threading.Thread(target=probe, args=(t,)) for t in sys.argv[1:]]
[t.start() for t in threads]
[t.join() for t in threads]
";

/// The targets that answer a connection from the guest.
async fn reached(sandbox: &Sandbox, targets: &BTreeSet<String>) -> Result<BTreeSet<String>> {
    let arguments: Vec<_> = ["-c", PROBE].into_iter().chain(targets.iter().map(String::as_str)).collect();
    let outcome = sandbox
        .exec(&json!({"cmd": "python3", "args": arguments, "user": "root", "timeout_sec": 120}))
        .await?;
    ensure!(outcome.exit_code == 0, "{}", outcome.raw);
    Ok(String::from_utf8(outcome.stdout)?.lines().map(str::to_owned).collect())
}

async fn a_guest_reaches_no_port_of_the_host(platform: &Platform) -> Result<()> {
    platform.start().await?;
    let sandbox = platform.sandbox().await?;
    // A service of the host's that listens everywhere, so that only the network can keep the guest out.
    let listener = TcpListener::bind("0.0.0.0:0").await?;
    let open_port = listener.local_addr()?.port();
    let accepted = Arc::new(AtomicUsize::new(0));
    let counting = tokio::spawn({
        let accepted = Arc::clone(&accepted);
        async move {
            while listener.accept().await.is_ok() {
                accepted.fetch_add(1, Ordering::SeqCst);
            }
        }
    });
    let mut ports = vec![platform.port(), open_port, 22];
    ports.extend(listening_ports(platform.agent_pid()?)?);
    let mut targets = BTreeSet::new();
    for address in host_addresses()?.into_iter().chain([GATEWAY_IP]) {
        targets.extend(ports.iter().map(|port| format!("{address}:{port}")));
    }
    let gateway = reached(&sandbox, &targets).await?;
    counting.abort();
    ensure!(gateway.is_empty(), "the guest reached {gateway:?}");
    assert_eq!(accepted.load(Ordering::SeqCst), 0);

    // The probe itself works: the guest reaches its own agent, and, of its gateway, the one port that it may.
    let own = format!("127.0.0.1:{AGENT_PORT}");
    assert_eq!(reached(&sandbox, &[own.clone()].into()).await?, [own].into());
    Ok(())
}

async fn a_guest_reaches_no_other_guest_and_no_private_network(platform: &Platform) -> Result<()> {
    platform.start().await?;
    let (one, other) = (platform.sandbox().await?, platform.sandbox().await?);
    let other_ip = other.host_ip()?;
    ensure!(other_ip != one.host_ip()?, "two sandboxes with one address");
    // The other one is there, for the host.
    let agent = format!("http://{other_ip}:{AGENT_PORT}");
    let anyone = sandbar_tests::Client::new(agent, None)?;
    anyone.get("/health").await?.expect(204)?;

    let mut targets: BTreeSet<String> =
        [AGENT_PORT, READY_PORT, 80].iter().map(|port| format!("{other_ip}:{port}")).collect();
    let network = platform.network();
    let network = network.split('/').next().context("no network")?;
    for address in
        ["169.254.169.254", "169.254.1.1", "10.0.0.1", "172.16.0.1", "192.168.0.1", "100.64.0.1", network]
    {
        targets.extend([80, 443].iter().map(|port| format!("{address}:{port}")));
    }
    let reached = reached(&one, &targets).await?;
    ensure!(reached.is_empty(), "the guest reached {reached:?}");
    Ok(())
}

async fn a_guests_agent_takes_its_own_token_alone(platform: &Platform) -> Result<()> {
    platform.start().await?;
    let (one, other) = (platform.sandbox().await?, platform.sandbox().await?);
    let agent = format!("http://{}:{AGENT_PORT}", one.host_ip()?);
    let http = reqwest::Client::builder().no_proxy().build()?;
    let ask = async |path: &str, token: Option<&str>| -> Result<u16> {
        let request =
            http.post(format!("{agent}{path}")).header("content-type", "application/json").body("{}");
        let request =
            token.into_iter().fold(request, |request, token| request.header("x-access-token", token));
        Ok(request.send().await?.status().as_u16())
    };
    let (own, foreign) = (token(&one).await?, token(&other).await?);
    for path in
        ["/process.Process/List", "/filesystem.Filesystem/ListDir", "/init", "/files?path=/tmp/x", "/nothing"]
    {
        for wrong in [None, Some(""), Some("wrong"), Some(&*foreign)] {
            let status = ask(path, wrong).await?;
            ensure!(status == 401, "{path} answered {status} to the token {wrong:?}");
        }
    }
    assert_eq!(ask("/process.Process/List", Some(&own)).await?, 200);
    Ok(())
}

async fn two_sandboxes_share_no_secret(platform: &Platform) -> Result<()> {
    platform.start().await?;
    let (one, other) = (platform.sandbox().await?, platform.sandbox().await?);
    for fact in
        ["hostname", "cat /etc/hostname", "od -An -tx1 -N32 /dev/urandom", "cat /proc/sys/kernel/random/uuid"]
    {
        let (left, right) = (one.sh(fact).await?, other.sh(fact).await?);
        ensure!(!left.is_empty() && left != right, "{fact}: both say {left}");
    }
    let python = "python3 -c 'import random, secrets; print(random.random(), secrets.token_hex())'";
    ensure!(one.sh(python).await? != other.sh(python).await?, "both roll the same dice");
    ensure!(token(&one).await? != token(&other).await?, "both have one token");
    // The one that reads the token must be root.
    let read = one.exec(&json!({"cmd": "cat", "args": ["/run/sandbar/state.json"]})).await?;
    assert_ne!(read.exit_code, 0, "an ordinary user reads the token");
    // A file of one is no file of the other, and the clock of neither is that of the snapshot.
    one.sh("echo mine > /home/user/mine; sync").await?;
    assert_eq!(other.sh("ls /home/user").await?, "");
    let host = i64::try_from(std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH)?.as_secs())?;
    let guest: i64 = one.sh("date +%s").await?.parse()?;
    ensure!((guest - host).abs() <= 5, "the guest's clock is {} s off", guest - host);
    Ok(())
}

async fn the_host_agent_takes_the_control_planes_certificate_alone(platform: &Platform) -> Result<()> {
    platform.start().await?;
    let ports = listening_ports(platform.agent_pid()?)?;
    let [port] = ports[..] else { anyhow::bail!("the host agent listens on {ports:?}") };
    let credentials = std::fs::read(platform.footprint().host_dir().join("credentials.json"))?;
    let credentials: Value = serde_json::from_slice(&credentials)?;
    let text = |field: &str| credentials[field].as_str().with_context(|| format!("no {field}"));
    let (key, certificate, authority) = (text("key")?, text("cert")?, text("ca")?);
    let host = text("host_id")?;
    let name = format!("{}.host.sandbar.internal", host.strip_prefix("host-").unwrap_or(host));

    let stranger = rcgen::generate_simple_self_signed(["control.sandbar.internal".to_owned()])?;
    let strange = (stranger.signing_key.serialize_pem(), stranger.cert.pem());
    // A host's own certificate is signed by the fleet's authority, but for serving only: no host may call another.
    let hosts = (key.to_owned(), certificate.to_owned());
    for (who, identity) in [("nobody", None), ("a stranger", Some(strange)), ("a host", Some(hosts))] {
        // The agent is who it says: what follows is its refusal, and not ours.
        let error = call_agent(port, &name, authority, identity)
            .await
            .err()
            .with_context(|| format!("{who} was let in"))?;
        let refused =
            error.downcast_ref::<std::io::Error>().and_then(|error| error.get_ref()?.downcast_ref());
        ensure!(matches!(refused, Some(rustls::Error::AlertReceived(_))), "{who}: {error:?}");
    }
    Ok(())
}

/// Connects to the host agent and reads the first byte that it says to its client. Under TLS 1.3 the client's certificate is judged
/// after the client believes to be connected.
async fn call_agent(
    port: u16,
    name: &str,
    authority: &str,
    identity: Option<(String, String)>,
) -> Result<u8> {
    let mut roots = rustls::RootCertStore::empty();
    roots.add(CertificateDer::from_pem_slice(authority.as_bytes())?)?;
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_root_certificates(roots);
    let mut config = match identity {
        None => config.with_no_client_auth(),
        Some((key, certificate)) => {
            let certificate = CertificateDer::from_pem_slice(certificate.as_bytes())?;
            config.with_client_auth_cert(vec![certificate], PrivateKeyDer::from_pem_slice(key.as_bytes())?)?
        }
    };
    config.alpn_protocols = vec![b"h2".to_vec()];
    let socket = tokio::net::TcpStream::connect(("127.0.0.1", port)).await?;
    let name = ServerName::try_from(name.to_owned())?;
    let mut stream = tokio_rustls::TlsConnector::from(Arc::new(config)).connect(name, socket).await?;
    Ok(stream.read_u8().await?)
}

/// A sandbox's token, read by its root.
async fn token(sandbox: &Sandbox) -> Result<String> {
    let state: Value = serde_json::from_str(&sandbox.sh_as("root", "cat /run/sandbar/state.json").await?)?;
    let fields = state.as_object().context("not an object")?;
    let token = fields.iter().find(|(name, _)| name.to_lowercase().contains("token")).context("no token")?.1;
    Ok(token.as_str().context("not text")?.to_owned())
}

/// All of this machine's IPv4 addresses.
fn host_addresses() -> Result<BTreeSet<Ipv4Addr>> {
    let listed = Command::new("ip").args(["-json", "-4", "address"]).output()?;
    let links: Vec<Value> = serde_json::from_slice(&listed.stdout)?;
    let addresses = links.iter().flat_map(|link| link["addr_info"].as_array().cloned().unwrap_or_default());
    let addresses: Result<BTreeSet<Ipv4Addr>> =
        addresses.map(|address| Ok(address["local"].as_str().context("no address")?.parse()?)).collect();
    // A guest's 127.0.0.1 is itself.
    Ok(addresses?.into_iter().filter(|address| !address.is_loopback()).collect())
}

/// The TCP ports on which a process listens.
fn listening_ports(pid: i32) -> Result<Vec<u16>> {
    let listed = Command::new("ss").args(["-Htlnp"]).output()?;
    let text = String::from_utf8(listed.stdout)?;
    let own = text.lines().filter(|line| line.contains(&format!("pid={pid},")));
    own.map(|line| {
        let local = line.split_whitespace().nth(3).context("not a socket")?;
        Ok(local.rsplit(':').next().context("no port")?.parse()?)
    })
    .collect()
}
